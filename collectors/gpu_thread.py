"""Polls NVML in a thread of its own: a call may block in the driver for as long as it likes.

Without a library, a driver or a GPU there is one log line and a metric, and it tries again later.
It refuses to crash the collector, whatever NVML does.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from collectors.gpu import Device, DriverGone, devices, sample
from collectors.metrics import Metrics
from redline.log import get_logger
from redline.records import GpuSample
from redline.settings import GpuSettings

RETRY_S = 10.0
RETRY_S_MAX = 300.0
_XID_EVENT = 0x8  # nvmlEventTypeXidCriticalError

_log = get_logger()


class GpuThread(threading.Thread):
    """Samples every GPU each ``fast_s``. ``sink`` is called in this thread."""

    def __init__(
        self,
        settings: GpuSettings,
        sink: Callable[[Sequence[GpuSample]], None],
        metrics: Metrics,
    ) -> None:
        super().__init__(name="gpus", daemon=True)
        self._settings = settings
        self._host = settings.host or socket.gethostname()
        self._sink = sink
        self._metrics = metrics
        self._stopping = threading.Event()
        self._warned: set[str] = set()
        self._count = -1

    def stop(self) -> None:
        """Ask the thread to end; it does within a poll, unless the driver holds it."""
        self._stopping.set()

    def run(self) -> None:
        """Poll until ``stop``; begin again when NVML goes away."""
        try:
            nvml = importlib.import_module(self._settings.nvml_module)
        except ImportError as error:
            self._warn("nvml_module_missing", str(error))
            return
        retry_s = RETRY_S
        while not self._stopping.is_set():
            try:
                nvml.nvmlInit()
                retry_s = RETRY_S
                try:
                    self._poll(nvml)
                finally:
                    nvml.nvmlShutdown()
            except (nvml.NVMLError, DriverGone) as error:
                self._metrics.gpus.set(0)
                self._metrics.gpu_failures.labels("driver").inc()
                self._warn("nvml_unavailable", str(error))
                self._stopping.wait(retry_s)
                retry_s = min(RETRY_S_MAX, retry_s * 2)

    def _poll(self, nvml: Any) -> None:
        """Poll until ``stop``, or until a lost GPU may be back: its old handle would not say so."""
        found = devices(nvml)
        for one in found:
            one.instance = self._settings.instances.get(one.mig or one.uuid, "")
        events = self._register_events(nvml, found)
        self._warned.discard("nvml_unavailable")
        if len(found) != self._count:
            self._count = len(found)
            _log.info("gpus_found", gpus=self._count, names=sorted({one.name for one in found}))
        try:
            self._sample_all(nvml, events, found)
        finally:
            if events is not None:
                with contextlib.suppress(AttributeError, nvml.NVMLError):
                    nvml.nvmlEventSetFree(events)

    def _sample_all(self, nvml: Any, events: Any, found: list[Device]) -> None:
        samples: list[GpuSample] = []
        slow_due_s = due_s = time.monotonic()
        while not self._stopping.is_set():
            slow = time.monotonic() >= slow_due_s
            if slow:
                slow_due_s = time.monotonic() + self._settings.slow_s
                if any(one.lost for one in samples):
                    return
            xids = self._read_events(nvml, events, found)
            now_us = time.time_ns() // 1000
            samples = [
                sample(nvml, one, self._host, xids.get(one.uuid), now_us, slow=slow)
                for one in found
            ]
            self._sink(samples)
            self._report(found, samples)
            due_s = max(due_s + self._settings.fast_s, time.monotonic())
            self._stopping.wait(due_s - time.monotonic())

    def _report(self, found: list[Device], samples: list[GpuSample]) -> None:
        lost = sum(one.lost for one in samples)
        self._metrics.gpus.set(len(samples) - lost)
        self._metrics.gpus_lost.set(lost)
        if lost:
            self._warn("gpu_lost", ", ".join(one.gpu_uuid for one in samples if one.lost))
        else:
            self._warned.discard("gpu_lost")
        for device in found:
            if device.energy_resets:
                self._metrics.gpu_energy_resets.inc(device.energy_resets)
                device.energy_resets = 0
            for field, reason in device.failures.items():
                self._metrics.gpu_failures.labels(field).inc()
                self._warn(f"gpu_field_failed {field}", reason)
            for field, reason in device.cannot.items():
                self._warn(f"gpu_field_unsupported {field}", reason)

    def _warn(self, event: str, reason: str) -> None:
        """Log the first time only."""
        if event not in self._warned:
            self._warned.add(event)
            _log.warning(event, module=self._settings.nvml_module, reason=reason)

    def _register_events(self, nvml: Any, found: list[Device]) -> Any:
        """An event set that hears of XID errors; None where the driver has none."""
        try:
            events = nvml.nvmlEventSetCreate()
        except (AttributeError, nvml.NVMLError):
            return None
        for device in found:
            if device.mig or device.handle is None:
                continue
            try:
                nvml.nvmlDeviceRegisterEvents(device.handle, _XID_EVENT, events)
            except nvml.NVMLError as error:  # this GPU has none, others may
                self._warn("gpu_field_unsupported xid", str(error))
        return events

    def _read_events(self, nvml: Any, events: Any, found: list[Device]) -> dict[str, int]:
        """The first XID of each GPU that had one since the last call: the later ones follow from
        it. All are counted. Does not wait: it is asked each second, and a thread that waits in the
        driver could not be stopped.
        """
        xids: dict[str, int] = {}
        while events is not None:
            try:
                event = nvml.nvmlEventSetWait_v2(events, 0)
            except (AttributeError, nvml.NVMLError):  # a timeout: there is none
                break
            number = int(event.eventData)
            self._metrics.gpu_xids.labels(str(number)).inc()
            uuid = _uuid_of(nvml, event.device, found)
            self._warn(f"gpu_xid {number}", uuid)
            xids.setdefault(uuid, number)
        return xids


def _uuid_of(nvml: Any, handle: Any, found: list[Device]) -> str:
    """Whose event it is: a GPU that fell off the bus cannot say, and that is the event to know."""
    try:
        uuid = nvml.nvmlDeviceGetUUID(handle)
    except nvml.NVMLError:
        address = _address(handle)
        return next((one.uuid for one in found if _address(one.handle) == address), "")
    return uuid.decode() if isinstance(uuid, bytes) else str(uuid)


def _address(handle: Any) -> Any:
    """What two handles of one GPU have in common: the binding makes a new pointer for each."""
    try:
        return ctypes.cast(handle, ctypes.c_void_p).value
    except (TypeError, ctypes.ArgumentError):  # not the official binding
        return handle
