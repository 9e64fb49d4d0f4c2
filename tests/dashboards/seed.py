"""Fills a store with a believable hour: traffic, a bad canary, a rollback, a KV squeeze.

Everything is computed in SQL from hashes of the row's number, so equal ranges give equal rows and
all tables agree with each other: panes are the requests' sums and sketches, and every ledger
window adds up to its bill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from redline.clickhouse_lexer import split_statements

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
PANE_US = 10 * SECOND_US

MODEL = "llama-3.3-70b"
INSTANCES = 6
TENANTS = ("acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "wonka")
BILL_NUSD = 16_111_111  # of one instance and 10 s: two GPUs at $2.90 an hour
REQUESTS_PER_S = 30

Execute = Callable[[str], Any]


class Story(NamedTuple):
    """When the incident's steps happened, µs UTC."""

    canary_us: int
    fired_us: int
    rolled_back_us: int
    resolved_us: int


def story(now_us: int) -> Story:
    """The incident of the hour that ends at ``now_us``."""
    return Story(*(now_us - int(m * MINUTE_US) for m in (26.0, 21.0, 20.4, 16.9)))


def migrate(execute: Execute, database: str = "redline") -> None:
    """The schema, from the shipped migrations; ``execute`` must already use ``database``."""
    execute(f"CREATE DATABASE IF NOT EXISTS {database}")
    for path in sorted(MIGRATIONS.glob("*.sql")):
        for statement in split_statements(path.read_text()):
            execute(statement)


def seed_hour(client: Client, now_us: int) -> Story:
    """One hour before ``now_us`` of everything."""
    told = story(now_us)
    seed_traffic(client, now_us - 60 * MINUTE_US, now_us, told)
    seed_engines(client, now_us - 60 * MINUTE_US, now_us, told)
    seed_events(client, told, now_us)
    return told


