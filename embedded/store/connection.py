"""One connection of the in-process engine, with the state that HTTP requests put on it.

Not thread-safe: one request at a time. The engine releases the interpreter lock while it works.
This file refuses to know HTTP.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded.store.statement import InsertData


@dataclass(frozen=True, slots=True)
class Rows:
    """A formatted result and what reading it took."""

    body: bytes
    result_rows: int
    result_bytes: int
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """What an INSERT wrote, rows of the views behind the table included."""

    rows: int
    bytes: int


class EngineConnection:
    """A connection that knows its database and its settings.

    ``base_settings`` hold for every request; a request's own are set over them and taken back by
    ``restore``. ``connect`` is ``chdb.connect``.
    """

    def __init__(
        self, connect: Any, address: str, database: str, base_settings: Mapping[str, str]
    ) -> None:
        self._raw = connect(address)
        self.database = database
        self._current_database = ""
        self._base = dict(base_settings)
        self._overridden: list[str] = []

    def prepare(self, database: str, settings: Mapping[str, str], *, first: bool) -> None:
        """Select the database and apply settings; ``first`` sets the base settings as well.

        Raises:
            chdb.ChdbError: an unknown database or setting.
        """
        wanted = database or self.database
        if wanted != self._current_database:
            self._raw.query(f"USE {_quote_name(wanted)}")
            self._current_database = wanted
        merged = {**self._base, **settings} if first else dict(settings)
        self._overridden = list(settings)
        if merged:
            self._raw.query(_set_statement(merged))

    def make_readonly(self) -> None:
        """From now on this connection only reads; nothing can undo it."""
        self._raw.query("SET readonly = 1")

    def query(self, sql: str, output_format: str, parameters: Mapping[str, str]) -> Rows:
        """Run a statement to its end.

        Raises:
            chdb.ChdbError: with ClickHouse's "Code: N. DB::Exception: …" text.
        """
        result = self._raw.query(sql, output_format, params=dict(parameters))
        return Rows(
            body=result.bytes() or b"",
            result_rows=result.rows_read(),
            result_bytes=result.bytes_read(),
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
        )

    def insert(
        self, insert: InsertData, data: memoryview, parameters: Mapping[str, str]
    ) -> Written:
        """Run an INSERT on ``data``; when this returns, the table and the views behind it have it.

        The data goes in as a file that lives in memory. chDB's ``send_insert`` would spare that,
        but it reports success when a constraint, a view or the partition limit has stopped the
        insert (chdb-core 26.9; the contract suite holds this path to it).

        Raises:
            chdb.ChdbError: with ClickHouse's "Code: N. DB::Exception: …" text in it.
        """
        with _readable_path(data) as path:
            result = self._raw.query(
                f"{insert.target} FROM INFILE {_quote(path)} COMPRESSION 'none' "
                f"{insert.settings} FORMAT {insert.format}",
                "Null",
                params=dict(parameters),
            )
        return Written(rows=result.rows_written(), bytes=result.bytes_written())

    def restore(self, *, session_statement: str = "") -> None:
        """Take the last request's settings back.

        ``session_statement`` is the verb of what ran: after USE or SET, the session's own state
        is read back from the engine, because it holds for later requests.
        """
        if self._overridden:
            self._raw.query(
                "SET "
                + ", ".join(
                    f"{name} = {_quote(self._base[name]) if name in self._base else 'DEFAULT'}"
                    for name in self._overridden
                )
            )
            self._overridden = []
        if session_statement == "SET":
            text = self._fetch_text("SELECT name, value FROM system.settings WHERE changed")
            rows = (line.split("\t", 1) for line in text.splitlines())
            self._base = {name: value for name, value in rows if name not in _FIXED_BY_ENGINE}
        elif session_statement == "USE":
            self.database = self._current_database = self._fetch_text("SELECT currentDatabase()")

    def close(self) -> None:
        """Release the connection; repeated calls do nothing."""
        self._raw.close()

    def _fetch_text(self, sql: str) -> str:
        return (self._raw.query(sql, "TSVRaw").bytes() or b"").decode().rstrip("\n")


# Changed by chDB itself on every connection; setting them again is refused or without sense.
_FIXED_BY_ENGINE = frozenset(["database", "storage_file_read_method", "implicit_select"])


@contextmanager
def _readable_path(data: memoryview) -> Iterator[str]:
    """A path under which this process can read ``data`` while the block lasts."""
    if sys.platform == "linux":
        handle = os.memfd_create("insert", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{handle}"
    else:
        handle, path = tempfile.mkstemp(prefix="redline-insert-")
    try:
        left = data
        while left:
            left = left[os.write(handle, left) :]
        yield path
    finally:
        os.close(handle)
        if sys.platform != "linux":
            Path(path).unlink()


def _set_statement(values: Mapping[str, str]) -> str:
    return "SET " + ", ".join(f"{name} = {_quote(value)}" for name, value in values.items())


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
