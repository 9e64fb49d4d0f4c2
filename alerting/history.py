"""One line of an incident's history: what happened, with the numbers. Plain text, no markup.

This file refuses to know who reads it; messages.py dresses it for Slack.
"""

from __future__ import annotations

from alerting.rules import Rule
from redline.records import ActionEvent, AlertEvent


def seconds(us: int) -> str:
    """A length of time, two units at most."""
    total = round(us / 1_000_000)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def number(value: float | None, signal: str) -> str:
    """A value in the unit that its signal's name ends with."""
    if value is None:
        return "no data"
    if signal.endswith("_ms"):
        return f"{value / 1_000:.2f} s" if value >= 1_000 else f"{value:.0f} ms"
    if signal.endswith(("_usage", "_ratio")):
        return f"{value * 100:.1f} %"
    if "usd" in signal:
        return f"${value:,.2f}"
    return f"{value:g}"


def alert_line(rule: Rule, event: AlertEvent, acted: ActionEvent | None) -> str:
    """What a transition means to the reader."""
    value, limit = number(event.value, rule.signal), number(rule.above, rule.signal)
    open_us = event.ts_us - (event.started_at_us or event.ts_us)
    if event.to_state == "nodata":
        return "No data: the alert stays open and nothing is done on its account."
    if event.to_state == "resolved":
        after = f"after {seconds(open_us)}"
        if event.reason == "closed":
            return f"Closed by hand {after}. It opens again if the numbers say so."
        if event.reason == "rule_removed":
            return f"Closed {after}: the rule {event.rule} is configured no more."
        if event.reason == "version_drained":
            version = event.labels.get("version", "the version")
            return (
                f"Fixed {after}: {version} gets no traffic any more, "
                f"and no other version is over {limit}."
            )
        if acted is not None:
            since = seconds(event.ts_us - acted.ts_us)
            return (
                f"Fixed {after}, {since} after the {acted.kind}: "
                f"{rule.signal} is {value}, limit {limit}."
            )
        return f"Resolved {after}: {rule.signal} is {value}, limit {limit}."
    if event.reason == "data_returned":
        return f"Data is back: {rule.signal} is {value}, limit {limit}."
    held = seconds(event.ts_us - (event.breached_at_us or event.ts_us))
    return f"Firing: {rule.signal} is {value}, limit {limit}, for {held}."


def action_line(event: ActionEvent) -> str:
    """What became of an action."""
    subject = f"{event.kind.capitalize()} of {event.target} from {event.from_state or '?'}"
    match event.status:
        case "proposed" if event.mode == "approve":
            return f"{subject} waits for approval: {event.reason}."
        case "proposed":
            return f"{subject} proposed: {event.reason}."
        case "approved" | "rejected":
            return f"{subject} {event.status}: {event.reason}."
        case "delivered" if event.mode == "dry_run":
            return f"{subject} tried (dry run), HTTP {event.http_status}: {event.detail}."
        case "delivered":
            return f"{subject} done, HTTP {event.http_status}: {event.detail}."
        case _:
            return f"{subject} {event.status}: {event.detail or event.reason}."


def not_fixed_line(rule: Rule, value: float | None, acted: ActionEvent, now_us: int) -> str:
    """An action was carried out and the incident is still open."""
    since = seconds(now_us - acted.ts_us)
    shown, limit = number(value, rule.signal), number(rule.above, rule.signal)
    return f"Not fixed {since} after the {acted.kind}: {rule.signal} is {shown}, limit {limit}."
