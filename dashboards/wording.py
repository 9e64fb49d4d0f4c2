"""Codes, durations and values of alerts and actions, as sentences that people read.

Pure. Rows keep every figure and code; words are added beside them, so that nothing is lost.
This file refuses to guess a unit: a signal says its own in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

RAISED = {"slo": "SLO", "kv": "KV", "ttft": "TTFT", "gpu": "GPU", "usd": "$"}
CLOSED = {
    "version_drained": "the version gets no traffic any more",
    "rule_removed": "its rule was removed",
}
RESULTS = {
    ("proposed", "approve"): "waits for approval",
    ("proposed", "observe"): "proposed only (observe mode)",
    ("delivered", "dry_run"): "tried as a dry run",
    ("delivering", ""): "is being delivered",
    ("expired", ""): "expired, not applied",
}


def duration(ms: float) -> str:
    """``850 ms``, ``42 s``, ``3 min``, ``2 h 5 min``, ``3 days``."""
    if ms < 1_000:
        return f"{ms:.0f} ms"
    s = int(ms // 1_000)
    if s < 120:
        return f"{s} s"
    if s < 7_200:
        return f"{s // 60} min"
    if s < 172_800:
        return f"{s // 3_600} h {s % 3_600 // 60} min"
    return f"{s // 86_400} days"


def words(name: str) -> str:
    """``p99_latency_over_slo`` as ``p99 latency over SLO``, with its first letter raised."""
    raised = {"slo": "SLO", "kv": "KV", "ttft": "TTFT", "gpu": "GPU", "usd": "$"}
    text = " ".join(raised.get(part, part) for part in name.split("_"))
    return text if text.startswith("p9") else text[:1].upper() + text[1:]


def amount(value: float | None, signal: str) -> str:
    """A value in the unit that its signal's name ends with."""
    if value is None:
        return "no data"
    if signal.endswith("_ms"):
        return f"{value / 1_000:.2f} s" if value >= 1_000 else f"{value:.0f} ms"
    if signal.endswith(("_usage", "_ratio")):
        return f"{value * 100:.3g} %"
    if "usd" in signal:
        return f"${value:,.2f}"
    return f"{value:.4g}"


def tell_alert(row: Row, signals: Mapping[str, str]) -> dict[str, Any]:
    """``row`` with ``text`` (why it fired) and ``end_text`` (how it ended, else '').

    A reason that is a sentence already is kept as it is: other tools may write the table.
    """
    signal = signals.get(row["rule"], "")
    limit = amount(row["threshold"], signal)
    if " " in row["reason"]:
        text = row["reason"]
    else:
        figure = words(signal.removesuffix("_ms")) or "Value"
        text = f"{figure} {amount(row['value'], signal)}, limit {limit}"
        if row["peak_value"] is not None and row["peak_value"] > (row["value"] or 0):
            text += f", worst {amount(row['peak_value'], signal)}"
    if row["ended_us"] is None:
        end_text = ""
    elif row["last_reason"] in CLOSED:
        end_text = f"Closed: {CLOSED[row['last_reason']]}"
    elif " " in row["last_reason"]:
        end_text = row["last_reason"]
    else:
        end_text = f"Back at {amount(row['last_value'], signal)}"
    return {**row, "text": text, "end_text": end_text}


def tell_mark(row: Row, signals: Mapping[str, str]) -> dict[str, Any]:
    """``row`` with ``text``: its detail, or an alert's value and limit instead of a code."""
    text = row["detail"]
    if row["kind"] in ("firing", "resolved") and " " not in text:
        signal = signals.get(row["name"], "")
        text = f"{amount(row['value'], signal)}, limit {amount(row['threshold'], signal)}"
    return {**row, "text": text}


def tell_action(row: Row) -> dict[str, Any]:
    """``row`` with ``result`` (what became of it) and ``answer`` (what the receiver said)."""
    status, mode = row["status"], row["mode"]
    result = RESULTS.get((status, mode)) or RESULTS.get((status, "")) or status
    if row["delivered_us"] is not None and status == "delivered":
        result += f" in {duration((row['delivered_us'] - row['proposed_us']) / 1_000)}"
    detail = row["detail"]
    if detail.startswith("weights "):
        shares = (part.rpartition("=") for part in detail.split(" ")[1:])
        shifted = ", ".join(f"{name} {_percent(share)}" for name, _, share in shares)
        detail = f"Traffic now: {shifted}"
    parts = [detail]
    if row["http_status"] is not None:
        parts.append(f"answer {row['http_status']}")
    if row["signature_verified"] is not None:
        parts.append(f"signature {'verified' if row['signature_verified'] else 'NOT verified'}")
    if row["attempts"] > 1:
        parts.append(f"{row['attempts']} attempts")
    return {**row, "result": result, "answer": " · ".join(part for part in parts if part)}


def _percent(share: str) -> str:
    try:
        return f"{float(share) * 100:.3g} %"
    except ValueError:
        return share
