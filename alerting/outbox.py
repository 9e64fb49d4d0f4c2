"""The outbox: what is due, what a claim does, what an outcome does. Claim before send, always.

    due --claim--> claimed --outcome--> sent | due again later | failed

A claim that has no outcome (the process died in between) is due again: the receiver may see it
twice, under the same id. Actions retry for two minutes and never after their expiry;
notifications retry for a day. This file refuses to send and to draw random numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting.rules import SECOND_US
from alerting.state import Action, Delivery, Incident, Notification, State
from redline.records import ActionStatus

# From one attempt to the next. Later than this, a rollback answers a question nobody asks any more.
ACTION_DELAYS_S = (0, 2, 5, 15, 30, 60)
NOTIFICATION_DELAY_S_MAX = 300
NOTIFICATION_AGE_US_MAX = 24 * 3_600 * SECOND_US
JITTER_SHARE = 0.2
DETAIL_CHARACTERS_MAX = 300


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one attempt to deliver an action. ``http_status`` None: nobody answered."""

    http_status: int | None = None
    detail: str = ""
    signature_verified: bool | None = None
    applied: bool | None = None
    drained: bool = False  # the receiver says that ``from`` has no weight any more
    retry_after_s: float | None = None


def due_notifications(
    state: State, receiver: str, now_us: int
) -> list[tuple[Incident, Notification]]:
    """What ``receiver`` should be told now, oldest first; of one incident only the oldest."""
    found = []
    for incident in state.incidents.values():
        for notification in incident.notifications:
            if notification.receiver == receiver and notification.status in ("due", "claimed"):
                if notification.due_at_us <= now_us:
                    found.append((incident, notification))
                break  # a later line never overtakes an earlier one
    return sorted(found, key=lambda pair: (pair[1].due_at_us, pair[1].at_us, pair[1].key))


def claim_notification(incident: Incident, key: str) -> Incident:
    """Before sending."""
    before = _named(incident, key)
    claimed = msgspec.structs.replace(before, status="claimed", attempt=before.attempt + 1)
    return _replace(incident, claimed)


def notification_sent(incident: Incident, key: str, channel: str, ts: str) -> Incident:
    """After sending; ``ts`` names the incident's message from now on."""
    sent = msgspec.structs.replace(_named(incident, key), status="sent", problem="")
    return msgspec.structs.replace(_replace(incident, sent), channel=channel, ts=ts)


def notification_failed(
    incident: Incident, key: str, problem: str, retry_after_s: float | None, now_us: int
) -> Incident:
    """After an attempt that failed: later again, up to a day."""
    before = _named(incident, key)
    delay_s = max(min(2.0**before.attempt, NOTIFICATION_DELAY_S_MAX), retry_after_s or 0)
    due_at_us = now_us + int(delay_s * SECOND_US)
    over = due_at_us - before.at_us > NOTIFICATION_AGE_US_MAX
    failed = msgspec.structs.replace(
        before, status="failed" if over else "due", due_at_us=due_at_us, problem=problem
    )
    return _replace(incident, failed)


def _named(incident: Incident, key: str) -> Notification:
    return next(n for n in incident.notifications if n.key == key)


def _replace(incident: Incident, notification: Notification) -> Incident:
    return msgspec.structs.replace(
        incident,
        notifications=tuple(
            notification if n.key == notification.key else n for n in incident.notifications
        ),
    )


def due_actions(actions: Iterable[Action], receiver: str, now_us: int) -> list[Action]:
    """The actions that ``receiver`` should get now, oldest first."""
    found = [
        action
        for action in actions
        if not action.final
        and any(
            d.receiver == receiver and d.status in ("due", "claimed") and d.due_at_us <= now_us
            for d in action.deliveries
        )
    ]
    return sorted(found, key=lambda action: action.proposed_at_us)


def claim_action(action: Action, receiver: str, now_us: int) -> Action:
    """Before sending."""
    before = _delivery(action, receiver)
    claimed = msgspec.structs.replace(before, status="claimed", attempt=before.attempt + 1)
    return _step(action, claimed, "delivering", now_us, detail=f"to {receiver}")


