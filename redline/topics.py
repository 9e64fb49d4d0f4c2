"""Every Kafka topic in one table: what is in it, its key, partitions, retention, compaction.

Topics are created from this table by ``redline.kafka.create_topics`` before any consumer starts:
Faust does not create source topics, and a broker's auto-create would pick the wrong number of
partitions. This file refuses to talk to a broker.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from redline.records import (
    ActionEvent,
    AlertEvent,
    AuditEntry,
    CollectorCount,
    DeadLetter,
    DeployEvent,
    EngineSample,
    GpuSample,
    LedgerEntry,
    Pane,
    ProbeResult,
    Record,
    RequestCost,
    RequestRecord,
    Signal,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Topic(NamedTuple):
    """One topic. ``key`` says what the message key is; equal keys keep their order."""

    name: str
    record: type[Record]
    encoding: Literal["batch", "json"]
    key: str
    partitioned: bool  # True: settings.kafka.partitions; False: one partition
    cleanup: Literal["delete", "compact"]
    retention_ms: int
    max_message_bytes: int = 1_048_576


REQUESTS = Topic("redline.requests", RequestRecord, "batch", "instance", True, "delete", 7 * DAY_MS)
ENGINES = Topic("redline.engines", EngineSample, "batch", "instance", True, "delete", 2 * DAY_MS)
GPUS = Topic("redline.gpus", GpuSample, "batch", "host", True, "delete", 2 * DAY_MS)
PROBES = Topic("redline.probes", ProbeResult, "json", "target", False, "delete", 2 * DAY_MS)
DEPLOYS = Topic("redline.deploys", DeployEvent, "json", "model", False, "delete", 30 * DAY_MS)
PANES = Topic("redline.panes", Pane, "batch", "model|version", True, "delete", 2 * DAY_MS)
LEDGER = Topic("redline.ledger", LedgerEntry, "batch", "instance", True, "delete", 7 * DAY_MS)
REQUEST_COSTS = Topic(
    "redline.request-costs", RequestCost, "batch", "instance", True, "delete", 7 * DAY_MS
)
SIGNALS = Topic("redline.signals", Signal, "batch", "name", False, "delete", DAY_MS)
ALERTS = Topic("redline.alerts", AlertEvent, "json", "fingerprint", False, "delete", 30 * DAY_MS)
ACTIONS = Topic("redline.actions", ActionEvent, "json", "action_id", False, "delete", 30 * DAY_MS)
AUDIT = Topic("redline.audit", AuditEntry, "json", "audit", False, "delete", 365 * DAY_MS)
DEAD_LETTERS = Topic(
    "redline.dead-letters", DeadLetter, "json", "source", False, "delete", 30 * DAY_MS
)

COLLECTOR_COUNTS = Topic(
    "redline.collector-counts", CollectorCount, "json", "instance", False, "delete", 7 * DAY_MS
)

TOPICS: tuple[Topic, ...] = (
    REQUESTS,
    ENGINES,
    GPUS,
    PROBES,
    DEPLOYS,
    PANES,
    LEDGER,
    REQUEST_COSTS,
    SIGNALS,
    ALERTS,
    ACTIONS,
    AUDIT,
    DEAD_LETTERS,
    COLLECTOR_COUNTS,
)

# The alert machine's state: not a record of the table above but opaque snapshots by fingerprint.
ALERT_STATE_TOPIC = "redline.alert-state"


def topic_config(topic: Topic) -> dict[str, str]:
    """Kafka's own topic settings for ``topic``.

    ``LogAppendTime`` where old event times may be published (a replay of last month's log):
    with CreateTime, retention would delete those records at once.
    """
    return {
        "cleanup.policy": topic.cleanup,
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(topic.max_message_bytes),
        "message.timestamp.type": "LogAppendTime",
    }
