"""One supervised child process: start, readiness, log, stop.

Readiness is what the child itself says: one JSON line ``{"event": "listening", ...}`` on stdout.
A child runs in its own session, so that Ctrl-C reaches the supervisor only; on Linux the kernel
ends it when the supervisor dies. This file refuses to decide on restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from cli.components import Component
from redline.errors import AddressInUse, ComponentFailed

LOG_BYTES_MAX = 10 * 1024 * 1024
PR_SET_PDEATHSIG = 1


def require_free_port(component: Component) -> None:
    """Raise AddressInUse if something already listens where this component will."""
    if not component.port:
        return
    family = socket.AF_INET6 if ":" in component.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((component.host, component.port))
        except OSError:
            raise AddressInUse(
                component.name, component.host, component.port, component.setting
            ) from None


class Child:
    """A component's process, from start to exit."""

    def __init__(self, component: Component, log_directory: Path) -> None:
        self.component = component
        self.log_path = log_directory / f"{component.name}.log"
        self.ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return self._process.pid if self._process else 0

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start the process; its stderr goes to its log file."""
        self.ready.clear()
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.component.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        self._reader = asyncio.create_task(self._read_stdout())

    async def wait(self) -> int:
        """Exit status, once it is there and the output is read."""
        assert self._process is not None
        status = await self._process.wait()
        if self._reader is not None:
            await asyncio.shield(self._reader)
        return status

    def terminate(self) -> None:
        """Ask it to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last lines of its log: why it stopped."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - 4096))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-3:])

    def failure(self, status: int) -> ComponentFailed:
        """The error that describes its exit."""
        return ComponentFailed(
            f"{self.component.name} stopped with status {status}: {self.last_words()}\n"
            f"Its log: {self.log_path}"
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read_stdout(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self.log_path.open("ab") as log:
            async for line in self._process.stdout:
                self._notice(line, log)

    def _notice(self, line: bytes, log: IO[bytes]) -> None:
        if not self.ready.is_set():
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict) and message.get("event") == "listening":
                    self.ready.set()
        log.write(line)
        log.flush()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
