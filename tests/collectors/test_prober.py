"""Probes against the simulator as a process: cold start, a lost region, an engine that hangs."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from collectors.batches import Entry
from collectors.metrics import Metrics
from collectors.prober import Prober
from redline.records import ProbeResult
from redline.settings import ProbeSettings
from tests.collectors.processes import ROOT


class Simulator:
    """Three engines: two in eu, one in us; no load."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        spec = {
            "control_port": 0,
            "log_dir": str(self.logs),
            "engines": [
                {"instance": name, "port": 0, "model": "llama", "region": region}
                for name, region in (("eu-1", "eu"), ("eu-2", "eu"), ("us-1", "us"))
            ],
        }
        path = folder / "spec.yaml"
        path.write_text(yaml.safe_dump(spec))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.simulator", "--spec", str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        ready = poll.poll(30_000)
        said = json.loads(self._process.stdout.readline()) if ready else {}
        self.control = f"http://127.0.0.1:{said['port']}"
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in said["engines"].items()}

    def incident(self, name: str, **options: Any) -> None:
        request = urllib.request.Request(
            f"{self.control}/incidents/{name}", json.dumps(options).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    def requests(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path in self.logs.glob("*/requests.ndjson")
            for line in path.read_text().splitlines()
        ]

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    running = Simulator(tmp_path_factory.mktemp("simulator"))
    yield running
    running.end()


class Watch:
    def __init__(self) -> None:
        self.results: list[ProbeResult] = []
        self.metrics = Metrics()

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert isinstance(entry.record, ProbeResult)
            self.results.append(entry.record)

    def of(self, target: str) -> list[ProbeResult]:
        return [result for result in self.results if result.target == target]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"redline_collectors_{name}", labels)

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def probing(*probes: ProbeSettings) -> AsyncIterator[Watch]:
    watch, stop = Watch(), asyncio.Event()
    running = asyncio.create_task(Prober(probes, "", watch.take, watch.metrics).run(stop))
    try:
        yield watch
    finally:
        stop.set()
        await running


def probe(simulator: Simulator, name: str, kind: str, **fields: Any) -> ProbeSettings:
    values = {
        "target": name, "kind": kind, "url": simulator.urls[name], "instance": name,
        "model": "llama", "region": name[:2], "interval_s": 0.1, "timeout_s": 1.0,
        "failure_threshold": 3, "success_threshold": 2,
    }  # fmt: skip
    return ProbeSettings(**{**values, **fields})


async def test_health_is_proved_by_a_token_and_requests_are_marked(simulator: Simulator) -> None:
    async with probing(probe(simulator, "eu-1", "health")) as watch:
        await watch.until(lambda: len(watch.results) >= 6)
    proofs = [result.proof for result in watch.results]
    assert proofs[0] == "completion"  # nothing is known of an idle engine yet
    assert "counter" in proofs  # which the probe's own token moved
    assert all(result.ok for result in watch.results)
    assert watch.results[-1].healthy is True
    mine = [found for found in simulator.requests() if found["tenant"] == "redline-probe"]
    assert mine
    assert all(found["request_id"].startswith("redline-probe-health-") for found in mine)
    assert {found["completion_tokens"] for found in mine} == {1}


async def test_a_lost_region_turns_after_its_threshold_and_comes_back(
    simulator: Simulator,
) -> None:
    names = ("eu-1", "eu-2", "us-1")
    async with probing(*(probe(simulator, name, "health") for name in names)) as watch:

        def healthy(region: str) -> float | None:
            return watch.metric("region_healthy", region=region)

        await watch.until(lambda: healthy("eu") == healthy("us") == 1)
        simulator.incident("region_loss", region="us")
        before = len(watch.of("us-1"))
        await watch.until(lambda: healthy("us") == 0)
        turned = [result.healthy for result in watch.of("us-1")[before:]]
        assert turned.count(True) <= 3  # a probe that was under way, and two below the threshold
        assert "503" in watch.of("us-1")[-1].error
        assert healthy("eu") == 1
        simulator.incident("region_loss", region="us", on=False)
        await watch.until(lambda: healthy("us") == 1)
    assert watch.metric("region_failover_s", region="us") == pytest.approx(0.1 * 3 + 1 + 60)


async def test_a_cold_start_fails_health_although_metrics_answer_and_shows_a_late_token(
    simulator: Simulator,
) -> None:
    first = probe(simulator, "eu-2", "first_token", first_token_s_max=0.5, timeout_s=10)
    health = probe(simulator, "eu-2", "health", target="h", timeout_s=0.3)
    async with probing(first, health) as watch:
        await watch.until(lambda: watch.of("h") and watch.of("eu-2"))
        await watch.until(lambda: watch.of("h")[-1].healthy is True)
        warm = watch.of("eu-2")[-1]
        assert (warm.ok, warm.cold) == (True, False)
        simulator.incident("cold_start", instance="eu-2", seconds=2.0)
        await watch.until(lambda: not watch.of("h")[-1].ok)
        await watch.until(lambda: watch.of("h")[-1].healthy is False)
        await watch.until(lambda: any(result.cold for result in watch.of("eu-2")))
        (late, *_) = [result for result in watch.of("eu-2") if result.cold]
        assert not late.ok
        assert late.latency_us is not None
        assert late.latency_us > 500_000
        assert "expected within 0.5 s" in late.error
        await watch.until(lambda: watch.of("h")[-1].healthy is True)
        await watch.until(lambda: watch.of("eu-2")[-1].ok)


async def test_keeping_warm_asks_one_replica_of_a_model_and_not_while_there_is_traffic(
    simulator: Simulator,
) -> None:
    group = [
        probe(simulator, name, "keep_warm", keep_warm_after_s=1.5) for name in ("eu-1", "eu-2")
    ]
    async with probing(*group) as watch:
        await watch.until(lambda: len(watch.results) >= 2)
        first, second = watch.results[:2]
        assert first.ok
        assert second.target == first.target  # the last used loses least
        assert second.ts_us - first.ts_us >= 1_400_000  # idle in between, not at every look
    busy = probe(simulator, "eu-1", "health", target="traffic")
    async with probing(busy) as traffic:
        await traffic.until(lambda: len(traffic.results) >= 2)
        async with probing(*group) as watch:
            await traffic.until(lambda: len(traffic.results) >= 6)
            asked = len(watch.results)
            await traffic.until(lambda: len(traffic.results) >= 26)
        # what was unknown at the first look may have cost one; then the counter moves
        assert len(watch.results) - asked == 0
        assert asked <= 1


async def test_an_engine_that_answers_200_and_generates_nothing_is_not_healthy() -> None:
    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text="vllm:generation_tokens_total 7\nvllm:num_requests_running 3\n")

    async def completions(request: web.Request) -> web.Response:
        return web.json_response({"choices": [], "usage": {"completion_tokens": 0}})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/completions", completions)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    one = ProbeSettings(
        target="t", kind="health", url=f"http://127.0.0.1:{port}", model="m", instance="t",
        interval_s=0.05,
    )  # fmt: skip
    try:
        async with probing(one) as watch:
            await watch.until(lambda: len(watch.results) >= 4)
    finally:
        await runner.cleanup()
    assert {(result.ok, result.proof) for result in watch.results} == {(False, "")}
    assert "without a token" in watch.results[0].error
    assert watch.results[3].healthy is False
