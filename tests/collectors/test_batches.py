from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectors.batches import Entry, Limits, Run, Span, encode, gather, is_due
from collectors.lines import Position
from redline.codec import decode_batch, decode_json
from redline.records import DeadLetter, RequestRecord
from redline.topics import DEAD_LETTERS, REQUESTS
from tests.collectors.log_writer import record


def entry(instance: str, seq: int, size_bytes: int) -> Entry:
    span = Span(seq * 10, Position(seq * 10 + 10), seq, 0)
    return Entry(REQUESTS, instance.encode(), record(instance, seq), size_bytes, span)


entries = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 60)), max_size=8), max_size=10
)


@given(entries, st.integers(1, 5), st.integers(60, 200), st.integers(0, 30))
def test_runs_keep_order_and_limits_and_lose_nothing(
    arrivals: list[list[tuple[str, int]]], records_max: int, bytes_max: int, age_us: int
) -> None:
    limits = Limits(records_max, age_us, bytes_max)
    run: Run | None = None
    closed: list[Run] = []
    sent: list[Entry] = []
    for now_us, arrival in enumerate(arrivals):
        step = [entry(name, len(sent) + n, size) for n, (name, size) in enumerate(arrival)]
        sent += step
        run, done = gather(run, step, limits, now_us * 10)
        closed += done
        assert run is None or not is_due(run, limits, now_us * 10)
    runs = [*closed, run] if run else closed
    assert [one for found in runs for one in found.entries] == sent
    for found in runs:
        assert 1 <= len(found.entries) <= records_max
        assert sum(one.size_bytes for one in found.entries) <= bytes_max
        assert {one.key for one in found.entries} == {found.key}


def test_a_run_is_one_batch_message_over_its_whole_span() -> None:
    _, (run,) = gather(None, [entry("a", seq, 10) for seq in range(3)], Limits(3, 1_000), 0)
    (payload,) = encode(run)
    assert [found.seq for found in decode_batch(payload.value, RequestRecord)] == [0, 1, 2]
    assert payload.span == Span(0, Position(30), 2, 0)
    assert payload.records == 3


def test_json_topics_get_a_message_for_each_record() -> None:
    letters = [
        Entry(
            DEAD_LETTERS,
            b"f",
            DeadLetter(ts_us=1, source="f", offset=offset, reason="r", payload=b"\xff\x00"),
            50,
            Span(offset, Position(offset + 5), None, 1),
        )
        for offset in (0, 5)
    ]
    _, (run,) = gather(None, letters, Limits(10, 0), 0)
    payloads = encode(run)
    assert [decode_json(found.value, DeadLetter).offset for found in payloads] == [0, 5]
    assert [found.span for found in payloads] == [letter.span for letter in letters]
