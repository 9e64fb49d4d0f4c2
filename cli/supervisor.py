"""Start the components in stages, keep them running, stop them in reverse within ten seconds.

A child that dies is restarted with back-off; one that refuses its configuration (status 2) or
never becomes ready ends the start with its own words. This file refuses to know what the
components do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cli import run_state
from cli.child import Child, require_free_port
from cli.components import Component, Stage
from cli.run_state import ComponentState, RunState, run_directory
from redline.errors import ComponentFailed

READY_WITHIN_S = 60.0
CONFIG_ERROR_STATUS = 2
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
STARTS_MAX = 3  # while coming up; afterwards a child is restarted for ever
HEALTHY_AFTER_S = 60.0
STOP_STAGE_S = 3.0

Notice = Callable[[ComponentState], None]


class Supervisor:
    """All children of one ``redline up``."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        data_dir: Path,
        config: Path,
        environment: Mapping[str, str],
        notice: Notice,
    ) -> None:
        self._stages = stages
        self._data_dir = data_dir
        self._environment = environment
        self._notice = notice
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._states = {
            component.name: ComponentState(name=component.name, address=component.address)
            for stage in stages
            for component in stage
        }
        self._stopping = False
        self._state = RunState(
            pid=os.getpid(), started_at=datetime.now(UTC).isoformat(), config=str(config)
        )

    @property
    def components(self) -> list[ComponentState]:
        """All children as they stand."""
        return list(self._states.values())

    async def start(self) -> None:
        """Bring everything up.

        Raises:
            AddressInUse: before anything is started.
            ComponentFailed: with the words of the child that failed.
        """
        for stage in self._stages:
            for component in stage:
                require_free_port(component)
        for stage in self._stages:
            starts = [asyncio.create_task(self._bring_up(component)) for component in stage]
            try:
                await asyncio.gather(*starts)
            finally:
                for start in starts:
                    start.cancel()

    async def stop(self) -> None:
        """SIGTERM in reverse order, SIGKILL for what has not gone after STOP_STAGE_S a stage."""
        self._stopping = True
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for stage in reversed(self._stages):
            stopping = [
                (self._states[component.name], self._children[component.name])
                for component in stage
                if component.name in self._children
            ]
            await asyncio.gather(*(_stop_child(child) for _, child in stopping))
            for state, _ in stopping:
                if state.state != "done":
                    self._set(state, "stopped", pid=0)

    async def _bring_up(self, component: Component) -> None:
        child = Child(component, run_directory(self._data_dir))
        state = self._states[component.name]
        state.log = str(child.log_path)
        self._children[component.name] = child
        began = time.monotonic()
        for attempt in range(STARTS_MAX):
            await child.start(self._environment)
            self._set(state, "starting", pid=child.pid)
            status = await _ready_or_exit(child)
            if status is None or (status == 0 and component.one_shot):
                state.ready_after_s = round(time.monotonic() - began, 2)
                break
            if status == CONFIG_ERROR_STATUS or attempt == STARTS_MAX - 1:
                self._set(state, "failed")
                raise child.failure(status)
            await asyncio.sleep(BACKOFF_S[attempt])
        self._set(state, "done" if component.one_shot else "ready")
        if not component.one_shot:
            self._watchers[component.name] = asyncio.create_task(self._watch(child, state))

    async def _watch(self, child: Child, state: ComponentState) -> None:
        failures = 0
        while True:
            since = time.monotonic()
            await child.wait()
            if self._stopping:
                return
            failures = 0 if time.monotonic() - since > HEALTHY_AFTER_S else failures + 1
            state.restarts += 1
            self._set(state, "restarting", pid=0)
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            await child.start(self._environment)
            self._set(state, "starting", pid=child.pid)
            with contextlib.suppress(ComponentFailed):
                if await _ready_or_exit(child) is None:
                    self._set(state, "ready")

    def _set(self, state: ComponentState, name: str, *, pid: int | None = None) -> None:
        state.state = name
        if pid is not None:
            state.pid = pid
        self._state.components = self.components
        run_state.write(self._data_dir, self._state)
        self._notice(state)


async def _ready_or_exit(child: Child) -> int | None:
    """None once it is ready, its exit status if it ended first."""
    ready = asyncio.create_task(child.ready.wait())
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait(
            {ready, ended}, timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        if ready.done():
            return None
        if ended.done():
            return ended.result()
    finally:
        ready.cancel()
        ended.cancel()
    child.kill()
    raise ComponentFailed(
        f"{child.component.name} was not ready within {READY_WITHIN_S:.0f} s: "
        f"{child.last_words()}\nIts log: {child.log_path}"
    )


async def _stop_child(child: Child) -> None:
    child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOP_STAGE_S)
    except TimeoutError:
        child.kill()
        await child.wait()
