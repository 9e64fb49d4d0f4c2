"""The router's own metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Every metric of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "redline_router_requests_total",
            "Requests answered, by version and status code; 499: the client left.",
            ["version", "code"],
            registry=self.registry,
        )
        self.retries = Counter(
            "redline_router_retries_total",
            "Connections refused by one backend and tried on another.",
            ["version"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "redline_router_in_flight", "Requests being answered.", registry=self.registry
        )
        self.weight = Gauge(
            "redline_router_weight",
            "Share of traffic, 0 to 1.",
            ["version"],
            registry=self.registry,
        )
        self.orders = Counter(
            "redline_router_orders_total",
            "Orders received at /hooks/redline, by status code.",
            ["code"],
            registry=self.registry,
        )
        self._children: dict[tuple[str, int], Counter] = {}

    def answered(self, version: str, code: int) -> None:
        """Count one request."""
        child = self._children.get((version, code))
        if child is None:
            child = self._requests.labels(version, str(code))
            self._children[version, code] = child
        child.inc()
