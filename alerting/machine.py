"""The alert machine. Everything that decides an alert's state is the table in this file.

                 breach            breach_held
    inactive ───────────> pending ─────────────> firing <────────────┐
        ^                    │                   │    ^ breach       │ breach
        └────────────────────┘             clear │    │ (relapsed)   │
              clear, nodata_long                 v    │              │
                                              recovering ──────> nodata
                             resolved <───────────┘   nodata_long    │ clear: recovering
                                      clear_held                     v

States after Prometheus (inactive, pending, firing; keep_firing_for) and Grafana (recovering,
nodata). No-data never resolves an open incident, never makes a pending alert fire, and the time
without data counts neither towards ``for`` nor towards ``keep_firing_for``.

Time is event time: the signal's own. A signal that is not newer than the last one is ignored, so
duplicates and late arrivals change nothing. This file refuses clocks, and refuses to notify.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from alerting.identity import incident_id
from alerting.rules import Observation, Rule
from redline.errors import Fault
from redline.records import AlertEvent, AlertState, Severity

Input = Literal[
    "breach", "breach_held", "between", "clear", "clear_held",
    "nodata", "nodata_long", "nodata_fires", "learning", "drained", "drained_held", "removed",
    "closed",
]  # fmt: skip


class Reason(StrEnum):
    """Why the state changed. The values are in the alerts table: add, never rename."""

    BREACHED = "breached"
    BREACH_HELD = "breach_held"
    NOT_HELD = "breach_not_held"
    CLEARED = "cleared"
    CLEAR_HELD = "clear_held"
    RELAPSED = "relapsed"
    NO_DATA = "no_data"
    NO_DATA_WHILE_PENDING = "no_data_while_pending"
    DATA_RETURNED = "data_returned"
    LEARNING = "baseline_learning"
    LEARNED = "baseline_learned"
    VERSION_DRAINED = "version_drained"
    RULE_REMOVED = "rule_removed"
    CLOSED = "closed"  # by a person: what it watched is gone, and no data will say so
    STAYS = ""  # no transition


class IllegalMove(Fault):
    """An input that a state cannot have: a fault of the program, never of the data."""


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One alert: a rule on one series. All times are event time, µs UTC."""

    fingerprint: str
    rule: str
    labels: dict[str, str]
    severity: Severity = "ticket"
    state: AlertState = "inactive"
    threshold: float = 0.0
    value: float | None = None  # of the last signal with data
    samples: int = 0
    peak: float | None = None  # worst value of the open incident
    last_ts_us: int = 0  # of the last signal, with data or without
    seen_at_us: int = 0  # of the last signal with data
    breached_at_us: int | None = None  # since when it has breached without a gap
    cleared_at_us: int | None = None  # since when it has been clear without a gap
    started_at_us: int | None = None  # when the open or last incident began to fire
    changed_at_us: int = 0
    kept_at_us: int = 0  # last_ts_us as of the last snapshot
    incident_id: str = ""  # of the open or last incident
    drained: bool = False  # the receiver confirmed that this version gets no traffic any more

    @property
    def open(self) -> bool:
        """Whether there is an incident that is not resolved."""
        return self.state in ("firing", "recovering", "nodata")


_Row = dict[Input, tuple[AlertState, Reason]]

