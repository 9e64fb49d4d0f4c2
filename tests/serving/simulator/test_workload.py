from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.simulator.draws import Draws
from serving.simulator.workload import (
    DAY_US,
    Arrival,
    LoadProfile,
    TenantLoad,
    Workload,
    diurnal_factor,
)

PROFILE = LoadProfile(
    tenants=(
        TenantLoad(name="big", share=0.75, prefix_tokens=64),
        TenantLoad(name="small", share=0.25),
    ),
    rate_rps=50.0,
    regions={"us": 1.0, "eu": 3.0},
    abort_share=0.5,
)


def arrivals(workload: Workload, count: int, start_us: int = 0) -> list[Arrival]:
    found: list[Arrival] = []
    at_us = start_us
    while len(found) < count:
        arrival = workload.next_arrival(at_us)
        assert arrival is not None
        at_us = arrival.at_us
        found.append(arrival)
    return found


def test_the_same_seed_is_the_same_load_and_another_is_another() -> None:
    assert arrivals(Workload(PROFILE, 7), 200) == arrivals(Workload(PROFILE, 7), 200)
    ours, other = arrivals(Workload(PROFILE, 7), 200), arrivals(Workload(PROFILE, 8), 200)
    assert [a.at_us for a in ours] != [a.at_us for a in other]


def test_the_first_draws_of_a_seed_are_written_down_so_that_no_version_changes_them() -> None:
    # SplitMix64 with seed 0; the first is the published test vector.
    draws = Draws(0)
    assert [draws.integer() for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_rate_shares_regions_and_lengths_are_what_was_asked_for() -> None:
    found = arrivals(Workload(PROFILE, 1), 8000)
    assert len(found) / (found[-1].at_us / 1e6) == pytest.approx(50, rel=0.05)
    assert sum(a.tenant == "big" for a in found) / 8000 == pytest.approx(0.75, abs=0.02)
    assert sum(a.region == "eu" for a in found) / 8000 == pytest.approx(0.75, abs=0.02)
    outputs = sorted(a.output_tokens for a in found)
    assert outputs[4000] == pytest.approx(64, rel=0.05)
    assert outputs[7920] > 3 * outputs[4000]  # a heavy tail
    gaps = [b.at_us - a.at_us for a, b in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert spread / mean == pytest.approx(1.0, abs=0.05)  # as of a Poisson process
    assert len({a.request_id for a in found}) == 8000


def test_only_streams_are_left_by_their_clients_and_only_big_shares_a_prefix() -> None:
    for arrival in arrivals(Workload(PROFILE, 2), 500):
        assert arrival.stream or not arrival.abort_after_tokens
        assert bool(arrival.prefix) == (arrival.tenant == "big")
        assert sum(segment.tokens for segment in arrival.prefix) < arrival.prompt_tokens


def test_a_tenant_at_ten_times_its_share_adds_to_the_load() -> None:
    workload = Workload(PROFILE, 3)
    workload.tenant_factors["small"] = 10.0
    found = arrivals(workload, 8000)
    rate = {
        name: sum(a.tenant == name for a in found) / (found[-1].at_us / 1e6)
        for name in ("big", "small")
    }
    assert rate["big"] == pytest.approx(37.5, rel=0.06)
    assert rate["small"] == pytest.approx(125, rel=0.06)


def test_nobody_sends_at_rate_zero() -> None:
    workload = Workload(PROFILE, 1)
    workload.rate_rps = 0.0
    assert workload.next_arrival(0) is None
    workload.rate_rps = 50.0
    workload.tenant_factors = {"big": 0.0, "small": 0.0}
    assert workload.next_arrival(0) is None


def test_the_load_follows_the_day() -> None:
    profile = msgspec.structs.replace(
        PROFILE, rate_rps=0.05, diurnal_amplitude=0.8, peak_hour_utc=12.0
    )
    found = arrivals(Workload(profile, 5), 12_000)
    by_hour = [0] * 24
    for arrival in found:
        by_hour[arrival.at_us % DAY_US // (DAY_US // 24)] += 1
    noon, night = by_hour[11] + by_hour[12], by_hour[23] + by_hour[0]
    assert 5 < noon / night < 14  # 1.8 to 0.2


@given(st.floats(0, 0.99), st.floats(0, 24), st.integers(0, 10 * DAY_US))
def test_the_day_s_factor_stays_between_its_ends(amplitude: float, peak: float, at: int) -> None:
    assert 1 - amplitude - 1e-9 <= diurnal_factor(amplitude, peak, at) <= 1 + amplitude + 1e-9


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), st.floats(0.05, 8.0))
def test_gamma_draws_are_positive(seed: int, shape: float) -> None:
    draws = Draws(seed)
    assert all(draws.gamma(shape) > 0 for _ in range(20))


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_gamma_draws_have_their_mean_and_variance(shape: float) -> None:
    draws = Draws(11)
    values = [draws.gamma(shape) for _ in range(20_000)]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    assert mean == pytest.approx(shape, rel=0.05)
    assert variance == pytest.approx(shape, rel=0.1)


@given(st.integers(0, 2**32), st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_a_weight_of_zero_is_never_picked(seed: int, weights: list[float]) -> None:
    if not any(weights):
        weights = [*weights, 1.0]
    assert weights[Draws(seed).pick(weights)] > 0
