"""The names of things: every id here is a hash of what it is about, so a replay finds it again.

Only identity labels go in, never values or texts: an alert whose number changed is the same alert.
This file refuses randomness.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def _digest(*parts: object) -> str:
    # JSON, not joined text: no label value can imitate a separator.
    content = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def fingerprint(rule: str, labels: Mapping[str, str]) -> str:
    """Which alert: the rule and the sorted labels of its series."""
    return _digest("alert", rule, sorted(labels.items()))


def incident_id(fingerprint: str, started_at_us: int) -> str:
    """Which occurrence of the alert: it starts once at any instant."""
    return "inc_" + _digest("incident", fingerprint, started_at_us)


def action_id(incident_id: str, kind: str, target: str) -> str:
    """Which action: an incident asks for one of a kind on a target, once. Also the webhook-id."""
    return "act_" + _digest("action", incident_id, kind, target)


def notification_key(incident_id: str, transition: str, at_us: int, receiver: str) -> str:
    """Which notification: one per incident, transition and receiver."""
    return _digest("notification", incident_id, transition, at_us, receiver)
