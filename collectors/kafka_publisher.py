"""Publishes to Kafka, and reads back what it has of our logs.

An idempotent producer with ``acks=all``: while Kafka is away it repeats by itself, without
duplicates, and ``publish`` just takes longer. What it cannot repeat ends in DeliveryFailed, and the
next publish begins with a new producer. It refuses to decide what to do about a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from collectors.checkpoint import Offsets, Source, read_sources
from redline.errors import DeliveryFailed
from redline.kafka import client_options, ensure_topics
from redline.log import get_logger
from redline.ports import Acknowledged, Message
from redline.settings import KafkaSettings, Secrets
from redline.topics import DEAD_LETTERS, REQUESTS, Topic

BACKOFF_S_MAX = 2.0
CLOSE_S = 1.0
READ_BACK_S = 20.0
# Without a checkpoint nobody knows how far back to look: so many messages a partition.
READ_BACK_MESSAGES = 10_000

_log = get_logger()


async def wait_for_topics(kafka: KafkaSettings, secrets: Secrets) -> None:
    """Return once Kafka answers and every topic exists; try again for as long as it takes.

    Raises:
        ConfigFault: a topic has another number of partitions than is configured.
    """
    backoff_s = 0.1
    while True:
        try:
            await ensure_topics(kafka, secrets)
            return
        except (KafkaError, OSError) as error:
            _log.warning("waiting_for_kafka", servers=kafka.bootstrap_servers, reason=str(error))
        await asyncio.sleep(backoff_s)
        backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)


class KafkaPublisher:
    """A producer that is replaced when it fails. Bounded: a full producer makes callers wait."""

    def __init__(self, kafka: KafkaSettings, secrets: Secrets) -> None:
        self._options = client_options(kafka, secrets)
        self._producer: Any = None
        self._opening = asyncio.Lock()

    async def publish(self, messages: Sequence[Message]) -> list[Acknowledged]:
        """See ``redline.ports.Publisher``."""
        if not messages:
            return []
        producer = await self._open()
        try:
            waiting = [
                await producer.send(
                    message.topic.name,
                    key=message.key,
                    value=message.value,
                    headers=list(message.headers),
                )
                for message in messages
            ]
            found = await asyncio.gather(*waiting)
        except (KafkaError, OSError) as error:
            await self._discard(producer)
            raise DeliveryFailed(
                f"Kafka did not take a message: {type(error).__name__}: {error}", recoverable=True
            ) from error
        return [Acknowledged(at.topic, at.partition, at.offset) for at in found]

    async def close(self) -> None:
        """Stop the producer, giving it a moment to send what it holds."""
        await self._discard(self._producer)

    async def _open(self) -> Any:
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self._options,
                    enable_idempotence=True,
                    acks="all",
                    compression_type="zstd",
                    max_batch_size=1_000_000,
                    linger_ms=0,
                    client_id="redline-collectors",
                )
                try:
                    await producer.start()
                except (KafkaError, OSError) as error:
                    await producer.stop()
                    raise DeliveryFailed(f"Kafka: {error}", recoverable=True) from error
                self._producer = producer
            return self._producer

    async def _discard(self, producer: Any) -> None:
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        try:
            await asyncio.wait_for(producer.stop(), CLOSE_S)
        except (KafkaError, OSError, TimeoutError):
            # An idempotent producer repeats for ever. It must not send any more once another one
            # goes on from what Kafka has; stop() gave up waiting but left its sender alive.
            await producer.client.close()
            await producer._sender.close()


class KafkaReadBack:
    """Reads the sources of what was published lately. See ``tailer.ReadBack``."""

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

    async def __call__(self, offsets: Offsets | None) -> tuple[list[Source], Offsets]:
        """Read from ``offsets`` to the end that each partition has now."""
        consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            client_id="redline-collectors-read-back",
        )
        try:
            await consumer.start()
            return await asyncio.wait_for(self._read(consumer, offsets), READ_BACK_S)
        except (KafkaError, OSError, TimeoutError) as error:
            reason = f"Kafka cannot be read back: {type(error).__name__}: {error}"
            raise DeliveryFailed(reason, recoverable=True) from error
        finally:
            await consumer.stop()

    async def _read(self, consumer: Any, offsets: Offsets | None) -> tuple[list[Source], Offsets]:
        partitions = self._partitions
        consumer.assign(partitions)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        left: set[Any] = set()
        for at in partitions:
            start = _start(offsets, at, begins[at], ends[at])
            if start < ends[at]:
                consumer.seek(at, start)
                left.add(at)
            else:
                consumer.pause(at)
        sources: list[Source] = []
        while left:
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    sources += read_sources(message.headers)
            for at in list(left):
                if await consumer.position(at) >= ends[at]:
                    left.discard(at)
        found: Offsets = {}
        for at in partitions:
            found.setdefault(at.topic, {})[at.partition] = ends[at]
        return sources, found


def _start(offsets: Offsets | None, at: Any, begin: int, end: int) -> int:
    """Where to begin in one partition."""
    saved = (offsets or {}).get(at.topic, {}).get(at.partition)
    if saved is None:
        return max(int(begin), int(end) - READ_BACK_MESSAGES)
    if saved > end:  # the topic was made anew
        return int(begin)
    return max(int(begin), saved)
