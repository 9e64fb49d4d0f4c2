"""The page's own metrics, in a registry of their own. This file refuses global state."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class PageMetrics:
    """What the page measures of itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clients = Gauge(
            "redline_dashboards_clients", "Open event streams.", registry=self.registry
        )
        self.refused = Counter(
            "redline_dashboards_clients_refused",
            "Event streams refused because all places were taken.",
            registry=self.registry,
        )
        self.polls = Counter(
            "redline_dashboards_polls",
            "Polls of ClickHouse by result.",
            ["result"],
            registry=self.registry,
        )
        self.query_seconds = Histogram(
            "redline_dashboards_query_seconds",
            "Time of one query to ClickHouse.",
            ["query"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
            registry=self.registry,
        )

    def count_poll(self, result: str) -> None:
        """One poll ended as ``result``: read or failed."""
        self.polls.labels(result).inc()

    def observe_query(self, query: str, seconds: float) -> None:
        """One query took ``seconds``."""
        self.query_seconds.labels(query).observe(seconds)
