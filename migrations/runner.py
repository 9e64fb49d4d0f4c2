"""Applies the numbered files to a ClickHouse database, statement by statement, and remembers each.

Works over one clickhouse-connect client, on a server and on the embedded store alike. It can be
killed at any point and run again; a statement that died halfway runs again, so an INSERT in a
migration must bear repetition. One runner at a time: ClickHouse has no lock that works on every
set-up. This file refuses to decide what is left to do (``migrations.plan``) and to roll back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from migrations.plan import (
    Migration,
    Remembered,
    Step,
    order_migrations,
    plan_steps,
    read_migration,
)
from redline.errors import ConfigFault
from redline.log import get_logger

SQL_DIRECTORY = Path(__file__).parent
TABLE = "schema_migrations"

# TABLE_ALREADY_EXISTS, DICTIONARY_ALREADY_EXISTS, DUPLICATE_COLUMN and "already exists" of
# indices and projections: what a statement answers that had run before its run was remembered.
_ALREADY_THERE = re.compile(r"Code: (?:57|15|82|587)\b|already exists")
_CREATE_TABLE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    number UInt32, statement UInt32, statements UInt32, name String, checksum String,
    done UInt8, elapsed_ms UInt32, at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(done) ORDER BY (number, statement)
"""
_ROWS = f"SELECT number, statement, statements, checksum, done FROM {TABLE} FINAL"  # noqa: S608
_COLUMNS = ["number", "statement", "statements", "name", "checksum", "done", "elapsed_ms"]
_DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one migration is on a database."""

    number: int
    name: str
    statements: int
    statements_left: int

    @property
    def state(self) -> str:
        """``applied``, ``partial`` (a run died in it) or ``pending``."""
        if self.statements_left == 0:
            return "applied"
        return "pending" if self.statements_left == self.statements else "partial"


@dataclass(frozen=True, slots=True)
class AppliedStep:
    """A statement that this run completed. ``statement`` counts from 1, as people do."""

    number: int
    name: str
    statement: int
    statements: int
    elapsed_ms: int


def load_directory(directory: Path = SQL_DIRECTORY) -> list[Migration]:
    """Read every ``*.sql`` file.

    Raises:
        ConfigFault: a wrong name, a gap, a number twice, an empty file.
    """
    return order_migrations(
        read_migration(path.name, path.read_text(encoding="utf-8"))
        for path in sorted(directory.glob("*.sql"))
    )


def apply(client: Client, directory: Path, database: str) -> list[AppliedStep]:
    """Bring ``database`` up to date; create it if need be. Returns what was done, maybe nothing.

    The client's own database does not matter and is as before afterwards.

    Raises:
        ConfigFault: see ``migrations.plan``; nothing has been run then.
        DatabaseError: a statement failed. Those before it are done and stay; after the file's
            failing statement has been corrected, the next run goes on with it.
    """
    migrations = load_directory(directory)
    _check_name(database)
    client.command(f"CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic", use_database=False)
    before, client.database = client.database, database
    try:
        client.command(_CREATE_TABLE)
        steps = plan_steps(migrations, _read_rows(client))
        return [_run(client, step) for step in steps]
    finally:
        client.database = before


def status(client: Client, directory: Path, database: str) -> list[Progress]:
    """How far each migration is; changes nothing, a database that is not there is all pending.

    Raises:
        ConfigFault: see ``migrations.plan``.
    """
    migrations = load_directory(directory)
    _check_name(database)
    known = client.query(
        "SELECT count() FROM system.tables WHERE database = {db:String} AND name = {name:String}",
        parameters={"db": database, "name": TABLE},
    ).result_rows[0][0]
    before, client.database = client.database, database
    try:
        steps = plan_steps(migrations, _read_rows(client) if known else [])
    finally:
        client.database = before
    left = [step.migration.number for step in steps]
    return [Progress(m.number, m.name, len(m.statements), left.count(m.number)) for m in migrations]


def _check_name(database: str) -> None:
    if not _DATABASE_NAME.fullmatch(database):
        raise ConfigFault(
            "clickhouse.database", database, "is not a plain name", "use letters, digits and _"
        )


def _read_rows(client: Client) -> list[Remembered]:
    rows: Sequence[Sequence[object]] = client.query(_ROWS).result_rows
    return [
        Remembered(
            int(str(number)), int(str(statement)), int(str(count)), str(checksum), bool(done)
        )
        for number, statement, count, checksum, done in rows
    ]


def _run(client: Client, step: Step) -> AppliedStep:
    _remember(client, step, done=False, elapsed_ms=0)
    started_ns = time.perf_counter_ns()
    try:
        client.command(step.sql)
    except DatabaseError as error:
        if not (step.was_started and _ALREADY_THERE.search(str(error))):
            raise
        get_logger().warning("migrations.was_already_done", file=step.migration.file_name)
    elapsed_ms = (time.perf_counter_ns() - started_ns) // 1_000_000
    _remember(client, step, done=True, elapsed_ms=elapsed_ms)
    migration = step.migration
    count = len(migration.statements)
    return AppliedStep(migration.number, migration.name, step.statement + 1, count, elapsed_ms)


def _remember(client: Client, step: Step, *, done: bool, elapsed_ms: int) -> None:
    migration = step.migration
    row = [
        migration.number,
        step.statement,
        len(migration.statements),
        migration.name,
        step.checksum,
        int(done),
        elapsed_ms,
    ]
    client.insert(TABLE, [row], column_names=_COLUMNS, settings={"async_insert": 0})
