"""Core: turns lines of a request log into entries, and counts what the writer lost.

A line that is not a RequestRecord becomes a dead letter that holds it whole, never an error. This
file refuses to read files and to publish.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from collectors.batches import Entry, Span
from collectors.lines import Line
from redline.codec import decode_json
from redline.errors import RecordInvalid
from redline.records import DeadLetter, RequestRecord
from redline.topics import DEAD_LETTERS, REQUESTS

# A columnar row holds every field, a line may leave defaults out: this is what they add.
_DEFAULTS_BYTES = 96


class WriterSequence(NamedTuple):
    """The last ``seq`` of one log's writer, and how many dead lines came after it."""

    last: int | None = None
    dead: int = 0


class Reading(NamedTuple):
    """What some lines held. ``lost_lines`` is the sum of the gaps in ``seq``."""

    entries: list[Entry]
    lost_lines: int
    restarts: int


def read_lines(
    sequence: WriterSequence, lines: Iterable[Line], path: str, now_us: int
) -> tuple[WriterSequence, Reading]:
    """Decode ``lines`` of the file ``path``.

    A ``seq`` that is not above the last one is a writer that began anew, not a gap. A dead line
    took a number as well, so it is not lost.
    """
    last, dead = sequence
    entries: list[Entry] = []
    lost = restarts = 0
    for line in lines:
        record = _record_or_reason(line)
        if isinstance(record, str):
            dead += 1
            letter = DeadLetter(
                ts_us=now_us, source=path, offset=line.start, reason=record, payload=line.payload
            )
            span = Span(line.start, line.after, last, dead)
            size_bytes = len(line.payload) * 4 // 3 + len(record) + len(path) + 128
            entries.append(Entry(DEAD_LETTERS, path.encode(), letter, size_bytes, span))
            continue
        if last is not None:
            lost += max(0, record.seq - last - 1 - dead)
            restarts += record.seq <= last
        last, dead = record.seq, 0
        span = Span(line.start, line.after, last, 0)
        size_bytes = len(line.payload) + _DEFAULTS_BYTES
        entries.append(Entry(REQUESTS, record.instance.encode(), record, size_bytes, span))
    return WriterSequence(last, dead), Reading(entries, lost, restarts)


def _record_or_reason(line: Line) -> RequestRecord | str:
    if line.fault:
        return line.fault
    try:
        record = decode_json(line.payload, RequestRecord)
    except RecordInvalid as error:
        return str(error)
    if not record.instance:
        return "request: field instance is empty, it must name the engine"
    return record
