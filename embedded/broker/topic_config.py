"""A topic's configuration: which keys exist, what they mean, which values are refused.

Keys and defaults are Apache Kafka's, except ``segment.bytes`` (64 MiB, so that a laptop's disk
is given back sooner). Keys that have no effect on one node are accepted and shown, so that
the same topic definitions work here and on a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

_FOREVER = str((1 << 63) - 1)
_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1


class ConfigType(IntEnum):
    """How DescribeConfigs names a value's type."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7


@dataclass(frozen=True, slots=True)
class Key:
    """One configuration key. ``check`` raises ``ValueError`` on a value that it refuses."""

    default: str
    kind: ConfigType
    check: Callable[[str], object]


def _number(default: str, kind: ConfigType, lowest: int, highest: int) -> Key:
    def check(value: str) -> None:
        if not lowest <= int(value) <= highest:
            raise ValueError(f"it must be between {lowest} and {highest}")

    return Key(default, kind, check)


def _long(default: str, lowest: int = 0) -> Key:
    return _number(default, ConfigType.LONG, lowest, _INT64_MAX)


def _int(default: str, lowest: int = 0) -> Key:
    return _number(default, ConfigType.INT, lowest, _INT32_MAX)


def _choice(default: str, *allowed: str) -> Key:
    def check(value: str) -> None:
        if value not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")

    kind = ConfigType.BOOLEAN if allowed == ("true", "false") else ConfigType.STRING
    return Key(default, kind, check)


def _check_policy(value: str) -> None:
    if not _policies(value) <= {"compact", "delete"}:
        raise ValueError("it must be compact, delete, or both")


def _check_ratio(value: str) -> None:
    if not 0.0 <= float(value) <= 1.0:
        raise ValueError("it must be between 0 and 1")


def _policies(value: str) -> set[str]:
    return {policy.strip() for policy in value.split(",") if policy.strip()}


KEYS: Mapping[str, Key] = {
    "cleanup.policy": Key("delete", ConfigType.LIST, _check_policy),
    "compression.type": _choice(
        "producer", "producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"
    ),
    "delete.retention.ms": _long("86400000"),
    "file.delete.delay.ms": _long("60000"),
    "flush.messages": _long(_FOREVER, 1),
    "flush.ms": _long(_FOREVER),
    "index.interval.bytes": _int("4096"),
    "max.compaction.lag.ms": _long(_FOREVER, 1),
    "max.message.bytes": _int("1048588"),
    "message.timestamp.after.max.ms": _long("3600000"),
    "message.timestamp.before.max.ms": _long(_FOREVER),
    "message.timestamp.type": _choice("CreateTime", "CreateTime", "LogAppendTime"),
    "min.cleanable.dirty.ratio": Key("0.5", ConfigType.DOUBLE, _check_ratio),
    "min.compaction.lag.ms": _long("0"),
    "min.insync.replicas": _int("1", 1),
    "preallocate": _choice("false", "true", "false"),
    "retention.bytes": _long("-1", -1),
    "retention.ms": _long("604800000", -1),
    "segment.bytes": _int("67108864", 1024),
    "segment.index.bytes": _int("10485760"),
    "segment.jitter.ms": _long("0"),
    "segment.ms": _long("604800000", 1),
    "unclean.leader.election.enable": _choice("false", "true", "false"),
}


def check_overrides(overrides: Mapping[str, str | None]) -> str | None:
    """Why these settings are refused, or None. The text names key, value and reason."""
    for key, value in overrides.items():
        if key not in KEYS:
            return f"Unknown topic config name: {key}"
        if value is None:
            return f"{key} has no value"
        try:
            KEYS[key].check(value)
        except ValueError as error:
            return f"Invalid value {value!r} for {key}: {error}"
    return None


class TopicConfig:
    """The values in force for one topic. ``overrides`` must have passed ``check_overrides``."""

    def __init__(self, overrides: Mapping[str, str]) -> None:
        self.overrides = dict(overrides)
        policies = _policies(self["cleanup.policy"])
        self.compacts = "compact" in policies
        self.deletes = "delete" in policies
        self.retention_ms = int(self["retention.ms"])
        self.retention_bytes = int(self["retention.bytes"])
        self.segment_bytes = int(self["segment.bytes"])
        self.segment_ms = int(self["segment.ms"])
        self.max_message_bytes = int(self["max.message.bytes"])
        self.delete_retention_ms = int(self["delete.retention.ms"])
        self.min_dirty_ratio = float(self["min.cleanable.dirty.ratio"])
        self.min_compaction_lag_ms = int(self["min.compaction.lag.ms"])
        self.max_compaction_lag_ms = int(self["max.compaction.lag.ms"])
        self.uses_append_time = self["message.timestamp.type"] == "LogAppendTime"

    def __getitem__(self, key: str) -> str:
        return self.overrides.get(key, KEYS[key].default)
