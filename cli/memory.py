"""Resident memory of the supervised processes, sampled; the highest sum is what is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psutil

from cli.supervisor import Supervisor

SAMPLE_S = 1.0
MIB = 1024 * 1024


class MemoryWatch:
    """``rss_mb`` is the stack with its supervisor, ``rss_fleet_mb`` what is only simulated."""

    def __init__(self, supervisor: Supervisor, fleet: Sequence[str] = ()) -> None:
        self._supervisor = supervisor
        self._fleet = frozenset(fleet)
        self._stack_bytes = 0
        self._fleet_bytes = 0
        self._highest: dict[str, int] = {}

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_S)

    def sample(self) -> None:
        """Take one sample of every living child and of this process."""
        sizes = {"supervisor": psutil.Process().memory_info().rss}
        for component in self._supervisor.components:
            if component.pid:
                sizes[component.name] = _tree_bytes(component.pid)
        for name, size in sizes.items():
            self._highest[name] = max(self._highest.get(name, 0), size)
        fleet = sum(size for name, size in sizes.items() if name in self._fleet)
        self._fleet_bytes = max(self._fleet_bytes, fleet)
        self._stack_bytes = max(self._stack_bytes, sum(sizes.values()) - fleet)

    def figures(self) -> dict[str, object]:
        """The highest sums, and the highest of each component, in MiB."""
        return {
            "rss_mb": self._stack_bytes // MIB,
            "rss_fleet_mb": self._fleet_bytes // MIB,
            "rss_by_component_mb": {n: s // MIB for n, s in sorted(self._highest.items())},
        }


def _tree_bytes(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
        return sum(each.memory_info().rss for each in tree)
    except psutil.Error:
        return 0
