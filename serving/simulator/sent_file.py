"""Which requests were sent and what became of them: NDJSON, one line each, when it is over.

This file refuses to wait for the disk in the event loop longer than one small buffered write.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import msgspec

FLUSH_S = 0.5


class SentLine(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as its client saw it."""

    request_id: str
    tenant: str
    sent_us: int
    end_us: int
    outcome: str  # ok, failed, aborted
    status_code: int  # 0: no answer
    first_chunk_us: int | None


class SentFile:
    """The file, or nothing where no path is given."""

    def __init__(self, path: Path | None) -> None:
        self._file: BinaryIO | None = None
        self._flushed_s = time.monotonic()
        self._encoder = msgspec.json.Encoder()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")

    def append(self, line: SentLine) -> None:
        """Add one line; it is on disk within FLUSH_S while lines keep coming, or at ``close``."""
        if self._file is None:
            return
        self._file.write(self._encoder.encode(line) + b"\n")
        now_s = time.monotonic()
        if now_s - self._flushed_s >= FLUSH_S:
            self._file.flush()
            self._flushed_s = now_s

    def close(self) -> None:
        """Flush and close. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
