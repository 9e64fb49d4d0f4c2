"""``python -m dashboards --config redline.yaml``: serve the web page until SIGTERM.

Ready means that HTTP answers; ClickHouse may still be empty, or away, and the page says so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from pathlib import Path

from dashboards.app import Page, create_app, running
from redline.clickhouse import connect
from redline.errors import Fault
from redline.log import configure, get_logger
from redline.serve import Server, announce, bind, stop_event
from redline.settings import LOOPBACK, Secrets, Settings, load_settings

RECEIVE_TIMEOUT_S = 8
EXIT_FAULT = 2


def clock_us() -> int:
    """Wall clock, µs UTC."""
    return time.time_ns() // 1_000


async def serve(settings: Settings, secrets: Secrets) -> None:
    """Serve until a signal arrives.

    Raises:
        AddressInUse: the port is taken.
        ConfigFault: the address is not of this machine.
    """
    host, port = settings.dashboards.host, settings.dashboards.port
    listener = bind("dashboards", host, port, "dashboards.port")
    if host not in (LOOPBACK, "localhost", "::1"):
        get_logger().warning("page_open_to_network", host=host, note="it has no login")
    stop = stop_event()
    page = Page(
        settings,
        lambda: connect(settings.clickhouse, secrets, receive_timeout_s=RECEIVE_TIMEOUT_S),
        clock_us,
    )
    server = Server(create_app(page))
    async with running(page):
        await server.start(listener)
        announce(listener)
        await stop.wait()
        await page.hub.close()  # open streams would hold the server until its grace is over
        await server.stop()


def main(arguments: list[str] | None = None) -> int:
    """Parse, serve, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="redline.yaml")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.config)
        configure(settings.log_level, settings.log_format, "dashboards")
        # both repeat every failed connection; the poller says it once
        for library in ("urllib3", "clickhouse_connect"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        asyncio.run(serve(settings, Secrets()))
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return EXIT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
