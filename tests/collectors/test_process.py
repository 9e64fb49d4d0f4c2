"""The real process against the embedded broker."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from redline.codec import decode_json
from redline.records import DeadLetter
from redline.topics import DEAD_LETTERS
from tests.collectors.log_writer import LogWriter
from tests.collectors.processes import Process, read_requests, read_topic, write_config


def start_collectors(config: Path, tmp_path: Path, **env: str) -> Process:
    return Process("collectors", "--config", str(config), log=tmp_path / "collectors.log", env=env)


async def wait_for_requests(
    broker: Process, count: int, deadline_s: float = 30.0
) -> list[tuple[str, int]]:
    end = time.monotonic() + deadline_s
    found: list[tuple[str, int]] = []
    while time.monotonic() < end:
        found = await read_requests(broker.port)
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} of {count} records in Kafka after {deadline_s} s")


async def test_lines_reach_kafka_in_order_and_sigterm_ends_it_cleanly(
    broker: Process, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "redline.yaml", broker.port)
    writer = LogWriter(tmp_path / "data" / "logs", "e1")
    writer.write(500)
    collectors = start_collectors(config, tmp_path)
    try:
        collectors.wait_until_listening()
        writer.write(500)
        writer.rotate()
        writer.write(3)
        found = await wait_for_requests(broker, 1003)
        assert found == [("e1", seq) for seq in range(1, 1004)]
        writer.write(1)  # not old enough to be published when the signal comes
        begun_s = time.monotonic()
        assert collectors.stop() == (0, b"")
        assert time.monotonic() - begun_s < 5
    finally:
        collectors.end()
    again = start_collectors(config, tmp_path)
    try:
        again.wait_until_listening()
        assert await wait_for_requests(broker, 1004) == [("e1", seq) for seq in range(1, 1005)]
    finally:
        again.end()


@pytest.mark.slow
async def test_sigkill_again_and_again_leaves_every_line_exactly_once(
    broker: Process, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "redline.yaml", broker.port, batch_age_ms=20)
    logs = tmp_path / "data" / "logs"
    writers = [LogWriter(logs, f"e{n}", rotate_bytes=60_000, keep=1000) for n in range(3)]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for writer in writers:
                writer.write(random.randint(1, 12))
                if random.random() < 0.1:
                    writer.seq += 1
                    writer.write_bytes(b'{"type":"request","seq":"x%d"}\n' % writer.seq)
            time.sleep(0.004)

    thread = threading.Thread(target=write)
    thread.start()
    kills = 0
    try:
        end = time.monotonic() + 25
        while time.monotonic() < end:
            collectors = start_collectors(config, tmp_path)
            try:
                collectors.wait_until_listening()
                time.sleep(random.uniform(0.05, 0.7))
            finally:
                collectors.kill()
            kills += 1
    finally:
        stop.set()
        thread.join()
    letters = sum(path.read_bytes().count(b'"seq":"x') for path in logs.glob("*/requests.ndjson*"))
    total = sum(writer.seq for writer in writers) - letters
    collectors = start_collectors(config, tmp_path)
    try:
        collectors.wait_until_listening()
        counts = Counter(await wait_for_requests(broker, total))
        dead = await read_topic(broker.port, DEAD_LETTERS.name, 1)
    finally:
        collectors.stop()
    assert kills >= 5
    assert [found for found, count in counts.items() if count > 1] == []
    assert len(counts) == total
    letter_counts = Counter((_letter(found).source, _letter(found).payload) for found in dead)
    assert [found for found, count in letter_counts.items() if count > 1] == []
    assert len(dead) == letters


def _letter(message: object) -> DeadLetter:
    return decode_json(message.value, DeadLetter)  # type: ignore[attr-defined]
