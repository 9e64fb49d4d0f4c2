"""NVML without a GPU: answers as ``pynvml`` does, from a JSON file.

The file is named by REDLINE_FAKE_NVML_STATE and read again whenever it changes; whoever plays the
GPUs rewrites it. ``errors`` of a GPU maps a function's name, or ``*``, to the NVML error code that
the function then raises; a value that is missing is NVML_ERROR_NOT_SUPPORTED, as on real GPUs.
Names, constants and argument order are pynvml's. It refuses everything that changes a GPU.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STATE_VARIABLE = "REDLINE_FAKE_NVML_STATE"

NVML_SUCCESS = 0
NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_TIMEOUT = 10
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_RESET_REQUIRED = 16
NVML_ERROR_NO_DATA = 21
NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25
NVML_ERROR_UNKNOWN = 999

NVML_CLOCK_GRAPHICS = 0
NVML_CLOCK_SM = 1
NVML_CLOCK_MEM = 2
NVML_CLOCK_VIDEO = 3
NVML_TEMPERATURE_GPU = 0
NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
NVML_VOLATILE_ECC = 0
NVML_AGGREGATE_ECC = 1
nvmlMemory_v2 = 0x02000028  # noqa: N816 - pynvml's name
nvmlEventTypeXidCriticalError = 0x8  # noqa: N816 - pynvml's name

_FIELD_KEYS = {138: "nvlink_tx_kib", 139: "nvlink_rx_kib"}  # NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_*
_TEXT = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_NO_PERMISSION: "Insufficient Permissions",
    NVML_ERROR_NOT_FOUND: "Not Found",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_TIMEOUT: "Timeout",
    NVML_ERROR_LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    NVML_ERROR_FUNCTION_NOT_FOUND: "Function Not Found",
    NVML_ERROR_GPU_IS_LOST: "GPU is lost",
    NVML_ERROR_RESET_REQUIRED: "GPU requires restart",
    NVML_ERROR_UNKNOWN: "Unknown Error",
}


class NVMLError(Exception):
    """An NVML return code. ``NVMLError(15)`` makes an ``NVMLError_GpuIsLost``, as in pynvml."""

    value: int

    def __new__(cls, value: int) -> NVMLError:  # noqa: D102
        made = Exception.__new__(_CLASS_OF.get(value, cls) if cls is NVMLError else cls)
        made.value = value
        return made

    def __str__(self) -> str:
        return _TEXT.get(self.value, f"NVML Error with code {self.value}")


class NVMLError_Uninitialized(NVMLError):  # noqa: N801
    """nvmlInit was not called."""


class NVMLError_InvalidArgument(NVMLError):  # noqa: N801
    """No such GPU."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    """This GPU cannot say."""


class NVMLError_NoPermission(NVMLError):  # noqa: N801
    """This user may not ask."""


class NVMLError_DriverNotLoaded(NVMLError):  # noqa: N801
    """There is no driver."""


class NVMLError_Timeout(NVMLError):  # noqa: N801
    """No event within the time."""


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
    """There is no NVML."""


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801
    """This driver is too old."""


class NVMLError_GpuIsLost(NVMLError):  # noqa: N801
    """The GPU fell off the bus."""


class NVMLError_ResetRequired(NVMLError):  # noqa: N801
    """The GPU needs a reset."""


class NVMLError_ArgumentVersionMismatch(NVMLError):  # noqa: N801
    """The structure's version is unknown."""


class NVMLError_Unknown(NVMLError):  # noqa: N801
    """Something else."""


_CLASS_OF: dict[int, type[NVMLError]] = {
    NVML_ERROR_UNINITIALIZED: NVMLError_Uninitialized,
    NVML_ERROR_INVALID_ARGUMENT: NVMLError_InvalidArgument,
    NVML_ERROR_NOT_SUPPORTED: NVMLError_NotSupported,
    NVML_ERROR_NO_PERMISSION: NVMLError_NoPermission,
    NVML_ERROR_DRIVER_NOT_LOADED: NVMLError_DriverNotLoaded,
    NVML_ERROR_TIMEOUT: NVMLError_Timeout,
    NVML_ERROR_LIBRARY_NOT_FOUND: NVMLError_LibraryNotFound,
    NVML_ERROR_FUNCTION_NOT_FOUND: NVMLError_FunctionNotFound,
    NVML_ERROR_GPU_IS_LOST: NVMLError_GpuIsLost,
    NVML_ERROR_RESET_REQUIRED: NVMLError_ResetRequired,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH: NVMLError_ArgumentVersionMismatch,
    NVML_ERROR_UNKNOWN: NVMLError_Unknown,
}


