"""What follows from a transition or from an action's new status, in this order:

    audit -> incident -> notifications -> action -> its audit and notifications

Grouping, silences and inhibition belong between incident and notifications; approvals between
action and delivery. This file refuses to evaluate signals and to send.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting import audit, policy
from alerting.history import action_line, alert_line
from alerting.identity import notification_key
from alerting.machine import Alert, Reason
from alerting.policy import Limits
from alerting.rules import Rule
from alerting.state import Action, Incident, Notification, State, Step
from redline.records import ActionEvent, AlertEvent

NOTIFICATIONS_MAX = 64  # of one incident; the oldest that were sent are forgotten first
_TOLD = frozenset(("firing", "nodata", "resolved"))


class Consequences:
    """The limits and receivers, which stay; state and step are arguments."""

    def __init__(self, limits: Limits, notifiers: Iterable[str]) -> None:
        self.limits = limits
        self.notifiers = tuple(notifiers)

    def follow(
        self,
        state: State,
        step: Step,
        rule: Rule,
        alert: Alert,
        event: AlertEvent,
        now_us: int,
        actor: str = "alerting",
    ) -> None:
        """What one transition of ``alert`` leads to."""
        step.alert_events.append(event)
        record(state, step, actor, f"alert.{event.to_state}", event, now_us)
        if not event.incident_id:
            return
        incident = _incident(state, step, event.incident_id) or Incident(
            incident_id=event.incident_id,
            fingerprint=alert.fingerprint,
            rule=rule.name,
            severity=rule.severity,
            started_at_us=event.started_at_us or event.ts_us,
            labels=alert.labels,
        )
        if event.to_state == "resolved":
            incident = msgspec.structs.replace(incident, resolved_at_us=event.ts_us)
        if event.to_state in _TOLD and event.reason != Reason.RELAPSED:
            line = alert_line(rule, event, acted_on(state, event.incident_id))
            incident = self.tell(incident, event.to_state, line, event.ts_us)
        step.incidents[incident.incident_id] = incident
        # Only a breach that was seen to last asks for an action: never the absence of data.
        if event.reason == Reason.BREACH_HELD:
            known = {**state.actions, **step.actions}
            others = [action for action in known.values() if action is not None]
            action = policy.decide(rule, alert, others, self.limits, now_us)
            if action is not None and action.event.action_id not in known:
                self.advance(state, step, action, now_us)

    def advance(
        self, state: State, step: Step, action: Action, now_us: int, actor: str = "alerting"
    ) -> None:
        """Record an action's new status everywhere: topic, audit, the incident's history."""
        event = action.event
        step.actions[event.action_id] = action
        step.action_events.append(event)
        record(state, step, actor, f"action.{event.status}", event, now_us)
        incident = _incident(state, step, event.incident_id)
        if incident is not None and event.status != "delivering":
            step.incidents[incident.incident_id] = self.tell(
                incident, f"action.{event.status}", action_line(event), event.ts_us
            )

    def settle(
        self,
        state: State,
        action: Action,
        *,
        drained: bool = False,
        actor: str = "alerting",
        now_us: int,
    ) -> Step:
        """What an action's new status changes. ``drained``: its ``from`` has no traffic now."""
        step = Step()
        self.advance(state, step, action, now_us, actor)
        alert = state.alerts.get(action.fingerprint)
        if drained and alert is not None and alert.incident_id == action.event.incident_id:
            step.alerts[alert.fingerprint] = msgspec.structs.replace(alert, drained=True)
            step.durable.add(alert.fingerprint)
        return step

    def tell(self, incident: Incident, transition: str, text: str, at_us: int) -> Incident:
        """Leave one notification due per receiver; one that is there already stays as it is."""
        known = {notification.key for notification in incident.notifications}
        keys = [
            (receiver, notification_key(incident.incident_id, transition, at_us, receiver))
            for receiver in self.notifiers
        ]
        notifications = (
            *incident.notifications,
            *(
                Notification(key=key, receiver=receiver, text=text, at_us=at_us, due_at_us=at_us)
                for receiver, key in keys
                if key not in known
            ),
        )
        excess = max(0, len(notifications) - NOTIFICATIONS_MAX)
        told = [n.key for n in notifications if n.status in ("sent", "failed")][:excess]
        return msgspec.structs.replace(
            incident, notifications=tuple(n for n in notifications if n.key not in told)
        )


def _incident(state: State, step: Step, incident_id: str) -> Incident | None:
    return step.incidents.get(incident_id) or state.incidents.get(incident_id)


def acted_on(state: State, incident_id: str) -> ActionEvent | None:
    """The action of an incident that changed something, if there is one."""
    for action in state.actions.values():
        if action.acted and action.event.incident_id == incident_id:
            return action.event
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
        if key != "type" and value is not None
    }
    step.audit_head, entry = audit.append(head, actor, name, payload, now_us)
    step.audit_entries.append(entry)
