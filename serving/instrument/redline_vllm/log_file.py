# mypy: disable-error-code="import-not-found"
"""One writer's file: lines with consecutive numbers, rotated by size and age.

Each process of an instance takes the first free slot, ``requests-0.ndjson``, ``requests-1.ndjson``,
and holds it by a lock that the kernel drops with the process. So a restarted server goes on with
the file and its numbers, and two servers with one name do not write into each other's lines. A
number that is missing was dropped here, and the next line's ``dropped_before`` says so, or it was
lost on the way. Used by the writer thread only. This file refuses to retry: it raises OSError, and
has then written nothing of what it was given.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from redline_vllm.record import RequestRecord

SLOTS_MAX = 256
_TAIL_BYTES = 64 * 1024
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC

_encoder = msgspec.json.Encoder()


class _SeqOnly(msgspec.Struct):
    seq: int


_seq_decoder = msgspec.json.Decoder(_SeqOnly)


class LogFile:
    """The file of this process. ``seq`` is the last number that was written.

    Raises:
        OSError: the folder cannot be made, no slot is free, or the file cannot be opened.
    """

    def __init__(self, folder: Path, *, rotate_bytes: int, rotate_s: int, keep: int) -> None:
        self._rotate_bytes = rotate_bytes
        self._rotate_s = rotate_s
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self.path = _take_slot(folder)
        self.seq = _last_seq(self.path)
        self._open()

    def write(self, records: Sequence[RequestRecord], dropped: int) -> None:
        """Number and append ``records``; ``dropped`` requests could not be logged before them."""
        seq = self.seq + dropped
        lines = []
        for record in records:
            seq += 1
            record.seq = seq
            record.dropped_before = dropped
            dropped = 0
            lines.append(_encoder.encode(record))
        data = b"\n".join(lines) + b"\n"
        if self._size and self._size + len(data) > self._rotate_bytes:
            self._rotate()
        self._append(data)
        self.seq = seq

    def tend(self) -> None:
        """Rotate a file that is old; open a new one where somebody took the file away."""
        if self._size and time.monotonic() - self._opened_s >= self._rotate_s:
            self._rotate()
        try:
            there = self.path.stat().st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            there = False
        if not there:
            os.close(self._file)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    def close(self) -> None:
        """Close the file and free the slot."""
        os.close(self._file)
        os.close(self._lock)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self._size)  # half a line would be glued to the next one
            raise
        self._size += len(data)

    def _open(self) -> None:
        self._file = os.open(self.path, _FLAGS, 0o640)
        self._size = os.fstat(self._file).st_size
        self._opened_s = time.monotonic()
        if self._size and not _tail(self.path).endswith(b"\n"):
            self._append(b"\n")  # a crash tore the last line

    def _rotate(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if not older.exists():
                continue
            if number == self._keep:
                older.unlink()
            else:
                older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        if self.path.exists():
            self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        old = self._file
        self._open()
        os.close(old)


def _take_slot(folder: Path) -> tuple[int, Path]:
    for slot in range(SLOTS_MAX):
        name = folder / f".requests-{slot}.lock"
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except OSError:
            os.close(lock)
            raise
        return lock, folder / f"requests-{slot}.ndjson"
    raise OSError(f"{folder}: all {SLOTS_MAX} writers' slots are taken")


def _last_seq(path: Path) -> int:
    for candidate in (path, path.with_name(f"{path.name}.1")):
        if not candidate.exists():
            continue
        for line in reversed(_tail(candidate).split(b"\n")):
            try:
                return _seq_decoder.decode(line).seq
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return 0


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read()
