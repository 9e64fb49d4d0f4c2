"""The one writer of ClickHouse. Inserts run in threads, one client each, and retry until they land.

An insert that fails because ClickHouse is away, full or restarting is tried again with back-off,
for ever: the caller does not acknowledge before it returns, so nothing is lost and back-pressure
reaches Kafka. An insert whose values fit no column is refused with RecordInvalid, at once.

Blocks are the caller's: one message, one block, with a deduplication token; absolute rows carry a
revision. This file refuses to merge, split or reorder them.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DataError

from redline.clickhouse import INSERT_SETTINGS, connect
from redline.errors import RecordInvalid
from redline.log import get_logger
from redline.records import Pane, Record
from redline.settings import ClickHouseSettings, Secrets
from streams.metrics import Metrics
from streams.rows import PANE_COLUMNS, TABLES, panes_row_binary, to_columns

_THREADS = 3
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 5.0
_ROWS_MAX = 20_000
# the client could not even encode the block: another try cannot help
_UNFIT = (DataError, struct.error, OverflowError)


class Warehouse:
    """Inserts and queries from a small pool of threads. Close it at the end."""

    def __init__(self, clickhouse: ClickHouseSettings, secrets: Secrets, metrics: Metrics) -> None:
        self._clickhouse = clickhouse
        self._secrets = secrets
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="clickhouse")
        self._local = threading.local()
        self.failing_since_s: float | None = None

    async def insert_message(
        self, records: Sequence[Record], topic: str, at: tuple[int, int]
    ) -> None:
        """One Kafka message as one block; ``at``: its partition and offset, which are its token.

        Raises:
            RecordInvalid: a value fits no column.
        """
        if not records:
            return
        token = f"{topic}-{at[0]}-{at[1]}"
        await self._land(
            TABLES[type(records[0])].name,
            len(records),
            lambda client: self._insert(client, records, at, token),
        )

    async def insert_absolute(self, records: Sequence[Record]) -> None:
        """Rows that carry their own identity and revision: panes, ledger lines, request costs."""
        for low in range(0, len(records), _ROWS_MAX):
            part = records[low : low + _ROWS_MAX]
            await self._land(
                TABLES[type(part[0])].name,
                len(part),
                lambda client, part=part: self._insert(client, part, None, ""),  # type: ignore[misc]
            )

    async def query(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        """Rows of one SELECT; one try.

        Raises:
            clickhouse_connect.driver.exceptions.Error: it failed.
        """

        def ask() -> Sequence[Sequence[Any]]:
            return self._client().query(sql, parameters=parameters).result_rows

        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)

    def close(self) -> None:
        """Stop the threads; an insert under way is left to finish by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _land(self, table: str, rows: int, work: Callable[[Client], None]) -> None:
        loop = asyncio.get_running_loop()
        wait_s = _BACKOFF_FIRST_S
        started_s = loop.time()

        def once() -> None:
            work(self._client())

        while True:
            try:
                await loop.run_in_executor(self._pool, once)
            except _UNFIT as error:
                raise RecordInvalid(f"table {table}: {error}") from error
            except Exception as error:  # whatever it is, giving up would lose the block
                self._metrics.insert_failures.labels(table).inc()
                if self.failing_since_s is None:
                    self.failing_since_s = loop.time()
                    get_logger().warning(
                        "streams.insert_failed", table=table, reason=str(error)[:500]
                    )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _BACKOFF_MAX_S)
                continue
            if self.failing_since_s is not None:
                get_logger().info("streams.insert_recovered", table=table)
                self.failing_since_s = None
            self._metrics.inserted_rows.labels(table).inc(rows)
            self._metrics.insert_seconds.labels(table).observe(loop.time() - started_s)
            return

    def _insert(
        self, client: Client, records: Sequence[Record], at: tuple[int, int] | None, token: str
    ) -> None:
        table = TABLES[type(records[0])]
        settings = dict(INSERT_SETTINGS)
        if token:
            settings["insert_deduplication_token"] = token
        if table.record is Pane:
            body = panes_row_binary(records)  # type: ignore[arg-type]
            client.raw_insert(table.name, PANE_COLUMNS, body, settings=settings, fmt="RowBinary")
            return
        types = self._column_types(client, table.name, table.columns)
        client.insert(
            table.name,
            to_columns(records, at),
            column_names=table.columns,
            column_types=types,
            column_oriented=True,
            settings=settings,
        )

    def _column_types(self, client: Client, table: str, columns: Sequence[str]) -> Any:
        """The server's own types, asked once a thread; the client would ask before each insert."""
        known = self._local.types
        if table not in known:
            known[table] = client.create_insert_context(table, columns).column_types
        return known[table]

    def _client(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = connect(self._clickhouse, self._secrets)
            self._local.client = client
            self._local.types = {}
        return client
