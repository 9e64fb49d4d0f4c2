"""Asks ClickHouse for what ``baselines`` needs, cheaply: closed days once a minute, the hours of
today that no longer change once a minute, and only the last hour or two every time.

Money is read from the ledger alone. This file refuses to judge it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redline.records import Signal
from redline.settings import StreamSettings
from streams.baselines import (
    BASELINE_DAYS,
    DAY_US,
    HOUR_US,
    ClosedDay,
    SpendRule,
    Today,
    billing_day_start_us,
    spend_signals,
)
from streams.warehouse import Warehouse

CACHE_US = 60_000_000

# A tenant's own spend: its requests, and the corrections that came later. Idle and overhead have
# no tenant that asked for them; corrections take theirs from idle (no tenant).
_SPENT = """
SELECT tenant, kind IN ('request', 'correction') AND tenant != '' AS attributed,
       sum(cost_nusd) AS nusd,
       sumIf(cost_nusd, window_start >= toDateTime({recent:Int64}, 'UTC')) AS recent_nusd,
       toUnixTimestamp(min(window_start)) AS first
FROM ledger FINAL
WHERE window_start >= toDateTime({start:Int64}, 'UTC')
  AND window_start < toDateTime({end:Int64}, 'UTC')
GROUP BY tenant, attributed
"""
_DAYS = """
SELECT intDiv(toUnixTimestamp(window_start) - {start:Int64}, 86400) AS day, tenant,
       sumIf(cost_nusd, kind IN ('request', 'correction') AND tenant != '') AS nusd,
       groupUniqArray(intDiv(toUnixTimestamp(window_start) - {start:Int64}, 3600)) AS hours
FROM ledger FINAL
WHERE window_start >= toDateTime({start:Int64}, 'UTC')
  AND window_start < toDateTime({end:Int64}, 'UTC')
GROUP BY day, tenant
"""


class _Base(NamedTuple):
    """Today up to an hour that no longer changes."""

    day_us: int
    cut_us: int
    asked_us: int
    spend: dict[str, int]
    bill: int


class SpendWatch:
    """Keeps the cached sums. Not for use from two tasks at once."""

    def __init__(self, warehouse: Warehouse, settings: StreamSettings) -> None:
        self._warehouse = warehouse
        self._rule = SpendRule(
            rate_window_s=settings.spend_rate_window_s,
            floor_nusd=round(settings.spend_floor_usd_per_day * 1e9),
            utc_offset_us=round(settings.billing_utc_offset_hours * HOUR_US),
        )
        self._settled_lag_us = settings.lateness_s * 1_000_000 + HOUR_US
        self._days: list[ClosedDay] = []
        self._days_key = (0, 0)
        self._base = _Base(0, 0, 0, {}, 0)

    async def evaluate(self, now_us: int) -> list[Signal]:
        """The spend signals of this moment; one query, two more once a minute."""
        day_us = billing_day_start_us(self._rule.utc_offset_us, now_us)
        await self._refresh_days(day_us, now_us)
        await self._refresh_base(day_us, now_us)
        recent_us = now_us - self._rule.rate_window_s * 1_000_000
        live = await self._spent(self._base.cut_us, day_us + DAY_US, max(recent_us, day_us), now_us)
        spend = dict(self._base.spend)
        recent: dict[str, int] = {}
        bill, first_us = self._base.bill, now_us
        for tenant, attributed, nusd, recent_nusd, first in live:
            bill += nusd
            first_us = min(first_us, int(first) * 1_000_000)
            if attributed:
                spend[tenant] = spend.get(tenant, 0) + nusd
                recent[tenant] = recent.get(tenant, 0) + recent_nusd
        if self._base.spend:
            first_us = day_us
        if not spend and not bill:
            return []
        today = Today(spend, recent, bill)
        return spend_signals(self._rule, today, self._days, max(first_us, day_us), now_us)

    async def _refresh_days(self, day_us: int, now_us: int) -> None:
        if self._days_key[0] == day_us and now_us - self._days_key[1] < CACHE_US:
            return
        start_us = day_us - BASELINE_DAYS * DAY_US
        rows = await self._warehouse.query(
            _DAYS, {"start": start_us // 1_000_000, "end": day_us // 1_000_000}
        )
        hours: dict[int, set[int]] = {}
        spend: dict[int, dict[str, int]] = {}
        for day, tenant, nusd, seen in rows:
            hours.setdefault(day, set()).update(seen)
            if tenant:
                spend.setdefault(day, {})[tenant] = nusd
        self._days = [ClosedDay(len(hours[day]) / 24, spend.get(day, {})) for day in sorted(hours)]
        self._days_key = (day_us, now_us)

    async def _refresh_base(self, day_us: int, now_us: int) -> None:
        base = self._base
        if base.day_us == day_us and now_us - base.asked_us < CACHE_US:
            return
        window_us = self._rule.rate_window_s * 1_000_000
        cut_us = (now_us - max(self._settled_lag_us, window_us)) // HOUR_US * HOUR_US
        cut_us = max(day_us, cut_us)
        rows = await self._spent(day_us, cut_us, cut_us, now_us) if cut_us > day_us else []
        self._base = _Base(
            day_us,
            cut_us,
            now_us,
            {tenant: nusd for tenant, attributed, nusd, _, _ in rows if attributed},
            sum(row[2] for row in rows),
        )

    async def _spent(
        self, start_us: int, end_us: int, recent_us: int, now_us: int
    ) -> Sequence[Sequence[Any]]:
        return await self._warehouse.query(
            _SPENT,
            {
                "start": start_us // 1_000_000,
                "end": min(end_us, now_us + HOUR_US) // 1_000_000,
                "recent": recent_us // 1_000_000,
            },
        )
