"""Writes a rotated request log as the vLLM plug-in does."""

from __future__ import annotations

from pathlib import Path

from redline.codec import encode_json
from redline.records import RequestRecord


def record(instance: str, seq: int, **fields: object) -> RequestRecord:
    values: dict[str, object] = {
        "request_id": f"{instance}-{seq}",
        "seq": seq,
        "ts_arrival_us": 1_764_000_000_000_000 + seq,
        "ts_end_us": 1_764_000_000_100_000 + seq,
        "instance": instance,
        "model": "llama",
        "version": "v1",
        "tenant": "acme",
        "prompt_tokens": 100 + seq % 7,
        "completion_tokens": 20,
        "e2e_us": 100_000,
    }
    return RequestRecord(**{**values, **fields})  # type: ignore[arg-type]


class LogWriter:
    """Appends to ``<directory>/<instance>/requests.ndjson``; renames it when it is large."""

    def __init__(
        self, directory: Path, instance: str, rotate_bytes: int = 1 << 40, keep: int = 1000
    ) -> None:
        self.path = directory / instance / "requests.ndjson"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.instance = instance
        self.seq = 0
        self.rotations = 0
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._file = self.path.open("ab")

    def write(self, count: int = 1, **fields: object) -> None:
        for _ in range(count):
            self.seq += 1
            self.write_bytes(encode_json(record(self.instance, self.seq, **fields)) + b"\n")

    def write_bytes(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        if self._file.tell() >= self._rotate_bytes:
            self.rotate()

    def rotate(self) -> None:
        self._file.close()
        self.rotations += 1
        numbered = self.path.with_name
        numbered(f"requests.ndjson.{self._keep}").unlink(missing_ok=True)
        for number in range(min(self._keep, self.rotations) - 1, 0, -1):
            older = numbered(f"requests.ndjson.{number}")
            if older.exists():
                older.rename(numbered(f"requests.ndjson.{number + 1}"))
        self.path.rename(numbered("requests.ndjson.1"))
        self._file = self.path.open("ab")

    def close(self) -> None:
        self._file.close()
