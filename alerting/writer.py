"""The single owner of the state while this process has the signals' partition.

A step is applied in memory at once and written in its turn; whoever asks next sees it. If a write
fails, memory is ahead of Kafka: the session ends and the next one restores.
This file refuses to decide.
"""

from __future__ import annotations

import asyncio

from alerting.engine import Engine
from alerting.journal import Journal
from alerting.metrics import Metrics
from alerting.state import State, Step


class Writer:
    """State, engine and journal of one session."""

    def __init__(self, state: State, engine: Engine, journal: Journal, metrics: Metrics) -> None:
        self.state = state
        self.engine = engine
        self._journal = journal
        self._metrics = metrics
        self._wakers: list[asyncio.Event] = []

    def waker(self) -> asyncio.Event:
        """An event that is set whenever something became due."""
        event = asyncio.Event()
        self._wakers.append(event)
        return event

    async def commit(self, step: Step) -> None:
        """Make ``step`` true: in memory before this yields, on Kafka when it returns.

        Raises:
            KafkaError: the session is over.
        """
        self.state.apply(step)
        if step.series_refused:
            self._metrics.series_refused.inc(step.series_refused)
        if step.is_empty:
            return
        await self._journal.write(step)
        for alert in step.alert_events:
            self._metrics.transitions.labels(alert.rule, alert.to_state).inc()
        for action in step.action_events:
            self._metrics.actions.labels(action.kind, action.status).inc()
        for waker in self._wakers:
            waker.set()
