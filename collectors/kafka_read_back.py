"""Reads back what Kafka has of our logs, by the headers of the messages. See ``checkpoint.py``.

It refuses to publish, to join a group and to commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from collectors.checkpoint import Offsets, Source, read_sources
from redline.errors import DeliveryFailed
from redline.kafka import client_options
from redline.settings import KafkaSettings, Secrets
from redline.topics import DEAD_LETTERS, REQUESTS, Topic

NO_PROGRESS_S = 20.0
# Without a checkpoint nobody knows how far back to look: so many messages a partition.
READ_BACK_MESSAGES = 2_000


class KafkaReadBack:
    """A consumer for each call: calls are rare. See ``tailer.ReadBack``."""

    def __init__(
        self,
        kafka: KafkaSettings,
        secrets: Secrets,
        topics: Sequence[Topic] = (REQUESTS, DEAD_LETTERS),
    ) -> None:
        self._options = client_options(kafka, secrets)
        self._partitions = [
            TopicPartition(topic.name, number)
            for topic in topics
            for number in range(kafka.partitions if topic.partitioned else 1)
        ]

    async def sources(self, offsets: Offsets | None, until_us: int) -> tuple[list[Source], Offsets]:
        """Read from ``offsets`` to the end that each partition has now, or to ``until_us``."""
        async with self._consumer() as consumer:
            begins = await consumer.beginning_offsets(self._partitions)
            ends = await consumer.end_offsets(self._partitions)
            left: set[Any] = set()
            for at in self._partitions:
                start = _start(offsets, at, begins[at], ends[at])
                if start < ends[at]:
                    consumer.seek(at, start)
                    left.add(at)
                else:
                    consumer.pause(at)
            found = await _read(consumer, left, ends, until_us // 1000)
            return found, _by_topic(ends)

    async def ends(self) -> Offsets:
        """Where each partition ends now."""
        async with self._consumer() as consumer:
            return _by_topic(await consumer.end_offsets(self._partitions))

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[Any]:
        consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            client_id="redline-collectors-read-back",
        )
        try:
            await consumer.start()
            consumer.assign(self._partitions)
            yield consumer
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            reason = f"Kafka cannot be read back: {type(error).__name__}: {error}"
            raise DeliveryFailed(reason, recoverable=True) from error
        finally:
            await consumer.stop()


async def _read(consumer: Any, left: set[Any], ends: dict[Any, int], until_ms: int) -> list[Source]:
    """Read the partitions in ``left`` to their ends.

    Raises:
        TimeoutError: nothing came for NO_PROGRESS_S.
    """
    sources: list[Source] = []
    progress_s = time.monotonic()
    while left:
        for at, messages in (await consumer.getmany(timeout_ms=500)).items():
            progress_s = time.monotonic()
            for message in messages:
                sources += read_sources(message.headers)
            if messages[-1].timestamp > until_ms:
                consumer.pause(at)
                left.discard(at)
        for at in list(left):
            if await consumer.position(at) >= ends[at]:
                consumer.pause(at)
                left.discard(at)
        if time.monotonic() - progress_s > NO_PROGRESS_S:
            raise TimeoutError(f"nothing came for {NO_PROGRESS_S} s")
        await asyncio.sleep(0)
    return sources


def _by_topic(ends: dict[Any, int]) -> Offsets:
    found: Offsets = {}
    for at, end in ends.items():
        found.setdefault(at.topic, {})[at.partition] = end
    return found


def _start(offsets: Offsets | None, at: Any, begin: int, end: int) -> int:
    """Where to begin in one partition."""
    saved = (offsets or {}).get(at.topic, {}).get(at.partition)
    if saved is None:
        return max(int(begin), int(end) - READ_BACK_MESSAGES)
    if saved > end:  # the topic was made anew
        return int(begin)
    return max(int(begin), saved)
