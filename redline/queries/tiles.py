"""The single figures: traffic, money, saturation, and how old the data is.

Each query gives one row whose figures are NULL where there is no data; the lists say so.
This file refuses series over time (series.py) and lists of events (events.py).
"""

from __future__ import annotations

from redline.queries.ranges import EVERYTHING, SECOND_US, SELECTED, Query, Selection, TimeRange

# Levels in the order of the states in ``panes``; positions in the array that the merge gives.
_MERGE = "quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99, 0.999)"
P50, P90, P95, P99, P999 = 1, 2, 3, 4, 5

# To whom a ledger line belongs. Failed requests are overhead, on time or late. Corrections
# without a model take from idle what others add.
LINE = (
    "multiIf(kind = 'overhead' OR (kind = 'correction' AND reason = 'failed'), 'overhead', "
    "kind = 'idle' OR (kind = 'correction' AND model = ''), 'idle', 'tenant')"
)

# For PREWHERE, so only columns of the sorting key: all revisions of a row stay or go together,
# and FINAL still picks the highest. The sketches of other times are then never read.
IN_PANES = (
    "start >= toDateTime({start_s:Int64}, 'UTC') AND start < toDateTime({end_s:Int64}, 'UTC')"
)
IN_LEDGER = (
    "window_start >= toDateTime({start_s:Int64}, 'UTC') "
    "AND window_start < toDateTime({end_s:Int64}, 'UTC')"
)


def quantile_ms(column: str, position: int) -> str:
    """SQL of one merged percentile of a sketch of µs, in ms; NULL when the sketch is empty."""
    value = f"{_MERGE}({column})[{position}] / 1000"
    return f"if(isNaN({value}), NULL, {value})"


# Qualified, because an alias of the same name would be taken for the column.
TRAFFIC_COLUMNS = f"""
    sumOrNull(panes.requests) AS requests,
    sumOrNull(panes.requests) / {{bucket_s:UInt32}} AS requests_per_s,
    sumOrNull(panes.errors) AS errors,
    sumOrNull(panes.errors) / {{bucket_s:UInt32}} AS errors_per_s,
    sum(panes.errors) / nullIf(sum(panes.requests), 0) AS error_ratio,
    {quantile_ms("e2e_sketch", P50)} AS p50_latency_ms,
    {quantile_ms("e2e_sketch", P99)} AS p99_latency_ms,
    {quantile_ms("ttft_sketch", P95)} AS p95_ttft_ms,
    sumOrNull(panes.completion_tokens) AS completion_tokens,
    sumOrNull(panes.prompt_tokens) AS prompt_tokens,
    sumOrNull(panes.cost_nusd) AS cost_nusd,
    sum(panes.cost_nusd) / nullIf(sum(panes.completion_tokens), 0) / 1000
        AS usd_per_million_output_tokens"""


def traffic(within: TimeRange, selected: Selection = EVERYTHING) -> Query:
    """One row over ``within``, from the panes.

    requests, requests_per_s, errors (server faults: 5xx and engine errors), errors_per_s,
    error_ratio (0 to 1), p50_latency_ms, p99_latency_ms (end to end), p95_ttft_ms (streamed
    requests), prompt_tokens, completion_tokens, cost_nusd (allocated to requests, idle left out),
    usd_per_million_output_tokens (that cost over the output tokens).
    """
    sql = f"SELECT {TRAFFIC_COLUMNS}\nFROM panes FINAL\nPREWHERE {IN_PANES}{SELECTED}"
    bucket = {"bucket_s": max(within.length_s, 1)}
    return Query(sql, within.parameters | bucket | selected.parameters)


def spend(within: TimeRange) -> Query:
    """One row over the ledger windows that start in ``within``; all of it is the GPU bill.

    spend_nusd = attributed_nusd + idle_nusd + overhead_nusd, idle_share (idle over all, 0 to 1),
    usd_per_hour (of the time that the windows cover, not of the wall clock), windows, instances.
    """
    sql = f"""
SELECT
    sumOrNull(cost_nusd) AS spend_nusd,
    sumIfOrNull(cost_nusd, {LINE} = 'tenant') AS attributed_nusd,
    sumIfOrNull(cost_nusd, {LINE} = 'idle') AS idle_nusd,
    sumIfOrNull(cost_nusd, {LINE} = 'overhead') AS overhead_nusd,
    sumIf(cost_nusd, {LINE} = 'idle') / nullIf(sum(cost_nusd), 0) AS idle_share,
    sum(cost_nusd) / 1e9 * 3600 / nullIf(
        toUnixTimestamp(max(window_end)) - toUnixTimestamp(min(window_start)), 0) AS usd_per_hour,
    uniqExact(window_start) AS windows,
    uniqExact(instance) AS instances
FROM ledger FINAL
PREWHERE {IN_LEDGER}"""  # noqa: S608  constants of this file; values are bound
    return Query(sql, within.parameters)


