"""Reads one GPU through NVML, field by field, each with its own fate.

What a GPU cannot say is None and is not asked again; a GPU that is lost says so. ``nvml`` is any
module with pynvml's function names. Sources: nvml.h 12.9 and nvidia-ml-py for names and units.
This file refuses to know the clock, threads and the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redline.records import GpuSample

# nvmlReturn_t
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
GPU_NOT_FOUND = 28

_CANNOT = {INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND}
_LOST = {GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND}
_DRIVER = {UNINITIALIZED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND}

_VERSION_MISMATCH = 25
_MEMORY_V2 = 0x02000028  # v2 leaves the driver's reserve out of ``used``
_NO_MEMORY_V2 = {FUNCTION_NOT_FOUND, INVALID_ARGUMENT, _VERSION_MISMATCH}
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_TEMPERATURE_GPU = 0
_UNCORRECTED, _AGGREGATE = 1, 1
_MIG_ENABLED = 1
_NVLINK_DATA_TX, _NVLINK_DATA_RX = 138, 139  # NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_*, in KiB
_ALL_LINKS = 0xFFFFFFFF


class DriverGone(Exception):
    """NVML as a whole does not answer any more: begin again with ``nvmlInit``."""


class Field(NamedTuple):
    """A call to NVML and the fields that it fills. Slow ones cost milliseconds in the driver."""

    name: str
    read: Callable[[Any, Any], dict[str, Any]]
    slow: bool = False


class Device:
    """One GPU or MIG device: its handle, and what is known of it. ``mig`` is a MIG device's UUID.

    ``handle`` is None for a GPU that was lost from the start, so that not even its name is known.
    ``cannot`` holds the fields that it does not support, with NVML's reason.
    """

    def __init__(self, handle: Any, index: int, uuid: str, name: str, mig: str = "") -> None:
        self.handle = handle
        self.index = index
        self.uuid = uuid
        self.name = name
        self.mig = mig
        self.instance = ""  # the engine instance that it serves, where settings say so
        self.cannot: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.slow_values: dict[str, Any] = {}
        self.energy_j: float | None = None
        self.energy_resets = 0  # since the driver was loaded anew, or the counter ran over


def sample(
    nvml: Any, device: Device, host: str, xid: int | None, now_us: int, *, slow: bool
) -> GpuSample:
    """Read ``device``; ``slow`` reads the slow fields as well, else their last values stand.

    Fields that failed this time are in ``device.failures``.

    Raises:
        DriverGone: NVML does not answer any more.
    """
    values: dict[str, Any] = {}
    device.failures = {}
    lost = device.handle is None
    for field in () if lost else FIELDS:
        if field.name in device.cannot or (field.slow and not slow):
            continue
        try:
            found = field.read(nvml, device.handle)
        except AttributeError as error:  # the binding is older than the field
            device.cannot[field.name] = str(error)
            continue
        except nvml.NVMLError as error:
            code = getattr(error, "value", None)
            if code in _DRIVER:
                raise DriverGone(str(error)) from error
            if code in _LOST:
                lost = True
                break
            (device.cannot if code in _CANNOT else device.failures)[field.name] = str(error)
            continue
        if field.slow:
            device.slow_values.update(found)
        values.update(found)
    if not lost:
        values = {**device.slow_values, **values, "energy_delta_j": _energy_delta(device, values)}
    return GpuSample(
        ts_us=now_us,
        host=host,
        gpu_uuid=device.uuid,
        gpu_index=device.index,
        gpu_name=device.name,
        mig=device.mig,
        instance=device.instance,
        lost=lost,
        xid=xid,
        **({} if lost else values),
    )


def _energy_delta(device: Device, values: dict[str, Any]) -> float | None:
    """What was used since the last sample: better than power, which sensors sample now and then."""
    energy_j: float | None = values.get("energy_j")
    before, device.energy_j = device.energy_j, energy_j
    if energy_j is None or before is None:
        return None
    if energy_j < before:
        device.energy_resets += 1
        return None
    return energy_j - before


def devices(nvml: Any) -> list[Device]:
    """Every GPU, and every MIG device behind the GPU that it is a part of. Needs ``nvmlInit``."""
    found: list[Device] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            name = _text(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError as error:
            if getattr(error, "value", None) not in _LOST:
                raise
            found.append(Device(None, index, f"lost-{index}", ""))
            continue
        found.append(Device(handle, index, uuid, name))
        for part in _mig_handles(nvml, handle):
            found.append(Device(part, index, uuid, name, _text(nvml.nvmlDeviceGetUUID(part))))
    return found


def _mig_handles(nvml: Any, handle: Any) -> list[Any]:
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != _MIG_ENABLED:
            return []
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except (AttributeError, nvml.NVMLError):  # not a GPU, or not a binding, that knows MIG
        return []
    handles = []
    for number in range(count):
        try:
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except nvml.NVMLError as error:
            if getattr(error, "value", None) != NOT_FOUND:  # an empty place
                raise
    return handles


def _memory(nvml: Any, handle: Any) -> dict[str, Any]:
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, version=_MEMORY_V2)
    except nvml.NVMLError as error:
        if getattr(error, "value", None) not in _NO_MEMORY_V2:
            raise
        info = nvml.nvmlDeviceGetMemoryInfo(handle)  # a driver before 510: reserve is in ``used``
    reserved = getattr(info, "reserved", None)
    return {
        "memory_used_bytes": int(info.used),
        "memory_reserved_bytes": None if reserved is None else int(reserved),
        "memory_total_bytes": int(info.total),
    }


def _throttle_reasons(nvml: Any, handle: Any) -> dict[str, Any]:
    try:
        return {"throttle_reasons": int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))}
    except AttributeError:
        return {"throttle_reasons": int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))}
    except nvml.NVMLError as error:
        if getattr(error, "value", None) != FUNCTION_NOT_FOUND:
            raise
        return {"throttle_reasons": int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))}


def _utilization(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"utilization": nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100}


def _power(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1_000}


def _energy(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"energy_j": nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1_000}


def _sm_clock(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"sm_clock_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, _CLOCK_SM))}


def _memory_clock(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"memory_clock_mhz": int(nvml.nvmlDeviceGetClockInfo(handle, _CLOCK_MEMORY))}


def _temperature(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"temperature_c": int(nvml.nvmlDeviceGetTemperature(handle, _TEMPERATURE_GPU))}


def _ecc(nvml: Any, handle: Any) -> dict[str, Any]:
    total = nvml.nvmlDeviceGetTotalEccErrors(handle, _UNCORRECTED, _AGGREGATE)
    return {"ecc_uncorrected_total": int(total)}


def _nvlink(nvml: Any, handle: Any) -> dict[str, Any]:
    """Each field has a return code of its own, whatever the call's was."""
    wanted = [(_NVLINK_DATA_TX, _ALL_LINKS), (_NVLINK_DATA_RX, _ALL_LINKS)]
    found = nvml.nvmlDeviceGetFieldValues(handle, wanted)
    codes = [one.nvmlReturn for one in found]
    if all(codes):
        raise nvml.NVMLError(codes[0])
    names = ("nvlink_tx_bytes", "nvlink_rx_bytes")
    return {
        name: None if one.nvmlReturn else int(one.value.ullVal) * 1024
        for name, one in zip(names, found, strict=True)
    }


def _processes(nvml: Any, handle: Any) -> dict[str, Any]:
    return {"processes": len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))}


FIELDS: tuple[Field, ...] = (
    Field("utilization", _utilization),
    Field("memory", _memory),
    Field("power", _power),
    Field("energy", _energy),
    Field("sm_clock", _sm_clock),
    Field("memory_clock", _memory_clock),
    Field("throttle_reasons", _throttle_reasons),
    Field("temperature", _temperature),
    Field("ecc", _ecc, slow=True),
    Field("nvlink", _nvlink, slow=True),
    Field("processes", _processes, slow=True),
)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
