# mypy: disable-error-code="import-not-found, no-any-return"
"""Core: joins the halves of a request by vLLM's request id.

The HTTP half knows which ids the engine will use: ``chatcmpl-R`` for a chat, ``cmpl-R-0`` and on
for each prompt of a completion, and how many sequences each has. So an id that looks like another
one with a number behind it cannot be taken for it, and a client that uses an id twice gets two
records. Engine halves usually come first. This file refuses clocks, threads and I/O.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from redline_vllm.halves import EngineHalf, HttpHalf

GRACE_S = 2.0  # how long an HTTP half waits for the engine's
UNCLAIMED_S = 60.0  # how long an engine half waits for its HTTP half
UNCLAIMED_MAX = 100_000
_TURNS_MAX = 16


class Joined(NamedTuple):
    """All that is known of one request. ``complete``: every sequence's engine half is there."""

    http: HttpHalf
    engine: list[EngineHalf]
    complete: bool


class _Waiting:
    """``missing`` is how many halves may still come under each id."""

    __slots__ = ("deadline_s", "engine", "expected", "http", "ids", "missing", "over")

    def __init__(self, http: HttpHalf, ids: tuple[str, ...], deadline_s: float) -> None:
        facts = http.facts
        # Tool calls make turns of a response that nobody announced.
        each = _TURNS_MAX if http.path == "/v1/responses" else facts.choices
        self.http = http
        self.ids = ids
        self.missing = dict.fromkeys(ids, each)
        self.expected: int = facts.choices * facts.prompts
        self.engine: list[EngineHalf] = []
        self.deadline_s = deadline_s
        self.over = False

    @property
    def complete(self) -> bool:
        return len(self.engine) >= self.expected

    def take(self, half: EngineHalf) -> None:
        self.engine.append(half)
        self.missing[half.engine_request_id] -= 1


class Joiner:
    """Halves that wait for each other. ``now`` is seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self.unclaimed_dropped = 0
        self._waiting: deque[_Waiting] = deque()  # by deadline
        self._wanted: dict[str, deque[_Waiting]] = {}
        self._engine: dict[str, deque[tuple[float, EngineHalf]]] = {}
        self._engine_order: deque[tuple[float, str]] = deque()
        self._engine_count = 0

    def add_http(self, http: HttpHalf, now: float) -> Joined | None:
        """Take an HTTP half; what it gives at once, if its engine halves are there."""
        ids = engine_ids(http)
        if not ids:
            return Joined(http, [], complete=False)
        waiting = _Waiting(http, ids, now + GRACE_S)
        for name in ids:
            halves = self._engine.get(name)
            while halves and waiting.missing[name]:
                waiting.take(halves.popleft()[1])
                self._engine_count -= 1
                if not halves:
                    del self._engine[name]
        if waiting.complete:
            return Joined(http, waiting.engine, complete=True)
        self._waiting.append(waiting)
        for name in ids:
            if waiting.missing[name]:
                self._wanted.setdefault(name, deque()).append(waiting)
        return None

    def add_engine(self, half: EngineHalf, now: float) -> Joined | None:
        """Take an engine half; what it completes, if it does."""
        name = half.engine_request_id
        if wanted := self._wanted.get(name):
            waiting = wanted[0]
            waiting.take(half)
            if waiting.complete:
                return self._finish(waiting)
            if not waiting.missing[name]:
                self._unwant(name, waiting)
            return None
        self._engine.setdefault(name, deque()).append((now, half))
        self._engine_order.append((now, name))
        self._engine_count += 1
        return None

    def expire(self, now: float, *, everything: bool = False) -> list[Joined]:
        """What has waited long enough, or all of it; unclaimed engine halves are forgotten."""
        joined: list[Joined] = []
        while self._waiting and (everything or self._waiting[0].deadline_s <= now):
            waiting = self._waiting.popleft()
            if not waiting.over:
                joined.append(self._finish(waiting))
        while self._engine_order and (
            everything
            or self._engine_order[0][0] + UNCLAIMED_S <= now
            or self._engine_count > UNCLAIMED_MAX
        ):
            since, name = self._engine_order.popleft()
            halves = self._engine.get(name)
            if halves and halves[0][0] <= since:
                halves.popleft()
                self._engine_count -= 1
                self.unclaimed_dropped += 1
                if not halves:
                    del self._engine[name]
        return joined

    def _finish(self, waiting: _Waiting) -> Joined:
        waiting.over = True
        for name in waiting.ids:
            self._unwant(name, waiting)
        return Joined(waiting.http, waiting.engine, waiting.complete)

    def _unwant(self, name: str, waiting: _Waiting) -> None:
        wanted = self._wanted.get(name)
        if wanted and waiting in wanted:
            wanted.remove(waiting)
            if not wanted:
                del self._wanted[name]


# What vLLM puts before a client's id, where it leaves no metadata in the scope.
_PREFIXES = {
    "/v1/embeddings": "embd", "/v2/embed": "embd", "/pooling": "pooling", "/classify": "classify",
    "/score": "score", "/v1/score": "score", "/rerank": "score", "/v1/rerank": "score",
    "/v2/rerank": "score",
}  # fmt: skip


def engine_ids(http: HttpHalf) -> tuple[str, ...]:
    """The ids under which the engine knows this request; none if it never saw it."""
    status_code = http.final_status
    full = http.status_code == 503 and not http.stopped  # --max-num-queued-reqs
    if 400 <= status_code < 499 or full:
        return ()
    base = getattr(http.metadata, "request_id", None)
    if not isinstance(base, str):
        if (prefix := _PREFIXES.get(http.path)) is None:
            return ()
        base = f"{prefix}-{http.request_id}"
    prompts = http.facts.prompts
    if http.path == "/v1/completions":
        return tuple(f"{base}-{number}" for number in range(prompts))
    if http.path.endswith("/batch"):
        return tuple(f"{base}_{number}" for number in range(prompts))
    if http.path == "/v1/responses":
        return (base, *(f"{base}_{turn}" for turn in range(_TURNS_MAX)))
    if http.path in _PREFIXES:
        return (base, *(f"{base}-{number}" for number in range(max(prompts, 1))))
    return (base,)
