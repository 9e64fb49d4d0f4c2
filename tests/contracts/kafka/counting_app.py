"""A Faust application that counts per key: a group, a table with a changelog, an output topic.

Run by ``test_faust`` as a process of its own: ``python -m tests.contracts.kafka.counting_app``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import faust


def build(bootstrap: str, name: str, data_dir: str) -> Any:
    """The application; topics ``NAME-in`` and ``NAME-out`` exist already."""
    app = faust.App(
        name,
        broker=f"kafka://{bootstrap}",
        datadir=data_dir,
        web_enabled=False,
        topic_partitions=2,
        topic_disable_leader=True,
        table_standby_replicas=0,
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_commit_interval=0.5,
        producer_linger=0.02,
    )
    source = app.topic(f"{name}-in", key_type=bytes, value_type=bytes, value_serializer="raw")
    out = app.topic(f"{name}-out", key_type=bytes, value_type=bytes, value_serializer="raw")
    counts = app.Table("counts", key_type=bytes, value_type=int, partitions=2)

    @app.agent(source)
    async def count(stream: Any) -> None:
        async for key, _ in stream.items():
            counts[key] = counts.get(key, 0) + 1
            await out.send(key=key, value=b"%d" % counts[key])

    return app


if __name__ == "__main__":
    bootstrap, name, data_dir = sys.argv[1:4]
    sys.argv[1:] = ["worker", "-l", "warn"]
    os.environ.setdefault("NO_COLOR", "1")
    build(bootstrap, name, data_dir).main()
