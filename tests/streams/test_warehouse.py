"""Every record type lands in its table on the real engine, once, and misfits are refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redline.errors import RecordInvalid
from redline.records import (
    ActionEvent,
    AlertEvent,
    AuditEntry,
    CollectorCount,
    DeadLetter,
    DeployEvent,
    EngineSample,
    GpuSample,
    LedgerEntry,
    Pane,
    ProbeResult,
    Record,
    RequestCost,
    RequestRecord,
    Signal,
)
from redline.settings import Secrets
from redline.sketch import DDSketch
from streams.metrics import Metrics
from streams.rows import TABLES
from streams.warehouse import Warehouse
from tests.streams.stack import Stack
from tests.streams.world import SECOND_US


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def samples(now_us: int) -> list[Record]:
    start_us = now_us // (10 * SECOND_US) * 10 * SECOND_US
    sketch = DDSketch()
    sketch.add_many([10, 20, 30])
    return [
        RequestRecord(
            request_id="ü", seq=1, ts_arrival_us=now_us - 5, ts_end_us=now_us, instance="i",
            model="m", queue_us=None, e2e_us=5, stream=True, canary=True,
        ),
        EngineSample(ts_us=now_us, instance="i", model="m", running=1.5, num_gpu_blocks=7),
        GpuSample(ts_us=now_us, host="h", gpu_uuid="u", gpu_index=0, temperature_c=-3, xid=79),
        ProbeResult(ts_us=now_us, target="t", kind="health", ok=False, error="no"),
        DeployEvent(ts_us=now_us, model="m", version="v", action="weights", weight=0.25),
        DeadLetter(ts_us=now_us, source="s", offset=3, reason="r", payload=b"\x00\xff\xfe"),
        Signal(ts_us=now_us, name="n", value=None, window_s=60, labels={"model": "m"}),
        AlertEvent(
            ts_us=now_us, fingerprint="f", incident_id="i", rule="r", from_state="pending",
            to_state="firing", reason="why", labels={"a": "b"}, value=1.0, started_at_us=now_us,
        ),
        ActionEvent(
            ts_us=now_us, action_id="a", incident_id="i", kind="rollback", mode="auto",
            status="delivered", target="m", expires_at_us=now_us, http_status=200,
            signature_verified=True,
        ),
        AuditEntry(
            ts_us=now_us, seq=1, actor="a", event="e", payload="{}", previous_hash="0" * 64,
            hash="f" * 64,
        ),
        Pane(
            model="m", version="v", region="eu", tenant="t" * 200, start_us=start_us,
            source_partition=513, revision=4, requests=3, cost_nusd=-5,
            e2e_sketch=sketch.to_bytes(),
        ),
        LedgerEntry(
            gpu_group="g", instance="i", window_start_us=start_us,
            window_end_us=start_us + 10 * SECOND_US, kind="correction", status="correction",
            revision=3, method="m", cost_nusd=-7, bill_nusd=9, correction_id="0-1",
        ),
        RequestCost(
            request_id="r", instance="i", window_start_us=start_us, cost_nusd=1, method="m"
        ),
        CollectorCount(
            start_us=start_us, instance="i", side="published", part=now_us, revision=2, log="l",
            requests=7, first_seq=1, complete=False,
        ),
    ]  # fmt: skip


@pytest.mark.slow
async def test_every_record_lands_once_as_it_is(stack: Stack) -> None:

    now_us = time.time_ns() // 1_000
    warehouse = Warehouse(stack.settings.clickhouse, Secrets(), Metrics())
    client = stack.client()
    records = samples(now_us)
    assert {type(record) for record in records} == set(TABLES)
    for record in records:
        for _ in range(2):  # a replay
            if TABLES[type(record)].sourced:
                await warehouse.insert_message([record], "topic", (3, 4))
            else:
                await warehouse.insert_absolute([record])
        table = TABLES[type(record)].name
        final = "" if table in {"requests", "engine_samples", "gpu_samples", "signals"} else "FINAL"
        assert client.query(f"SELECT count() FROM {table} {final}").result_rows == [(1,)], table

    def row(sql: str) -> tuple[Any, ...]:
        found: tuple[Any, ...] = tuple(client.query(sql).result_rows[0])
        return found

    assert row(
        "SELECT request_id, toUnixTimestamp64Micro(ts_end), queue_us, e2e_us, stream FROM requests"
    ) == ("ü", now_us, None, 5, True)
    assert row("SELECT src_partition, src_offset FROM requests") == (3, 4)
    assert row("SELECT hex(payload) FROM dead_letters") == ("00FFFE",)
    assert row("SELECT labels, value FROM signals") == ({"model": "m"}, None)
    started = "toUnixTimestamp64Micro(assumeNotNull(started_at))"
    assert row(f"SELECT breached_at IS NULL, {started} FROM alerts") == (1, now_us)
    assert row("SELECT signature_verified, http_status FROM actions") == (True, 200)
    assert row("SELECT toString(hash) FROM audit") == ("f" * 64,)
    columns = "toUnixTimestamp(start), part, requests, first_seq, last_seq, complete"
    assert row(f"SELECT {columns} FROM collector_counts FINAL") == (
        now_us // (10 * SECOND_US) * 10, now_us, 7, 1, None, False,
    )  # fmt: skip
    assert row("SELECT energy_delta_j, processes FROM gpu_samples") == (None, None)
    assert row("SELECT proof, healthy FROM probes FINAL") == ("", None)
    assert row("SELECT cost_nusd, kind FROM ledger FINAL") == (-7, "correction")
    levels = "(0.01, 0.5, 0.9, 0.95, 0.99, 0.999)"
    p50, empty, partition, tenant, nusd = row(
        f"SELECT quantilesDDMerge{levels}(e2e_sketch)[1], quantilesDDMerge{levels}(ttft_sketch)[1],"
        " any(source_partition), any(tenant), any(cost_nusd) FROM panes FINAL"
    )
    assert abs(p50 / 20 - 1) < 0.01
    assert not empty > 0
    assert (partition, tenant, nusd) == (513, "t" * 200, -5)
    with pytest.raises(RecordInvalid, match="engine_samples"):
        await warehouse.insert_message(
            [EngineSample(ts_us=now_us, instance="i", model="m", num_gpu_blocks=2**40)], "t", (0, 9)
        )
    warehouse.close()
