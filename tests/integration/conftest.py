"""Run the ``redline`` command as a user does, in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REDLINE = (sys.executable, "-m", "cli.main")


class Run:
    """A ``redline`` process; everything it started ends with it."""

    def __init__(self, arguments: tuple[str, ...], directory: Path) -> None:
        self.process = subprocess.Popen(
            [*REDLINE, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
        )

    def end(self, within_s: float) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        try:
            out, err = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            out, err = self.process.communicate(timeout=30)
            pytest.fail(f"not over within {within_s} s:\n{out}\n{err}")
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """``start("up", "--config", "x.yaml")`` begins a command."""
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(Run(arguments, tmp_path))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            try:
                run.process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                run.process.kill()


def wait_for(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll ``condition`` until it holds; fail with ``what`` if it does not."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.1)
