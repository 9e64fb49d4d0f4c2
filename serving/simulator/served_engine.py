"""One engine in real time: its steps follow the clock, its finished requests go to the log.

The engine's virtual time is the wall clock's: a step is ended at the instant at which it was due,
however late the loop comes to it. This file refuses HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from redline.codec import encode_json
from redline.records import FinishReason
from serving.simulator.engine import Conditions, Engine, EngineProfile
from serving.simulator.engine_metrics import EngineMetrics
from serving.simulator.request_log import RequestLog
from serving.simulator.requests import (
    Event,
    Finished,
    GenerationRequest,
    Identity,
    Refused,
    record_of,
    refused_record,
)

Clock = Callable[[], int]
Listener = Callable[[Event], None]
WAKE_MS_MIN = 2.0  # steps of a fast engine are taken together rather than one wake-up each


class SteadyClock:
    """µs UTC that never go back: the wall clock at the start, the monotonic clock since."""

    def __init__(self) -> None:
        self._base_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def __call__(self) -> int:
        """Now."""
        return self._base_us + time.monotonic_ns() // 1000


class ServedEngine:
    """One engine with its clock, its log and its metrics."""

    def __init__(
        self, identity: Identity, profile: EngineProfile, log: RequestLog, clock: Clock
    ) -> None:
        self.identity = identity
        self.engine = Engine(profile)
        self.metrics = EngineMetrics(self.engine, identity)
        self.down = False  # the machine or its region is lost
        self.clock = clock
        self._log = log
        self._listeners: dict[int, Listener] = {}
        self._due_us: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ready(self) -> bool:
        """Whether /health says 200: it has loaded its weights and its machine is there."""
        return not self.down and self.clock() >= self.engine.conditions.paused_until_us

    def submit(self, request: GenerationRequest, listener: Listener) -> int:
        """Queue a request; ``listener`` hears each of its events until it is over.

        Raises:
            Refused: with the status code for the client; the refusal is logged already.
        """
        now_us = self.clock()
        self._advance(now_us)
        try:
            if self.down:
                raise Refused("the region is not reachable", 503)
            handle = self.engine.submit(request, now_us)
        except Refused as refused:
            self.log_refusal(request, refused)
            raise
        self._listeners[handle] = listener
        if self._due_us is None:
            self._step(now_us)
        self._arm(now_us)
        return handle

    def abort(self, handle: int) -> None:
        """The client left: free what its request holds and log it, unless it was over already."""
        now_us = self.clock()
        self._advance(now_us)
        finished = self.engine.abort(handle, now_us)
        if finished is not None:
            self._over(finished)

    def abort_all(self, reason: FinishReason) -> None:
        """End every request at once, as a lost machine does."""
        now_us = self.clock()
        self._advance(now_us)
        for finished in self.engine.abort_all(reason, now_us):
            self._over(finished)

    def change(self, conditions: Conditions) -> None:
        """Put an incident's conditions into effect."""
        now_us = self.clock()
        self._advance(now_us)
        self.engine.conditions = conditions
        self._step(now_us)  # in the middle of a step this only says when that step ends
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm(now_us)

    def log_refusal(self, request: GenerationRequest, refused: Refused) -> None:
        """Log a request that never reached the engine."""
        seq = self._log.next_seq(self.identity.instance)
        record = refused_record(request, refused, self.identity, seq)
        self._log.append(self.identity.instance, encode_json(record))

    def close(self) -> None:
        """Stop the clock and end what is in flight. Safe to call twice."""
        self.abort_all("abort")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _advance(self, now_us: int) -> None:
        while self._due_us is not None and self._due_us <= now_us:
            self._step(self._due_us)

    def _step(self, at_us: int) -> None:
        events, self._due_us = self.engine.step(at_us)
        for event in events:
            if isinstance(event, Finished):
                self._over(event)
            else:
                listener = self._listeners.get(event.handle)
                if listener is not None:
                    listener(event)

    def _over(self, finished: Finished) -> None:
        self.metrics.observe(finished)
        seq = self._log.next_seq(self.identity.instance)
        record = record_of(finished, self.identity, seq)
        self._log.append(self.identity.instance, encode_json(record))
        listener = self._listeners.pop(finished.handle, None)
        if listener is not None:
            listener(finished)

    def _arm(self, now_us: int) -> None:
        if self._timer is not None or self._due_us is None:
            return
        delay_s = max(WAKE_MS_MIN / 1e3, (self._due_us - now_us) / 1e6)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        now_us = self.clock()
        self._advance(now_us)
        self._arm(now_us)