def seed_traffic(client: Client, start_us: int, end_us: int, told: Story | None = None) -> None:
    """Requests of ``[start_us, end_us)``, their panes and the ledger of the windows they are in.

    ``start_us`` must be the start of a window: windows are written whole, and replaced.
    """
    assert start_us % PANE_US == 0 or told is not None
    start_us -= start_us % PANE_US
    canary_us, rollback_us = (told.canary_us, told.rolled_back_us) if told else (0, 0)
    count = (end_us - start_us) * REQUESTS_PER_S // SECOND_US
    client.command("DROP TABLE IF EXISTS seeded")
    client.command(
        f"""
CREATE TABLE seeded ENGINE = Memory AS
SELECT
    {start_us} + number * {SECOND_US} / {REQUESTS_PER_S} AS t_raw,
    toInt64(t_raw) AS t_us,
    intDiv(t_us, {PANE_US}) * {PANE_US} AS pane_us,
    cityHash64(t_us, 1) / 18446744073709551616 AS u1,
    cityHash64(t_us, 2) / 18446744073709551616 AS u2,
    cityHash64(t_us, 3) / 18446744073709551616 AS u3,
    (u1 + u2 + u3 + cityHash64(t_us, 4) / 18446744073709551616 - 2) * 1.73 AS gauss,
    t_us >= {canary_us} AND t_us < {rollback_us} AND cityHash64(t_us, 5) % 5 = 0 AS canary,
    if(canary, 'v2', 'v1') AS version,
    if(canary, 5, cityHash64(t_us, 6) % 5) AS slot,
    concat('vllm-', toString(slot)) AS instance,
    if(slot < 3, 'eu-west', 'us-east') AS region,
    arrayElement({list(TENANTS)}, toUInt8(1 + floor(pow(u2, 2.2) * {len(TENANTS)}))) AS tenant,
    0.62 + 0.30 * sin(t_us / 6.0e8) + 0.08 * sin(t_us / 4.7e7) AS load,
    u3 < load AS kept,
    canary AND u1 < 0.11 OR u1 < 0.0012 AS failed,
    toUInt64(exp(6.95 + 0.42 * gauss + 0.35 * load) * if(canary, 2.9, 1) * 1000) AS e2e_us,
    toUInt64(exp(5.0 + 0.38 * gauss + 0.45 * load) * if(canary, 2.4, 1) * 1000) AS ttft_us,
    toUInt32(120 + 900 * u2) AS prompt_tokens,
    if(failed, 0, toUInt32(40 + 420 * u1)) AS completion_tokens
FROM numbers({count})
WHERE kept"""
    )
    client.command(
        f"""
INSERT INTO requests (ts_end, ts_arrival, request_id, seq, instance, model, version, region, tenant,
    stream, status_code, finish_reason, prompt_tokens, completion_tokens, ttft_us, e2e_us, canary)
SELECT fromUnixTimestamp64Micro(t_us, 'UTC'),
    fromUnixTimestamp64Micro(t_us - toInt64(e2e_us), 'UTC'),
    concat('req-', hex(cityHash64(t_us))), rowNumberInAllBlocks(), instance, '{MODEL}', version,
    region, tenant, true, if(failed, 503, 200), if(failed, 'error', 'stop'),
    prompt_tokens, completion_tokens, ttft_us, e2e_us, canary
FROM seeded"""
    )
    levels = "quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99, 0.999)"
    busy = "least(0.97, 0.35 + 0.6 * avg(load) OVER (PARTITION BY instance, pane_us))"
    costed = f"""
    SELECT *, toInt64(floor({BILL_NUSD} * {busy} * (completion_tokens + 20)
        / sum(completion_tokens + 20) OVER (PARTITION BY instance, pane_us))) AS cost_nusd
    FROM seeded"""
    client.command(
        f"""
INSERT INTO panes (start, model, version, region, tenant, source_partition, revision, requests,
    errors, prompt_tokens, completion_tokens, cost_nusd, e2e_sketch, ttft_sketch)
SELECT toDateTime(intDiv(pane_us, {SECOND_US}), 'UTC'), '{MODEL}', version, region, tenant, 0,
    max(t_us), count(), sum(failed), sum(prompt_tokens), sum(completion_tokens), sum(cost_nusd),
    {levels}(toFloat64(e2e_us)), {levels}(toFloat64(ttft_us))
FROM ({costed})
GROUP BY pane_us, version, region, tenant"""
    )
    lines = f"""
    SELECT pane_us, instance, tenant, version, region, sum(cost_nusd) AS cost, count() AS requests
    FROM ({costed}) GROUP BY pane_us, instance, tenant, version, region"""
    columns = "(window_start, window_end, gpu_group, instance, kind, status, revision, method, "
    columns += "cost_nusd, bill_nusd, model, version, region, tenant, requests, reason)"
    window = f"toDateTime(intDiv(pane_us, {SECOND_US}), 'UTC') AS w, w + 10, 'h100', instance"
    client.command(
        f"""
INSERT INTO ledger {columns}
SELECT {window}, 'request', 'provisional', {end_us}, 'time_share_v1', cost, {BILL_NUSD},
    '{MODEL}', version, region, tenant, requests, ''
FROM ({lines})"""
    )
    client.command(
        f"""
INSERT INTO ledger {columns}
SELECT {window}, 'idle', 'provisional', {end_us}, 'time_share_v1', {BILL_NUSD} - sum(cost),
    {BILL_NUSD}, '', '', '', '', 0, 'no_request'
FROM ({lines}) GROUP BY pane_us, instance"""
    )
    client.command("DROP TABLE seeded")


def seed_engines(client: Client, start_us: int, end_us: int, told: Story | None = None) -> None:
    """A sample every two seconds of each engine; ``vllm-2`` runs nearly out of KV cache."""
    step_us = 2 * SECOND_US
    start_us -= start_us % step_us
    squeeze_us = (told.resolved_us + 6 * MINUTE_US) if told else 0
    client.command(
        f"""
INSERT INTO engine_samples (ts, instance, model, version, region, up, running, waiting,
    kv_cache_usage, preemptions_total)
SELECT fromUnixTimestamp64Micro(t_us, 'UTC'), concat('vllm-', toString(slot)), '{MODEL}',
    if(slot = 5, 'v2', 'v1'), if(slot < 3, 'eu-west', 'us-east'), true,
    round(24 * load + 4 * u), if(kv > 0.9, round(30 * (kv - 0.88) * 10), 0), kv, 0
FROM (
    SELECT
        {start_us} + intDiv(number, {INSTANCES}) * {step_us} AS t_us,
        number % {INSTANCES} AS slot,
        cityHash64(t_us, slot) / 18446744073709551616 AS u,
        0.62 + 0.30 * sin(t_us / 6.0e8) AS load,
        greatest(0.02, least(0.99, 0.20 + 0.42 * load + 0.05 * sin(t_us / 5e7 + slot) + 0.02 * u
            - 0.06 * slot
            + if(slot = 2, 0.5 * exp(-pow((t_us - {squeeze_us}) / 1.5e8, 2)), 0))) AS kv
    FROM numbers({(end_us - start_us) // step_us * INSTANCES})
)"""
    )


_ALERTS = (
    "alerts (ts, fingerprint, incident_id, rule, from_state, to_state, reason, severity, labels, "
    "value, threshold, breached_at, started_at)"
)


