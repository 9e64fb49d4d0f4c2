"""The one line on top of the page: is it healthy, and if not, what is wrong, in words.

Pure. Alerts judge first, since somebody asked for them; then what the figures say against their
limits. Old data is never called healthy. This file refuses to soften: what it cannot know it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dashboards.limits import Level, age_level
from dashboards.wording import amount, duration, words

RECENT_US = 15 * 60 * 1_000_000
OPEN_STATES = ("firing", "recovering", "nodata")


class Verdict(NamedTuple):
    """``level`` none: it cannot be known. ``text`` is a sentence, ``detail`` what it rests on."""

    level: Level
    text: str
    detail: str


def judge(
    tiles: Mapping[str, Any],
    alerts: Sequence[Mapping[str, Any]],
    actions: Sequence[Mapping[str, Any]],
    now_us: int,
) -> Verdict:
    """The verdict over figures that were read just now."""
    age_ms = tiles["data_age_ms"]["value"]
    if age_ms is None:
        return Verdict(
            "none",
            "Waiting for the first data",
            "No request and no engine sample has arrived yet.",
        )
    firing = [alert for alert in alerts if alert["ended_us"] is None]
    if firing:
        return _of_alerts(firing, actions, now_us)
    if age_level(age_ms) == "bad":
        return Verdict(
            "bad",
            f"No new data for {duration(age_ms)}",
            "The figures below are that old. Look at the collectors and the streams.",
        )
    wrong = _over_limit(tiles)
    detail = _facts(tiles)
    if wrong:
        return Verdict("warn", "; ".join(wrong), detail)
    if tiles["requests_per_s"]["value"] is None:
        up = tiles["instances"]
        text = "Idle: engines are up, no requests" if up["up"] else "No requests"
        return Verdict("ok" if up["up"] else "none", text, detail)
    after = _recent(alerts, actions, now_us)
    return Verdict("ok", "Healthy", f"{detail} · {after}" if after else detail)


def away(headline: str, reason: str, age_ms: float | None) -> Verdict:
    """The verdict while ClickHouse does not answer; ``age_ms`` since it last did."""
    old = "Nothing was read yet." if age_ms is None else f"Figures are {duration(age_ms)} old."
    return Verdict("none", headline, f"{reason} {old}")


def _of_alerts(
    firing: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]], now_us: int
) -> Verdict:
    paged = [alert for alert in firing if alert["severity"] == "page"]
    first = (paged or list(firing))[0]
    subject = first["labels"].get("instance") or first["labels"].get("version") or ""
    subject = f" on {subject}" if subject else ""
    more = f" and {len(firing) - 1} more" if len(firing) > 1 else ""
    open_ms = (now_us - first["started_us"]) / 1_000
    done = [act for act in actions if act["incident_id"] == first["incident_id"]]
    detail = f"{first['text']} · firing for {duration(open_ms)}"
    if done:
        detail += f" · {done[0]['kind']} {done[0]['result']}"
    return Verdict("bad" if paged else "warn", f"{words(first['rule'])}{subject}{more}", detail)


def _over_limit(tiles: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    down = tiles["instances"]["seen"] - tiles["instances"]["up"]
    if down:
        found.append(f"{down} of {tiles['instances']['seen']} engines down")
    errors = tiles["error_ratio"]
    if errors["level"] in ("warn", "bad"):
        found.append(f"{errors['value']:.1%} of requests fail")
    p99 = tiles["p99_latency_ms"]
    if p99["level"] == "bad":
        found.append(f"p99 latency {_over(p99)}")
    ttft = tiles["p95_ttft_ms"]
    if ttft["level"] == "bad":
        found.append(f"TTFT p95 {_over(ttft)}")
    kv = tiles["kv_cache_usage"]
    if kv["level"] == "bad":
        found.append(f"KV cache {kv['value']:.0%} full on {kv['note']}")
    if tiles["spend_today_nusd"]["note"]:
        found.append(tiles["spend_today_nusd"]["note"])
    if age_level(tiles["data_age_ms"]["value"]) == "warn":
        found.append(f"data is {duration(tiles['data_age_ms']['value'])} old")
    return found


def _over(tile: Mapping[str, Any]) -> str:
    return f"{amount(tile['value'], '_ms')}, limit {amount(tile['limit'], '_ms')}"


def _facts(tiles: Mapping[str, Any]) -> str:
    facts: list[str] = []
    if tiles["instances"]["seen"]:
        facts.append(f"{tiles['instances']['up']} of {tiles['instances']['seen']} engines up")
    requests = tiles["requests_per_s"]
    if requests["value"] is None:
        facts.append(f"no requests in {requests['window_s']} s")
    else:
        errors = tiles["error_ratio"]["samples"] or 0
        facts.append(
            f"{errors or 'no'} error{'' if errors == 1 else 's'} in {requests['window_s']} s"
        )
    facts.append("no alert is firing")
    return " · ".join(facts)


def _recent(
    alerts: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]], now_us: int
) -> str:
    delivered = [act for act in actions if act["delivered_us"] is not None]
    if delivered and now_us - delivered[0]["delivered_us"] < RECENT_US:
        act = delivered[0]
        subject = act["from_state"] or act["target"]
        return f"{act['kind']} of {subject} {duration((now_us - act['delivered_us']) / 1_000)} ago"
    ended = [alert["ended_us"] for alert in alerts if alert["ended_us"] is not None]
    if ended and now_us - max(ended) < RECENT_US:
        return f"last alert resolved {duration((now_us - max(ended)) / 1_000)} ago"
    return ""
