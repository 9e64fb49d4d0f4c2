"""An incident as one Slack message: Block Kit, with the numbers, the same for a post and an edit.

The message is a function of what is known now, so editing it twice changes nothing.
This file refuses to send, and refuses markup that comes from labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alerting.history import action_line, number, seconds
from alerting.machine import Alert
from alerting.rules import Rule
from alerting.state import Incident
from redline.records import ActionEvent

# Slack's own limits on a block's text; longer ones are refused whole.
HEADER_CHARACTERS_MAX = 150
SECTION_CHARACTERS_MAX = 3_000
FIELD_CHARACTERS_MAX = 2_000
FIELDS_MAX = 10

_MARK = {"firing": "🔴", "recovering": "🟠", "nodata": "⚪", "resolved": "🟢"}


def escape(text: str) -> str:
    """Slack's three control characters; everything else is text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def incident_message(
    rule: Rule,
    incident: Incident,
    alert: Alert | None,
    actions: Sequence[ActionEvent],
    page_url: str,
) -> dict[str, Any]:
    """``text`` for notifications and ``blocks`` for the channel."""
    if alert is None:  # forgotten, or its rule was removed
        alert = Alert(fingerprint=incident.fingerprint, rule=rule.name, labels=incident.labels)
    state = _state(incident, alert)
    subject = " ".join(
        part for part in (alert.labels.get("model"), alert.labels.get("version")) if part
    ) or ", ".join(f"{name} {value}" for name, value in alert.labels.items())
    title = f"{_MARK.get(state, '🔴')} {state.upper()} {rule.name}: {subject}"
    value, limit = number(alert.value, rule.signal), number(rule.above, rule.signal)
    worst = number(alert.peak, rule.signal)
    shown = f"worst {worst}" if state == "resolved" else value
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": _plain(title)},
        {"type": "section", "text": _markdown(_sentence(rule, incident, alert, state))},
        {"type": "section", "fields": _fields(rule, incident, alert)},
    ]
    blocks += [
        {"type": "section", "text": _markdown(f"*Action* {escape(action_line(event))}")}
        for event in actions[-3:]
    ]
    blocks.append({"type": "context", "elements": [_markdown(_footer(rule, incident, page_url))]})
    return {
        "text": escape(f"{title}: {rule.signal} {shown}, limit {limit}"),
        "blocks": blocks,
    }


def _state(incident: Incident, alert: Alert) -> str:
    if incident.resolved_at_us is not None or alert.incident_id != incident.incident_id:
        return "resolved"
    return alert.state


def _sentence(rule: Rule, incident: Incident, alert: Alert, state: str) -> str:
    value, limit = number(alert.value, rule.signal), number(rule.above, rule.signal)
    if state == "resolved":
        end_us = incident.resolved_at_us or alert.changed_at_us
        length = seconds(end_us - incident.started_at_us)
        peak = number(alert.peak, rule.signal)
        return f"Resolved after {length}. Worst {escape(rule.signal)} {peak}, limit {limit}."
    head = f"*{escape(rule.signal)} is {value}*, limit {limit}."
    return f"{head} {escape(rule.summary)}" if rule.summary else head


def _fields(rule: Rule, incident: Incident, alert: Alert) -> list[dict[str, Any]]:
    facts = [
        ("Severity", incident.severity),
        ("Worst", number(alert.peak, rule.signal)),
        ("Samples", f"{alert.samples}, at least {rule.min_samples}"),
        ("Since", _when(incident.started_at_us)),
        *((name.capitalize(), value) for name, value in alert.labels.items() if value),
    ]
    return [
        _markdown(f"*{escape(name)}*\n{escape(str(value))}"[:FIELD_CHARACTERS_MAX])
        for name, value in facts[:FIELDS_MAX]
    ]


def _when(us: int) -> str:
    seconds_since_epoch = us // 1_000_000
    day_s = seconds_since_epoch % 86_400
    return f"{day_s // 3_600:02}:{day_s % 3_600 // 60:02}:{day_s % 60:02} UTC"


def _footer(rule: Rule, incident: Incident, page_url: str) -> str:
    parts = [f"incident {incident.incident_id}"]
    if page_url:
        parts.append(f"<{page_url}|open Redline>")
    if rule.runbook_url:
        parts.append(f"<{rule.runbook_url}|runbook>")
    return " · ".join(parts)


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text[:HEADER_CHARACTERS_MAX], "emoji": True}


def _markdown(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text[:SECTION_CHARACTERS_MAX]}
