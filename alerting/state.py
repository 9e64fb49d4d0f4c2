"""What alerting knows, as snapshots for the compacted state topic, and one step of change.

A step is everything that one signal or one delivery changed: snapshots to keep, records to
publish. It is applied in memory and written as one batch, so that state and consequences cannot
part. This file refuses to decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

from alerting.machine import Alert
from redline.errors import RecordInvalid
from redline.records import ActionEvent, ActionStatus, AlertEvent, AuditEntry, DeadLetter, Severity

NotificationStatus = Literal["due", "claimed", "sent", "failed"]
FINAL: frozenset[ActionStatus] = frozenset(
    ("rejected", "delivered", "failed", "expired", "refused")
)


class Notification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing to tell one receiver about one incident, and whether it was told."""

    key: str
    receiver: str
    text: str  # the line of history
    at_us: int
    status: NotificationStatus = "due"
    attempt: int = 0
    due_at_us: int = 0
    problem: str = ""


class Incident(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="incident"):
    """One occurrence of an alert, and its message. ``ts`` is Slack's name of that message."""

    incident_id: str
    fingerprint: str
    rule: str
    severity: Severity
    started_at_us: int
    labels: dict[str, str] = {}
    resolved_at_us: int | None = None
    channel: str = ""
    ts: str = ""
    notifications: tuple[Notification, ...] = ()


class Delivery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action on its way to one receiver."""

    receiver: str
    status: Literal["due", "claimed", "delivered", "failed", "expired", "refused"] = "due"
    attempt: int = 0
    due_at_us: int = 0


class Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="action"):
    """One action: its last event, and its deliveries. This is the outbox."""

    event: ActionEvent
    fingerprint: str
    proposed_at_us: int
    deliveries: tuple[Delivery, ...] = ()
    watched: bool = False  # what it brought has been judged

    @property
    def final(self) -> bool:
        """Whether nothing will be sent for it any more."""
        if self.event.status in FINAL:
            return True
        return self.event.status == "proposed" and self.event.mode == "observe"

    @property
    def acted(self) -> bool:
        """Whether it changed its target."""
        return self.event.mode in ("auto", "approve") and self.event.status == "delivered"


class AuditHead(msgspec.Struct, frozen=True, kw_only=True, tag="audit_head"):
    """The last link of the audit chain."""

    seq: int = 0
    hash: str = "0" * 64


class Journal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="journal"):
    """The records of the last step: what was not published before a crash is published after it."""

    alerts: tuple[AlertEvent, ...] = ()
    actions: tuple[ActionEvent, ...] = ()
    audit: tuple[AuditEntry, ...] = ()


class AlertSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="alert_state"):
    """An alert as it is kept."""

    alert: Alert


Snapshot = AlertSnapshot | Incident | Action | AuditHead | Journal

_V = TypeVar("_V")
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Snapshot] = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """A snapshot as JSON."""
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """Read a snapshot.

    Raises:
        RecordInvalid: not a snapshot of this build or an older one.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"alert state: {error}") from error


class Step:
    """What one input changed. ``None`` forgets the key."""

    def __init__(self) -> None:
        self.alerts: dict[str, Alert | None] = {}
        self.durable: set[str] = set()  # the alerts that must be kept, not only remembered
        self.incidents: dict[str, Incident | None] = {}
        self.actions: dict[str, Action | None] = {}
        self.audit_head: AuditHead | None = None
        self.alert_events: list[AlertEvent] = []
        self.action_events: list[ActionEvent] = []
        self.audit_entries: list[AuditEntry] = []
        self.dead_letters: list[DeadLetter] = []
        self.series_refused = 0  # past the limit of alerts; counted by the shell

    def absorb(self, later: Step) -> None:
        """Take in a step that came after this one, so that both are written at once."""
        self.alerts.update(later.alerts)
        self.durable |= later.durable
        self.incidents.update(later.incidents)
        self.actions.update(later.actions)
        self.audit_head = later.audit_head or self.audit_head
        self.alert_events += later.alert_events
        self.action_events += later.action_events
        self.audit_entries += later.audit_entries
        self.dead_letters += later.dead_letters
        self.series_refused += later.series_refused

    @property
    def is_empty(self) -> bool:
        """Whether nothing needs to be written."""
        return not (
            self.durable or self.incidents or self.actions or self.audit_head or self.dead_letters
        )

    def snapshots(self) -> list[tuple[bytes, bytes | None]]:
        """Keys and values for the compacted topic, the journal of this step last."""
        rows: list[tuple[bytes, bytes | None]] = []
        for name in sorted(self.durable):
            alert = self.alerts[name]
            rows.append(
                (f"alert/{name}".encode(), encode(AlertSnapshot(alert=alert)) if alert else None)
            )
        for kind, changed in (("incident", self.incidents), ("action", self.actions)):
            for key, value in changed.items():
                rows.append((f"{kind}/{key}".encode(), encode(value) if value else None))
        if self.audit_head is not None:
            rows.append((b"audit", encode(self.audit_head)))
        journal = Journal(
            alerts=tuple(self.alert_events),
            actions=tuple(self.action_events),
            audit=tuple(self.audit_entries),
        )
        rows.append((b"journal", encode(journal)))
        return rows


class State:
    """Everything that alerting knows. One writer at a time owns it."""

    def __init__(self) -> None:
        self.alerts: dict[str, Alert] = {}
        self.incidents: dict[str, Incident] = {}
        self.actions: dict[str, Action] = {}
        self.audit_head = AuditHead()
        self.journal = Journal()
        self.watermark_us = 0
        self.swept_at_us = 0

    @classmethod
    def restore(cls, rows: Iterable[tuple[bytes, bytes | None]]) -> State:
        """Fold the compacted topic, oldest row first.

        Raises:
            RecordInvalid: a value cannot be read.
        """
        last: dict[bytes, bytes | None] = dict(rows)
        state = cls()
        for value in last.values():
            if value is None:
                continue
            match decode(value):
                case AlertSnapshot(alert=alert):
                    state.alerts[alert.fingerprint] = alert
                case Incident() as incident:
                    state.incidents[incident.incident_id] = incident
                case Action() as action:
                    state.actions[action.event.action_id] = action
                case AuditHead() as head:
                    state.audit_head = head
                case Journal() as journal:
                    state.journal = journal
        return state

    def actions_of(self, incident_id: str) -> list[ActionEvent]:
        """The last event of each action of an incident, oldest action first."""
        found = [a for a in self.actions.values() if a.event.incident_id == incident_id]
        return [action.event for action in sorted(found, key=lambda a: a.proposed_at_us)]

    def apply(self, step: Step) -> None:
        """Make ``step`` true in memory."""
        _merge(self.alerts, step.alerts)
        _merge(self.incidents, step.incidents)
        _merge(self.actions, step.actions)
        if step.audit_head is not None:
            self.audit_head = step.audit_head


def _merge(kept: dict[str, _V], changed: dict[str, _V | None]) -> None:
    for key, value in changed.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = value
