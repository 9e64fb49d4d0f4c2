from __future__ import annotations

import pytest

from collectors.batches import Entry
from collectors.lines import Line, Position
from collectors.request_log import WriterSequence, read_lines
from redline.codec import encode_json
from redline.records import DeadLetter, RequestRecord
from tests.collectors.log_writer import record


def lines(*payloads: bytes) -> list[Line]:
    found, at = [], 0
    for payload in payloads:
        found.append(Line(at, Position(at + len(payload) + 1), payload))
        at += len(payload) + 1
    return found


def numbered(*numbers: int) -> list[Line]:
    return lines(*(encode_json(record("e", number)) for number in numbers))


@pytest.mark.parametrize(
    ("numbers", "lost", "restarts"),
    [([1, 2, 3], 0, 0), ([5, 6, 9], 2, 0), ([7, 8, 1, 2], 0, 1), ([4, 4], 0, 1), ([1, 3, 5], 2, 0)],
)
def test_gaps_are_lost_lines_and_a_new_beginning_is_not(
    numbers: list[int], lost: int, restarts: int
) -> None:
    _, reading = read_lines(WriterSequence(), numbered(*numbers), "f", 0)
    assert (reading.lost_lines, reading.restarts) == (lost, restarts)


def test_a_gap_is_seen_across_steps_and_a_dead_line_is_not_a_lost_one() -> None:
    sequence, _ = read_lines(WriterSequence(), numbered(1, 2), "f", 0)
    sequence, reading = read_lines(sequence, lines(b"not json"), "f", 0)
    assert sequence == WriterSequence(2, 1)
    sequence, reading = read_lines(sequence, numbered(4), "f", 0)
    assert reading.lost_lines == 0
    _, reading = read_lines(sequence, numbered(6), "f", 0)
    assert reading.lost_lines == 1


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (b"not json", "malformed"),
        (b"\xff\xfe", "request"),
        (b'{"type":"request","request_id":"r","seq":"7"}', "seq"),
        (b'{"type":"request","request_id":"r"}', "missing required field"),
        (b'{"type":"gpu_sample"}', "gpu_sample"),
        (encode_json(record("", 1)), "instance"),
    ],
)
def test_a_dead_letter_holds_the_line_its_place_and_what_is_wrong(
    payload: bytes, names: str
) -> None:
    _, reading = read_lines(WriterSequence(), lines(b"x", payload)[1:], "/logs/e/f.ndjson", 42)
    (entry,) = reading.entries
    assert isinstance(entry, Entry)
    letter = entry.record
    assert isinstance(letter, DeadLetter)
    assert letter.payload == payload
    assert (letter.source, letter.offset, letter.ts_us) == ("/logs/e/f.ndjson", 2, 42)
    assert names in letter.reason


def test_unknown_fields_pass() -> None:
    payload = encode_json(record("e", 1))[:-1] + b',"field_of_tomorrow":[1]}'
    _, reading = read_lines(WriterSequence(), lines(payload), "f", 0)
    (entry,) = reading.entries
    assert isinstance(entry, Entry)
    assert entry.record == record("e", 1)
    assert isinstance(entry.record, RequestRecord)
