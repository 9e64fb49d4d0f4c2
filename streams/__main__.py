"""``python -m streams --config redline.yaml``: one stream worker, until SIGTERM.

Prints one JSON line on stdout when partitions are assigned and the state is restored; logs go to
stderr. Exit codes: 0 stopped, 1 crashed (start it again), 2 wrong configuration or a taken port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
from pathlib import Path

from redline.errors import Fault
from redline.kafka import ensure_topics
from redline.log import configure, get_logger
from redline.settings import LOOPBACK, Secrets, Settings, load_settings
from streams.health import HealthServer, bind
from streams.metrics import Metrics
from streams.pricing import Pricer

_EXIT_CRASHED, _EXIT_CONFIG = 1, 2
_CONNECT_WAIT_S = 30.0
_M_ARENA_MAX = -8  # malloc.h


def main(arguments: list[str] | None = None) -> int:
    """Run the worker."""
    parser = argparse.ArgumentParser(prog="python -m streams", description=__doc__)
    parser.add_argument("--config", type=Path, help="redline.yaml")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.config)
        configure(settings.log_level, settings.log_format, component="streams")
        _limit_malloc_arenas()
        return asyncio.run(_run(settings, Secrets()))
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return _EXIT_CONFIG


def _limit_malloc_arenas() -> None:
    """Two malloc arenas instead of eight a core: every insert thread would keep its own peak."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


async def _run(settings: Settings, secrets: Secrets) -> int:
    from streams.app import Streams

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    Pricer(settings.gpu_groups, settings.prices)  # refuses prices that contradict each other
    listener = bind(LOOPBACK, settings.streams.port)
    await _topics(settings, secrets, stop)
    if stop.is_set():
        return 0
    metrics = Metrics()
    streams = Streams(settings, secrets, metrics)
    health = HealthServer(listener, metrics.registry, lambda: streams.is_ready)
    await health.start()
    await streams.start()
    code = await _watch(streams, metrics, stop, settings.streams.port)
    await streams.stop()
    await health.stop()
    get_logger().info("streams.stopped", code=code)
    # Faust leaves threads and futures behind; all that matters is delivered, so do not wait for it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _topics(settings: Settings, secrets: Secrets, stop: asyncio.Event) -> None:
    """Make the topics; the broker may still be starting."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _CONNECT_WAIT_S
    while not stop.is_set():
        try:
            await ensure_topics(settings.kafka, secrets)
        except Fault:
            raise
        except Exception as error:
            if loop.time() > deadline_s:
                raise
            get_logger().warning("streams.broker_away", reason=str(error)[:300])
            await asyncio.sleep(0.5)
            continue
        return


async def _watch(streams: object, metrics: Metrics, stop: asyncio.Event, port: int) -> int:
    """Announce readiness once; return the exit code when it is time to stop."""
    from streams.app import Streams

    assert isinstance(streams, Streams)
    announced = False
    while not stop.is_set():
        if streams.has_crashed:
            return _EXIT_CRASHED
        ready = streams.is_ready
        metrics.ready.set(ready)
        if ready and not announced:
            announced = True
            gc.collect()
            gc.freeze()  # what was loaded stays: the collector need not look at it again
            line = {"event": "listening", "host": LOOPBACK, "port": port}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0 if announced else 0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
