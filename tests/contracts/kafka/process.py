"""The embedded broker as a child process, as ``redline up`` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class BrokerProcess:
    """A broker on a free port between ``with`` and its end; it can be killed and restarted."""

    def __init__(self, data_dir: Path, *arguments: str, port: int = 0) -> None:
        self.data_dir = data_dir
        self.port = port
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it and wait until it says where it listens; a restart keeps the port."""
        log = (self.data_dir.parent / "broker.err").open("a")
        with log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-m", "embedded.broker", "--data-dir", str(self.data_dir)),
                    *("--port", str(self.port), *self._arguments),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError((self.data_dir.parent / "broker.err").read_text())
        ready = json.loads(line)
        assert ready["event"] == "listening"
        self.port = ready["port"]

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nothing is said."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._process = None
        return status

    def cpu_s(self) -> float:
        """CPU time that the process has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.stop()
