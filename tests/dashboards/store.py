"""A real store for tests: the embedded one as a child process, over HTTP, as in production."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from tests.dashboards.seed import migrate

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running(
    module: str, arguments: list[str], log: Path
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``python -m module``; gives the process and the port of its "listening" line."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"{module} did not start: {log.read_text()}"
            yield process, int(json.loads(line)["port"])
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


@contextlib.contextmanager
def running_store(directory: Path, port: int = 0) -> Iterator[int]:
    """The port of a store that owns ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    arguments = ["--data-dir", str(directory / "store"), "--port", str(port)]
    with running("embedded.store", arguments, directory / "store.log") as (_, bound):
        yield bound


def client_of(port: int, database: str = "default") -> Client:
    """A client of the store on ``port``."""
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=port, database=database, autogenerate_session_id=False
    )


def new_database(port: int, name: str) -> Client:
    """A client of a new database with the shipped schema."""
    client_of(port).command(f"CREATE DATABASE {name}")
    client = client_of(port, name)
    migrate(client.command, name)
    return client
