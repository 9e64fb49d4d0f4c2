"""Create the Kafka topics and exit: a one-shot child of ``redline up``.

It refuses to change topics that exist; a wrong number of partitions is an error.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from redline.errors import Fault
from redline.kafka import ensure_topics
from redline.log import configure, get_logger
from redline.settings import Secrets, load_settings


def main() -> int:
    """Create what is missing; 2 on a configuration error."""
    parser = argparse.ArgumentParser(prog="python -m cli.topics")
    parser.add_argument("--config", type=Path)
    try:
        settings = load_settings(parser.parse_args().config)
        configure(settings.log_level, settings.log_format, "topics")
        created = asyncio.run(ensure_topics(settings.kafka, Secrets()))
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 2
    get_logger().info("topics_ready", created=len(created))
    return 0


if __name__ == "__main__":
    sys.exit(main())