def expire_action(action: Action, receiver: str, why: str, now_us: int) -> Action:
    """Instead of sending: it is too late, or not allowed any more."""
    late = msgspec.structs.replace(_delivery(action, receiver), status="expired")
    return _step(action, late, "expired", now_us, detail=f"{receiver}: not sent, {why}")


def settle_action(
    action: Action, receiver: str, reply: Reply, jitter: float, now_us: int
) -> Action:
    """After an attempt. ``jitter``, 0 to 1, spreads the retries of many senders.

    2xx is success; 409 and 410 are the receiver's last word; everything else is tried again
    until the attempts or the action's time are used up.
    """
    before = _delivery(action, receiver)
    status = reply.http_status
    if status is not None and 200 <= status < 300:
        if reply.applied is False and action.event.mode != "dry_run":
            unwilling = msgspec.structs.replace(before, status="refused")
            return _step(action, unwilling, "refused", now_us, reply.detail, reply)
        done = msgspec.structs.replace(before, status="delivered")
        return _step(action, done, "delivered", now_us, reply.detail, reply)
    if status == 409:
        refused = msgspec.structs.replace(before, status="refused")
        return _step(action, refused, "refused", now_us, reply.detail, reply)
    if status == 410:
        expired = msgspec.structs.replace(before, status="expired")
        return _step(action, expired, "expired", now_us, reply.detail, reply)
    if before.attempt >= len(ACTION_DELAYS_S):
        failed = msgspec.structs.replace(before, status="failed")
        detail = f"{before.attempt} attempts, the last: {reply.detail}"
        return _step(action, failed, "failed", now_us, detail, reply)
    delay_s = ACTION_DELAYS_S[before.attempt] * (1 + JITTER_SHARE * jitter)
    due_at_us = now_us + int(max(delay_s, reply.retry_after_s or 0) * SECOND_US)
    if due_at_us >= action.event.expires_at_us:
        failed = msgspec.structs.replace(before, status="failed")
        detail = f"expires before the next attempt; the last: {reply.detail}"
        return _step(action, failed, "failed", now_us, detail, reply)
    later = msgspec.structs.replace(before, status="due", due_at_us=due_at_us)
    return _step(action, later, "delivering", now_us, reply.detail, reply)


def _delivery(action: Action, receiver: str) -> Delivery:
    return next(d for d in action.deliveries if d.receiver == receiver)


def _step(
    action: Action,
    delivery: Delivery,
    status: ActionStatus,
    now_us: int,
    detail: str,
    reply: Reply | None = None,
) -> Action:
    deliveries = tuple(
        delivery if d.receiver == delivery.receiver else d for d in action.deliveries
    )
    waiting = any(d.status in ("due", "claimed") for d in deliveries)
    failed = [d.status for d in deliveries if d.status not in ("due", "claimed", "delivered")]
    if waiting:
        status = "delivering"
    elif failed:
        status = "failed" if "failed" in failed else failed[0]  # type: ignore[assignment]
    event = msgspec.structs.replace(
        action.event,
        ts_us=now_us,
        status=status,
        attempt=delivery.attempt,
        http_status=reply.http_status if reply else None,
        signature_verified=reply.signature_verified if reply else None,
        detail=detail[:DETAIL_CHARACTERS_MAX],
    )
    return msgspec.structs.replace(action, event=event, deliveries=deliveries)


def is_overdue(action: Action, now_us: int) -> bool:
    """Whether it waited for approval until it was too late."""
    event = action.event
    waits = event.status == "proposed" and event.mode == "approve"
    return waits and now_us >= event.expires_at_us


def approve(action: Action, who: str, deliveries: tuple[Delivery, ...], now_us: int) -> Action:
    """A person said yes: it is due now."""
    event = msgspec.structs.replace(
        action.event, ts_us=now_us, status="approved", reason=f"approved by {who}"
    )
    return msgspec.structs.replace(action, event=event, deliveries=deliveries)


def close(action: Action, status: ActionStatus, why: str, now_us: int) -> Action:
    """It ends here: rejected, refused or expired."""
    event = msgspec.structs.replace(action.event, ts_us=now_us, status=status, reason=why)
    return msgspec.structs.replace(action, event=event)
