from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.gpu import DriverGone, devices, sample
from collectors.gpu_thread import GpuThread
from collectors.metrics import Metrics
from redline.records import GpuSample
from redline.settings import GpuSettings
from redline.testing import nvml
from tests.collectors.processes import wait_for

FULL: dict[str, Any] = {
    "uuid": "GPU-1",
    "name": "NVIDIA H100 80GB HBM3",
    "utilization_gpu": 89,
    "utilization_memory": 40,
    "memory_total_bytes": 85_000_000_000,
    "memory_used_bytes": 70_000_000_000,
    "memory_reserved_bytes": 500_000_000,
    "power_mw": 512_345,
    "energy_mj": 9_000_000,
    "sm_clock_mhz": 1_980,
    "memory_clock_mhz": 2_619,
    "temperature_c": 61,
    "clocks_event_reasons": 4,
    "ecc_uncorrected_total": 2,
    "ecc_corrected_total": 0,
    "processes": 3,
    "nvlink_tx_kib": 5,
    "nvlink_rx_kib": 7,
}


class Machine:
    """What the fake NVML says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.write(FULL)

    def write(self, *gpus: dict[str, Any]) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps({"gpus": gpus}))
        beside.replace(self._path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    path = tmp_path / "nvml.json"
    monkeypatch.setenv(nvml.STATE_VARIABLE, str(path))
    return Machine(path)


def read(*, slow: bool = True, xid: int | None = None) -> GpuSample:
    nvml.nvmlInit()
    try:
        (device,) = devices(nvml)
        return sample(nvml, device, "h1", xid, 7, slow=slow)
    finally:
        nvml.nvmlShutdown()


def test_every_field_in_its_unit(machine: Machine) -> None:
    assert read(xid=79) == GpuSample(
        ts_us=7,
        host="h1",
        gpu_uuid="GPU-1",
        gpu_index=0,
        gpu_name="NVIDIA H100 80GB HBM3",
        utilization=0.89,
        memory_used_bytes=70_000_000_000,
        memory_reserved_bytes=500_000_000,
        memory_total_bytes=85_000_000_000,
        power_w=512.345,
        energy_j=9_000.0,
        sm_clock_mhz=1_980,
        memory_clock_mhz=2_619,
        throttle_reasons=4,
        temperature_c=61,
        ecc_uncorrected_total=2,
        xid=79,
        nvlink_tx_bytes=5 * 1024,
        nvlink_rx_bytes=7 * 1024,
        processes=3,
    )


@pytest.mark.parametrize("code", [3, 4, 13])
def test_what_a_gpu_cannot_say_is_none_and_not_asked_again(machine: Machine, code: int) -> None:
    machine.write({**FULL, "errors": {"nvmlDeviceGetPowerUsage": code}})
    nvml.nvmlInit()
    (device,) = devices(nvml)
    first = sample(nvml, device, "h1", None, 7, slow=True)
    assert first.power_w is None
    assert first.utilization == 0.89
    assert list(device.cannot) == ["power"]
    machine.write(FULL)
    assert sample(nvml, device, "h1", None, 8, slow=True).power_w is None
    nvml.nvmlShutdown()


def test_a_passing_error_is_none_once(machine: Machine) -> None:
    machine.write({**FULL, "errors": {"nvmlDeviceGetTemperature": 999}})
    nvml.nvmlInit()
    (device,) = devices(nvml)
    assert sample(nvml, device, "h1", None, 7, slow=True).temperature_c is None
    assert device.failures == {"temperature": "Unknown Error"}
    machine.write(FULL)
    assert sample(nvml, device, "h1", None, 8, slow=True).temperature_c == 61
    assert device.failures == {}
    nvml.nvmlShutdown()


@pytest.mark.parametrize("code", [15, 16])
def test_a_lost_gpu_says_so_and_nothing_else(machine: Machine, code: int) -> None:
    nvml.nvmlInit()
    (device,) = devices(nvml)
    machine.write({**FULL, "errors": {"nvmlDeviceGetTemperature": code}})
    found = sample(nvml, device, "h1", None, 7, slow=True)
    assert found.lost
    assert (found.utilization, found.power_w) == (None, None)
    machine.write({**FULL, "errors": {"*": code}})
    (unnamed,) = devices(nvml)
    assert sample(nvml, unnamed, "h1", None, 7, slow=True).lost
    nvml.nvmlShutdown()


def test_slow_fields_keep_their_last_value_in_between(machine: Machine) -> None:
    nvml.nvmlInit()
    (device,) = devices(nvml)
    assert sample(nvml, device, "h1", None, 7, slow=False).ecc_uncorrected_total is None
    assert sample(nvml, device, "h1", None, 8, slow=True).ecc_uncorrected_total == 2
    machine.write({**FULL, "ecc_uncorrected_total": 3})
    assert sample(nvml, device, "h1", None, 9, slow=False).ecc_uncorrected_total == 2
    assert sample(nvml, device, "h1", None, 9, slow=True).ecc_uncorrected_total == 3
    nvml.nvmlShutdown()


def test_an_old_driver_is_asked_by_the_old_names(machine: Machine) -> None:
    machine.write({**FULL, "errors": {"nvmlDeviceGetCurrentClocksEventReasons": 13}})
    assert read().throttle_reasons == 4

    def memory(handle: Any, version: int | None = None) -> Any:
        if version:
            raise nvml.NVMLError(nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return SimpleNamespace(used=5, total=9)

    old = SimpleNamespace(**{**vars(nvml), "nvmlDeviceGetMemoryInfo": memory})
    nvml.nvmlInit()
    (device,) = devices(old)
    found = sample(old, device, "h1", None, 7, slow=True)
    assert (found.memory_used_bytes, found.memory_reserved_bytes) == (5, None)
    nvml.nvmlShutdown()


def test_mig_devices_are_samples_of_their_own(machine: Machine) -> None:
    parts = {0: nvml.Handle(0)}

    def part(handle: Any, number: int) -> Any:
        if number not in parts:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
        return parts[number]

    def uuid(handle: Any) -> str:
        return "MIG-1" if handle is parts[0] else "GPU-1"

    parted = SimpleNamespace(
        **{
            **vars(nvml),
            "nvmlDeviceGetMigMode": lambda handle: [1, 1],
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": part,
            "nvmlDeviceGetUUID": uuid,
        }
    )
    nvml.nvmlInit()
    found = devices(parted)
    assert [(device.uuid, device.mig) for device in found] == [("GPU-1", ""), ("GPU-1", "MIG-1")]
    nvml.nvmlShutdown()


def test_a_driver_that_goes_away_is_another_matter(machine: Machine) -> None:
    nvml.nvmlInit()
    (device,) = devices(nvml)
    nvml.nvmlShutdown()
    with pytest.raises(DriverGone):
        sample(nvml, device, "h1", None, 7, slow=True)


class Watched:
    def __init__(self, module: str) -> None:
        self.samples: list[GpuSample] = []
        self.metrics = Metrics()
        settings = GpuSettings(
            nvml_module=module, host="h1", fast_s=0.02, slow_s=0.1, instances={"GPU-1": "vllm-7"}
        )
        self.thread = GpuThread(settings, self._take, self.metrics)

    def _take(self, samples: Sequence[GpuSample]) -> None:
        self.samples += samples

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"redline_collectors_{name}", labels)

    def stop(self) -> None:
        self.thread.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()


def test_the_thread_samples_loses_and_finds_a_gpu_again(machine: Machine) -> None:
    watched = Watched("redline.testing.nvml")
    watched.thread.start()
    try:
        wait_for(lambda: len(watched.samples) >= 3, "samples")
        machine.write({**FULL, "errors": {"*": 15}})
        wait_for(lambda: watched.metric("gpus_lost") == 1, "the loss")
        assert watched.samples[-1].lost
        machine.write(FULL)
        wait_for(lambda: watched.metric("gpus_lost") == 0, "the return")
        assert watched.metric("gpus") == 1
        assert {one.instance for one in watched.samples} == {"vllm-7"}
    finally:
        watched.stop()


def test_an_xid_event_is_on_the_sample_after_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [SimpleNamespace(device=nvml.Handle(0), eventData=79)]

    def wait(event_set: Any, timeout_ms: int) -> Any:
        assert timeout_ms == 0  # the thread must not wait in the driver
        if not events:
            raise nvml.NVMLError(nvml.NVML_ERROR_TIMEOUT)
        return events.pop()

    monkeypatch.setattr(nvml, "nvmlEventSetCreate", object, raising=False)
    monkeypatch.setattr(nvml, "nvmlDeviceRegisterEvents", lambda *a: None, raising=False)
    monkeypatch.setattr(nvml, "nvmlEventSetWait_v2", wait, raising=False)
    watched = Watched("redline.testing.nvml")
    watched.thread.start()
    wait_for(lambda: len(watched.samples) >= 3, "samples")
    watched.stop()
    assert [found.xid for found in watched.samples[:3]] == [79, None, None]


@pytest.mark.parametrize("module", ["redline.testing.nvml", "pynvml"])
def test_without_a_driver_there_is_a_metric_and_no_crash(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(nvml.STATE_VARIABLE, raising=False)
    watched = Watched(module)
    watched.thread.start()
    failures = lambda: watched.metric("gpu_failures_total", reason="driver") or watched.samples  # noqa: E731
    wait_for(failures, "a failure, or samples on a machine with a GPU")
    assert watched.thread.is_alive()
    watched.stop()


def test_a_missing_module_ends_the_thread_and_not_the_process() -> None:
    watched = Watched("no_such_module_of_nvml")
    watched.thread.start()
    watched.thread.join(5)
    assert not watched.thread.is_alive()
    assert watched.samples == []


def test_the_pace_is_steady(machine: Machine) -> None:
    watched = Watched("redline.testing.nvml")
    begun_s = time.monotonic()
    watched.thread.start()
    wait_for(lambda: len(watched.samples) >= 20, "20 samples")
    took_s = time.monotonic() - begun_s
    watched.stop()
    assert took_s >= 19 * 0.02
