"""Publishes to Kafka.

An idempotent producer with ``acks=all``: while Kafka is away it repeats by itself, without
duplicates, and ``publish`` just takes longer. What it cannot repeat ends in DeliveryFailed, and the
next publish begins with a new producer. It refuses to decide what to do about a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from redline.errors import DeliveryFailed
from redline.kafka import client_options, ensure_topics
from redline.log import get_logger
from redline.ports import Acknowledged, Message
from redline.settings import KafkaSettings, Secrets

BACKOFF_S_MAX = 2.0
CLOSE_S = 0.5
STALL_S = 3.0

_log = get_logger()


async def wait_for_topics(kafka: KafkaSettings, secrets: Secrets) -> None:
    """Return once Kafka answers and every topic exists; try again for as long as it takes.

    Raises:
        ConfigFault: a topic has another number of partitions than is configured.
    """
    backoff_s = 0.1
    said = ""
    while True:
        try:
            await ensure_topics(kafka, secrets)
            return
        except (KafkaError, OSError) as error:
            if str(error) != said:
                said = str(error)
                _log.warning("waiting_for_kafka", servers=kafka.bootstrap_servers, reason=said)
        await asyncio.sleep(backoff_s)
        backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)


class KafkaPublisher:
    """A producer that is replaced when it fails. Bounded: a full producer makes callers wait.

    ``reason`` says what keeps Kafka from acknowledging now; empty if nothing does. A publish that
    is cancelled takes its producer with it, so that nothing is sent behind the caller's back:
    who must not be disturbed by that has a publisher of its own.
    """

    def __init__(self, kafka: KafkaSettings, secrets: Secrets) -> None:
        self.reason = ""
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
            found = await self._wait(waiting)
        except asyncio.CancelledError:
            await self._discard(producer)
            raise
        except (KafkaError, OSError) as error:
            await self._discard(producer)
            raise DeliveryFailed(
                f"Kafka did not take a message: {type(error).__name__}: {error}", recoverable=True
            ) from error
        return [Acknowledged(at.topic, at.partition, at.offset) for at in found]

    async def close(self) -> None:
        """Stop the producer, giving it a moment to send what it holds."""
        await self._discard(self._producer)

    async def _wait(self, waiting: list[asyncio.Future[Any]]) -> list[Any]:
        """The answers, however long they take; ``reason`` tells when they take long."""
        answers = asyncio.gather(*waiting)
        done, _ = await asyncio.wait({answers}, timeout=STALL_S)
        if not done and not self.reason:
            self.reason = "Kafka stopped acknowledging messages; log lines wait in their files"
            _log.warning("kafka_stalled", waiting_messages=len(waiting))
        found = await answers
        if self.reason:
            self.reason = ""
            _log.info("kafka_acknowledges_again")
        return found

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
                    retry_backoff_ms=250,
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
            with contextlib.suppress(KafkaError, OSError):
                await asyncio.wait_for(producer._sender.close(), CLOSE_S)
