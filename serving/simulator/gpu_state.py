"""What the fleet's GPUs would say to NVML, as the state that ``redline.testing.nvml`` reads.

Memory stays flat, because vLLM takes its share at the start; utilisation is the share of time with
a kernel running, which says little about load; power follows the batch.
This file refuses files and clocks: it turns engines into a JSON value.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

H100_MEMORY_BYTES = 85_520_809_984
IDLE_W = 71.0
LIMIT_W = 700.0
GPU_MEMORY_UTILIZATION = 0.9
SM_CLOCK_MHZ = 1980
IDLE_CLOCK_MHZ = 345
MEMORY_CLOCK_MHZ = 2619
POWER_CAP_REASON = 0x4
IDLE_REASON = 0x1


class GpuLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine did to each of its GPUs since the last look."""

    instance: str
    gpus: int
    gpu_name: str
    busy_ratio: float  # 0 to 1
    batch_ratio: float  # running sequences ÷ the most that there may be, 0 to 1
    lost: bool = False


class GpuTotals(msgspec.Struct):
    """Energy since the start, per engine."""

    energy_mj: dict[str, float] = {}


def gpu_uuid(instance: str, index: int) -> str:
    """A UUID that a GPU of an instance keeps over restarts, in NVML's form."""
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'redline-simulator/{instance}/{index}')}"


def power_w(load: GpuLoad) -> float:
    """Idle power, plus what a running kernel takes, plus what the batch adds."""
    return IDLE_W + load.busy_ratio * (LIMIT_W - IDLE_W) * (0.3 + 0.6 * load.batch_ratio)


def nvml_state(loads: Sequence[GpuLoad], totals: GpuTotals, elapsed_s: float) -> dict[str, Any]:
    """The state file's content; adds ``elapsed_s`` of power to ``totals``."""
    gpus: list[dict[str, Any]] = []
    for load in loads:
        watts = power_w(load)
        energy = totals.energy_mj.get(load.instance, 0.0) + watts * elapsed_s * 1000
        totals.energy_mj[load.instance] = energy
        busy = load.busy_ratio > 0
        for index in range(load.gpus):
            gpus.append(
                {
                    "uuid": gpu_uuid(load.instance, index),
                    "name": load.gpu_name,
                    "instance": load.instance,
                    "utilization_gpu": min(100, round(100 * load.busy_ratio)),
                    "utilization_memory": min(100, round(60 * load.busy_ratio)),
                    "memory_total_bytes": H100_MEMORY_BYTES,
                    "memory_used_bytes": int(H100_MEMORY_BYTES * GPU_MEMORY_UTILIZATION),
                    "memory_reserved_bytes": 600 * 1024 * 1024,
                    "power_mw": round(watts * 1000),
                    "energy_mj": int(energy),
                    "sm_clock_mhz": SM_CLOCK_MHZ if busy else IDLE_CLOCK_MHZ,
                    "memory_clock_mhz": MEMORY_CLOCK_MHZ,
                    "temperature_c": round(34 + 44 * watts / LIMIT_W),
                    "clocks_event_reasons": (POWER_CAP_REASON if watts > 0.9 * LIMIT_W else 0)
                    if busy
                    else IDLE_REASON,
                    "ecc_corrected_total": 0,
                    "ecc_uncorrected_total": 0,
                    "errors": {"*": 15} if load.lost else {},
                }
            )
    return {"driver_version": "570.86.15", "gpus": gpus}
