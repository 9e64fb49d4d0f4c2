"""The process says in one line what is wrong and exits with the agreed code."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import yaml

from tests.streams.stack import free_port


def run(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    config = tmp_path / "redline.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(yaml.safe_dump({"streams": {"port": taken.getsockname()[1]}}))
        result = run(config)
    assert result.returncode == 2
    assert "streams.port" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_contradicting_prices_are_refused_before_anything_starts(tmp_path: Path) -> None:
    config = tmp_path / "redline.yaml"
    row = {"sku": "H100", "price": "2.10", "valid_from": "2024-01-01"}
    config.write_text(yaml.safe_dump({"prices": [row, row], "streams": {"port": free_port()}}))
    result = run(config)
    assert result.returncode == 2
    assert "overlaps" in result.stderr
