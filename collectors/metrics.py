"""The collector's own numbers, in a registry of its own. It refuses global metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """Every metric of this room; one object a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lines = self._counter("log_lines", "Log lines read, malformed ones included")
        self.dead_letters = self._counter("log_dead_letters", "Malformed or overlong log lines")
        self.lost_lines = self._counter(
            "log_lost_lines", "Numbers missing in the writers' sequences"
        )
        self.writer_restarts = self._counter(
            "log_writer_restarts", "Times that a writer's sequence began anew"
        )
        self.writer_dropped = self._counter(
            "log_writer_dropped", "Requests that the writers say they could not log"
        )
        self.truncations = self._counter(
            "log_truncations", "Log files cut or written over while they were read"
        )
        self.lost_files = self._counter(
            "log_lost_files", "Rotated files that were deleted before they were read"
        )
        self.unread_bytes = self._gauge(
            "log_unread_bytes", "Bytes in log files that are not read yet: the spool's depth"
        )
        self.logs = self._gauge("logs", "Logs that are followed")
        self.directory_errors = self._gauge(
            "log_directory_errors", "Directories that cannot be listed now"
        )
        self.messages = self._counter("published_messages", "Messages acknowledged", "topic")
        self.records = self._counter("published_records", "Records acknowledged", "topic")
        self.publish_failures = self._counter(
            "publish_failures", "Publishes that failed and were sorted out by reading Kafka back"
        )
        self.recovered = self._counter(
            "recovered_messages", "Messages found in Kafka that the checkpoint did not know"
        )
        self.samples_dropped = self._counter(
            "samples_dropped", "Samples dropped because the buffer was full", "topic"
        )
        self.spool_bytes = self._gauge("sample_spool_bytes", "Bytes of samples that wait on disk")
        self.spool_full = self._gauge(
            "sample_spool_full", "1 while samples are dropped because the spool is full: page on it"
        )
        self.spool_damaged_bytes = self._gauge(
            "sample_spool_damaged_bytes", "Bytes of the spool that could not be read back"
        )
        self.scrapes = self._counter("engine_scrapes", "Scrapes of engines", "instance", "result")
        self.engine_restarts = self._counter(
            "engine_restarts", "Times that an engine's counters began anew", "instance"
        )
        self.probes = self._counter("probes", "Probes by their result", "target", "kind", "result")
        self.target_healthy = self._gauge(
            "probe_target_healthy", "1 or 0, by the thresholds", "target", "region"
        )
        self.region_healthy = self._gauge(
            "region_healthy", "1 while more than 18 % of the region's targets are", "region"
        )
        self.region_failover_s = self._gauge(
            "region_failover_s", "Worst case from a loss until clients go elsewhere", "region"
        )
        self.gpus = self._gauge("gpus", "GPUs that answer")
        self.gpus_lost = self._gauge("gpus_lost", "GPUs that fell off the bus or need a reset")
        self.gpu_xids = self._counter("gpu_xids", "XID errors, by their number", "xid")
        self.gpu_energy_resets = self._counter(
            "gpu_energy_resets", "Times that a GPU's energy counter went back"
        )
        self.gpu_failures = self._counter("gpu_failures", "Calls to NVML that failed", "reason")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"redline_collectors_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"redline_collectors_{name}", text, labels, registry=self.registry)
