"""/healthz and /metrics on loopback. Its own small server: Faust's web server stays off, because it
answers before the worker is ready and goes down with it. It refuses everything else.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from redline.errors import AddressInUse


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything else starts.

    Raises:
        AddressInUse: something else listens there.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse("streams", host, port, "streams.port") from error
        raise
    return listener


class HealthServer:
    """Two routes on a socket that is bound already."""

    def __init__(
        self, listener: socket.socket, registry: CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        self._listener = listener
        self._registry = registry
        self._is_ready = is_ready
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self) -> None:
        """Serve."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()

    async def stop(self) -> None:
        """Close the socket."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        ready = self._is_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
