"""Up to where a figure is fine, so that colour judges only where somebody set a limit.

The alert rules of the settings are the limits. Without any, the two that Redline ships with a
rule for are used, and an error ratio that nobody calls healthy. This file refuses to alert.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from redline.settings import Rule

Level = Literal["ok", "warn", "bad", "none"]

# Name, signal and threshold of the shipped rules; alerting owns them, a room cannot import it.
SHIPPED = (
    ("p99_latency_over_slo", "p99_latency_ms", 5_000.0),
    ("kv_cache_saturation", "kv_cache_usage", 0.85),
    ("spend_over_baseline", "spend_projected_ratio", 1.2),
)
ERROR_RATIO = 0.05  # no shipped rule judges it, and nobody calls more than this healthy
WARN_SHARE = {"p99_latency_ms": 0.8, "p95_ttft_ms": 0.8, "kv_cache_usage": 0.9, "error_ratio": 0.2}
AGE_WARN_MS, AGE_BAD_MS = 15_000.0, 60_000.0


class Limits(NamedTuple):
    """Upper limits by figure, and the figure that each rule judges, by the rule's name."""

    upper: dict[str, float]
    signals: dict[str, str]

    def level(self, figure: str, value: float | None) -> Level:
        """``none`` without a limit or a value; ``warn`` from a share of the limit on."""
        limit = self.upper.get(figure)
        if value is None or limit is None:
            return "none"
        if value >= limit:
            return "bad"
        return "warn" if value >= limit * WARN_SHARE.get(figure, 0.9) else "ok"


def limits_from(rules: list[Rule] | None) -> Limits:
    """The lowest limit of each signal that rules without labels judge; the shipped ones if None."""
    if rules is None:
        upper = {signal: above for _, signal, above in SHIPPED}
        return Limits({"error_ratio": ERROR_RATIO} | upper, {n: signal for n, signal, _ in SHIPPED})
    upper = {"error_ratio": ERROR_RATIO}
    named: dict[str, float] = {}
    for rule in rules:
        if not rule.labels:
            named[rule.signal] = min(rule.above, named.get(rule.signal, rule.above))
    return Limits(upper | named, {rule.name: rule.signal for rule in rules})


def age_level(age_ms: float | None) -> Level:
    """How bad it is that the newest datum is this old."""
    if age_ms is None:
        return "none"
    return "bad" if age_ms >= AGE_BAD_MS else "warn" if age_ms >= AGE_WARN_MS else "ok"
