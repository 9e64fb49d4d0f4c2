"""Takes what is measured, keeps it on disk until Kafka has it: nobody who measures ever waits.

All samples go through the spool, so that what a dead collector had measured is still sent: a sample
is a reading at an instant and has no log file to wait in. After a failure some may arrive twice.
While Kafka is away the oldest are kept; what does not fit is dropped, counted, and shown by
``redline_collectors_sample_spool_full``. It refuses to block whoever measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable

from collectors.batches import Entry, Limits, Run, encode, gather
from collectors.metrics import Metrics
from collectors.sample_spool import SampleSpool
from redline.errors import DeliveryFailed
from redline.log import get_logger
from redline.ports import Message, Publisher
from redline.records import CollectorCount, EngineSample, GpuSample, ProbeResult
from redline.topics import COLLECTOR_COUNTS, ENGINES, GPUS, PROBES

SAMPLES_MAX = 50_000  # in memory, between two writes
BACKOFF_S_MAX = 5.0
STOP_S = 2.0
_SAMPLE_BYTES = 1_000  # more than any sample takes

_log = get_logger()


def engine_entry(sample: EngineSample) -> Entry:
    """The sample as an entry of its topic."""
    return Entry(ENGINES, sample.instance.encode(), sample, _SAMPLE_BYTES)


def gpu_entry(sample: GpuSample) -> Entry:
    """The sample as an entry of its topic."""
    return Entry(GPUS, sample.host.encode(), sample, _SAMPLE_BYTES)


def probe_entry(result: ProbeResult) -> Entry:
    """The result as an entry of its topic."""
    return Entry(PROBES, result.target.encode(), result, _SAMPLE_BYTES)


def count_entry(count: CollectorCount) -> Entry:
    """The count as an entry of its topic."""
    return Entry(COLLECTOR_COUNTS, count.instance.encode(), count, _SAMPLE_BYTES)


class SampleBuffer:
    """Where collectors put samples; every ``limits.age_us`` they go to the spool, then to Kafka."""

    def __init__(
        self,
        publisher: Publisher,
        spool: SampleSpool,
        limits: Limits,
        metrics: Metrics,
        samples_max: int = SAMPLES_MAX,
    ) -> None:
        self._samples_max = samples_max
        self._publisher = publisher
        self._spool = spool
        self._limits = limits
        self._metrics = metrics
        self._held: deque[Entry] = deque()
        self._stored = asyncio.Event()
        self._drained = asyncio.Event()
        self._full = False

    def __len__(self) -> int:
        """How many samples are in memory; what waits on disk is in the metrics."""
        return len(self._held)

    def add(self, entries: Iterable[Entry]) -> None:
        """Take samples; those that do not fit are dropped and counted."""
        room = self._samples_max - len(self._held)
        for entry in entries:
            if room > 0:
                self._held.append(entry)
                room -= 1
            else:
                self._metrics.samples_dropped.labels(entry.topic.name).inc()

    async def run(self, stop: asyncio.Event, may_publish: asyncio.Event) -> None:
        """Store at once, publish from when ``may_publish`` is set; both until ``stop``.

        Then what is held is published, if Kafka takes it in time; else it waits on disk.
        """
        publishing = asyncio.create_task(self._publish_on(may_publish), name="publish samples")
        try:
            while not stop.is_set():
                try:
                    await asyncio.wait_for(stop.wait(), self._limits.age_us / 1e6)
                except TimeoutError:
                    await self.store()
            await self.store()
            if may_publish.is_set():
                self._drained.clear()
                self._stored.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), STOP_S)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
        if self._spool.unread_bytes:
            _log.warning("samples_wait_on_disk", spool_bytes=self._spool.unread_bytes)

    async def store(self) -> None:
        """Bring what is held to the spool. Where the disk does not take it, straight to Kafka."""
        messages = self._take()
        if not messages:
            return
        try:
            fitted = await asyncio.to_thread(self._spool.append, messages)
        except OSError as error:
            fitted = 0
            _log.error("spool_unwritable", reason=str(error), fix="make room in data_dir")
            if not self._spool.unread_bytes and await self._sent_directly(messages):
                fitted = len(messages)
        self._drop(messages[fitted:])
        self._stored.set()
        self._metrics.spool_bytes.set(self._spool.unread_bytes)

    async def publish(self) -> None:
        """Publish all that is in the spool.

        Raises:
            DeliveryFailed: the rest stays there.
        """
        while frames := await asyncio.to_thread(self._spool.peek):
            await self._publisher.publish([frame.message for frame in frames])
            await asyncio.to_thread(self._spool.advance, frames)
            for message, records, _ in frames:
                self._metrics.messages.labels(message.topic.name).inc()
                self._metrics.records.labels(message.topic.name).inc(records)
            self._metrics.spool_bytes.set(self._spool.unread_bytes)
            self._metrics.spool_damaged_bytes.set(self._spool.damaged_bytes)

    async def flush(self) -> None:
        """Store and publish everything. Raises as ``publish`` does."""
        await self.store()
        await self.publish()

    async def _publish_on(self, may_publish: asyncio.Event) -> None:
        await may_publish.wait()
        backoff_s = 0.0
        while True:
            self._stored.clear()
            try:
                await self.publish()
                backoff_s = 0.0
                if not self._stored.is_set():
                    self._drained.set()
                await self._stored.wait()
            except (DeliveryFailed, OSError) as error:
                backoff_s = min(BACKOFF_S_MAX, max(0.2, backoff_s * 2))
                waiting = self._spool.unread_bytes
                _log.warning("samples_wait", reason=str(error), spool_bytes=waiting)
                await asyncio.sleep(backoff_s)

    async def _sent_directly(self, messages: list[tuple[Message, int]]) -> bool:
        try:
            await asyncio.wait_for(
                self._publisher.publish([message for message, _ in messages]), STOP_S
            )
        except (DeliveryFailed, TimeoutError):
            return False
        return True

    def _drop(self, messages: list[tuple[Message, int]]) -> None:
        for message, records in messages:
            self._metrics.samples_dropped.labels(message.topic.name).inc(records)
        full = bool(messages)
        if full and not self._full:
            waiting = self._spool.unread_bytes
            _log.error("sample_spool_full", spool_bytes=waiting, fix="raise spool_bytes_max")
        self._full = full
        self._metrics.spool_full.set(full)

    def _take(self) -> list[tuple[Message, int]]:
        now_us = time.time_ns() // 1000
        lanes: dict[tuple[str, bytes], list[Entry]] = {}
        while self._held:
            entry = self._held.popleft()
            lanes.setdefault((entry.topic.name, entry.key), []).append(entry)
        runs: list[Run] = []
        for entries in lanes.values():
            last, closed = gather(None, entries, self._limits, now_us)
            runs += [*closed, last] if last else closed
        return [
            (Message(run.topic, run.key, payload.value), payload.records)
            for run in runs
            for payload in encode(run)
        ]
