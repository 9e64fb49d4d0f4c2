"""The alerting process on a stage: the embedded broker, a Slack, a webhook receiver, all real."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from redline.codec import decode_json, encode_batch
from redline.errors import SignatureInvalid
from redline.records import Signal
from redline.testing.slack import SlackReceiver
from redline.topics import SIGNALS, Topic
from redline.webhooks import verify

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TOKEN = "token-of-the-test"
READY_S = 60.0
RULE = {
    "name": "p99",
    "signal": "p99_latency_ms",
    "above": 5_000,
    "for_s": 30,
    "keep_firing_for_s": 5,
    "min_samples": 20,
    "severity": "page",
    "action": "rollback",
    "mode": "auto",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(holds: Callable[[], Any], within_s: float = 20.0) -> Any:
    """Ask until it is true."""
    deadline_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline_s, "it did not come about"
        await asyncio.sleep(0.02)
    return found


class Child:
    """A process of ours that says where it listens."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **environment: str) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *self.arguments,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), READY_S)
        self.port = json.loads(line)["port"]

    async def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)


class Hook:
    """A receiver of orders that verifies them."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.statuses: list[int] = []  # to answer first
        self.hold: asyncio.Event | None = None
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._hook)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            self.ids.append(verify([KEY], request.headers, body, time.time()))
        except SignatureInvalid as invalid:
            return web.json_response({"reason": str(invalid)}, status=401)
        self.orders.append(json.loads(body)["data"])
        if self.hold is not None:
            await self.hold.wait()
        if self.statuses:
            return web.json_response({"reason": "not yet"}, status=self.statuses.pop(0))
        return web.json_response(
            {"applied": True, "signature_verified": True, "weights": {"v1": 1.0, "v2": 0.0}}
        )


class Stage:
    """Everything that alerting talks to, and alerting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Child("embedded.broker", "--data-dir", str(folder / "broker"), "--port", "0")
        self.slack = SlackReceiver()
        self.hook = Hook()
        self.children: list[Child] = []
        self.producer: Any = None
        self.http: Any = None

    async def start(self) -> None:
        await self.broker.start()
        await self.slack.start()
        await self.hook.start()
        self.http = aiohttp.ClientSession()

    async def stop(self) -> None:
        for child in self.children:
            await child.end(signal.SIGKILL)
        if self.producer is not None:
            await self.producer.stop()
        await self.http.close()
        await self.broker.end(signal.SIGKILL)
        await self.slack.stop()
        await self.hook.stop()

    async def alerting(self, **rule: Any) -> Child:
        """Start an alerting process."""
        port = free_port()
        config = {
            "data_dir": str(self.folder),
            "kafka": {"bootstrap_servers": f"127.0.0.1:{self.broker.port}"},
            "alerting": {
                "port": port,
                "rules": [{**RULE, **rule}],
                "slack": {"enabled": True, "base_url": self.slack.url},
                "webhooks": [{"name": "router", "url": self.hook.url}],
            },
        }
        path = self.folder / f"alerting-{port}.yaml"
        path.write_text(json.dumps(config))
        child = Child("alerting", "--config", str(path))
        self.children.append(child)
        await child.start(
            REDLINE_API_TOKEN=TOKEN,
            REDLINE_SLACK_BOT_TOKEN="xoxb-1",
            REDLINE_WEBHOOK_SECRET=SECRET,
        )
        return child

    async def signals(self, value: float | None, *ago_s: float, version: str = "v2") -> None:
        """One message per signal, stamped so many seconds ago."""
        if self.producer is None:
            self.producer = AIOKafkaProducer(
                bootstrap_servers=f"127.0.0.1:{self.broker.port}", acks="all"
            )
            await self.producer.start()
        now_us = time.time_ns() // 1_000
        for ago in ago_s:
            await self.producer.send_and_wait(
                SIGNALS.name,
                encode_batch(
                    [
                        Signal(
                            ts_us=now_us - int(ago * 1e6),
                            name="p99_latency_ms",
                            value=value,
                            window_s=60,
                            labels={"model": "m", "version": version},
                            samples=0 if value is None else 100,
                        )
                    ]
                ),
                partition=0,
            )

    async def topic(self, topic: Topic) -> list[Any]:
        """Everything in a topic."""
        consumer = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{self.broker.port}")
        await consumer.start()
        try:
            partition = TopicPartition(topic.name, 0)
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            consumer.seek(partition, 0)
            found: list[Any] = []
            while await consumer.position(partition) < end:
                for record in (await consumer.getmany(partition, timeout_ms=200)).get(
                    partition, ()
                ):
                    found.append(decode_json(record.value, topic.record))
            return found
        finally:
            await consumer.stop()

    async def get(self, child: Child, path: str) -> Any:
        async with self.http.get(f"http://127.0.0.1:{child.port}{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def post(self, child: Child, path: str, body: Any, token: str = TOKEN) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {token}"}
        async with self.http.post(
            f"http://127.0.0.1:{child.port}{path}", json=body, headers=headers
        ) as response:
            return response.status, await response.json()

    def lines(self) -> list[str]:
        """The history in the thread of the one message."""
        return self.slack.thread(self.slack.roots[0]["ts"]) if self.slack.roots else []

    def says(self, *starts: str) -> bool:
        """Whether the thread has a line that starts with each of these."""
        return all(any(line.startswith(start) for line in self.lines()) for start in starts)


def seconds_ago(first: float, last: float, step: float = 1.0) -> Sequence[float]:
    """From ``first`` seconds ago to ``last`` seconds ago, oldest first."""
    count = round((first - last) / step) + 1
    return [first - index * step for index in range(count)]
