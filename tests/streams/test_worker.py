"""The real thing: broker, store and worker as processes, the worker killed twice in the middle."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from clickhouse_connect.driver.client import Client

from redline.codec import encode_batch, encode_json
from redline.records import (
    DeployEvent,
    EngineSample,
    LedgerEntry,
    LedgerKind,
    ProbeResult,
    Record,
    RequestRecord,
)
from redline.settings import Secrets
from redline.topics import DEPLOYS, ENGINES, PROBES, REQUESTS
from streams.baselines import DAY_US, HOUR_US, billing_day_start_us
from streams.metrics import Metrics
from streams.spend import SpendWatch
from streams.warehouse import Warehouse
from tests.streams.stack import Stack, free_port, wait_until

SECOND_US = 1_000_000
INSTANCES = [f"vllm-{n}" for n in range(6)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, {"streams": {"lateness_s": 5}})
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def send(stack: Stack, messages: list[tuple[str, str, bytes]]) -> None:
    """(topic, key, value), acknowledged."""

    async def publish() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=stack.settings.kafka.bootstrap_servers,
            acks="all",
            compression_type="zstd",
        )
        await producer.start()
        try:
            sent = [await producer.send(t, v, key=k.encode()) for t, k, v in messages]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    asyncio.run(publish())


def requests(rng: random.Random, count: int, first: int, end_us: int, instance: str) -> bytes:
    records: list[Record] = []
    for number in range(first, first + count):
        duration_us = rng.randrange(50_000, 9_000_000)
        ts_end_us = end_us - rng.randrange(3_000_000)
        records.append(
            RequestRecord(
                request_id=f"r-{number}",
                seq=number,
                ts_arrival_us=ts_end_us - duration_us,
                ts_end_us=ts_end_us,
                instance=instance,
                model="llama",
                version=rng.choice(["v1", "v2"]),
                region="eu",
                tenant=rng.choice(["acme", "globex", "initech"]),
                status_code=rng.choice([200] * 30 + [500, 429]),
                prompt_tokens=rng.randrange(1, 2_000),
                completion_tokens=rng.randrange(1, 500),
                queue_us=rng.choice([None, 1_000]),
                ttft_us=rng.randrange(1_000, 900_000),
                e2e_us=duration_us,
            )
        )
    return encode_batch(records)


def sample(instance: str, ts_us: int) -> tuple[str, str, bytes]:
    value = encode_batch(
        [EngineSample(ts_us=ts_us, instance=instance, model="llama", kv_cache_usage=0.5)]
    )
    return ENGINES.name, instance, value


def one(client: Client, sql: str) -> Any:
    return client.query(sql).result_rows[0][0]


@pytest.mark.slow
def test_killed_twice_it_counts_everything_once(stack: Stack) -> None:
    rng = random.Random(5)
    start_us = time.time_ns() // 1_000 - 120 * SECOND_US
    worker = stack.worker()
    worker.ready()
    client, total = stack.client(), 0
    for round_ in range(3):
        messages = []
        for step in range(30):
            end_us = start_us + (round_ * 30 + step) * SECOND_US
            instance = rng.choice(INSTANCES)
            count = rng.randrange(50, 300)
            messages.append(
                (REQUESTS.name, instance, requests(rng, count, total, end_us, instance))
            )
            messages.append(sample(rng.choice(INSTANCES), end_us))
            total += count
        send(stack, messages)
        if round_ < 2:
            seen = one(client, "SELECT count() FROM requests")
            more = f"SELECT count() > {seen} FROM requests"
            wait_until(lambda: one(client, more), 20, "some rows")  # noqa: B023
            worker.kill()
            worker = stack.worker()
            worker.ready()
    send(stack, [(REQUESTS.name, "vllm-0", b"\x01 not msgpack"), (PROBES.name, "x", b"{}")])
    wait_until(lambda: one(client, "SELECT count() FROM requests") >= total, 40, "every raw row")
    wait_until(
        lambda: one(client, "SELECT sum(requests) FROM panes FINAL") >= total, 20, "every pane"
    )
    # event time passes on every partition, seen by engines alone
    passed_us = start_us + 118 * SECOND_US
    send(stack, [sample(name, passed_us) for name in INSTANCES])
    wait_until(
        lambda: one(
            client,
            "SELECT countIf(status = 'provisional' AND window_end < "
            f"toDateTime({passed_us // SECOND_US - 10}, 'UTC')) = 0 AND count() > 0 "
            "FROM ledger FINAL",
        ),
        30,
        "everything settled",
    )
    assert one(client, "SELECT count() FROM requests") == total
    assert one(client, "SELECT uniqExact(request_id) FROM requests") == total
    assert one(client, "SELECT sum(requests) FROM panes FINAL") == total
    errors = "SELECT countIf(status_code >= 500) FROM requests"
    assert one(client, "SELECT sum(errors) FROM panes FINAL") == one(client, errors)
    unbalanced = client.query(
        "SELECT instance, window_start, sum(cost_nusd), any(bill_nusd) FROM ledger FINAL "
        "GROUP BY instance, window_start HAVING sum(cost_nusd) != any(bill_nusd)"
    ).result_rows
    assert not unbalanced
    assert one(client, "SELECT sum(requests) FROM ledger FINAL") == total
    paid = "SELECT sum(cost_nusd) FROM ledger FINAL WHERE tenant != ''"
    assert one(client, "SELECT sum(cost_nusd) FROM request_costs FINAL") == one(client, paid)
    exact = client.query("SELECT quantileExactLow(0.99)(e2e_us) FROM requests").result_rows[0][0]
    merged = client.query(
        "SELECT quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99, 0.999)(e2e_sketch)[4] FROM panes FINAL"
    ).result_rows[0][0]
    assert abs(merged / exact - 1) < 0.011
    letters = wait_until(
        lambda: (
            client.query("SELECT source, payload FROM dead_letters").result_rows[1:]
            and client.query("SELECT source, payload FROM dead_letters ORDER BY source").result_rows
        ),
        10,
        "the poison is kept",
    )
    assert {row[0].split("/")[0] for row in letters} == {REQUESTS.name, PROBES.name}
    assert worker.terminate() == 0


@pytest.mark.slow
def test_it_says_what_it_does_and_waits_for_clickhouse(stack: Stack) -> None:
    worker = stack.worker()
    port = worker.ready()["port"]
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    rng = random.Random(1)
    now_us = time.time_ns() // 1_000
    send(
        stack,
        [
            (REQUESTS.name, "vllm-0", requests(rng, 200, 0, now_us, "vllm-0")),
            (REQUESTS.name, "other-1", requests(rng, 10, 200, now_us, "other-1")),
            sample("vllm-0", now_us),
            (
                PROBES.name,
                "p",
                encode_json(ProbeResult(ts_us=now_us, target="p", kind="health", ok=True)),
            ),
            (
                DEPLOYS.name,
                "llama",
                encode_json(
                    DeployEvent(ts_us=now_us, model="llama", version="v2", action="deploy")
                ),
            ),
        ],
    )
    client = stack.client()
    for table in ("requests", "engine_samples", "probes", "deploys", "ledger"):
        wait_until(lambda: one(client, f"SELECT count() FROM {table}"), 20, table)  # noqa: B023
    names = "SELECT DISTINCT name FROM signals"
    wanted = {
        "requests_per_s", "error_ratio", "p99_latency_ms", "p95_ttft_ms", "waiting_requests",
        "usd_per_million_output_tokens", "kv_cache_usage", "price_missing", "spend_today_usd",
        "spend_projected_ratio",
    }  # fmt: skip
    wait_until(
        lambda: {row[0] for row in client.query(names).result_rows} >= wanted, 20, "all signals"
    )
    assert one(client, "SELECT count() FROM ledger WHERE instance = 'other-1'") == 0
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'redline_streams_records_total{topic="redline.requests"} 210.0' in metrics
    # ClickHouse goes away and comes back: nothing is lost
    store_port = stack.settings.clickhouse.port
    stack.store.kill()
    send(stack, [(REQUESTS.name, "vllm-0", requests(rng, 100, 300, now_us, "vllm-0"))])
    wait_until(
        lambda: (
            'insert_failures_total{table="requests"}'
            in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        ),
        20,
        "a failed insert is counted",
    )
    store = ["embedded.store", "--data-dir", str(stack.directory / "store")]
    stack.spawn("store", [*store, "--port", str(store_port)]).ready()
    client = stack.client()
    wait_until(lambda: one(client, "SELECT count() FROM requests") == 310, 30, "the rest")
    started = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_signals_rest_on_the_whole_window_after_a_restart(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {"streams": {"signal_window_s": 600}})
    try:
        stack.start()
        worker = stack.worker()
        worker.ready()
        now_us = time.time_ns() // 1_000
        rng = random.Random(2)
        first = requests(rng, 150, 0, now_us - 60 * SECOND_US, "vllm-0")
        send(stack, [(REQUESTS.name, "vllm-0", first)])
        client = stack.client()
        counted = (
            "SELECT sum(samples) = {samples} FROM signals WHERE name = 'p99_latency_ms' "
            "AND ts = (SELECT max(ts) FROM signals WHERE name = 'p99_latency_ms')"
        )
        wait_until(lambda: one(client, counted.format(samples=150)), 20, "the first signals")
        assert worker.terminate() == 0
        worker = stack.worker()
        worker.ready()
        more = requests(rng, 50, 150, time.time_ns() // 1_000, "vllm-0")
        send(stack, [(REQUESTS.name, "vllm-0", more)])
        wait_until(lambda: one(client, counted.format(samples=200)), 20, "both are in the window")
        assert worker.terminate() == 0
    finally:
        stack.stop()


@pytest.mark.slow
def test_two_workers_share_and_one_may_die(stack: Stack) -> None:
    """The second worker joins, takes partitions, is killed; then the first is stopped politely."""
    rng = random.Random(9)
    start_us = time.time_ns() // 1_000 - 120 * SECOND_US
    first = stack.worker()
    first.ready()
    config = stack.config.with_name("second.yaml")
    config.write_text(
        stack.config.read_text().replace(
            f"port: {stack.settings.streams.port}", f"port: {free_port()}"
        )
    )
    second = stack.spawn("streams", ["streams", "--config", str(config)])
    second.ready()
    client, total = stack.client(), 0

    def burst(step: int) -> None:
        nonlocal total
        messages = []
        for number in range(12):
            instance = INSTANCES[number % len(INSTANCES)]
            end_us = start_us + (step * 12 + number) * SECOND_US
            messages.append((REQUESTS.name, instance, requests(rng, 100, total, end_us, instance)))
            total += 100
        send(stack, messages)

    burst(0)
    wait_until(lambda: one(client, "SELECT count() FROM requests") >= 600, 20, "both work")
    burst(1)
    second.kill()
    burst(2)
    wait_until(lambda: one(client, "SELECT count() FROM requests") >= total, 60, "taken over")
    burst(3)
    assert first.terminate() == 0
    stack.worker().ready()
    passed_us = start_us + 110 * SECOND_US
    send(stack, [sample(name, passed_us) for name in INSTANCES])
    counted = "SELECT sumIf(requests, status != 'provisional') FROM ledger FINAL"
    wait_until(lambda: one(client, counted) == total, 40, "everything settled")
    assert one(client, "SELECT count() FROM requests") == total
    assert one(client, "SELECT sum(requests) FROM panes FINAL") == total
    unbalanced = client.query(
        "SELECT instance, window_start, sum(cost_nusd), any(bill_nusd) FROM ledger FINAL "
        "GROUP BY instance, window_start HAVING sum(cost_nusd) != any(bill_nusd)"
    ).result_rows
    assert not unbalanced


@pytest.mark.slow
async def test_spend_is_read_from_the_ledger_and_judged_by_the_official_rule(stack: Stack) -> None:
    now_us = time.time_ns() // 1_000
    day_us = billing_day_start_us(0, now_us)
    warehouse = Warehouse(stack.settings.clickhouse, Secrets(), Metrics())

    def line(start_us: int, kind: LedgerKind, tenant: str, nusd: int) -> LedgerEntry:
        return LedgerEntry(
            gpu_group="h100", instance="vllm-0", window_start_us=start_us // SECOND_US * SECOND_US,
            window_end_us=start_us // SECOND_US * SECOND_US + 10 * SECOND_US, kind=kind,
            status="settled", revision=1, method="m", cost_nusd=nusd, bill_nusd=nusd,
            tenant=tenant, correction_id="c" if kind == "correction" else "",
        )  # fmt: skip

    history = [
        line(day_us - day * DAY_US + hour * HOUR_US, "request", "acme", 4_000_000_000)
        for day in range(1, 8)
        for hour in range(24)
    ]
    spend = [
        line(day_us, "request", "acme", 3_000_000_000),
        line(day_us, "correction", "acme", 500_000_000),
        line(day_us, "idle", "", 1_000_000_000),
        line(day_us, "correction", "", -500_000_000),
        line(day_us, "overhead", "acme", 250_000_000),
    ]
    try:
        await warehouse.insert_absolute([*history, *spend])
        watch = SpendWatch(warehouse, stack.settings.streams)
        for _ in range(2):  # the second answer comes from the cached sums
            signals = await watch.evaluate(now_us)
            today = next(s for s in signals if s.name == "spend_today_usd")
            assert today.value == pytest.approx(4.25)
            ratio = next(s for s in signals if s.name == "spend_projected_ratio")
            assert ratio.labels == {"tenant": "acme"}
            assert not ratio.learning
            assert ratio.samples == 7
            if now_us - day_us > 15 * 60 * SECOND_US:  # nothing in the rate window
                assert ratio.value == pytest.approx(3.5 / 96)
    finally:
        warehouse.close()
