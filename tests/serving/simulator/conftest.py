from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from redline.codec import decode_json
from redline.records import RequestRecord
from serving.simulator.app import Simulator
from serving.simulator.spec import EngineSpec, SimulatorSpec, TenantSpec, WorkloadSpec

MODEL = "llama-3.1-8b-fp8"
Launch = Callable[..., Awaitable["LiveFleet"]]


class LiveFleet:
    """A running simulator, a client to it and its log."""

    def __init__(self, spec: SimulatorSpec, simulator: Simulator, client: Any) -> None:
        self.spec = spec
        self.simulator = simulator
        self.client: aiohttp.ClientSession = client

    def url(self, path: str, instance: str = "e0") -> str:
        return f"http://127.0.0.1:{self.simulator.port(instance)}{path}"

    def control(self, path: str) -> str:
        return self.url(path, "control")

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        async with self.client.post(self.url(path), json=body, headers=headers) as response:
            return response.status, await response.json()

    async def command(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        async with self.client.post(self.control(path), json=body, headers=headers) as response:
            return response.status, await response.json()

    async def summary(self) -> dict[str, Any]:
        async with self.client.get(self.control("/summary")) as response:
            found: dict[str, Any] = await response.json()
            return found

    def records(self, instance: str = "e0") -> list[RequestRecord]:
        """What the instance's log says by now."""
        data = (self.spec.log_dir / instance / "requests.ndjson").read_bytes()
        return [decode_json(row, RequestRecord) for row in data.splitlines()]

    async def until(self, holds: Callable[[], Any], seconds: float = 10.0) -> None:
        """Poll until ``holds()``; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it never became true"
            await asyncio.sleep(0.02)


def body(**changes: Any) -> dict[str, Any]:
    """A completion request of 50 prompt tokens and 12 output tokens."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "vllm_xargs": {"prompt_tokens": 50, "output_tokens": 12},
    }
    return {**fields, **changes}


def engine(number: int = 0, **changes: Any) -> EngineSpec:
    fields: dict[str, Any] = {
        "instance": f"e{number}",
        "port": 0,
        "model": MODEL,
        "version": f"v{number + 1}",
        "region": ["us-east", "eu-west"][number % 2],
        "canary": number == 1,
        "speed": 40.0,
    }
    return EngineSpec(**{**fields, **changes})


def workload(targets: list[str], **changes: Any) -> WorkloadSpec:
    fields: dict[str, Any] = {
        "targets": targets,
        "model": MODEL,
        "rate_rps": 100.0,
        "start": False,
        "tenants": [
            TenantSpec(name="acme", share=0.8, output_median_tokens=20),
            TenantSpec(name="umbrella", share=0.2, output_median_tokens=20),
        ],
    }
    return WorkloadSpec(**{**fields, **changes})


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Launch]:
    started: list[Simulator] = []
    async with aiohttp.ClientSession() as client:

        async def start(engines: list[EngineSpec] | None = None, **changes: Any) -> LiveFleet:
            fields: dict[str, Any] = {
                "control_port": 0,
                "engines": engines or [engine(0), engine(1)],
                "log_dir": tmp_path / "logs",
            }
            spec = SimulatorSpec(**{**fields, **changes})
            simulator = Simulator(spec)
            started.append(simulator)
            await simulator.start()
            return LiveFleet(spec, simulator, client)

        yield start
        for simulator in started:
            await simulator.stop()
