"""Runs one source partition: folds what comes, flushes, and delivers checkpoints in order.

The order of a delivery is the promise of this system (see ``partition``): changelog, ClickHouse,
Kafka, commit record, acknowledgement. A step that fails is tried again until it succeeds or the
partition is taken away; until then nothing is acknowledged, the number of messages in hand is
bounded, and the consumer waits. This file refuses to interpret records.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

from redline.codec import encode_json
from redline.errors import RecordInvalid
from redline.log import get_logger
from redline.records import DeadLetter, EngineSample, Pane, Record, RequestRecord
from redline.topics import REQUESTS
from streams.batch import Refusal, RequestBatch
from streams.continuity import Continuity
from streams.metrics import Metrics
from streams.partition import Checkpoint, Partition
from streams.publisher import Publisher
from streams.warehouse import Warehouse

CHECKPOINT_S = 2.0
MESSAGES_MAX = 128
RECORDS_MAX = 10_000
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0

Acknowledge = Callable[[], Awaitable[Any]]


class Arrival(NamedTuple):
    """Where a message came from and when the broker took it."""

    topic: str
    partition: int
    offset: int
    received_us: int
    payload: bytes


class _Pending(NamedTuple):
    arrival: Arrival
    acknowledge: Acknowledge
    insert: asyncio.Task[None]


class Delivery:
    """One partition in this worker. ``run`` is its task; cancel it when the partition goes."""

    def __init__(
        self,
        state: Partition,
        table: MutableMapping[bytes, bytes],
        changelog: str,
        warehouse: Warehouse,
        publisher: Publisher,
        metrics: Metrics,
        flush_ms: int,
        caught_up: Callable[[int, int], bool],
        earliest: int,
    ) -> None:
        self.state = state
        self._table = table
        self._changelog = changelog
        self._warehouse = warehouse
        self._publisher = publisher
        self._metrics = metrics
        self._flush_s = flush_ms / 1_000
        self._caught_up = caught_up
        self._pending: list[_Pending] = []
        self._records = 0
        self.order = Continuity(max(state.delivered_offset + 1, earliest))
        self._busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def wait_for_room(self) -> None:
        """Wait while too much is in hand: this is the back-pressure on Kafka."""
        await self._room.wait()

    def take_requests(
        self,
        records: Sequence[RequestRecord],
        refused: Sequence[Refusal],
        arrival: Arrival,
        acknowledge: Acknowledge,
    ) -> None:
        """Fold the next message of requests. ``order`` must have judged it: TAKE."""
        self.state.apply_requests(RequestBatch(records), arrival.offset)
        self._keep(records, refused, arrival, acknowledge)

    def take_samples(
        self, samples: Sequence[EngineSample], arrival: Arrival, acknowledge: Acknowledge
    ) -> None:
        """Note one message of engine samples."""
        self.state.apply_samples(samples, arrival.received_us)
        self._keep(samples, (), arrival, acknowledge)

    def take_broken(self, arrival: Arrival, reason: str, acknowledge: Acknowledge) -> None:
        """Keep a message that cannot be read: it becomes a dead letter with the next delivery."""
        if arrival.topic == REQUESTS.name:
            self.state.apply_requests(RequestBatch(()), arrival.offset)
        get_logger().warning(
            "streams.dead_letter", topic=arrival.topic, offset=arrival.offset, reason=reason
        )
        bury = asyncio.create_task(self._bury([dead_letter(arrival, reason)], arrival.topic))
        self._pending.append(_Pending(arrival, acknowledge, bury))

    def _keep(
        self,
        records: Sequence[Record],
        refused: Sequence[Refusal],
        arrival: Arrival,
        acknowledge: Acknowledge,
    ) -> None:
        insert = asyncio.create_task(self._store(records, refused, arrival))
        self._pending.append(_Pending(arrival, acknowledge, insert))
        self._records += len(records)
        if len(self._pending) >= MESSAGES_MAX or self._records >= RECORDS_MAX:
            self._room.clear()
            self._wake.set()

    async def run(self) -> None:
        """Flush and deliver until cancelled.

        Kafka and ClickHouse being away is waited out inside. Any other error is a fault of ours
        and ends the worker: what was taken for delivery is not acknowledged, so it comes again.
        """
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._flush_loop())
            loops.create_task(self._delivery_loop())

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            if not self._busy.locked():
                async with self._busy:
                    panes = self.state.fresh_panes()
                    await self._send_panes(panes)
                    await self._warehouse.insert_absolute(panes)
            else:
                # alerts do not wait for a slow ClickHouse; the rows come with the next delivery,
                # for a row from here could overtake the delivery's own, which knows the cost
                await self._send_panes(self.state.fresh_panes())

    async def _delivery_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), CHECKPOINT_S)
            self._wake.clear()
            await self.deliver()

    async def deliver(self) -> None:
        """One checkpoint, delivered completely."""
        async with self._busy:
            started_s = asyncio.get_running_loop().time()
            caught_up = self._caught_up(self.state.partition, self.order.expected)
            checkpoint = self.state.checkpoint(caught_up=caught_up)
            pending, self._pending = self._pending, []
            self._records = 0
            if not pending and not checkpoint.puts:
                self._room.set()
                return
            await self._log_puts(checkpoint.puts)
            await self._send_panes(checkpoint.panes)
            await asyncio.gather(*(message.insert for message in pending))
            await self._send(checkpoint)
            await self._log_puts([checkpoint.commit])
            for message in pending:
                await message.acknowledge()
            if len(self._pending) < MESSAGES_MAX and self._records < RECORDS_MAX:
                self._room.set()
            await self._drop(self.state.finish(checkpoint))
            self._metrics.checkpoint_seconds.observe(asyncio.get_running_loop().time() - started_s)
            self._report()

    async def _send(self, checkpoint: Checkpoint) -> None:
        await self._warehouse.insert_absolute(checkpoint.panes)
        await self._warehouse.insert_absolute(checkpoint.ledger)
        await self._warehouse.insert_absolute(checkpoint.costs)
        await until_sent(lambda: self._publisher.send_ledger(checkpoint.ledger))
        await until_sent(lambda: self._publisher.send_costs(checkpoint.costs))

    async def _send_panes(self, panes: Sequence[Pane]) -> None:
        if panes:
            await until_sent(lambda: self._publisher.send_panes(panes))

    async def _log_puts(self, puts: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in puts:
            self._table[key] = value
        await until_sent(
            lambda: self._publisher.send_changelog(self._changelog, self.state.partition, puts)
        )

    async def _drop(self, keys: Sequence[bytes]) -> None:
        gone = [key for key in keys if self._table.pop(key, None) is not None]
        await until_sent(
            lambda: self._publisher.send_changelog(
                self._changelog, self.state.partition, [(key, None) for key in gone]
            )
        )

    async def _store(
        self, records: Sequence[Record], refused: Sequence[Refusal], arrival: Arrival
    ) -> None:
        letters = [
            _letter(arrival, refusal.reason, encode_json(refusal.record)) for refusal in refused
        ]
        try:
            await self._warehouse.insert_message(
                records, arrival.topic, (arrival.partition, arrival.offset)
            )
        except RecordInvalid as error:
            letters.append(_letter(arrival, str(error), arrival.payload))
        if letters:
            await self._bury(letters, arrival.topic)

    async def _bury(self, letters: Sequence[DeadLetter], topic: str) -> None:
        self._metrics.dead_letters.labels(topic).inc(len(letters))
        await until_sent(lambda: self._publisher.send_dead_letters(letters))

    def _report(self) -> None:
        state, label = self.state, str(self.state.partition)
        metrics = self._metrics
        metrics.holes.labels(label).set(self.order.holes)
        metrics.capped.labels(label).set(state.panes.capped_records)
        metrics.too_late.labels(label).set(state.panes.too_late_records)
        metrics.unpriced_windows.labels(label).set(state.ledger.unpriced_windows)
        metrics.unpriced_residences.labels(label).set(state.ledger.unpriced_residences)
        metrics.corrections.labels(label).set(state.ledger.corrected_requests)
        metrics.open_windows.labels(label).set(state.ledger.open_windows)
        metrics.panes.labels(label).set(len(state.panes))
        metrics.pending.labels(label).set(len(self._pending))
        metrics.watermark.labels(label).set(state.watermark_us / 1e6)


def dead_letter(arrival: Arrival, reason: str) -> DeadLetter:
    """The whole message, unreadable as it is."""
    return _letter(arrival, reason, arrival.payload)


def _letter(arrival: Arrival, reason: str, payload: bytes) -> DeadLetter:
    return DeadLetter(
        ts_us=arrival.received_us,
        source=f"{arrival.topic}/{arrival.partition}",
        offset=arrival.offset,
        reason=reason,
        payload=payload,
    )


async def until_sent(send: Callable[[], Awaitable[None]]) -> None:
    """Try until it is sent; the producer is idempotent and every receiver bears a repeat."""
    wait_s = _RETRY_FIRST_S
    while True:
        try:
            await send()
        except Exception as error:  # giving up would lose it
            get_logger().warning("streams.publish_failed", reason=str(error)[:500])
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_MAX_S)
            continue
        return
