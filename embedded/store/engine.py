"""The in-process engine (chDB) behind the HTTP interface. One process owns one directory.

Blocking and thread-safe: a request gets a connection of its own (0.2 ms), or its session's. The
engine's own ``default`` database is a trap (it reads files by name, and tables made in it are hard
to move), so the store works in an Atomic database of its own and ``default`` means that one.
This file refuses to know HTTP, and to be used after a fork, which the engine does not survive.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedded.store.connection import EngineConnection
from embedded.store.limits import Limits, default_query_settings, engine_config_xml
from embedded.store.native import asks_greeting, greeting_block
from embedded.store.policy import check_request
from embedded.store.refusal import StoreRefusal
from embedded.store.request import Request
from embedded.store.sessions import SessionTable
from embedded.store.statement import Statement, read_statement
from redline.errors import ConfigFault
from redline.log import get_logger

OWN_DATABASE = "redline"
DISPLAY_NAME = "redline-store"
_CONFIG_FILE = "redline-engine.xml"
_LOCK_FILE = "redline-store.lock"


@dataclass(frozen=True, slots=True)
class Reply:
    """A result. ``output_format`` is None when the statement has no result set.

    ``summary`` is ClickHouse's X-ClickHouse-Summary: counts as decimal text.
    """

    body: bytes = b""
    output_format: str | None = None
    summary: dict[str, str] = field(default_factory=dict)


class Engine:
    """The engine on one directory."""

    def __init__(self, data_dir: Path, limits: Limits, *, fsync: bool = False) -> None:
        """Open the directory, create it and the own database if need be.

        Raises:
            ConfigFault: the directory cannot be used, or another process has it open.
        """
        import chdb

        self._limits = limits
        self._chdb_connect: Any = chdb.connect
        self._address = _prepare_directory(data_dir, limits, fsync=fsync)
        self._lock = _take_lock(data_dir)
        self._root = self._open_root(data_dir)
        self._idle: deque[EngineConnection] = deque(maxlen=limits.running_queries_max)
        self._sessions = SessionTable(self._connect, limits.sessions_max)
        self.version = self._fetch("SELECT version()")
        self.timezone = self._fetch("SELECT timezone()")
        self._root.query(f"CREATE DATABASE IF NOT EXISTS {OWN_DATABASE} ENGINE = Atomic")
        self._root.query(f"USE {OWN_DATABASE}")
        self._replace_default_database()

    @property
    def sessions_open(self) -> int:
        """How many sessions hold a connection."""
        return len(self._sessions)

    def run(self, request: Request) -> Reply:
        """Run one request to its end; an INSERT that returns is on disk.

        Raises:
            StoreRefusal: the store does not run this.
            Exception: what the engine raised; its text holds ClickHouse's code.
        """
        started_ns = time.perf_counter_ns()
        statement = read_statement(request.sql)
        if not statement.tokens:
            raise StoreRefusal(62, "SYNTAX_ERROR", "Empty query")
        check_request(request, statement)
        words = [token.text.decode("utf-8", "replace") for token in statement.tokens[:20]]
        if asks_greeting(words, request.default_format, request.client_revision):
            body = greeting_block(DISPLAY_NAME, self.version, self.timezone)
            return Reply(body, "Native", _summary(started_ns))
        if request.session is None:
            return self._run_alone(request, statement, started_ns)
        return self._run_in_session(request, statement, started_ns)

    def close(self) -> None:
        """Close everything; the directory is free when this returns, unless a query still runs."""
        self._sessions.close()
        while self._idle:
            self._idle.pop().close()
        self._root.close()
        os.close(self._lock)

    def _run_alone(self, request: Request, statement: Statement, started_ns: int) -> Reply:
        connection = self._connect() if request.readonly else self._take_idle()
        reusable = False
        try:
            connection.prepare(request.database, request.settings)
            if request.readonly:
                connection.make_readonly()
            reply = _execute(connection, request, statement, started_ns)
            # Nothing of a read or of an insert with data stays behind on the connection.
            reusable = statement.reads or statement.insert is not None
            return reply
        finally:
            if reusable and not request.readonly:
                self._idle.append(connection)
            else:
                connection.close()

    def _run_in_session(self, request: Request, statement: Statement, started_ns: int) -> Reply:
        assert request.session is not None
        session = self._sessions.take(request.session, time.monotonic())
        try:
            # What SET changes is the session's own, so the request's settings stay out of it.
            settings = {} if statement.verb == "SET" else request.settings
            session.connection.prepare(request.database, settings)
            # A session cannot go back from readonly; check_statement has seen to writes.
            reply = _execute(session.connection, request, statement, started_ns)
            session.connection.adopt(statement.verb)
            return reply
        finally:
            self._sessions.give_back(request.session, time.monotonic())

    def _take_idle(self) -> EngineConnection:
        """A connection that an earlier request has left, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> EngineConnection:
        return EngineConnection(
            self._chdb_connect, self._address, OWN_DATABASE, default_query_settings(self._limits)
        )

    def _open_root(self, data_dir: Path) -> Any:
        try:
            return self._chdb_connect(self._address)
        except RuntimeError as error:
            raise ConfigFault(
                "--data-dir",
                str(data_dir),
                f"the engine cannot open it ({error})",
                "see that no other process (chDB too) has it open, or restore it from a copy",
            ) from error

    def _replace_default_database(self) -> None:
        """Swap the engine's file-reading ``default`` for an empty Atomic one, if nobody uses it."""
        tables = int(self._fetch("SELECT count() FROM system.tables WHERE database = 'default'"))
        if tables:
            get_logger().warning(
                "store.default_database_in_use", tables=tables, fix=f"use database {OWN_DATABASE}"
            )
            return
        self._root.query("DROP DATABASE default")
        self._root.query("CREATE DATABASE default ENGINE = Atomic")

    def _fetch(self, sql: str) -> str:
        body: bytes = self._root.query(sql, "TSVRaw").bytes() or b""
        return body.decode().strip()


