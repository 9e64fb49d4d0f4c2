"""The alert machine: its table, and what no sequence of observations can do."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alerting.identity import fingerprint, incident_id
from alerting.machine import TRANSITIONS, Alert, IllegalMove, Input, Reason, transition
from alerting.rules import SECOND_US, Observation, Rule
from redline.records import AlertEvent, AlertState

RULE = Rule(
    name="r",
    signal="s",
    above=10,
    clear_below=5,
    for_us=10 * SECOND_US,
    keep_firing_for_us=5 * SECOND_US,
    nodata_after_us=20 * SECOND_US,
)
NEW = Alert(fingerprint="f", rule="r", labels={"model": "m"})
VALUES = {"breach": 11.0, "between": 7.0, "clear": 1.0, "nodata": None, "learning": 3.0}


def seen(kind: str, ts_us: int) -> Observation:
    return msgspec.convert(
        {"kind": kind, "ts_us": ts_us, "value": VALUES.get(kind), "samples": 1}, Observation
    )


def test_every_state_has_a_row_and_every_move_a_reason() -> None:
    assert set(TRANSITIONS) == set(get_args(AlertState))
    for state, row in TRANSITIONS.items():
        assert set(row) <= set(get_args(Input))
        for after, reason in row.values():
            assert (after == state) is (reason is Reason.STAYS)


def test_no_row_lets_the_absence_of_data_resolve_or_hold_a_breach() -> None:
    for state, row in TRANSITIONS.items():
        for absence in ("nodata", "nodata_long", "nodata_fires", "learning"):
            if absence in row:
                after, reason = row[absence]
                assert reason is not Reason.BREACH_HELD
                assert after != "resolved" or state == "resolved"
                assert state not in ("firing", "recovering") or after in (state, "nodata")


def test_an_illegal_move_raises_and_changes_nothing() -> None:
    with pytest.raises(IllegalMove, match="'drained' in state 'inactive'"):
        transition(RULE, NEW, seen("drained", 5), 5)


def test_identity_is_rule_and_labels_in_any_order() -> None:
    assert fingerprint("r", {"a": "1", "b": "2"}) == fingerprint("r", {"b": "2", "a": "1"})
    assert fingerprint("r", {"a": "1", "b": "2"}) != fingerprint("r", {"a": "1b", "": "2"})
    assert fingerprint("r", {}) != fingerprint("q", {})
    assert incident_id("f", 1) != incident_id("f", 2)


@given(st.lists(st.tuples(st.sampled_from(sorted(VALUES)), st.integers(0, 40)), max_size=60))
def test_duplicates_and_late_arrivals_change_nothing(plan: list[tuple[str, int]]) -> None:
    clean, dirty = NEW, NEW
    clean_events: list[AlertEvent] = []
    dirty_events: list[AlertEvent] = []
    past: list[Observation] = []
    now_us = 1_000 * SECOND_US
    for kind, gap_s in plan:
        now_us += (gap_s + 1) * SECOND_US
        observation = seen(kind, now_us)
        clean, events = transition(RULE, clean, observation, now_us)
        clean_events += events
        for again in (observation, *past[-3:], observation):
            dirty, events = transition(RULE, dirty, again, again.ts_us or 0)
            dirty_events += events
        past.append(observation)
    assert dirty == clean
    assert dirty_events == clean_events


def test_the_first_word_about_an_instant_is_the_last() -> None:
    alert, events = transition(RULE, NEW, seen("breach", 5), 5)
    assert events
    assert transition(RULE, alert, seen("clear", 5), 5) == (alert, ())


class AlertMachine(RuleBasedStateMachine):
    """Any observations at any pace, against a plain history of what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.alert = NEW
        self.now_us = 1_000 * SECOND_US
        self.events: list[AlertEvent] = []
        self.history: list[tuple[int, str]] = []

    def observe(self, kind: str, gap_s: int) -> tuple[AlertEvent, ...]:
        self.now_us += gap_s * SECOND_US
        before = self.alert
        self.alert, events = transition(RULE, before, seen(kind, self.now_us), self.now_us)
        self.history.append((self.now_us, kind))
        self.events += events
        for event in events:
            assert event.from_state == before.state
            assert event.to_state == self.alert.state
            assert event.reason in set(Reason)
            if event.reason == Reason.BREACH_HELD:
                self.breach_lasted()
            if event.to_state == "resolved":
                assert kind in ("clear", "drained")
                assert before.open
        return events

    def breach_lasted(self) -> None:
        last_us = self.now_us
        for ts_us, kind in reversed(self.history):
            assert kind == "breach", "it fired across something that was no breach"
            if self.now_us - ts_us >= RULE.for_us:
                return
            assert last_us - ts_us < RULE.nodata_after_us
            last_us = ts_us
        raise AssertionError("it fired before the breach had lasted")

    @rule(gap_s=st.integers(1, 8))
    def breach(self, gap_s: int) -> None:
        self.observe("breach", gap_s)
        assert self.alert.state in ("pending", "firing")

    @rule(kind=st.sampled_from(["between", "clear"]), gap_s=st.integers(1, 8))
    def calm(self, kind: str, gap_s: int) -> None:
        was_open = self.alert.open
        self.observe(kind, gap_s)
        if not was_open:
            assert self.alert.state in ("inactive", "resolved")

    @rule(kind=st.sampled_from(["nodata", "learning"]), gap_s=st.integers(1, 30))
    def nothing(self, kind: str, gap_s: int) -> None:
        was_open, incident = self.alert.open, self.alert.incident_id
        self.observe(kind, gap_s)
        assert self.alert.open is was_open
        assert self.alert.incident_id == incident

    @rule(kind=st.sampled_from(sorted(VALUES)), gap_s=st.integers(20, 400))
    def long_gap(self, kind: str, gap_s: int) -> None:
        events = self.observe(kind, gap_s)
        assert Reason.BREACH_HELD not in [event.reason for event in events]
        assert "resolved" not in [event.to_state for event in events]

    @precondition(lambda self: self.alert.open)
    @rule(gap_s=st.integers(1, 8))
    def drained(self, gap_s: int) -> None:
        self.observe("drained", gap_s)
        assert self.alert.state in ("recovering", "resolved")

    @rule()
    def survives_its_snapshot(self) -> None:
        self.alert = msgspec.json.decode(msgspec.json.encode(self.alert), type=Alert)

    @invariant()
    def an_incident_has_a_start(self) -> None:
        if self.alert.open:
            assert self.alert.started_at_us is not None
            assert self.alert.incident_id == incident_id("f", self.alert.started_at_us)

    @invariant()
    def every_incident_is_opened_once_and_closed_once(self) -> None:
        ids = [event.incident_id for event in self.events]
        opened = [
            event.incident_id
            for event in self.events
            if event.to_state in ("firing", "nodata")
            and event.from_state in ("inactive", "learning", "pending", "resolved")
        ]
        closed = [event.incident_id for event in self.events if event.to_state == "resolved"]
        assert len(opened) == len(set(opened))
        assert len(closed) == len(set(closed))
        assert set(closed) <= set(opened)
        assert {incident for incident in ids if incident} == set(opened)


AlertMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAlertMachine = AlertMachine.TestCase
