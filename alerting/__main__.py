"""``python -m alerting --config redline.yaml``. Exit 0 after a signal, 2 if it cannot start."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from alerting.app import Alerting
from redline.errors import AddressInUse, ConfigFault, Fault
from redline.log import configure
from redline.settings import Secrets, load_settings


def main() -> int:
    """Read the configuration and run."""
    parser = argparse.ArgumentParser(prog="python -m alerting", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="redline.yaml")
    arguments = parser.parse_args()
    try:
        settings = load_settings(arguments.config)
        configure(settings.log_level, settings.log_format, "alerting")
        asyncio.run(Alerting(settings, Secrets()).run())
    except Fault as fault:
        sys.stderr.write(f"alerting: {fault}\n")
        return 2 if isinstance(fault, AddressInUse | ConfigFault) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