def spend_by_tenant(within: TimeRange, limit: int = 20) -> Query:
    """The dearest tenants, and idle and overhead as rows of their own; most expensive first.

    line (tenant, idle, overhead), tenant ('' for the other two), spend_nusd, requests (residences
    in windows: one request in two windows counts twice), share (of all lines in ``within``).
    """
    sql = f"""
SELECT
    {LINE} AS line,
    if(line = 'tenant', tenant, '') AS owner,
    sum(cost_nusd) AS spend_nusd,
    sum(ledger.requests) AS requests,
    spend_nusd / nullIf(sum(spend_nusd) OVER (), 0) AS share
FROM ledger FINAL
PREWHERE {IN_LEDGER}
GROUP BY line, owner
ORDER BY spend_nusd DESC, owner
LIMIT {{row_limit:UInt32}}"""  # noqa: S608
    return Query(sql, within.parameters | {"row_limit": limit})


_LAST_SAMPLES = """
    SELECT
        instance,
        argMax(engine_samples.model, ts) AS model,
        argMax(engine_samples.version, ts) AS version,
        argMax(engine_samples.region, ts) AS region,
        argMax(engine_samples.up, ts) AS up,
        if(up, argMaxIf(engine_samples.kv_cache_usage, ts, engine_samples.up), NULL)
            AS kv_cache_usage,
        if(up, argMaxIf(engine_samples.running, ts, engine_samples.up), NULL) AS running,
        if(up, argMaxIf(engine_samples.waiting, ts, engine_samples.up), NULL) AS waiting,
        toUnixTimestamp64Micro(max(ts)) AS sampled_us
    FROM engine_samples
    WHERE ts >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
    GROUP BY instance"""


def saturation(within: TimeRange) -> Query:
    """One row over the last sample of each engine instance in ``within``.

    kv_cache_usage (0 to 1, the fullest instance), kv_instance (its name, '' without data),
    running, waiting (requests, summed), instances_up, instances (seen in ``within``).
    """
    sql = f"""
SELECT
    maxOrNull(last.kv_cache_usage) AS kv_cache_usage,
    argMax(instance, last.kv_cache_usage) AS kv_instance,
    sumOrNull(last.running) AS running,
    sumOrNull(last.waiting) AS waiting,
    countIf(up) AS instances_up,
    count() AS instances
FROM ({_LAST_SAMPLES}
) AS last"""  # noqa: S608
    return Query(sql, within.parameters_us)


def engines(within: TimeRange, limit: int = 200) -> Query:
    """A row per engine instance seen in ``within``, by name; figures of its last sample.

    instance, model, version, region, up, kv_cache_usage (0 to 1), running, waiting, sampled_us.
    A down instance has NULL figures.
    """
    sql = f"{_LAST_SAMPLES}\nORDER BY instance\nLIMIT {{row_limit:UInt32}}"
    return Query(sql, within.parameters_us | {"row_limit": limit})


def unpriced(within: TimeRange) -> Query:
    """One row: instances, the engines that ran within it and have no price (sorted; [] is none)."""
    sql = """
SELECT arraySort(groupUniqArray(labels['instance'])) AS instances
FROM signals
WHERE name = 'price_missing'
  AND ts >= fromUnixTimestamp64Micro({start_us:Int64})
  AND ts < fromUnixTimestamp64Micro({end_us:Int64})"""
    return Query(sql, within.parameters_us)


def data_age(lookback_s: int, now_us: int) -> Query:
    """One row: ms from the newest datum to ``now_us``; NULL when there is none in the lookback.

    requests_age_ms (since the newest stored request ended), samples_age_ms (since the newest
    engine sample), data_age_ms (the smaller one: an idle fleet still has samples).
    """
    within = TimeRange(now_us - lookback_s * SECOND_US, now_us + 60 * SECOND_US)
    sql = """
SELECT
    ({now_us:Int64} - newest_request_us) / 1000 AS requests_age_ms,
    ({now_us:Int64} - newest_sample_us) / 1000 AS samples_age_ms,
    if(isNull(newest_us), NULL, greatest(0, {now_us:Int64} - newest_us) / 1000) AS data_age_ms
FROM (
    SELECT
        greatest(coalesce(newest_request_us, newest_sample_us),
            coalesce(newest_sample_us, newest_request_us)) AS newest_us,
        (SELECT toUnixTimestamp64Micro(maxOrNull(ts_end)) FROM requests
         WHERE ts_end >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
           AND ts_end < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')) AS newest_request_us,
        (SELECT toUnixTimestamp64Micro(maxOrNull(ts)) FROM engine_samples
         WHERE ts >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
           AND ts < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')) AS newest_sample_us
)"""
    return Query(sql, within.parameters_us | {"now_us": now_us})
