"""What Redline did, read from the store: alerts and actions as they arrive there.

Reading them from ClickHouse and not from Kafka shows that the whole way works. This file refuses
to interpret more than it needs to tell the story.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

_ALERTS = """
    SELECT ts, rule, to_state, labels, value, threshold, breached_at, reason, incident_id
    FROM alerts FINAL WHERE ts >= fromUnixTimestamp64Micro({since_us:Int64}) ORDER BY ts
"""
_ACTIONS = """
    SELECT ts, action_id, kind, status, target, from_state, signature_verified, detail
    FROM actions FINAL WHERE ts >= fromUnixTimestamp64Micro({since_us:Int64}) ORDER BY ts
"""


class AlertRow(NamedTuple):
    """One transition."""

    ts: datetime
    rule: str
    to_state: str
    labels: dict[str, str]
    value: float | None
    threshold: float | None
    breached_at: datetime | None
    reason: str
    incident_id: str

    @property
    def told(self) -> str:
        """For the terminal."""
        where = " ".join(f"{key}={value}" for key, value in sorted(self.labels.items()))
        number = "" if self.value is None else f" {self.value:,.6g} against {self.threshold:,.6g}"
        return f"alert {self.to_state}: {self.rule} {where}{number}"


class ActionRow(NamedTuple):
    """One step of one action."""

    ts: datetime
    action_id: str
    kind: str
    status: str
    target: str
    from_state: str
    signature_verified: bool | None
    detail: str

    @property
    def told(self) -> str:
        """For the terminal."""
        return (
            f"{self.kind} of {self.target} {self.from_state}: {self.status} {self.detail}".strip()
        )


class Events:
    """Everything that happened since ``since_us``; ``fresh`` gives what is new at each call."""

    def __init__(self, since_us: int) -> None:
        self._parameters: dict[str, Any] = {"since_us": since_us}
        self._seen: set[tuple[object, ...]] = set()
        self.alerts: list[AlertRow] = []
        self.actions: list[ActionRow] = []

    def refresh(self, client: Client) -> list[AlertRow | ActionRow]:
        """Read both tables; return the rows that were not there before."""
        self.alerts = [
            AlertRow(*row) for row in client.query(_ALERTS, parameters=self._parameters).result_rows
        ]
        self.actions = [
            ActionRow(*row)
            for row in client.query(_ACTIONS, parameters=self._parameters).result_rows
        ]
        fresh: list[AlertRow | ActionRow] = []
        everything: list[AlertRow | ActionRow] = [*self.alerts, *self.actions]
        for row in sorted(everything, key=lambda row: row.ts):
            if isinstance(row, AlertRow):
                key: tuple[object, ...] = (row.ts, row.incident_id, row.to_state)
            else:
                key = (row.ts, row.action_id, row.status)
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(row)
        return fresh
