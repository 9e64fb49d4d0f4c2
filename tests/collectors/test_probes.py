from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.probes import (
    ROUTE_53_REQUEST_S,
    Activity,
    Health,
    Replica,
    advance,
    answered,
    by_region,
    choose_to_warm,
    failover_time_s,
    idle_s,
    is_cold,
    notice,
    region_healthy,
)


@pytest.mark.parametrize(
    ("interval_s", "threshold", "ttl_s", "expected_s"),
    [(30, 3, 60, 156), (10, 3, 60, 96), (10, 3, 20, 56), (10, 2, 30, 56)],
)
def test_failover_times_are_route_53s(
    interval_s: float, threshold: int, ttl_s: float, expected_s: float
) -> None:
    assert failover_time_s(interval_s, threshold, ROUTE_53_REQUEST_S, ttl_s) == expected_s


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_state_turns_exactly_when_enough_results_in_a_row_say_so(
    results: list[bool], failures: int, successes: int
) -> None:
    health = Health()
    expected: bool | None = None
    for number, ok in enumerate(results):
        before = health
        health = advance(health, ok, failures, successes, number)
        needed = successes if ok else failures
        if results[max(0, number + 1 - needed) : number + 1] == [ok] * needed:
            expected = ok
        assert health.healthy is expected
        assert health.since_us == (
            number if health.healthy is not before.healthy else before.since_us
        )


@given(st.lists(st.sampled_from([True, False, None]), max_size=40))
def test_a_region_is_healthy_while_more_than_18_percent_are(states: list[bool | None]) -> None:
    known = [state for state in states if state is not None]
    found = region_healthy(states)
    assert found is ((100 * sum(known) > 18 * len(known)) if known else None)


def test_targets_without_a_result_are_unknown() -> None:
    states = by_region({"a": "eu", "b": "eu", "c": "us"}, {"a": Health(True)})
    assert states == {"eu": [True, None], "us": [None]}
    assert region_healthy(states["us"]) is None


@given(st.lists(st.none() | st.integers(0, 5), max_size=30))
def test_idle_counts_from_the_last_reading_that_moved(readings: list[float | None]) -> None:
    activity = Activity()
    previous: float | None = None
    last: int | None = None
    for second, reading in enumerate(readings):
        activity = notice(activity, reading, second * 1_000_000)
        if reading is None:
            continue
        if previous is not None and reading != previous and reading > 0:
            last = second
        previous = reading
    now_us = len(readings) * 1_000_000
    assert idle_s(activity, now_us) == (None if last is None else len(readings) - last)
    assert idle_s(answered(activity, now_us), now_us) == 0


@pytest.mark.parametrize(
    ("idle", "latency_s", "cold"),
    [(None, 0.1, False), (10, 0.1, False), (300, 0.1, True), (10, 2.5, True), (10, None, False)],
)
def test_cold_is_idle_for_long_or_slow(
    idle: float | None, latency_s: float | None, cold: bool
) -> None:
    assert is_cold(idle, latency_s, 300, 2.0) is cold


replica = st.builds(Replica, st.uuids().map(str), st.booleans(), st.none() | st.floats(0, 1000))


@given(st.lists(replica, max_size=8), st.integers(1, 3))
def test_keeping_warm_reaches_the_minimum_and_no_more(
    replicas: list[Replica], minimum: int
) -> None:
    chosen = choose_to_warm(replicas, 120, minimum)
    reachable = {one.target for one in replicas if one.reachable}
    warm = {
        one.target for one in replicas
        if one.reachable and one.idle_s is not None and one.idle_s < 120
    }  # fmt: skip
    assert set(chosen) <= reachable - warm
    assert len(warm) + len(chosen) == max(len(warm), min(minimum, len(reachable)))
    assert chosen == choose_to_warm(replicas[::-1], 120, minimum)
    rest = [one.idle_s for one in replicas if one.target in reachable - warm - set(chosen)]
    best = [one.idle_s for one in replicas if one.target in chosen]
    assert all(
        other is None or (idle is not None and idle <= other) for idle in best for other in rest
    )
