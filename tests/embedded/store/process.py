"""A store as a real child process, for tests of every room that talks to one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from redline.clickhouse import INSERT_SETTINGS


class StoreProcess:
    """``python -m embedded.store`` on a free port; ends with the ``with`` block."""

    def __init__(
        self, data_dir: Path, *arguments: str, environment: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self._log = (data_dir.parent / f"{data_dir.name}.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "embedded.store"),
                *("--data-dir", str(data_dir), "--port", "0", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | (environment or {}),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise AssertionError(f"the store did not start: {self.log_text()}")
        ready = json.loads(line)
        self.host: str = ready["host"]
        self.port: int = ready["port"]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def client(self, **options: object) -> Client:
        settings: dict[str, object] = {"compress": "lz4", "autogenerate_session_id": False}
        settings |= {"settings": dict(INSERT_SETTINGS)} | options
        return clickhouse_connect.get_client(host=self.host, port=self.port, **settings)  # type: ignore[arg-type]

    def log_text(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def terminate(self, timeout_s: float = 10) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> StoreProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
