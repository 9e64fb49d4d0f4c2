"""The verdict says what is wrong, and never calls healthy what it cannot know."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.limits import SHIPPED, Limits, age_level, limits_from
from dashboards.verdict import away, judge
from redline.settings import Rule

NOW_US = 1_795_500_000_000_000
SECOND_US = 1_000_000
LIMITS = limits_from(None)


def tiles(**changed: float | None) -> dict[str, Any]:
    """Tiles of a healthy fleet, with some figures changed."""
    values: dict[str, float | None] = {
        "requests_per_s": 20.0,
        "error_ratio": 0.0,
        "p99_latency_ms": 1_200.0,
        "p95_ttft_ms": 300.0,
        "kv_cache_usage": 0.4,
        "data_age_ms": 400.0,
    }
    values |= changed
    found: dict[str, Any] = {
        name: {
            "value": value,
            "level": LIMITS.level(name, value),
            "window_s": 60,
            "limit": LIMITS.upper.get(name),
            "samples": 0,
            "note": "vllm-2",
        }
        for name, value in values.items()
    }
    spend = {"value": 1_000, "level": "none", "note": ""}
    return found | {"instances": {"up": 6, "seen": 6}, "spend_today_nusd": spend}


def alert(**changed: Any) -> dict[str, Any]:
    return {
        "incident_id": "i1",
        "rule": "p99_latency_over_slo",
        "severity": "page",
        "labels": {"model": "m", "version": "v2"},
        "state": "firing",
        "started_us": NOW_US - 90 * SECOND_US,
        "ended_us": None,
        "text": "p99 latency 6.81 s, limit 5.00 s",
    } | changed


def action(**changed: Any) -> dict[str, Any]:
    return {
        "incident_id": "i1",
        "kind": "rollback",
        "status": "delivered",
        "result": "delivered in 2 s",
        "from_state": "v2",
        "target": "m",
        "delivered_us": NOW_US - 60 * SECOND_US,
    } | changed


def test_a_quiet_fleet_is_healthy_and_says_what_that_rests_on() -> None:
    found = judge(tiles(), [], [], NOW_US)
    assert (found.level, found.text) == ("ok", "Healthy")
    assert found.detail == "6 of 6 engines up · no errors in 60 s · no alert is firing"


def test_without_data_it_waits() -> None:
    assert judge(tiles(data_age_ms=None), [], [], NOW_US).level == "none"


def test_old_data_is_not_healthy() -> None:
    found = judge(tiles(data_age_ms=180_000.0), [], [], NOW_US)
    assert (found.level, found.text) == ("bad", "No new data for 3 min")


def test_a_page_wins_over_a_ticket_and_names_what_it_is_about() -> None:
    ticket = alert(severity="ticket", rule="kv_cache_saturation", labels={}, incident_id="i2")
    found = judge(tiles(), [ticket, alert()], [action(result="is being delivered")], NOW_US)
    assert found.level == "bad"
    assert found.text == "p99 latency over SLO on v2 and 1 more"
    assert found.detail == (
        "p99 latency 6.81 s, limit 5.00 s · firing for 90 s · rollback is being delivered"
    )
    assert judge(tiles(), [ticket], [], NOW_US).level == "warn"


def test_a_resolved_alert_does_not_hold_the_verdict() -> None:
    found = judge(tiles(), [alert(ended_us=NOW_US)], [action()], NOW_US)
    assert found.level == "ok"
    assert found.detail.endswith("rollback of v2 60 s ago")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"kv_cache_usage": 0.9}, "KV cache 90% full on vllm-2"),
        ({"error_ratio": 0.02}, "2.0% of requests fail"),
        ({"p99_latency_ms": 6_100.0}, "p99 latency 6.10 s, limit 5.00 s"),
        ({"data_age_ms": 20_000.0}, "data is 20 s old"),
    ],
)
def test_figures_over_their_limit_warn_without_an_alert(
    changed: dict[str, float], text: str
) -> None:
    found = judge(tiles(**changed), [], [], NOW_US)
    assert (found.level, found.text) == ("warn", text)


def test_a_down_engine_is_said() -> None:
    found = judge(tiles() | {"instances": {"up": 5, "seen": 6}}, [], [], NOW_US)
    assert (found.level, found.text) == ("warn", "1 of 6 engines down")


def test_an_engine_without_a_price_is_said_with_the_fix() -> None:
    note = "no price for vllm-9: add gpu_groups and prices to redline.yaml"
    spend = {"value": None, "level": "warn", "note": note}
    found = judge(tiles() | {"spend_today_nusd": spend}, [], [], NOW_US)
    assert (found.level, found.text) == ("warn", note)


def test_no_requests_is_idle_not_broken() -> None:
    none = dict.fromkeys(("requests_per_s", "error_ratio", "p99_latency_ms", "p95_ttft_ms"))
    found = judge(tiles(**none), [], [], NOW_US)
    assert (found.level, found.text) == ("ok", "Idle: engines are up, no requests")


def test_away_says_how_old_the_figures_are() -> None:
    assert away("Gone", "It does not answer.", 42_000).detail == (
        "It does not answer. Figures are 42 s old."
    )
    assert away("Gone", "It does not answer.", None).detail.endswith("Nothing was read yet.")


def test_rules_of_the_settings_are_the_limits() -> None:
    rules = [
        Rule(name="a", signal="p99_latency_ms", above=900),
        Rule(name="b", signal="p99_latency_ms", above=700),
        Rule(name="c", signal="p95_ttft_ms", above=1, labels={"model": "m"}),
    ]
    limits = limits_from(rules)
    assert limits.upper["p99_latency_ms"] == 700
    assert "p95_ttft_ms" not in limits.upper  # it is about one model, the tile about all
    assert limits.level("p99_latency_ms", 700) == "bad"
    assert limits.level("p99_latency_ms", 600) == "warn"
    assert limits.level("p99_latency_ms", 100) == "ok"
    assert limits.level("p99_latency_ms", None) == "none"
    assert Limits({}, {}).level("anything", 1e9) == "none"
    assert limits.signals == {"a": "p99_latency_ms", "b": "p99_latency_ms", "c": "p95_ttft_ms"}


def test_the_shipped_limits_are_the_shipped_rules() -> None:
    from alerting.rules import SHIPPED as RULES

    assert {(rule.name, rule.signal, rule.above) for rule in RULES if not rule.labels} == set(
        SHIPPED
    )
    assert limits_from(None).upper == {"error_ratio": 0.05} | {s: above for _, s, above in SHIPPED}


def test_age_levels() -> None:
    assert [age_level(ms) for ms in (None, 0, 15_000, 60_000)] == ["none", "ok", "warn", "bad"]
