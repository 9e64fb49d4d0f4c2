"""Protocols that have two implementations. One that has a single implementation is not here.

``Publisher``: Kafka in production (``collectors.kafka_publisher``), a list in memory in tests
(``redline.testing.publisher``). This file refuses to implement anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from redline.topics import Topic


class Message(NamedTuple):
    """One Kafka message to be published."""

    topic: Topic
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class Acknowledged(NamedTuple):
    """Where Kafka put one message. ``offset`` is -1 where the broker did not say."""

    topic: str
    partition: int
    offset: int


class Publisher(Protocol):
    """Publishes messages durably."""

    async def publish(self, messages: Sequence[Message]) -> list[Acknowledged]:
        """Publish in order; return once every message is acknowledged, one answer a message.

        Messages of one topic and key keep their order and are acknowledged in it.

        Raises:
            DeliveryFailed: some messages may have arrived and some not; nobody knows which.
        """
        ...
