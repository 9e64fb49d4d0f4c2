"""The Faust application: which topic goes to which core, and who owns which partition.

Faust does what it is good at: membership, assignment, recovery of the table from its changelog,
offsets. Everything in between is ours: no Faust windows (they leak and lose), no exactly-once (it
breaks on rebalance), no work inside its timers (an exception there ends the worker). Every agent
catches what a message can do and sends it to the dead letters; nothing is acknowledged before it
is delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from faust.types import TP

from redline.codec import decode_batch, decode_json
from redline.errors import RecordInvalid
from redline.log import get_logger
from redline.records import EngineSample, Pane, Record, RequestRecord
from redline.settings import Secrets, Settings
from redline.topics import (
    ACTIONS,
    ALERTS,
    AUDIT,
    COLLECTOR_COUNTS,
    DEAD_LETTERS,
    DEPLOYS,
    ENGINES,
    GPUS,
    PANES,
    PROBES,
    REQUESTS,
    SIGNALS,
    Topic,
)
from streams.batch import Refusal, admit
from streams.continuity import Verdict
from streams.delivery import Acknowledge, Arrival, Delivery, dead_letter, until_sent
from streams.emitter import Emitter
from streams.membership import CHANGELOG_CONFIG, faust_app
from streams.metrics import Metrics
from streams.partition import Partition
from streams.pricing import Pricer
from streams.publisher import Publisher
from streams.signals import EngineBook, SignalBook
from streams.spend import SpendWatch
from streams.warehouse import Warehouse

TABLE = "state"
SINKS = (
    GPUS,
    PROBES,
    DEPLOYS,
    DEAD_LETTERS,
    ALERTS,
    ACTIONS,
    AUDIT,
    SIGNALS,
    COLLECTOR_COUNTS,
)
SINK_MESSAGES_MAX = 8
_LAST_DELIVERY_S = 1.5


def now_us() -> int:
    """The wall clock; cores get it as an argument."""
    return time.time_ns() // 1_000


class Streams:
    """One worker: the Faust app, the partitions it owns, and the loops beside it."""

    def __init__(self, settings: Settings, secrets: Secrets, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.app = faust_app(settings, secrets)
        self.warehouse = Warehouse(settings.clickhouse, secrets, metrics)
        self.publisher = Publisher(settings.kafka, secrets)
        self.stopped = asyncio.Event()  # set when a loop failed beyond repair
        self._pricer = Pricer(settings.gpu_groups, settings.prices)
        self._table = self.app.Table(
            TABLE,
            partitions=settings.kafka.partitions,
            key_type=bytes,
            value_type=bytes,
            extra_topic_configs=CHANGELOG_CONFIG,
        )
        self._owned: dict[int, int] = {}  # partitions of requests, and where their log begins
        self._deliveries: dict[int, Delivery] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._books: dict[int, SignalBook] = {}
        self._held: dict[int, list[tuple[int, Callable[[], Awaitable[Any]]]]] = {}
        self._engines: dict[int, EngineBook] = {}
        self._emitter = Emitter(
            self._books,
            self._engines,
            self._deliveries,
            SpendWatch(self.warehouse, settings.streams),
            self.publisher,
            metrics,
            now_us,
        )
        self._wire()

    def _wire(self) -> None:
        app = self.app
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_rebalanced)
        app.agent(app.topic(REQUESTS.name), name="requests")(self._requests)
        app.agent(app.topic(ENGINES.name), name="engines")(self._engine_samples)
        app.agent(app.topic(PANES.name), name="panes")(self._panes)
        for topic in SINKS:
            app.agent(app.topic(topic.name), name=f"sink-{topic.name}")(self._sink(topic))

    async def start(self) -> None:
        """Connect and join the group; returns before partitions are assigned."""
        Path(self.app.conf.datadir).parent.mkdir(parents=True, exist_ok=True)
        await self.publisher.start()
        await self.app.start()
        for work in (self._emitter.emit, self._emitter.watch_spend):
            self._loops.append(asyncio.create_task(work()))

    @property
    def is_ready(self) -> bool:
        """Whether partitions are assigned and the state is restored."""
        app = self.app
        return bool(
            app.rebalancing_count
            and not app.rebalancing
            and not app.in_recovery
            and app.tables.recovery.completed.is_set()
        )

    @property
    def has_crashed(self) -> bool:
        """Whether Faust or one of our loops gave up."""
        return self.stopped.is_set() or bool(self.app.crashed)

    async def stop(self) -> None:
        """Deliver what is in hand if that is quick, then leave the group."""
        for task in self._loops:
            task.cancel()
        self._owned.clear()
        await self._release(list(self._deliveries))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.app.stop(), 2.0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.publisher.close(), 0.5)
        self.warehouse.close()

    # --- partitions ----------------------------------------------------------------------------

    def _delivery(self, partition: int) -> Delivery:
        delivery = self._deliveries.get(partition)
        if delivery is None:
            streams = self.settings.streams
            state = Partition(
                partition,
                price_of=self._pricer.bill,
                lateness_us=streams.lateness_s * 1_000_000,
                series_max=streams.series_max,
                stored=self._table.data,
            )
            delivery = self._deliveries[partition] = Delivery(
                state,
                self._table.data,
                self._table.changelog_topic_name,
                self.warehouse,
                self.publisher,
                self.metrics,
                streams.flush_ms,
                self._caught_up,
                self._owned[partition],
            )
            task = asyncio.create_task(delivery.run())
            task.add_done_callback(self._on_loop_end)
            self._tasks[partition] = task
        return delivery

    def _caught_up(self, partition: int, expected: int) -> bool:
        try:
            highwater = self.app.consumer.highwater(TP(REQUESTS.name, partition))
        except Exception:  # not assigned at this moment: the requests' own time decides
            return False
        return highwater is not None and expected >= highwater

    async def _on_rebalanced(self, app: Any, **_: Any) -> None:
        """State is restored, nothing is read yet: every source starts from the beginning of its
        log unless Kafka has a committed offset, which Faust seeks to next. Without this, what
        was fetched during the rebalance would be dropped for partitions without one."""
        sources = {tp for tp in app.consumer.assignment() if not tp.topic.endswith("-changelog")}
        earliest = await app.consumer.earliest_offsets(*sources) if sources else {}
        for tp in sources:
            await app.consumer.seek(tp, earliest.get(tp) or 0)
        self._owned = {
            tp.partition: earliest.get(tp) or 0 for tp in sources if tp.topic == REQUESTS.name
        }

    async def _on_revoked(self, app: Any, revoked: set[TP], **_: Any) -> None:
        lost = sorted({tp.partition for tp in revoked if tp.topic == REQUESTS.name})
        for partition in lost:
            self._owned.pop(partition, None)
        await self._release(lost)
        for tp in revoked:
            if tp.topic == PANES.name:
                self._books.pop(tp.partition, None)
                self._held.pop(tp.partition, None)
            elif tp.topic == ENGINES.name:
                self._engines.pop(tp.partition, None)

    async def _release(self, partitions: list[int]) -> None:
        """Deliver once more if it is quick, and forget the state; the table has it."""
        deliveries = [self._deliveries.pop(p) for p in partitions if p in self._deliveries]
        tasks = [self._tasks.pop(p) for p in partitions if p in self._tasks]
        with contextlib.suppress(TimeoutError, Exception):
            await asyncio.wait_for(
                asyncio.gather(*(delivery.deliver() for delivery in deliveries)), _LAST_DELIVERY_S
            )
        for task in tasks:
            task.remove_done_callback(self._on_loop_end)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            get_logger().error("streams.delivery_failed", exc_info=task.exception())
            self.stopped.set()

    # --- agents --------------------------------------------------------------------------------

    async def _requests(self, stream: Any) -> None:
        stream = stream.noack()
        async for event in stream.events():
            arrival, acknowledge = _arrival(event), _acknowledge(stream, event)
            delivery = await self._ready_delivery(arrival.partition)
            if delivery is None:
                continue
            verdict = delivery.order.judge(arrival.offset, now_us())
            if verdict is not Verdict.TAKE:
                await self._set_aside(verdict, delivery, arrival, acknowledge)
                continue
            records: list[RequestRecord] = []
            refused: list[Refusal] = []
            try:
                found = decode_batch(arrival.payload, RequestRecord)
                records, refused = admit(found, arrival.received_us)
                self._count(REQUESTS, len(found))
            except RecordInvalid as error:
                delivery.take_broken(arrival, str(error), acknowledge)
                continue
            delivery.take_requests(records, refused, arrival, acknowledge)

    async def _set_aside(
        self, verdict: Verdict, delivery: Delivery, arrival: Arrival, acknowledge: Acknowledge
    ) -> None:
        if verdict is Verdict.SEEN:
            self.metrics.replayed.labels(REQUESTS.name).inc()
            await acknowledge()
        elif verdict is Verdict.SEEK:
            self.metrics.seeks.labels(REQUESTS.name).inc()
            get_logger().warning(
                "streams.offset_gap",
                partition=arrival.partition,
                expected=delivery.order.expected,
                offset=arrival.offset,
            )
            with contextlib.suppress(Exception):  # lost meanwhile: its new owner reads it
                await self.app.consumer.seek(
                    TP(arrival.topic, arrival.partition), delivery.order.expected
                )

    async def _engine_samples(self, stream: Any) -> None:
        stream = stream.noack()
        async for event in stream.events():
            arrival, acknowledge = _arrival(event), _acknowledge(stream, event)
            delivery = await self._ready_delivery(arrival.partition)
            if delivery is None:
                continue
            try:
                samples = decode_batch(arrival.payload, EngineSample)
            except RecordInvalid as error:
                delivery.take_broken(arrival, str(error), acknowledge)
                continue
            self._count(ENGINES, len(samples))
            self._engines.setdefault(arrival.partition, EngineBook()).add(samples)
            delivery.take_samples(samples, arrival, acknowledge)

    async def _ready_delivery(self, partition: int) -> Delivery | None:
        """The partition's delivery when it has room; None for one that is not ours any more,
        whose events outlived the assignment: whoever owns it reads them again."""
        while partition in self._owned:
            delivery = self._delivery(partition)
            await delivery.wait_for_room()
            if self._deliveries.get(partition) is delivery:
                return delivery
        return None

    async def _panes(self, stream: Any) -> None:
        """Acknowledged only when its panes have left the window, so that a restart reads it again
        and starts with a full window."""
        stream = stream.noack()
        async for event in stream.events():
            arrival, acknowledge = _arrival(event), _acknowledge(stream, event)
            try:
                panes = decode_batch(arrival.payload, Pane)
                book = self._books.setdefault(
                    arrival.partition, SignalBook(self.settings.streams.signal_window_s)
                )
                book.add(panes, now_us())
            except RecordInvalid as error:
                await self._bury(arrival, str(error), "panes")
                await acknowledge()
                continue
            self._count(PANES, len(panes))
            held = self._held.setdefault(arrival.partition, [])
            held.append((max(pane.start_us for pane in panes), acknowledge))
            passed = [done for latest, done in held if latest < book.horizon_us]
            self._held[arrival.partition] = [h for h in held if h[0] >= book.horizon_us]
            for done in passed:
                await done()

    def _sink(self, topic: Topic) -> Callable[[Any], Awaitable[None]]:
        async def sink(stream: Any) -> None:
            stream = stream.noack()
            room = asyncio.Semaphore(SINK_MESSAGES_MAX)
            running: set[asyncio.Task[None]] = set()
            async for event in stream.events():
                await room.acquire()
                task = asyncio.create_task(self._sink_one(topic, stream, event))
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _: room.release())

        return sink

    async def _sink_one(self, topic: Topic, stream: Any, event: Any) -> None:
        arrival = _arrival(event)
        try:
            records: list[Record] = (
                decode_batch(arrival.payload, topic.record)
                if topic.encoding == "batch"
                else [decode_json(arrival.payload, topic.record)]
            )
            await self.warehouse.insert_message(
                records, topic.name, (arrival.partition, arrival.offset)
            )
            self._count(topic, len(records))
        except RecordInvalid as error:
            await self._bury(arrival, str(error), topic.name)
        await stream.ack(event)

    async def _bury(self, arrival: Arrival, reason: str, topic: str) -> None:
        get_logger().warning(
            "streams.dead_letter", topic=arrival.topic, offset=arrival.offset, reason=reason
        )
        self.metrics.dead_letters.labels(topic).inc()
        await until_sent(lambda: self.publisher.send_dead_letters([dead_letter(arrival, reason)]))

    def _count(self, topic: Topic, records: int) -> None:
        self.metrics.messages.labels(topic.name).inc()
        self.metrics.records.labels(topic.name).inc(records)


def _arrival(event: Any) -> Arrival:
    message = event.message
    return Arrival(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1e6) if message.timestamp else now_us(),
        event.value or b"",
    )


def _acknowledge(stream: Any, event: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: stream.ack(event)
