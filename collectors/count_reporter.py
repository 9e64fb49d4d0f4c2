"""Says the counts once a minute: asks for a checkpoint, then publishes what it holds.

It refuses to say what is not saved, see ``count_book``.
"""

from __future__ import annotations

import asyncio
import time

from collectors.count_book import LATE_US, CountBook
from collectors.counts import MINUTE_US
from collectors.samples import SampleBuffer, count_entry

CHECK_S = 0.5


class CountReporter:
    """Between the book and the buffer of samples. Says all once each ``every_us``."""

    def __init__(self, book: CountBook, buffer: SampleBuffer, every_us: int = MINUTE_US) -> None:
        self._book = book
        self._buffer = buffer
        self._every_us = every_us

    async def run(self, stop: asyncio.Event) -> None:
        """Say the counts until ``stop``. What is left is said after the next start."""
        asked_for: int | None = None
        waiting = False
        while not stop.is_set():
            now_us = time.time_ns() // 1000
            if waiting and not self._book.wants_saving:
                waiting = False
                await self._say(now_us)
            period = (now_us - LATE_US) // self._every_us
            if period != asked_for:
                asked_for = period
                self._book.wants_saving = waiting = True
            try:
                await asyncio.wait_for(stop.wait(), CHECK_S)
            except TimeoutError:
                continue

    async def _say(self, now_us: int) -> None:
        counts = self._book.due(now_us)
        if counts:
            self._buffer.add([count_entry(count) for count in counts])
            await self._buffer.store()  # on disk before it may be forgotten
            self._book.say(counts)
