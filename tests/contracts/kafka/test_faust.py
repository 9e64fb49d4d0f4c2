"""Faust, unmodified: its table comes back from the changelog after the worker was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.kafka.clients import Confluent, Target, unique, wait_until

KEYS = 5
ROUND = 20


def start(target: Target, name: str, data_dir: Path, log: Path) -> subprocess.Popen[bytes]:
    module = "tests.contracts.kafka.counting_app"
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, target.bootstrap, name, str(data_dir)],
            stdout=output,
            stderr=output,
        )


@pytest.mark.slow
def test_a_killed_workers_table_is_recovered(
    target: Target, confluent: Confluent, tmp_path: Path
) -> None:
    name = unique("counting")
    for suffix in ("in", "out"):
        confluent.create(2, name=f"{name}-{suffix}")
    log = tmp_path / "worker.log"
    consumer = confluent.consumer()
    consumer.subscribe([f"{name}-out"])
    counts: dict[bytes, int] = {}

    def counted(goal: int) -> bool:
        for message in consumer.consume(100, 0.2):
            assert message.error() is None, message.error()
            counts[message.key()] = max(counts.get(message.key(), 0), int(message.value()))
        return len(counts) == KEYS and all(count >= goal for count in counts.values())

    def send() -> None:
        keys = [b"k%d" % (i % KEYS) for i in range(ROUND * KEYS)]
        messages = [{"key": key, "value": b"x"} for key in keys]
        confluent.send(f"{name}-in", messages, partitioner="murmur2_random")

    worker = start(target, name, tmp_path / "first", log)
    try:
        send()
        wait_until(lambda: counted(ROUND), f"every key was counted; see {log}", 60)
        worker.kill()
        worker.wait()
        worker = start(target, name, tmp_path / "second", log)  # with nothing on its own disk
        send()
        wait_until(lambda: counted(2 * ROUND), "the counts went on from the changelog", 60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.wait()
        consumer.close()
