"""Redline alerting's own metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Every metric of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.signals = Counter(
            "redline_alerting_signals_total", "Signals evaluated.", registry=self.registry
        )
        self.invalid = Counter(
            "redline_alerting_invalid_total", "Messages dead-lettered.", registry=self.registry
        )
        self.series_refused = Counter(
            "redline_alerting_series_refused_total",
            "Signals ignored because the limit of alerts is reached.",
            registry=self.registry,
        )
        self.transitions = Counter(
            "redline_alerting_transitions_total",
            "Transitions of alerts.",
            ["rule", "to_state"],
            registry=self.registry,
        )
        self.actions = Counter(
            "redline_alerting_actions_total",
            "Steps of actions.",
            ["kind", "status"],
            registry=self.registry,
        )
        self.notifications = Counter(
            "redline_alerting_notifications_total",
            "Attempts to notify.",
            ["receiver", "outcome"],
            registry=self.registry,
        )
        self.notification_latency_s = Histogram(
            "redline_alerting_notification_latency_seconds",
            "From the transition, in event time, to the receiver's answer.",
            ["receiver"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.alerts = Gauge(
            "redline_alerting_alerts", "Alerts by state.", ["state"], registry=self.registry
        )
        self.watermark_s = Gauge(
            "redline_alerting_watermark_seconds",
            "Event time of the newest signal, since the epoch.",
            registry=self.registry,
        )
        self.active = Gauge(
            "redline_alerting_active",
            "1 if this process owns the alerts, 0 if it stands by.",
            registry=self.registry,
        )
        self.sessions = Counter(
            "redline_alerting_sessions_total",
            "Sessions with Kafka begun; more than one a day means trouble.",
            registry=self.registry,
        )
