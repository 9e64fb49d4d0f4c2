"""Composition of the OTLP receiver: its port, its spool, its server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from collectors.otlp.http import create_receiver
from collectors.otlp.spool import Spool
from redline.serve import Server, bind
from redline.settings import LOOPBACK, OtlpSettings


class OtlpReceiver:
    """Does nothing if it is not enabled. ``watched`` is what the tailer has to read.

    Raises:
        AddressInUse: the port is taken.
    """

    def __init__(
        self,
        settings: OtlpSettings,
        data_dir: Path,
        token: str,
        is_published: Callable[[int, int], bool],
        registry: CollectorRegistry,
    ) -> None:
        self._server: Server | None = None
        if not settings.enabled:
            return
        self._listener = bind("collectors", settings.host, settings.port, "collectors.otlp.port")
        self._spool = Spool(spool_folder(data_dir), settings.spool_bytes_max, is_published)
        wanted = None if settings.host == LOOPBACK else token
        self._server = Server(
            create_receiver(self._spool, settings.body_bytes_max, wanted, registry)
        )

    async def start(self) -> None:
        """Serve in the background."""
        if self._server is not None:
            await self._server.start(self._listener)

    async def stop(self) -> None:
        """Finish what is running; nothing is lost, because nothing is answered unwritten."""
        if self._server is not None:
            await self._server.stop()
            self._spool.close()


def spool_folder(data_dir: Path) -> Path:
    """Where requests that were pushed wait for the tailer."""
    return (data_dir / "collectors" / "otlp").resolve()
