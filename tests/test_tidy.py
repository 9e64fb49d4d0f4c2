"""Style is a test: sizes, names, docstrings, and what must never be in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    "redline", "collectors", "streams", "alerting", "dashboards", "serving", "migrations",
    "embedded", "cli", "bench",
)  # fmt: skip
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines()]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_source_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module docstring is missing"
    assert text.count("\n") <= LINES_MAX
    assert path.stem not in VAGUE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno
            assert lines <= FUNCTION_LINES_MAX, f"{node.name}: {lines} lines"


def test_the_median_file_is_short() -> None:
    lengths = sorted(path.read_text().count("\n") for path in sources() if path.stem != "__init__")
    assert lengths[len(lengths) // 2] <= 200


def test_no_promise_instead_of_code() -> None:
    pattern = re.compile(r"NotImplementedError|\b(TODO|FIXME|XXX)\b")
    found = [str(path) for path in sources() if pattern.search(path.read_text(encoding="utf-8"))]
    assert not found


def test_no_machine_path_in_the_project() -> None:
    pattern = re.compile(r"/(work|root|farm)/[a-z.]")
    suffixes = {".py", ".md", ".yml", ".yaml", ".toml", ".sql", ".js", ".css", ".html", ""}
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in suffixes and path.is_file() and pattern.search(path.read_text("utf-8"))
    ]
    assert not found


def test_every_package_has_an_init() -> None:
    folders = {path.parent for path in sources()} | {
        path.parent for path in (ROOT / "tests").rglob("*.py")
    }
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]
