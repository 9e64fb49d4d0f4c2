"""One definition per number: every figure that a person sees is asked for here.

The web page, the boards, the terminal and Slack call these functions and run what they return,
so that two surfaces cannot disagree. Rules that hold for all of them:

- Values are bound (``{name:Type}``), never put into the text.
- Ranges are half-open in UTC. Panes and ledger windows are 10 s, so their ranges are whole steps.
- Percentiles come from merged sketch states, never from averages of percentiles.
- No data is NULL, never 0. A ratio over nothing is NULL.
- Money is summed as integer n$ and leaves as n$ (``_nusd``) or, for display, USD (``usd_``).

This package refuses to run a query, to read a clock, and to decide what is good or bad.
"""

from __future__ import annotations

from redline.queries.events import actions, alerts, marks
from redline.queries.ranges import (
    PANE_S,
    Query,
    Selection,
    TimeRange,
    billing_day,
    chart_range,
    closed_range,
    live_range,
    step_for,
)
from redline.queries.series import (
    kv_by_instance,
    kv_totals,
    spend_by_line,
    spend_totals,
    traffic_by_version,
    traffic_totals,
)
from redline.queries.tiles import (
    data_age,
    engines,
    saturation,
    spend,
    spend_by_tenant,
    traffic,
    unpriced,
)

__all__ = [
    "PANE_S",
    "Query",
    "Selection",
    "TimeRange",
    "actions",
    "alerts",
    "billing_day",
    "chart_range",
    "closed_range",
    "data_age",
    "engines",
    "kv_by_instance",
    "kv_totals",
    "live_range",
    "marks",
    "saturation",
    "spend",
    "spend_by_line",
    "spend_by_tenant",
    "spend_totals",
    "step_for",
    "traffic",
    "traffic_by_version",
    "traffic_totals",
    "unpriced",
]
