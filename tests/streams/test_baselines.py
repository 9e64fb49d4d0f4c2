"""The official rule, on plain numbers."""

from __future__ import annotations

import pytest

from redline.records import Signal
from streams.baselines import (
    DAY_US,
    HOUR_US,
    ClosedDay,
    SpendRule,
    Today,
    billing_day_start_us,
    spend_signals,
)

RULE = SpendRule(rate_window_s=900, floor_nusd=1_000_000_000, utc_offset_us=0)
DAY0_US = 20_000 * DAY_US
DOLLAR = 1_000_000_000


def ratio(signals: list[Signal], tenant: str) -> Signal:
    return next(s for s in signals if s.labels == {"tenant": tenant})


def days(*spend: int, coverage: float = 1.0) -> list[ClosedDay]:
    return [ClosedDay(coverage, {"a": nusd}) for nusd in spend]


def test_a_flat_day_projects_to_itself() -> None:
    now_us = DAY0_US + 6 * HOUR_US
    today = Today({"a": 24 * DOLLAR}, {"a": DOLLAR}, 30 * DOLLAR)  # 4 $/h, 1 $ in 15 min
    signals = spend_signals(RULE, today, days(*[96 * DOLLAR] * 7), DAY0_US, now_us)
    assert ratio(signals, "a").value == pytest.approx(1.0)
    assert not ratio(signals, "a").learning
    assert signals[0].name == "spend_today_usd"
    assert signals[0].value == 30.0


def test_ten_times_the_rate_passes_120_percent_after_half_an_hour() -> None:
    """Domain notes: a flat profile needs at least 32 min of ten times the rate, by day's end.

    Projected, the alarm comes as soon as the rate window holds the spike.
    """
    now_us = DAY0_US + 6 * HOUR_US
    today = Today({"a": 24 * DOLLAR}, {"a": 10 * DOLLAR}, 0)
    value = ratio(spend_signals(RULE, today, days(*[96 * DOLLAR] * 7), DAY0_US, now_us), "a").value
    assert value is not None
    assert value > 1.2


def test_fewer_than_three_valid_days_is_learning() -> None:
    now_us = DAY0_US + HOUR_US
    today = Today({"a": DOLLAR}, {"a": DOLLAR}, DOLLAR)
    closed = days(DOLLAR, DOLLAR) + days(DOLLAR, coverage=0.89)
    signal = ratio(spend_signals(RULE, today, closed, DAY0_US, now_us), "a")
    assert signal.learning
    assert signal.value is None
    assert signal.samples == 2


def test_a_day_that_was_not_watched_is_not_a_cheap_day() -> None:
    now_us = DAY0_US + 12 * HOUR_US
    today = Today({"a": 48 * DOLLAR}, {"a": DOLLAR}, 0)
    closed = days(*[96 * DOLLAR] * 3) + days(DOLLAR, coverage=0.5)
    assert ratio(spend_signals(RULE, today, closed, DAY0_US, now_us), "a").value == pytest.approx(1)


def test_cents_do_not_alarm() -> None:
    now_us = DAY0_US + 12 * HOUR_US
    today = Today({"a": 10_000_000}, {"a": 1_000_000}, 0)
    value = ratio(spend_signals(RULE, today, days(*[1_000] * 7), DAY0_US, now_us), "a").value
    assert value is not None
    assert value < 0.1


def test_a_minute_of_data_is_not_spread_over_fifteen() -> None:
    now_us = DAY0_US + 60_000_000
    today = Today({"a": DOLLAR}, {"a": DOLLAR}, 0)
    signal = ratio(spend_signals(RULE, today, days(*[1440 * DOLLAR] * 7), DAY0_US, now_us), "a")
    assert signal.value == pytest.approx(1.0)
    assert signal.coverage == pytest.approx(60 / 900)


def test_only_the_last_seven_days_count() -> None:
    now_us = DAY0_US + 12 * HOUR_US
    today = Today({"a": 48 * DOLLAR}, {"a": DOLLAR}, 0)
    closed = days(10_000 * DOLLAR) + days(*[96 * DOLLAR] * 7)
    assert ratio(spend_signals(RULE, today, closed, DAY0_US, now_us), "a").value == pytest.approx(1)


def test_billing_days_begin_at_the_offset() -> None:
    midnight_us = DAY0_US
    assert billing_day_start_us(0, midnight_us) == midnight_us
    assert billing_day_start_us(2 * HOUR_US, midnight_us) == midnight_us - 2 * HOUR_US
    assert billing_day_start_us(-5 * HOUR_US, midnight_us) == midnight_us - 19 * HOUR_US
