"""Whether a firing alert may ask for an action, and if not, why not.

Every firing alert whose rule names an action gets exactly one decision, recorded either way.
This file refuses to send, and refuses to decide without a reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting.history import number
from alerting.identity import action_id
from alerting.machine import Alert
from alerting.rules import SECOND_US, Rule
from alerting.state import Action, Delivery
from redline.records import ActionEvent, ActionKind, ActionStatus

ROLLBACKS_PER_HOUR = 1
HOUR_US = 3_600 * SECOND_US


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every action, whatever its rule says."""

    frozen: bool = False  # the kill switch
    expiry_us: int = 300 * SECOND_US
    cooldown_us: int = 1_800 * SECOND_US
    receivers: dict[str, tuple[ActionKind, ...]] = {}  # by name, the kinds each accepts


def decide(
    rule: Rule, alert: Alert, actions: Iterable[Action], limits: Limits, now_us: int
) -> Action | None:
    """The action that ``alert``, which just began to fire, asks for; None if its rule has none.

    ``now_us`` is the wall clock: an alert that is replayed late asks for an action that has
    expired, because a late rollback can undo a good release.
    """
    if rule.action == "none":
        return None
    target = alert.labels.get("model", "")
    at_us = alert.changed_at_us
    expires_at_us = at_us + limits.expiry_us
    receivers = [name for name, kinds in limits.receivers.items() if rule.action in kinds]
    status, reason = _judge(
        rule, rule.action, target, alert, list(actions), limits, receivers, now_us
    )
    if status == "proposed" and now_us >= expires_at_us:
        status, reason = "expired", "the alert is older than the action may be"
    event = ActionEvent(
        ts_us=at_us,
        action_id=action_id(alert.incident_id, rule.action, target),
        incident_id=alert.incident_id,
        kind=rule.action,
        mode=rule.mode,
        status=status,
        target=target,
        from_state=alert.labels.get("version", ""),
        reason=reason,
        expires_at_us=expires_at_us,
    )
    sends = status == "proposed" and rule.mode in ("auto", "dry_run")
    return Action(
        event=event,
        fingerprint=alert.fingerprint,
        proposed_at_us=at_us,
        deliveries=open_deliveries(rule.action, limits, at_us) if sends else (),
    )


def open_deliveries(kind: ActionKind, limits: Limits, now_us: int) -> tuple[Delivery, ...]:
    """One delivery per receiver that accepts ``kind``, due at once."""
    return tuple(
        Delivery(receiver=name, due_at_us=now_us)
        for name, kinds in limits.receivers.items()
        if kind in kinds
    )


def _judge(
    rule: Rule,
    kind: ActionKind,
    target: str,
    alert: Alert,
    actions: list[Action],
    limits: Limits,
    receivers: list[str],
    now_us: int,
) -> tuple[ActionStatus, str]:
    value, limit = number(alert.value, rule.signal), number(rule.above, rule.signal)
    why = f"{rule.signal} is {value}, limit {limit}"
    if not target:
        return "refused", "the alert has no model label: no target"
    if kind == "rollback" and not alert.labels.get("version"):
        return "refused", "the alert has no version label: nothing to roll back from"
    if rule.mode == "observe":
        return "proposed", f"{why}; mode observe: nothing is sent"
    if limits.frozen:
        return "refused", "the kill switch is on (alerting.actions_frozen)"
    if not receivers:
        return "refused", f"no webhook in alerting.webhooks accepts {kind}"
    if rule.mode == "dry_run":
        return "proposed", f"{why}; dry run"
    return _judge_caps(kind, target, actions, limits, why, now_us)


def _judge_caps(
    kind: ActionKind,
    target: str,
    actions: list[Action],
    limits: Limits,
    why: str,
    now_us: int,
) -> tuple[ActionStatus, str]:
    same = [
        action
        for action in actions
        if action.event.target == target and action.event.mode in ("auto", "approve")
    ]
    in_flight = [action for action in same if not action.final]
    if in_flight:
        return "refused", f"action {in_flight[0].event.action_id} on {target} is in flight"
    acted = [action for action in same if action.acted]
    last_us = max((action.event.ts_us for action in acted), default=None)
    if last_us is not None and now_us - last_us < limits.cooldown_us:
        left_s = (limits.cooldown_us - (now_us - last_us)) / SECOND_US
        return "refused", f"cooldown of {target}: {left_s:.0f} s left"
    rollbacks = [
        action
        for action in acted
        if action.event.kind == "rollback" and now_us - action.event.ts_us < HOUR_US
    ]
    if kind == "rollback" and len(rollbacks) >= ROLLBACKS_PER_HOUR:
        return "refused", f"{target} was rolled back within the last hour"
    return "proposed", why
