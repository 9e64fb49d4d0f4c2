"""The same suite on the embedded store and, if ``REDLINE_TEST_CLICKHOUSE`` names one, on a server.

``REDLINE_TEST_CLICKHOUSE=http://host:port`` (user ``default``; the password from
``REDLINE_CLICKHOUSE_PASSWORD``). Each test module works in a database of its own.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client

from redline.clickhouse import INSERT_SETTINGS
from tests.embedded.store.process import StoreProcess

SERVER_VARIABLE = "REDLINE_TEST_CLICKHOUSE"
TARGETS = ["embedded", "server"] if os.environ.get(SERVER_VARIABLE) else ["embedded"]


@dataclass(frozen=True)
class Server:
    """Where a server answers, and the database that a test may fill."""

    host: str
    port: int
    database: str = "default"
    password: str = ""

    def client(self, **options: Any) -> Client:
        return clickhouse_connect.get_client(**self._options(options))

    async def async_client(self, **options: Any) -> AsyncClient:
        return await clickhouse_connect.get_async_client(**self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "username": "default",
            "password": self.password,
            "database": self.database,
            "compress": "lz4",
            "autogenerate_session_id": False,
            "tz_mode": "aware",
            "settings": dict(INSERT_SETTINGS),
        } | options  # fmt: skip


@pytest.fixture(scope="package", params=TARGETS)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "embedded":
        with StoreProcess(tmp_path_factory.mktemp("contract") / "data") as store:
            yield Server(store.host, store.port)
        return
    url = urlsplit(os.environ[SERVER_VARIABLE])
    assert url.hostname, f"{SERVER_VARIABLE} must be http://host:port"
    password = os.environ.get("REDLINE_CLICKHOUSE_PASSWORD", "")
    yield Server(url.hostname, url.port or 8123, password=password)


@pytest.fixture
def server(address: Server) -> Iterator[Server]:
    """The server with an empty database, dropped afterwards."""
    database = f"contract_{uuid.uuid4().hex[:12]}"
    owner = address.client()
    owner.command(f"CREATE DATABASE {database} ENGINE = Atomic")
    yield Server(address.host, address.port, database, address.password)
    owner.command(f"DROP DATABASE {database}")
    owner.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    connected = server.client()
    yield connected
    connected.close()
