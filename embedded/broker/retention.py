"""When a segment is old enough, or a log big enough, to lose its first segments.

By time: the latest timestamp in a segment, as the producers wrote it, is older than
``retention.ms`` (so a backfill of old data is deleted at once; use LogAppendTime for those). By
size: the rest alone still reaches ``retention.bytes``. Pure; it refuses to touch files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from embedded.broker.topic_config import TopicConfig


class SegmentFacts(Protocol):
    """What the rules look at."""

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""

    @property
    def max_timestamp_ms(self) -> int:
        """The latest timestamp of its records."""


def expired_count(segments: Sequence[SegmentFacts], config: TopicConfig, now_ms: int) -> int:
    """How many segments, from the first on, are to be deleted; an empty last one never is."""
    if not config.deletes:
        return 0
    excess_bytes = sum(s.size_bytes for s in segments) - config.retention_bytes
    count = 0
    for segment in segments:
        if segment is segments[-1] and not segment.size_bytes:
            break
        too_old = 0 <= config.retention_ms < now_ms - segment.max_timestamp_ms
        too_much = config.retention_bytes >= 0 and excess_bytes >= segment.size_bytes
        if not (too_old or too_much):
            break
        excess_bytes -= segment.size_bytes
        count += 1
    return count
