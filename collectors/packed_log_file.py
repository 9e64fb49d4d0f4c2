"""One compressed log file: an old one, gzipped after it was rotated away. Read to its end, once.

Offsets are those of the text inside, so a mark from before the compression still holds: the file is
known by the hash of its first line, and takes the inode that this mark names (``lineage_inode``).
It refuses other compressions, and to say how large a file is before it was unpacked once.
"""

from __future__ import annotations

import gzip
import os
import zlib

from collectors.checkpoint import FileKey
from collectors.log_file import LogFile, State
from collectors.rotation import HEAD_BYTES_MAX, Listed, head_of

_PIECE_BYTES = 1024 * 1024
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


class PackedLogFile(LogFile):
    """As LogFile, for what gzip made of one."""

    packed = True

    def __init__(self, listed: Listed) -> None:
        super().__init__(listed)
        self.lineage_inode: int | None = None
        self._packed_bytes = -1
        self._stream: gzip.GzipFile | None = None

    @property
    def key(self) -> FileKey | None:
        """Which file this was before it was compressed."""
        if self.head is None:
            return None
        return FileKey(self.inode if self.lineage_inode is None else self.lineage_inode, self.head)

    def see(self, listed: Listed) -> None:
        """Note a new name; the size of the text is not in a listing."""
        self.path, self.number = listed.path, listed.number

    def check(self, *, ended: bool = False) -> State:
        """As LogFile's. What was compressed is complete, so its first line counts as whole."""
        if self._descriptor is None and not self._open():
            return "gone"
        assert self._descriptor is not None
        packed_bytes = os.fstat(self._descriptor).st_size
        if packed_bytes == self._packed_bytes:
            return "same"
        self._packed_bytes = packed_bytes
        self._rewind_stream()
        first = self._read(0, HEAD_BYTES_MAX)
        head = head_of(first) or (head_of(first + b"\n") if first else None)
        if self.head is not None and head != self.head:
            return "replaced"
        self.head = head
        self.size_bytes = len(first)
        while piece := self._read(self.size_bytes, _PIECE_BYTES):
            self.size_bytes += len(piece)
        self._rewind_stream()
        return "same"

    def window(self, size_bytes: int) -> bytes:
        """The next bytes of the text."""
        return self._read(self.read.offset, size_bytes)

    def close(self) -> None:
        """Give the descriptor back."""
        self._rewind_stream()
        super().close()

    def _read(self, offset: int, size_bytes: int) -> bytes:
        """As far as it can be unpacked: a damaged end is not there."""
        assert self._descriptor is not None
        found = bytearray()
        try:
            stream = self._stream or self._open_stream(self._descriptor)
            stream.seek(offset)
            while len(found) < size_bytes:
                piece = stream.read1(size_bytes - len(found))
                if not piece:
                    break
                found += piece
        except _BROKEN:
            self._rewind_stream()
        return bytes(found)

    def _open_stream(self, descriptor: int) -> gzip.GzipFile:
        os.lseek(descriptor, 0, os.SEEK_SET)
        self._raw = os.fdopen(os.dup(descriptor), "rb")
        self._stream = gzip.GzipFile(fileobj=self._raw)
        return self._stream

    def _rewind_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._raw.close()
            self._stream = None


def open_log_file(listed: Listed) -> LogFile:
    """What reads a file of this name."""
    return PackedLogFile(listed) if listed.path.endswith(".gz") else LogFile(listed)
