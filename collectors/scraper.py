"""Reads each engine's /metrics at a steady pace; an engine that fails gives a sample that says so.

It refuses to judge the numbers, and to hold one engine up because another is slow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import aiohttp
import msgspec

from collectors.batches import Entry
from collectors.engine_names import PAGES
from collectors.engine_page import down, fallen_counters, parse
from collectors.metrics import Metrics
from collectors.samples import engine_entry
from redline.errors import RecordInvalid
from redline.log import get_logger
from redline.records import EngineSample
from redline.settings import EngineTarget

PAGE_BYTES_MAX = 8 * 1024 * 1024
TIMEOUT_S_MAX = 5.0
MODELS_EVERY_S = 600.0

_log = get_logger()


class _Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


class EngineScraper:
    """One task an engine. ``sink`` takes the samples."""

    def __init__(
        self,
        targets: Sequence[EngineTarget],
        poll_s: float,
        sink: Callable[[Sequence[Entry]], None],
        metrics: Metrics,
    ) -> None:
        self._targets = targets
        self._poll_s = poll_s
        self._sink = sink
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Scrape until ``stop``."""
        timeout = aiohttp.ClientTimeout(total=min(self._poll_s * 0.8, TIMEOUT_S_MAX))
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._follow(session, target), name=target.instance)
                    for target in self._targets
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()

    async def _follow(self, session: aiohttp.ClientSession, target: EngineTarget) -> None:
        max_model_len: int | None = None
        before: EngineSample | None = None
        asked_s = -MODELS_EVERY_S
        due_s = time.monotonic()
        while True:
            sample = await scrape(session, target)
            result = "ok" if sample.up else "failed"
            self._metrics.scrapes.labels(target.instance, result).inc()
            if sample.up:
                self._notice_restart(before, sample)
                before = sample
            if not sample.up:
                asked_s = -MODELS_EVERY_S  # another model may run when it is back
            elif time.monotonic() - asked_s >= MODELS_EVERY_S:
                asked_s = time.monotonic()
                max_model_len = await _max_model_len(session, target)
            if sample.up and max_model_len is not None:
                sample = msgspec.structs.replace(sample, max_model_len=max_model_len)
            self._sink([engine_entry(sample)])
            # steady: the pace does not drift by the time that a scrape takes
            due_s = max(due_s + self._poll_s, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())

    def _notice_restart(self, before: EngineSample | None, sample: EngineSample) -> None:
        fallen = fallen_counters(before, sample)
        if fallen:
            self._metrics.engine_restarts.labels(sample.instance).inc()
            _log.warning("engine_counters_began_anew", instance=sample.instance, counters=fallen)


async def scrape(session: aiohttp.ClientSession, target: EngineTarget) -> EngineSample:
    """One sample of one engine, ``up=False`` with the reason if it cannot be had."""
    path = PAGES[target.engine].path if target.engine else "/metrics"
    url = target.url.rstrip("/") + path
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                return down(target, f"{url} answered {response.status}", _now_us())
            page = await response.content.read(PAGE_BYTES_MAX + 1)
            while len(page) <= PAGE_BYTES_MAX and not response.content.at_eof():
                page += await response.content.read(PAGE_BYTES_MAX + 1 - len(page))
    except TimeoutError:
        return down(target, f"{url} did not answer in time", _now_us())
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return down(target, f"{url}: {type(error).__name__}: {error}", _now_us())
    if len(page) > PAGE_BYTES_MAX:
        return down(target, f"{url} is longer than {PAGE_BYTES_MAX} bytes", _now_us())
    try:
        return parse(page.decode("utf-8", "replace"), target, _now_us())
    except RecordInvalid as error:
        return down(target, str(error), _now_us())


async def _max_model_len(session: aiohttp.ClientSession, target: EngineTarget) -> int | None:
    """From /v1/models: it is not on the metrics page. None where a key is asked for."""
    try:
        async with session.get(target.url.rstrip("/") + "/v1/models") as response:
            models = msgspec.json.decode(await response.read(), type=_Models)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
        return None
    lengths = [model.max_model_len for model in models.data if model.max_model_len is not None]
    return max(lengths, default=None)


def _now_us() -> int:
    return time.time_ns() // 1000
