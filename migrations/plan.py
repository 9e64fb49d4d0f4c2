"""What is left to do on a database, from the numbered files and from what it remembers. Pure.

Forward only: there is no way down. A statement counts as done when its ``done`` row is there; a
``started`` row without one means that a run died in between, and the statement runs again. Every
done statement's SHA-256 must still match, so a file cannot change behind a database that has it.
This file refuses to read files, databases and clocks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from redline.clickhouse_lexer import split_statements
from redline.errors import ConfigFault

_FILE_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name without number and suffix, its statements in order."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The name of the file that it came from."""
        return f"{self.number:04d}_{self.name}.sql"


@dataclass(frozen=True, slots=True)
class Remembered:
    """One row of ``schema_migrations``: a statement that was started, or is done.

    ``statement`` counts from 0; ``statements`` is how many the file had; ``checksum`` is the
    SHA-256 of the statement in hexadecimal.
    """

    number: int
    statement: int
    statements: int
    checksum: str
    done: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One statement to run. ``was_started`` means that an earlier run may have completed it."""

    migration: Migration
    statement: int
    was_started: bool

    @property
    def sql(self) -> str:
        """The statement's text, without the ``;``."""
        return self.migration.statements[self.statement]

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return checksum_of(self.sql)


def checksum_of(statement: str) -> str:
    """SHA-256 of a statement's text, in hexadecimal."""
    return hashlib.sha256(statement.encode()).hexdigest()


def read_migration(file_name: str, text: str) -> Migration:
    """Read one file.

    Raises:
        ConfigFault: the name is not ``NNNN_name.sql``, or there is no statement in it.
    """
    found = _FILE_NAME.fullmatch(file_name)
    if found is None:
        raise ConfigFault(
            "migrations",
            file_name,
            "is not named NNNN_name.sql",
            "rename it to four digits, an underscore and lower-case words",
        )
    statements = tuple(split_statements(text))
    if not statements:
        raise ConfigFault(
            "migrations", file_name, "holds no statement", "write one, or delete the file"
        )
    return Migration(int(found["number"]), found["name"], statements)


def order_migrations(migrations: Iterable[Migration]) -> list[Migration]:
    """Sort by number.

    Raises:
        ConfigFault: a number is missing or there twice.
    """
    ordered = sorted(migrations, key=lambda migration: migration.number)
    for expected, migration in enumerate(ordered, start=1):
        if migration.number == expected:
            continue
        problem = (
            f"number {migration.number:04d} is there twice"
            if migration.number < expected
            else f"number {expected:04d} is missing"
        )
        raise ConfigFault(
            "migrations", migration.file_name, problem, "number the files 0001, 0002, … once each"
        )
    return ordered


def plan_steps(migrations: Sequence[Migration], remembered: Iterable[Remembered]) -> list[Step]:
    """The statements that are left, in order. ``migrations`` are ordered already.

    Raises:
        ConfigFault: the database is newer than these files, or a file changed after it was applied.
    """
    rows = {(row.number, row.statement): row for row in remembered}
    newest = max((number for number, _ in rows), default=0)
    if newest > len(migrations):
        raise ConfigFault(
            "migrations",
            f"{newest:04d}",
            f"the database has this migration, the code ends at {len(migrations):04d}",
            "run a newer version of Redline on this database",
        )
    steps: list[Step] = []
    for migration in migrations:
        left = _steps_of(migration, rows)
        if steps and len(left) < len(migration.statements):
            raise ConfigFault(
                "migrations",
                migration.file_name,
                f"is applied while {steps[0].migration.file_name} is not",
                "restore the database from a copy; its schema_migrations was edited",
            )
        steps += left
    return steps


def _steps_of(migration: Migration, rows: dict[tuple[int, int], Remembered]) -> list[Step]:
    done = [row for (number, _), row in rows.items() if number == migration.number and row.done]
    complete = bool(done) and len(done) >= done[0].statements
    for row in done:
        if row.statement >= len(migration.statements):
            raise _changed(migration, row.statement)
        if row.checksum != checksum_of(migration.statements[row.statement]):
            raise _changed(migration, row.statement)
    if complete and len(migration.statements) != done[0].statements:
        raise _changed(migration, done[0].statements)
    finished = {row.statement for row in done}
    return [
        Step(
            migration,
            index,
            _was_started(rows.get((migration.number, index)), migration.statements[index]),
        )
        for index in range(len(migration.statements))
        if index not in finished
    ]


def _was_started(row: Remembered | None, statement: str) -> bool:
    """A statement that was corrected since does not count as the one that was started."""
    return row is not None and row.checksum == checksum_of(statement)


def _changed(migration: Migration, statement: int) -> ConfigFault:
    return ConfigFault(
        "migrations",
        migration.file_name,
        f"statement {statement + 1} changed after it was applied",
        "restore the file as it was and put the change into a new, higher number",
    )
