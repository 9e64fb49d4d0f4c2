"""The request logs of the fleet: one NDJSON file per instance, rotated by size.

The event loop only appends to a bounded queue; one thread writes and flushes. What cannot be
queued or written is counted, never waited for. Sequence numbers go on after a restart.
This file refuses to look into the lines, except for the last ``seq`` of a file that exists.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

import msgspec

from redline.log import get_logger

FLUSH_MS = 50
QUEUE_LINES_MAX = 200_000
TAIL_BYTES = 64 * 1024
FILE_NAME = "requests.ndjson"


class _SeqOnly(msgspec.Struct):
    seq: int


_seq_decoder = msgspec.json.Decoder(_SeqOnly)


class _LogFile:
    """One instance's file. Used by the writer thread only, once it runs."""

    def __init__(self, folder: Path, rotate_bytes: int, keep: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._open()

    def write(self, lines: list[bytes]) -> None:
        data = b"\n".join(lines) + b"\n"
        if self._size and self._size + len(data) > self._rotate_bytes:
            self._rotate()
        self._file.write(data)
        self._file.flush()
        self._size += len(data)

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        self._file: BinaryIO = self.path.open("ab")
        self._size = self.path.stat().st_size
        if self._size and not _tail(self.path).endswith(b"\n"):
            self._file.write(b"\n")  # a crash tore the last line: do not glue the next one to it
            self._file.flush()
            self._size += 1

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._keep, 0, -1):
            older = self.path.with_name(f"{FILE_NAME}.{number}")
            if not older.exists():
                continue
            if number == self._keep:
                older.unlink()
            else:
                older.rename(self.path.with_name(f"{FILE_NAME}.{number + 1}"))
        self.path.rename(self.path.with_name(f"{FILE_NAME}.1"))
        self._open()


class RequestLog:
    """The logs of all instances of this process."""

    def __init__(
        self,
        directory: Path,
        instances: list[str],
        *,
        rotate_bytes: int = 64 * 1024 * 1024,
        keep: int = 16,
    ) -> None:
        self._files = {name: _LogFile(directory / name, rotate_bytes, keep) for name in instances}
        self._seqs = {name: last_seq(directory / name) for name in instances}
        self._queue: deque[tuple[str, bytes]] = deque()
        self._stopping = threading.Event()
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def next_seq(self, instance: str) -> int:
        """The next sequence number of ``instance``."""
        self._seqs[instance] += 1
        return self._seqs[instance]

    def append(self, instance: str, line: bytes) -> None:
        """Queue one line, without its newline; counted in ``dropped`` if the queue is full."""
        if len(self._queue) >= QUEUE_LINES_MAX:
            self.dropped += 1
            return
        self._queue.append((instance, line))

    def close(self) -> None:
        """Write what is queued and stop the thread. Safe to call twice."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_MS / 1000):
            self._drain()
        self._drain()
        for file in self._files.values():
            file.close()

    def _drain(self) -> None:
        lines: dict[str, list[bytes]] = {}
        while self._queue:
            instance, line = self._queue.popleft()
            lines.setdefault(instance, []).append(line)
        for instance, batch in lines.items():
            try:
                self._files[instance].write(batch)
                self.written += len(batch)
            except OSError as error:
                self.dropped += len(batch)
                get_logger().error("request_log_failed", instance=instance, error=str(error))


def last_seq(folder: Path) -> int:
    """The last sequence number in ``folder``'s newest lines; 0 if there is none."""
    for name in (FILE_NAME, f"{FILE_NAME}.1"):
        path = folder / name
        if not path.exists():
            continue
        for line in reversed(_tail(path).split(b"\n")):
            try:
                return _seq_decoder.decode(line).seq
            except msgspec.DecodeError:
                continue
    return 0


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        return file.read()
