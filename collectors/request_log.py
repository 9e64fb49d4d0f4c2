"""Core: turns lines of a request log into entries, and counts what the writer lost.

``read_block`` takes many lines at once, at C speed, if all of them are plain: whole RequestRecords
of one instance. Whatever is not goes through ``read_lines``, one by one, with the same result.
A line that is not a RequestRecord becomes a dead letter that holds it whole, never an error. This
file refuses to read files and to publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise, repeat
from operator import add, attrgetter
from typing import NamedTuple

from collectors.batches import DEFAULTS_BYTES, Block, Entry, Span
from collectors.lines import LINE_BYTES_MAX, Line
from redline.codec import decode_json, decode_json_lines, encode_json
from redline.errors import RecordInvalid
from redline.records import DeadLetter, RequestRecord
from redline.topics import DEAD_LETTERS, REQUESTS

# The line and the number that it has in its log, to the record, or to why it is none. None: the
# line is about something else than a request, and takes no number.
Translate = Callable[[bytes, int], RequestRecord | str | None]

_seq_of = attrgetter("seq")
_instance_of = attrgetter("instance")
_dropped_of = attrgetter("dropped_before")


class WriterSequence(NamedTuple):
    """The last ``seq`` of one log's writer, and how many dead lines came after it."""

    last: int | None = None
    dead: int = 0


class Reading(NamedTuple):
    """What some lines held.

    ``lost_lines`` is the sum of the gaps in ``seq``; ``dropped`` is what the writer says that it
    could not write.
    """

    entries: Sequence[Entry | Block]
    lost_lines: int
    restarts: int
    lines: int
    dead_letters: int
    dropped: int


def read_block(
    sequence: WriterSequence, start: int, lines: Sequence[bytes]
) -> tuple[WriterSequence, Reading] | None:
    """Decode whole lines that follow each other in a file from byte ``start`` on.

    None if ``read_lines`` has to look at them: there is a blank, long or malformed one among them,
    or they are of several instances. See there for what ``seq`` means.
    """
    lengths = list(map(len, lines))
    if not lines or max(lengths) > LINE_BYTES_MAX:
        return None
    try:
        records = decode_json_lines(lines, RequestRecord)
    except RecordInvalid:
        return None
    instances = set(map(_instance_of, records))
    if len(instances) > 1 or "" in instances:
        return None
    numbers = list(map(_seq_of, records))
    lost, restarts = _count_gaps(sequence, numbers)
    ends = list(accumulate(map(add, lengths, repeat(1)), initial=start))[1:]
    block = Block(instances.pop().encode(), records, start, ends)
    dropped = sum(map(_dropped_of, records))
    reading = Reading([block], lost, restarts, len(records), 0, dropped)
    return WriterSequence(numbers[-1], 0), reading


def _count_gaps(sequence: WriterSequence, numbers: Sequence[int]) -> tuple[int, int]:
    last, dead = sequence
    lost = restarts = 0
    if last is not None:
        lost = max(0, numbers[0] - last - 1 - dead)
        restarts = int(numbers[0] <= last)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        lost += sum(max(0, after - before - 1) for before, after in pairwise(numbers))
        restarts += sum(after <= before for before, after in pairwise(numbers))
    return lost, restarts


def read_lines(
    sequence: WriterSequence,
    lines: Iterable[Line],
    path: str,
    now_us: int,
    *,
    translate: Translate | None = None,
) -> tuple[WriterSequence, Reading]:
    """Decode ``lines`` of the file ``path``; ``translate`` reads those of another format.

    A ``seq`` that is not above the last one is a writer that began anew, not a gap. A dead line
    took a number as well, so it is not lost. Lines of another format have no number of their own:
    theirs counts the lines of the log, through its rotations.
    """
    last, dead = sequence
    entries: list[Entry | Block] = []
    lost = restarts = letters = dropped = 0
    for line in lines:
        record = _record_or_reason(line, translate, (last or 0) + dead + 1)
        if record is None:
            continue
        if isinstance(record, str):
            dead += 1
            letters += 1
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
        dropped += record.dropped_before
        span = Span(line.start, line.after, last, 0)
        plain = line.payload if translate is None else encode_json(record)
        size_bytes = len(plain) + DEFAULTS_BYTES
        entries.append(Entry(REQUESTS, record.instance.encode(), record, size_bytes, span))
    reading = Reading(entries, lost, restarts, len(entries), letters, dropped)
    return WriterSequence(last, dead), reading


def _record_or_reason(
    line: Line, translate: Translate | None, number: int
) -> RequestRecord | str | None:
    if line.fault:
        return line.fault
    if translate is not None:
        return translate(line.payload, number)
    try:
        record = decode_json(line.payload, RequestRecord)
    except RecordInvalid as error:
        return str(error)
    if not record.instance:
        return "request: field instance is empty, it must name the engine"
    return record
