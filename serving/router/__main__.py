"""``python -m serving.router --config redline.yaml``: exit 0 after a signal, 2 if it cannot."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from redline.errors import AddressInUse, ConfigFault
from redline.log import configure
from redline.settings import Secrets, load_settings
from serving.router.app import Router


def main() -> int:
    """Read the configuration and run."""
    parser = argparse.ArgumentParser(prog="python -m serving.router", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="redline.yaml")
    arguments = parser.parse_args()
    try:
        settings = load_settings(arguments.config)
        configure(settings.log_level, settings.log_format, "router")
        asyncio.run(Router(settings, Secrets()).run())
    except (AddressInUse, ConfigFault) as fault:
        sys.stderr.write(f"router: {fault}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
