"""One token names one row set: replays add nothing, to the table and to the views behind it."""

from __future__ import annotations

import datetime as dt

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

SETTINGS = "SETTINGS non_replicated_deduplication_window = 1000"
DAY = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
ROWS: list[tuple[dt.datetime, str, int]] = [
    (DAY + SECOND, "x", 1),
    (DAY + 2 * SECOND, "x", 2),
    (DAY + 86_402 * SECOND, "y", 3),
]


def make_tables(client: Client) -> None:
    client.command(
        "CREATE TABLE base (ts DateTime('UTC'), k String, v UInt64) ENGINE = MergeTree "
        f"PARTITION BY toDate(ts) ORDER BY (k, ts) {SETTINGS}"
    )
    for name in ("minutes", "hours"):
        client.command(
            f"CREATE TABLE {name} (b DateTime('UTC'), k String, "
            "n SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree "
            f"ORDER BY (k, b) {SETTINGS}"
        )
    client.command(
        "CREATE MATERIALIZED VIEW to_minutes TO minutes AS SELECT toStartOfMinute(base.ts) AS b, "
        "k, count() AS n FROM base GROUP BY b, k"
    )
    client.command(
        "CREATE MATERIALIZED VIEW to_hours TO hours AS SELECT toStartOfHour(minutes.b) AS b, k, "
        "sum(minutes.n) AS n FROM minutes GROUP BY b, k"
    )


def insert(
    client: Client, token: str, rows: list[tuple[dt.datetime, str, int]] | None = None
) -> None:
    client.insert(
        "base",
        rows or ROWS,
        column_names=["ts", "k", "v"],
        settings={"insert_deduplication_token": token},
    )


def counts(client: Client) -> tuple[int, int, int]:
    row = client.query(
        "SELECT (SELECT count() FROM base), (SELECT sum(n) FROM minutes), "
        "(SELECT sum(n) FROM hours)"
    ).first_row
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def test_the_same_token_counts_once_everywhere(client: Client) -> None:
    make_tables(client)
    for _ in range(3):
        insert(client, "topic-0-0-2")
    assert counts(client) == (3, 3, 3)


def test_another_token_counts_even_with_the_same_rows(client: Client) -> None:
    make_tables(client)
    insert(client, "topic-0-0-2")
    insert(client, "topic-0-3-5")
    assert counts(client) == (6, 6, 6)


def test_a_replay_after_a_view_failed_fills_the_view_and_only_the_view(client: Client) -> None:
    make_tables(client)
    client.command("DROP TABLE to_hours SYNC")
    client.command("CREATE TABLE gate (closed UInt8) ENGINE = MergeTree ORDER BY closed")
    client.command("INSERT INTO gate VALUES (1)")
    client.command(
        "CREATE MATERIALIZED VIEW to_hours TO hours AS SELECT toStartOfHour(minutes.b) AS b, k, "
        "sum(minutes.n) + throwIf((SELECT max(closed) FROM gate) = 1, 'closed') AS n "
        "FROM minutes GROUP BY b, k"
    )
    with pytest.raises(DatabaseError, match="closed"):
        insert(client, "topic-0-0-2")
    client.command("TRUNCATE TABLE gate")
    client.command("INSERT INTO gate VALUES (0)")
    insert(client, "topic-0-0-2")
    insert(client, "topic-0-0-2")
    assert counts(client) == (3, 3, 3)


def test_a_block_over_many_partitions_counts_once(client: Client) -> None:
    make_tables(client)
    days = [DAY - dt.timedelta(days=number) for number in range(20)]
    rows = [(days[i % 20], f"k{i % 7}", i) for i in range(20_000)]
    insert(client, "topic-1-0-19999", rows)
    insert(client, "topic-1-0-19999", rows)
    assert counts(client) == (20_000, 20_000, 20_000)
