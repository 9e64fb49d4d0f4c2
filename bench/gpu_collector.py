"""What polling GPUs costs, on the official binding and a C library that answers at once.

    python -m bench.gpu_collector [--gpus 8] [--seconds 60]

It prints CPU time as a share of one core. A real driver takes its own time on top, mostly in the
kernel and in the slow fields, which are read each 30 s. It refuses to run without gcc.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Build the library, poll in a child process, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        _poll(chosen.gpus, chosen.seconds)
        return
    gcc = shutil.which("gcc")
    if gcc is None:
        sys.exit("gcc is needed to build the fake NVML")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libnvidia-ml.so.1"
        source = ROOT / "tests" / "collectors" / "fake_nvml.c"
        subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        state = Path(folder) / "nvml.txt"
        state.write_text(_state(chosen.gpus))
        command = [sys.executable, "-m", "bench.gpu_collector", "--child"]
        command += ["--gpus", str(chosen.gpus), "--seconds", str(chosen.seconds)]
        env = {**os.environ, "LD_LIBRARY_PATH": folder, "FAKE_NVML": str(state)}
        subprocess.run(command, cwd=ROOT, env=env, check=True)


def _poll(gpus: int, seconds: float) -> None:
    from collectors.gpu_thread import GpuThread
    from collectors.metrics import Metrics
    from collectors.samples import gpu_entry
    from redline.records import GpuSample
    from redline.settings import GpuSettings

    taken: list[int] = []

    def sink(samples: Sequence[GpuSample]) -> None:
        taken.append(len([gpu_entry(sample) for sample in samples]))

    thread = GpuThread(GpuSettings(host="h1"), sink, Metrics())
    thread.start()
    time.sleep(2)
    before = len(taken), time.process_time(), time.monotonic()
    time.sleep(seconds)
    polls = len(taken) - before[0]
    cpu_s = time.process_time() - before[1]
    wall_s = time.monotonic() - before[2]
    thread.stop()
    thread.join(5)
    assert set(taken) == {gpus}
    print(f"{gpus} GPUs, {polls} polls in {wall_s:.0f} s: {100 * cpu_s / wall_s:.3f} % of a core,")
    print(f"{1e6 * cpu_s / max(1, polls) / gpus:.0f} µs of CPU time a GPU and poll")


def _state(gpus: int) -> str:
    values = {
        "name": "NVIDIA H100 80GB HBM3", "utilization": 89, "power_mw": 512345, "energy_mj": 9,
        "sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "reasons": 4, "temperature_c": 61,
        "memory_total": 85 * 10**9, "memory_used": 7 * 10**10, "memory_reserved": 5 * 10**8,
        "ecc_uncorrected": 0, "processes": 1, "nvlink_tx_kib": 1, "nvlink_rx_kib": 2,
    }  # fmt: skip
    lines = [f"count={gpus}"]
    for gpu in range(gpus):
        lines.append(f"{gpu}.uuid=GPU-{gpu}")
        lines += [f"{gpu}.{key}={value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
