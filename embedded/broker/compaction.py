"""Compaction: keep the latest record of each key, drop tombstones that everyone had time to see.

As Apache Kafka's cleaner does it: the latest offset per key is taken from the closed segments that
are not clean yet, then every closed segment is rewritten without what is superseded, small ones
are merged. Offsets never change. A tombstone goes in a later pass, once its segment is older
than ``delete.retention.ms``. ``clean`` runs in a thread on files that no longer change; it
refuses to touch the log, which takes the result over in ``PartitionLog.replace``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from embedded.broker import batches
from embedded.broker.batch_header import BatchHeader
from embedded.broker.log import CleanedSegment, PartitionLog
from embedded.broker.segment import Segment
from embedded.broker.topic_config import TopicConfig

MAX_KEYS_A_PASS = 1_000_000


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A segment as the cleaner sees it. ``end_offset`` is where the next segment starts."""

    path: Path
    base_offset: int
    end_offset: int
    size_bytes: int
    max_timestamp_ms: int
    written_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass over a partition: all closed segments; those from ``dirty_from`` on are dirty."""

    segments: tuple[ClosedSegment, ...]
    dirty_from: int
    segment_bytes: int
    drop_tombstones_before_ms: int
    cleaned_path: Path  # its directory and suffix; the stem is each output's base offset


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a pass produced, and up to which offset the log is clean then."""

    outputs: list[CleanedSegment]
    clean_until: int


def plan(log: PartitionLog, clean_until: int, config: TopicConfig, now_ms: int) -> Plan | None:
    """The pass that is due now, or None."""
    if not config.compacts:
        return None
    closed = [
        _closed(segment, following.base_offset)
        for segment, following in zip(log.segments, log.segments[1:], strict=False)
    ]
    settled_ms = now_ms - config.min_compaction_lag_ms
    # A prefix, never a selection: an output covers every offset between its two ends.
    closed = list(takewhile(lambda s: s.max_timestamp_ms <= settled_ms, closed))
    dirty = [s for s in closed if s.base_offset >= clean_until and s.size_bytes]
    if not is_due(closed, dirty, config, now_ms):
        return None
    return Plan(
        segments=tuple(closed),
        dirty_from=clean_until,
        segment_bytes=config.segment_bytes,
        drop_tombstones_before_ms=now_ms - config.delete_retention_ms,
        cleaned_path=log.cleaned_path(0),
    )


def _closed(segment: Segment, end_offset: int) -> ClosedSegment:
    return ClosedSegment(
        path=segment.path,
        base_offset=segment.base_offset,
        end_offset=end_offset,
        size_bytes=segment.size_bytes,
        max_timestamp_ms=segment.max_timestamp_ms,
        written_ms=int(segment.path.stat().st_mtime * 1000),
    )


def is_due(
    closed: Sequence[ClosedSegment],
    dirty: Sequence[ClosedSegment],
    config: TopicConfig,
    now_ms: int,
) -> bool:
    """Whether the dirty share reaches the ratio, or something dirty waited long enough."""
    dirty_bytes = sum(s.size_bytes for s in dirty)
    if not dirty_bytes:
        return False
    if dirty_bytes >= config.min_dirty_ratio * sum(s.size_bytes for s in closed):
        return True
    return any(now_ms - s.written_ms >= config.max_compaction_lag_ms for s in dirty)


class Stopped(Exception):
    """The broker is closing; what was written is removed at the next start."""


def clean(work: Plan, stopping: Callable[[], bool]) -> Cleaned:
    """Write the compacted files. Memory: one segment, and a million keys of the dirty part.

    Raises ``Stopped`` soon after ``stopping`` turns true.
    """
    latest, clean_until = _latest_offsets(work, stopping)
    outputs: list[CleanedSegment] = []
    output: _Output | None = None
    for segment in work.segments:
        if segment.base_offset >= clean_until:
            break
        kept = list(_survivors(segment, latest, work, stopping))
        kept_bytes = sum(len(batch) for batch in kept)
        if output is not None and output.size_bytes + kept_bytes > work.segment_bytes:
            outputs.append(output.close())
            output = None
        if output is None:
            output = _Output(segment.base_offset, work)
        output.cover(segment, kept, kept_bytes)
    if output is not None:
        outputs.append(output.close())
    return Cleaned(outputs, clean_until)


class _Output:
    """One compacted file; it may cover several small segments."""

    def __init__(self, base_offset: int, work: Plan) -> None:
        self.size_bytes = 0
        self._base_offset = self._end_offset = base_offset
        self._written_ms = 0
        self._path = work.cleaned_path.with_stem(f"{base_offset:020d}")
        self._file = self._path.open("wb")

    def cover(self, segment: ClosedSegment, kept: list[batches.Bytes], kept_bytes: int) -> None:
        self._file.writelines(kept)
        self.size_bytes += kept_bytes
        self._end_offset = segment.end_offset
        # The time of the newest segment stays: tombstones age from when they were written.
        self._written_ms = max(self._written_ms, segment.written_ms)

    def close(self) -> CleanedSegment:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.utime(self._path, (self._written_ms / 1000, self._written_ms / 1000))
        return CleanedSegment(self._path, self._base_offset, self._end_offset)


def _batches_of(segment: ClosedSegment) -> Iterator[tuple[BatchHeader, memoryview]]:
    # Beyond size_bytes lie bytes that recovery found damaged: they are not carried over.
    return batches.walk(memoryview(segment.path.read_bytes())[: segment.size_bytes])


def _readable(batch: batches.Bytes) -> list[batches.Record]:
    """The records; none of a batch that cannot be decoded, which so stays as it is."""
    try:
        return batches.records(batch)
    except batches.Unreadable:
        return []


def _latest_offsets(work: Plan, stopping: Callable[[], bool]) -> tuple[dict[bytes, int], int]:
    latest: dict[bytes, int] = {}
    clean_until = work.dirty_from
    for segment in work.segments:
        if segment.base_offset < work.dirty_from:
            continue
        if len(latest) >= MAX_KEYS_A_PASS:
            break
        for _, batch in _batches_of(segment):
            if stopping():
                raise Stopped
            for record in _readable(batch):
                if record.key is not None:
                    latest[record.key] = record.offset
        clean_until = segment.end_offset
    return latest, clean_until


def _survivors(
    segment: ClosedSegment,
    latest: dict[bytes, int],
    work: Plan,
    stopping: Callable[[], bool],
) -> Iterator[batches.Bytes]:
    was_clean = segment.base_offset < work.dirty_from
    drop_tombstones = was_clean and segment.written_ms <= work.drop_tombstones_before_ms
    for header, batch in _batches_of(segment):
        if stopping():
            raise Stopped
        kept: list[batches.Record] = []
        dropped = False
        for record in _readable(batch):
            superseded = record.key is not None and latest.get(record.key, -1) > record.offset
            if superseded or (drop_tombstones and record.value is None):
                dropped = True
            else:
                kept.append(record)
        if not dropped:
            yield batch
        elif kept:
            yield batches.keep(batch, header, kept)
