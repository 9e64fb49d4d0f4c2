"""The Faust application as this room uses it: group membership, assignment, table, offsets.

The settings are what measurement left over: the defaults wait 60 s for a dead worker, double the
state, and buffer thousands of batches. It refuses the web server, windows and exactly-once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faust

from redline.kafka import client_options
from redline.settings import Secrets, Settings

APP_ID = "redline-streams"
# Small segments that are compacted soon: a worker reads the whole changelog before it is ready,
# about 10,000 messages a second, and the defaults would let it grow for a week.
CHANGELOG_CONFIG = {
    "cleanup.policy": "compact",
    "segment.bytes": str(4 * 1024 * 1024),
    "segment.ms": "300000",
    "min.cleanable.dirty.ratio": "0.2",
    "delete.retention.ms": "600000",
}


def faust_app(settings: Settings, secrets: Secrets) -> Any:
    """A configured, empty Faust application. Its data directory holds nothing of value."""
    options = client_options(settings.kafka, secrets)
    credentials: Any = None
    if settings.kafka.security_protocol.startswith("SASL"):
        credentials = faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    elif "ssl_context" in options:
        credentials = faust.SSLCredentials(options["ssl_context"])
    return faust.App(
        APP_ID,
        broker=[f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=credentials,
        datadir=str(Path(settings.data_dir) / "streams"),
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=settings.kafka.partitions,
        topic_replication_factor=settings.kafka.replication_factor,
        topic_disable_leader=True,
        table_standby_replicas=0,
        table_cleanup_interval=3600.0,
        broker_commit_interval=1.0,
        broker_session_timeout=settings.streams.session_timeout_s,
        broker_heartbeat_interval=max(0.5, settings.streams.session_timeout_s / 10),
        broker_max_poll_interval=600.0,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        producer_linger=0.02,
        web_enabled=False,
    )
