"""The official spend rule: today, projected to the day's end, against the last seven closed days.

projected = spent so far + rate of the last minutes × what is left of the billing day; the ratio is
projected ÷ mean of the valid days (a day is valid when at least 90 % of it was watched). With
fewer than three valid days there is no ratio yet: the signal is ``learning``. The mean is never
taken below the dollar floor, so a tenant of a few cents a day raises no alarm.

Known limits (domain notes, section 5): a flat profile needs about half an hour of ten times the
usual rate, and steady growth of 4.8 % a day never alarms. This file refuses clocks and databases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redline.records import Signal

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
COVERAGE_MIN = 0.9
VALID_DAYS_MIN = 3
BASELINE_DAYS = 7


class SpendRule(NamedTuple):
    """The settings of the rule."""

    rate_window_s: int
    floor_nusd: int
    utc_offset_us: int


class ClosedDay(NamedTuple):
    """One closed billing day: the share of it that was watched, and what each tenant spent."""

    coverage: float
    spend_nusd: Mapping[str, int]


class Today(NamedTuple):
    """What was attributed today, per tenant, and within the rate window; and the whole bill."""

    spend_nusd: Mapping[str, int]
    recent_nusd: Mapping[str, int]
    bill_nusd: int


def billing_day_start_us(utc_offset_us: int, now_us: int) -> int:
    """When the billing day that ``now_us`` is in began."""
    return (now_us + utc_offset_us) // DAY_US * DAY_US - utc_offset_us


def project_day_nusd(
    rule: SpendRule, spent_nusd: int, recent_nusd: int, watched_us: int, now_us: int
) -> float:
    """The day's spend if it goes on like the last ``watched_us``."""
    end_us = billing_day_start_us(rule.utc_offset_us, now_us) + DAY_US
    if watched_us <= 0:
        return float(spent_nusd)
    return spent_nusd + recent_nusd / watched_us * (end_us - now_us)


def spend_signals(
    rule: SpendRule,
    today: Today,
    days: Sequence[ClosedDay],
    first_data_us: int,
    now_us: int,
) -> list[Signal]:
    """``spend_projected_ratio`` per tenant and ``spend_today_usd``.

    ``days`` are the last seven closed days that exist; ``first_data_us`` is when the rate window's
    data begins, so that a system that started a minute ago is not projected from fifteen.
    """
    valid = [day for day in days[-BASELINE_DAYS:] if day.coverage >= COVERAGE_MIN]
    learning = len(valid) < VALID_DAYS_MIN
    window_us = rule.rate_window_s * 1_000_000
    watched_us = min(window_us, max(0, now_us - first_data_us))
    signals = [
        Signal(
            ts_us=now_us,
            name="spend_today_usd",
            value=today.bill_nusd / 1e9,
            window_s=(now_us - billing_day_start_us(rule.utc_offset_us, now_us)) // 1_000_000,
            samples=len(today.spend_nusd),
        )
    ]
    for tenant in sorted(today.spend_nusd):
        projected = project_day_nusd(
            rule, today.spend_nusd[tenant], today.recent_nusd.get(tenant, 0), watched_us, now_us
        )
        mean = sum(day.spend_nusd.get(tenant, 0) for day in valid) / len(valid) if valid else 0.0
        against = max(mean, rule.floor_nusd)
        signals.append(
            Signal(
                ts_us=now_us,
                name="spend_projected_ratio",
                value=None if learning or against <= 0 else projected / against,
                window_s=rule.rate_window_s,
                labels={"tenant": tenant},
                samples=len(valid),
                coverage=watched_us / window_us,
                learning=learning,
            )
        )
    return signals