class Handle:
    """A GPU, as ``nvmlDeviceGetHandleByIndex`` names it."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Utilization:
    """``gpu`` and ``memory`` in percent."""

    __slots__ = ("gpu", "memory")

    def __init__(self, gpu: int, memory: int) -> None:
        self.gpu = gpu
        self.memory = memory


class Memory:
    """Bytes. Version 1 counts ``reserved`` as used and does not say it; version 2 says it."""

    __slots__ = ("free", "reserved", "total", "used", "version")

    def __init__(self, total: int, used: int, reserved: int, version: int) -> None:
        self.version = version
        self.total = total
        self.free = total - used - reserved
        self.used = used if version else used + reserved
        self.reserved = reserved if version else 0


class _Library:
    """What the C library keeps between calls: whether it is initialised, and the last state."""

    def __init__(self) -> None:
        self.uses = 0
        self._signature: tuple[str, int, int] | None = None
        self._state: dict[str, Any] = {"gpus": []}

    def state(self) -> dict[str, Any]:
        if not self.uses:
            raise NVMLError(NVML_ERROR_UNINITIALIZED)
        return self.load()

    def load(self) -> dict[str, Any]:
        path = os.environ.get(STATE_VARIABLE, "")
        if not path:
            raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)
        try:
            found = Path(path).stat()
            signature = (path, found.st_mtime_ns, found.st_ino)
            if signature != self._signature:
                self._state = json.loads(Path(path).read_bytes())
                self._signature = signature
        except (OSError, ValueError) as error:
            raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED) from error
        return self._state

    def value(self, handle: Handle, function: str, key: str) -> Any:
        gpus: list[dict[str, Any]] = self.state()["gpus"]
        if handle.index >= len(gpus):
            raise NVMLError(NVML_ERROR_GPU_IS_LOST)
        gpu = gpus[handle.index]
        errors = gpu.get("errors", {})
        code = errors.get(function, errors.get("*", NVML_SUCCESS))
        if code:
            raise NVMLError(code)
        if gpu.get(key) is None:
            raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
        return gpu[key]


_library = _Library()  # pynvml is a module with one library behind it, and so is this


def nvmlInit() -> None:  # noqa: N802
    """Count one user; raises LibraryNotFound or DriverNotLoaded without a readable state file."""
    _library.load()
    _library.uses += 1


def nvmlShutdown() -> None:  # noqa: N802
    """Count one user less."""
    if not _library.uses:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
    _library.uses -= 1


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    """The driver's version."""
    return str(_library.state().get("driver_version", ""))


