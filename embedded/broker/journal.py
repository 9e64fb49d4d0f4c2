"""The registry on disk: one JSON line an entry, appended before the change is acknowledged.

At start, and whenever it has grown well past what it says, the file is replaced by the shortest
one that says the same. A line without its end is what a kill left: it was never acknowledged
and is cut off. The file refuses to interpret entries.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from embedded.broker.registry import Entry, Registry
from redline.errors import ConfigFault

_REWRITE_AT_LEAST_BYTES = 4 << 20
_REWRITE_GROWTH = 4


class Journal:
    """The registry, and the file that it can be rebuilt from."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self.registry = Registry()
        self._path = path
        self._fsync = fsync
        self._encoder = msgspec.json.Encoder()
        self._load()
        self._descriptor = -1
        self._size_bytes = self._live_bytes = 0
        self._rewrite()

    def _load(self) -> None:
        if not self._path.exists():
            return
        decoder = msgspec.json.Decoder(Entry)
        *lines, _torn = self._path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                self.registry.apply(decoder.decode(line))
            except msgspec.DecodeError as error:
                raise ConfigFault(
                    "data_dir",
                    str(self._path),
                    f"line {number} of the journal is damaged ({error})",
                    "restore the file, or delete the line if what it says may be lost",
                ) from error

    def record(self, *entries: Entry) -> None:
        """Fold the entries and append them in one write. Raises ``OSError``; nothing applies then.

        The write is in the page cache when this returns, so it survives a killed process.
        """
        data = b"".join(self._encoder.encode(entry) + b"\n" for entry in entries)
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, self._size_bytes)
            raise
        if written != len(data):
            os.ftruncate(self._descriptor, self._size_bytes)
            raise OSError(f"{self._path.name}: {written} of {len(data)} bytes fit")
        if self._fsync:
            os.fdatasync(self._descriptor)
        self._size_bytes += written
        for entry in entries:
            self.registry.apply(entry)
        if self._size_bytes > max(_REWRITE_AT_LEAST_BYTES, _REWRITE_GROWTH * self._live_bytes):
            self._rewrite()

    def _rewrite(self) -> None:
        fresh = self._path.with_suffix(".tmp")
        data = b"".join(self._encoder.encode(e) + b"\n" for e in self.registry.snapshot())
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags)
        self._size_bytes = self._live_bytes = len(data)

    def close(self) -> None:
        """Give the file handle back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
