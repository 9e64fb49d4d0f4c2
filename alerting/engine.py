"""One signal through all of alerting, in the order that is written here and nowhere else:

    refuse the future -> rules -> machine -> absence of other signals -> incident -> action -> audit

``evaluate(state, signal, now)`` returns a step and changes nothing; the shell applies the step
and writes it. This file refuses to send: it only leaves things due in the outbox.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting import audit, policy
from alerting.history import action_line, alert_line
from alerting.identity import fingerprint, notification_key
from alerting.machine import Alert, transition
from alerting.policy import Limits
from alerting.rules import SECOND_US, Observation, Rule, matches, observe
from alerting.state import Action, Incident, Notification, State, Step
from redline.errors import RecordInvalid
from redline.records import ActionEvent, AlertEvent, Signal

FUTURE_US_MAX = 300 * SECOND_US
ALERTS_MAX = 10_000
NOTIFICATIONS_MAX = 64  # of one incident; the oldest that were sent are forgotten first
FORGET_AFTER_US = 24 * 3_600 * SECOND_US
_TOLD = frozenset(("firing", "nodata", "resolved"))


class Engine:
    """The rules and limits, which stay; the state is an argument."""

    def __init__(self, rules: Iterable[Rule], limits: Limits, notifiers: Iterable[str]) -> None:
        self.rules = {rule.name: rule for rule in rules}
        self.limits = limits
        self.notifiers = tuple(notifiers)
        self._by_signal: dict[str, list[Rule]] = {}
        for rule in self.rules.values():
            self._by_signal.setdefault(rule.signal, []).append(rule)

    def rule_of(self, incident: Incident) -> Rule:
        """The incident's rule; a rule that is configured no more is known by its name only."""
        return self.rules.get(incident.rule) or Rule(name=incident.rule, signal="", above=0)

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
            if matches(rule, signal):
                name = fingerprint(rule.name, signal.labels)
                alert = state.alerts.get(name)
                if alert is None:
                    if len(state.alerts) >= ALERTS_MAX:
                        step.series_refused += 1
                        continue
                    alert = Alert(
                        fingerprint=name,
                        rule=rule.name,
                        labels=dict(sorted(signal.labels.items())),
                        severity=rule.severity,
                    )
                alert = msgspec.structs.replace(alert, threshold=rule.above)
                observation = self._drained(state, alert, observe(rule, signal))
                self._move(state, step, rule, alert, observation, signal.ts_us, now_us)
        return step

    def sweep(self, state: State, watermark_us: int, now_us: int) -> Step:
        """What the absence of signals changes, now that others have come up to ``watermark_us``."""
        step = Step()
        absent = Observation(kind="nodata", ts_us=None)
        for alert in state.alerts.values():
            rule = self.rules.get(alert.rule)
            if rule is None or (alert.state == "nodata" and not alert.drained):
                continue
            if watermark_us - alert.last_ts_us < rule.nodata_after_us:
                continue
            if alert.state in ("inactive", "resolved") and rule.on_nodata == "hold":
                if watermark_us - alert.last_ts_us >= FORGET_AFTER_US:
                    self._forget(state, step, alert)
                continue
            observation = self._drained(state, alert, absent)
            self._move(state, step, rule, alert, observation, watermark_us, now_us)
        return step

    def _drained(self, state: State, alert: Alert, observation: Observation) -> Observation:
        """No data from a version that was rolled back is what was asked for, not a loss.

        Unless another version of the model breaches the same rule: then the rollback did not
        help, and the incident stays open.
        """
        if observation.kind != "nodata" or not alert.drained:
            return observation
        if not (alert.open or alert.state == "resolved"):
            return observation
        if any(self._ill(other) for other in siblings(state, alert)):
            return observation
        return msgspec.structs.replace(observation, kind="drained")

    @staticmethod
    def _ill(alert: Alert) -> bool:
        return alert.state in ("pending", "firing", "nodata") and not alert.drained

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
        quiet = after.state == "inactive" and rule.on_nodata == "hold"
        kept = name in state.alerts
        if events or _lasting(after) != _lasting(alert) or (not quiet and not kept):
            step.durable.add(name)
        step.alerts[name] = None if quiet and events else after
        for event in events:
            self._follow(state, step, rule, after, event, now_us)

    def _follow(
        self,
        state: State,
        step: Step,
        rule: Rule,
        alert: Alert,
        event: AlertEvent,
        now_us: int,
    ) -> None:
        """What one transition leads to."""
        step.alert_events.append(event)
        record(state, step, "alerting", f"alert.{event.to_state}", event, now_us)
        if not event.incident_id:
            return
        incident = step.incidents.get(event.incident_id) or state.incidents.get(event.incident_id)
        if incident is None:
            incident = Incident(
                incident_id=event.incident_id,
                fingerprint=alert.fingerprint,
                rule=rule.name,
                severity=rule.severity,
                started_at_us=event.started_at_us or event.ts_us,
                labels=alert.labels,
            )
        if event.to_state == "resolved":
            incident = msgspec.structs.replace(incident, resolved_at_us=event.ts_us)
        if event.to_state in _TOLD and event.reason != "relapsed":
            acted = acted_on(state, event.incident_id)
            line = alert_line(rule, event, acted)
            incident = self.tell(incident, event.to_state, line, event.ts_us)
        step.incidents[incident.incident_id] = incident
        if event.reason == "breach_held":
            known = (*state.actions.values(), *(a for a in step.actions.values() if a))
            action = policy.decide(rule, alert, known, self.limits, now_us)
            if action is not None and action.event.action_id not in state.actions:
                self.advance(state, step, action, now_us)

    def advance(
        self, state: State, step: Step, action: Action, now_us: int, actor: str = "alerting"
    ) -> None:
        """Record an action's new status everywhere: topic, audit, the incident's history."""
        event = action.event
        step.actions[event.action_id] = action
        step.action_events.append(event)
        record(state, step, actor, f"action.{event.status}", event, now_us)
        incident = step.incidents.get(event.incident_id) or state.incidents.get(event.incident_id)
        if incident is not None and event.status != "delivering":
            transition_name = f"action.{event.status}"
            step.incidents[incident.incident_id] = self.tell(
                incident, transition_name, action_line(event), event.ts_us
            )

    def settle(
        self,
        state: State,
        action: Action,
        *,
        drained: bool,
        now_us: int,
        actor: str = "alerting",
    ) -> Step:
        """What an action's new status changes. ``drained``: its ``from`` has no traffic now."""
        step = Step()
        self.advance(state, step, action, now_us, actor)
        alert = state.alerts.get(action.fingerprint)
        if drained and alert is not None and alert.incident_id == action.event.incident_id:
            step.alerts[alert.fingerprint] = msgspec.structs.replace(alert, drained=True)
            step.durable.add(alert.fingerprint)
        return step

    def tell(self, incident: Incident, transition_name: str, text: str, at_us: int) -> Incident:
        """Leave one notification due per receiver; one that is there already stays as it is."""
        known = {notification.key for notification in incident.notifications}
        fresh = [
            Notification(key=key, receiver=receiver, text=text, at_us=at_us, due_at_us=at_us)
            for receiver in self.notifiers
            if (key := notification_key(incident.incident_id, transition_name, at_us, receiver))
            not in known
        ]
        notifications = (*incident.notifications, *fresh)
        excess = len(notifications) - NOTIFICATIONS_MAX
        if excess > 0:
            old = [n.key for n in notifications if n.status in ("sent", "failed")][:excess]
            notifications = tuple(n for n in notifications if n.key not in old)
        return msgspec.structs.replace(incident, notifications=notifications)

    @staticmethod
    def _forget(state: State, step: Step, alert: Alert) -> None:
        step.alerts[alert.fingerprint] = None
        step.durable.add(alert.fingerprint)
        for incident in state.incidents.values():
            if incident.fingerprint == alert.fingerprint:
                step.incidents[incident.incident_id] = None
        for action in state.actions.values():
            if action.fingerprint == alert.fingerprint and action.final:
                step.actions[action.event.action_id] = None


def _lasting(alert: Alert) -> tuple[object, ...]:
    """What must survive a restart: everything but the numbers of the last signal."""
    return (
        alert.state,
        alert.breached_at_us,
        alert.cleared_at_us,
        alert.started_at_us,
        alert.drained,
    )


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


def acted_on(state: State, incident_id: str) -> ActionEvent | None:
    """The delivered action of an incident, if there is one."""
    for action in state.actions.values():
        event = action.event
        if event.incident_id == incident_id and event.status == "delivered":
            return event
    return None


def record(
    state: State,
    step: Step,
    actor: str,
    name: str,
    what: AlertEvent | ActionEvent,
    now_us: int,
) -> None:
    """Add one link to the audit chain."""
    head = step.audit_head or state.audit_head
    payload = {
        key: value
        for key, value in msgspec.to_builtins(what).items()
        if key not in ("type",) and value is not None
    }
    step.audit_head, entry = audit.append(head, actor, name, payload, now_us)
    step.audit_entries.append(entry)
