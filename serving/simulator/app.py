"""Starts the fleet: one loop, one port per engine, one for control, and the load.

This file refuses logic: it binds, builds, waits for the end and takes everything down again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from redline.errors import AddressInUse
from redline.log import get_logger
from redline.settings import Secrets
from serving.simulator.control import Control
from serving.simulator.driver import Driver
from serving.simulator.fleet import Fleet
from serving.simulator.openai_api import EngineApi
from serving.simulator.spec import SimulatorSpec

STOP_S = 2


class _Server(uvicorn.Server):
    """One of several servers in a process, whose signals are the process's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Simulator:
    """A fleet with its servers and its load."""

    def __init__(self, spec: SimulatorSpec) -> None:
        self._spec = spec
        self._sockets: dict[str, socket.socket] = {}
        self._servers: list[_Server] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.fleet: Fleet | None = None
        self.driver: Driver | None = None

    def port(self, name: str) -> int:
        """The port of an instance, or of ``control``."""
        bound: int = self._sockets[name].getsockname()[1]
        return bound

    async def start(self) -> None:
        """Bind every port, then serve.

        Raises:
            AddressInUse: a port is taken; nothing stays bound.
            ConfigFault: an engine's size is impossible.
        """
        spec = self._spec
        try:
            self._sockets["control"] = _bind(spec.host, spec.control_port, "control_port")
            for engine in spec.engines:
                setting = f"the port of engine {engine.instance}"
                self._sockets[engine.instance] = _bind(spec.host, engine.port, setting)
            self.fleet = Fleet(spec)
            if spec.workload is not None:
                self.driver = Driver(spec.workload, self.fleet.clock)
        except Exception:
            if self.fleet is not None:
                self.fleet.close()
            self._close_sockets()
            raise
        token = Secrets().api_token.get_secret_value()
        for name, served in self.fleet.engines.items():
            chunk_tokens = spec.stream_interval_tokens
            app = EngineApi(served, chunk_tokens=chunk_tokens, key_salt=token.encode() or b"sim")
            await self._serve(app, name)
        await self._serve(Control(self.fleet, self.driver, token).app(), "control")
        if spec.nvml_state is not None:
            writing = self.fleet.write_gpu_state(spec.nvml_state)
            self._tasks.append(asyncio.ensure_future(writing))
        if self.driver is not None and spec.workload is not None and spec.workload.start:
            self.driver.start()

    async def stop(self) -> None:
        """Stop the load, end requests, flush the logs, free the ports. Safe to call twice."""
        if self.driver is not None:
            await self.driver.close()
        if self.fleet is not None:
            self.fleet.close()
        for server in self._servers:
            server.should_exit = True
        serving = [task for task in self._tasks if task.get_name().startswith("serve-")]
        for task in set(self._tasks) - set(serving):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S + 1)
        self._close_sockets()

    async def _serve(self, app: Any, name: str) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=1024,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=STOP_S,
        )
        server = _Server(config)
        self._servers.append(server)
        serving = server.serve(sockets=[self._sockets[name]])
        task = asyncio.create_task(serving, name=f"serve-{name}")
        self._tasks.append(task)
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.005)

    def _close_sockets(self) -> None:
        for bound in self._sockets.values():
            bound.close()


async def run(spec: SimulatorSpec) -> None:
    """Serve until SIGTERM or SIGINT. Says once, on stdout, that it listens."""
    simulator = Simulator(spec)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await simulator.start()
    try:
        ready = {"event": "listening", "host": spec.host, "port": simulator.port("control")}
        ports = {engine.instance: simulator.port(engine.instance) for engine in spec.engines}
        sys.stdout.write(json.dumps({**ready, "engines": ports}) + "\n")
        sys.stdout.flush()
        get_logger().info("simulator_started", engines=len(spec.engines))
        await stopping.wait()
    finally:
        await simulator.stop()
        get_logger().info("simulator_stopped")


def _bind(host: str, port: int, setting: str) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise AddressInUse("simulator", host, port, setting) from error
    bound.set_inheritable(False)
    return bound
