"""How traffic is split over versions: weights, a stable choice by request id, the rollback.

This file refuses to send, to keep, and to change weights without a valid result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b

from redline.errors import Fault

SUM_TOLERANCE = 1e-6
_SPACE = 1 << 64


class WeightsInvalid(Fault):
    """Weights that cannot be a split of traffic."""


class PreconditionFailed(Fault):
    """The state that a rollback expects is not the one that is."""


def validate(weights: Mapping[str, float], versions: tuple[str, ...]) -> dict[str, float]:
    """Weights for exactly ``versions``, each 0 to 1, together 1.

    Raises:
        WeightsInvalid: names the version, the value and the fix.
    """
    unknown = sorted(set(weights) - set(versions))
    if unknown:
        raise WeightsInvalid(f"unknown version {unknown[0]!r}; known: {', '.join(versions)}")
    full = {version: float(weights.get(version, 0.0)) for version in versions}
    for version, weight in full.items():
        if not 0.0 <= weight <= 1.0:  # NaN too
            raise WeightsInvalid(f"weight of {version!r} is {weight}; it must be 0 to 1")
    total = sum(full.values())
    if not abs(total - 1.0) <= SUM_TOLERANCE:
        raise WeightsInvalid(f"weights sum to {total:g}; they must sum to 1")
    return full


class Split:
    """A split that is in force. Each version owns a stretch of the hashes' space.

    The versions' order is the configuration's, so a weight that moves a little moves few ids.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._versions = [version for version, weight in weights.items() if weight > 0]
        total = 0.0
        self._ends: list[int] = []
        for version in self._versions:
            total += weights[version]
            self._ends.append(round(total * _SPACE))
        if self._ends:
            self._ends[-1] = _SPACE  # rounding leaves no id without a version

    def choose(self, request_id: str) -> str:
        """The version of a request: the same id gets the same version, on every machine."""
        digest = blake2b(request_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return self._versions[bisect_right(self._ends, int.from_bytes(digest, "big"))]


def apply_rollback(
    weights: Mapping[str, float], stable: str, bad: str, now_us: int
) -> dict[str, float]:
    """All of ``bad``'s traffic goes to ``stable``; the other versions keep theirs.

    ``now_us`` is part of every core's shape; today's rollback is the same at all times.

    Raises:
        PreconditionFailed: ``bad`` is unknown, is the stable one, or has no traffic.
    """
    if bad not in weights:
        raise PreconditionFailed(f"version {bad!r} is not routed here")
    if bad == stable:
        raise PreconditionFailed(f"version {bad!r} is the stable one: nothing to return to")
    if stable not in weights:
        raise PreconditionFailed(f"the stable version {stable!r} is not routed here")
    if weights[bad] <= 0:
        raise PreconditionFailed(f"version {bad!r} has no traffic: weight 0")
    after = dict(weights)
    after[bad] = 0.0
    after[stable] = 0.0
    after[stable] = 1.0 - sum(after.values())
    return after
