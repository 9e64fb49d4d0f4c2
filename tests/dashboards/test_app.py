"""The HTTP surface over a real store: figures, refusals, headers, and a store that is away."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboards.app import Page, create_app
from dashboards.history import KEPT_MAX
from redline.clickhouse import connect
from redline.settings import ClickHouseSettings, Secrets, Settings
from tests.dashboards.conftest import Store

SECOND_US = 1_000_000


@contextlib.asynccontextmanager
async def page_over(port: int, database: str, now_us: int) -> AsyncIterator[tuple[Page, Any]]:
    settings = Settings(clickhouse=ClickHouseSettings(port=port, database=database))
    page = Page(settings, lambda: connect(settings.clickhouse, Secrets()), lambda: now_us)
    transport = httpx.ASGITransport(app=create_app(page))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield page, client
    await page.close()


@pytest.fixture
async def seeded(store: Store) -> AsyncIterator[tuple[Page, httpx.AsyncClient]]:
    async with page_over(store.port, "seeded", store.now_us) as found:
        yield found


async def test_the_overview_has_every_tile_with_window_and_samples(
    seeded: tuple[Page, httpx.AsyncClient],
) -> None:
    page, client = seeded
    await page.poller.tick()
    body = (await client.get("/api/overview")).json()
    tiles = body["tiles"]
    assert tiles["requests_per_s"]["value"] == pytest.approx(
        tiles["requests_per_s"]["samples"] / 57,
        rel=1e-4,  # seven seconds into the sixth pane
    )
    for name in ("p99_latency_ms", "p95_ttft_ms", "usd_per_million_output_tokens"):
        assert tiles[name]["value"] > 0
        assert tiles[name]["samples"] > 100
        assert tiles[name]["window_s"] in (60, 300)
    cost = tiles["usd_per_million_output_tokens"]
    assert cost["with_idle"] > cost["value"]
    assert tiles["spend_today_nusd"]["value"] > 10**9
    assert tiles["instances"] == {"up": 6, "seen": 6}
    assert body["status"]["verdict"]["level"] == "ok"
    assert len(body["spark"]["t"]) == len(body["spark"]["p99_latency_ms"]) == 120
    assert sum(tenant["share"] for tenant in body["tenants"]) == pytest.approx(1)
    assert len(body["engines"]) == 6


async def test_series_are_columns_of_equal_length(seeded: tuple[Page, httpx.AsyncClient]) -> None:
    _, client = seeded
    body = (await client.get("/api/series", params={"last": 3_600})).json()
    assert (body["step_s"], len(body["t"])) == (10, 360)
    for group in ("traffic", "spend", "kv"):
        assert body[group]
        for line in body[group]:
            for column in (value for value in line.values() if isinstance(value, list)):
                assert len(column) == 360
    canary = next(line for line in body["traffic"] if line["version"] == "v2")
    assert None in canary["requests_per_s"]
    assert 0 not in canary["requests_per_s"]


async def test_a_range_is_chosen_by_from_and_to(
    seeded: tuple[Page, httpx.AsyncClient], store: Store
) -> None:
    _, client = seeded
    end_s = store.now_us / SECOND_US
    asked = {"from": end_s - 86_400, "to": end_s}
    body = (await client.get("/api/series", params=asked)).json()
    assert body["step_s"] == 300
    assert body["end_s"] <= end_s
    marks = (await client.get("/api/marks", params=asked)).json()["marks"]
    assert [mark["kind"] for mark in marks].count("deploy") == 3
    assert len((await client.get("/api/alerts")).json()["alerts"]) == 2
    assert len((await client.get("/api/actions")).json()["actions"]) == 1


@pytest.mark.parametrize(
    "asked", ["from=20&to=10", "last=1", "last=x", "from=-5", "from=0&to=9e9", "to=1e300"]
)
async def test_ranges_that_make_no_sense_are_refused(
    seeded: tuple[Page, httpx.AsyncClient], asked: str
) -> None:
    _, client = seeded
    assert (await client.get(f"/api/series?{asked}")).status_code == 422


async def test_equal_ranges_share_one_read_and_are_bounded(
    seeded: tuple[Page, httpx.AsyncClient], store: Store
) -> None:
    page, client = seeded
    for last in range(600, 600 + 10 * (KEPT_MAX + 5), 10):
        await client.get("/api/series", params={"last": last})
        await client.get("/api/series", params={"last": last})
    assert len(page.history) == KEPT_MAX
    text = (await client.get("/metrics")).text
    reads = next(
        line
        for line in text.splitlines()
        if line.startswith('redline_dashboards_query_seconds_count{query="kv_by_instance"}')
    )
    assert float(reads.split()[-1]) == KEPT_MAX + 5


async def test_an_empty_store_shows_null_and_waits(store: Store) -> None:
    async with page_over(store.port, "empty", store.now_us) as (page, client):
        await page.poller.tick()
        body = (await client.get("/api/overview")).json()
        shown = {name: tile.get("value") for name, tile in body["tiles"].items()}
        assert set(shown.values()) == {None}
        assert body["status"]["verdict"]["text"] == "Waiting for the first data"
        assert (await client.get("/healthz")).status_code == 200
        series = (await client.get("/api/series")).json()
        assert (series["traffic"], series["spend"], series["kv"]) == ([], [], [])


@pytest.mark.parametrize(
    ("database", "headline"), [("missing", "The store is empty"), ("default", "The store is empty")]
)
async def test_a_store_without_tables_is_said_with_its_fix(
    store: Store, database: str, headline: str
) -> None:
    async with page_over(store.port, database, store.now_us) as (page, client):
        await page.poller.tick()
        status = (await client.get("/api/overview")).json()["status"]
        assert status["verdict"]["text"] == headline
        assert "redline migrate" in status["verdict"]["detail"]
        health = await client.get("/healthz")
        assert health.status_code == 503
        assert "redline migrate" in health.json()["reason"]


async def test_an_away_store_is_said_and_nothing_falls(store: Store) -> None:
    async with page_over(1, "seeded", store.now_us) as (page, client):
        await page.poller.tick()
        assert (await client.get("/healthz")).status_code == 503
        answer = await client.get("/api/series")
        assert answer.status_code == 503
        assert "does not answer" in answer.json()["error"]
        status = (await client.get("/api/overview")).json()["status"]
        assert status["verdict"]["text"] == "Reconnecting to the store"
        assert (await client.get("/")).status_code == 200
        assert 'polls_total{result="failed"} 1.0' in (await client.get("/metrics")).text


async def test_nothing_comes_from_elsewhere(seeded: tuple[Page, httpx.AsyncClient]) -> None:
    _, client = seeded
    for path in ("/", "/static/app.js", "/api/overview", "/healthz", "/nothing-here"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "script-src" not in policy  # so that scripts fall under 'self'
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    html = (await client.get("/")).text
    assert "http://" not in html
    assert "https://" not in html


async def test_other_names_for_this_machine_are_refused(
    seeded: tuple[Page, httpx.AsyncClient],
) -> None:
    _, client = seeded
    answer = await client.get("/api/overview", headers={"Host": "evil.example"})
    assert answer.status_code == 400


async def test_a_full_house_is_refused_with_a_time(seeded: tuple[Page, httpx.AsyncClient]) -> None:
    page, client = seeded
    while page.hub.enter():
        pass
    answer = await client.get("/events")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"
    assert "redline_dashboards_clients_refused_total 1.0" in (await client.get("/metrics")).text


def test_scripts_fit_their_budget() -> None:
    import gzip

    static = Path(__file__).resolve().parents[2] / "dashboards" / "static"
    total = sum(len(gzip.compress(path.read_bytes(), 5)) for path in static.rglob("*.js"))
    assert total <= 50_000
    assert (static / "vendor" / "uPlot.LICENSE").read_text().startswith("The MIT License")
