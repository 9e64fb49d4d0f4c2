"""Core: gathers entries into runs, and runs into Kafka messages.

A run is what one message (batch topics) or one row of messages (JSON topics) is made of: entries of
one topic and key, in order. It closes when the next entry is of another topic or key, when it is
full, or when it is old. Log lines come as blocks: many entries without an object for each, cut
where a run is full. This file refuses to know the clock and Kafka.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from collectors.lines import Position
from redline.codec import BATCH_BYTES_MAX, encode_batch, encode_json
from redline.records import Record, RequestRecord
from redline.topics import REQUESTS, Topic

# A columnar row holds every field, a line may leave defaults out: this is what they add.
DEFAULTS_BYTES = 96


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

    @property
    def records(self) -> Sequence[Record]:
        """The one record."""
        return (self.record,)


class Block(NamedTuple):
    """Requests of one instance from neighbouring lines of a file: as many entries, in order.

    ``start`` is where the first line begins, ``ends`` where each line ends, newline included.
    """

    key: bytes
    records: Sequence[RequestRecord]
    start: int
    ends: Sequence[int]

    @property
    def topic(self) -> Topic:
        """Always requests."""
        return REQUESTS

    @property
    def size_bytes(self) -> int:
        """An upper estimate of all records inside a message."""
        return self._size_bytes(len(self.ends) - 1)

    @property
    def span(self) -> Span:
        """The bytes of all lines."""
        return Span(self.start, Position(self.ends[-1]), self.records[-1].seq, 0)

    def fitting(self, size_bytes: int) -> int:
        """How many of the first records take at most ``size_bytes``."""
        return bisect_right(range(len(self.ends)), size_bytes, key=self._size_bytes)

    def cut(self, count: int) -> tuple[Block, Block | None]:
        """The first ``count`` records, at least one, and the rest if there is any."""
        if count >= len(self.ends):
            return self, None
        first = Block(self.key, self.records[:count], self.start, self.ends[:count])
        rest = Block(self.key, self.records[count:], self.ends[count - 1], self.ends[count:])
        return first, rest

    def _size_bytes(self, last: int) -> int:
        return self.ends[last] - self.start + (DEFAULTS_BYTES - 1) * (last + 1)


class Run(NamedTuple):
    """Entries of one topic and key, in order, and when the first of them came."""

    entries: tuple[Entry | Block, ...]
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

    @property
    def record_count(self) -> int:
        """How many records are in it."""
        return sum(len(entry.records) for entry in self.entries)


def gather(
    run: Run | None, entries: Iterable[Entry | Block], limits: Limits, now_us: int
) -> tuple[Run | None, list[Run]]:
    """Add ``entries`` to ``run``. Returns the run that is still open, and those that closed."""
    closed: list[Run] = []
    held = list(run.entries) if run else []
    count, size = (run.record_count, run.size_bytes) if run else (0, 0)
    opened_us = run.opened_us if run else now_us
    for entry in entries:
        rest: Entry | Block | None = entry
        while rest is not None:
            same = not held or (rest.key == held[0].key and rest.topic is held[0].topic)
            fitting = _fitting(rest, limits.records_max - count, limits.size_bytes_max - size)
            if held and not (same and fitting):
                closed.append(Run(tuple(held), size, opened_us))
                held, count, size, opened_us = [], 0, 0, now_us
                continue
            # what is over the limits by itself goes alone
            piece, rest = _cut(rest, max(1, fitting))
            held.append(piece)
            count += len(piece.records)
            size += piece.size_bytes
    if not held:
        return None, closed
    last = Run(tuple(held), size, opened_us)
    if count >= limits.records_max or size >= limits.size_bytes_max or is_due(last, limits, now_us):
        return None, [*closed, last]
    return last, closed


def _fitting(entry: Entry | Block, records: int, size_bytes: int) -> int:
    if isinstance(entry, Block):
        return min(records, entry.fitting(size_bytes))
    return int(records > 0 and entry.size_bytes <= size_bytes)


def _cut(entry: Entry | Block, count: int) -> tuple[Entry | Block, Entry | Block | None]:
    return entry.cut(count) if isinstance(entry, Block) else (entry, None)


def is_due(run: Run, limits: Limits, now_us: int) -> bool:
    """Whether the run is old enough to be published. After a clock's step back it is, at once."""
    return not 0 <= now_us - run.opened_us < limits.age_us


class Payload(NamedTuple):
    """The value of one Kafka message and the bytes of the file that it stands for."""

    value: bytes
    records: int
    span: Span | None


def encode(run: Run) -> list[Payload]:
    """The messages of a run: one on batch topics, one a record on JSON topics."""
    records = list(chain.from_iterable(entry.records for entry in run.entries))
    if run.topic.encoding == "json":
        spans = (entry.span for entry in run.entries)
        return [
            Payload(encode_json(one), 1, span) for one, span in zip(records, spans, strict=True)
        ]
    first, last = run.entries[0].span, run.entries[-1].span
    span = first and last and Span(first.start, last.after, last.seq, last.dead)
    return [Payload(encode_batch(records), len(records), span)]
