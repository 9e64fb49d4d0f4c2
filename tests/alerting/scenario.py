"""A timed language for scenarios: ``world.at(3, signal)`` and ``world.told(between=(30, 31))``.

The world is the real cores with a clock that is moved by hand: engine, state, outbox, snapshots.
What would be sent is written down with the second at which it became due.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from alerting import outbox
from alerting.engine import Engine
from alerting.policy import Limits
from alerting.rules import SECOND_US, Rule
from alerting.state import Incident, State, Step
from redline.records import ActionEvent, AlertEvent, AuditEntry, Signal

T0_US = 1_800_000_000 * SECOND_US
SLACK = "slack"
WEBHOOK = "router"
P99 = Rule(
    name="p99",
    signal="p99_latency_ms",
    above=5_000,
    for_us=30 * SECOND_US,
    min_samples=20,
    severity="page",
    action="rollback",
    mode="auto",
)
OPEN = Limits(receivers={WEBHOOK: ("rollback", "scale")})


def p99(value: float | None, version: str = "v2", samples: int = 100, model: str = "m") -> Signal:
    """A signal without a time; the world stamps it."""
    return Signal(
        ts_us=0,
        name="p99_latency_ms",
        value=value,
        window_s=60,
        labels={"model": model, "version": version},
        samples=samples if value is not None else 0,
    )


class World:
    """One owner of the alerts, with everything that it wrote."""

    def __init__(self, rules: Iterable[Rule] = (P99,), limits: Limits = OPEN) -> None:
        self.engine = Engine(rules, limits, [SLACK])
        self.state = State()
        self.topic: list[tuple[bytes, bytes | None]] = []  # the compacted state topic
        self.alerts: list[AlertEvent] = []
        self.actions: list[ActionEvent] = []
        self.audit: list[AuditEntry] = []
        self.messages: list[tuple[float, str, str]] = []  # second, incident, line
        self.orders: list[tuple[float, str]] = []  # second, action id
        self.reply = outbox.Reply(http_status=200, detail="ok", applied=True)

    def at(self, second: float, *signals: Signal) -> None:
        """Signals come at this second, and everything that is due is sent."""
        now_us = T0_US + round(second * SECOND_US)
        for signal in signals:
            stamped = msgspec.structs.replace(signal, ts_us=now_us)
            self.take(stamped, now_us)
        self.send(second)

    def take(self, signal: Signal, now_us: int) -> None:
        """One signal as it is, then the sweep."""
        self.commit(self.engine.evaluate(self.state, signal, now_us))
        self.state.watermark_us = max(self.state.watermark_us, signal.ts_us)
        self.commit(self.engine.sweep(self.state, self.state.watermark_us, now_us))

    def every_second(self, first: int, last: int, *signals: Signal) -> None:
        """The same signals at each second from ``first`` to ``last``."""
        for second in range(first, last + 1):
            self.at(second, *signals)

    def commit(self, step: Step) -> None:
        """As the writer does."""
        self.state.apply(step)
        if step.is_empty:
            return
        self.topic += step.snapshots()
        self.alerts += step.alert_events
        self.actions += step.action_events
        self.audit += step.audit_entries

    def send(self, second: float) -> None:
        """Deliver what is due at this second."""
        now_us = T0_US + round(second * SECOND_US)
        while due := outbox.due_notifications(self.state, SLACK, now_us):
            incident, notification = due[0]
            self._keep_incident(outbox.claim_notification(incident, notification.key))
            self.messages.append((second, incident.incident_id, notification.text))
            incident = self.state.incidents[incident.incident_id]
            self._keep_incident(outbox.notification_sent(incident, notification.key, "C", "1.1"))
        settle = self.engine.consequences.settle
        while actions := outbox.due_actions(self.state.actions.values(), WEBHOOK, now_us):
            if now_us >= actions[0].event.expires_at_us:
                late = outbox.expire_action(actions[0], WEBHOOK, "too late", now_us)
                self.commit(settle(self.state, late, now_us=now_us))
                continue
            claimed = outbox.claim_action(actions[0], WEBHOOK, now_us)
            self.commit(settle(self.state, claimed, now_us=now_us))
            self.orders.append((second, claimed.event.action_id))
            done = outbox.settle_action(claimed, WEBHOOK, self.reply, 0.0, now_us)
            drained = self.reply.drained
            self.commit(settle(self.state, done, drained=drained, now_us=now_us))

    def _keep_incident(self, incident: Incident) -> None:
        step = Step()
        step.incidents[incident.incident_id] = incident
        self.commit(step)

    def restart(self) -> None:
        """Forget everything that was not written."""
        watermark_us = self.state.watermark_us
        self.state = State.restore(self.topic)
        self.state.watermark_us = watermark_us

    def path(self, version: str = "v2") -> list[str]:
        """The states that an alert went through."""
        return [alert.to_state for alert in self.alerts if alert.labels["version"] == version]

    def told(self, between: tuple[float, float]) -> list[str]:
        """The lines that were sent in this time."""
        return [line for second, _, line in self.messages if between[0] <= second <= between[1]]
