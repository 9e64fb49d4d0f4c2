"""Runs the GPU thread on the official binding and prints each sample as a JSON line."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from collectors import gpu_thread
from collectors.metrics import Metrics
from redline import log
from redline.codec import encode_json
from redline.records import GpuSample
from redline.settings import GpuSettings


def main() -> None:
    log.configure("info", "json", "gpus")
    gpu_thread.RETRY_S = 0.1

    def sink(samples: Sequence[GpuSample]) -> None:
        for sample in samples:
            sys.stdout.buffer.write(encode_json(sample) + b"\n")
        sys.stdout.buffer.flush()

    thread = gpu_thread.GpuThread(GpuSettings(host="h1", fast_s=0.02, slow_s=0.1), sink, Metrics())
    thread.start()
    while thread.is_alive():
        time.sleep(0.1)


if __name__ == "__main__":
    main()