def _execute(
    connection: EngineConnection, request: Request, statement: Statement, started_ns: int
) -> Reply:
    insert = statement.insert
    if insert is not None:
        data = memoryview(request.sql)[insert.data_offset :]
        written = connection.insert(insert, data, request.parameters)
        return Reply(
            summary=_summary(started_ns, written_rows=written.rows, written_bytes=written.bytes)
        )
    output_format = statement.output_format or request.default_format
    rows = connection.query(request.sql.decode(), output_format, request.parameters)
    has_rows = statement.reads or statement.output_format is not None
    return Reply(
        body=rows.body,
        output_format=output_format if has_rows else None,
        summary=_summary(
            started_ns,
            read_rows=rows.read_rows,
            read_bytes=rows.read_bytes,
            written_rows=rows.written_rows,
            written_bytes=rows.written_bytes,
            result_rows=rows.result_rows,
            result_bytes=rows.result_bytes,
        ),
    )


def _summary(started_ns: int, **counts: int) -> dict[str, str]:
    names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read")
    summary = {name: str(counts.get(name, 0)) for name in (*names, "result_rows", "result_bytes")}
    summary["elapsed_ns"] = str(time.perf_counter_ns() - started_ns)
    return summary


def _prepare_directory(data_dir: Path, limits: Limits, *, fsync: bool) -> str:
    """Create the directory and the engine's configuration; the engine's address of it."""
    path = data_dir.expanduser().resolve()
    if any(mark in str(path) for mark in "?&=%"):
        raise ConfigFault(
            "--data-dir", str(path), "contains one of ? & = %", "choose a plainer name"
        )
    config = path / _CONFIG_FILE
    try:
        path.mkdir(parents=True, exist_ok=True)
        config.write_text(engine_config_xml(limits, fsync=fsync))
    except OSError as error:
        raise ConfigFault(
            "--data-dir", str(path), f"cannot be written ({error.strerror})", "make it writable"
        ) from error
    return f"{path}?config-file={config}"


def _take_lock(data_dir: Path) -> int:
    """Own the directory: the engine's own lock fails without saying why, this one says who."""
    path = data_dir.expanduser().resolve() / _LOCK_FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise ConfigFault(
            "--data-dir",
            str(data_dir),
            f"process {owner} has this directory open",
            "stop that process, or choose another directory; one store owns a directory",
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
