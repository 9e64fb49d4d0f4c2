"""Reads ClickHouse in threads, one client a thread, read-only and with a time limit.

This file refuses to write, to retry and to keep results: a caller that fails asks again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from redline.errors import Fault
from redline.queries import Query

Rows = list[dict[str, Any]]

THREADS = 2  # the poller has one, clients that ask for history share the other
EXECUTION_TIME_S = 5
RECEIVE_TIMEOUT_S = 8
READ_SETTINGS: dict[str, Any] = {"readonly": 1, "max_execution_time": EXECUTION_TIME_S}

_WITHOUT_SCHEMA = ("UNKNOWN_TABLE", "UNKNOWN_DATABASE", "Code: 60.", "Code: 81.")


class StoreAway(Fault):
    """ClickHouse did not answer with what was asked. Both texts are for the page."""

    def __init__(self, headline: str, reason: str) -> None:
        super().__init__(f"{headline}: {reason}")
        self.headline = headline
        self.reason = reason


class Reader:
    """Runs queries. ``connect`` makes the client of one thread."""

    def __init__(
        self, connect: Callable[[], Client], observe: Callable[[str, float], None] | None = None
    ) -> None:
        self._connect = connect
        self._observe = observe
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="clickhouse")

    async def read(self, queries: Mapping[str, Query]) -> dict[str, Rows]:
        """The rows of each query, in one thread, one after the other.

        Raises:
            StoreAway: a query failed or took too long; then there is no result of any.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read, dict(queries))

    def close(self) -> None:
        """Let threads end; running queries are limited by their own time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, queries: dict[str, Query]) -> dict[str, Rows]:
        try:
            client: Client | None = getattr(self._local, "client", None)
            if client is None:
                client = self._local.client = self._connect()
            return {name: self._rows(client, name, query) for name, query in queries.items()}
        except (ClickHouseError, OSError) as error:
            self._forget()
            raise StoreAway(*_explain(error)) from error

    def _rows(self, client: Client, name: str, query: Query) -> Rows:
        began = time.perf_counter()
        result = client.query(query.sql, parameters=query.parameters, settings=READ_SETTINGS)
        if self._observe is not None:
            self._observe(name, time.perf_counter() - began)
        names = result.column_names
        return [dict(zip(names, row, strict=True)) for row in result.result_rows]

    def _forget(self) -> None:
        """Drop this thread's client: a connection that failed once is not trusted again."""
        client = getattr(self._local, "client", None)
        self._local.client = None
        if client is not None:
            client.close()


def _explain(error: Exception) -> tuple[str, str]:
    """A headline and a sentence, without addresses or SQL: people read them on the page."""
    text = str(error)
    if any(mark in text for mark in _WITHOUT_SCHEMA):
        return "The store is empty", "It has no Redline tables yet. Fix: run `redline migrate`."
    if "TIMEOUT_EXCEEDED" in text or "timed out" in text.lower() or "Timeout" in text:
        return "The store is slow", f"ClickHouse took longer than {EXECUTION_TIME_S} s to answer."
    if "AUTHENTICATION" in text or "Code: 516." in text:
        return (
            "The store refuses the page",
            "Wrong user or password. Fix: set REDLINE_CLICKHOUSE_PASSWORD.",
        )
    if "refused" in text or "Failed to establish" in text or "Max retries" in text:
        return "Reconnecting to the store", "ClickHouse does not answer; the page asks again."
    first = text.splitlines()[0][:160] if text else type(error).__name__
    return "The store fails", f"ClickHouse says: {first}"
