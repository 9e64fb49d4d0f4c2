"""How every room reaches ClickHouse: one client, from settings. It refuses to hold any SQL."""

from __future__ import annotations

from typing import Any

import clickhouse_connect
from clickhouse_connect.driver import options
from clickhouse_connect.driver.client import Client

from redline.settings import ClickHouseSettings, Secrets

# The client imports pandas, pyarrow and polars with its first insert wherever they are installed:
# 60 MB and a second in every process. No room uses data frames.
for _frame_library in ("pd", "pd_time_test", "arrow", "pl"):
    setattr(options, _frame_library, None)

# Sent explicitly: their server defaults differ between versions.
INSERT_SETTINGS: dict[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}


def connect(
    clickhouse: ClickHouseSettings,
    secrets: Secrets,
    *,
    database: str | None = None,
    receive_timeout_s: int = 60,
) -> Client:
    """A connected client. It is not thread-safe: one a thread.

    Raises:
        clickhouse_connect.driver.exceptions.Error: the server cannot be reached or refuses.
    """
    return clickhouse_connect.get_client(
        host=clickhouse.host,
        port=clickhouse.port,
        username=clickhouse.username,
        password=secrets.clickhouse_password.get_secret_value(),
        database=clickhouse.database if database is None else database,
        interface="https" if clickhouse.secure else "http",
        compress="lz4",
        autogenerate_session_id=False,
        connect_timeout=5,
        send_receive_timeout=receive_timeout_s,
    )
