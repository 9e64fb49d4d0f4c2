"""Writes a step to Kafka, and finishes after a crash what a step had begun.

Order of one step: all its snapshots and its journal as one batch, which the broker appends whole
or not at all; then its events to their topics. A process that dies in between leaves a journal
whose events are not all published; the next owner compares them with the tail of their topics and
publishes the rest. So each transition is published once, without transactions.

This file refuses to evaluate anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from alerting.state import State, Step
from redline.codec import encode_json
from redline.errors import ComponentFailed
from redline.records import ActionEvent, AlertEvent, AuditEntry, DeadLetter
from redline.topics import ACTIONS, ALERT_STATE_TOPIC, ALERTS, AUDIT, DEAD_LETTERS

BATCH_BYTES_MAX = 512 * 1024
RESTORE_S_MAX = 60.0
_TAIL_SLACK = 16

Row = tuple[str, bytes, bytes]  # topic, key, value


def _rows(
    alerts: Sequence[AlertEvent], actions: Sequence[ActionEvent], audit: Sequence[AuditEntry]
) -> list[Row]:
    return [
        *((ALERTS.name, alert.fingerprint.encode(), encode_json(alert)) for alert in alerts),
        *((ACTIONS.name, action.action_id.encode(), encode_json(action)) for action in actions),
        *((AUDIT.name, b"audit", encode_json(entry)) for entry in audit),
    ]


def dead_letter_row(letter: DeadLetter) -> Row:
    """A dead letter as it is published."""
    return DEAD_LETTERS.name, letter.source.encode(), encode_json(letter)


class Journal:
    """The one writer of the state topic and of what follows from it."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._turn = asyncio.Lock()  # first in, first out: steps are written in their order

    async def write(self, step: Step) -> None:
        """Return when everything of ``step`` is on Kafka.

        Raises:
            KafkaError: it may be there in part; restore before going on.
        """
        snapshots = step.snapshots()
        rows = _rows(step.alert_events, step.action_events, step.audit_entries)
        rows += [dead_letter_row(letter) for letter in step.dead_letters]
        async with self._turn:
            await self._write_state(snapshots)
            await self.publish(rows)

    async def publish(self, rows: Sequence[Row]) -> None:
        """Publish rows and wait for all of them."""
        sent = [
            await self._producer.send(topic, value, key=key, partition=0)
            for topic, key, value in rows
        ]
        if sent:
            await asyncio.gather(*sent)

    async def _write_state(self, snapshots: list[tuple[bytes, bytes | None]]) -> None:
        batch = self._producer.create_batch()
        for key, value in snapshots:
            if batch.append(key=key, value=value, timestamp=None) is None:
                # More than a batch holds: two appends, of which the second has the journal.
                await self._send(batch)
                batch = self._producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None) is None:
                    raise KafkaError(f"snapshot {key!r} is over {BATCH_BYTES_MAX} bytes")
        await self._send(batch)

    async def _send(self, batch: Any) -> None:
        batch.close()
        await (await self._producer.send_batch(batch, ALERT_STATE_TOPIC, partition=0))


async def restore(options: dict[str, Any], journal: Journal) -> State:
    """Read the state topic whole, and publish what the last step had left unpublished.

    Raises:
        RecordInvalid: a snapshot cannot be read.
        ComponentFailed: the topic cannot be read to its end.
        KafkaError: the broker is away.
    """
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", **options)
    await consumer.start()
    try:
        state = State.restore(
            [(key, value) for key, value in await _read(consumer, ALERT_STATE_TOPIC, None) if key]
        )
        last = state.journal
        wanted = _rows(last.alerts, last.actions, last.audit)
        missing: list[Row] = []
        for topic in (ALERTS.name, ACTIONS.name, AUDIT.name):
            rows = [row for row in wanted if row[0] == topic]
            if rows:
                tail = {value for _, value in await _read(consumer, topic, len(rows) + _TAIL_SLACK)}
                missing += [row for row in rows if row[2] not in tail]
    finally:
        await consumer.stop()
    await journal.publish(missing)
    return state


async def _read(
    consumer: AIOKafkaConsumer, topic: str, last: int | None
) -> list[tuple[bytes | None, bytes | None]]:
    """All of a one-partition topic, or its ``last`` records."""
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    begin = (await consumer.beginning_offsets([partition]))[partition]
    end = (await consumer.end_offsets([partition]))[partition]
    consumer.seek(partition, begin if last is None else max(begin, end - last))
    found: list[tuple[bytes | None, bytes | None]] = []
    deadline_s = time.monotonic() + RESTORE_S_MAX
    while await consumer.position(partition) < end:
        for record in (await consumer.getmany(partition, timeout_ms=500)).get(partition, ()):
            if record.offset < end:
                found.append((record.key, record.value))
        if time.monotonic() > deadline_s:
            raise ComponentFailed(f"alerting: {topic} cannot be read to its end, offset {end}")
    return found
