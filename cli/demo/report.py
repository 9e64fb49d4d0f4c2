"""The summary of a demo: one JSON object, or the same in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cli.demo.events import ActionRow, AlertRow
from cli.demo.incidents import Step
from cli.summary import StoredFacts


def alert_reports(
    alerts: Sequence[AlertRow], incidents: Sequence[tuple[float, Step]]
) -> list[dict[str, Any]]:
    """One entry per alert that fired. ``incidents``: (epoch second, step), in order of time.

    ``fired_after_s`` counts from the incident that the rule is for, or, where that had not begun
    (a slow canary fills its KV cache too), from the last one before the alert.
    """
    reports: dict[str, dict[str, Any]] = {}
    for row in alerts:
        if row.to_state == "firing" and row.incident_id not in reports:
            fired_s = row.ts.timestamp()
            before = [(began_s, step) for began_s, step in incidents if began_s <= fired_s]
            own = [(began_s, step) for began_s, step in before if step.rule == row.rule]
            causes = own or before
            cause = causes[-1] if causes else None
            breached = row.breached_at.timestamp() if row.breached_at else None
            reports[row.incident_id] = {
                "rule": row.rule,
                "labels": row.labels,
                "incident": cause[1].path.rpartition("/")[2] if cause else None,
                "fired_after_s": round(fired_s - cause[0], 1) if cause else None,
                "breach_to_firing_s": None if breached is None else round(fired_s - breached, 1),
                "value": row.value,
                "resolved": False,
            }
        elif row.to_state == "resolved" and row.incident_id in reports:
            reports[row.incident_id]["resolved"] = True
    return list(reports.values())


def open_incidents(alerts: Sequence[AlertRow]) -> int:
    """How many incidents fired and have not resolved yet."""
    last = {row.incident_id: row.to_state for row in sorted(alerts, key=lambda row: row.ts)}
    return sum(state in {"firing", "recovering"} for state in last.values())


def action_reports(
    actions: Sequence[ActionRow], requests_after: Mapping[str, int]
) -> list[dict[str, Any]]:
    """One entry per action. ``requests_after``: by action, what its bad version got afterwards."""
    last: dict[str, ActionRow] = {row.action_id: row for row in actions}
    return [
        {
            "kind": row.kind,
            "target": row.target,
            "from": row.from_state,
            "status": row.status,
            "delivered": row.status == "delivered",
            "signature_verified": bool(row.signature_verified),
            "traffic_shifted": row.status == "delivered" and requests_after.get(action_id) == 0,
            "detail": row.detail,
        }
        for action_id, row in last.items()
    ]


def is_good(report: Mapping[str, Any]) -> bool:
    """Whether the run kept every promise: exit code 0."""
    facts = report
    return bool(
        facts["requests_stored"] > 0
        and facts["lost"] == facts["duplicated"] == facts["ledger_imbalance_nusd"] == 0
        and facts["unsettled_windows"] == 0
        and facts["panes_requests"] == facts["requests_stored"]
        and facts["p99_error"] is not None
        and facts["p99_error"] <= 0.01
    )


def in_words(report: Mapping[str, Any]) -> str:
    """The summary for a person."""
    facts = StoredFacts(**{field: report[field] for field in StoredFacts._fields})
    lines = [
        f"requests   {report['requests_sent']:,} sent, {facts.requests_stored:,} stored, "
        f"{facts.lost} lost, {facts.duplicated} duplicated; {facts.rejected} malformed lines kept",
        f"p99        {facts.p99_ms:,.0f} ms; exact {facts.p99_exact_ms:,.0f} ms; "
        f"error {facts.p99_error:.2%} (bound 1 %)"
        if facts.p99_ms and facts.p99_exact_ms and facts.p99_error is not None
        else "p99        no requests",
        f"cost       ${facts.cost_usd:.4f}, of it idle ${facts.idle_usd:.4f}; "
        f"{facts.ledger_windows} windows, off by {facts.ledger_imbalance_nusd} nano-dollars",
    ]
    for alert in report.get("alerts", []):
        after = alert["fired_after_s"]
        when = "" if after is None else f" {after} s after the incident began"
        where = " ".join(f"{key}={value}" for key, value in sorted(alert["labels"].items()))
        end = "resolved" if alert["resolved"] else "still firing"
        lines.append(f"alert      {alert['rule']} ({where}) fired{when}, {end}")
    for action in report.get("actions", []):
        signature = "signature verified" if action["signature_verified"] else "signature unknown"
        shifted = "traffic shifted" if action["traffic_shifted"] else "traffic not shifted"
        lines.append(
            f"action     {action['kind']} of {action['target']} {action['from']}: "
            f"{action['status']}, {signature}, {shifted}"
        )
    lines.append(
        f"machine    first chart after {report['first_chart_s']} s, stack {report['rss_mb']} MB"
        if "first_chart_s" in report
        else f"machine    stack {report['rss_mb']} MB"
    )
    return "\n".join(lines)
