"""``python -m serving.simulator --spec FILE.yaml``: the simulated fleet as a process.

Exit codes: 0 after SIGTERM or SIGINT, 2 where the specification or a port is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from redline import log
from redline.errors import AddressInUse, ConfigFault
from serving.simulator.app import run
from serving.simulator.spec import load_spec


def main(arguments: list[str] | None = None) -> int:
    """Run the fleet; the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.simulator", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="the fleet, as YAML")
    parsed = parser.parse_args(arguments)
    try:
        spec = load_spec(parsed.spec)
        log.configure(spec.log_level, spec.log_format, "simulator")
        asyncio.run(run(spec))
    except (ConfigFault, AddressInUse) as fault:
        sys.stderr.write(f"{fault}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
