"""Both clients, made short: topics, producers, consumers, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # re-exported

TIMEOUT_S = 30.0
SESSION_MS = 6_000  # the least that Apache Kafka takes by default


@dataclass(frozen=True, slots=True)
class Target:
    """A broker that the suite runs on."""

    name: str
    bootstrap: str

    @property
    def is_embedded(self) -> bool:
        return self.name == "embedded"


def unique(prefix: str = "t") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Poll a condition (which does its own waiting) until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"


async def await_until(
    condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = TIMEOUT_S
) -> None:
    """The same for coroutines."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


class Confluent:
    """librdkafka on one target."""

    def __init__(self, target: Target) -> None:
        self.bootstrap = target.bootstrap
        self.admin = AdminClient({"bootstrap.servers": target.bootstrap})

    def create(
        self, partitions: int = 4, config: Mapping[str, str] | None = None, name: str = ""
    ) -> str:
        topic = name or unique()
        new = NewTopic(topic, partitions, 1, config=dict(config or {}))
        self.admin.create_topics([new], request_timeout=20)[topic].result(20)
        wait_until(lambda: self.partitions(topic) == partitions, f"{topic} exists")
        return topic

    def partitions(self, topic: str) -> int:
        """How many partitions the metadata shows; 0 when there is no such topic."""
        known = self.admin.list_topics(timeout=10).topics.get(topic)
        return len(known.partitions) if known is not None else 0

    def producer(self, **options: Any) -> ck.Producer:
        return ck.Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, **options})

    def consumer(self, group: str = "", **options: Any) -> Any:
        return ck.Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": group or unique("g"),
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 300,
                "fetch.queue.backoff.ms": 10,
                **options,
            }
        )

    def send(self, topic: str, messages: list[dict[str, Any]], **options: Any) -> list[Any]:
        """Produce and wait for every acknowledgement; returns the reports in order."""
        reports: list[Any] = []
        errors: list[ck.KafkaError] = []

        def report(error: ck.KafkaError | None, message: Any) -> None:
            if error is None:
                reports.append(message)
            else:
                errors.append(error)

        producer = self.producer(**options)
        for message in messages:
            producer.produce(topic, on_delivery=report, **message)
        assert producer.flush(TIMEOUT_S) == 0
        assert not errors, errors[0]
        return reports

    def read(self, topic: str, count: int, *, group: str = "", **options: Any) -> list[Any]:
        """The first ``count`` messages of a topic, read by a new group."""
        consumer = self.consumer(group, **options)
        consumer.subscribe([topic])
        try:
            return self.drain(consumer, count)
        finally:
            consumer.close()

    def drain(self, consumer: Any, count: int) -> list[Any]:
        found: list[Any] = []

        def enough() -> bool:
            for message in consumer.consume(500, 0.1):
                assert message.error() is None, message.error()
                found.append(message)
            return len(found) >= count

        wait_until(enough, f"{count} messages")
        return found

    def watermarks(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """First and next offset."""
        consumer = self.consumer()
        try:
            low, high = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), 10)
            return low, high
        finally:
            consumer.close()


class Aio:
    """aiokafka on one target."""

    def __init__(self, target: Target) -> None:
        self.bootstrap = target.bootstrap

    def producer(self, **options: Any) -> Any:
        return AIOKafkaProducer(bootstrap_servers=self.bootstrap, **options)

    def consumer(self, *topics: str, **options: Any) -> Any:
        defaults: dict[str, Any] = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        if options.get("group_id"):
            defaults |= {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 300}
        return AIOKafkaConsumer(
            *topics, bootstrap_servers=self.bootstrap, **{**defaults, **options}
        )

    async def send(self, topic: str, messages: list[dict[str, Any]], **options: Any) -> list[Any]:
        """Produce and wait for every acknowledgement; returns the metadata in order."""
        producer = self.producer(linger_ms=5, **options)
        await producer.start()
        try:
            sent = [await producer.send(topic, **message) for message in messages]
            return list(await asyncio.wait_for(asyncio.gather(*sent), TIMEOUT_S))
        finally:
            await producer.stop()

    async def read(self, topic: str, count: int, **options: Any) -> list[Any]:
        """The first ``count`` records of a topic."""
        consumer = self.consumer(topic, **options)
        await consumer.start()
        try:
            return await self.drain(consumer, count)
        finally:
            await consumer.stop()

    async def drain(self, consumer: Any, count: int) -> list[Any]:
        found: list[Any] = []

        async def enough() -> bool:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found.extend(records)
            return len(found) >= count

        await await_until(enough, f"{count} records")
        return found
