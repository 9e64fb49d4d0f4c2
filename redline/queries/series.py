"""Figures over time, one row per bucket and line of a chart. ``t_s`` is the bucket's start.

A bucket without data has no row, so a chart shows a gap and not a zero. The number of lines is
limited: the largest ones are named, the rest is summed or left out, as each query says.
"""

from __future__ import annotations

from redline.queries.ranges import EVERYTHING, SELECTED, Query, Selection, TimeRange
from redline.queries.tiles import IN_LEDGER, IN_PANES, LINE, TRAFFIC_COLUMNS

OTHER_TENANTS = "__other__"
LEDGER_WINDOW_MAX_S = 3_600  # of imported history; the ledger's own windows are 10 s


def _bucket(column: str) -> str:
    return f"intDiv(toUnixTimestamp({column}), {{bucket_s:UInt32}}) * {{bucket_s:UInt32}} AS t_s"


def traffic_by_version(
    within: TimeRange, selected: Selection = EVERYTHING, lines: int = 8
) -> Query:
    """A row per bucket and (model, version): the columns of ``tiles.traffic`` and t_s.

    Only the ``lines`` versions with the most requests in the range.
    """
    sql = f"""
SELECT
    {_bucket("start")},
    model,
    version,{TRAFFIC_COLUMNS}
FROM panes FINAL
PREWHERE {IN_PANES}{SELECTED}
  AND (model, version) IN (
    SELECT model, version FROM panes FINAL PREWHERE {IN_PANES}
    GROUP BY model, version ORDER BY sum(requests) DESC, model, version
    LIMIT {{line_limit:UInt32}})
GROUP BY t_s, model, version
ORDER BY t_s, model, version"""  # noqa: S608  constants of this package; values are bound
    bound = {"bucket_s": within.step_s, "line_limit": lines}
    return Query(sql, within.parameters | bound | selected.parameters)


def traffic_totals(within: TimeRange, selected: Selection = EVERYTHING) -> Query:
    """A row per bucket over all series: the columns of ``tiles.traffic`` and t_s."""
    sql = f"""
SELECT
    {_bucket("start")},{TRAFFIC_COLUMNS}
FROM panes FINAL
PREWHERE {IN_PANES}{SELECTED}
GROUP BY t_s
ORDER BY t_s"""  # noqa: S608
    return Query(sql, within.parameters | {"bucket_s": within.step_s} | selected.parameters)


# One row per ledger line and bucket that its window touches. A window is 10 s and lies within one
# bucket, so its whole cost does; imported history may have windows of up to an hour, which are
# spread evenly, or an hour's bill would stand in one bucket of five minutes.
_SPREAD = f"""
    SELECT
        {LINE} AS line,
        tenant,
        toUnixTimestamp(window_start) AS start_s,
        toUnixTimestamp(window_end) AS stop_s,
        arrayJoin(range(intDiv(start_s, {{bucket_s:UInt32}}) * {{bucket_s:UInt32}}, stop_s,
            {{bucket_s:UInt32}})) AS t_s,
        if(start_s >= t_s AND stop_s <= t_s + {{bucket_s:UInt32}}, cost_nusd,
            toInt64(round(cost_nusd * (least(stop_s, t_s + {{bucket_s:UInt32}})
                - greatest(start_s, t_s)) / (stop_s - start_s)))) AS part_nusd
    FROM ledger FINAL
    PREWHERE window_start >= toDateTime({{start_s:Int64}} - {LEDGER_WINDOW_MAX_S}, 'UTC')
        AND window_start < toDateTime({{end_s:Int64}}, 'UTC')
    WHERE window_end > toDateTime({{start_s:Int64}}, 'UTC')"""  # noqa: S608
_SPENT = """
    sum(part_nusd) AS spend_nusd,
    spend_nusd / 1e9 * 3600 / {bucket_s:UInt32} AS usd_per_hour"""
_IN_RANGE = "t_s >= {start_s:Int64} AND t_s < {end_s:Int64}"


def spend_by_line(within: TimeRange, tenants: int = 6) -> Query:
    """A row per bucket and line of the bill; per bucket they add up to the whole bill.

    t_s, line (tenant, idle, overhead), owner (the tenant; ``__other__`` for all but the dearest
    ``tenants``; '' for idle and overhead), usd_per_hour, spend_nusd.
    """
    sql = f"""
SELECT
    t_s,
    line,
    multiIf(line != 'tenant', '', tenant IN (
        SELECT tenant FROM ledger FINAL
        PREWHERE {IN_LEDGER} AND {LINE} = 'tenant'
        GROUP BY tenant ORDER BY sum(cost_nusd) DESC, tenant LIMIT {{line_limit:UInt32}}),
        toString(tenant), {{other:String}}) AS owner,{_SPENT}
FROM ({_SPREAD}
)
WHERE {_IN_RANGE}
GROUP BY t_s, line, owner
ORDER BY t_s, line, owner"""  # noqa: S608
    bound = {"bucket_s": within.step_s, "line_limit": tenants}
    return Query(sql, within.parameters | bound | {"other": OTHER_TENANTS})


def kv_by_instance(within: TimeRange, lines: int = 12) -> Query:
    """A row per bucket and engine instance, the ``lines`` fullest of the range.

    t_s, instance, kv_cache_usage (0 to 1, highest in the bucket), running, waiting (highest).
    """
    sampled = """ts >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC') AND up"""
    sql = f"""
SELECT
    {_bucket("ts")},
    instance,
    maxOrNull(engine_samples.kv_cache_usage) AS kv_cache_usage,
    maxOrNull(engine_samples.running) AS running,
    maxOrNull(engine_samples.waiting) AS waiting
FROM engine_samples
WHERE {sampled}
  AND instance IN (
    SELECT instance FROM engine_samples WHERE {sampled}
    GROUP BY instance ORDER BY max(engine_samples.kv_cache_usage) DESC NULLS LAST, instance
    LIMIT {{line_limit:UInt32}})
GROUP BY t_s, instance
ORDER BY t_s, instance"""  # noqa: S608
    bound = {"bucket_s": within.step_s, "line_limit": lines}
    return Query(sql, within.parameters_us | bound)


def spend_totals(within: TimeRange) -> Query:
    """A row per bucket over the whole bill: t_s, spend_nusd, usd_per_hour."""
    sql = f"""
SELECT t_s,{_SPENT}
FROM ({_SPREAD}
)
WHERE {_IN_RANGE}
GROUP BY t_s
ORDER BY t_s"""  # noqa: S608
    return Query(sql, within.parameters | {"bucket_s": within.step_s})


def kv_totals(within: TimeRange) -> Query:
    """A row per bucket over all engines: t_s, kv_cache_usage (0 to 1, highest of any engine)."""
    sql = f"""
SELECT {_bucket("ts")}, max(engine_samples.kv_cache_usage) AS kv_cache_usage
FROM engine_samples
WHERE ts >= fromUnixTimestamp64Micro({{start_us:Int64}}, 'UTC')
  AND ts < fromUnixTimestamp64Micro({{end_us:Int64}}, 'UTC') AND up
GROUP BY t_s
ORDER BY t_s"""  # noqa: S608
    return Query(sql, within.parameters_us | {"bucket_s": within.step_s})
