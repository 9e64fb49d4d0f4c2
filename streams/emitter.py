"""Once a second: what the books say now, as signals on their topic. No book, no signal.

An error in here is logged and counted and the next second tries again; it never ends the worker.
This file refuses to compute a signal itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from redline.log import get_logger
from redline.records import Signal
from streams.delivery import Delivery
from streams.metrics import Metrics
from streams.publisher import Publisher
from streams.signals import EngineBook, SignalBook
from streams.spend import SpendWatch

SIGNAL_S = 1.0
SPEND_S = 2.0


class Emitter:
    """Reads the books of the partitions that this worker owns at the moment."""

    def __init__(
        self,
        books: Mapping[int, SignalBook],
        engines: Mapping[int, EngineBook],
        deliveries: Mapping[int, Delivery],
        spend: SpendWatch,
        publisher: Publisher,
        metrics: Metrics,
        now_us: Callable[[], int],
    ) -> None:
        self._books = books
        self._engines = engines
        self._deliveries = deliveries
        self._spend = spend
        self._publisher = publisher
        self._metrics = metrics
        self._now_us = now_us
        self._spend_signals: list[Signal] = []

    async def emit(self) -> None:
        """Publish signals until cancelled."""
        while True:
            await asyncio.sleep(SIGNAL_S)
            try:
                signals = self._collect(self._now_us())
                if signals:
                    await self._publisher.send_signals(signals)
            except Exception:
                self._metrics.loop_failures.labels("signals").inc()
                get_logger().exception("streams.signals_failed")

    async def watch_spend(self) -> None:
        """Ask for the spend until cancelled."""
        while True:
            await asyncio.sleep(SPEND_S)
            if 0 not in self._deliveries:  # one worker speaks for all: whoever owns partition 0
                continue
            try:
                self._spend_signals = await self._spend.evaluate(self._now_us())
            except Exception as error:
                self._metrics.loop_failures.labels("spend").inc()
                get_logger().warning("streams.spend_failed", reason=str(error)[:300])

    def _collect(self, now_us: int) -> list[Signal]:
        signals = [s for book in self._books.values() for s in book.evaluate(now_us)]
        signals += [s for book in self._engines.values() for s in book.evaluate(now_us)]
        signals += self._spend_signals
        self._spend_signals = []
        for delivery in self._deliveries.values():
            signals += delivery.state.ledger.price_signals(now_us)
        return signals
