"""A rule, the shipped rules, and what one signal says to a rule: an observation.

An observation knows nothing of what went before; the machine does. This file refuses state,
and refuses to take too few samples or a missing value for good news: both are ``nodata``.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from redline.records import ActionMode, Severity, Signal

ObservationKind = Literal[
    "breach", "between", "clear", "nodata", "learning", "drained", "removed", "closed"
]
SECOND_US = 1_000_000


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When a signal is an alert, and what then. Times are event time."""

    name: str
    signal: str
    above: float
    inclusive: bool = False  # breaches at ``above`` itself too
    clear_below: float | None = None  # None: resolves as soon as it does not breach
    for_us: int = 0
    keep_firing_for_us: int = 20 * SECOND_US
    min_samples: int = 1
    labels: dict[str, str] = {}  # the signal's labels that must match
    severity: Severity = "ticket"
    summary: str = ""
    runbook_url: str = ""
    on_nodata: Literal["hold", "fire"] = "hold"
    nodata_after_us: int = 60 * SECOND_US
    action: Literal["none", "rollback", "scale"] = "none"
    mode: ActionMode = "observe"


SHIPPED: tuple[Rule, ...] = (
    Rule(
        name="p99_latency_over_slo",
        signal="p99_latency_ms",
        above=5_000,
        for_us=30 * SECOND_US,
        min_samples=20,
        severity="page",
        summary="99 % of requests should end within 5 s",
        action="rollback",
    ),
    Rule(
        name="kv_cache_saturation",
        signal="kv_cache_usage",
        above=0.85,
        inclusive=True,
        for_us=60 * SECOND_US,
        severity="page",
        summary="The KV cache is close to full: requests queue, then preempt each other",
    ),
    Rule(
        name="spend_over_baseline",
        signal="spend_projected_ratio",
        above=1.2,
        for_us=60 * SECOND_US,
        severity="ticket",
        summary="Today's spend is heading over 120 % of the 7-day mean",
    ),
)


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one signal says about one series, to one rule."""

    kind: ObservationKind
    ts_us: int | None  # of the signal; None: the absence of signals was noticed
    value: float | None = None
    samples: int = 0


def matches(rule: Rule, signal: Signal) -> bool:
    """Whether ``rule`` is about ``signal``."""
    return signal.name == rule.signal and all(
        signal.labels.get(name) == value for name, value in rule.labels.items()
    )


def observe(rule: Rule, signal: Signal) -> Observation:
    """Judge one signal. ``between`` is under the threshold but not yet under ``clear_below``."""
    kind: ObservationKind
    value = signal.value
    if signal.learning:
        kind = "learning"
    elif value is None or math.isnan(value) or signal.samples < rule.min_samples:
        kind = "nodata"
    elif value > rule.above or (rule.inclusive and value == rule.above):
        kind = "breach"
    elif rule.clear_below is not None and value >= rule.clear_below:
        kind = "between"
    else:
        kind = "clear"
    return Observation(kind=kind, ts_us=signal.ts_us, value=value, samples=signal.samples)
