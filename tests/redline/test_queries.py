"""Every query on the real engine: a seeded hour and an empty database."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st

from redline import queries
from redline.queries import Query, Selection, TimeRange
from redline.queries.ranges import BUCKETS_MAX, DAY_S, SECOND_US, STEPS_S
from tests.dashboards import seed
from tests.dashboards.store import new_database, running_store

NOW_US = 1_795_500_007_000_000  # 2026-11-24, seven seconds into a pane
DAY = TimeRange(NOW_US - 86_400 * SECOND_US, NOW_US + SECOND_US)
HOUR = queries.chart_range(NOW_US - 3_600 * SECOND_US, NOW_US)
MINUTE = queries.closed_range(60, 2, NOW_US)


class Stores(NamedTuple):
    seeded: Client
    empty: Client
    scratch: Client


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with running_store(tmp_path_factory.mktemp("queries")) as port:
        found = Stores(*(new_database(port, name) for name in Stores._fields))
        seed.seed_hour(found.seeded, NOW_US)
        yield found
        for client in found:
            client.close()


def rows(client: Client, query: Query) -> list[dict[str, Any]]:
    """As the page runs it: read-only."""
    result = client.query(query.sql, parameters=query.parameters, settings={"readonly": 1})
    return [dict(zip(result.column_names, row, strict=True)) for row in result.result_rows]


def one(client: Client, query: Query) -> dict[str, Any]:
    (row,) = rows(client, query)
    return row


LISTS = {
    "spend_by_tenant": queries.spend_by_tenant(DAY),
    "engines": queries.engines(DAY),
    "traffic_by_version": queries.traffic_by_version(HOUR),
    "traffic_totals": queries.traffic_totals(HOUR),
    "spend_by_line": queries.spend_by_line(HOUR),
    "spend_totals": queries.spend_totals(HOUR),
    "kv_by_instance": queries.kv_by_instance(HOUR),
    "kv_totals": queries.kv_totals(HOUR),
    "marks": queries.marks(DAY),
    "alerts": queries.alerts(DAY),
    "actions": queries.actions(DAY),
}
FIGURES = {
    "traffic": queries.traffic(MINUTE),
    "spend": queries.spend(DAY),
    "saturation": queries.saturation(DAY),
    "data_age": queries.data_age(600, NOW_US),
}
COUNTS = {"windows", "instances", "instances_up", "kv_instance"}  # of these none is 0, or ''


@pytest.mark.parametrize("name", LISTS)
def test_an_empty_store_gives_empty_lists(stores: Stores, name: str) -> None:
    assert rows(stores.empty, LISTS[name]) == []


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_store_gives_null_never_zero(stores: Stores, name: str) -> None:
    row = one(stores.empty, FIGURES[name])
    assert {key: row[key] for key in row if key not in COUNTS} == dict.fromkeys(
        set(row) - COUNTS, None
    )


@pytest.mark.parametrize("name", LISTS | FIGURES)
def test_a_seeded_store_gives_rows_and_finite_figures(stores: Stores, name: str) -> None:
    found = rows(stores.seeded, (LISTS | FIGURES)[name])
    assert found
    for row in found:
        for value in row.values():
            assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("name", LISTS | FIGURES)
def test_queries_carry_values_only_as_parameters(name: str) -> None:
    query = (LISTS | FIGURES)[name]
    for key in query.parameters:
        assert f"{{{key}:" in query.sql
    for value in query.parameters.values():
        if isinstance(value, int) and value > 1_000:
            assert str(value) not in query.sql


def test_traffic_is_what_the_raw_requests_say(stores: Stores) -> None:
    row = one(stores.seeded, queries.traffic(MINUTE))
    truth = one(
        stores.seeded,
        Query(
            """
            SELECT count() AS n, countIf(status_code >= 500) AS failed,
                sum(completion_tokens) AS tokens,
                arraySort(groupArray(e2e_us)) AS e2e, arraySort(groupArray(ttft_us)) AS ttft
            FROM requests WHERE toUnixTimestamp(ts_end) >= {start_s:Int64}
              AND toUnixTimestamp(ts_end) < {end_s:Int64}""",
            MINUTE.parameters,
        ),
    )
    assert row["requests"] == truth["n"] > 500
    assert row["requests_per_s"] == pytest.approx(truth["n"] / 60)
    assert row["errors"] == truth["failed"]
    assert row["error_ratio"] == pytest.approx(truth["failed"] / truth["n"])
    assert row["completion_tokens"] == truth["tokens"]
    at = truth["n"] - 1
    assert row["p99_latency_ms"] * 1_000 == pytest.approx(truth["e2e"][int(at * 0.99)], rel=0.011)
    assert row["p95_ttft_ms"] * 1_000 == pytest.approx(truth["ttft"][int(at * 0.95)], rel=0.011)
    usd = row["cost_nusd"] / 1e9 / (row["completion_tokens"] / 1e6)
    assert row["usd_per_million_output_tokens"] == pytest.approx(usd)


def test_percentiles_of_all_are_merged_not_averaged(stores: Stores) -> None:
    canary = TimeRange(NOW_US - 25 * 60 * SECOND_US, NOW_US - 21 * 60 * SECOND_US)
    both = one(stores.seeded, queries.traffic(canary))
    v1, v2 = (
        one(stores.seeded, queries.traffic(canary, Selection(version=version)))
        for version in ("v1", "v2")
    )
    assert v1["requests"] + v2["requests"] == both["requests"]
    assert v1["p99_latency_ms"] < both["p99_latency_ms"] < v2["p99_latency_ms"]
    weighted = sum(v["p99_latency_ms"] * v["requests"] for v in (v1, v2)) / both["requests"]
    assert both["p99_latency_ms"] > weighted * 1.2


def test_a_selection_is_data_not_sql(stores: Stores) -> None:
    hostile = Selection(model="x' OR 1=1 --")
    assert one(stores.seeded, queries.traffic(MINUTE, hostile))["requests"] is None
    known = Selection(model=seed.MODEL, region="eu-west", tenant="acme")
    some = one(stores.seeded, queries.traffic(MINUTE, known))
    everything = one(stores.seeded, queries.traffic(MINUTE))
    assert 0 < some["requests"] < everything["requests"]


def test_spend_is_the_bill_and_its_lines_add_up(stores: Stores) -> None:
    row = one(stores.seeded, queries.spend(DAY))
    billed = one(
        stores.seeded,
        Query("SELECT uniqExact(window_start, instance) AS n FROM ledger FINAL", {}),
    )["n"]
    assert row["spend_nusd"] == billed * seed.BILL_NUSD
    assert row["attributed_nusd"] + row["idle_nusd"] == row["spend_nusd"]
    assert row["overhead_nusd"] is None
    assert row["idle_share"] == pytest.approx(row["idle_nusd"] / row["spend_nusd"])
    tenants = rows(stores.seeded, queries.spend_by_tenant(DAY))
    assert sum(line["spend_nusd"] for line in tenants) == row["spend_nusd"]
    assert sum(line["share"] for line in tenants) == pytest.approx(1)
    assert tenants == sorted(tenants, key=lambda line: -line["spend_nusd"])


@pytest.mark.parametrize("tenants", [1, 3, 100])
def test_folding_tenants_keeps_each_bucket_whole(stores: Stores, tenants: int) -> None:
    lines = rows(stores.seeded, queries.spend_by_line(HOUR, tenants))
    totals = rows(stores.seeded, queries.spend_totals(HOUR))
    per_bucket: dict[int, int] = {}
    for line in lines:
        per_bucket[line["t_s"]] = per_bucket.get(line["t_s"], 0) + line["spend_nusd"]
    assert per_bucket == {row["t_s"]: row["spend_nusd"] for row in totals}
    named = {line["owner"] for line in lines if line["line"] == "tenant"}
    assert named - {queries.series.OTHER_TENANTS} <= set(seed.TENANTS)
    assert len(named) == min(tenants, len(seed.TENANTS)) + (tenants < len(seed.TENANTS))


def test_a_higher_revision_replaces_a_ledger_line(stores: Stores) -> None:
    client = stores.scratch
    within = TimeRange(NOW_US - 60 * SECOND_US, NOW_US)
    window_s = NOW_US // SECOND_US // 10 * 10 - 20
    columns = (
        "(window_start, window_end, gpu_group, instance, kind, status, revision, method, "
        "cost_nusd, bill_nusd, model, version, region, tenant, requests, reason, correction_id)"
    )
    lines = [
        ("idle", "provisional", 1, 900, "", "", "no_request", ""),
        ("idle", "settled", 2, 600, "", "", "no_request", ""),
        ("request", "settled", 2, 300, "m", "", "", ""),  # nobody's name on it: not idle
        ("overhead", "settled", 2, 100, "m", "", "cold_start", ""),
        ("correction", "correction", 1, 50, "m", "acme", "", "c1"),
        ("correction", "correction", 1, 20, "m", "acme", "failed", "c1"),
        ("correction", "correction", 1, -70, "", "", "", "c1"),
    ]
    for kind, status, revision, cost, model, tenant, reason, correction in lines:
        client.command(
            f"INSERT INTO ledger {columns} VALUES ({window_s}, {window_s + 10}, 'g', 'i', "
            f"'{kind}', '{status}', {revision}, 'm1', {cost}, 1000, '{model}', '', '', '{tenant}', "
            f"1, '{reason}', '{correction}')"
        )
    row = one(client, queries.spend(within))
    assert row["spend_nusd"] == 1_000
    assert (row["attributed_nusd"], row["idle_nusd"], row["overhead_nusd"]) == (350, 530, 120)
    assert row["usd_per_hour"] == pytest.approx(1_000 / 1e9 * 360)
    owners = {
        (line["line"], line["owner"]): line["spend_nusd"]
        for line in rows(client, queries.spend_by_tenant(within))
    }
    assert owners == {
        ("idle", ""): 530,
        ("tenant", ""): 300,
        ("overhead", ""): 120,
        ("tenant", "acme"): 50,
    }


def test_an_imported_hour_is_spread_over_its_buckets(stores: Stores) -> None:
    start_s = NOW_US // SECOND_US // 86_400 * 86_400
    stores.scratch.command(
        "INSERT INTO ledger (window_start, window_end, gpu_group, instance, kind, status, "
        "revision, method, cost_nusd, bill_nusd, tenant, requests, model) VALUES "
        f"({start_s - 1_800}, {start_s + 1_800}, 'g', 'old', 'request', 'settled', 1, 'm', "
        "3600000000, 3600000000, 'acme', 1, 'm')"
    )
    within = TimeRange(start_s * SECOND_US, (start_s + 3_600) * SECOND_US, 300)
    found = rows(stores.scratch, queries.spend_totals(within))
    assert [row["t_s"] - start_s for row in found] == list(range(0, 1_800, 300))
    assert {row["spend_nusd"] for row in found} == {300_000_000}
    assert {row["usd_per_hour"] for row in found} == {3.6}
    (line, *_) = rows(stores.scratch, queries.spend_by_line(within))
    assert (line["line"], line["spend_nusd"]) == ("tenant", 300_000_000)


def test_ranges_are_half_open(stores: Stores) -> None:
    whole = one(stores.seeded, queries.traffic(MINUTE))["requests"]
    middle = MINUTE.start_us + 30 * SECOND_US
    first = one(stores.seeded, queries.traffic(TimeRange(MINUTE.start_us, middle)))["requests"]
    second = one(stores.seeded, queries.traffic(TimeRange(middle, MINUTE.end_us)))["requests"]
    assert first + second == whole


def test_buckets_are_whole_steps_within_the_range(stores: Stores) -> None:
    totals = rows(stores.seeded, queries.traffic_totals(HOUR))
    assert len(totals) == HOUR.length_s // HOUR.step_s == 360
    assert totals[0]["t_s"] == HOUR.start_s
    assert totals[-1]["t_s"] == HOUR.end_s - HOUR.step_s
    by_version = rows(stores.seeded, queries.traffic_by_version(HOUR))
    assert sum(row["requests"] for row in by_version) == sum(row["requests"] for row in totals)
    only_one = rows(stores.seeded, queries.traffic_by_version(HOUR, lines=1))
    assert {row["version"] for row in only_one} == {"v1"}


def test_saturation_is_of_the_last_sample_of_engines_that_are_up(stores: Stores) -> None:
    client = stores.scratch
    insert = (
        "INSERT INTO engine_samples (ts, instance, model, version, region, up, running, waiting, "
        "kv_cache_usage) VALUES (fromUnixTimestamp64Micro({}, 'UTC'), '{}', 'm', 'v1', '', {}, "
        "{}, {}, {})"
    )
    for before_s, instance, up, running, waiting, kv in [
        (20, "a", "true", 9, 9, 0.99),
        (2, "a", "true", 4, 1, 0.40),
        (3, "b", "true", 2, 0, 0.70),
        (20, "c", "true", 7, 7, 0.95),
        (1, "c", "false", "NULL", "NULL", "NULL"),
    ]:
        ts = NOW_US - before_s * SECOND_US
        client.command(insert.format(ts, instance, up, running, waiting, kv))
    just_now = TimeRange(NOW_US - 30 * SECOND_US, NOW_US)
    assert one(client, queries.saturation(just_now)) == {
        "kv_cache_usage": 0.70,
        "kv_instance": "b",
        "running": 6,
        "waiting": 1,
        "instances_up": 2,
        "instances": 3,
    }
    engines = {row["instance"]: row for row in rows(client, queries.engines(just_now))}
    assert engines["c"]["up"] is False
    assert engines["c"]["kv_cache_usage"] is None
    assert engines["a"]["sampled_us"] == NOW_US - 2 * SECOND_US
    age = one(client, queries.data_age(600, NOW_US))
    assert age == {"requests_age_ms": None, "samples_age_ms": 1_000, "data_age_ms": 1_000}


def test_marks_are_in_order_and_the_newest_win(stores: Stores) -> None:
    marks = rows(stores.seeded, queries.marks(DAY))
    assert [mark["t_us"] for mark in marks] == sorted(mark["t_us"] for mark in marks)
    kinds = [mark["kind"] for mark in marks]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "deploy": 3,
        "firing": 2,
        "resolved": 2,
        "action": 1,
    }
    assert rows(stores.seeded, queries.marks(DAY, limit=3)) == marks[-3:]
    canary = next(mark for mark in marks if mark["name"] == "deploy v2")
    assert canary["detail"] == "20 % of traffic, by ci, canary"


def test_alerts_say_how_long_and_actions_how_they_ended(stores: Stores) -> None:
    told = seed.story(NOW_US)
    full, slow = rows(stores.seeded, queries.alerts(DAY))
    assert full["rule"] == "kv_cache_saturation"
    assert (slow["state"], slow["value"], slow["threshold"]) == ("resolved", 6812.0, 5000.0)
    assert abs(slow["started_us"] - told.fired_us) <= 1
    assert abs(slow["ended_us"] - told.resolved_us) <= 1
    assert slow["labels"]["version"] == "v2"
    assert (slow["reason"], slow["last_reason"]) == ("breach_held", "clear_held")
    assert (slow["peak_value"], slow["last_value"]) == (6812.0, 1204.0)
    assert slow["started_us"] - slow["breached_us"] == 30 * SECOND_US
    action = one(stores.seeded, queries.actions(DAY))
    assert (action["status"], action["http_status"]) == ("delivered", 200)
    assert action["signature_verified"] is True
    assert action["incident_id"] == slow["incident_id"]
    assert action["delivered_us"] - action["proposed_us"] == 2 * SECOND_US


def test_a_long_alert_is_known_from_its_later_transitions(stores: Stores) -> None:
    told = seed.story(NOW_US)
    late = TimeRange(told.resolved_us - 30 * SECOND_US, NOW_US)
    slow = rows(stores.seeded, queries.alerts(late))[-1]
    assert abs(slow["started_us"] - told.fired_us) <= 1
    assert slow["state"] == "resolved"


def test_an_open_alert_has_no_end(stores: Stores) -> None:
    seed.open_incident(stores.scratch, NOW_US)
    alert = one(stores.scratch, queries.alerts(DAY))
    assert alert["state"] == "firing"
    assert alert["ended_us"] is None
    action = one(stores.scratch, queries.actions(DAY))
    assert (action["status"], action["delivered_us"]) == ("proposed", None)


lengths = st.integers(min_value=1, max_value=400 * DAY_S)


@given(start_us=st.integers(min_value=0, max_value=4 * 10**15), length_s=lengths)
def test_chart_ranges_are_aligned_and_never_partial(start_us: int, length_s: int) -> None:
    end_us = start_us + length_s * SECOND_US
    found = queries.chart_range(start_us, end_us)
    assert found.step_s in STEPS_S
    assert found.start_us % (found.step_s * SECOND_US) == 0
    assert found.length_s % found.step_s == 0
    assert 1 <= found.length_s // found.step_s <= BUCKETS_MAX + 1
    assert found.start_us <= start_us
    if length_s >= 2 * found.step_s:
        assert found.end_us <= end_us < found.end_us + found.step_s * SECOND_US


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="not after its start"):
        queries.chart_range(NOW_US, NOW_US)


@given(
    now_us=st.integers(min_value=10**15, max_value=4 * 10**15),
    hours=st.floats(min_value=-14, max_value=14),
)
def test_a_billing_day_starts_at_the_providers_midnight(now_us: int, hours: float) -> None:
    day = queries.billing_day(hours, now_us)
    assert 0 <= now_us - day.start_us < DAY_S * SECOND_US
    local = day.start_us + int(hours * 3_600 * SECOND_US)
    assert local % (DAY_S * SECOND_US) == 0


@given(now_us=st.integers(min_value=10**15, max_value=4 * 10**15), lag_s=st.floats(0, 60))
def test_closed_ranges_leave_open_panes_out(now_us: int, lag_s: float) -> None:
    found = queries.closed_range(60, lag_s, now_us)
    assert found.length_s == 60
    assert found.end_us % (queries.PANE_S * SECOND_US) == 0
    assert lag_s * SECOND_US - 1 <= now_us - found.end_us < (lag_s + 10) * SECOND_US + 1


def test_engines_without_a_price_are_named_once(stores: Stores) -> None:
    columns = ["ts", "name", "labels", "value", "window_s", "samples", "data_age_ms", "coverage",
               "learning", "src_partition", "src_offset"]  # fmt: skip
    at = datetime.fromtimestamp(NOW_US / 1e6, UTC)
    assert one(stores.empty, queries.unpriced(DAY))["instances"] == []
    signals = [
        [at, "price_missing", {"instance": name}, 1.0, 10, 1, 0, 1.0, False, 0, offset]
        for offset, name in enumerate(["vllm-9", "vllm-3", "vllm-9"])
    ]
    stores.seeded.insert("signals", signals, column_names=columns)
    around = TimeRange(NOW_US - 1_000_000, NOW_US + 1_000_000)
    assert one(stores.seeded, queries.unpriced(around))["instances"] == ["vllm-3", "vllm-9"]
    later = TimeRange(NOW_US + 1_000_000, NOW_US + 2_000_000)
    assert one(stores.seeded, queries.unpriced(later))["instances"] == []
