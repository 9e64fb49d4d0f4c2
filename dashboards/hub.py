"""One poller, many pages: holds the newest event of each name and hands it to every client.

A slow client misses what was replaced meanwhile, never a name's newest state; so it needs no
queue, and memory does not grow with it. This file refuses more clients than its limit.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import NamedTuple

CLIENTS_MAX = 64


class Event(NamedTuple):
    """One server-sent event: ``data`` is JSON text, ``id`` rises within one process."""

    id: int
    name: str
    data: str


class Hub:
    """The newest events, and who waits for them."""

    def __init__(self, clients_max: int = CLIENTS_MAX) -> None:
        self._latest: dict[str, Event] = {}
        self._ids = itertools.count(1)
        self._changed = asyncio.Condition()
        self._clients = 0
        self._clients_max = clients_max
        self._closed = False

    @property
    def clients(self) -> int:
        """How many listen now."""
        return self._clients

    def enter(self) -> bool:
        """Take a client's place; False when all are taken or the process ends."""
        if self._closed or self._clients >= self._clients_max:
            return False
        self._clients += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._clients -= 1

    def latest(self, name: str) -> Event | None:
        """The newest event of a name."""
        return self._latest.get(name)

    async def publish(self, name: str, data: str, *, only_changed: bool = False) -> None:
        """Replace the newest event of ``name``; with ``only_changed`` not by an equal one."""
        held = self._latest.get(name)
        if only_changed and held is not None and held.data == data:
            return
        async with self._changed:
            self._latest[name] = Event(next(self._ids), name, data)
            self._changed.notify_all()

    async def close(self) -> None:
        """End all streams."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def events(self) -> AsyncIterator[Event]:
        """First the newest of every name, then each change, until the hub closes."""
        seen = 0
        while True:
            async with self._changed:
                while not self._closed and not (fresh := self._newer(seen)):
                    await self._changed.wait()
                if self._closed:
                    return
            for event in fresh:
                seen = max(seen, event.id)
                yield event

    def _newer(self, seen: int) -> list[Event]:
        fresh = [event for event in self._latest.values() if event.id > seen]
        return sorted(fresh)
