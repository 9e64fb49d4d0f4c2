"""Crashes at any input or output, messages that come again: everything is said once all the same.

A model of the shell around the real cores: the state topic, the events' topics, the committed
offset, the receivers. The process dies at drawn points, before or after an effect, and begins
again from what was written. The journal's rule (state first, then what of its events is missing)
is the one of journal.py.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from alerting import audit, outbox
from alerting.consequences import Consequences
from alerting.engine import Engine
from alerting.state import Incident, State, Step
from redline.records import ActionEvent, AlertEvent, AuditEntry, Signal
from tests.alerting.scenario import OPEN, P99, SLACK, T0_US, WEBHOOK, p99

RULE = msgspec.structs.replace(P99, for_us=3_000_000, keep_firing_for_us=2_000_000)


class Died(Exception):
    """The process is gone."""


class Outside:
    """What outlives the process."""

    def __init__(self, deaths: dict[int, bool]) -> None:
        self.deaths = deaths  # by effect, whether it happened before the process died
        self.effects = 0
        self.state: list[tuple[bytes, bytes | None]] = []
        self.alerts: list[AlertEvent] = []
        self.actions: list[ActionEvent] = []
        self.audit: list[AuditEntry] = []
        self.offset = 0
        self.told: Counter[str] = Counter()
        self.ordered: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()  # sends of which nobody knew whether they happened

    def effect(self) -> bool:
        """Count one effect; False if the process dies before it, Died is raised after."""
        self.effects += 1
        return self.deaths.get(self.effects, True)

    def after(self) -> None:
        if self.effects in self.deaths:
            raise Died


class Process:
    """One life."""

    def __init__(self, outside: Outside) -> None:
        self.outside = outside
        self.engine = Engine([RULE], OPEN, [SLACK])
        self.state = State.restore(outside.state)
        journal = self.state.journal
        self.publish(
            [alert for alert in journal.alerts if alert not in outside.alerts],
            [action for action in journal.actions if action not in outside.actions],
            [entry for entry in journal.audit if entry not in outside.audit],
        )

    @property
    def consequences(self) -> Consequences:
        return self.engine.consequences

    def commit(self, step: Step) -> None:
        self.state.apply(step)
        if step.is_empty:
            return
        if self.outside.effect():
            self.outside.state += step.snapshots()
        self.outside.after()
        self.publish(step.alert_events, step.action_events, step.audit_entries)

    def publish(
        self, alerts: list[AlertEvent], actions: list[ActionEvent], entries: list[AuditEntry]
    ) -> None:
        for topic, rows in (
            (self.outside.alerts, alerts),
            (self.outside.actions, actions),
            (self.outside.audit, entries),
        ):
            for row in rows:
                if self.outside.effect():
                    topic.append(row)  # type: ignore[arg-type]
                self.outside.after()

    def run(self, messages: list[list[Signal]], now_us: int) -> None:
        while self.outside.offset < len(messages):
            whole = Step()
            for signal in messages[self.outside.offset]:
                step = self.engine.evaluate(self.state, signal, now_us)
                self.state.apply(step)
                whole.absorb(step)
                self.state.watermark_us = max(self.state.watermark_us, signal.ts_us)
            self.commit(whole)
            self.commit(self.engine.sweep(self.state, self.state.watermark_us, now_us))
            self.send(now_us)
            if self.outside.effect():
                self.outside.offset += 1
            self.outside.after()
        self.send(now_us)

    def send(self, now_us: int) -> None:
        while due := outbox.due_notifications(self.state, SLACK, now_us):
            incident, notification = due[0]
            key = notification.key
            if notification.status == "claimed":
                self.outside.unknown[key] += 1
            self.keep(outbox.claim_notification(incident, key))
            if self.outside.effect():
                self.outside.told[key] += 1
            self.outside.after()
            incident = self.state.incidents[incident.incident_id]
            self.keep(outbox.notification_sent(incident, key, "C", "1.1"))
        while actions := outbox.due_actions(self.state.actions.values(), WEBHOOK, now_us):
            action = actions[0]
            name = action.event.action_id
            if action.deliveries[0].status == "claimed":
                self.outside.unknown[name] += 1
            claimed = outbox.claim_action(action, WEBHOOK, now_us)
            self.commit(self.consequences.settle(self.state, claimed, now_us=now_us))
            if self.outside.effect():
                self.outside.ordered[name] += 1
            self.outside.after()
            reply = outbox.Reply(http_status=200, detail="ok", applied=True)
            done = outbox.settle_action(claimed, WEBHOOK, reply, 0.0, now_us)
            self.commit(self.consequences.settle(self.state, done, now_us=now_us))

    def keep(self, incident: Incident) -> None:
        step = Step()
        step.incidents[incident.incident_id] = incident
        self.commit(step)


def live(messages: list[list[Signal]], deaths: dict[int, bool]) -> Outside:
    outside = Outside(deaths)
    now_us = T0_US + 120_000_000
    for _ in range(len(deaths) + 1):
        try:
            Process(outside).run(messages, now_us)
        except Died:
            continue
        break
    return outside


def facts(outside: Outside) -> list[tuple[str, int, str, str]]:
    return [(a.fingerprint, a.ts_us, a.to_state, a.reason) for a in outside.alerts]


phases = st.lists(
    st.tuples(st.sampled_from([8_200.0, 900.0, None]), st.integers(1, 8)), min_size=1, max_size=8
)


def conversation(plan: dict[str, list[tuple[float | None, int]]]) -> list[list[Signal]]:
    """One message a second with a signal per version."""
    series = {
        version: [value for value, length in phase for _ in range(length)]
        for version, phase in plan.items()
    }
    seconds = max(len(values) for values in series.values())
    return [
        [
            msgspec.structs.replace(p99(values[second], version), ts_us=T0_US + second * 1_000_000)
            for version, values in series.items()
            if second < len(values)
        ]
        for second in range(seconds)
    ]


@settings(max_examples=250, deadline=None)
@given(
    plan=st.fixed_dictionaries({"v1": phases, "v2": phases}),
    deaths=st.dictionaries(st.integers(1, 120), st.booleans(), max_size=8),
    again=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=5),
)
def test_everything_is_said_once(
    plan: dict[str, list[tuple[float | None, int]]],
    deaths: dict[int, bool],
    again: list[tuple[int, int]],
) -> None:
    messages = conversation(plan)
    quiet = live(messages, {})
    for at, back in again:  # a producer that sends an old message again, late
        if at < len(messages):
            messages.insert(at + 1, messages[max(0, at - back)])
    rough = live(messages, deaths)

    assert facts(rough) == facts(quiet)
    assert set(rough.told) == set(quiet.told)
    assert set(rough.ordered) == set(quiet.ordered)
    for key, count in (rough.told + rough.ordered).items():
        assert 1 <= count <= 1 + rough.unknown[key]
    assert audit.verify(rough.audit) == ""
    assert len(set(rough.actions)) == len(rough.actions)