def nvmlDeviceGetCount() -> int:  # noqa: N802
    """How many GPUs there are."""
    return len(_library.state()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> Handle:  # noqa: N802
    """The handle of one GPU."""
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return Handle(index)


def nvmlDeviceGetIndex(handle: Handle) -> int:  # noqa: N802
    """The index of a handle."""
    return handle.index


def nvmlDeviceGetUUID(handle: Handle) -> str:  # noqa: N802
    """``GPU-...``."""
    return str(_library.value(handle, "nvmlDeviceGetUUID", "uuid"))


def nvmlDeviceGetName(handle: Handle) -> str:  # noqa: N802
    """E.g. ``NVIDIA H100 80GB HBM3``."""
    return str(_library.value(handle, "nvmlDeviceGetName", "name"))


def nvmlDeviceGetUtilizationRates(handle: Handle) -> Utilization:  # noqa: N802
    """Duty cycle of the last second, in percent."""
    name = "nvmlDeviceGetUtilizationRates"
    return Utilization(
        int(_library.value(handle, name, "utilization_gpu")),
        int(_library.value(handle, name, "utilization_memory")),
    )


def nvmlDeviceGetMemoryInfo(handle: Handle, version: int | None = None) -> Memory:  # noqa: N802
    """Memory in bytes; ``version=nvmlMemory_v2`` keeps ``reserved`` apart."""
    if version not in (None, 0, nvmlMemory_v2):
        raise NVMLError(NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    name = "nvmlDeviceGetMemoryInfo"
    return Memory(
        int(_library.value(handle, name, "memory_total_bytes")),
        int(_library.value(handle, name, "memory_used_bytes")),
        int(_library.value(handle, name, "memory_reserved_bytes")),
        version or 0,
    )


def nvmlDeviceGetPowerUsage(handle: Handle) -> int:  # noqa: N802
    """mW."""
    return int(_library.value(handle, "nvmlDeviceGetPowerUsage", "power_mw"))


def nvmlDeviceGetTotalEnergyConsumption(handle: Handle) -> int:  # noqa: N802
    """mJ since the driver was loaded."""
    return int(_library.value(handle, "nvmlDeviceGetTotalEnergyConsumption", "energy_mj"))


def nvmlDeviceGetClockInfo(handle: Handle, type: int) -> int:  # noqa: N802, A002
    """MHz of NVML_CLOCK_SM (or GRAPHICS) or NVML_CLOCK_MEM."""
    key = {
        NVML_CLOCK_GRAPHICS: "sm_clock_mhz",
        NVML_CLOCK_SM: "sm_clock_mhz",
        NVML_CLOCK_MEM: "memory_clock_mhz",
    }.get(type, "")
    return int(_library.value(handle, "nvmlDeviceGetClockInfo", key))


def nvmlDeviceGetTemperature(handle: Handle, sensor: int) -> int:  # noqa: N802
    """°C of NVML_TEMPERATURE_GPU."""
    if sensor != NVML_TEMPERATURE_GPU:
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return int(_library.value(handle, "nvmlDeviceGetTemperature", "temperature_c"))


def nvmlDeviceGetCurrentClocksEventReasons(handle: Handle) -> int:  # noqa: N802
    """NVML's bit mask of why the clocks are not at their maximum."""
    name = "nvmlDeviceGetCurrentClocksEventReasons"
    return int(_library.value(handle, name, "clocks_event_reasons"))


def nvmlDeviceGetCurrentClocksThrottleReasons(handle: Handle) -> int:  # noqa: N802
    """The same under its older name."""
    name = "nvmlDeviceGetCurrentClocksThrottleReasons"
    return int(_library.value(handle, name, "clocks_event_reasons"))


def nvmlDeviceGetTotalEccErrors(  # noqa: N802
    handle: Handle,
    errorType: int,  # noqa: N803
    counterType: int,  # noqa: N803
) -> int:
    """ECC errors of a type; volatile and aggregate are the same here."""
    uncorrected = errorType == NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    key = "ecc_uncorrected_total" if uncorrected else "ecc_corrected_total"
    return int(_library.value(handle, "nvmlDeviceGetTotalEccErrors", key))


def nvmlDeviceGetComputeRunningProcesses(handle: Handle) -> list[Any]:  # noqa: N802
    """As many processes as the state says; nothing is known of each."""
    name = "nvmlDeviceGetComputeRunningProcesses"
    return [None] * int(_library.value(handle, name, "processes"))


def nvmlDeviceGetFieldValues(  # noqa: N802
    handle: Handle,
    fieldIds: list[tuple[int, int]],  # noqa: N803
) -> list[SimpleNamespace]:
    """NVLink's data counters in KiB; every other field is not supported."""
    found = []
    for field, _ in fieldIds:
        try:
            key = _FIELD_KEYS.get(field, "")
            kib, code = int(_library.value(handle, "nvmlDeviceGetFieldValues", key)), 0
        except NVMLError as error:
            kib, code = 0, error.value
        value = SimpleNamespace(ullVal=kib)
        found.append(SimpleNamespace(fieldId=field, nvmlReturn=code, value=value))
    return found


def nvmlDeviceGetMigMode(handle: Handle) -> list[int]:  # noqa: N802
    """Current and pending: 0 where MIG is off; NotSupported where the state does not say."""
    mode = int(_library.value(handle, "nvmlDeviceGetMigMode", "mig_mode"))
    return [mode, mode]
