"""Where requests that were pushed wait for the tailer: one NDJSON log an instance, on disk.

``write`` returns once the lines are synced, so that a 200 is a promise. A span that was written is
known by its id: an exporter that sends it again, also after a restart, adds nothing. Files that
Kafka has are deleted; when those that it has not fill the limit, nothing more is taken. This file
refuses to publish. Not thread-safe: one call at a time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from collectors.otlp.requests import instance_of, to_record
from collectors.otlp.span import Span
from redline.codec import encode_json
from redline.errors import Backpressure, RecordInvalid

ROTATE_BYTES = 8 * 1024 * 1024
KNOWN_SPANS = 100_000  # an instance: minutes at thousands of requests per second
INSTANCES_MAX = 1_000
NAME = "requests.ndjson"


class _Line(msgspec.Struct):
    span_id: str
    seq: int


_line_decoder = msgspec.json.Decoder(_Line)


class Spool:
    """All instances' logs below ``folder``. ``is_published(inode, size_bytes)`` asks the tailer."""

    def __init__(
        self, folder: Path, bytes_max: int, is_published: Callable[[int, int], bool]
    ) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._is_published = is_published
        self._logs: dict[str, _InstanceLog] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, spans: Sequence[Span]) -> tuple[int, list[str]]:
        """Write ``llm_request`` spans durably. Returns how many are new, and why others are not.

        Raises:
            Backpressure: the disk or the limit is full; some may be written, send all again.
        """
        groups: dict[str, list[Span]] = {}
        reasons: list[str] = []
        for span in spans:
            try:
                to_record(span, 0)
            except RecordInvalid as error:
                reasons.append(str(error))
                continue
            groups.setdefault(instance_of(span), []).append(span)
        try:
            self._make_room()
            return sum(self._log(name).append(mine) for name, mine in groups.items()), reasons
        except OSError as error:
            raise Backpressure(f"the span spool cannot be written: {error}") from error

    def close(self) -> None:
        """Close all files."""
        for log in self._logs.values():
            log.close()

    def _make_room(self) -> None:
        used = 0
        for path in self.folder.glob(f"*/{NAME}*"):
            status = path.stat()
            if path.name != NAME and self._is_published(status.st_ino, status.st_size):
                path.unlink()
            else:
                used += status.st_size
        if used >= self._bytes_max:
            raise Backpressure(f"{used} bytes of spans wait for Kafka")

    def _log(self, instance: str) -> _InstanceLog:
        log = self._logs.get(instance)
        if log is None:
            if len(self._logs) >= INSTANCES_MAX:
                raise Backpressure(f"spans of more than {INSTANCES_MAX} instances")
            name = quote(instance, safe=" ")[:200].replace(".", "%2E")
            log = self._logs[instance] = _InstanceLog(self.folder / name)
        return log


class _InstanceLog:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / NAME
        self._seq = 0
        self._known: OrderedDict[str, None] = OrderedDict()
        older = sorted(folder.glob(f"{NAME}.*"), key=lambda path: -int(path.suffix[1:]))
        for path in [*older, self._path]:
            if path.exists():
                self._remember(path.read_bytes())
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        whole = self._path.read_bytes()
        self._size = whole.rfind(b"\n") + 1
        os.ftruncate(self._file, self._size)  # half a line was never promised

    def append(self, spans: Iterable[Span]) -> int:
        """Write and sync those that are new; how many they are."""
        if self._size >= ROTATE_BYTES:
            self._rotate()
        fresh = {span.span_id: span for span in spans if span.span_id not in self._known}
        data = b"".join(
            encode_json(to_record(span, self._seq + number))[:-1]
            + f',"span_id":"{span.span_id}"}}\n'.encode()
            for number, span in enumerate(fresh.values(), 1)
        )
        try:
            written = os.pwrite(self._file, data, self._size)
            if written < len(data):
                raise OSError(f"{written} of {len(data)} bytes")
            os.fdatasync(self._file)
        except OSError:
            # what was not promised must not stay: it comes again
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._seq += len(fresh)
        self._note(fresh)
        return len(fresh)

    def close(self) -> None:
        os.close(self._file)

    def _rotate(self) -> None:
        numbers = [int(path.suffix[1:]) for path in self._path.parent.glob(f"{NAME}.*")]
        for number in sorted(numbers, reverse=True):
            self._numbered(number).rename(self._numbered(number + 1))
        self._path.rename(self._numbered(1))
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = 0

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{NAME}.{number}")

    def _remember(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                found = _line_decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            self._seq = max(self._seq, found.seq)
            self._note([found.span_id])

    def _note(self, span_ids: Iterable[str]) -> None:
        self._known.update(dict.fromkeys(span_ids))
        while len(self._known) > KNOWN_SPANS:
            self._known.popitem(last=False)
