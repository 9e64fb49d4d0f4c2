"""Runs the probes that settings ask for, each at its own pace.

A health probe is passed by an engine that *generates*: its counter moved since the last look, or,
if it did not, a one-token completion came back. HTTP 200 alone passes nothing. A keep-warm group
(one model in one region) gets a dummy request only while fewer of its replicas are warm than the
minimum. It refuses to act on what it finds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import aiohttp

from collectors.batches import Entry
from collectors.metrics import Metrics
from collectors.probe_requests import generation_counter, one_token
from collectors.probes import (
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
from collectors.samples import probe_entry
from redline.log import get_logger
from redline.records import ProbeResult
from redline.settings import ProbeSettings

Work = Callable[[aiohttp.ClientSession], Awaitable[None]]

_log = get_logger()


class Prober:
    """One task a probe, one a keep-warm group. ``sink`` takes the results."""

    def __init__(
        self,
        probes: Sequence[ProbeSettings],
        api_key: str,
        sink: Callable[[Sequence[Entry]], None],
        metrics: Metrics,
    ) -> None:
        self._probes = probes
        self._api_key = api_key
        self._sink = sink
        self._metrics = metrics
        self._health: dict[tuple[str, str], Health] = {}
        self._activity: dict[str, Activity] = {}  # by url: probes of one engine know alike

    async def run(self, stop: asyncio.Event) -> None:
        """Probe until ``stop``."""
        if not self._probes:
            return
        self._show_failover_times()
        groups: dict[tuple[str, str], list[ProbeSettings]] = {}
        for probe in self._probes:
            if probe.kind == "keep_warm":
                groups.setdefault((probe.model, probe.region), []).append(probe)
        works: list[tuple[float, Work]] = [
            (probe.interval_s, self._single(probe))
            for probe in self._probes
            if probe.kind != "keep_warm"
        ]
        works += [
            (min(one.interval_s for one in group), self._group(group)) for group in groups.values()
        ]
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(_repeat(work, session, interval_s, number / len(works)))
                for number, (interval_s, work) in enumerate(works)
            ]
            await stop.wait()
            for task in running:
                task.cancel()

    def _single(self, probe: ProbeSettings) -> Work:
        check = self._check_health if probe.kind == "health" else self._first_token

        async def work(session: aiohttp.ClientSession) -> None:
            await check(session, probe)

        return work

    def _group(self, group: list[ProbeSettings]) -> Work:
        async def work(session: aiohttp.ClientSession) -> None:
            await self._keep_warm(session, group)

        return work

    async def _check_health(self, session: aiohttp.ClientSession, probe: ProbeSettings) -> None:
        before = self._of(probe)
        moved = False
        if probe.instance:
            after, _ = await self._look(session, probe)
            moved = before.counter is not None and after.last_us not in (None, before.last_us)
        if moved:
            self._report(probe, True, proof="counter")
            return
        done = await one_token(session, probe, self._api_key, stream=False)
        if not done.error:
            self._activity[probe.url] = answered(self._of(probe), _now_us())
        self._report(probe, not done.error, done.latency_us, error=done.error, proof="completion")

    async def _first_token(self, session: aiohttp.ClientSession, probe: ProbeSettings) -> None:
        if probe.instance:
            await self._look(session, probe)
        idle = idle_s(self._of(probe), _now_us())
        done = await one_token(session, probe, self._api_key, stream=True)
        latency_s = None if done.latency_us is None else done.latency_us / 1e6
        error = done.error
        if latency_s is not None:
            self._activity[probe.url] = answered(self._of(probe), _now_us())
            if latency_s > probe.first_token_s_max:
                limit = probe.first_token_s_max
                error = f"first token after {latency_s:.2f} s, expected within {limit:g} s"
        cold = is_cold(idle, latency_s, probe.cold_after_s, probe.first_token_s_max)
        self._report(probe, not error, done.latency_us, cold=cold, error=error, proof="completion")

    async def _keep_warm(self, session: aiohttp.ClientSession, group: list[ProbeSettings]) -> None:
        looks = await asyncio.gather(*(self._look(session, probe) for probe in group))
        now_us = _now_us()
        replicas = [
            Replica(probe.target, reachable, idle_s(activity, now_us))
            for probe, (activity, reachable) in zip(group, looks, strict=True)
        ]
        first = group[0]
        chosen = choose_to_warm(replicas, first.keep_warm_after_s, first.warm_replicas_min)
        if not any(replica.reachable for replica in replicas):
            self._report(first, False, error="no replica of the model answers in this region")
        for probe in group:
            if probe.target in chosen:
                idle = idle_s(self._of(probe), now_us)
                done = await one_token(session, probe, self._api_key, stream=False)
                if not done.error:
                    self._activity[probe.url] = answered(self._of(probe), _now_us())
                latency_s = None if done.latency_us is None else done.latency_us / 1e6
                cold = is_cold(idle, latency_s, probe.cold_after_s, probe.first_token_s_max)
                self._report(
                    probe, not done.error, done.latency_us,
                    cold=cold, error=done.error, proof="completion",
                )  # fmt: skip

    async def _look(
        self, session: aiohttp.ClientSession, probe: ProbeSettings
    ) -> tuple[Activity, bool]:
        """Read the counter; what is known of the target then, and whether its page was there."""
        counter, reachable = await generation_counter(session, probe)
        activity = notice(self._of(probe), counter, _now_us())
        self._activity[probe.url] = activity
        return activity, reachable

    def _of(self, probe: ProbeSettings) -> Activity:
        return self._activity.get(probe.url, Activity())

    def _report(
        self,
        probe: ProbeSettings,
        ok: bool,
        latency_us: int | None = None,
        *,
        cold: bool = False,
        error: str = "",
        proof: Literal["counter", "completion", ""] = "",
    ) -> None:
        now_us = _now_us()
        key = (probe.target, probe.kind)
        before = self._health.get(key, Health())
        after = advance(before, ok, probe.failure_threshold, probe.success_threshold, now_us)
        self._health[key] = after
        if after.healthy is not before.healthy:
            _log.warning("probe_state", target=probe.target, healthy=after.healthy, reason=error)
        self._metrics.probes.labels(probe.target, probe.kind, "ok" if ok else "failed").inc()
        result = ProbeResult(
            ts_us=now_us,
            target=probe.target,
            kind=probe.kind,
            ok=ok,
            region=probe.region,
            latency_us=latency_us,
            cold=cold,
            error=error[:500],
            model=probe.model,
            instance=probe.instance,
            proof=proof if ok else "",
            healthy=after.healthy,
        )
        self._sink([probe_entry(result)])
        if probe.kind == "health" and after.healthy is not None:
            self._metrics.target_healthy.labels(probe.target, probe.region).set(after.healthy)
            self._show_regions()

    def _show_regions(self) -> None:
        regions = {one.target: one.region for one in self._probes if one.kind == "health"}
        states = {target: health for (target, kind), health in self._health.items()
                  if kind == "health"}  # fmt: skip
        for region, found in by_region(regions, states).items():
            healthy = region_healthy(found)
            if region and healthy is not None:
                self._metrics.region_healthy.labels(region).set(healthy)

    def _show_failover_times(self) -> None:
        worst: dict[str, float] = {}
        for probe in self._probes:
            if probe.kind == "health" and probe.region:
                found = failover_time_s(
                    probe.interval_s, probe.failure_threshold, probe.timeout_s, probe.dns_ttl_s
                )
                worst[probe.region] = max(worst.get(probe.region, 0.0), found)
        for region, seconds in worst.items():
            self._metrics.region_failover_s.labels(region).set(seconds)


async def _repeat(
    work: Work,
    session: aiohttp.ClientSession,
    interval_s: float,
    phase: float,
) -> None:
    """Call ``work`` each ``interval_s``; ``phase`` spreads probes, so that they do not meet."""
    await asyncio.sleep(min(interval_s, 1.0) * phase)
    due_s = time.monotonic()
    while True:
        await work(session)
        due_s = max(due_s + interval_s, time.monotonic())
        await asyncio.sleep(due_s - time.monotonic())


def _now_us() -> int:
    return time.time_ns() // 1000
