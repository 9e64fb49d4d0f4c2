"""The tiles of the page from rows: value, window, what it rests on, level.

Pure. ``value`` None is "no data", which the page says in words; it is never drawn as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.columns import short
from dashboards.limits import Level, Limits, age_level

Row = Mapping[str, Any]

TRAFFIC_WINDOW_S = 60
COST_WINDOW_S = 300


def build_tiles(
    traffic: Row,
    cost: Row,
    bill: Row,
    today: Row,
    engines: Row,
    age: Row,
    unpriced: Sequence[str],
    limits: Limits,
) -> dict[str, Any]:
    """Tiles by figure.

    ``traffic`` is over TRAFFIC_WINDOW_S, ``cost`` (traffic again) and ``bill`` (the ledger) over
    COST_WINDOW_S, ``today`` is the ledger of the billing day, ``unpriced`` names engines whose
    windows have no bill. Each tile: value, window_s, samples
    (what the value rests on), level, limit, note (one more fact in plain words).
    """

    def tile(figure: str, row: Row, window_s: int, samples: Any, note: str = "") -> dict[str, Any]:
        value = short(row[figure])
        return {
            "value": value,
            "window_s": window_s,
            "samples": samples,
            "level": limits.level(figure, value),
            "limit": limits.upper.get(figure),
            "note": note,
        }

    requests = traffic["requests"]
    spent = today["spend_nusd"]
    return {
        "requests_per_s": tile("requests_per_s", traffic, TRAFFIC_WINDOW_S, requests),
        "error_ratio": tile("error_ratio", traffic, TRAFFIC_WINDOW_S, traffic["errors"])
        | {"requests": requests},
        "p99_latency_ms": tile("p99_latency_ms", traffic, TRAFFIC_WINDOW_S, requests)
        | {"p50_latency_ms": short(traffic["p50_latency_ms"])},
        "p95_ttft_ms": tile("p95_ttft_ms", traffic, TRAFFIC_WINDOW_S, requests),
        "usd_per_million_output_tokens": tile(
            "usd_per_million_output_tokens", cost, COST_WINDOW_S, cost["completion_tokens"]
        )
        | {"with_idle": _with_idle(bill, cost), "idle_share": short(bill["idle_share"])},
        "spend_today_nusd": {
            "value": spent,
            "window_s": None,
            "samples": today["windows"],
            "level": "warn" if unpriced else "none",
            "limit": None,
            "note": _no_price(unpriced),
            "usd_per_hour": short(bill["usd_per_hour"]),
            "idle_nusd": today["idle_nusd"],
            "idle_share": short(today["idle_share"]),
        },
        "kv_cache_usage": tile("kv_cache_usage", engines, 30, engines["instances"])
        | {
            "note": engines["kv_instance"],
            "running": engines["running"],
            "waiting": engines["waiting"],
        },
        "data_age_ms": _age_tile(age),
        "instances": {"up": engines["instances_up"], "seen": engines["instances"]},
    }


def _age_tile(age: Row) -> dict[str, Any]:
    level: Level = age_level(age["data_age_ms"])
    return {
        "value": short(age["data_age_ms"]),
        "window_s": None,
        "samples": None,
        "level": level,
        "limit": None,
        "note": "",
        "requests_age_ms": short(age["requests_age_ms"]),
        "samples_age_ms": short(age["samples_age_ms"]),
    }


def _no_price(instances: Sequence[str]) -> str:
    """What is missing and what to do; empty where every engine has a price."""
    if not instances:
        return ""
    named = ", ".join(instances[:3])
    more = f" and {len(instances) - 3} more" if len(instances) > 3 else ""
    return f"no price for {named}{more}: add gpu_groups and prices to redline.yaml"


def _with_idle(bill: Row, cost: Row) -> float | None:
    """The whole bill over the same output tokens, in USD per million; None without either."""
    spent, tokens = bill["spend_nusd"], cost["completion_tokens"]
    if spent is None or not tokens:
        return None
    value: float = short(spent / (tokens * 1_000))
    return value
