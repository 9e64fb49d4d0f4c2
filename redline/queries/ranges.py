"""What every query is made of: bound SQL, half-open UTC ranges, steps that fit a chart.

This file refuses to know a table.
"""

from __future__ import annotations

from typing import NamedTuple

PANE_S = 10  # of panes and ledger windows; no step is finer
SECOND_US = 1_000_000
DAY_S = 86_400

# Steps that divide a day, so that every bucket of a day lies within it.
STEPS_S = (10, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800, 21_600, DAY_S)
BUCKETS_MAX = 400


class Query(NamedTuple):
    """SQL with ``{name:Type}`` placeholders, and the values that are bound to them."""

    sql: str
    parameters: dict[str, str | int | float]


class TimeRange(NamedTuple):
    """``[start_us, end_us)`` in µs UTC, cut into buckets of ``step_s``."""

    start_us: int
    end_us: int
    step_s: int = PANE_S

    @property
    def start_s(self) -> int:
        """Start, in whole seconds."""
        return self.start_us // SECOND_US

    @property
    def end_s(self) -> int:
        """End, in whole seconds; excluded."""
        return self.end_us // SECOND_US

    @property
    def length_s(self) -> int:
        """Seconds from start to end."""
        return self.end_s - self.start_s

    @property
    def parameters(self) -> dict[str, str | int | float]:
        """The bounds for ``{start_s:Int64}``, ``{end_s:Int64}`` and their µs forms."""
        return {"start_s": self.start_s, "end_s": self.end_s}

    @property
    def parameters_us(self) -> dict[str, str | int | float]:
        """The bounds for ``{start_us:Int64}`` and ``{end_us:Int64}``."""
        return {"start_us": self.start_us, "end_us": self.end_us}


class Selection(NamedTuple):
    """Which series to look at; an empty value is every one of them."""

    model: str = ""
    version: str = ""
    region: str = ""
    tenant: str = ""

    @property
    def parameters(self) -> dict[str, str | int | float]:
        """The values of ``SELECTED``."""
        return {f"selected_{name}": value for name, value in self._asdict().items()}


EVERYTHING = Selection()

SELECTED = """
      AND ({selected_model:String} = '' OR model = {selected_model:String})
      AND ({selected_version:String} = '' OR version = {selected_version:String})
      AND ({selected_region:String} = '' OR region = {selected_region:String})
      AND ({selected_tenant:String} = '' OR tenant = {selected_tenant:String})"""


def step_for(length_s: int) -> int:
    """The finest step that draws ``length_s`` in at most ``BUCKETS_MAX`` buckets, else one day."""
    for step_s in STEPS_S:
        if length_s <= step_s * BUCKETS_MAX:
            return step_s
    return DAY_S


def chart_range(start_us: int, end_us: int) -> TimeRange:
    """The whole buckets within a range: the first is completed, the last partial one dropped.

    Raises:
        ValueError: the end is not after the start.
    """
    if end_us <= start_us:
        raise ValueError(f"range ends at {end_us}, not after its start {start_us}")
    step_s = step_for((end_us - start_us) // SECOND_US)
    step_us = step_s * SECOND_US
    start = start_us // step_us * step_us
    return TimeRange(start, max(end_us // step_us * step_us, start + step_us), step_s)


def live_range(length_s: int, now_us: int) -> TimeRange:
    """The last ``length_s`` of panes with the open one in it, up to ``now_us``.

    The same panes as the signals that alerts judge, so that a tile and an alert agree. Its true
    length is up to one pane shorter, which rates take into account.
    """
    pane_us = PANE_S * SECOND_US
    start_us = (now_us // pane_us + 1) * pane_us - length_s * SECOND_US
    return TimeRange(start_us, max(now_us, start_us + SECOND_US))


def closed_range(length_s: int, lag_s: float, now_us: int) -> TimeRange:
    """The last ``length_s`` of closed panes: those that ended ``lag_s`` before ``now_us``.

    The lag is what the pipeline needs from a request's end to its row; without it the newest
    pane is always short and every rate looks as if it fell.
    """
    pane_us = PANE_S * SECOND_US
    end_us = int(now_us - lag_s * SECOND_US) // pane_us * pane_us
    return TimeRange(end_us - length_s * SECOND_US, end_us)


def billing_day(utc_offset_hours: float, now_us: int) -> TimeRange:
    """From the start of the provider's current day up to ``now_us``.

    ``utc_offset_hours`` is where the provider's midnight lies: -8 means 08:00 UTC.
    """
    day_us, offset_us = DAY_S * SECOND_US, int(utc_offset_hours * 3_600 * SECOND_US)
    start_us = (now_us + offset_us) // day_us * day_us - offset_us
    return TimeRange(start_us, max(now_us, start_us + SECOND_US), DAY_S)
