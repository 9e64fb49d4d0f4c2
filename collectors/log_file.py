"""One log file, followed by its inode through renames and, while it is open, past its deletion.

It refuses to know lines, logs and Kafka: it gives the bytes that come next, and says when the file
is not the one that it was.
"""

from __future__ import annotations

import contextlib
import os
from typing import Literal

from collectors.checkpoint import FileKey, Mark
from collectors.lines import Position
from collectors.rotation import HEAD_BYTES_MAX, Listed, head_of

State = Literal["same", "replaced", "gone"]


class LogFile:
    """What is known of one file. ``read`` is how far it is read, ``size_bytes`` as last listed.

    ``shadowed`` says that the same lines are known under another file and must not be read twice.
    """

    packed = False

    def __init__(self, listed: Listed) -> None:
        self.path = listed.path
        self.inode = listed.inode
        self.size_bytes = listed.size_bytes
        self.number = listed.number
        self.read = Position()
        self.head: str | None = None
        self.shadowed = False
        self.looked_bytes = -1  # the size at which there was no whole line to read
        self.missing_since_us: int | None = None
        self._descriptor: int | None = None

    @property
    def key(self) -> FileKey | None:
        """Which file this is; None before its first line is there."""
        return None if self.head is None else FileKey(self.inode, self.head)

    @property
    def is_open(self) -> bool:
        """Whether the file stays readable when it is deleted."""
        return self._descriptor is not None

    @property
    def unread_bytes(self) -> int:
        """How much is left to read, by the last listing."""
        return max(0, self.size_bytes - self.read.offset)

    def see(self, listed: Listed) -> None:
        """Note what a listing shows."""
        self.path, self.number, self.size_bytes = listed.path, listed.number, listed.size_bytes

    def check(self, *, ended: bool = False) -> State:
        """Open it if need be and see whether it is still the same file; refreshes ``size_bytes``.

        ``ended`` takes an unfinished first line for a whole one.
        """
        if self._descriptor is None and not self._open():
            return "gone"
        assert self._descriptor is not None
        self.size_bytes = os.fstat(self._descriptor).st_size
        first = os.pread(self._descriptor, HEAD_BYTES_MAX, 0)
        head = head_of(first)
        if head is None and first and (ended or self.head is not None):
            head = head_of(first + b"\n")
        if self.head is not None and (head != self.head or self.size_bytes < self.read.offset):
            return "replaced"
        self.head = head
        return "same"

    def window(self, size_bytes: int) -> bytes:
        """The next bytes, at most ``size_bytes``. Call ``check`` before."""
        assert self._descriptor is not None
        return os.pread(self._descriptor, size_bytes, self.read.offset)

    def rewind(self, mark: Mark | None) -> None:
        """Read on from ``mark``, or from the beginning."""
        self.read = mark.position if mark else Position()
        self.looked_bytes = -1

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> bool:
        with contextlib.suppress(OSError):  # rotated, deleted or made unreadable since
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_ino == self.inode:
                self._descriptor = descriptor
                return True
            os.close(descriptor)
        return False