def fired_us(steps: Iterable[tuple[Any, ...]]) -> int:
    """When a seeded alert began to fire."""
    found: int = next(ts for ts, (_, after, _), _ in steps if after == "firing")
    return found


def seed_events(client: Client, told: Story, now_us: int) -> None:
    """The deploys, the alerts and the actions of the story."""
    _insert(
        client,
        "deploys (ts, model, version, action, region, weight, who, detail)",
        (
            (now_us - 52 * MINUTE_US, MODEL, "v1", "deploy", "eu-west", 1.0, "ci", "image 4f1c2ab"),
            (told.canary_us, MODEL, "v2", "deploy", "", 0.2, "ci", "canary"),
            (told.rolled_back_us + 3 * SECOND_US, MODEL, "v1", "rollback", "", 1.0, "redline", ""),
        ),
    )
    p99, kv = ("fp-p99", "inc-7f3a91"), ("fp-kv", "inc-b20c44")
    labels = f"{{'model':'{MODEL}','version':'v2'}}"
    kv_labels = f"{{'instance':'vllm-2','model':'{MODEL}','version':'v1'}}"
    squeeze = told.resolved_us + 5 * MINUTE_US
    fired, done = ("pending", "firing", "breach_held"), ("recovering", "resolved", "clear_held")
    for (fingerprint, incident), rule, severity, found, threshold, steps in (
        (p99, "p99_latency_over_slo", "page", labels, 5_000.0, (
            (told.fired_us - 30 * SECOND_US, ("inactive", "pending", "breached"), 6488.0),
            (told.fired_us, fired, 6812.0),
            (told.resolved_us - 20 * SECOND_US, ("firing", "recovering", "cleared"), 1301.0),
            (told.resolved_us, done, 1204.0),
            (told.resolved_us + 1, ("resolved", "inactive", ""), 1204.0))),
        (kv, "kv_cache_saturation", "ticket", kv_labels, 0.85, (
            (squeeze, fired, 0.93), (squeeze + 130 * SECOND_US, done, 0.71))),
    ):  # fmt: skip
        for ts, (before, after, reason), value in steps:
            opened = after in ("firing", "recovering", "resolved")
            _insert(client, _ALERTS, [
                (ts, fingerprint, incident if opened else "", rule, before, after, reason, severity,
                 ("raw", found), value, threshold, steps[0][0], fired_us(steps) if opened else None)
            ])  # fmt: skip
    why = "v2: error ratio 10.8 % against 0.1 % on v1; p99 6.8 s"
    said = "weights v1=1 v2=0"
    asked = (("proposed", 0, None, ""), ("delivering", 1, None, ""), ("delivered", 1, 200, said))
    _insert(
        client,
        "actions (ts, action_id, incident_id, kind, mode, status, target, from_state, to_state, "
        "reason, expires_at, attempt, http_status, signature_verified, detail, src_offset)",
        [
            (told.rolled_back_us + i * SECOND_US, "act-01", p99[1], "rollback", "auto", status,
             MODEL, "v2", "", why, told.rolled_back_us + 300 * SECOND_US, attempt, http,
             None if http is None else True, detail, i)
            for i, (status, attempt, http, detail) in enumerate(asked)
        ],
    )  # fmt: skip


def open_incident(client: Client, now_us: int) -> None:
    """An alert that fires since 95 s and a rollback that waits for approval."""
    started_us = now_us - 95 * SECOND_US
    reason = "p99_latency_ms 7.42 s, limit 5.00 s"
    labels = f"{{'model':'{MODEL}','version':'v3'}}"
    _insert(
        client,
        _ALERTS,
        [
            (started_us, "fp-open", "inc-0pen", "p99_latency_over_slo", "pending", "firing",
             "breach_held", "page", ("raw", labels), 7420.0, 5000.0, started_us, started_us)
        ],
    )  # fmt: skip
    _insert(
        client,
        "actions (ts, action_id, incident_id, kind, mode, status, target, from_state, reason, "
        "expires_at, attempt)",
        [
            (started_us + SECOND_US, "act-open", "inc-0pen", "rollback", "approve", "proposed",
             MODEL, "v3", reason, started_us + 300 * SECOND_US, 0)
        ],
    )  # fmt: skip


def _insert(client: Client, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    values = ", ".join("(" + ", ".join(_literal(value) for value in row) + ")" for row in rows)
    client.command(f"INSERT INTO {target} VALUES {values}")


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, tuple):  # ("raw", SQL)
        return str(value[1])
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value > 10**15:  # µs UTC
        return f"fromUnixTimestamp64Micro({value}, 'UTC')"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
