"""The log of one partition: append, read, find by time, delete from the front, recover.

An append is written to the file (the page cache) before it is acknowledged, so a killed process
loses nothing; ``fsync`` also survives a loss of power. Torn tails are cut off at start. The file
refuses to decide what is too old (``retention``) or superseded (``compaction``).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from embedded.broker import batches
from embedded.broker.batch_header import BatchHeader, read_header
from embedded.broker.codes import ErrorCode
from embedded.broker.producers import ProducerStates
from embedded.broker.segment import Segment, segment_path
from embedded.broker.topic_config import TopicConfig
from redline.log import get_logger

_MAX_OFFSETS_A_SEGMENT = 1 << 31
_CLEANED_SUFFIX = ".cleaned"
_SWAP_SUFFIX = ".swap"


@dataclass(frozen=True, slots=True)
class Appended:
    """The outcome of an append; ``append_time_ms`` is -1 unless the topic uses it."""

    error: ErrorCode
    base_offset: int = -1
    append_time_ms: int = -1


@dataclass(frozen=True, slots=True)
class CleanedSegment:
    """A compacted file that replaces the segments from ``base_offset`` up to ``end_offset``."""

    path: Path
    base_offset: int
    end_offset: int


class PartitionLog:
    """Segments of one partition in a directory. Opening it recovers what is there."""

    def __init__(
        self,
        directory: Path,
        config: TopicConfig,
        *,
        start_offset: int = 0,
        clean_shutdown: bool = False,
        fsync: bool = False,
        now_ms: int,
    ) -> None:
        self.directory = directory
        self.config = config
        self.producers = ProducerStates()
        self._fsync = fsync
        self._segments: list[Segment] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._finish_swaps()
        self._recover(check_crc=not clean_shutdown, now_ms=now_ms)
        self.start_offset = min(max(start_offset, self._segments[0].base_offset), self.next_offset)

    # -- recovery --------------------------------------------------------------------------

    def _recover(self, *, check_crc: bool, now_ms: int) -> None:
        paths = sorted(self.directory.glob("*.log"))
        for path in paths:
            segment = Segment(path, int(path.stem))
            last = path is paths[-1]
            # The process wrote one batch after the other: only the last file can be torn.
            damaged_bytes = segment.load(
                check_crc=check_crc and last,
                on_batch=lambda header: self.producers.remember(header, header.base_offset),
            )
            if damaged_bytes:
                get_logger().warning(
                    "log_tail_cut" if last else "log_segment_damaged",
                    file=str(path),
                    damaged_bytes=damaged_bytes,
                    next_offset=segment.next_offset,
                )
            if damaged_bytes and last:
                with path.open("r+b") as file:
                    file.truncate(segment.size_bytes)
            segment.created_ms = int(path.stat().st_mtime * 1000)
            self._segments.append(segment)
        if not self._segments:
            self._add_segment(0, now_ms)

    def _finish_swaps(self) -> None:
        """A compaction was cut short: drop what is half done, complete what was decided."""
        for path in self.directory.glob(f"*{_CLEANED_SUFFIX}"):
            path.unlink()
        for path in sorted(self.directory.glob(f"*{_SWAP_SUFFIX}")):
            base, _, end = path.stem.partition("-")
            self._complete_swap(path, int(base), int(end))

    def _complete_swap(self, swap: Path, base_offset: int, end_offset: int) -> None:
        for path in self.directory.glob("*.log"):
            if base_offset <= int(path.stem) < end_offset:
                path.unlink()
        swap.rename(segment_path(self.directory, base_offset))

    # -- writing ---------------------------------------------------------------------------

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets; also the high watermark of this one node."""
        return self._segments[-1].next_offset

    @property
    def size_bytes(self) -> int:
        """Bytes in all segments."""
        return sum(segment.size_bytes for segment in self._segments)

    def append(self, batch: batches.Bytes, now_ms: int) -> Appended:
        """Write one produced batch. It is on disk (page cache) when this returns."""
        error = batches.refuse(batch, self.config.max_message_bytes)
        if error:
            return Appended(error)
        header = read_header(batch)
        verdict = self.producers.judge(header)
        if verdict.duplicate_of is not None:
            return Appended(ErrorCode.NONE, verdict.duplicate_of)
        if verdict.error:
            return Appended(verdict.error)
        if self.config.compacts:
            error = _refuse_keyless(batch)
            if error:
                return Appended(error)
        append_time_ms = -1
        if self.config.uses_append_time:
            append_time_ms = now_ms
            batch = batches.stamp(batch, now_ms)
            header = read_header(batch)
        offset = self.next_offset
        segment = self._segment_for(header, now_ms)
        if not segment.size_bytes:
            segment.created_ms = now_ms
        try:
            segment.append(list(batches.place(batch, header, offset)), header, offset)
            if self._fsync:
                segment.sync()
        except OSError as failure:
            get_logger().error("append_failed", file=str(segment.path), reason=str(failure))
            return Appended(ErrorCode.KAFKA_STORAGE_ERROR)
        self.producers.remember(header, offset)
        return Appended(ErrorCode.NONE, offset, append_time_ms)

    def _segment_for(self, header: BatchHeader, now_ms: int) -> Segment:
        segment = self._segments[-1]
        if not segment.size_bytes:
            return segment
        full = segment.size_bytes + header.size_bytes > self.config.segment_bytes
        wide = (
            segment.next_offset + header.last_offset_delta - segment.base_offset
            >= _MAX_OFFSETS_A_SEGMENT
        )
        return self.roll(now_ms) if full or wide or self._is_aged(segment, now_ms) else segment

    def _is_aged(self, segment: Segment, now_ms: int) -> bool:
        limit_ms = self.config.segment_ms
        if self.config.compacts:
            limit_ms = min(limit_ms, self.config.max_compaction_lag_ms)
        return now_ms - segment.created_ms >= limit_ms

    def roll(self, now_ms: int) -> Segment:
        """Close the last segment and start the next."""
        self._segments[-1].seal()
        return self._add_segment(self.next_offset, now_ms)

    def roll_if_aged(self, now_ms: int) -> None:
        """Roll a segment that is older than ``segment.ms``, though nothing is appended."""
        segment = self._segments[-1]
        if segment.size_bytes and self._is_aged(segment, now_ms):
            self.roll(now_ms)

    def _add_segment(self, base_offset: int, now_ms: int) -> Segment:
        segment = Segment(segment_path(self.directory, base_offset), base_offset)
        # An empty file keeps the next offset when everything before it is deleted.
        segment.path.touch(mode=0o600)
        segment.created_ms = now_ms
        self._segments.append(segment)
        return segment

    # -- reading ---------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, *, at_least_one: bool) -> bytes:
        """Whole batches from the one that holds ``offset``; empty at the end of the log.

        The first batch may start before ``offset``: consumers skip, as the protocol says.
        """
        found = self._locate(offset)
        if found is None:
            return b""
        segment, batch = found
        return segment.read(batch, max_bytes, at_least_one=at_least_one)

    def _locate(self, offset: int) -> tuple[Segment, int] | None:
        at = bisect_right(self._segments, offset, key=lambda s: s.base_offset) - 1
        for segment in self._segments[max(at, 0) :]:
            batch = segment.find(offset)
            if batch < len(segment):
                return segment, batch
        return None

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int]:
        """The first record at or after ``timestamp_ms``: (its timestamp, offset), or (-1, -1)."""
        for segment in self._segments:
            if segment.max_timestamp_ms < timestamp_ms:
                continue
            for batch in range(segment.find_time(timestamp_ms), len(segment)):
                for at_ms, offset in _times(segment.batch(batch)):
                    if at_ms >= timestamp_ms and offset >= self.start_offset:
                        return at_ms, offset
        return -1, -1

    # -- deleting and replacing ------------------------------------------------------------

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments; the last one is being written."""
        return tuple(self._segments)

    def delete_before(self, offset: int) -> None:
        """Records before ``offset`` are gone; files that hold nothing else are removed."""
        self.start_offset = max(self.start_offset, min(offset, self.next_offset))
        while len(self._segments) > 1 and self._segments[1].base_offset <= self.start_offset:
            self._segments.pop(0).path.unlink()

    def drop_segments(self, count: int, now_ms: int) -> None:
        """Delete the first ``count`` segments; the log goes on in a new one if that is all."""
        if count >= len(self._segments):
            self.roll(now_ms)
        if count:
            self.delete_before(self._segments[count].base_offset)

    def replace(self, cleaned: list[CleanedSegment]) -> bool:
        """Put compacted files in place of the segments that they cover.

        Returns False, with the files removed, when those segments are no longer all there.
        """
        first = self._segments[0].base_offset
        if any(c.base_offset < first for c in cleaned):
            for c in cleaned:
                c.path.unlink()
            return False
        for c in cleaned:
            swap = self.directory / f"{c.base_offset:020d}-{c.end_offset:020d}{_SWAP_SUFFIX}"
            c.path.rename(swap)
            self._complete_swap(swap, c.base_offset, c.end_offset)
            segment = Segment(segment_path(self.directory, c.base_offset), c.base_offset)
            segment.load(check_crc=False)
            self._segments = sorted(
                [
                    *(
                        s
                        for s in self._segments
                        if not c.base_offset <= s.base_offset < c.end_offset
                    ),
                    segment,
                ],
                key=lambda s: s.base_offset,
            )
        return True

    def cleaned_path(self, base_offset: int) -> Path:
        """Where a compaction writes before it is decided."""
        return self.directory / f"{base_offset:020d}{_CLEANED_SUFFIX}"

    def close(self) -> None:
        """Give the file handle back."""
        self._segments[-1].seal()


def _times(batch: bytes) -> list[tuple[int, int]]:
    """(timestamp, offset) of each record; of the batch as a whole when it cannot be decoded."""
    try:
        return [(record.timestamp_ms, record.offset) for record in batches.records(batch)]
    except batches.Unreadable:
        header = read_header(batch)
        return [(header.max_timestamp_ms, header.base_offset)]


def _refuse_keyless(batch: batches.Bytes) -> ErrorCode:
    try:
        keyed = all(record.key is not None for record in batches.records(batch))
    except batches.Unreadable:
        return ErrorCode.CORRUPT_MESSAGE
    return ErrorCode.NONE if keyed else ErrorCode.INVALID_RECORD
