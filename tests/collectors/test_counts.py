"""Counts that are said add up to what was published, whatever is killed, late or forgotten."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import count_book
from collectors.count_book import CountBook, CountState, totals
from collectors.counts import MINUTE_US, MessageCounts, count_records, outcome
from redline.records import CollectorCount, EngineSample, RequestRecord
from tests.collectors.log_writer import record

BEGIN_US = 1_764_000_000_000_000 // MINUTE_US * MINUTE_US


def made(seq: int, minute: int = 0, **fields: Any) -> RequestRecord:
    return record("e1", seq, ts_end_us=BEGIN_US + minute * MINUTE_US + 5, **fields)


@pytest.mark.parametrize(
    ("status_code", "finish_reason", "expected"),
    [
        (200, "stop", "finished"), (200, "length", "finished"), (200, "", "finished"),
        (499, "", "aborted"), (200, "abort", "aborted"), (499, "abort", "aborted"),
        (400, "", "refused"), (404, "", "refused"), (503, "", "refused"),
        (500, "error", "failed"), (200, "error", "failed"), (502, "", "failed"),
    ],
)  # fmt: skip
def test_each_request_has_one_outcome(status_code: int, finish_reason: str, expected: str) -> None:
    assert outcome(status_code, finish_reason) == expected


requests = st.lists(
    st.tuples(
        st.integers(1, 3),  # step of seq: 1 is no gap
        st.integers(0, 2),  # minute
        st.sampled_from([(200, "stop"), (499, "abort"), (404, ""), (500, "error")]),
        st.integers(0, 2),  # dropped_before
    ),
    min_size=1,
    max_size=30,
)


@given(requests, st.data())
def test_tallies_hold_every_record_once_however_messages_are_cut(
    drawn: list[tuple[int, int, tuple[int, str], int]], data: st.DataObject
) -> None:
    records, seq, lost = [], 0, 0
    for number, (step, minute, (status, reason), dropped) in enumerate(drawn):
        dropped = min(dropped, step - 1) if number else 0  # noqa: PLW2901
        seq += step if number else 1
        lost += step - 1 - dropped if number else 0
        fields = {"status_code": status, "finish_reason": reason, "dropped_before": dropped}
        records.append(made(seq, minute, **fields))
    book = CountBook()
    while records_left := records[sum(count.requests for count in _open(book)) :]:
        cut = data.draw(st.integers(1, len(records_left)))
        book.add_message("log", count_records(records_left[:cut]), 7)
    counts = _open(book)
    for minute in range(3):
        mine = [one for one in records if one.ts_end_us // MINUTE_US == _minute(minute)]
        found = [one for one in counts if one.start_us == _minute(minute) * MINUTE_US]
        assert sum(one.requests for one in found) == len(mine)
        assert sum(one.prompt_tokens for one in found) == sum(one.prompt_tokens for one in mine)
        aborted = sum(one.status_code == 499 for one in mine)
        assert sum(one.aborted for one in found) == aborted
        if mine:
            assert found[0].first_seq == min(one.seq for one in mine)
            assert found[0].last_seq == max(one.seq for one in mine)
    assert sum(one.lost_lines for one in counts) == lost
    assert sum(one.dropped for one in counts) == sum(one.dropped_before for one in records)


def _open(book: CountBook) -> list[CollectorCount]:
    return book.snapshot(0).counts


def _minute(number: int) -> int:
    return BEGIN_US // MINUTE_US + number


def test_a_dead_letter_takes_its_number_and_is_in_the_minute_before_it() -> None:
    book = CountBook()
    book.add_message("log", count_records([made(1), made(2)]), 7)
    book.add_message("log", MessageCounts(dead_letters=1), 7)
    book.add_message("log", count_records([made(4), made(6)]), 7)
    (count,) = _open(book)
    assert (count.requests, count.dead_letters, count.lost_lines) == (4, 1, 1)


def test_a_writer_that_began_anew_is_no_gap() -> None:
    book = CountBook()
    book.add_message("log", count_records([made(50), made(51)]), 7)
    book.add_message("log", count_records([made(1), made(2)]), 7)
    (count,) = _open(book)
    assert (count.restarts, count.lost_lines) == (1, 0)


class World:
    """A log that Kafka has in order, a checkpoint, rows as ClickHouse keeps them, and a clock."""

    def __init__(self) -> None:
        self.now_us = BEGIN_US + 10 * MINUTE_US
        self.kafka: list[MessageCounts] = []
        self.counted = 0
        self.book = CountBook()
        self.disk = (CountState(), 0)
        self.rows: list[CollectorCount] = []
        self.seq = 0
        self.engine = EngineSample(ts_us=0, instance="e1", model="m", requests_total=0,
                                   prompt_tokens_total=0, generation_tokens_total=0)  # fmt: skip
        self.generated = 0

    def publish(self, minute: int, number: int) -> None:
        records = [made(self.seq + at + 1, minute) for at in range(number)]
        self.seq += number
        self.kafka.append(count_records(records))

    def acknowledge(self) -> None:
        while self.counted < len(self.kafka):
            self.book.add_message("log", self.kafka[self.counted], self.now_us)
            self.counted += 1

    def scrape(self, tokens: int, restarts: bool) -> None:
        held = int(self.engine.generation_tokens_total or 0)
        tokens = min(tokens, held - 1) if restarts else tokens
        if tokens < 0:
            return
        self.generated += tokens
        total = tokens if restarts else held + tokens
        self.engine = msgspec.structs.replace(
            self.engine, ts_us=self.now_us, generation_tokens_total=total
        )
        self.book.add_sample(self.engine, self.now_us)

    def save(self, *, torn: bool) -> None:
        state = self.book.snapshot(self.now_us)
        if not torn:
            self.disk = (msgspec.json.decode(msgspec.json.encode(state), type=CountState),
                         self.counted)  # fmt: skip
            self.book.saved(state)

    def say(self) -> None:
        due = self.book.due(self.now_us)
        self.rows += due
        self.book.say(due)

    def kill(self) -> None:
        state, self.counted = self.disk
        self.book = CountBook(state)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), max_size=60))
def test_what_is_said_is_what_was_published_through_kills_and_forgetting(
    steps: list[tuple[int, int]],
) -> None:
    world = World()
    world.scrape(0, False)
    world.save(torn=False)
    for step, amount in steps:
        world.now_us += amount * 7_000_000 + 1
        if step == 0:
            world.publish(amount % 3, amount + 1)
        elif step in (1, 2):
            world.acknowledge()
        elif step == 3:
            world.scrape(amount, restarts=False)
        elif step == 4:
            # what no collector read before an engine ends, or lost with itself, nobody knows
            world.scrape(0, restarts=False)
            world.now_us += 1
            world.scrape(amount, restarts=True)
            world.save(torn=False)
        elif step in (5, 6):
            world.save(torn=step == 6)
        elif step == 7:
            world.say()
        else:
            world.kill()
    # after a kill, what Kafka has after the marks is found, and the next scrape has the whole rise
    world.acknowledge()
    world.now_us += 1
    world.scrape(0, restarts=False)
    world.save(torn=False)
    world.now_us += 30 * MINUTE_US
    world.say()
    found = totals(world.rows)
    published = found.get(("published", "e1"), {"requests": 0, "lost_lines": 0})
    assert published["requests"] == sum(
        tally.requests for counts in world.kafka for tally in counts.tallies
    )
    assert published["lost_lines"] == 0
    assert found[("engine", "e1")]["completion_tokens"] == world.generated


def test_the_checkpoint_stays_small_while_a_long_backlog_is_caught_up() -> None:
    world = World()
    world.now_us = BEGIN_US + 100_000 * MINUTE_US
    for minute in range(3 * count_book.COUNTS_MAX):
        world.kafka.append(count_records([made(minute + 1, minute)]))
        world.acknowledge()
        if minute % 500 == 0:
            world.save(torn=False)
            world.say()
    world.save(torn=False)
    world.say()
    assert len(world.disk[0].counts) <= count_book.COUNTS_MAX + 500
    assert totals(world.rows)["published", "e1"]["requests"] == 3 * count_book.COUNTS_MAX


def test_without_a_checkpoint_found_messages_only_mark_their_minutes() -> None:
    class Found:
        log = "log"
        counts = count_records([made(1), made(2)])

    book = CountBook()
    book.add_sources([Found()], 7, known=False)
    (count,) = _open(book)
    assert (count.requests, count.complete) == (0, False)


def test_a_minute_that_is_not_over_waits_and_a_late_record_says_it_again() -> None:
    world = World()
    world.now_us = BEGIN_US + 30_000_000
    for expected in (0, 1, 2):
        world.publish(0, 1)
        world.acknowledge()
        world.save(torn=False)
        world.say()
        assert len(world.rows) == expected
        world.now_us += MINUTE_US
    assert [row.requests for row in world.rows] == [2, 3]
    assert world.rows[0].part == world.rows[1].part
    assert world.rows[0].revision < world.rows[1].revision


def test_a_rise_over_several_minutes_or_a_restart_is_not_a_complete_minute() -> None:
    book = CountBook()
    plain = EngineSample(ts_us=BEGIN_US, instance="e1", model="m", generation_tokens_total=5)
    for seconds, total in ((0, 5), (30, 9), (60, 11), (400, 20), (401, 3)):
        ts_us = BEGIN_US + seconds * 1_000_000
        sample = msgspec.structs.replace(plain, ts_us=ts_us, generation_tokens_total=total)
        book.add_sample(sample, ts_us)
    rows = [(row.completion_tokens, row.complete, row.restarts) for row in _open(book)]
    assert rows == [(4, False, 0), (2, True, 0), (12, False, 1)]
