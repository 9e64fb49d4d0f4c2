"""What the worker says about itself to Prometheus; one registry per process, none global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """All counters of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"redline_streams_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"redline_streams_{name}", text, labels, registry=self.registry)

        self.messages = counter("messages", "Kafka messages processed", "topic")
        self.records = counter("records", "Records processed", "topic")
        self.replayed = counter("replayed_messages", "Messages that were delivered before", "topic")
        self.dead_letters = counter("dead_letters", "Records that could not be read", "topic")
        self.inserted_rows = counter("inserted_rows", "Rows written to ClickHouse", "table")
        self.insert_failures = counter("insert_failures", "Inserts that had to be retried", "table")
        self.loop_failures = counter("loop_failures", "Errors that a loop survived", "loop")
        self.capped = gauge(
            "capped_records", "Records in __other__: series_max is hit", "partition"
        )
        self.holes = gauge("offset_holes", "Offsets that the log does not have", "partition")
        self.seeks = counter("seeks", "Times that the consumer had to go back", "topic")
        self.too_late = gauge("too_late_records", "Records too late for any pane", "partition")
        self.unpriced_windows = gauge("unpriced_windows", "Windows without a price", "partition")
        self.unpriced_residences = gauge(
            "unpriced_residences", "Residences too late for any correction", "partition"
        )
        self.corrections = gauge("corrected_requests", "Requests priced by correction", "partition")
        self.open_windows = gauge("open_windows", "Provisional ledger windows", "partition")
        self.panes = gauge("panes", "Panes held", "partition")
        self.pending = gauge("pending_messages", "Messages not yet acknowledged", "partition")
        self.watermark = gauge("watermark_seconds", "Event time reached", "partition")
        self.ready = gauge("ready", "1 when partitions are assigned and state is restored")
        self.checkpoint_seconds = Histogram(
            "redline_streams_checkpoint_seconds", "Time to deliver a checkpoint",
            registry=self.registry,
        )  # fmt: skip
        self.insert_seconds = Histogram(
            "redline_streams_insert_seconds", "Time to land an insert, retries included", ["table"],
            registry=self.registry,
        )  # fmt: skip