TRANSITIONS: dict[AlertState, _Row] = {
    "inactive": {
        "breach": ("pending", Reason.BREACHED),
        "breach_held": ("firing", Reason.BREACH_HELD),  # a rule with for = 0
        "between": ("inactive", Reason.STAYS),
        "clear": ("inactive", Reason.STAYS),
        "nodata": ("inactive", Reason.STAYS),
        "nodata_long": ("inactive", Reason.STAYS),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("learning", Reason.LEARNING),
        "removed": ("inactive", Reason.STAYS),
    },
    "learning": {
        "breach": ("pending", Reason.BREACHED),
        "breach_held": ("firing", Reason.BREACH_HELD),
        "between": ("inactive", Reason.LEARNED),
        "clear": ("inactive", Reason.LEARNED),
        "nodata": ("learning", Reason.STAYS),
        "nodata_long": ("learning", Reason.STAYS),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("learning", Reason.STAYS),
        "removed": ("inactive", Reason.RULE_REMOVED),
    },
    "pending": {
        "breach": ("pending", Reason.STAYS),
        "breach_held": ("firing", Reason.BREACH_HELD),
        "between": ("inactive", Reason.NOT_HELD),
        "clear": ("inactive", Reason.NOT_HELD),
        "nodata": ("pending", Reason.STAYS),
        "nodata_long": ("inactive", Reason.NO_DATA_WHILE_PENDING),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("learning", Reason.LEARNING),
        "removed": ("inactive", Reason.RULE_REMOVED),
    },
    "firing": {
        "breach": ("firing", Reason.STAYS),
        "breach_held": ("firing", Reason.STAYS),
        "between": ("firing", Reason.STAYS),
        "clear": ("recovering", Reason.CLEARED),
        "clear_held": ("resolved", Reason.CLEAR_HELD),  # a rule with keep_firing_for = 0
        "nodata": ("firing", Reason.STAYS),
        "nodata_long": ("nodata", Reason.NO_DATA),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("firing", Reason.STAYS),
        "drained": ("recovering", Reason.VERSION_DRAINED),
        "drained_held": ("resolved", Reason.VERSION_DRAINED),
        "removed": ("resolved", Reason.RULE_REMOVED),
        "closed": ("resolved", Reason.CLOSED),
    },
    "recovering": {
        "breach": ("firing", Reason.RELAPSED),
        "breach_held": ("firing", Reason.RELAPSED),
        "between": ("recovering", Reason.STAYS),
        "clear": ("recovering", Reason.STAYS),
        "clear_held": ("resolved", Reason.CLEAR_HELD),
        "nodata": ("recovering", Reason.STAYS),
        "nodata_long": ("nodata", Reason.NO_DATA),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("recovering", Reason.STAYS),
        "drained": ("recovering", Reason.STAYS),
        "drained_held": ("resolved", Reason.VERSION_DRAINED),
        "removed": ("resolved", Reason.RULE_REMOVED),
        "closed": ("resolved", Reason.CLOSED),
    },
    "nodata": {
        "breach": ("firing", Reason.DATA_RETURNED),
        "breach_held": ("firing", Reason.DATA_RETURNED),
        "between": ("firing", Reason.DATA_RETURNED),
        "clear": ("recovering", Reason.DATA_RETURNED),
        "clear_held": ("resolved", Reason.CLEAR_HELD),
        "nodata": ("nodata", Reason.STAYS),
        "nodata_long": ("nodata", Reason.STAYS),
        "nodata_fires": ("nodata", Reason.STAYS),
        "learning": ("nodata", Reason.STAYS),
        "drained": ("recovering", Reason.VERSION_DRAINED),
        "drained_held": ("resolved", Reason.VERSION_DRAINED),
        "removed": ("resolved", Reason.RULE_REMOVED),
        "closed": ("resolved", Reason.CLOSED),
    },
    "resolved": {
        "breach": ("pending", Reason.BREACHED),
        "breach_held": ("firing", Reason.BREACH_HELD),
        "between": ("resolved", Reason.STAYS),
        "clear": ("resolved", Reason.STAYS),
        "nodata": ("resolved", Reason.STAYS),
        "nodata_long": ("resolved", Reason.STAYS),
        "nodata_fires": ("nodata", Reason.NO_DATA),
        "learning": ("resolved", Reason.STAYS),
        "drained": ("resolved", Reason.STAYS),
        "drained_held": ("resolved", Reason.STAYS),
        "removed": ("resolved", Reason.STAYS),
    },
}  # fmt: skip

_OPENING: frozenset[tuple[AlertState, AlertState]] = frozenset(
    (before, after)
    for before in ("inactive", "learning", "pending", "resolved")
    for after in ("firing", "nodata")
)


