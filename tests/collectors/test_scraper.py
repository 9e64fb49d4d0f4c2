from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from collectors.batches import Entry
from collectors.metrics import Metrics
from collectors.scraper import PAGE_BYTES_MAX, EngineScraper, scrape
from redline.records import EngineSample
from redline.settings import EngineTarget
from tests.collectors.processes import free_port

PAGE = (Path(__file__).parent / "data" / "vllm_0_32.metrics.txt").read_text()


class Engine:
    """A server with a /metrics page that can be made to misbehave."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.url = ""

    async def metrics(self, request: web.Request) -> web.Response:
        if self.mode == "slow":
            await asyncio.sleep(60)
        if self.mode == "error":
            return web.Response(status=500)
        if self.mode == "large":
            return web.Response(text="#" * (PAGE_BYTES_MAX + 1))
        if self.mode == "restarted":
            return web.Response(text="vllm:generation_tokens_total 3\n")
        return web.Response(text=PAGE)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 8192}]})


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    found = Engine()
    app = web.Application()
    app.router.add_get("/metrics", found.metrics)
    app.router.add_get("/v1/models", found.models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    found.url = f"http://127.0.0.1:{port}"
    yield found
    await runner.cleanup()


def target(url: str, instance: str = "e1") -> EngineTarget:
    return EngineTarget(instance=instance, url=url, model="m")


@pytest.mark.parametrize(
    ("mode", "reason"), [("slow", "in time"), ("error", "500"), ("large", "longer than")]
)
async def test_a_misbehaving_engine_gives_a_sample_that_says_so(
    engine: Engine, mode: str, reason: str
) -> None:
    engine.mode = mode
    timeout = aiohttp.ClientTimeout(total=0.3 if mode == "slow" else 10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        sample = await scrape(session, target(engine.url + "/"))
    assert not sample.up
    assert reason in sample.error


async def test_a_dead_engine_gives_a_sample_that_says_so() -> None:
    async with aiohttp.ClientSession() as session:
        sample = await scrape(session, target(f"http://127.0.0.1:{free_port()}"))
    assert not sample.up
    assert "Connect" in sample.error


async def test_each_engine_is_read_at_its_pace_whatever_the_others_do(engine: Engine) -> None:
    samples: list[EngineSample] = []
    metrics = Metrics()

    def sink(entries: list[Entry] | tuple[Entry, ...]) -> None:
        for entry in entries:
            assert isinstance(entry.record, EngineSample)
            samples.append(entry.record)

    targets = [target(engine.url), target(f"http://127.0.0.1:{free_port()}", "gone")]
    scraper = EngineScraper(targets, 0.1, sink, metrics)  # type: ignore[arg-type]
    stop = asyncio.Event()
    running = asyncio.create_task(scraper.run(stop))
    async with asyncio.timeout(10):
        while sum(sample.up for sample in samples) < 4:
            await asyncio.sleep(0.02)
    stop.set()
    await running
    up = [sample for sample in samples if sample.up]
    assert {sample.instance for sample in up} == {"e1"}
    assert {sample.max_model_len for sample in up} == {8192}
    assert {sample.instance for sample in samples if not sample.up} == {"gone"}
    name = "redline_collectors_engine_scrapes_total"
    counted = metrics.registry.get_sample_value(name, {"instance": "e1", "result": "ok"})
    assert counted == len(up)


async def test_an_engine_that_began_anew_is_counted_once(engine: Engine) -> None:
    samples: list[EngineSample] = []
    metrics = Metrics()
    sink = lambda entries: samples.extend(entry.record for entry in entries)  # noqa: E731
    scraper = EngineScraper([target(engine.url)], 0.1, sink, metrics)
    stop = asyncio.Event()
    running = asyncio.create_task(scraper.run(stop))
    async with asyncio.timeout(10):
        for mode in ("ok", "restarted"):
            engine.mode = mode
            seen = len(samples)
            while len(samples) < seen + 3:
                await asyncio.sleep(0.02)
    stop.set()
    await running
    name = "redline_collectors_engine_restarts_total"
    assert metrics.registry.get_sample_value(name, {"instance": "e1"}) == 1


async def test_trtllm_is_read_where_its_page_is() -> None:
    page = (Path(__file__).parent / "data" / "tensorrt_llm.metrics.txt").read_text()

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=page)

    async def iterations(request: web.Request) -> web.Response:
        return web.json_response([])

    app = web.Application()
    app.router.add_get("/prometheus/metrics", metrics)
    app.router.add_get("/metrics", iterations)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with aiohttp.ClientSession() as session:
            plain = target(f"http://127.0.0.1:{port}")
            unknown = await scrape(session, plain)
            found = await scrape(session, plain.model_copy(update={"engine": "tensorrt_llm"}))
    finally:
        await runner.cleanup()
    assert "engine: tensorrt_llm" in unknown.error
    assert (found.up, found.running) == (True, 8)
