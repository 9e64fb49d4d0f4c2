"""Tells the collectors what changed in the split, as deploy events, in the background.

The split is in force whether or not anyone could be told. This file refuses to block.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Literal

import aiohttp

from redline.codec import encode_json
from redline.log import get_logger
from redline.records import DeployEvent

QUEUE_MAX = 256
Cause = Literal["rollback", "weights"]
DELAYS_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
TIMEOUT_S = 5.0
WHO = "redline-router"


def changes(
    model: str,
    cause: Cause,
    before: Mapping[str, float],
    after: Mapping[str, float],
    why: str,
    now_us: int,
) -> list[DeployEvent]:
    """One event per version whose weight changed; only who lost traffic is rolled back."""
    return [
        DeployEvent(
            ts_us=now_us,
            model=model,
            version=version,
            action="rollback" if cause == "rollback" and weight < before[version] else "weights",
            weight=weight,
            who=WHO,
            detail=why,
        )
        for version, weight in after.items()
        if weight != before[version]
    ]


class Reporter:
    """Posts deploy events to one collector, in order."""

    def __init__(self, collector_url: str, token: str, session: aiohttp.ClientSession) -> None:
        self._url = collector_url.rstrip("/") + "/deploys" if collector_url else ""
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._session = session
        self._queue: deque[DeployEvent] = deque(maxlen=QUEUE_MAX)  # the oldest goes first
        self._wake = asyncio.Event()

    def put(self, events: list[DeployEvent]) -> None:
        """Send them when possible."""
        if self._url:
            self._queue.extend(events)
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            event = self._queue[0]
            problem = await self._send(event)
            given_up = bool(problem) and attempt >= len(DELAYS_S)
            if not problem or given_up:
                attempt = 0
                if self._queue and self._queue[0] is event:
                    self._queue.popleft()
            if not problem:
                continue
            get_logger().warning("report.failed", url=self._url, reason=problem, given_up=given_up)
            if not given_up:
                await asyncio.sleep(DELAYS_S[attempt])
                attempt += 1

    async def _send(self, event: DeployEvent) -> str:
        try:
            async with self._session.post(
                self._url,
                data=encode_json(event),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                return "" if response.status < 300 else f"HTTP {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{type(error).__name__} {error}"
