"""Core: what a probe's outcome means: healthy or not, cold or warm, who is to be kept warm.

Thresholds and arithmetic are those of Amazon Route 53's health checks (its developer guide, "How
Route 53 determines whether a health check is healthy"). This file refuses HTTP and the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

ROUTE_53_SHARE = 0.18  # healthy while more than this share of the observers says so
ROUTE_53_REQUEST_S = 6.0  # 4 s to connect and 2 s for the status


class Health(NamedTuple):
    """One target's state. ``healthy`` is None before the first threshold is reached.

    ``streak`` counts the last results that were all alike, ``passing`` says which.
    """

    healthy: bool | None = None
    passing: bool = True
    streak: int = 0
    since_us: int = 0


def advance(
    health: Health, ok: bool, failure_threshold: int, success_threshold: int, now_us: int
) -> Health:
    """The state after one more result: it turns when enough results in a row contradict it."""
    streak = health.streak + 1 if ok == health.passing else 1
    needed = success_threshold if ok else failure_threshold
    turns = streak >= needed and health.healthy is not ok
    return Health(
        healthy=ok if turns else health.healthy,
        passing=ok,
        streak=streak,
        since_us=now_us if turns else health.since_us,
    )


def region_healthy(states: Iterable[bool | None], share: float = ROUTE_53_SHARE) -> bool | None:
    """Whether more than ``share`` of a region's targets are healthy. None if none is known."""
    known = [state for state in states if state is not None]
    return sum(known) > share * len(known) if known else None


def failover_time_s(
    interval_s: float, failure_threshold: int, request_timeout_s: float, ttl_s: float
) -> float:
    """The worst case from a region's loss until clients go elsewhere, without DNS propagation:
    the checks that must fail, the last one's time-out, and what resolvers may still hold.
    """
    return interval_s * failure_threshold + request_timeout_s + ttl_s


class Activity(NamedTuple):
    """When a target is known to have generated a token, and the counter that showed it."""

    counter: float | None = None
    last_us: int | None = None


def notice(activity: Activity, counter: float | None, now_us: int) -> Activity:
    """What one reading of the generation counter says. The first says nothing about when; one that
    fell is a new process, which has generated if it is above 0.
    """
    if counter is None:
        return activity
    before = activity.counter
    moved = before is not None and (counter > before or 0 < counter < before)
    return Activity(counter, now_us if moved else activity.last_us)


def answered(activity: Activity, now_us: int) -> Activity:
    """After a completion of our own."""
    return Activity(activity.counter, now_us)


def idle_s(activity: Activity, now_us: int) -> float | None:
    """How long nothing was generated; None if that is unknown."""
    return None if activity.last_us is None else max(0, now_us - activity.last_us) / 1e6


def is_cold(
    idle_before_s: float | None, latency_s: float | None, cold_after_s: float, warm_s_max: float
) -> bool:
    """Whether a first token came from a cold replica: idle for long, or slower than a warm one."""
    idle = idle_before_s is not None and idle_before_s >= cold_after_s
    return idle or (latency_s is not None and latency_s > warm_s_max)


class Replica(NamedTuple):
    """One replica of a model in a region. ``idle_s`` is None where nothing is known."""

    target: str
    reachable: bool
    idle_s: float | None


def choose_to_warm(
    replicas: Sequence[Replica], keep_warm_after_s: float, warm_replicas_min: int
) -> list[str]:
    """Which replicas of one model and region get a dummy request: as many as are missing to the
    minimum, the last used first, because they lose least. Idle ones over the minimum may cool.
    """
    reachable = [replica for replica in replicas if replica.reachable]
    cooling = [one for one in reachable if one.idle_s is None or one.idle_s >= keep_warm_after_s]
    missing = warm_replicas_min - (len(reachable) - len(cooling))
    cooling.sort(key=lambda one: (one.idle_s is None, one.idle_s or 0, one.target))
    return [one.target for one in cooling[: max(0, missing)]]


def by_region(
    regions: Mapping[str, str], states: Mapping[str, Health]
) -> dict[str, list[bool | None]]:
    """The states of the targets of each region; ``regions`` names each target's."""
    found: dict[str, list[bool | None]] = {}
    for target, region in regions.items():
        found.setdefault(region, []).append(states.get(target, Health()).healthy)
    return found
