"""One segment file of a partition: whole batches end to end, and an index in memory.

The index is three arrays, 16 bytes a batch. Files that are no longer written are opened per
read, so that old segments cost no file handle. The file refuses to know about offsets to come,
retention or compaction.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from pathlib import Path

from embedded.broker.batch_header import HEADER_BYTES, BatchHeader, read_header
from embedded.broker.batches import crc_matches

_SCAN_BYTES = 1 << 20


def segment_path(directory: Path, base_offset: int) -> Path:
    """The file of the segment that starts at ``base_offset``; names sort as offsets do."""
    return directory / f"{base_offset:020d}.log"


class Segment:
    """Batches from ``base_offset`` on. Appends go to the end; the rest never changes."""

    def __init__(self, path: Path, base_offset: int) -> None:
        self.path = path
        self.base_offset = base_offset
        self.size_bytes = 0
        self.created_ms = 0
        self._last_offsets = array("I")  # relative to base_offset
        self._positions = array("I")  # segment.bytes is an int32
        # The running maximum, hence sorted: the first batch that reaches a time is a bisection.
        self._max_timestamps = array("q")
        self._descriptor: int | None = None

    # -- writing ---------------------------------------------------------------------------

    def append(self, pieces: list[bytes | memoryview], header: BatchHeader, offset: int) -> None:
        """Write one batch that starts at ``offset``. Raises ``OSError`` with the file unchanged."""
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
        expected = sum(len(piece) for piece in pieces)
        try:
            written = os.writev(self._descriptor, pieces)
        except OSError:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise
        if written != expected:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise OSError(f"{self.path.name}: {written} of {expected} bytes fit")
        self._index(offset + header.last_offset_delta, header.max_timestamp_ms, expected)

    def sync(self) -> None:
        """Force what was appended to the medium."""
        if self._descriptor is not None:
            os.fdatasync(self._descriptor)

    def seal(self) -> None:
        """No more appends: give the file handle back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _index(self, last_offset: int, max_timestamp_ms: int, size_bytes: int) -> None:
        self._last_offsets.append(last_offset - self.base_offset)
        self._positions.append(self.size_bytes)
        latest = self._max_timestamps[-1] if self._max_timestamps else max_timestamp_ms
        self._max_timestamps.append(max(latest, max_timestamp_ms))
        self.size_bytes += size_bytes

    # -- recovery --------------------------------------------------------------------------

    def load(
        self, *, check_crc: bool, on_batch: Callable[[BatchHeader], None] | None = None
    ) -> int:
        """Index the file; return how many bytes at its end are not a sound batch.

        ``check_crc`` reads every byte, otherwise only the headers are looked at.
        """
        with self.path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            window, window_at = b"", 0
            while self.size_bytes + HEADER_BYTES <= file_bytes:
                at = self.size_bytes - window_at
                if at < 0 or at + HEADER_BYTES > len(window):
                    window_at = self.size_bytes
                    want = _SCAN_BYTES if check_crc else 4096
                    window, at = os.pread(file.fileno(), want, window_at), 0
                header = read_header(window, at)
                if not self._follows(header, file_bytes):
                    break
                if check_crc:
                    batch = window[at : at + header.size_bytes]
                    if len(batch) < header.size_bytes:
                        batch = os.pread(file.fileno(), header.size_bytes, self.size_bytes)
                    if not crc_matches(batch, header):
                        break
                self._index(header.last_offset, header.max_timestamp_ms, header.size_bytes)
                if on_batch is not None:
                    on_batch(header)
        return file_bytes - self.size_bytes

    def _follows(self, header: BatchHeader, file_bytes: int) -> bool:
        return (
            header.magic == 2
            and header.size_bytes >= HEADER_BYTES
            and self.size_bytes + header.size_bytes <= file_bytes
            and header.last_offset_delta >= 0
            and header.base_offset >= self.next_offset
        )

    # -- reading ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def next_offset(self) -> int:
        """The offset after the last batch."""
        if not self._last_offsets:
            return self.base_offset
        return self.base_offset + self._last_offsets[-1] + 1

    @property
    def max_timestamp_ms(self) -> int:
        """The latest timestamp in the segment, -1 when it is empty."""
        return self._max_timestamps[-1] if self._max_timestamps else -1

    def find(self, offset: int) -> int:
        """The first batch that ends at ``offset`` or later; ``len(self)`` when there is none."""
        return bisect_left(self._last_offsets, max(offset - self.base_offset, 0))

    def find_time(self, timestamp_ms: int) -> int:
        """The first batch that reaches ``timestamp_ms``; ``len(self)`` when there is none."""
        return bisect_left(self._max_timestamps, timestamp_ms)

    def read(self, batch: int, max_bytes: int, *, at_least_one: bool) -> bytes:
        """Whole batches from index ``batch`` on, at most ``max_bytes``.

        ``at_least_one`` lets a single batch exceed the limit, so that a consumer never stalls.
        """
        start = self._positions[batch]
        if self.size_bytes - start <= max_bytes:
            return self._pread(start, self.size_bytes)
        last = bisect_right(self._positions, start + max_bytes) - 1
        if last <= batch:
            if not at_least_one:
                return b""
            last = batch + 1
        return self._pread(start, self._end_of(last - 1))

    def batch(self, batch: int) -> bytes:
        """The bytes of one batch."""
        return self._pread(self._positions[batch], self._end_of(batch))

    def _end_of(self, batch: int) -> int:
        following = batch + 1
        return self._positions[following] if following < len(self) else self.size_bytes

    def _pread(self, start: int, end: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)
