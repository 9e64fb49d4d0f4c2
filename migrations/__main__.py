"""``python -m migrations up|status [--json]``: the runner on the ClickHouse of ``redline.yaml``.

Results go to stdout, logs to stderr. ``status`` exits with 1 while something is pending, so that
scripts can wait for it. This file refuses to create anything but the configured database.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from migrations import runner
from redline.clickhouse import connect
from redline.errors import Fault
from redline.log import configure, get_logger
from redline.settings import Secrets, load_settings

_EXIT_PENDING, _EXIT_CONFIG, _EXIT_FAILED = 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 done, 1 pending (``status``), 2 wrong configuration, 3 ClickHouse refused."""
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    parser.add_argument("command", choices=["up", "status"])
    parser.add_argument("--config", type=Path, help="redline.yaml")
    parser.add_argument("--directory", type=Path, default=runner.SQL_DIRECTORY)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.config)
        configure(settings.log_level, settings.log_format, component="migrations")
        # The database may not exist yet, so the connection is to the one that always does.
        client = connect(settings.clickhouse, Secrets(), database="default")
        try:
            return _run(options, client, settings.clickhouse.database)
        finally:
            client.close()
    except Fault as fault:
        get_logger().error("migrations.refused", reason=str(fault))
        return _EXIT_CONFIG
    except ClickHouseError as error:
        get_logger().error("migrations.failed", reason=str(error))
        return _EXIT_FAILED


def _run(options: argparse.Namespace, client: Client, database: str) -> int:
    if options.command == "up":
        steps = runner.apply(client, options.directory, database)
        lines = [f"{s.number:04d}_{s.name} {s.statement}/{s.statements}" for s in steps]
        _write(options, [asdict(step) for step in steps], lines or ["up to date"])
        return 0
    progress = runner.status(client, options.directory, database)
    rows = [asdict(p) | {"state": p.state} for p in progress]
    _write(options, rows, [f"{p.number:04d}_{p.name} {p.state}" for p in progress])
    return 0 if all(p.state == "applied" for p in progress) else _EXIT_PENDING


def _write(options: argparse.Namespace, rows: list[dict[str, object]], lines: list[str]) -> None:
    sys.stdout.write((json.dumps(rows) if options.json else "\n".join(lines)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
