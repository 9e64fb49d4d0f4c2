"""One session with Kafka: join the group, restore, evaluate, commit; until it ends or fails.

The signals' topic has one partition, so the group gives it to one process: the single writer.
The others stand by and take over where it stopped. Any Kafka error that leaves memory and Kafka
apart ends the session; the next one begins from what Kafka has.

This file refuses to evaluate rules and to send notifications.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)

from alerting.dispatcher import Dispatcher, wall_us
from alerting.engine import Engine
from alerting.journal import BATCH_BYTES_MAX, Journal, restore
from alerting.metrics import Metrics
from alerting.rules import SECOND_US
from alerting.state import Step
from alerting.writer import Writer
from redline.codec import decode_batch
from redline.errors import ComponentFailed, RecordInvalid
from redline.log import get_logger
from redline.records import DeadLetter, Signal
from redline.topics import SIGNALS

GROUP = "redline-alerting"
SESSION_TIMEOUT_MS = 6_000  # a killed owner is replaced after so long
HEARTBEAT_MS = 1_500
POLL_MS = 500
POLL_RECORDS_MAX = 200
RESTORE_WAIT_S = 0.02
SWEEP_EVERY_US = SECOND_US
STEP_ALERTS_MAX = 50  # so that a step with all that follows from it fits one batch


class Session(ConsumerRebalanceListener):  # type: ignore[misc]
    """From joining to leaving the group. ``writer`` is there while this process owns the alerts."""

    def __init__(
        self,
        options: dict[str, Any],
        engine: Engine,
        dispatch: Callable[[Writer], Dispatcher],
        metrics: Metrics,
        joined: asyncio.Event,
    ) -> None:
        self.writer: Writer | None = None
        self._joined = joined
        self._options = options
        self._engine = engine
        self._dispatch = dispatch
        self._metrics = metrics
        self._dispatcher: Dispatcher | None = None
        self._journal: Journal | None = None
        self._turn = asyncio.Lock()  # a message is finished before the partition is given away
        self._failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``.

        Raises:
            KafkaError: the session is over, begin another.
            ComponentFailed: state cannot be restored.
        """
        self._metrics.sessions.inc()
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES_MAX,
            linger_ms=0,
            **self._options,
        )
        consumer = AIOKafkaConsumer(
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a new group takes the day that the topic keeps
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            **self._options,
        )
        await producer.start()
        try:
            self._journal = Journal(producer)
            await consumer.start()
            try:
                consumer.subscribe([SIGNALS.name], listener=self)
                await self._consume(consumer, stop)
            finally:
                await self._hand_over()
                await _close(consumer)
        finally:
            await _close(producer)

    async def _consume(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        stopped = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                polled = asyncio.create_task(
                    consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS_MAX)
                )
                await asyncio.wait((polled, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not polled.done():
                    polled.cancel()
                    break
                if self._failure is not None:
                    raise self._failure
                for partition, messages in polled.result().items():
                    await self._take(consumer, partition, messages)
        finally:
            stopped.cancel()

    async def _take(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, messages: list[ConsumerRecord]
    ) -> None:
        async with self._turn:
            if self.writer is not None:
                for message in messages:
                    await self._evaluate(self.writer, message)
                await consumer.commit({partition: messages[-1].offset + 1})
                return
        # aiokafka fetches as soon as a partition is assigned, before its state is restored here;
        # or the partition was given away since. Either way these were not evaluated.
        if partition in consumer.assignment():
            consumer.seek(partition, messages[0].offset)
        await asyncio.sleep(RESTORE_WAIT_S)

    async def _evaluate(self, writer: Writer, message: ConsumerRecord) -> None:
        """One message of signals: evaluated one by one, written as they change something."""
        state = writer.state
        try:
            signals = decode_batch(message.value or b"", Signal)
        except RecordInvalid as invalid:
            refused = Step()
            refused.dead_letters.append(self._refuse(message, str(invalid)))
            await writer.commit(refused)
            return
        whole = Step()
        for signal in signals:
            try:
                step = self._engine.evaluate(state, signal, wall_us())
            except RecordInvalid as invalid:
                whole.dead_letters.append(self._refuse(message, str(invalid)))
                continue
            state.apply(step)
            whole.absorb(step)
            state.watermark_us = max(state.watermark_us, signal.ts_us)
            if len(whole.alert_events) >= STEP_ALERTS_MAX:
                await writer.commit(whole)
                whole = Step()
        await writer.commit(whole)
        self._metrics.signals.inc(len(signals))
        self._metrics.watermark_s.set(state.watermark_us / 1e6)
        if state.watermark_us - state.swept_at_us >= SWEEP_EVERY_US:
            state.swept_at_us = state.watermark_us
            await writer.commit(self._engine.sweep(state, state.watermark_us, wall_us()))

    def _refuse(self, message: ConsumerRecord, reason: str) -> DeadLetter:
        self._metrics.invalid.inc()
        get_logger().warning("signal.invalid", offset=message.offset, reason=reason)
        return DeadLetter(
            ts_us=wall_us(),
            source=f"{SIGNALS.name}/{message.partition}",
            offset=message.offset,
            reason=reason,
            payload=message.value or b"",
        )

    # -- ownership -------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Take over: restore before the first message is read."""
        partitions = list(assigned)
        get_logger().info("session.assigned", partitions=len(partitions))
        if partitions:
            try:
                await self._take_over()
            except Exception as error:
                self._failure = error
        self._joined.set()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Give away: what is being written is finished first."""
        await self._hand_over()

    async def _take_over(self) -> None:
        if self._journal is None:
            raise ComponentFailed("alerting: assigned before it was started")
        state = await restore(self._options, self._journal)
        writer = Writer(state, self._engine, self._journal, self._metrics)
        self._dispatcher = self._dispatch(writer)
        self._dispatcher.start(self._fail)
        self.writer = writer
        self._metrics.active.set(1)
        get_logger().info(
            "session.restored", alerts=len(state.alerts), incidents=len(state.incidents)
        )

    async def _hand_over(self) -> None:
        async with self._turn:
            writer, self.writer = self.writer, None
            dispatcher, self._dispatcher = self._dispatcher, None
        self._metrics.active.set(0)
        if dispatcher is not None:
            await dispatcher.stop()
        if writer is not None:
            get_logger().info("session.handed_over")

    def _fail(self, error: BaseException) -> None:
        self._failure = error


async def _close(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop a client. With its broker away, aiokafka lets out the cancellation of its own tasks."""
    try:
        await client.stop()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
