"""What the charts draw for a range: three queries, pivoted to columns, kept for a few seconds.

This file refuses to know HTTP; a caller that asks twice for the same buckets gets one answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from dashboards.columns import buckets, lines
from dashboards.reader import Reader, Rows
from redline import queries
from redline.queries import Query, TimeRange

KEPT_MAX = 32
KEPT_US = 5_000_000
TENANTS = 6
# Live buckets name more: which tenants a page folds into the rest depends on its range.
TENANTS_LIVE = 100

TRAFFIC = (
    "requests",
    "requests_per_s",
    "errors_per_s",
    "p99_latency_ms",
    "p95_ttft_ms",
)
TOTALS = (
    "requests_per_s",
    "error_ratio",
    "p99_latency_ms",
    "p95_ttft_ms",
    "usd_per_million_output_tokens",
)


def chart_queries(within: TimeRange, tenants: int = TENANTS) -> dict[str, Query]:
    """The queries behind ``charts``; spend names the dearest ``tenants`` and sums the rest."""
    return {
        "traffic_by_version": queries.traffic_by_version(within),
        "spend_by_line": queries.spend_by_line(within, tenants),
        "kv_by_instance": queries.kv_by_instance(within),
    }


def charts(within: TimeRange, rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Columns of the four charts: t (bucket starts, s), and lines with one list per figure."""
    times_s = buckets(within.start_s, within.end_s, within.step_s)
    return {
        "start_s": within.start_s,
        "end_s": within.end_s,
        "step_s": within.step_s,
        "t": times_s,
        "traffic": lines(rows["traffic_by_version"], times_s, ("model", "version"), TRAFFIC),
        "spend": lines(rows["spend_by_line"], times_s, ("line", "owner"), ("usd_per_hour",)),
        "kv": lines(rows["kv_by_instance"], times_s, ("instance",), ("kv_cache_usage",)),
    }


def spark_queries(within: TimeRange) -> dict[str, Query]:
    """The queries behind ``sparks``."""
    return {
        "traffic_totals": queries.traffic_totals(within),
        "spend_totals": queries.spend_totals(within),
        "kv_totals": queries.kv_totals(within),
    }


def sparks(within: TimeRange, rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Columns of the tiles' small lines: t and one list per figure."""
    times_s = buckets(within.start_s, within.end_s, within.step_s)
    found: dict[str, Any] = {"t": times_s}
    for name, figures in (
        ("traffic_totals", TOTALS),
        ("spend_totals", ("usd_per_hour",)),
        ("kv_totals", ("kv_cache_usage",)),
    ):
        (line,) = lines(rows[name], times_s, (), figures) or [{}]
        found |= {figure: line.get(figure, [None] * len(times_s)) for figure in figures}
    return found


def join_sparks(
    kept: dict[str, Any] | None, fresh: dict[str, Any], buckets_max: int
) -> dict[str, Any]:
    """``kept`` up to where ``fresh`` begins, then ``fresh``; the newest ``buckets_max``."""
    if kept is None:
        return fresh
    before = sum(1 for t in kept["t"] if t < fresh["t"][0])
    return {name: (kept[name][:before] + fresh[name])[-buckets_max:] for name in fresh}


class History:
    """Charts by range. Equal ranges share one read while it runs and for KEPT_US after."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kept: OrderedDict[TimeRange, tuple[int, asyncio.Task[dict[str, Any]]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def charts(self, within: TimeRange, now_us: int) -> dict[str, Any]:
        """The charts' columns.

        Raises:
            StoreAway: ClickHouse did not answer.
        """
        kept_us, task = self._kept.get(within, (0, None))
        if task is None or now_us - kept_us > KEPT_US or (task.done() and task.exception()):
            task = asyncio.create_task(self._read(within), name="history")
            self._kept[within] = (now_us, task)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        # shielded: the one who asked first may go away while others wait for the same read
        return await asyncio.shield(task)

    async def _read(self, within: TimeRange) -> dict[str, Any]:
        return charts(within, await self._reader.read(chart_queries(within)))
