"""From rows of a query to what the page draws: columns, one list per line of a chart.

Pure. A bucket in which a line has no row is None in its list: a gap, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def buckets(start_s: int, end_s: int, step_s: int) -> list[int]:
    """The starts of all buckets of a range."""
    return list(range(start_s, end_s, step_s))


def lines(
    rows: Iterable[Row], times_s: Sequence[int], keys: Sequence[str], figures: Sequence[str]
) -> list[dict[str, Any]]:
    """One dict per distinct ``keys``: those keys, and per figure a list as long as ``times_s``.

    Rows of other times are left out. Lines come in the order of their keys.
    """
    position = {t: i for i, t in enumerate(times_s)}
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        at = position.get(row["t_s"])
        if at is None:
            continue
        key = tuple(row[name] for name in keys)
        line = found.get(key)
        if line is None:
            line = found[key] = dict(zip(keys, key, strict=True))
            line |= {figure: [None] * len(times_s) for figure in figures}
        for figure in figures:
            line[figure][at] = short(row[figure])
    return [found[key] for key in sorted(found)]


def short(value: Any) -> Any:
    """Five significant digits: enough for any pixel, a third of the bytes. NaN is None."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
