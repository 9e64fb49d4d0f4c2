"""The real process against the embedded broker."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from redline.codec import decode_batch, decode_json
from redline.records import DeadLetter, DeployEvent, EngineSample, GpuSample
from redline.topics import DEAD_LETTERS, DEPLOYS, ENGINES, GPUS
from tests.collectors.log_writer import LogWriter
from tests.collectors.processes import (
    PARTITIONS,
    Process,
    free_port,
    read_requests,
    read_topic,
    start_broker,
    wait_for,
    write_config,
)


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


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def port_of(config: Path) -> int:
    port: int = yaml.safe_load(config.read_text())["collectors"]["port"]
    return port


async def test_kafka_may_come_later_and_go_away_in_between(tmp_path: Path) -> None:
    kafka_port = free_port()
    config = write_config(tmp_path / "redline.yaml", kafka_port, batch_age_ms=20)
    writer = LogWriter(tmp_path / "data" / "logs", "e1", rotate_bytes=20_000)
    writer.write(10)
    collectors = start_collectors(config, tmp_path)
    url = f"http://127.0.0.1:{port_of(config)}/healthz"
    broker = None
    try:
        status, body = wait_for(lambda: found if (found := get(url))[0] else None, "an answer")
        assert status == 503
        assert f"waiting for Kafka at 127.0.0.1:{kafka_port}" in body
        for _ in range(3):
            broker = start_broker(tmp_path / "broker", tmp_path / "broker.log", kafka_port)
            if collectors.port == 0:
                collectors.wait_until_listening()
            assert get(url)[0] == 200
            writer.write(200)
            await wait_for_requests(broker, writer.seq - 100)
            broker.kill()
            writer.write(200)
        broker = start_broker(tmp_path / "broker", tmp_path / "broker.log", kafka_port)
        found = await wait_for_requests(broker, writer.seq)
        assert found == [("e1", seq) for seq in range(1, writer.seq + 1)]
        broker.kill()
        begun_s = time.monotonic()
        assert collectors.stop()[0] == 0  # with lines that Kafka never took
        assert time.monotonic() - begun_s < 5
    finally:
        collectors.end()
        if broker is not None:
            broker.end()


async def test_a_broker_that_hangs_is_seen_and_what_it_got_from_the_dead_counts(
    broker: Process, tmp_path: Path
) -> None:
    """The killed collector's last messages are in the broker's sockets, not in its log."""
    config = write_config(tmp_path / "redline.yaml", broker.port, batch_age_ms=20)
    writer = LogWriter(tmp_path / "data" / "logs", "e1")
    collectors = start_collectors(config, tmp_path)
    url = f"http://127.0.0.1:{port_of(config)}/healthz"
    try:
        collectors.wait_until_listening()
        writer.write(100)
        await wait_for_requests(broker, 100)
        broker.signal(signal.SIGSTOP)
        writer.write(100)
        _, body = wait_for(lambda: found if (found := get(url))[0] == 503 else None, "503")
        assert "stopped acknowledging" in body
        collectors.kill()
        collectors = start_collectors(config, tmp_path)
        wait_for(lambda: get(url)[0] == 503, "an answer of the new one")
        broker.signal(signal.SIGCONT)
        collectors.wait_until_listening()
        writer.write(100)
        found = await wait_for_requests(broker, 300)
        assert found == [("e1", seq) for seq in range(1, 301)]
        assert get(url)[0] == 200
    finally:
        broker.signal(signal.SIGCONT)
        collectors.end()


def test_a_taken_port_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    config = write_config(tmp_path / "redline.yaml", 1)
    with socket.create_server(("127.0.0.1", port_of(config))):
        collectors = start_collectors(config, tmp_path)
        assert collectors.wait() == (2, b"")
    (line,) = collectors.log.read_text().splitlines()
    assert f"127.0.0.1:{port_of(config)} is already in use" in line
    assert "collectors.port" in line


def test_a_missing_directory_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    config = write_config(tmp_path / "redline.yaml", 1, log_directories=[missing])
    collectors = start_collectors(config, tmp_path)
    assert collectors.wait() == (2, b"")
    (line,) = collectors.log.read_text().splitlines()
    assert "collectors.log_directories.0" in line
    assert f"mkdir -p {missing}" in line


def test_other_partitions_than_configured_are_one_line_and_exit_code_2(
    broker: Process, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "redline.yaml", broker.port)
    first = start_collectors(config, tmp_path)
    first.wait_until_listening()
    assert first.stop()[0] == 0
    settings = yaml.safe_load(config.read_text())
    settings["kafka"]["partitions"] += 1
    config.write_text(yaml.safe_dump(settings))
    second = start_collectors(config, tmp_path)
    assert second.wait() == (2, b"")
    assert "kafka.partitions" in second.log.read_text().splitlines()[-1]


async def test_deploys_and_samples_reach_their_topics(broker: Process, tmp_path: Path) -> None:
    state = tmp_path / "nvml.json"
    state.write_text(json.dumps({"gpus": [{"uuid": "GPU-1", "name": "H100", "power_mw": 5_000}]}))
    config = write_config(
        tmp_path / "redline.yaml",
        broker.port,
        engines=[{"instance": "gone", "url": f"http://127.0.0.1:{free_port()}", "model": "m"}],
        engine_poll_s=0.1,
        gpu={"nvml_module": "redline.testing.nvml", "host": "h1", "fast_s": 0.1},
    )
    collectors = start_collectors(
        config, tmp_path, REDLINE_API_TOKEN="t0ken", REDLINE_FAKE_NVML_STATE=str(state)
    )
    try:
        collectors.wait_until_listening()
        request = urllib.request.Request(
            f"http://127.0.0.1:{collectors.port}/deploys",
            json.dumps({"model": "m", "version": "v2", "action": "deploy"}).encode(),
            {"Authorization": "Bearer t0ken", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 202
        deploys = await read_topic(broker.port, DEPLOYS.name, 1)
        assert decode_json(deploys[0].value, DeployEvent).version == "v2"
        end = time.monotonic() + 20
        engines: list[Any] = []
        gpus: list[Any] = []
        while not (engines and gpus) and time.monotonic() < end:
            engines = await read_topic(broker.port, ENGINES.name, PARTITIONS)
            gpus = await read_topic(broker.port, GPUS.name, PARTITIONS)
        assert not decode_batch(engines[0].value, EngineSample)[0].up
        assert decode_batch(gpus[0].value, GpuSample)[0].power_w == 5
        assert (engines[0].key, gpus[0].key) == (b"gone", b"h1")
        assert collectors.stop()[0] == 0
        assert "t0ken" not in collectors.log.read_text()
    finally:
        collectors.end()


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
