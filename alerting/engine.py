"""One signal through all of alerting, in the order that is written here and nowhere else:

    refuse the future -> rules -> machine -> consequences

and, about once a second of event time, the sweep: what the absence of signals means, what an
action brought, what may be forgotten. Both return a step and change nothing; the shell applies
and writes it. This file refuses to send.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting.consequences import Consequences
from alerting.history import not_fixed_line
from alerting.identity import fingerprint
from alerting.machine import Alert, transition
from alerting.policy import Limits
from alerting.rules import SECOND_US, Observation, Rule, matches, observe
from alerting.state import Incident, State, Step
from redline.errors import RecordInvalid
from redline.records import Signal

FUTURE_US_MAX = 300 * SECOND_US
ALERTS_MAX = 10_000
FORGET_AFTER_US = 24 * 3_600 * SECOND_US
WATCH_US = 600 * SECOND_US  # how long an action may take to show in the numbers
# A snapshot is renewed this often within the time after which data counts as absent, so that a
# restart does not take its own snapshot's age for an absence.
RENEWALS_PER_ABSENCE = 4
_ABSENT = Observation(kind="nodata", ts_us=None)
_REMOVED = Observation(kind="removed", ts_us=None)
_CLOSED = Observation(kind="closed", ts_us=None)


class Engine:
    """The rules and limits, which stay; the state is an argument."""

    def __init__(self, rules: Iterable[Rule], limits: Limits, notifiers: Iterable[str]) -> None:
        self.rules = {rule.name: rule for rule in rules}
        self.limits = limits
        self.consequences = Consequences(limits, notifiers)
        self._by_signal: dict[str, list[Rule]] = {}
        for rule in self.rules.values():
            self._by_signal.setdefault(rule.signal, []).append(rule)

    def rule_of(self, subject: Incident | Alert) -> Rule:
        """Its rule; a rule that is configured no more is known by its name only."""
        return self.rules.get(subject.rule) or Rule(name=subject.rule, signal="", above=0)

    def evaluate(self, state: State, signal: Signal, now_us: int) -> Step:
        """What ``signal`` changes. ``now_us`` is the wall clock; alerts live in event time.

        Raises:
            RecordInvalid: the signal is from the future, and would end every other alert's data.
        """
        if signal.ts_us > now_us + FUTURE_US_MAX:
            ahead_s = (signal.ts_us - now_us) / SECOND_US
            raise RecordInvalid(f"signal {signal.name} is {ahead_s:.0f} s from the future")
        step = Step()
        for rule in self._by_signal.get(signal.name, ()):
            if not matches(rule, signal):
                continue
            alert = self._alert(state, rule, signal.labels)
            if alert is None:
                step.series_refused += 1
                continue
            observation = self._drained(state, alert, observe(rule, signal))
            self._move(state, step, rule, alert, observation, signal.ts_us, now_us)
        return step

    def sweep(self, state: State, watermark_us: int, now_us: int) -> Step:
        """What is due because event time has come up to ``watermark_us``."""
        step = Step()
        for alert in state.alerts.values():
            rule = self.rules.get(alert.rule)
            silent_us = watermark_us - alert.last_ts_us
            if rule is None:
                known = self.rule_of(alert)
                self._move(state, step, known, alert, _REMOVED, watermark_us, now_us)
            elif _is_quiet(rule, alert):
                if silent_us >= FORGET_AFTER_US:
                    step.alerts[alert.fingerprint] = None
                    step.durable.add(alert.fingerprint)
            elif silent_us >= rule.nodata_after_us:
                observation = self._drained(state, alert, _ABSENT)
                self._move(state, step, rule, alert, observation, watermark_us, now_us)
        self._judge_actions(state, step, watermark_us)
        _forget(state, step, watermark_us)
        return step

    def close(self, state: State, alert: Alert, who: str, now_us: int) -> Step:
        """What it changes that a person closes an open incident.

        Raises:
            IllegalMove: there is none.
        """
        step = Step()
        rule = self.rule_of(alert)
        at_us = max(state.watermark_us, alert.changed_at_us)
        after, events = transition(rule, alert, _CLOSED, at_us)
        step.alerts[after.fingerprint] = after
        step.durable.add(after.fingerprint)
        for event in events:
            self.consequences.follow(state, step, rule, after, event, now_us, who)
        return step

    def _alert(self, state: State, rule: Rule, labels: dict[str, str]) -> Alert | None:
        name = fingerprint(rule.name, labels)
        alert = state.alerts.get(name)
        if alert is None:
            if len(state.alerts) >= ALERTS_MAX:
                return None
            return Alert(
                fingerprint=name,
                rule=rule.name,
                labels=dict(sorted(labels.items())),
                severity=rule.severity,
                threshold=rule.above,
            )
        if alert.threshold != rule.above:  # the rule was changed since
            return msgspec.structs.replace(alert, threshold=rule.above)
        return alert

    def _drained(self, state: State, alert: Alert, observation: Observation) -> Observation:
        """No data from a version that was rolled back is what was asked for, not a loss.

        Unless another version of the model breaches the same rule: then the rollback did not
        help, and the incident stays open.
        """
        if observation.kind != "nodata" or not alert.drained:
            return observation
        if not (alert.open or alert.state == "resolved"):
            return observation
        if any(_is_ill(other) for other in siblings(state, alert)):
            return observation
        return msgspec.structs.replace(observation, kind="drained")

    def _move(
        self,
        state: State,
        step: Step,
        rule: Rule,
        alert: Alert,
        observation: Observation,
        at_us: int,
        now_us: int,
    ) -> None:
        after, events = transition(rule, alert, observation, at_us)
        if after is alert:
            return
        name = after.fingerprint
        if events or (not _is_quiet(rule, after) and _must_keep(rule, alert, after)):
            step.durable.add(name)
            after = msgspec.structs.replace(after, kept_at_us=after.last_ts_us)
        # One that is inactive again is kept too: it knows which signals are old.
        step.alerts[name] = after
        for event in events:
            self.consequences.follow(state, step, rule, after, event, now_us)

    def _judge_actions(self, state: State, step: Step, watermark_us: int) -> None:
        """Say so when an action was carried out and its incident is open all the same."""
        for action in state.actions.values():
            event = action.event
            if action.watched or not action.acted or watermark_us - event.ts_us < WATCH_US:
                continue
            step.actions[event.action_id] = msgspec.structs.replace(action, watched=True)
            incident = step.incidents.get(event.incident_id, state.incidents.get(event.incident_id))
            if incident is None or incident.resolved_at_us is not None:
                continue
            alert = state.alerts.get(action.fingerprint)
            value = alert.value if alert is not None else None
            line = not_fixed_line(self.rule_of(incident), value, event, watermark_us)
            step.incidents[incident.incident_id] = self.consequences.tell(
                incident, "action.not_fixed", line, watermark_us
            )


def _forget(state: State, step: Step, watermark_us: int) -> None:
    for incident in state.incidents.values():
        ended_us = incident.resolved_at_us
        if ended_us is not None and watermark_us - ended_us >= FORGET_AFTER_US:
            step.incidents[incident.incident_id] = None
    for action in state.actions.values():
        event = action.event
        over = action.final and (action.watched or not action.acted)
        if over and watermark_us - event.ts_us >= FORGET_AFTER_US:
            step.actions[event.action_id] = None


def _is_quiet(rule: Rule, alert: Alert) -> bool:
    """Whether nothing about it needs to survive but that it is over."""
    return alert.state in ("inactive", "resolved") and rule.on_nodata == "hold"


def _must_keep(rule: Rule, before: Alert, after: Alert) -> bool:
    """Whether a restart from the last snapshot would not know what ``after`` knows."""
    if not before.kept_at_us or after.last_ts_us - before.kept_at_us >= (
        rule.nodata_after_us // RENEWALS_PER_ABSENCE
    ):
        return True
    return (before.breached_at_us, before.cleared_at_us, before.drained) != (
        after.breached_at_us,
        after.cleared_at_us,
        after.drained,
    )


def _is_ill(alert: Alert) -> bool:
    return alert.state in ("pending", "firing", "nodata") and not alert.drained


def siblings(state: State, alert: Alert) -> list[Alert]:
    """The same rule on the same model's other versions."""
    model = alert.labels.get("model")
    return [
        other
        for other in state.alerts.values()
        if other.rule == alert.rule
        and other.fingerprint != alert.fingerprint
        and other.labels.get("model") == model
    ]
