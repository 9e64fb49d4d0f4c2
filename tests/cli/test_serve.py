"""``redline serve`` as typed: what it prints, what it refuses, and what it becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def serve(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "serve", *arguments],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_dry_run_prints_one_command_and_needs_no_vllm(tmp_path: Path) -> None:
    made = serve("org/m", "--dry-run", "--instance", "a b", "--", "--seed", "7", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("\n") == 1
    assert "REDLINE_INSTANCE='a b'" in made.stdout
    assert "serve org/m --host 127.0.0.1 --port 8000" in made.stdout
    assert made.stdout.rstrip().endswith("--seed 7")
    assert not (tmp_path / ".redline").exists()


def test_the_checkpoint_on_disk_decides_whether_weights_are_quantized(tmp_path: Path) -> None:
    for method, quantizes in (("", True), ("compressed-tensors", False)):
        config = {"quantization_config": {"quant_method": method}} if method else {}
        (tmp_path / "config.json").write_text(json.dumps(config))
        made = serve(str(tmp_path), "--dry-run", cwd=tmp_path)
        assert ("--quantization fp8" in made.stdout) == quantizes
    (tmp_path / "config.json").write_text("{")
    assert serve(str(tmp_path), "--dry-run", cwd=tmp_path).returncode == 2


def fake_python(folder: Path, probe_status: int) -> Path:
    """Answers the probe as a Python with or without vLLM, and else says what it was called with."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit {probe_status}\necho "called $* dir=$REDLINE_REGION"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("status", "word"), [(3, "no vLLM"), (4, "plug-in"), (9, "ended with 9")])
def test_a_python_without_vllm_or_plugin_is_refused(tmp_path: Path, status: int, word: str) -> None:
    made = serve("m", "--python", str(fake_python(tmp_path, status)), cwd=tmp_path)
    assert made.returncode == 2
    assert word in made.stderr
    assert made.stderr.count("\n") == 1
    assert "called" not in made.stdout


def test_a_python_that_is_missing_is_refused(tmp_path: Path) -> None:
    made = serve("m", "--python", str(tmp_path / "none"), cwd=tmp_path)
    assert made.returncode == 2
    assert "--python" in made.stderr


def test_it_becomes_the_command(tmp_path: Path) -> None:
    python = fake_python(tmp_path, 0)
    made = serve("m", "--python", str(python), "--region", "eu", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "called -m vllm.entrypoints.cli.main serve m" in made.stdout
    assert made.stdout.rstrip().endswith("dir=eu")
    assert (tmp_path / ".redline" / "logs").is_dir()
