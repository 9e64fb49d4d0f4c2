"""A real vLLM with FP8 weights and cache: every request has one record, and every token counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from redline.codec import decode_json
from redline.records import RequestRecord
from tests.integration.vllm.environment import ROOT, ensure_vllm
from tests.integration.vllm.load import COMPLETIONS, LONG_TOKENS, SECRET_WORD, Ask, Told, mixed
from tests.integration.vllm.load import send_all as send

pytestmark = pytest.mark.vllm

REQUESTS = 2_000
BURST = 120
START_S = 240.0
QUEUE_LIMIT = 48


class Evidence(NamedTuple):
    """``generated``: the engine's own counter of tokens, before the server was stopped."""

    told: list[Told]
    generated: int
    records: dict[str, list[RequestRecord]]
    text: bytes


class Server:
    """vLLM, started as users start it: ``redline serve``."""

    def __init__(self, python: Path, model: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "vllm.log"
        self.requests = folder / "logs" / "vllm-0"
        command = [
            sys.executable, "-m", "cli.main", "serve", str(model), "--profile", "fp8",
            "--python", str(python), "--port", str(self.port), "--served-name", "tiny",
            "--instance", "vllm-0", "--model-version", "v7", "--region", "here",
            "--log-dir", str(folder / "logs"), "--",
            "--enforce-eager", "--max-num-seqs", "16",
            "--max-num-queued-reqs", str(QUEUE_LIMIT), "--disable-uvicorn-access-log",
        ]  # fmt: skip
        environ = {
            **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    async def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    break
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/health") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.5)
        pytest.fail(f"vLLM is not ready:\n{self.log.read_text(errors='replace')[-3000:]}")

    async def generated(self) -> int:
        """The counter, once nothing runs any more."""
        deadline = time.monotonic() + 60
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.url}/metrics") as response:
                    page = await response.text()
                if not _metric(page, "num_requests_running"):
                    return int(_metric(page, "generation_tokens_total"))
                assert time.monotonic() < deadline, "requests keep running"
                await asyncio.sleep(0.5)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def _metric(page: str, name: str) -> float:
    found = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", page, re.MULTILINE)
    assert found, f"{name} is not in /metrics"
    return sum(map(float, found))


async def _work(server: Server) -> tuple[list[Told], int]:
    await server.wait_ready()
    told = await send(server.url, list(mixed(REQUESTS, seed=3)))
    body = {"model": "tiny", "prompt": SECRET_WORD, "max_tokens": 64, "ignore_eos": True}
    burst = [Ask(f"burst-{number}", COMPLETIONS, body) for number in range(BURST)]
    told += await send(server.url, burst, concurrency=BURST)
    generated = await server.generated()
    # a stream that is open when the server is stopped
    body = {**body, "max_tokens": LONG_TOKENS, "stream": True}
    async with aiohttp.ClientSession(server.url) as session:
        async with session.post(
            COMPLETIONS, json=body, headers={"X-Request-Id": "open"}
        ) as response:
            await response.content.readany()
            server.process.send_signal(signal.SIGTERM)
            # vLLM may leave it hanging without an engine, until its client gives up
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await asyncio.wait_for(response.content.read(), 5)
            response.close()
    await asyncio.to_thread(server.process.wait, 60)
    return told, generated


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    python = ensure_vllm()
    folder = tmp_path_factory.mktemp("vllm")
    maker = Path(__file__).parent / "tiny_model.py"
    subprocess.run([python, maker, folder / "model"], check=True, capture_output=True)
    server = Server(python, folder / "model", folder)
    try:
        told, generated = asyncio.run(_work(server))
    finally:
        server.stop()
    text = b"".join(path.read_bytes() for path in sorted(server.requests.glob("*.ndjson*")))
    records: dict[str, list[RequestRecord]] = {}
    for line in text.splitlines():
        record = decode_json(line, RequestRecord)
        records.setdefault(record.request_id, []).append(record)
    return Evidence(told, generated, records, text)


def test_every_request_has_exactly_one_record_with_its_status(evidence: Evidence) -> None:
    asked = {told.ask.request_id for told in evidence.told}
    assert len(asked) == REQUESTS + BURST
    assert set(evidence.records) == asked | {"open"}
    assert {name: len(found) for name, found in evidence.records.items() if len(found) > 1} == {}
    differing = [
        (told.ask, evidence.records[told.ask.request_id][0])
        for told in evidence.told
        if evidence.records[told.ask.request_id][0].status_code != told.status_code
    ]
    assert differing == []
    seen = Counter(told.status_code for told in evidence.told)
    assert set(seen) == {200, 400, 404, 499, 503}, seen


def test_tokens_are_what_the_client_was_told(evidence: Evidence) -> None:
    compared = 0
    for told in evidence.told:
        if told.usage is None:
            continue
        record = evidence.records[told.ask.request_id][0]
        usage = told.usage
        prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion = usage.get("completion_tokens", usage.get("output_tokens"))
        assert (record.prompt_tokens, record.completion_tokens) == (prompt, completion), told
        compared += 1
    assert compared > REQUESTS * 0.6


def test_completion_tokens_sum_to_the_engines_counter(evidence: Evidence) -> None:
    total = sum(
        record.completion_tokens
        for name, found in evidence.records.items()
        if name != "open"
        for record in found
    )
    assert total == evidence.generated


def test_records_say_what_ran_and_when(evidence: Evidence) -> None:
    records = [found[0] for found in evidence.records.values()]
    assert sorted(record.seq for record in records) == list(range(1, len(records) + 1))
    assert {record.dropped_before for record in records} == {0}
    assert {(r.instance, r.model, r.version, r.region, r.precision) for r in records} == {
        ("vllm-0", "tiny", "v7", "here", "fp8")
    }
    for told in evidence.told:
        record = evidence.records[told.ask.request_id][0]
        assert record.tenant == told.ask.tenant
        assert record.ts_arrival_us <= record.ts_end_us
        if record.status_code == 200:
            assert None not in (record.queue_us, record.prefill_us, record.decode_us)
            assert record.ttft_us is not None
            assert record.e2e_us is not None
            assert record.ttft_us <= record.e2e_us
            assert record.finish_reason in ("stop", "length")
            assert record.tokens_known
        if record.status_code == 499:
            assert record.finish_reason == "abort"
        if record.status_code in (400, 404, 503):
            assert record.error
            assert record.tokens_known
            assert record.completion_tokens == 0


def test_an_open_stream_is_recorded_when_the_server_stops(evidence: Evidence) -> None:
    (record,) = evidence.records["open"]
    assert record.failed or record.status_code == 499
    assert record.finish_reason in ("error", "abort")


def test_nothing_of_a_prompt_is_written(evidence: Evidence) -> None:
    assert SECRET_WORD.encode() not in evidence.text
    assert evidence.text.count(b"\n") == len(evidence.records)
