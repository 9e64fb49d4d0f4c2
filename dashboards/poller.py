"""The one poller of a process: asks ClickHouse on its schedule and publishes to the hub.

Every page shares it, so a hundred open pages cost the store what one costs. It never stops for an
error: while the store is away it says so and asks again. This file refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from dashboards.history import (
    TENANTS_LIVE,
    chart_queries,
    charts,
    join_sparks,
    spark_queries,
    sparks,
)
from dashboards.hub import Hub
from dashboards.limits import Limits
from dashboards.reader import Reader, Rows, StoreAway
from dashboards.tiles import COST_WINDOW_S, TRAFFIC_WINDOW_S, build_tiles
from dashboards.verdict import Verdict, away, judge
from dashboards.wording import tell_action, tell_alert, tell_mark
from redline import queries
from redline.log import get_logger
from redline.queries import PANE_S, Query, TimeRange

SECOND_US = 1_000_000
# What the pipeline needs from a request's end to its row; closed panes younger than that wait.
LAG_S = 3.0
FRESH_S = 30  # an engine that was not sampled for this long is not counted
AGE_LOOKBACK_S = 600
AGE_LOOKBACK_FAR_S = 14 * 86_400
EVENTS_RANGE_S = 86_400
OPEN_RANGE_S = 30 * 86_400  # an alert that fires for long must not leave the verdict
LIVE_BUCKETS = 9  # re-sent each time, because late requests still change them
SPARK_BUCKETS = 120
# Merging sketches is what costs; the engines' samples and the age of the data are cheap and asked
# every time.
EVERY_S = {"traffic": 2.0, "events": 2.0, "money": 5.0, "series": 5.0, "far_age": 30.0}
UNWATCHED_S = 5.0  # the pace while nobody looks
AWAY_S = 2.0  # and while the store is away

encode = msgspec.json.encode


class Poller:
    """Reads on a schedule, keeps the newest rows, publishes tiles, series, marks and status."""

    def __init__(
        self,
        reader: Reader,
        hub: Hub,
        limits: Limits,
        *,
        refresh_s: float,
        billing_utc_offset_hours: float,
        clock_us: Callable[[], int],
        count: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._limits = limits
        self._refresh_s = refresh_s
        self._billing_utc_offset_hours = billing_utc_offset_hours
        self._clock_us = clock_us
        self._count = count
        self._rows: dict[str, Rows] = {}
        self._asked_us: dict[str, int] = {}
        self._read_us: int | None = None
        self._wanted_us = 0
        self._wake = asyncio.Event()
        self.problem: str | None = "ClickHouse was not read yet."
        self.tiles: dict[str, Any] | None = None
        self.spark: dict[str, Any] | None = None
        self.verdict: Verdict = away("Connecting", "", None)

    def want(self) -> None:
        """Somebody looks: poll at full pace for a while, and now if it was slow."""
        now_us = self._clock_us()
        if now_us - self._wanted_us > UNWATCHED_S * SECOND_US:
            self._wake.set()
        self._wanted_us = now_us

    async def run(self) -> None:
        """Poll until cancelled."""
        log = get_logger()
        while True:
            before = self.problem
            await self.tick()
            if self.problem != before:
                log.info("store_state", problem=self.problem or "none")
            self._wake.clear()
            watched = self._hub.clients or self._clock_us() - self._wanted_us < 15 * SECOND_US
            slowest_s = AWAY_S if self.problem else 0.0 if watched else UNWATCHED_S
            pause_s = max(self._refresh_s, slowest_s)
            try:
                await asyncio.wait_for(self._wake.wait(), pause_s)
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Read what is due and publish it."""
        now_us = self._clock_us()
        asked, due = self._due(now_us)
        live = queries.closed_range(LIVE_BUCKETS * PANE_S, LAG_S, now_us)
        spark = (
            live
            if self._spark_joins(live)
            else queries.closed_range(SPARK_BUCKETS * PANE_S, LAG_S, now_us)
        )
        if "series" in due:
            asked |= chart_queries(live, TENANTS_LIVE) | spark_queries(spark)
        try:
            self._take(await self._reader.read(asked))
        except StoreAway as error:
            self._count("failed")
            self.problem = str(error)
            age_ms = None if self._read_us is None else (self._clock_us() - self._read_us) / 1_000
            self.verdict = away(error.headline, error.reason, age_ms)
            await self._publish_status()
            return
        self._count("read")
        self._asked_us |= dict.fromkeys(due, now_us)
        self._read_us, self.problem = now_us, None
        self.tiles = self._tiles()
        self.verdict = judge(self.tiles, self._rows["alerts"], self._rows["actions"], now_us)
        await self._hub.publish("tiles", encode(self.now()).decode())
        if "events" in due:
            await self._hub.publish("marks", encode(self.events()).decode(), only_changed=True)
        if "series" in due:
            self.spark = join_sparks(self.spark, sparks(spark, self._rows), SPARK_BUCKETS)
            body = charts(live, self._rows) | {"spark": sparks(live, self._rows)}
            await self._hub.publish("series", encode(body).decode(), only_changed=True)
        await self._publish_status()

    def now(self) -> dict[str, Any]:
        """The figures of this moment, as the ``tiles`` event has them."""
        return {
            "tiles": self.tiles,
            "tenants": self._rows.get("tenants", []),
            "engines": self._rows.get("engine_list", []),
        }

    def events(self) -> dict[str, Any]:
        """Marks, alerts and actions of the last day, as the ``marks`` event has them."""
        return {name: self._rows.get(name, []) for name in ("marks", "alerts", "actions")}

    def status(self) -> dict[str, Any]:
        """Whether the store answers, when it last did, and the verdict."""
        return {
            "store": "ok" if self.problem is None else "away",
            "message": self.problem or "",
            "now_us": self._clock_us(),
            "read_us": self._read_us,
            "refresh_s": self._refresh_s,
            "verdict": self.verdict._asdict(),
        }

    def _take(self, rows: dict[str, Rows]) -> None:
        """Keep what was read, events with their words."""
        self._rows |= rows
        if "alerts" in rows:
            signals = self._limits.signals
            self._rows["alerts"] = [tell_alert(row, signals) for row in rows["alerts"]]
            self._rows["actions"] = [tell_action(row) for row in rows["actions"]]
            self._rows["marks"] = [tell_mark(row, signals) for row in rows["marks"]]

    async def _publish_status(self) -> None:
        await self._hub.publish("status", encode(self.status()).decode())

    def _spark_joins(self, live: TimeRange) -> bool:
        """Whether the live buckets follow on what is kept; else the whole line is read again."""
        return self.spark is not None and self.spark["t"][-1] + PANE_S >= live.start_s

    def _due(self, now_us: int) -> tuple[dict[str, Query], set[str]]:
        due = {
            name
            for name, every_s in EVERY_S.items()
            # one tenth of slack, or a tick that comes a little early would wait for the next
            if now_us - self._asked_us.get(name, 0) >= (every_s - 0.1) * SECOND_US
        }
        just_now = TimeRange(now_us - FRESH_S * SECOND_US, now_us + SECOND_US)
        asked = {
            "saturation": queries.saturation(just_now),
            "age": queries.data_age(AGE_LOOKBACK_S, now_us),
        }
        if "traffic" in due:
            asked["traffic"] = queries.traffic(queries.live_range(TRAFFIC_WINDOW_S, now_us))
        if "events" in due:
            day = TimeRange(now_us - EVENTS_RANGE_S * SECOND_US, now_us + SECOND_US)
            asked["marks"] = queries.marks(day)
            month = TimeRange(now_us - OPEN_RANGE_S * SECOND_US, now_us + SECOND_US)
            asked["alerts"] = queries.alerts(month)
            asked["actions"] = queries.actions(month)
        if "money" in due:
            recent = queries.closed_range(COST_WINDOW_S, LAG_S, now_us)
            today = queries.billing_day(self._billing_utc_offset_hours, now_us)
            asked["cost"] = queries.traffic(recent)
            asked["bill"] = queries.spend(recent)
            asked["today"] = queries.spend(today)
            asked["tenants"] = queries.spend_by_tenant(today, 12)
            asked["unpriced"] = queries.unpriced(just_now)
            asked["engine_list"] = queries.engines(just_now)
        if "far_age" in due:
            asked["far_age"] = queries.data_age(AGE_LOOKBACK_FAR_S, now_us)
        return asked, due

    def _tiles(self) -> dict[str, Any]:
        rows = self._rows
        age = rows["age"][0]
        if age["data_age_ms"] is None:
            age = self._aged(rows["far_age"][0])
        return build_tiles(
            rows["traffic"][0],
            rows["cost"][0],
            rows["bill"][0],
            rows["today"][0],
            rows["saturation"][0],
            age,
            rows["unpriced"][0]["instances"],
            self._limits,
        )

    def _aged(self, age: dict[str, Any]) -> dict[str, Any]:
        """Ages that were read a while ago, brought up to now."""
        past_ms = (self._clock_us() - self._asked_us["far_age"]) / 1_000
        return {name: None if ms is None else ms + past_ms for name, ms in age.items()}
