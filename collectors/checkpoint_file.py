"""Keeps the checkpoint on disk: replaced as a whole, never half written. One process at a time.

It refuses to guess: a file that cannot be read is set aside, with its reason, and the collector
goes on from what Kafka says.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from collectors.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from redline.errors import ConfigFault, RecordInvalid
from redline.log import get_logger

_log = get_logger()


class CheckpointFile:
    """``<folder>/checkpoint.json``, and a lock so that no second collector publishes the same logs.

    Raises:
        ConfigFault: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "checkpoint.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigFault(
                "data_dir", str(folder), str(error), "make it writable, or name another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigFault(
                "data_dir",
                str(folder),
                "another collectors process uses it",
                "stop that one, or give each its own data_dir",
            ) from error

    def load(self) -> Checkpoint | None:
        """The saved checkpoint; None if there is none that can be read."""
        try:
            return decode_checkpoint(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except RecordInvalid as error:
            aside = self._path.with_suffix(".unreadable")
            self._path.replace(aside)
            _log.error("checkpoint_unreadable", reason=str(error), moved_to=str(aside))
            return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write beside, sync, rename: after a power cut there is the old one or the new one."""
        beside = self._path.with_suffix(".writing")
        with beside.open("wb") as file:
            file.write(encode_checkpoint(checkpoint))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let another process have the lock."""
        os.close(self._lock)
