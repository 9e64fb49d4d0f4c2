"""Unmodified nvidia-ml-py on a C library that says what it is told to: every error path."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redline.codec import decode_json
from redline.records import GpuSample
from tests.collectors.processes import ROOT

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="no gcc here to build the fake NVML")

FULL = {
    "uuid": "GPU-0", "name": "NVIDIA H100 80GB HBM3", "utilization": "89", "power_mw": "512345",
    "energy_mj": "9000000", "sm_clock_mhz": "1980", "memory_clock_mhz": "2619", "reasons": "0x44",
    "temperature_c": "61", "memory_total": "85000000000", "memory_used": "70000000000",
    "memory_reserved": "500000000", "ecc_uncorrected": "2", "processes": "3",
    "nvlink_tx_kib": "1000", "nvlink_rx_kib": "2000",
}  # fmt: skip


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, flags in {"new": [], "old": ["-DOLD_DRIVER"]}.items():
        folder = tmp_path_factory.mktemp(name)
        library = folder / "libnvidia-ml.so.1"
        source = Path(__file__).parent / "fake_nvml.c"
        assert GCC is not None
        subprocess.run([GCC, "-shared", "-fPIC", "-O1", "-Wall", *flags, "-o", library, source],
                       check=True)  # fmt: skip
        made[name] = folder
    return made


class Gpus:
    """The fake machine and the process that watches it."""

    def __init__(self, library: Path, folder: Path, **state: str) -> None:
        self._state = folder / "nvml.txt"
        self.set(None, **state)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.collectors.nvml_printer"],
            cwd=ROOT,
            env={**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(self._state)},
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("wb"),
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def set(self, machine: dict[str, str] | None = None, /, **changes: str) -> None:
        """The state of one GPU: FULL, with ``changes``; an empty value takes a key away."""
        gpu = {key: value for key, value in {**FULL, **changes}.items() if value}
        lines = {"count": "1", **(machine or {})} | {f"0.{key}": v for key, v in gpu.items()}
        beside = self._state.with_suffix(".new")
        beside.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        beside.replace(self._state)

    def until(self, condition: Callable[[GpuSample], bool]) -> GpuSample:
        end = time.monotonic() + 20
        last = None
        while time.monotonic() < end:
            try:
                last = decode_json(self._lines.get(timeout=0.5), GpuSample)
            except queue.Empty:
                continue
            if condition(last):
                return last
        raise AssertionError(f"no such sample; the last one was {last}")

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes; what came before is passed over."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                self._lines.get(timeout=seconds)
            except queue.Empty:
                return True
        return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)


@pytest.fixture
def start(libraries: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Gpus]]:
    running: list[Gpus] = []

    def begin(library: str = "new", **state: str) -> Gpus:
        running.append(Gpus(libraries[library], tmp_path, **state))
        return running[-1]

    yield begin
    for one in running:
        one.end()


def test_every_value_in_its_unit(start: Callable[..., Gpus]) -> None:
    sample = start().until(lambda found: found.energy_delta_j is not None)
    assert (sample.gpu_uuid, sample.gpu_name) == ("GPU-0", FULL["name"])
    assert (sample.utilization, sample.power_w, sample.energy_j) == (0.89, 512.345, 9_000.0)
    assert (sample.sm_clock_mhz, sample.memory_clock_mhz) == (1_980, 2_619)
    assert (sample.throttle_reasons, sample.temperature_c) == (0x44, 61)
    memory = (sample.memory_used_bytes, sample.memory_reserved_bytes, sample.memory_total_bytes)
    assert memory == (70_000_000_000, 500_000_000, 85_000_000_000)
    assert (sample.ecc_uncorrected_total, sample.processes) == (2, 3)
    assert (sample.nvlink_tx_bytes, sample.nvlink_rx_bytes) == (1000 * 1024, 2000 * 1024)
    assert sample.energy_delta_j == 0


def test_not_supported_is_none_and_the_rest_stays(start: Callable[..., Gpus]) -> None:
    sample = start(power_mw="", nvlink_tx_kib="", nvlink_rx_kib="", processes="!4").until(
        lambda found: found.ecc_uncorrected_total == 2
    )
    assert (sample.power_w, sample.nvlink_tx_bytes, sample.processes) == (None, None, None)
    assert sample.utilization == 0.89


def test_one_field_of_a_call_may_fail_alone(start: Callable[..., Gpus]) -> None:
    sample = start(nvlink_rx_kib="").until(lambda found: found.nvlink_tx_bytes is not None)
    assert sample.nvlink_rx_bytes is None


def test_functions_that_an_old_driver_lacks_have_their_substitutes(
    start: Callable[..., Gpus],
) -> None:
    sample = start("old").until(lambda found: found.ecc_uncorrected_total == 2)
    assert sample.throttle_reasons == 0x44
    assert (sample.memory_used_bytes, sample.memory_reserved_bytes) == (70_500_000_000, None)


def test_a_gpu_that_falls_off_the_bus_says_so_with_its_xid_and_may_come_back(
    start: Callable[..., Gpus],
) -> None:
    gpus = start()
    gpus.until(lambda found: not found.lost)
    gpus.set({"events": "0:79,0:45"}, lost="15")
    sample = gpus.until(lambda found: found.xid is not None)
    assert (sample.xid, sample.gpu_uuid) == (79, "GPU-0")  # the first is the cause
    sample = gpus.until(lambda found: found.lost)
    assert (sample.power_w, sample.utilization) == (None, None)
    gpus.set()
    assert gpus.until(lambda found: not found.lost).gpu_uuid == "GPU-0"


def test_an_xid_of_a_gpu_that_works_is_on_one_sample(start: Callable[..., Gpus]) -> None:
    gpus = start()
    gpus.until(lambda found: True)
    gpus.set({"events": "0:48"})
    assert gpus.until(lambda found: found.xid is not None).xid == 48
    assert gpus.until(lambda found: True).xid is None


def test_energy_is_a_difference_and_a_reset_is_none(start: Callable[..., Gpus]) -> None:
    gpus = start()
    gpus.until(lambda found: found.energy_delta_j == 0)
    gpus.set(energy_mj="9005000")
    assert gpus.until(lambda found: found.energy_delta_j != 0).energy_delta_j == 5
    gpus.set(energy_mj="1000")
    assert gpus.until(lambda found: found.energy_j == 1).energy_delta_j is None
    gpus.set(energy_mj="3000")
    assert gpus.until(lambda found: found.energy_j == 3).energy_delta_j == 2


def test_a_driver_that_is_unloaded_and_loaded_anew_is_found_again(
    start: Callable[..., Gpus],
) -> None:
    gpus = start()
    gpus.until(lambda found: True)
    gpus.set({"driver": "gone"})
    assert gpus.silent(0.6)
    gpus.set({"generation": "2"}, power_mw="100000")
    assert gpus.until(lambda found: True).power_w == 100
    gpus.set({"generation": "3"}, power_mw="200000")  # reloaded between two polls
    assert gpus.until(lambda found: found.power_w == 200)
