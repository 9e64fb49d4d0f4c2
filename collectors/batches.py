"""Core: gathers entries into runs, and runs into Kafka messages.

A run is what one message (batch topics) or one row of messages (JSON topics) is made of: entries of
one topic and key, in order. It closes when the next entry is of another topic or key, when it is
full, or when it is old. This file refuses to know the clock and Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from collectors.lines import Position
from redline.codec import BATCH_BYTES_MAX, encode_batch, encode_json
from redline.records import Record
from redline.topics import Topic


class Limits(NamedTuple):
    """When a run closes."""

    records_max: int
    age_us: int
    size_bytes_max: int = BATCH_BYTES_MAX


class Span(NamedTuple):
    """The bytes of a log file that something was read from, and the writer's count after them.

    ``seq`` is the writer's last number, ``dead`` how many dead lines came since.
    """

    start: int
    after: Position
    seq: int | None
    dead: int


class Entry(NamedTuple):
    """One record on its way. ``size_bytes`` is an upper estimate of it inside a message.

    ``span`` is None for what was not read from a file.
    """

    topic: Topic
    key: bytes
    record: Record
    size_bytes: int
    span: Span | None = None


class Run(NamedTuple):
    """Entries of one topic and key, in order, and when the first of them came."""

    entries: tuple[Entry, ...]
    size_bytes: int
    opened_us: int

    @property
    def topic(self) -> Topic:
        """The topic of all entries."""
        return self.entries[0].topic

    @property
    def key(self) -> bytes:
        """The key of all entries."""
        return self.entries[0].key


def gather(
    run: Run | None, entries: Iterable[Entry], limits: Limits, now_us: int
) -> tuple[Run | None, list[Run]]:
    """Add ``entries`` to ``run``. Returns the run that is still open, and those that closed."""
    closed: list[Run] = []
    held = list(run.entries) if run else []
    size = run.size_bytes if run else 0
    opened_us = run.opened_us if run else now_us
    for entry in entries:
        if held and (
            len(held) >= limits.records_max
            or size + entry.size_bytes > limits.size_bytes_max
            or entry.key != held[0].key
            or entry.topic is not held[0].topic
        ):
            closed.append(Run(tuple(held), size, opened_us))
            held, size, opened_us = [], 0, now_us
        held.append(entry)
        size += entry.size_bytes
    if not held:
        return None, closed
    last = Run(tuple(held), size, opened_us)
    if len(held) >= limits.records_max or size >= limits.size_bytes_max:
        return None, [*closed, last]
    if is_due(last, limits, now_us):
        return None, [*closed, last]
    return last, closed


def is_due(run: Run, limits: Limits, now_us: int) -> bool:
    """Whether the run is old enough to be published as it is."""
    return now_us - run.opened_us >= limits.age_us


class Payload(NamedTuple):
    """The value of one Kafka message and the bytes of the file that it stands for."""

    value: bytes
    records: int
    span: Span | None


def encode(run: Run) -> list[Payload]:
    """The messages of a run: one on batch topics, one a record on JSON topics."""
    if run.topic.encoding == "json":
        return [Payload(encode_json(entry.record), 1, entry.span) for entry in run.entries]
    first, last = run.entries[0].span, run.entries[-1].span
    span = first and last and Span(first.start, last.after, last.seq, last.dead)
    value = encode_batch([entry.record for entry in run.entries])
    return [Payload(value, len(run.entries), span)]
