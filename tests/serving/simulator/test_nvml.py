from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from redline.testing import nvml
from serving.simulator.gpu_state import GpuLoad, GpuTotals, gpu_uuid, nvml_state, power_w


def load(instance: str = "vllm-0", **changes: Any) -> GpuLoad:
    fields: dict[str, Any] = {"gpus": 1, "gpu_name": "H100", "busy_ratio": 0.5, "batch_ratio": 0.2}
    return GpuLoad(instance=instance, **{**fields, **changes})


@pytest.fixture
def state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "nvml.json"
    path.write_text(json.dumps(nvml_state([load(), load("vllm-1")], GpuTotals(), 1.0)))
    monkeypatch.setenv(nvml.STATE_VARIABLE, str(path))
    nvml.nvmlInit()
    yield path
    nvml.nvmlShutdown()


def test_every_name_of_the_fake_is_pynvml_s_with_the_same_value() -> None:
    names = [name for name in dir(nvml) if name.lower().startswith("nvml")]
    assert len(names) > 40
    for name in names:
        assert hasattr(pynvml, name), name
        ours = getattr(nvml, name)
        if isinstance(ours, int):
            assert ours == getattr(pynvml, name), name


def test_error_classes_are_chosen_by_code_as_pynvml_does() -> None:
    for code in (1, 2, 3, 4, 9, 10, 12, 13, 15, 16, 25, 999):
        ours, real = nvml.NVMLError(code), pynvml.NVMLError(code)
        assert type(ours).__name__ == type(real).__name__
        assert ours.value == real.value == code
    assert isinstance(nvml.NVMLError(15), nvml.NVMLError_GpuIsLost)
    assert str(nvml.NVMLError(15)) == "GPU is lost"


def test_everything_a_collector_asks_has_an_answer(state_file: Path) -> None:
    assert nvml.nvmlDeviceGetCount() == 2
    handle = nvml.nvmlDeviceGetHandleByIndex(1)
    assert nvml.nvmlDeviceGetUUID(handle) == gpu_uuid("vllm-1", 0)
    assert nvml.nvmlDeviceGetName(handle) == "H100"
    assert nvml.nvmlDeviceGetUtilizationRates(handle).gpu == 50
    assert nvml.nvmlDeviceGetPowerUsage(handle) == round(power_w(load()) * 1000)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(handle) == int(power_w(load()) * 1000)
    assert nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) == 1980
    assert nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) == 2619
    assert nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU) > 30
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    assert reasons == nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) == 0
    assert nvml.nvmlDeviceGetTotalEccErrors(handle, 1, nvml.NVML_AGGREGATE_ECC) == 0
    assert nvml.nvmlSystemGetDriverVersion()


def test_version_two_of_the_memory_keeps_what_is_reserved_apart(state_file: Path) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    one = nvml.nvmlDeviceGetMemoryInfo(handle)
    two = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    assert one.used == two.used + two.reserved
    assert two.total == two.used + two.reserved + two.free
    assert two.used / two.total == pytest.approx(0.9, abs=0.001)
    with pytest.raises(nvml.NVMLError_ArgumentVersionMismatch):
        nvml.nvmlDeviceGetMemoryInfo(handle, version=1)


def test_a_new_state_is_seen_and_a_missing_value_is_not_supported(state_file: Path) -> None:
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceGetMigMode(handle)
    state = nvml_state([load(lost=True), load("vllm-1", busy_ratio=0.0)], GpuTotals(), 1.0)
    state["gpus"][1]["errors"] = {"nvmlDeviceGetPowerUsage": 4}
    beside = state_file.with_suffix(".new")
    beside.write_text(json.dumps(state))
    beside.replace(state_file)
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetTemperature(handle, 0)
    other = nvml.nvmlDeviceGetHandleByIndex(1)
    with pytest.raises(nvml.NVMLError_NoPermission):
        nvml.nvmlDeviceGetPowerUsage(other)
    assert nvml.nvmlDeviceGetCurrentClocksEventReasons(other) == 1  # idle


def test_without_init_or_state_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlShutdown()
    monkeypatch.delenv(nvml.STATE_VARIABLE, raising=False)
    with pytest.raises(nvml.NVMLError_LibraryNotFound):
        nvml.nvmlInit()
    monkeypatch.setenv(nvml.STATE_VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(nvml.NVMLError_DriverNotLoaded):
        nvml.nvmlInit()


def test_a_handle_that_is_not_there_is_refused(state_file: Path) -> None:
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetHandleByIndex(2)


def test_energy_is_the_integral_of_power_and_memory_stays_flat() -> None:
    totals = GpuTotals()
    idle = nvml_state([load(busy_ratio=0.0)], totals, 10.0)["gpus"][0]
    busy = nvml_state([load(busy_ratio=1.0, batch_ratio=1.0)], totals, 5.0)["gpus"][0]
    joules = power_w(load(busy_ratio=0.0)) * 10 + power_w(load(busy_ratio=1.0, batch_ratio=1.0)) * 5
    assert busy["energy_mj"] == pytest.approx(joules * 1000, abs=2)
    assert busy["power_mw"] > 5 * idle["power_mw"]
    assert busy["memory_used_bytes"] == idle["memory_used_bytes"]
    assert len(nvml_state([load(gpus=4)], totals, 1.0)["gpus"]) == 4
