"""What a running ``redline up`` leaves for other terminals: one lock, one JSON file.

The lock (flock) says whether a supervisor runs; the file says what it runs. Both sit in
``<data_dir>/run``. This file refuses to start or stop processes.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from redline.errors import Fault


class ComponentState(msgspec.Struct, kw_only=True):
    """One child as it stands."""

    name: str
    state: str = "waiting"  # waiting, starting, ready, restarting, stopped, done, failed
    pid: int = 0
    address: str = ""
    restarts: int = 0
    ready_after_s: float | None = None
    log: str = ""


class RunState(msgspec.Struct, kw_only=True):
    """The supervisor and its children."""

    pid: int
    started_at: str
    config: str
    components: list[ComponentState] = []


class AlreadyRunning(Fault):
    """Another supervisor holds this data directory."""


def run_directory(data_dir: Path) -> Path:
    """Where the lock, the state and the children's logs are."""
    return data_dir / "run"


def take_lock(data_dir: Path) -> IO[str]:
    """Become the one supervisor of this data directory, until the returned file is closed.

    Raises:
        AlreadyRunning: names the process and the way to stop it.
    """
    directory = run_directory(data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        state = read(data_dir)
        raise AlreadyRunning(
            f"Redline already runs on {data_dir} (process {state.pid if state else 'unknown'}). "
            f"Fix: `redline down`, or another data_dir."
        ) from None
    return lock


def is_running(data_dir: Path) -> bool:
    """Whether a supervisor holds the lock."""
    path = run_directory(data_dir) / "lock"
    if not path.exists():
        return False
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def write(data_dir: Path, state: RunState) -> None:
    """Replace the state file in one step."""
    directory = run_directory(data_dir)
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".state-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(state))
    Path(name).replace(directory / "state.json")


def read(data_dir: Path) -> RunState | None:
    """The last written state, or None."""
    try:
        content = (run_directory(data_dir) / "state.json").read_bytes()
        return msgspec.json.decode(content, type=RunState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
