"""The split: stable, fair, and a rollback that keeps the sum."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.router.traffic import (
    PreconditionFailed,
    Split,
    WeightsInvalid,
    apply_rollback,
    validate,
)

weightings = (
    st.lists(st.integers(0, 100), min_size=1, max_size=6)
    .filter(any)
    .map(lambda parts: {f"v{i}": part / sum(parts) for i, part in enumerate(parts)})
)


@given(weightings, st.text(max_size=60))
def test_the_same_id_gets_the_same_version_and_never_one_without_weight(
    weights: dict[str, float], request_id: str
) -> None:
    chosen = Split(weights).choose(request_id)
    assert chosen == Split(dict(weights)).choose(request_id)
    assert weights[chosen] > 0


@given(weightings)
def test_shares_are_the_weights(weights: dict[str, float]) -> None:
    split, count = Split(weights), 3_000
    chosen = [split.choose(f"req-{number}") for number in range(count)]
    for version, weight in weights.items():
        spread = 5 * math.sqrt(weight * (1 - weight) / count) + 1e-9
        assert abs(chosen.count(version) / count - weight) <= spread


def test_a_canary_that_grows_keeps_those_that_it_had() -> None:
    small, large = Split({"v1": 0.9, "v2": 0.1}), Split({"v1": 0.8, "v2": 0.2})
    ids = [f"req-{number}" for number in range(2_000)]
    kept = [name for name in ids if small.choose(name) == "v2"]
    assert kept
    assert {large.choose(name) for name in kept} == {"v2"}


def test_the_choice_is_the_same_in_every_release() -> None:
    split = Split({"v1": 0.5, "v2": 0.5})
    assert [split.choose(f"req-{number}") for number in range(6)] == [
        "v1", "v1", "v1", "v1", "v1", "v2",
    ]  # fmt: skip


@given(weightings, st.data())
def test_a_rollback_moves_all_of_the_bad_ones_traffic_to_the_stable_one(
    weights: dict[str, float], data: st.DataObject
) -> None:
    stable = data.draw(st.sampled_from(sorted(weights)))
    bad = data.draw(st.sampled_from(sorted(weights)))
    if bad == stable or weights[bad] == 0:
        with pytest.raises(PreconditionFailed):
            apply_rollback(weights, stable, bad, 0)
        return
    after = apply_rollback(weights, stable, bad, 0)
    assert validate(after, tuple(weights)) == after
    assert after[bad] == 0
    assert after[stable] == pytest.approx(weights[stable] + weights[bad])
    for version in set(weights) - {stable, bad}:
        assert after[version] == weights[version]
    with pytest.raises(PreconditionFailed, match="weight 0"):
        apply_rollback(after, stable, bad, 0)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"v1": 0.5, "v2": 0.4}, "sum to 0.9"),
        ({"v1": 1.5, "v2": -0.5}, "'v1' is 1.5"),
        ({"v1": math.nan, "v2": 1.0}, "'v1' is nan"),
        ({"v1": 1.0, "v9": 0.0}, "unknown version 'v9'"),
        ({}, "sum to 0"),
    ],
)
def test_what_is_no_split_is_named(weights: dict[str, float], says: str) -> None:
    with pytest.raises(WeightsInvalid, match=says):
        validate(weights, ("v1", "v2"))


@pytest.mark.parametrize(("stable", "bad"), [("v1", "v9"), ("v9", "v2")])
def test_unknown_versions_are_refused(stable: str, bad: str) -> None:
    with pytest.raises(PreconditionFailed, match="not routed here"):
        apply_rollback({"v1": 0.9, "v2": 0.1}, stable, bad, 0)
