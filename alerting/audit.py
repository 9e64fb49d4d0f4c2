"""The audit's hash chain: each entry's hash covers the entry and the hash before it.

Who changes or removes an entry breaks every hash after it. This file refuses to store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from alerting.state import AuditHead
from redline.records import AuditEntry


def _hash(seq: int, ts_us: int, actor: str, event: str, payload: str, previous: str) -> str:
    content = json.dumps([seq, ts_us, actor, event, payload, previous], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def append(
    head: AuditHead, actor: str, event: str, payload: Mapping[str, object], now_us: int
) -> tuple[AuditHead, AuditEntry]:
    """The next link, and the new head."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    seq = head.seq + 1
    digest = _hash(seq, now_us, actor, event, text, head.hash)
    entry = AuditEntry(
        ts_us=now_us,
        seq=seq,
        actor=actor,
        event=event,
        payload=text,
        previous_hash=head.hash,
        hash=digest,
    )
    return AuditHead(seq=seq, hash=digest), entry


def verify(entries: Iterable[AuditEntry], head: AuditHead | None = None) -> str:
    """Check a chain that follows ``head`` (default: from the beginning); "" if it holds.

    Returns the first thing that is wrong otherwise.
    """
    head = AuditHead() if head is None else head
    for entry in entries:
        if entry.seq != head.seq + 1:
            return f"entry {entry.seq} follows {head.seq}: entries are missing or repeated"
        if entry.previous_hash != head.hash:
            return f"entry {entry.seq} does not continue the chain"
        wanted = _hash(
            entry.seq, entry.ts_us, entry.actor, entry.event, entry.payload, entry.previous_hash
        )
        if entry.hash != wanted:
            return f"entry {entry.seq} was changed"
        head = AuditHead(seq=entry.seq, hash=entry.hash)
    return ""
