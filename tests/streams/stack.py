"""A real broker, a real store and a real worker as child processes, for the tests of this room."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
from clickhouse_connect.driver.client import Client

from migrations import runner
from redline.clickhouse import connect
from redline.settings import Secrets, Settings, load_settings

READY_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Child:
    """One process; ``ready`` is its line on stdout."""

    process: subprocess.Popen[bytes]
    log: Path

    def ready(self, deadline_s: float = READY_S) -> dict[str, Any]:
        stdout = self.process.stdout
        assert stdout is not None
        line, end = b"", time.monotonic() + deadline_s
        while not line.endswith(b"\n"):
            poll = select.poll()
            poll.register(stdout, select.POLLIN)
            readable = poll.poll(max(0.0, end - time.monotonic()) * 1000)
            chunk = os.read(stdout.fileno(), 4096) if readable else b""
            if not chunk:
                raise AssertionError(f"not ready: {self.log.read_text()[-3000:]}")
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, deadline_s: float = 8.0) -> int:
        self.process.terminate()
        return self.process.wait(deadline_s)


@dataclass
class Stack:
    """Everything a worker needs, in one directory."""

    directory: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def start(self) -> None:
        self.broker = self.spawn(
            "broker",
            ["embedded.broker", "--data-dir", str(self.directory / "kafka"), "--port", "0"],
        )
        self.store = self.spawn(
            "store", ["embedded.store", "--data-dir", str(self.directory / "store"), "--port", "0"]
        )
        kafka_port = self.broker.ready()["port"]
        store_port = self.store.ready()["port"]
        content: dict[str, Any] = {
            "data_dir": str(self.directory / "data"),
            "log_level": "info",
            "kafka": {"bootstrap_servers": f"127.0.0.1:{kafka_port}", "partitions": 4},
            "clickhouse": {"port": store_port, "database": "redline"},
            "gpu_groups": [{"name": "h100", "sku": "H100", "instances": ["vllm-*"]}],
            "prices": [{"sku": "H100", "price": "2.10", "valid_from": "2020-01-01"}],
            "streams": {"port": free_port(), "flush_ms": 200, "session_timeout_s": 6},
        }
        for section, values in self.overrides.items():
            content[section] = {**content.get(section, {}), **values}
        self.config = self.directory / "redline.yaml"
        self.config.write_text(yaml.safe_dump(content))
        client = self.client("default")
        runner.apply(client, runner.SQL_DIRECTORY, "redline")
        client.close()

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    def client(self, database: str = "redline") -> Client:
        return connect(self.settings.clickhouse, Secrets(), database=database)

    def worker(self) -> Child:
        return self.spawn("streams", ["streams", "--config", str(self.config)])

    def spawn(self, name: str, arguments: list[str]) -> Child:
        log = self.directory / f"{name}-{len(self.children)}.log"
        out: IO[bytes]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=subprocess.PIPE,
                stderr=out,
                cwd=Path(__file__).parents[2],
            )
        child = Child(process, log)
        self.children.append(child)
        return child

    def stop(self) -> None:
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.kill()
            if child.process.stdout is not None:
                child.process.stdout.close()


def wait_until(condition: Any, deadline_s: float, what: str) -> Any:
    """Poll until the condition is true; its value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what} (last: {value!r})")
        time.sleep(0.1)
