"""The runner on a real store: applied once, resumed after a failure, safe to run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from migrations import runner
from redline.errors import ConfigFault
from tests.embedded.store.process import StoreProcess

FIRST = "CREATE TABLE a (n UInt32) ENGINE = MergeTree ORDER BY n; INSERT INTO a VALUES (1), (2);"
SECOND = (
    "CREATE TABLE b (n UInt32) ENGINE = MergeTree ORDER BY n;\nALTER TABLE a ADD COLUMN c String;"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path_factory.mktemp("migrations") / "data") as process:
        yield process


@pytest.fixture
def client(store: StoreProcess) -> Iterator[Client]:
    connected = store.client()
    yield connected
    connected.close()


@pytest.fixture
def database() -> str:
    return f"m_{uuid.uuid4().hex[:10]}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text(FIRST)
    (tmp_path / "0002_second.sql").write_text(SECOND)
    (tmp_path / "README.md").write_text("not SQL")
    return tmp_path


def states(client: Client, directory: Path, database: str) -> list[str]:
    return [progress.state for progress in runner.status(client, directory, database)]


def test_up_once_and_again(client: Client, directory: Path, database: str) -> None:
    before = client.database
    assert states(client, directory, database) == ["pending", "pending"]
    steps = runner.apply(client, directory, database)
    assert [(step.number, step.statement) for step in steps] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert states(client, directory, database) == ["applied", "applied"]
    assert runner.apply(client, directory, database) == []
    assert client.query(f"SELECT count(), any(c) FROM {database}.a").first_row == (2, "")
    engine = client.query(f"SELECT engine FROM system.databases WHERE name = '{database}'")
    assert engine.first_row == ("Atomic",)
    assert client.database == before


def test_a_failing_statement_keeps_what_was_done_and_can_be_corrected(
    client: Client, directory: Path, database: str
) -> None:
    broken = directory / "0002_second.sql"
    broken.write_text(SECOND.replace("ADD COLUMN c String", "ADD COLUMN c Strong"))
    with pytest.raises(DatabaseError, match="Strong"):
        runner.apply(client, directory, database)
    assert states(client, directory, database) == ["applied", "partial"]
    broken.write_text(SECOND)
    assert [s.statement for s in runner.apply(client, directory, database)] == [2]
    assert client.query(f"SELECT count() FROM {database}.a").first_row == (2,)


def test_a_run_that_died_between_a_statement_and_its_record_goes_on(
    client: Client, directory: Path, database: str
) -> None:
    runner.apply(client, directory, database)
    table = f"{database}.{runner.TABLE}"
    client.command(f"CREATE TABLE {table}_2 AS {table}")
    client.command(f"INSERT INTO {table}_2 SELECT * REPLACE(number < 2 AS done) FROM {table} FINAL")
    client.command(f"EXCHANGE TABLES {table} AND {table}_2")
    assert states(client, directory, database) == ["applied", "pending"]
    steps = runner.apply(client, directory, database)
    assert [(step.number, step.statement) for step in steps] == [(2, 1), (2, 2)]
    assert states(client, directory, database) == ["applied", "applied"]


def test_a_table_that_somebody_else_made_is_an_error(
    client: Client, directory: Path, database: str
) -> None:
    client.command(f"CREATE DATABASE {database} ENGINE = Atomic")
    client.command(f"CREATE TABLE {database}.a (x String) ENGINE = MergeTree ORDER BY x")
    with pytest.raises(DatabaseError, match="57"):
        runner.apply(client, directory, database)


def test_a_changed_file_and_an_older_code_are_refused_and_nothing_runs(
    client: Client, directory: Path, database: str
) -> None:
    runner.apply(client, directory, database)
    (directory / "0003_third.sql").write_text("CREATE TABLE d (n UInt8) ENGINE = Memory")
    (directory / "0001_first.sql").write_text(FIRST.replace("UInt32", "UInt64"))
    with pytest.raises(ConfigFault, match=r"0001_first.sql.*changed"):
        runner.apply(client, directory, database)
    assert client.query(f"EXISTS TABLE {database}.d").first_row == (0,)
    (directory / "0001_first.sql").write_text(FIRST)
    runner.apply(client, directory, database)
    (directory / "0003_third.sql").unlink()
    with pytest.raises(ConfigFault, match="newer version"):
        runner.status(client, directory, database)


def test_a_gap_is_refused_before_anything_is_created(
    client: Client, directory: Path, database: str
) -> None:
    (directory / "0002_second.sql").rename(directory / "0003_second.sql")
    with pytest.raises(ConfigFault, match="0002 is missing"):
        runner.apply(client, directory, database)
    assert client.query(
        f"SELECT count() FROM system.databases WHERE name = '{database}'"
    ).first_row == (0,)


def test_a_database_name_is_never_sql(client: Client, directory: Path) -> None:
    with pytest.raises(ConfigFault, match="plain name"):
        runner.apply(client, directory, "a; DROP DATABASE redline")


def test_the_command(store: StoreProcess, directory: Path, database: str) -> None:
    environment = os.environ | {
        "REDLINE_CLICKHOUSE__PORT": str(store.port),
        "REDLINE_CLICKHOUSE__DATABASE": database,
    }

    def run(*arguments: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "migrations", *arguments, "--directory", str(directory)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout or ended.stderr

    assert run("status") == (1, "0001_first pending\n0002_second pending\n")
    code, text = run("up", "--json")
    assert code == 0
    assert [step["statement"] for step in json.loads(text)] == [1, 2, 1, 2]
    code, text = run("status", "--json")
    assert code == 0
    assert {row["state"] for row in json.loads(text)} == {"applied"}
    assert run("up") == (0, "up to date\n")
    (directory / "0001_first.sql").write_text("SELECT 1")
    code, text = run("up")
    assert code == 2
    assert "0001_first.sql" in text
