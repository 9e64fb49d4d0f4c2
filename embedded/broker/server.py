"""The broker as one object: opens the data directory, listens, keeps house, closes.

    async with Broker(BrokerConfig(data_dir)) as broker:
        broker.port

It refuses a data directory that another broker has open, and a port that is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import time
import uuid
from types import TracebackType
from typing import Self

from embedded.broker.config import BrokerConfig
from embedded.broker.connection import Connection, Dispatch
from embedded.broker.coordinator import Coordinator
from embedded.broker.dispatch import Dispatcher
from embedded.broker.handle_admin import AdminHandlers
from embedded.broker.handle_data import DataHandlers
from embedded.broker.handle_groups import GroupHandlers
from embedded.broker.journal import Journal
from embedded.broker.node import Caller, Node
from embedded.broker.registry import ClusterNamed
from embedded.broker.topics import Topics
from redline.errors import AddressInUse, ConfigFault
from redline.log import get_logger

_CLEAN_MARK = "clean-shutdown"


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Broker:
    """A running broker between ``async with`` and its end."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.port = config.port
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._housekeeper: asyncio.Task[None] | None = None
        self._lock: int | None = None

    async def __aenter__(self) -> Self:
        """Raises ``AddressInUse``, and ``ConfigFault`` for a data directory that is in use."""
        listener = self._bind()  # first: a taken port must not touch the data
        try:
            self._take_data_dir()
            self._open()
            self._dispatcher = Dispatcher(
                DataHandlers(self._node).table()
                | GroupHandlers(self._node).table()
                | AdminHandlers(self._node).table()
            )
            self._server = await asyncio.get_running_loop().create_server(
                self._connect, sock=listener, backlog=256
            )
        except BaseException:
            listener.close()
            self._release_data_dir()
            raise
        self.port = listener.getsockname()[1]
        self._housekeeper = asyncio.create_task(self._keep_house())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._housekeeper is not None
        self._server.close()
        self._housekeeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._housekeeper
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)  # lets the cancelled requests of those connections end
        self._node.coordinator.close()
        self._node.topics.close()
        self._node.journal.close()
        (self.config.data_dir / _CLEAN_MARK).touch()
        self._release_data_dir()

    # -- opening ---------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        config = self.config
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
            listener.listen(256)
        except OSError as failure:
            listener.close()
            if failure.errno == errno.EADDRINUSE:
                raise AddressInUse(
                    "embedded broker", config.host, config.port, "kafka.bootstrap_servers"
                ) from failure
            raise ConfigFault(
                "kafka.bootstrap_servers",
                config.host,
                f"cannot listen there ({failure})",
                "use an address of this machine, 127.0.0.1 for most",
            ) from failure
        listener.setblocking(False)
        return listener

    def _take_data_dir(self) -> None:
        data_dir = self.config.data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            os.close(lock)
            raise ConfigFault(
                "data_dir",
                str(data_dir),
                "another broker has it open",
                "stop that broker, or give this one its own directory",
            ) from failure
        self._lock = lock

    def _release_data_dir(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> None:
        config = self.config
        mark = config.data_dir / _CLEAN_MARK
        clean_shutdown = mark.exists()
        mark.unlink(missing_ok=True)
        started_ms = _monotonic_ms()
        journal = Journal(config.data_dir / "journal.jsonl", fsync=config.fsync)
        if not journal.registry.cluster_id:
            journal.record(ClusterNamed(uuid.uuid4().hex))
        topics = Topics(config, journal, clean_shutdown=clean_shutdown, now_ms=_wall_ms())
        self._node = Node(
            config=config,
            journal=journal,
            topics=topics,
            coordinator=Coordinator(config, journal, _monotonic_ms),
            wall_ms=_wall_ms,
        )
        get_logger().info(
            "data_opened",
            data_dir=str(config.data_dir),
            partitions=topics.partition_count,
            clean_shutdown=clean_shutdown,
            took_ms=_monotonic_ms() - started_ms,
        )

    # -- running ---------------------------------------------------------------------------

    def _connect(self) -> Connection:
        return Connection(
            self._dispatch_for,
            self._connections,
            self.config.max_connections,
            self.config.max_request_bytes,
        )

    def _dispatch_for(self, transport: asyncio.Transport) -> Dispatch:
        local, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        # The client is told the address that it reached us at: right for every interface.
        template = Caller("", peer[0] if peer else "", (local[0], local[1]))
        callers: dict[str, Caller] = {}
        return lambda frame: self._dispatcher(frame, callers, template)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(self.config.housekeeping_interval_ms / 1000)
            await self._node.topics.clean(_wall_ms())
            self._node.coordinator.expire()
