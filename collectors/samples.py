"""Holds samples until Kafka takes them: bounded, the oldest kept, what does not fit is counted.

A sample is a reading at an instant: unlike log lines it has no file to wait in, and after a failure
it may arrive twice. It refuses to block whoever measures.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from collectors.batches import Entry, Limits, Run, encode, gather
from collectors.metrics import Metrics
from redline.errors import DeliveryFailed
from redline.log import get_logger
from redline.ports import Message, Publisher
from redline.records import EngineSample, GpuSample
from redline.topics import ENGINES, GPUS

SAMPLES_MAX = 50_000
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


class SampleBuffer:
    """Where collectors put samples, and what publishes them every ``limits.age_us``."""

    def __init__(
        self,
        publisher: Publisher,
        limits: Limits,
        metrics: Metrics,
        samples_max: int = SAMPLES_MAX,
    ) -> None:
        self._samples_max = samples_max
        self._publisher = publisher
        self._limits = limits
        self._metrics = metrics
        self._held: deque[Entry] = deque()
        self._runs: deque[Run] = deque()  # taken out of _held, not acknowledged yet

    def __len__(self) -> int:
        return len(self._held) + sum(len(run.entries) for run in self._runs)

    def add(self, entries: Iterable[Entry]) -> None:
        """Take samples; those that do not fit are dropped and counted."""
        room = self._samples_max - len(self)
        for entry in entries:
            if room > 0:
                self._held.append(entry)
                room -= 1
            else:
                self._metrics.samples_dropped.labels(entry.topic.name).inc()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until ``stop``; then publish what is held, if Kafka takes it in time."""
        backoff_s = 0.0
        while not stop.is_set():
            wait_s = backoff_s or self._limits.age_us / 1e6
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                backoff_s = await self._flush_or_back_off(backoff_s)
        try:
            await asyncio.wait_for(self.flush(), STOP_S)
        except (DeliveryFailed, TimeoutError):
            _log.warning("samples_unpublished", samples=len(self))

    async def flush(self) -> None:
        """Publish everything that is held.

        Raises:
            DeliveryFailed: the rest stays held.
        """
        self._take()
        while self._runs:
            run = self._runs[0]
            messages = [Message(run.topic, run.key, payload.value) for payload in encode(run)]
            await self._publisher.publish(messages)
            self._runs.popleft()
            self._metrics.messages.labels(run.topic.name).inc(len(messages))
            self._metrics.records.labels(run.topic.name).inc(len(run.entries))

    async def _flush_or_back_off(self, backoff_s: float) -> float:
        try:
            await self.flush()
            return 0.0
        except DeliveryFailed as error:
            longer_s = min(BACKOFF_S_MAX, max(0.2, backoff_s * 2))
            _log.warning("samples_wait", reason=str(error), samples=len(self), retry_s=longer_s)
            return longer_s

    def _take(self) -> None:
        now_us = time.time_ns() // 1000
        lanes: dict[tuple[str, bytes], list[Entry]] = {}
        while self._held:
            entry = self._held.popleft()
            lanes.setdefault((entry.topic.name, entry.key), []).append(entry)
        for entries in lanes.values():
            last, closed = gather(None, entries, self._limits, now_us)
            self._runs.extend([*closed, last] if last else closed)
