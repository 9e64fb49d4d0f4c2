"""Kafka away under load: every sample and every line arrives, each instance in its order."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from redline.codec import decode_batch
from redline.records import EngineSample
from redline.topics import ENGINES
from tests.collectors.log_writer import LogWriter
from tests.collectors.processes import (
    PARTITIONS,
    Process,
    free_port,
    read_requests,
    read_topic,
    start_broker,
    write_config,
)

AWAY_S = float(os.environ.get("REDLINE_TEST_OUTAGE_S", "4"))


class Engine(BaseHTTPRequestHandler):
    """Each scrape of it counts up."""

    served = 0

    def do_GET(self) -> None:
        Engine.served += 1
        body = f"vllm:generation_tokens_total {Engine.served}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the scraper gave up: a failed sample
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def samples_in(messages: list[object]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for message in messages:
        for sample in decode_batch(message.value, EngineSample):  # type: ignore[attr-defined]
            found.setdefault(sample.instance, []).append(sample.ts_us)
    return found


def metric(port: int, pattern: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        page = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"(?m)^{pattern} (\S+)$", page))


def start(config: Path, tmp_path: Path) -> Process:
    collectors = Process("collectors", "--config", str(config), log=tmp_path / "collectors.log")
    collectors.wait_until_listening()
    return collectors


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "collectors killed meanwhile"])
async def test_kafka_away_loses_nothing_and_keeps_the_order(tmp_path: Path, killed: bool) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    kafka_port = free_port()
    config = write_config(
        tmp_path / "redline.yaml",
        kafka_port,
        engines=[{"instance": f"e{n}", "url": url, "model": "m"} for n in range(3)],
        engine_poll_s=0.1,
        batch_age_ms=50,
    )
    writer = LogWriter(tmp_path / "data" / "logs", "e0", rotate_bytes=500_000)
    broker = start_broker(tmp_path / "broker", tmp_path / "broker.log", kafka_port)
    collectors = start(config, tmp_path)
    scraped = 0.0
    try:
        writer.write(500)
        broker.kill()
        end = time.monotonic() + AWAY_S
        while time.monotonic() < end:
            writer.write(200)
            time.sleep(0.1)  # the load's pace
        spooled = metric(collectors.port, "redline_collectors_sample_spool_bytes")
        assert spooled > 0
        scrapes = r"redline_collectors_engine_scrapes_total\{[^}]*\}"
        if killed:
            scraped = metric(collectors.port, scrapes)
            collectors.kill()
        broker = start_broker(tmp_path / "broker", tmp_path / "broker.log", kafka_port)
        if killed:
            collectors = start(config, tmp_path)
        writer.write(500)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if len(await read_requests(kafka_port)) >= writer.seq:
                break
        if not killed:
            scraped = metric(collectors.port, scrapes)
        code, _ = collectors.stop()
        assert code == 0
        lines = await read_requests(kafka_port)
        samples = samples_in(await read_topic(kafka_port, ENGINES.name, PARTITIONS))
    finally:
        collectors.end()
        broker.end()
        server.shutdown()
        server.server_close()
    assert [seq for instance, seq in lines] == list(range(1, writer.seq + 1))
    assert set(samples) == {"e0", "e1", "e2"}
    for instance, times in samples.items():
        # a publish that Kafka took as it died is repeated; nothing is skipped or passed
        seen: set[int] = set()
        highest = 0
        for ts_us in times:
            assert ts_us in seen or ts_us > highest, instance
            seen.add(ts_us)
            highest = max(highest, ts_us)
        steps = [
            after - before for before, after in zip(sorted(seen), sorted(seen)[1:], strict=False)
        ]
        longest = 4_000_000 if killed else 1_500_000  # the new process's start; a busy machine
        assert max(steps) < longest, instance
    if not killed:
        assert sum(len(set(times)) for times in samples.values()) >= scraped
    else:
        # at most what was in memory when it was killed: batch_age_ms, of three engines
        assert sum(len(set(times)) for times in samples.values()) >= scraped - 9
