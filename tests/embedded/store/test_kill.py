"""kill -9 loses no acknowledged insert, and replays with the same tokens count nothing twice."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from clickhouse_connect.driver.client import Client

from tests.embedded.store.process import StoreProcess

ROWS_PER_BLOCK = 500
KILLS = 4


def make_tables(client: Client) -> None:
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    client.command(
        "CREATE TABLE base (day Date, block UInt32, n UInt32) ENGINE = MergeTree "
        f"PARTITION BY day ORDER BY (block, n) {window}"
    )
    client.command(
        "CREATE TABLE sums (block UInt32, c UInt64) ENGINE = SummingMergeTree ORDER BY block "
        + window
    )
    client.command(
        "CREATE MATERIALIZED VIEW to_sums TO sums AS "
        "SELECT block, count() AS c FROM base GROUP BY block"
    )


def insert(client: Client, block: int) -> None:
    """Block ``block``: always the same rows, over three partitions, under the same token."""
    import datetime as dt

    days = [dt.date(2026, 11, 20 + i % 3) for i in range(ROWS_PER_BLOCK)]
    client.insert(
        "base",
        [days, [block] * ROWS_PER_BLOCK, list(range(ROWS_PER_BLOCK))],
        column_names=["day", "block", "n"],
        column_oriented=True,
        settings={"insert_deduplication_token": f"topic-0-{block}"},
    )


class Writer(threading.Thread):
    """Inserts block after block until the store is gone; ``acknowledged`` counts answers."""

    def __init__(self, client: Client, first: int) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.acknowledged = first
        self.start()

    def run(self) -> None:
        try:
            while True:
                insert(self.client, self.acknowledged)
                self.acknowledged += 1
        except Exception as error:  # the store was killed under it
            self.error = error


def test_every_acknowledged_block_is_there_exactly_once(tmp_path: Path) -> None:
    generator = random.Random(11)
    acknowledged = 0
    for kill in range(KILLS):
        with StoreProcess(tmp_path / "data") as store:
            client = store.client(query_retries=0)
            if kill == 0:
                make_tables(client)
            blocks = client.query("SELECT block, count() FROM base GROUP BY block").result_rows
            kept = {int(block): int(rows) for block, rows in blocks}
            for block in range(acknowledged):
                assert kept.get(block) == ROWS_PER_BLOCK, f"block {block} was acknowledged"
            writer = Writer(client, max(0, acknowledged - 3))  # replay some that were acknowledged
            goal = acknowledged + generator.randint(2, 12)
            deadline_s = time.monotonic() + 20
            while writer.acknowledged < goal and time.monotonic() < deadline_s:
                time.sleep(generator.random() * 0.01)
            store.kill()
            writer.join(20)
            assert not writer.is_alive()
            acknowledged = max(acknowledged, writer.acknowledged)
    assert acknowledged >= 2 * KILLS
    with StoreProcess(tmp_path / "data") as store:
        client = store.client()
        for block in range(acknowledged + 1):  # the one in flight too
            insert(client, block)
        expected = (acknowledged + 1) * ROWS_PER_BLOCK
        row = client.query(
            "SELECT (SELECT count() FROM base), (SELECT uniqExact(block, n) FROM base), "
            "(SELECT sum(c) FROM sums), (SELECT count() FROM system.detached_parts)"
        ).first_row
        assert row == (expected, expected, expected, 0)
        assert store.terminate() == 0
