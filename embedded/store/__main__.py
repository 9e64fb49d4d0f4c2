"""``python -m embedded.store``: serve one directory until SIGTERM.

Prints one JSON line on stdout when it listens; logs go to stderr. This file refuses to daemonise
and to start a second process: the engine does not survive a fork.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from embedded.store.access import Access, is_loopback
from embedded.store.app import StoreApp
from embedded.store.engine import Engine
from embedded.store.limits import Limits
from redline.errors import AddressInUse, ConfigFault, Fault
from redline.log import configure, get_logger

PASSWORD_VARIABLE = "REDLINE_STORE_PASSWORD"  # noqa: S105 (a name, not a password)
# What Redline's own rooms connect with; it holds for the store when its own variable is not set.
CLIENT_PASSWORD_VARIABLE = "REDLINE_CLICKHOUSE_PASSWORD"  # noqa: S105 (a name, not a password)
_EXIT_CONFIG = 2


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked by argparse only."""
    parser = argparse.ArgumentParser(prog="python -m embedded.store", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the directory to own")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8124, help="0 takes a free port")
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help=f"listen beyond loopback; needs {PASSWORD_VARIABLE}",
    )
    parser.add_argument(
        "--fsync", action="store_true", help="acknowledged inserts survive a power cut (+6 ms each)"
    )
    defaults = Limits()
    parser.add_argument("--running-max", type=int, default=defaults.running_queries_max)
    parser.add_argument("--queued-max", type=int, default=defaults.queued_queries_max)
    parser.add_argument("--body-bytes-max", type=int, default=defaults.body_bytes_max)
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"]
    )
    return parser.parse_args(arguments)


def check_exposure(host: str, *, allow_remote: bool, password: str) -> None:
    """Refuse to serve the network by accident.

    Raises:
        ConfigFault: a host beyond loopback without ``--allow-remote``, or without a password.
    """
    if is_loopback(host):
        return
    if not allow_remote:
        raise ConfigFault(
            "--host", host, "is not a loopback address", "use 127.0.0.1, or add --allow-remote"
        )
    if not password:
        raise ConfigFault(
            PASSWORD_VARIABLE, "", "is empty while --allow-remote is given", "set a password"
        )


def open_socket(host: str, port: int) -> socket.socket:
    """A bound socket that listens.

    Raises:
        AddressInUse: something else has the port.
        ConfigFault: the host or port cannot be bound at all.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without, each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse("store", host, port, "--port (clickhouse.port)") from error
        raise ConfigFault(
            "--host/--port", f"{host}:{port}", str(error), "choose an address of this machine"
        ) from error
    return listener


class _AnnouncingServer(uvicorn.Server):
    """Says on stdout where it listens, as soon as it does."""

    def stop(self) -> None:
        """Take no more requests and end."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then announce."""
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            ready = {"event": "listening", "host": host, "port": port}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            get_logger().info("store.listening", host=host, port=port)


async def serve(options: argparse.Namespace, password: str) -> None:
    """Open the directory, listen, and return after SIGTERM or SIGINT.

    Raises:
        AddressInUse, ConfigFault: see ``open_socket`` and ``Engine``.
    """
    limits = Limits(
        body_bytes_max=options.body_bytes_max,
        running_queries_max=options.running_max,
        queued_queries_max=options.queued_max,
    )
    listener = open_socket(options.host, options.port)  # before the engine: fails in milliseconds
    engine = Engine(options.data_dir, limits, fsync=options.fsync)
    app = StoreApp(engine, Access(password), limits)
    server = _AnnouncingServer(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=limits.shutdown_grace_s,
            h11_max_incomplete_event_size=1 << 20,
        )
    )
    # uvicorn raises the signal again when it has stopped; these handlers take that one.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve([listener])
    drained = await app.drain(limits.drain_s)
    app.close()
    get_logger().info("store.stopped", drained=drained)
    if not drained:
        # A query still runs on a thread that cannot be joined; inserts not acknowledged may be
        # sent again with their token, and what was acknowledged is on disk.
        sys.stderr.flush()
        os._exit(0)
    engine.close()


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit status is 0 after a clean stop, 2 when the configuration is wrong."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    configure(level=options.log_level, form="json", component="store")
    password = os.environ.get(PASSWORD_VARIABLE) or os.environ.get(CLIENT_PASSWORD_VARIABLE, "")
    try:
        check_exposure(options.host, allow_remote=options.allow_remote, password=password)
        asyncio.run(serve(options, password))
    except Fault as fault:
        get_logger().error("store.cannot_start", reason=str(fault))
        return _EXIT_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
