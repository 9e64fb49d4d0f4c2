"""Starts the real broker and the real collectors, and reads what Kafka then holds."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import yaml
from aiokafka import AIOKafkaConsumer, TopicPartition

from redline.codec import decode_batch
from redline.records import RequestRecord
from redline.topics import REQUESTS

ROOT = Path(__file__).parents[2]
PARTITIONS = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s} s: {what}")


class Process:
    """A component of Redline. ``port`` is known when it said that it listens."""

    def __init__(self, *arguments: str, log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._stderr: IO[bytes] = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **(env or {})},
        )
        self.pid = self._process.pid
        self.port = 0

    def wait_until_listening(self, deadline_s: float = 30.0) -> None:
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        ready = poll.poll(deadline_s * 1000)
        line = self._process.stdout.readline() if ready else b""
        assert line, f"no 'listening' line: {self.log.read_text()[-3000:]}"
        event = json.loads(line)
        assert event["event"] == "listening"
        self.port = event["port"]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> tuple[int, bytes]:
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, deadline_s: float = 10.0) -> tuple[int, bytes]:
        rest, _ = self._process.communicate(timeout=deadline_s)
        self._stderr.close()
        return self._process.returncode, rest

    def end(self) -> None:
        if self._process.poll() is None:
            self.kill()


def start_broker(data: Path, log: Path, port: int = 0) -> Process:
    broker = Process("embedded.broker", "--data-dir", str(data), "--port", str(port), log=log)
    broker.wait_until_listening()
    return broker


def write_config(path: Path, broker_port: int, **collectors: Any) -> Path:
    settings = {
        "data_dir": str(path.parent / "data"),
        "kafka": {"bootstrap_servers": f"127.0.0.1:{broker_port}", "partitions": PARTITIONS},
        "collectors": {"port": free_port(), "gpu": {"enabled": False}, **collectors},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


async def read_topic(broker_port: int, topic: str, partitions: int) -> list[Any]:
    """Every message of a topic, partition after partition, up to the end that it has now."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=f"127.0.0.1:{broker_port}", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        messages: list[Any] = []
        while any([await consumer.position(at) < ends[at] for at in places]):
            for found in (await consumer.getmany(timeout_ms=200)).values():
                messages += found
        return sorted(messages, key=lambda message: (message.partition, message.offset))
    finally:
        await consumer.stop()


async def read_requests(broker_port: int) -> list[tuple[str, int]]:
    """(instance, seq) of every request record in Kafka."""
    messages = await read_topic(broker_port, REQUESTS.name, PARTITIONS)
    return [
        (record.instance, record.seq)
        for message in messages
        for record in decode_batch(message.value, RequestRecord)
    ]
