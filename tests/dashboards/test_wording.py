"""Codes become sentences; figures keep their units."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.wording import amount, duration, tell_action, tell_alert, tell_mark, words

SIGNALS = {"p99_latency_over_slo": "p99_latency_ms", "kv_cache_saturation": "kv_cache_usage"}


def alert(**changed: Any) -> dict[str, Any]:
    return {
        "rule": "p99_latency_over_slo",
        "reason": "breach_held",
        "last_reason": "clear_held",
        "value": 6_812.0,
        "peak_value": 8_100.0,
        "last_value": 1_204.0,
        "threshold": 5_000.0,
        "ended_us": 5,
    } | changed


def action(**changed: Any) -> dict[str, Any]:
    return {
        "status": "delivered",
        "mode": "auto",
        "proposed_us": 1_000_000,
        "delivered_us": 3_000_000,
        "detail": "weights v1=1 v2=0",
        "http_status": 200,
        "signature_verified": True,
        "attempts": 1,
    } | changed


def test_an_alert_says_value_limit_worst_and_end() -> None:
    told = tell_alert(alert(), SIGNALS)
    assert told["text"] == "p99 latency 6.81 s, limit 5.00 s, worst 8.10 s"
    assert told["end_text"] == "Back at 1.20 s"
    assert told["reason"] == "breach_held"


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"ended_us": None}, "end_text", ""),
        ({"last_reason": "rule_removed"}, "end_text", "Closed: its rule was removed"),
        ({"reason": "told by another tool"}, "text", "told by another tool"),
        ({"rule": "unknown", "peak_value": None}, "text", "Value 6812, limit 5000"),
        ({"value": None, "peak_value": None}, "text", "p99 latency no data, limit 5.00 s"),
    ],
)  # fmt: skip
def test_alerts_of_every_kind(changed: dict[str, Any], field: str, said: str) -> None:
    assert tell_alert(alert(**changed), SIGNALS)[field] == said


def test_an_action_says_what_became_of_it() -> None:
    told = tell_action(action())
    assert told["result"] == "delivered in 2 s"
    assert told["answer"] == "Traffic now: v1 100 %, v2 0 % · answer 200 · signature verified"


@pytest.mark.parametrize(
    ("changed", "result", "answer"),
    [
        ({"status": "proposed", "mode": "approve", "delivered_us": None, "http_status": None,
          "signature_verified": None, "detail": ""}, "waits for approval", ""),
        ({"status": "proposed", "mode": "observe", "delivered_us": None, "http_status": None,
          "signature_verified": None, "detail": ""}, "proposed only (observe mode)", ""),
        ({"mode": "dry_run"}, "tried as a dry run in 2 s",
         "Traffic now: v1 100 %, v2 0 % · answer 200 · signature verified"),
        ({"status": "failed", "delivered_us": None, "http_status": 401, "attempts": 3,
          "signature_verified": False, "detail": "bad signature"}, "failed",
         "bad signature · answer 401 · signature NOT verified · 3 attempts"),
        ({"detail": "weights v1=lots"}, "delivered in 2 s",
         "Traffic now: v1 lots · answer 200 · signature verified"),
    ],
)  # fmt: skip
def test_actions_of_every_kind(changed: dict[str, Any], result: str, answer: str) -> None:
    told = tell_action(action(**changed))
    assert (told["result"], told["answer"]) == (result, answer)


def test_marks_of_alerts_get_words_and_others_keep_theirs() -> None:
    mark = {"kind": "firing", "name": "kv_cache_saturation", "detail": "breach_held",
            "value": 0.93, "threshold": 0.85}  # fmt: skip
    assert tell_mark(mark, SIGNALS)["text"] == "93 %, limit 85 %"
    deploy = {"kind": "deploy", "name": "deploy v2", "detail": "by ci"}
    assert tell_mark(deploy, SIGNALS)["text"] == "by ci"


@pytest.mark.parametrize(
    ("value", "signal", "said"),
    [
        (420.0, "p95_ttft_ms", "420 ms"),
        (0.9333, "kv_cache_usage", "93.3 %"),
        (1.34, "spend_projected_ratio", "134 %"),
        (1_234.5, "spend_today_usd", "$1,234.50"),
        (3.0, "waiting_requests", "3"),
        (None, "anything", "no data"),
    ],
)
def test_amounts(value: float | None, signal: str, said: str) -> None:
    assert amount(value, signal) == said


@pytest.mark.parametrize(
    ("ms", "said"),
    [(850, "850 ms"), (42_000, "42 s"), (200_000, "3 min"), (7_500_000, "2 h 5 min")],
)
def test_durations(ms: float, said: str) -> None:
    assert duration(ms) == said


def test_words() -> None:
    assert words("kv_cache_saturation") == "KV cache saturation"
    assert words("p99_latency_over_slo") == "p99 latency over SLO"
