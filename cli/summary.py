"""What went through the pipeline and whether the numbers hold: the facts of demo and replay.

Reads ClickHouse only, and compares what the streams computed with what the raw rows say:
p99 of the merged sketches against the exact p99 of the same requests, the ledger's lines against
the price book's bill. This file refuses to forgive: every difference is a number in the summary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from streams.pricing import Bill, Pricer

PANE_S = 10
PANE_US = PANE_S * 1_000_000


class StoredFacts(NamedTuple):
    """What the database says about a run."""

    requests_stored: int
    lost: int
    duplicated: int
    rejected: int
    panes_requests: int
    p99_ms: float | None
    p99_exact_ms: float | None
    p99_error: float | None
    ledger_windows: int
    ledger_imbalance_nusd: int
    unsettled_windows: int
    cost_usd: float
    idle_usd: float


def stored_facts(
    client: Client,
    sent_ids: Iterable[str] | None,
    since_us: int,
    until_us: int,
    pricer: Pricer,
) -> StoredFacts:
    """Compare what is stored from ``since_us`` on with what was sent and priced.

    Ledger windows are those that end by ``until_us``; later ones are still open. Event times.

    ``sent_ids`` of None means that the sender cannot be asked; ``lost`` then compares the panes'
    request counts with the rows.
    """
    window = {
        "since_us": since_us,
        "since_s": since_us // PANE_US * PANE_S,
        "until_s": until_us // 1_000_000,
    }
    ids = [row[0] for row in client.query(_IDS, parameters=window).result_rows]
    distinct = set(ids)
    panes = _row(client, _PANES, window)
    exact_us = _exact_quantile(client, window)
    sketch_us = float(panes[1]) if panes[0] else None
    missing = len(set(sent_ids) - distinct) if sent_ids is not None else len(ids) - panes[0]
    imbalance, windows, unsettled = _ledger_check(client, window, pricer)
    cost, idle = _row(client, _SPEND, window)
    return StoredFacts(
        requests_stored=len(distinct),
        lost=missing,
        duplicated=len(ids) - len(distinct),
        rejected=_row(client, _REJECTED, {})[0],
        panes_requests=panes[0],
        p99_ms=_ms(sketch_us),
        p99_exact_ms=_ms(exact_us),
        p99_error=None
        if not exact_us or sketch_us is None
        else round(abs(sketch_us / exact_us - 1), 6),
        ledger_windows=windows,
        ledger_imbalance_nusd=imbalance,
        unsettled_windows=unsettled,
        cost_usd=round(cost / 1e9, 6),
        idle_usd=round(idle / 1e9, 6),
    )


_IDS = """
    SELECT request_id FROM requests
    WHERE ts_end >= fromUnixTimestamp64Micro({since_us:Int64})
"""
_PANES = """
    SELECT sum(requests), quantilesDDMerge(0.01, 0.99)(e2e_sketch)[1]
    FROM panes FINAL WHERE start >= fromUnixTimestamp({since_s:Int64})
"""
_EXACT = """
    WITH arraySort(groupArray(assumeNotNull(e2e_us))) AS sorted
    SELECT length(sorted), sorted[toUInt64(floor(0.99 * (length(sorted) - 1))) + 1]
    FROM requests WHERE e2e_us IS NOT NULL
        AND ts_end >= fromUnixTimestamp64Micro({since_us:Int64})
"""
_REJECTED = "SELECT count() FROM dead_letters FINAL"
_SPEND = """
    SELECT sum(cost_nusd), sumIf(cost_nusd, kind = 'idle')
    FROM ledger FINAL WHERE window_start >= fromUnixTimestamp({since_s:Int64})
        AND window_end <= fromUnixTimestamp({until_s:Int64})
"""
_WINDOWS = """
    SELECT instance, toUnixTimestamp(window_start) AS start,
           toUnixTimestamp(window_end) AS end, sum(cost_nusd), any(bill_nusd),
           countIf(status = 'provisional')
    FROM ledger FINAL WHERE window_start >= fromUnixTimestamp({since_s:Int64})
        AND window_end <= fromUnixTimestamp({until_s:Int64})
    GROUP BY gpu_group, instance, window_start, window_end
"""


def _row(client: Client, sql: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(client.query(sql, parameters=parameters).result_rows[0])


def _exact_quantile(client: Client, window: dict[str, Any]) -> float | None:
    row = _row(client, _EXACT, window)
    return float(row[1]) if row[0] else None


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else round(value_us / 1e3, 3)


def _ledger_check(client: Client, window: dict[str, Any], pricer: Pricer) -> tuple[int, int, int]:
    """(Σ |lines − bill by the price book|, windows, windows not settled)."""
    imbalance = unsettled = 0
    rows = client.query(_WINDOWS, parameters=window).result_rows
    for instance, start_s, end_s, lines_nusd, bill_nusd, provisional in rows:
        bill = pricer.bill(instance, start_s * 1_000_000, end_s * 1_000_000)
        expected_nusd = bill.bill_nusd if isinstance(bill, Bill) else 0
        imbalance += abs(lines_nusd - expected_nusd) + abs(bill_nusd - expected_nusd)
        unsettled += provisional > 0
    return imbalance, len(rows), unsettled
