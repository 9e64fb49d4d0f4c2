"""Many lines at once give what they give one by one: records, places, counts, messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectors.batches import Block, Entry, Limits, Run, encode, gather, is_due
from collectors.lines import LINE_BYTES_MAX, Position, split
from collectors.request_log import WriterSequence, read_block, read_lines
from redline.codec import encode_json
from redline.topics import REQUESTS
from tests.collectors.log_writer import record

sequences = st.builds(WriterSequence, st.none() | st.integers(0, 30), st.integers(0, 3))
numbers = st.lists(st.integers(0, 30), min_size=1, max_size=12) | st.integers(0, 9).map(
    lambda first: list(range(first, first + 9))
)
starts = st.integers(0, 1 << 40)


def written(numbers: list[int]) -> list[bytes]:
    return [
        encode_json(record("e", number, user="u" * (number % 5), dropped_before=number % 3))
        for number in numbers
    ]


def one_by_one(lines: list[bytes], start: int) -> tuple[list[Entry | Block], object]:
    window = b"".join(line + b"\n" for line in lines)
    _, cut = split(Position(start), window, LINE_BYTES_MAX, ended=False)
    sequence, reading = read_lines(WriterSequence(), cut, "f", 0)
    return list(reading.entries), (sequence, reading)


@given(sequences, numbers, starts)
def test_a_block_counts_as_its_lines_do(
    sequence: WriterSequence, numbers: list[int], start: int
) -> None:
    lines = written(numbers)
    window = b"".join(line + b"\n" for line in lines)
    _, cut = split(Position(start), window, LINE_BYTES_MAX, ended=False)
    after, slow = read_lines(sequence, cut, "f", 0)
    found = read_block(sequence, start, lines)
    assert found is not None
    assert found[0] == after
    assert found[1][1:] == slow[1:]
    (block,) = found[1].entries
    assert isinstance(block, Block)
    assert block.records == [one for entry in slow.entries for one in entry.records]
    first, last = slow.entries[0].span, slow.entries[-1].span
    assert first is not None
    assert last is not None
    assert block.span == (first.start, last.after, last.seq, 0)
    assert block.size_bytes == sum(entry.size_bytes for entry in slow.entries)


@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(300, 2_000),
)
def test_blocks_make_the_messages_that_single_entries_make(
    arrivals: list[list[int]], records_max: int, bytes_max: int
) -> None:
    limits = Limits(records_max, 1_000, bytes_max)
    runs: dict[str, Run | None] = {"blocks": None, "entries": None}
    closed: dict[str, list[Run]] = {"blocks": [], "entries": []}
    start = 0
    for now_us, arrival in enumerate(arrivals):
        lines = written(arrival)
        found = read_block(WriterSequence(), start, lines)
        assert found is not None
        entries, _ = one_by_one(lines, start)
        start += sum(len(line) + 1 for line in lines)
        for way, items in (("blocks", found[1].entries), ("entries", entries)):
            runs[way], done = gather(runs[way], items, limits, now_us)
            closed[way] += done
    for way, run in runs.items():
        closed[way] += [run] if run else []
    assert [encode(run) for run in closed["blocks"]] == [encode(run) for run in closed["entries"]]
    assert [run.size_bytes for run in closed["blocks"]] == [
        run.size_bytes for run in closed["entries"]
    ]
    assert {run.topic for run in closed["blocks"]} == {REQUESTS}


@given(numbers, starts, st.data())
def test_what_is_not_plain_is_left_to_the_slow_way(
    numbers: list[int], start: int, data: st.DataObject
) -> None:
    bad = data.draw(
        st.sampled_from(
            [
                b"",
                b"  ",
                b"{}",
                b"nonsense",
                b"\xff",
                encode_json(record("", 1)),
                encode_json(record("other", 1)),
                written([1])[0] * 2,
                b" " * LINE_BYTES_MAX + written([1])[0],
            ]
        )
    )
    at = data.draw(st.integers(0, len(numbers)))
    lines = written(numbers)
    assert read_block(WriterSequence(), start, [*lines[:at], bad, *lines[at:]]) is None
    assert read_block(WriterSequence(), start, []) is None


def test_a_clock_that_steps_back_publishes_at_once_instead_of_an_hour_later() -> None:
    limits = Limits(10, 500_000)
    found = read_block(WriterSequence(), 0, written([1]))
    assert found is not None
    run, closed = gather(None, found[1].entries, limits, 7_200_000_000)
    assert run is not None
    assert not closed
    assert not is_due(run, limits, 7_200_000_000)
    assert is_due(run, limits, 7_200_500_000)
    assert is_due(run, limits, 3_600_000_000)
