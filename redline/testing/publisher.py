"""A Publisher that keeps messages in memory. It refuses to be fast or durable: tests use it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from redline.errors import DeliveryFailed
from redline.ports import Acknowledged, Message


class MemoryPublisher:
    """Keeps every message, partitioned by key. ``fail_next`` makes coming calls fail.

    A failing call stores the first ``stored_before_failure`` of its messages and then raises, as a
    broker does whose answer is lost on the way.
    """

    def __init__(self, partitions: int = 4) -> None:
        self.partitions = partitions
        self.messages: dict[tuple[str, int], list[Message]] = {}
        self.fail_next = 0
        self.stored_before_failure = 0

    async def publish(self, messages: Sequence[Message]) -> list[Acknowledged]:
        """Store the messages. Raises DeliveryFailed as often as ``fail_next`` says."""
        if self.fail_next:
            self.fail_next -= 1
            for message in messages[: self.stored_before_failure]:
                self._store(message)
            raise DeliveryFailed("the fake publisher was told to fail", recoverable=True)
        return [self._store(message) for message in messages]

    def of_topic(self, topic: str) -> list[Message]:
        """All messages of one topic, partition after partition."""
        return [
            message
            for (name, _), stored in sorted(self.messages.items())
            if name == topic
            for message in stored
        ]

    def _store(self, message: Message) -> Acknowledged:
        count = self.partitions if message.topic.partitioned else 1
        partition = zlib.crc32(message.key) % count
        stored = self.messages.setdefault((message.topic.name, partition), [])
        stored.append(message)
        return Acknowledged(message.topic.name, partition, len(stored) - 1)
