"""Sends what the worker made to Kafka: idempotent, acknowledged by all replicas, compressed.

Also writes the state's changelog, to the partition that the source message came from. It refuses
to choose what is sent; it only cuts batches to the size that one message may have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from aiokafka import AIOKafkaProducer

from redline.codec import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, encode_batch, encode_json
from redline.kafka import client_options
from redline.records import DeadLetter, LedgerEntry, Pane, Record, RequestCost, Signal
from redline.settings import KafkaSettings, Secrets
from redline.topics import DEAD_LETTERS, LEDGER, PANES, REQUEST_COSTS, SIGNALS, Topic

R = TypeVar("R", bound=Record)

_RECORD_BYTES = 700  # a generous guess of what one record without sketches takes
_MESSAGE_BYTES_MAX = 1_048_576


class Publisher:
    """One producer. ``start`` it inside the loop; ``close`` flushes."""

    def __init__(self, kafka: KafkaSettings, secrets: Secrets) -> None:
        self._options = client_options(kafka, secrets)
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect.

        Raises:
            aiokafka.errors.KafkaConnectionError: no broker answers.
        """
        self._producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=5,
            max_request_size=_MESSAGE_BYTES_MAX,
            max_batch_size=256 * 1024,
        )
        await self._producer.start()

    async def close(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def send_panes(self, panes: Sequence[Pane]) -> None:
        """Panes, keyed by model and version: what stage 2 merges must be in one partition."""
        await self._send_batches(PANES, panes, lambda pane: f"{pane.model}|{pane.version}")

    async def send_ledger(self, entries: Sequence[LedgerEntry]) -> None:
        """Ledger lines, keyed by instance."""
        await self._send_batches(LEDGER, entries, lambda entry: entry.instance)

    async def send_costs(self, costs: Sequence[RequestCost]) -> None:
        """Settled costs of requests, keyed by instance."""
        await self._send_batches(REQUEST_COSTS, costs, lambda cost: cost.instance)

    async def send_signals(self, signals: Sequence[Signal]) -> None:
        """Signals; the topic has one partition."""
        await self._send_batches(SIGNALS, signals, lambda signal: "signals")

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Dead letters, keyed by their source."""
        await self._send_all(
            DEAD_LETTERS.name,
            [(letter.source.encode(), encode_json(letter), None) for letter in letters],
        )

    async def send_changelog(
        self, topic: str, partition: int, items: Iterable[tuple[bytes, bytes | None]]
    ) -> None:
        """State to the changelog's partition; None deletes. Returns when all of it is stored."""
        await self._send_all(topic, [(key, value, partition) for key, value in items])

    async def _send_batches(
        self, topic: Topic, records: Sequence[R], key_of: Callable[[R], str]
    ) -> None:
        groups: dict[str, list[R]] = {}
        for record in records:
            groups.setdefault(key_of(record), []).append(record)
        await self._send_all(
            topic.name,
            [
                (key.encode(), encode_batch(part), None)
                for key, members in groups.items()
                for part in _cut(members)
            ],
        )

    async def _send_all(
        self, topic: str, messages: Sequence[tuple[bytes, bytes | None, int | None]]
    ) -> None:
        assert self._producer is not None, "start the publisher first"
        sent = [
            await self._producer.send(topic, value, key=key, partition=partition)
            for key, value, partition in messages
        ]
        if sent:
            await asyncio.gather(*sent)


def _cut(records: Sequence[R]) -> Iterator[Sequence[R]]:
    """Parts that fit one message."""
    part: list[R] = []
    size = 0
    for record in records:
        bytes_ = _RECORD_BYTES
        if isinstance(record, Pane):
            bytes_ += len(record.e2e_sketch) + len(record.ttft_sketch)
        if part and (size + bytes_ > BATCH_BYTES_MAX or len(part) == BATCH_RECORDS_MAX):
            yield part
            part, size = [], 0
        part.append(record)
        size += bytes_
    if part:
        yield part
