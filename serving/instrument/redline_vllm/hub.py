# mypy: disable-error-code="import-not-found"
"""Between the event loop and the disk: a bounded queue, and one thread that joins and writes.

The event loop only appends to a deque. The thread wakes every 100 ms, because a wake-up per record
would fight the event loop for the interpreter's lock, and gives that lock away between records.
What cannot be queued or written is counted, and the next line that can be written says how many.
This file refuses to raise into a hook of vLLM's and to wait for the disk on the event loop.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from typing import NamedTuple

from redline_vllm.body import read_body
from redline_vllm.compose import Identity, record_of, record_without_http
from redline_vllm.halves import EngineHalf, HttpHalf
from redline_vllm.joiner import Joined, Joiner
from redline_vllm.log_file import LogFile
from redline_vllm.record import RequestRecord
from redline_vllm.settings import Settings, logger, read_settings
from redline_vllm.tenants import TenantDirectory

WAKE_S = 0.1
TEND_S = 1.0
CLOSE_S = 3.0
BODY_BYTES_MAX = 1024 * 1024
_SLICE = 50  # events between two chances for the event loop
_LINES_MAX = 500  # in one write


class Ended(NamedTuple):
    """An HTTP half that is over."""

    http: HttpHalf


class Hub:
    """The queue and its thread. Only the methods of the first group are for the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.enabled = settings.folder is not None
        self.has_middleware = False
        self.open: set[HttpHalf] = set()  # requests that are not over
        self.dropped = 0
        self.identity = Identity(
            instance=settings.instance,
            served=(settings.model,) if settings.model else (),
            version=settings.version,
            region=settings.region,
            precision=settings.precision or "unknown",
            canary=settings.canary,
        )
        self._queue: deque[EngineHalf | Ended | HttpHalf] = deque()
        self._unwritten: deque[RequestRecord] = deque()
        self._dropped_told = 0
        self._joiner = Joiner()
        self._tenants = TenantDirectory(settings.tenant_keys_file, settings.key_hash_secret)
        self._file: LogFile | None = None
        self._fault = ""
        self._tended_s = -TEND_S
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        if self.enabled:
            self._thread = threading.Thread(target=self._run, name="redline", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    # --- event loop -----------------------------------------------------------------------

    def put(self, event: EngineHalf | HttpHalf) -> None:
        """Queue an engine half, or an HTTP half whose body is complete."""
        if len(self._queue) < self.settings.queue_max:
            self._queue.append(event)

    def end(self, http: HttpHalf) -> None:
        """Queue an HTTP half that is over; counted if the queue is full."""
        self.open.discard(http)
        if len(self._queue) < self.settings.queue_max:
            self._queue.append(Ended(http))
        else:
            self.dropped += 1

    # --- any thread -----------------------------------------------------------------------

    def flush(self, within_s: float = CLOSE_S) -> None:
        """Write what is queued now. Waits: for shutdown and tests only."""
        self._idle.clear()
        self._wake.set()
        self._idle.wait(within_s)

    def close(self) -> None:
        """Write everything, also what is not over, and stop the thread. Safe to call twice."""
        if self._thread is None or self._stopping:
            return
        end_s = time.perf_counter()
        for http in list(self.open):
            http.stopped, http.end_s = True, end_s
            self.end(http)
        self._stopping = True
        self._wake.set()
        self._thread.join(CLOSE_S)

    # --- writer thread --------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(WAKE_S)
            flushing = self._wake.is_set()
            stopping = self._stopping
            self._wake.clear()
            try:
                self._turn(everything=flushing or stopping)
            except Exception as error:  # the last resort: the thread must live
                self._say(f"{type(error).__name__}: {error}")
            if flushing:
                self._idle.set()
            if stopping:
                if self._file is not None:
                    self._file.close()
                return

    def _turn(self, *, everything: bool) -> None:
        now = time.monotonic()
        if now - self._tended_s >= TEND_S:
            self._tended_s = now
            self._tenants.refresh()
            self._tend_file()
        for count in range(len(self._queue)):
            self._take(self._queue.popleft(), now)
            if count % _SLICE == _SLICE - 1:
                time.sleep(0)
        for joined in self._joiner.expire(now, everything=everything):
            self._keep(joined)
        self._write()

    def _take(self, event: EngineHalf | Ended | HttpHalf, now: float) -> None:
        try:
            if isinstance(event, HttpHalf):
                _read_facts(event)
                return
            if isinstance(event, Ended):
                _read_facts(event.http)
                joined = self._joiner.add_http(event.http, now)
            elif self.has_middleware:
                joined = self._joiner.add_engine(event, now)
            else:
                now_us = time.time_ns() // 1000
                self._append(record_without_http(event, self.identity, now_us))
                return
            if joined is not None:
                self._keep(joined)
        except Exception as error:  # one odd request must not cost the others their lines
            self.dropped += isinstance(event, Ended)
            self._say(f"a request could not be recorded: {type(error).__name__}: {error}")

    def _keep(self, joined: Joined) -> None:
        http = joined.http
        tenant, key_hash = self._tenants.identify(http.key, http.tenant)
        self._append(record_of(joined, self.identity, tenant, key_hash))

    def _append(self, record: RequestRecord) -> None:
        if len(self._unwritten) >= self.settings.queue_max:
            self.dropped += 1
        else:
            self._unwritten.append(record)

    def _write(self) -> None:
        while self._unwritten and (file := self._log_file()) is not None:
            count = min(len(self._unwritten), _LINES_MAX)
            batch = [self._unwritten[index] for index in range(count)]
            dropped = self.dropped
            try:
                file.write(batch, dropped - self._dropped_told)
            except OSError as error:
                self._say(f"cannot write {file.path}: {error}")
                return
            self._dropped_told = dropped
            for _ in batch:
                self._unwritten.popleft()
            if self._fault:
                logger.warning("redline: writing again; %d requests were not logged", dropped)
                self._fault = ""
            time.sleep(0)

    def _log_file(self) -> LogFile | None:
        settings, folder = self.settings, self.settings.folder
        if self._file is None and folder is not None:
            try:
                self._file = LogFile(
                    folder,
                    rotate_bytes=settings.rotate_bytes,
                    rotate_s=settings.rotate_s,
                    keep=settings.keep,
                )
            except OSError as error:
                self._say(f"cannot open a request log in {folder}: {error}")
        return self._file

    def _tend_file(self) -> None:
        try:
            if self._file is not None:
                self._file.tend()
        except OSError as error:
            self._say(f"cannot tend the request log: {error}")

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            logger.warning("redline: %s", fault)


def _read_facts(http: HttpHalf) -> None:
    if http.body_bytes and http.body:
        complete = http.body_bytes <= BODY_BYTES_MAX
        body, http.body = b"".join(http.body), []
        http.facts = read_body(http.path, body, complete=complete)


class _Process:
    hub: Hub | None = None
    lock = threading.Lock()


def process_hub() -> Hub:
    """The one hub of this process; the first call reads the environment and starts the thread."""
    with _Process.lock:
        if _Process.hub is None:
            _Process.hub = Hub(read_settings())
            if not _Process.hub.enabled:
                logger.info("redline: REDLINE_REQUEST_LOG_DIR is not set: nothing is logged")
        return _Process.hub
