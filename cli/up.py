"""``redline up``, ``down`` and ``status``: the supervisor from a person's side.

It refuses to guess about a supervisor that it cannot see: the lock decides what runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from cli import run_state
from cli.components import Stage, stages
from cli.run_state import ComponentState
from cli.supervisor import Supervisor
from redline.errors import Fault
from redline.settings import Settings, load_settings

DOWN_WITHIN_S = 15.0


def run_up(config: Path | None) -> int:
    """Start, supervise, stop on a signal. 0 after a clean stop."""
    settings = load_settings(config)
    path = _config_file(config, settings)

    async def until_stopped(stop: asyncio.Event, supervisor: Supervisor) -> None:
        print(f"\nOpen http://{settings.dashboards.host}:{settings.dashboards.port}/", end=" ")
        print("Stop with Ctrl-C or `redline down`.")
        if not settings.collectors.log_directories:
            where = settings.data_dir / "logs"
            print(f"Request logs are read from {where}/<instance>/*.ndjson")
        await stop.wait()

    return asyncio.run(supervise(settings, path, until_stopped))


async def supervise(
    settings: Settings,
    config: Path,
    body: Callable[[asyncio.Event, Supervisor], Awaitable[None]],
    *,
    extra: Stage = (),
    environment: Mapping[str, str] | None = None,
    notice: Callable[[ComponentState], None] | None = None,
) -> int:
    """Run ``body`` with everything up; stop everything however it ends.

    ``body`` receives an event that is set on SIGINT and SIGTERM.
    """
    lock = run_state.take_lock(settings.data_dir)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(
        stages(settings, config, extra),
        settings.data_dir,
        config,
        environment or {},
        notice or print_ready,
    )
    try:
        start = asyncio.create_task(supervisor.start())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            start.result()
            await body(stop, supervisor)
        else:
            start.cancel()
            with suppress(asyncio.CancelledError):
                await start
        stopped.cancel()
    finally:
        await supervisor.stop()
        lock.close()
    return 0


def print_ready(state: ComponentState) -> None:
    """One line a component, when it is ready or in trouble."""
    if state.state == "ready":
        print(f"{state.name:<12} {state.address:<32} ready after {state.ready_after_s} s")
    elif state.state == "done":
        print(f"{state.name:<12} {'-':<32} done after {state.ready_after_s} s")
    elif state.state in {"restarting", "failed"}:
        print(f"{state.name:<12} {state.address:<32} {state.state}; log: {state.log}")


def run_down(config: Path | None) -> int:
    """Stop the supervisor of this data directory; 0 when nothing runs any more."""
    settings = load_settings(config)
    if not run_state.is_running(settings.data_dir):
        print(f"Nothing runs on {settings.data_dir}.")
        return 0
    state = run_state.read(settings.data_dir)
    if state is None:
        raise Fault(
            f"A supervisor holds {settings.data_dir}/run/lock but has left no state. "
            f"Fix: find it with `ps` and stop it."
        )
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_WITHIN_S
    while run_state.is_running(settings.data_dir):
        if time.monotonic() > deadline:
            print(f"Process {state.pid} has not stopped within {DOWN_WITHIN_S:.0f} s.")
            return 1
        time.sleep(0.05)
    print("Stopped.")
    return 0


def run_status(config: Path | None, *, as_json: bool) -> int:
    """Print the components; 0 if all are ready, else 1."""
    settings = load_settings(config)
    running = run_state.is_running(settings.data_dir)
    state = run_state.read(settings.data_dir) if running else None
    components = state.components if state else []
    healthy = running and all(item.state in {"ready", "done"} for item in components)
    if as_json:
        content = {"running": running, "healthy": healthy, "components": components}
        print(msgspec.json.encode(content).decode())
    elif not running:
        print(f"Nothing runs on {settings.data_dir}. Start it with `redline up`.")
    else:
        print(f"{'component':<12} {'state':<11} {'address':<32} {'pid':>7} {'restarts':>8}  log")
        for item in components:
            print(
                f"{item.name:<12} {item.state:<11} {item.address:<32} "
                f"{item.pid or '-':>7} {item.restarts:>8}  {item.log}"
            )
    return 0 if healthy else 1


def _config_file(config: Path | None, settings: Settings) -> Path:
    """The file that the children read; an empty one where defaults are used."""
    if config is not None:
        return config
    if Path("redline.yaml").exists():
        return Path("redline.yaml")
    directory = run_state.run_directory(settings.data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "defaults.yaml"
    path.write_text("# no redline.yaml was found: the defaults are in force\n")
    return path
