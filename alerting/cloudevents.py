"""An action as a CloudEvents 1.0 JSON body, and what a receiver's reply says.

This file refuses to sign and to send.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from alerting.outbox import Reply
from redline.records import ActionEvent

CONTENT_TYPE = "application/cloudevents+json"
SOURCE = "redline/alerting"


def rfc3339(us: int) -> str:
    """An instant in UTC, to the second's fraction that it has."""
    return datetime.fromtimestamp(us / 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def action_body(event: ActionEvent, proposed_at_us: int, page_url: str) -> bytes:
    """The request body: the same bytes in every attempt."""
    body = {
        "specversion": "1.0",
        "id": event.action_id,
        "source": SOURCE,
        "type": f"redline.action.{event.kind}",
        "subject": event.target,
        "time": rfc3339(proposed_at_us),
        "datacontenttype": "application/json",
        "data": {
            "action_id": event.action_id,
            "incident_id": event.incident_id,
            "kind": event.kind,
            "target": event.target,
            "from": event.from_state,
            "to": event.to_state,
            "reason": event.reason,
            "evidence_url": f"{page_url}#{event.incident_id}" if page_url else "",
            "mode": event.mode,
            "expires_at": rfc3339(event.expires_at_us),
        },
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def read_reply(http_status: int, body: bytes, event: ActionEvent) -> Reply:
    """What the receiver says it did. A receiver that says nothing readable says nothing."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    said: dict[str, Any] = answer if isinstance(answer, dict) else {}
    weights = said.get("weights")
    if isinstance(weights, dict) and all(isinstance(w, int | float) for w in weights.values()):
        detail = "weights " + " ".join(f"{name}={weight:g}" for name, weight in weights.items())
        drained = said.get("applied") is True and weights.get(event.from_state, 1) == 0
    else:
        detail, drained = str(said.get("reason") or f"HTTP {http_status}"), False
    verified = said.get("signature_verified")
    applied = said.get("applied")
    return Reply(
        http_status=http_status,
        detail=detail,
        signature_verified=verified if isinstance(verified, bool) else None,
        applied=applied if isinstance(applied, bool) else None,
        drained=drained,
    )
