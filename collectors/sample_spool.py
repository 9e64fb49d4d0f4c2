"""Keeps messages on disk, in order, until Kafka took them: bounded, the oldest kept.

Files of a few MiB, each with a number that is never used again; the file that is read to its end is
deleted, so a spool that Kafka keeps up with is empty. How far the oldest file is read is in a file
beside it: after a crash the last messages may be sent again. It refuses to sync: it must outlive a
killed process, not a power cut.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from collectors.spool_frames import Frame, decode_frames, encode_frame
from redline.log import get_logger
from redline.ports import Message

SEGMENT_BYTES = 4 * 1024 * 1024
PEEK_BYTES = 512 * 1024
_SUFFIX = ".spool"

_log = get_logger()


class SampleSpool:
    """The spool in ``folder``. Safe to use from several threads.

    ``unread_bytes`` is how much waits, ``damaged_bytes`` how much could not be read back.
    """

    def __init__(self, folder: Path, bytes_max: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.damaged_bytes = 0
        self._folder = folder
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes = {
            int(path.stem): path.stat().st_size
            for path in folder.glob(f"*{_SUFFIX}")
            if path.stem.isdecimal()
        }
        # never append to a file that a dead process may have torn
        self._next = max(self._sizes, default=0) + 1
        self._writing: int | None = None
        self._read_bytes = self._load_cursor()

    @property
    def unread_bytes(self) -> int:
        """How much waits to be published."""
        return sum(self._sizes.values()) - self._read_bytes

    def append(self, messages: Sequence[tuple[Message, int]]) -> int:
        """Add messages, each with its number of records; how many of the first ones fitted.

        Raises:
            OSError: the disk does not take them; none was added.
        """
        with self._lock:
            room = self._bytes_max - self.unread_bytes
            taken: list[bytes] = []
            for message, records in messages:
                frame = encode_frame(message, records)
                room -= len(frame)
                if room < 0:
                    break
                taken.append(frame)
            if taken:
                self._write(b"".join(taken))
            return len(taken)

    def peek(self, size_bytes_max: int = PEEK_BYTES) -> list[Frame]:
        """The oldest messages, none if there are none. They stay until ``advance``."""
        with self._lock:
            while self._sizes:
                oldest = min(self._sizes)
                with self._path(oldest).open("rb") as file:
                    file.seek(self._read_bytes)
                    frames, whole = decode_frames(file.read(), size_bytes_max)
                if frames:
                    return frames
                if not whole:
                    lost = self._sizes[oldest] - self._read_bytes
                    self.damaged_bytes += lost
                    _log.error("spool_damaged", file=str(self._path(oldest)), bytes_lost=lost)
                self._drop(oldest)
            return []

    def advance(self, frames: Sequence[Frame]) -> None:
        """Forget the messages that ``peek`` showed: Kafka has them."""
        with self._lock:
            self._read_bytes += sum(frame.size_bytes for frame in frames)
            oldest = min(self._sizes)
            if self._read_bytes >= self._sizes[oldest]:
                self._drop(oldest)
            else:
                self._save_cursor(oldest)

    def _write(self, data: bytes) -> None:
        number = self._writing
        if number is None or self._sizes[number] + len(data) > self._segment_bytes:
            number, self._next = self._next, self._next + 1
        size = self._sizes.get(number, 0)
        path = self._path(number)
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):  # half a message must not stay before the next one
                os.truncate(path, size)
                if not size:
                    path.unlink()
            raise
        self._sizes[number] = size + len(data)
        self._writing = number

    def _drop(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(number).unlink()
        del self._sizes[number]
        self._read_bytes = 0
        if self._writing == number:
            self._writing = None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"

    def _load_cursor(self) -> int:
        try:
            number, offset = map(int, (self._folder / "cursor").read_text().split())
        except (OSError, ValueError):
            return 0
        # a cursor of a file that is gone says nothing about the ones that are there
        oldest = min(self._sizes, default=0)
        return offset if number == oldest and 0 <= offset <= self._sizes.get(oldest, 0) else 0

    def _save_cursor(self, number: int) -> None:
        beside = self._folder / "cursor.writing"
        beside.write_text(f"{number} {self._read_bytes}\n")
        beside.replace(self._folder / "cursor")
