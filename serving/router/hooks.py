"""An order from Redline: who signed it, whether it still holds, what it changes.

Verify first, then read. The answer to an id that was answered before is the same answer, and
nothing is done twice. This file refuses HTTP and clocks: bytes, headers and ``now`` come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from redline.errors import SignatureInvalid
from redline.webhooks import verify
from serving.router.report import Cause
from serving.router.traffic import PreconditionFailed, apply_rollback
from serving.router.weights import Answer, Weights

Report = Callable[[Cause, Mapping[str, float], Mapping[str, float], str], None]


class _Data(msgspec.Struct, rename={"from_version": "from"}):
    kind: str
    target: str
    expires_at: datetime
    from_version: str = ""
    mode: str = "auto"
    incident_id: str = ""
    reason: str = ""


class _Event(msgspec.Struct):
    id: str
    specversion: str
    data: _Data


class Orders:
    """Carries out the orders of one model's router."""

    def __init__(
        self,
        weights: Weights,
        model: str,
        stable: str,
        keys: Sequence[bytes],
        report: Report,
    ) -> None:
        self._weights = weights
        self._model = model
        self._stable = stable
        self._keys = keys
        self._report = report

    def receive(self, headers: Mapping[str, str], body: bytes, now_us: int) -> Answer:
        """The answer to one order.

        Raises:
            OSError: it was in order, but the new weights cannot be kept; nothing changed.
        """
        try:
            order_id = verify(self._keys, headers, body, now_us / 1e6)
        except SignatureInvalid as invalid:
            return _refuse(401, str(invalid), verified=False)
        known = self._weights.answers.get(order_id)
        if known is not None:
            return known
        try:
            event = msgspec.json.decode(body, type=_Event)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _refuse(400, f"not a Redline action: {error}")
        data = event.data
        expires_at = data.expires_at
        if expires_at.tzinfo is None:
            return _refuse(400, "expires_at has no time zone")
        if datetime.fromtimestamp(now_us / 1e6, UTC) >= expires_at:
            return _refuse(410, f"expired at {expires_at.isoformat()}")
        if data.kind != "rollback":
            return _refuse(422, f"this router carries out rollbacks, not {data.kind!r}")
        if data.target != self._model:
            return _refuse(409, f"this router serves {self._model!r}, not {data.target!r}")
        return self._roll_back(order_id, data, now_us)

    def _roll_back(self, order_id: str, data: _Data, now_us: int) -> Answer:
        before = self._weights.split.weights
        try:
            after = apply_rollback(before, self._stable, data.from_version, now_us)
        except PreconditionFailed as failed:
            return _refuse(409, str(failed))
        if data.mode == "dry_run":
            body: dict[str, Any] = {
                "applied": False,
                "dry_run": True,
                "signature_verified": True,
                "weights": after,
            }
            return Answer(200, body)
        answer = Answer(200, {"applied": True, "signature_verified": True, "weights": after})
        self._weights.set(after, {order_id: answer})
        self._report("rollback", before, after, data.incident_id or data.reason)
        return answer


def _refuse(status: int, reason: str, *, verified: bool = True) -> Answer:
    return Answer(status, {"applied": False, "signature_verified": verified, "reason": reason})
