"""How an asyncio room listens: a socket bound before anything else starts, uvicorn in its loop.

The room keeps its own signal handlers and its own loop; uvicorn only answers requests.
This file refuses to log requests and to know any application.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from redline.errors import AddressInUse, ConfigFault

GRACE_S = 2


def bind(component: str, host: str, port: int, setting: str) -> socket.socket:
    """A bound socket, not yet listening.

    Raises:
        AddressInUse: the port is taken.
        ConfigFault: the address is not of this machine, or the port is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(component, host, port, setting) from error
        raise ConfigFault(
            setting, f"{host}:{port}", str(error), "choose an address of this machine"
        ) from error
    return listener


def bearer_problem(authorization: str, token: str) -> tuple[int, str] | None:
    """Why a call that changes state is refused, as HTTP status and reason; None if it is not."""
    if not token:
        return 403, "no API token is set: set REDLINE_API_TOKEN"
    given = authorization.removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        return 401, "wrong or missing bearer token"
    return None


def announce(listener: socket.socket) -> None:
    """Say on stdout, in one JSON line, that the component is ready and where."""
    host, port = listener.getsockname()[:2]
    sys.stdout.write(json.dumps({"event": "listening", "host": host, "port": port}) + "\n")
    sys.stdout.flush()


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, in the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process that embeds it decides when to stop."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_S,
                server_header=False,
                **options,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def start(self, listener: socket.socket) -> None:
        """Serve in the background; return when requests are answered."""
        self._task = asyncio.create_task(self.serve([listener]), name="http")
        while not self.started:
            if self._task.done():
                self._task.result()
                return
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Finish what is running, within GRACE_S, and stop."""
        self.should_exit = True
        if self._task is not None:
            await self._task
