"""The walls hold: import-linter passes, and a planted violation makes it fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "redline", "collectors", "streams", "alerting", "dashboards", "serving", "migrations",
    "embedded", "cli",
)  # fmt: skip


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=directory,
        env={"PYTHONPATH": str(directory), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_house_stands(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("streams/__init__.py", "import alerting", "Rooms never import each other"),
        ("redline/errors.py", "import streams", "The kernel imports no room"),
        ("alerting/__init__.py", "import cli", "Only the roof looks down"),
        ("redline/money.py", "import time", "Pure cores read no clock"),
        ("streams/panes.py", "import asyncio", "Pure cores read no clock"),
    ],
)
def test_a_planted_violation_fails(copy: Path, file: str, line: str, broken: str) -> None:
    path = copy / file
    text = path.read_text()
    marker = "from __future__ import annotations\n"
    planted = (
        text.replace(marker, f"{marker}\n{line}\n", 1) if marker in text else f"{text}{line}\n"
    )
    path.write_text(planted)
    result = lint(copy)
    assert result.returncode != 0
    assert any(broken in row and "BROKEN" in row for row in result.stdout.splitlines())
