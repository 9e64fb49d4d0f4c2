"""Rows to columns: every value lands in its bucket, every gap stays a gap."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dashboards.columns import buckets, lines, short

names = st.sampled_from(["v1", "v2", "v3"])
values = st.one_of(st.none(), st.floats(0, 1e9), st.integers(0, 10**12))


@given(st.dictionaries(st.tuples(st.integers(-3, 33), names), values))
def test_each_row_is_found_again_and_nothing_else(cells: dict[tuple[int, str], Any]) -> None:
    times = buckets(0, 300, 10)
    rows = [{"t_s": at * 10, "name": name, "n": value} for (at, name), value in cells.items()]
    found = lines(rows, times, ("name",), ("n",))
    assert [line["name"] for line in found] == sorted({n for at, n in cells if 0 <= at < 30})
    for line in found:
        assert len(line["n"]) == len(times)
        for at, value in enumerate(line["n"]):
            assert value == short(cells.get((at, line["name"])))


@given(st.one_of(st.floats(-1e300, 1e300), st.sampled_from([math.nan, math.inf, -math.inf])))
def test_short_numbers_are_json_and_close(value: float) -> None:
    found = short(value)
    if not math.isfinite(value):
        assert found is None
    elif abs(value) > 1e-300:
        assert abs(found - value) <= abs(value) * 5.1e-5


def test_whole_numbers_keep_every_digit() -> None:
    assert short(29_628_333_129) == 29_628_333_129