def transition(
    rule: Rule, alert: Alert, observation: Observation, now_us: int
) -> tuple[Alert, tuple[AlertEvent, ...]]:
    """Move ``alert`` by one observation at event time ``now_us``; the events say what and why.

    Raises:
        IllegalMove: the table has no such move.
    """
    if observation.ts_us is not None:
        if observation.ts_us <= alert.last_ts_us:
            return alert, ()
        alert = msgspec.structs.replace(alert, last_ts_us=observation.ts_us)
    after, given = _account(rule, alert, observation, now_us)
    row = TRANSITIONS[alert.state]
    if given not in row:
        raise IllegalMove(f"alert {alert.fingerprint}: {given!r} in state {alert.state!r}")
    state, reason = row[given]
    if reason is Reason.STAYS:
        return after, ()
    after = _enter(after, alert.state, state, now_us)
    return after, (_event(rule, after, alert.state, reason, now_us),)


def _account(
    rule: Rule, alert: Alert, observation: Observation, now_us: int
) -> tuple[Alert, Input]:
    """Bring the alert's timers up to date, and name the observation in their light."""
    kind = observation.kind
    if kind == "nodata":
        # A gap: neither the breach nor the calm before it is known to have lasted.
        after = msgspec.structs.replace(alert, breached_at_us=None, cleared_at_us=None)
        if now_us - alert.seen_at_us < rule.nodata_after_us:
            return after, "nodata"
        return after, "nodata_fires" if rule.on_nodata == "fire" else "nodata_long"
    if kind in ("removed", "closed"):
        return alert, "removed" if kind == "removed" else "closed"
    if kind == "learning":
        return msgspec.structs.replace(alert, breached_at_us=None, cleared_at_us=None), "learning"
    if kind == "drained":
        after = msgspec.structs.replace(
            alert, breached_at_us=None, cleared_at_us=alert.cleared_at_us or now_us
        )
    else:
        after = _see(rule, alert, observation, now_us)
    if kind == "breach":
        since = after.breached_at_us or now_us
        return after, "breach_held" if now_us - since >= rule.for_us else "breach"
    if kind == "between":
        return after, "between"
    held = now_us - (after.cleared_at_us or now_us) >= rule.keep_firing_for_us
    if kind == "drained":
        return after, "drained_held" if held else "drained"
    return after, "clear_held" if held and alert.open else "clear"


def _see(rule: Rule, alert: Alert, observation: Observation, now_us: int) -> Alert:
    """Take in a number. Across a gap of ``nodata_after`` nothing is known to have lasted."""
    gap = now_us - alert.seen_at_us >= rule.nodata_after_us
    breached_at_us = None if gap else alert.breached_at_us
    cleared_at_us = None if gap else alert.cleared_at_us
    breach = observation.kind == "breach"
    peak = alert.peak
    if breach:
        known = peak if alert.open or alert.breached_at_us is not None else None
        peak = max(value for value in (known, observation.value) if value is not None)
    return msgspec.structs.replace(
        alert,
        value=observation.value,
        samples=observation.samples,
        peak=peak,
        seen_at_us=now_us,
        breached_at_us=(breached_at_us or now_us) if breach else None,
        cleared_at_us=(cleared_at_us or now_us) if observation.kind == "clear" else None,
        drained=alert.drained and (alert.open or not breach),
    )


def _enter(alert: Alert, before: AlertState, state: AlertState, now_us: int) -> Alert:
    changed = msgspec.structs.replace(alert, state=state, changed_at_us=now_us)
    if (before, state) in _OPENING:
        return msgspec.structs.replace(
            changed,
            started_at_us=now_us,
            incident_id=incident_id(alert.fingerprint, now_us),
            drained=False,
        )
    return changed


def _event(rule: Rule, alert: Alert, before: AlertState, reason: Reason, now_us: int) -> AlertEvent:
    incident = alert.open or alert.state == "resolved"
    return AlertEvent(
        ts_us=now_us,
        fingerprint=alert.fingerprint,
        incident_id=alert.incident_id if incident else "",
        rule=rule.name,
        from_state=before,
        to_state=alert.state,
        reason=reason.value,
        severity=rule.severity,
        labels=alert.labels,
        value=alert.value,
        threshold=rule.above,
        breached_at_us=alert.breached_at_us,
        started_at_us=alert.started_at_us if incident else None,
    )
