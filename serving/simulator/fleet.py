"""All engines of the process, what goes wrong with them on demand, and their GPUs' state file.

This file refuses HTTP and the load: incidents of the load are the driver's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from redline.log import get_logger
from serving.simulator.gpu_state import GpuLoad, GpuTotals, nvml_state
from serving.simulator.request_log import RequestLog
from serving.simulator.served_engine import ServedEngine, SteadyClock
from serving.simulator.spec import SimulatorSpec

EngineIncident = Literal["bad_canary", "kv_squeeze", "cold_start", "region_loss"]
ENGINE_INCIDENTS: tuple[str, ...] = get_args(EngineIncident)
MALFORMED = (
    b'{"type":"request","request_id":"torn","seq":',
    b'{"type":"request","request_id":"no-times","seq":1,"instance":"x","model":"m"}',
    b'{"type":"request","request_id":"text-for-number","seq":"one"}',
    b"not json at all",
)


class IncidentOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /incidents/{name}``. What an incident does not use is ignored."""

    on: bool = True
    version: str = ""  # bad_canary; empty: the canary's
    instance: str = ""  # kv_squeeze, cold_start; empty: the first stable engine
    region: str = ""  # region_loss; empty: the last engine's
    tenant: str = ""  # tenant_spike; empty: the last tenant
    slowdown: float = 6.0
    error_ratio: float = 0.03
    reserved_ratio: float = 0.6
    factor: float = 10.0
    seconds: float = 15.0


class Fleet:
    """The engines of one specification."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self.clock = SteadyClock()
        names = [engine.instance for engine in spec.engines]
        profiles = {engine.instance: engine.profile() for engine in spec.engines}
        self.log = RequestLog(
            spec.log_dir, names, rotate_bytes=spec.log_rotate_bytes, keep=spec.log_files_kept
        )
        self.engines = {
            engine.instance: ServedEngine(
                engine.identity, profiles[engine.instance], self.log, self.clock
            )
            for engine in spec.engines
        }
        self.malformed = 0
        self._spec = spec
        self._busy_us: dict[str, int] = {}
        self._totals = GpuTotals()

    def set_incident(self, name: EngineIncident, options: IncidentOptions) -> list[str]:
        """Begin or end an incident; the instances that it concerns.

        Raises:
            KeyError: no engine is meant by the options.
        """
        act: dict[EngineIncident, Callable[[IncidentOptions], list[ServedEngine]]] = {
            "bad_canary": self._bad_canary,
            "kv_squeeze": self._kv_squeeze,
            "cold_start": self._cold_start,
            "region_loss": self._region_loss,
        }
        return [served.identity.instance for served in act[name](options)]

    def plant_malformed(self, count: int) -> int:
        """Put ``count`` lines into the first engine's log that no collector can read."""
        instance = next(iter(self.engines))
        for number in range(count):
            self.log.append(instance, MALFORMED[number % len(MALFORMED)])
        self.malformed += count
        return self.malformed

    async def write_gpu_state(self, path: Path, every_s: float = 1.0) -> None:
        """Rewrite the GPUs' state file for ever."""
        loop = asyncio.get_running_loop()
        last_us = self.clock()
        while True:
            now_us = self.clock()
            state = self.gpu_state((now_us - last_us) / 1e6)
            last_us = now_us
            await loop.run_in_executor(None, _replace, path, json.dumps(state).encode())
            await asyncio.sleep(every_s)

    def gpu_state(self, elapsed_s: float) -> dict[str, Any]:
        """What the GPUs did in the last ``elapsed_s``."""
        loads: list[GpuLoad] = []
        for engine in self._spec.engines:
            served = self.engines[engine.instance]
            busy_us = served.engine.counters.busy_us
            worked_us = busy_us - self._busy_us.get(engine.instance, 0)
            self._busy_us[engine.instance] = busy_us
            loads.append(
                GpuLoad(
                    instance=engine.instance,
                    gpus=engine.gpus,
                    gpu_name=engine.gpu_name,
                    busy_ratio=min(1.0, worked_us / 1e6 / elapsed_s) if elapsed_s else 0.0,
                    batch_ratio=min(1.0, served.engine.running / engine.max_num_seqs),
                    lost=served.down,
                )
            )
        return nvml_state(loads, self._totals, elapsed_s)

    def close(self) -> None:
        """End all requests and flush the logs. Safe to call twice."""
        for served in self.engines.values():
            served.close()
        self.log.close()

    def _bad_canary(self, options: IncidentOptions) -> list[ServedEngine]:
        chosen = [
            served
            for served in self.engines.values()
            if (
                served.identity.version == options.version
                if options.version
                else served.identity.canary
            )
        ]
        if not chosen:
            raise KeyError(f"no engine runs version {options.version!r}, and none is a canary")
        for served in chosen:
            self._change(
                served,
                slowdown=options.slowdown if options.on else 1.0,
                error_ratio=options.error_ratio if options.on else 0.0,
            )
        return chosen

    def _kv_squeeze(self, options: IncidentOptions) -> list[ServedEngine]:
        chosen = [self._one(options)]
        for served in chosen:
            self._change(served, reserved_ratio=options.reserved_ratio if options.on else 0.0)
        return chosen

    def _cold_start(self, options: IncidentOptions) -> list[ServedEngine]:
        served = self._one(options)
        until_us = self.clock() + round(options.seconds * 1e6) if options.on else 0
        served.engine.blocks.forget_cache()
        self._change(served, paused_until_us=until_us)
        return [served]

    def _region_loss(self, options: IncidentOptions) -> list[ServedEngine]:
        region = options.region or list(self.engines.values())[-1].identity.region
        chosen = [served for served in self.engines.values() if served.identity.region == region]
        if not chosen:
            raise KeyError(f"no engine is in region {region!r}")
        for served in chosen:
            served.down = options.on
            if options.on:
                served.abort_all("error")
        return chosen

    def _one(self, options: IncidentOptions) -> ServedEngine:
        if options.instance:
            return self.engines[options.instance]
        stable = [served for served in self.engines.values() if not served.identity.canary]
        return (stable or list(self.engines.values()))[0]

    def _change(self, served: ServedEngine, **changes: float) -> None:
        served.change(msgspec.structs.replace(served.engine.conditions, **changes))


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)  # noqa: PTH105 - atomic, and says so
    except OSError as error:
        get_logger().error("gpu_state_failed", path=str(path), error=str(error))
