"""The supervisor on real processes: readiness, restarts, order of stopping, clear failures."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from cli import run_state
from cli.components import Component
from cli.run_state import AlreadyRunning, ComponentState
from cli.supervisor import Supervisor
from redline.errors import AddressInUse, ComponentFailed

READY = 'print(\'{"event": "listening"}\', flush=True)'
SERVE = f"import signal, sys; {READY}; signal.sigwait([signal.SIGTERM]); sys.exit(0)"
STUBBORN = (
    f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);{READY}; time.sleep(600)"
)


def component(name: str, code: str, *, one_shot: bool = False, port: int = 0) -> Component:
    # SIGTERM is blocked from the start, so that sigwait cannot miss it
    prefix = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]);"
    command = (sys.executable, "-c", prefix + code)
    return Component(name, command, "127.0.0.1", port, f"{name}.port", one_shot)


class Watch:
    """A supervisor and what it told us, in order."""

    def __init__(self, tmp_path: Path, *stages: tuple[Component, ...]) -> None:
        run_state.run_directory(tmp_path).mkdir(parents=True, exist_ok=True)
        self.told: list[tuple[str, str]] = []
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(stages, tmp_path, Path("c.yaml"), {}, self._notice)

    def _notice(self, state: ComponentState) -> None:
        self.told.append((state.name, state.state))
        self._changed.set()

    def state(self, name: str) -> ComponentState:
        return next(item for item in self.supervisor.components if item.name == name)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def stopped_after(watch: Watch, body: Callable[[], Awaitable[None]]) -> None:
    try:
        await body()
    finally:
        await watch.supervisor.stop()


async def test_stages_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    watch = Watch(
        tmp_path,
        (component("store", SERVE),),
        (component("migrations", "pass", one_shot=True),),
        (component("rooms", SERVE),),
    )
    await watch.supervisor.start()
    pids = [watch.state("store").pid, watch.state("rooms").pid]
    await watch.supervisor.stop()
    settled = [(n, s) for n, s in watch.told if s not in {"starting"}]
    assert settled == [
        ("store", "ready"),
        ("migrations", "done"),
        ("rooms", "ready"),
        ("rooms", "stopped"),
        ("store", "stopped"),
    ]
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def test_a_killed_child_is_restarted(tmp_path: Path) -> None:
    watch = Watch(tmp_path, (component("streams", SERVE),))

    async def body() -> None:
        await watch.supervisor.start()
        first = watch.state("streams").pid
        os.kill(first, signal.SIGKILL)
        await watch.until(lambda: watch.told.count(("streams", "ready")) == 2)
        now = watch.state("streams")
        assert (now.restarts, now.state) == (1, "ready")
        assert now.pid not in {0, first}
        saved = run_state.read(tmp_path)
        assert saved is not None
        assert saved.components == [now]

    await stopped_after(watch, body)


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    watch = Watch(tmp_path, (component("stubborn", STUBBORN),))
    await watch.supervisor.start()
    pid = watch.state("stubborn").pid
    async with asyncio.timeout(10):
        await watch.supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_a_wrong_configuration_ends_the_start_with_the_childs_words(tmp_path: Path) -> None:
    code = "import sys; print('prices.0.sku = 1: not a string', file=sys.stderr); sys.exit(2)"
    watch = Watch(tmp_path, (component("streams", code),))

    async def body() -> None:
        with pytest.raises(ComponentFailed, match=r"streams stopped with status 2: prices\.0\.sku"):
            await watch.supervisor.start()
        assert [s for _, s in watch.told] == ["starting", "failed"]

    await stopped_after(watch, body)


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        watch = Watch(
            tmp_path, (component("store", SERVE),), (component("page", SERVE, port=port),)
        )
        with pytest.raises(AddressInUse, match=rf"page: 127\.0\.0\.1:{port} .*set page\.port"):
            await watch.supervisor.start()
    assert watch.told == []


def test_two_supervisors_do_not_share_a_directory(tmp_path: Path) -> None:
    lock = run_state.take_lock(tmp_path)
    run_state.write(tmp_path, run_state.RunState(pid=4711, started_at="", config=""))
    with pytest.raises(AlreadyRunning, match=r"process 4711.*redline down"):
        run_state.take_lock(tmp_path)
    assert run_state.is_running(tmp_path)
    lock.close()
    assert not run_state.is_running(tmp_path)
