"""One connection of the in-process engine, with the state that HTTP requests put on it.

Not thread-safe: one request at a time. The engine releases the interpreter lock while it works.
This file refuses to know HTTP.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

    ``base_settings`` hold for every request; a request's own come over them, and go again when a
    later request does not bring them. So equal requests cost no SET at all. ``connect`` is
    ``chdb.connect``.
    """

    def __init__(
        self, connect: Any, address: str, database: str, base_settings: Mapping[str, str]
    ) -> None:
        self._raw = connect(address)
        self.database = database
        self._current_database = ""
        self._base = dict(base_settings)
        self._in_force: dict[str, str] = {}  # what was set on the raw connection
        self._uncertain = False

    def prepare(self, database: str, settings: Mapping[str, str]) -> None:
        """Select the database and bring exactly these settings, over the base, into force.

        Raises:
            chdb.ChdbError: an unknown database or setting; the next call puts things right.
        """
        wanted_database = database or self.database
        if wanted_database != self._current_database:
            self._raw.query(f"USE {_quote_name(wanted_database)}")
            self._current_database = wanted_database
        if self._uncertain:
            self._set_one_by_one()
        wanted = {**self._base, **settings}
        changes = [
            f"{name} = {_quote(value)}"
            for name, value in wanted.items()
            if self._in_force.get(name) != value
        ] + [f"{name} = DEFAULT" for name in self._in_force if name not in wanted]
        if changes:
            self._uncertain, self._in_force = True, self._in_force | wanted
            self._raw.query("SET " + ", ".join(changes))
            self._uncertain, self._in_force = False, wanted

    def adopt(self, verb: str) -> None:
        """After a session's own SET or USE: what it changed holds for its later requests."""
        if verb == "SET":
            text = self._fetch_text("SELECT name, value FROM system.settings WHERE changed")
            rows = (line.split("\t", 1) for line in text.splitlines())
            self._base = {name: value for name, value in rows if name not in _FIXED_BY_ENGINE}
            self._in_force = dict(self._base)
        elif verb == "USE":
            self.database = self._current_database = self._fetch_text("SELECT currentDatabase()")

    def _set_one_by_one(self) -> None:
        """After a SET that failed, nobody knows how far it came: forget every name alone."""
        for name in self._in_force:
            with suppress(RuntimeError):  # the name that did not exist
                self._raw.query(f"SET {name} = DEFAULT")
        self._uncertain, self._in_force = False, {}

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


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quote_name(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
