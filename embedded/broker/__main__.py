"""Run the broker as a process: ``python -m embedded.broker --data-dir DIR``.

When it is ready it prints one JSON line with its address on stdout. SIGTERM and SIGINT stop it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import signal
import sys
from pathlib import Path

from embedded.broker.config import BrokerConfig
from embedded.broker.membership import GroupLimits
from embedded.broker.server import Broker
from redline.errors import Fault
from redline.log import configure, get_logger


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.broker", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9392, help="0 means any free port")
    parser.add_argument("--partitions", type=int, default=4, help="of auto-created topics")
    parser.add_argument("--no-auto-create", action="store_true")
    parser.add_argument("--allow-remote", action="store_true", help="listen beyond loopback")
    parser.add_argument("--fsync", action="store_true", help="survive a loss of power, slowly")
    parser.add_argument("--housekeeping-interval-ms", type=int, default=10_000)
    parser.add_argument("--min-session-timeout-ms", type=int, default=1_000)
    parser.add_argument("--max-data-bytes", type=int, default=64 << 30)
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", default="info", choices=levels)
    return parser.parse_args(argv)


def _raise_file_limit() -> None:
    """Each partition that is written holds a file open; the usual soft limit is too low."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(config: BrokerConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Broker(config) as broker:
        # What was loaded stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        ready = {"event": "listening", "host": config.host, "port": broker.port}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
    get_logger().info("stopped")


def main(argv: list[str] | None = None) -> int:
    """Run until a signal. Returns 2 when the configuration is refused."""
    arguments = _arguments(argv)
    configure(level=arguments.log_level, component="broker")
    try:
        config = BrokerConfig(
            data_dir=arguments.data_dir,
            host=arguments.host,
            port=arguments.port,
            partitions=arguments.partitions,
            auto_create_topics=not arguments.no_auto_create,
            allow_remote=arguments.allow_remote,
            fsync=arguments.fsync,
            housekeeping_interval_ms=arguments.housekeeping_interval_ms,
            group=GroupLimits(min_session_timeout_ms=arguments.min_session_timeout_ms),
            max_data_bytes=arguments.max_data_bytes,
        )
        _raise_file_limit()
        asyncio.run(_run(config))
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
