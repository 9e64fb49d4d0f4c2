"""``python -m collectors --config redline.yaml``. It refuses to do more than start and report."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from collectors.app import run
from redline import log
from redline.errors import Fault
from redline.settings import Secrets, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Collect until a signal. Returns the exit code: 0, or 2 when something must be corrected."""
    parser = argparse.ArgumentParser(prog="collectors", description=__doc__)
    parser.add_argument("--config", type=Path, help="redline.yaml; without it, the one here")
    chosen = parser.parse_args(arguments)
    code = 0
    try:
        settings = load_settings(chosen.config)
        log.configure(settings.log_level, settings.log_format, "collectors")
        asyncio.run(run(settings, Secrets()))
    except* Fault as group:  # bare ones arrive as a group of one
        for fault in group.exceptions:
            sys.stderr.write(f"{fault}\n")
        code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
