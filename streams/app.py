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

import faust
from faust.types import TP

from redline.codec import decode_batch, decode_json
from redline.errors import RecordInvalid
from redline.kafka import client_options
from redline.log import get_logger
from redline.records import EngineSample, Pane, Record, RequestRecord, Signal
from redline.settings import Secrets, Settings
from redline.topics import (
    ACTIONS,
    ALERTS,
    AUDIT,
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
from streams.batch import admit
from streams.delivery import Arrival, Delivery, dead_letter
from streams.metrics import Metrics
from streams.partition import Partition
from streams.pricing import Pricer
from streams.publisher import Publisher
from streams.signals import EngineBook, SignalBook
from streams.spend import SpendWatch
from streams.warehouse import Warehouse

APP_ID = "redline-streams"
TABLE = "state"
SINKS = (GPUS, PROBES, DEPLOYS, DEAD_LETTERS, ALERTS, ACTIONS, AUDIT, SIGNALS)
SINK_MESSAGES_MAX = 8
SIGNAL_S = 1.0
SPEND_S = 2.0
_LAST_DELIVERY_S = 1.5


def now_us() -> int:
    """The wall clock; cores get it as an argument."""
    return time.time_ns() // 1_000


def faust_app(settings: Settings, secrets: Secrets) -> Any:
    """A configured, empty Faust application. Its data directory holds nothing of value."""
    options = client_options(settings.kafka, secrets)
    credentials: Any = None
    if settings.kafka.security_protocol.startswith("SASL"):
        credentials = faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    elif "ssl_context" in options:
        credentials = faust.SSLCredentials(options["ssl_context"])
    return faust.App(
        APP_ID,
        broker=[f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=credentials,
        datadir=str(Path(settings.data_dir) / "streams"),
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=settings.kafka.partitions,
        topic_replication_factor=settings.kafka.replication_factor,
        topic_disable_leader=True,
        table_standby_replicas=0,
        table_cleanup_interval=3600.0,
        broker_commit_interval=1.0,
        broker_session_timeout=settings.streams.session_timeout_s,
        broker_heartbeat_interval=max(0.5, settings.streams.session_timeout_s / 10),
        broker_max_poll_interval=600.0,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        producer_linger=0.02,
        web_enabled=False,
    )


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
        )
        self._deliveries: dict[int, Delivery] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._books: dict[int, SignalBook] = {}
        self._held: dict[int, list[tuple[int, Callable[[], Awaitable[Any]]]]] = {}
        self._engines: dict[int, EngineBook] = {}
        self._spend = SpendWatch(self.warehouse, settings.streams)
        self._spend_signals: list[Signal] = []
        self._wire()

    def _wire(self) -> None:
        app = self.app
        app.on_partitions_revoked.connect(self._on_revoked)
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
        for work in (self._signal_loop, self._spend_loop):
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
            )
            task = asyncio.create_task(delivery.run())
            task.add_done_callback(self._on_loop_end)
            self._tasks[partition] = task
        return delivery

    def _caught_up(self, partition: int, last_offset: int) -> bool:
        try:
            highwater = self.app.consumer.highwater(TP(REQUESTS.name, partition))
        except Exception:  # not assigned at this moment: the requests' own time decides
            return False
        return highwater is not None and last_offset + 1 >= highwater

    async def _on_revoked(self, app: Any, revoked: set[TP], **_: Any) -> None:
        await self._release(sorted({tp.partition for tp in revoked if tp.topic == REQUESTS.name}))
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
            delivery = self._delivery(arrival.partition)
            try:
                records = decode_batch(arrival.payload, RequestRecord)
            except RecordInvalid as error:
                await self._bury(arrival, str(error), "requests")
                await delivery.take_requests((), (), arrival, acknowledge)
                continue
            good, refused = admit(records, arrival.received_us)
            self._count(REQUESTS, len(records))
            await delivery.take_requests(good, refused, arrival, acknowledge)

    async def _engine_samples(self, stream: Any) -> None:
        stream = stream.noack()
        async for event in stream.events():
            arrival, acknowledge = _arrival(event), _acknowledge(stream, event)
            try:
                samples = decode_batch(arrival.payload, EngineSample)
            except RecordInvalid as error:
                await self._bury(arrival, str(error), "engines")
                await acknowledge()
                continue
            self._count(ENGINES, len(samples))
            self._engines.setdefault(arrival.partition, EngineBook()).add(samples)
            await self._delivery(arrival.partition).take_samples(samples, arrival, acknowledge)

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
        await self._any_publish([dead_letter(arrival, reason)], topic)

    async def _any_publish(self, letters: list[Any], topic: str) -> None:
        self.metrics.dead_letters.labels(topic).inc(len(letters))
        while True:
            try:
                await self.publisher.send_dead_letters(letters)
            except Exception as error:  # giving up would lose it
                get_logger().warning("streams.publish_failed", reason=str(error)[:500])
                await asyncio.sleep(1.0)
                continue
            return

    def _count(self, topic: Topic, records: int) -> None:
        self.metrics.messages.labels(topic.name).inc()
        self.metrics.records.labels(topic.name).inc(records)

    # --- loops beside the agents ----------------------------------------------------------------

    async def _signal_loop(self) -> None:
        while True:
            await asyncio.sleep(SIGNAL_S)
            try:
                signals = self._signals(now_us())
                if signals:
                    await self.publisher.send_signals(signals)
            except Exception:
                self.metrics.loop_failures.labels("signals").inc()
                get_logger().exception("streams.signals_failed")

    def _signals(self, at_us: int) -> list[Signal]:
        signals = [s for book in self._books.values() for s in book.evaluate(at_us)]
        signals += [s for book in self._engines.values() for s in book.evaluate(at_us)]
        signals += self._spend_signals
        self._spend_signals = []
        for delivery in self._deliveries.values():
            for instance, unpriced in delivery.state.ledger.unpriced.items():
                signals.append(
                    Signal(
                        ts_us=at_us,
                        name="price_missing",
                        value=1.0,
                        window_s=10,
                        labels={"instance": instance, "gpu_group": unpriced.gpu_group},
                        samples=1,
                    )
                )
        return signals

    async def _spend_loop(self) -> None:
        while True:
            await asyncio.sleep(SPEND_S)
            if 0 not in self._deliveries:  # one worker speaks for all: whoever owns partition 0
                continue
            try:
                self._spend_signals = await self._spend.evaluate(now_us())
            except Exception as error:
                self.metrics.loop_failures.labels("spend").inc()
                get_logger().warning("streams.spend_failed", reason=str(error)[:300])


def _arrival(event: Any) -> Arrival:
    message = event.message
    return Arrival(
        message.topic,
        message.partition,
        message.offset,
        int((message.timestamp or 0) * 1e6),
        event.value or b"",
    )


def _acknowledge(stream: Any, event: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: stream.ack(event)
