"""How one broker is set up: where it listens, where it stores, and every limit it has.

The file refuses to read the environment; the command line and tests build the value.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from embedded.broker.membership import GroupLimits
from redline.errors import ConfigFault


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Settings of one broker. Port 0 means any free port."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    partitions: int = 4  # of topics that are created without saying how many
    auto_create_topics: bool = True
    allow_remote: bool = False
    fsync: bool = False
    housekeeping_interval_ms: int = 10_000
    offsets_retention_ms: int = 7 * 86_400_000
    group: GroupLimits = field(default_factory=GroupLimits)
    max_connections: int = 1_000
    max_request_bytes: int = 100 << 20
    max_fetch_bytes: int = 55 << 20
    max_partitions: int = 10_000
    max_partitions_a_topic: int = 1_000
    max_groups: int = 1_000
    max_data_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= self.max_partitions_a_topic:
            raise ConfigFault(
                "kafka.partitions",
                self.partitions,
                f"it must be between 1 and {self.max_partitions_a_topic}",
                "set it to the number of stream workers that you may want, 4 for most",
            )
        if not 0 <= self.port <= 65_535:
            raise ConfigFault(
                "kafka.bootstrap_servers",
                self.port,
                "it is not a port",
                "choose one from 0 to 65535",
            )
        if not self.allow_remote and not _is_loopback(self.host):
            raise ConfigFault(
                "kafka.bootstrap_servers",
                self.host,
                "the broker has neither passwords nor TLS, and this address is not loopback",
                "listen on 127.0.0.1, or start it with --allow-remote on a network you trust",
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
