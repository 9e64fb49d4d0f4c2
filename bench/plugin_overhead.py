"""What the vLLM plug-in costs: on the event loop, and in the throughput of a real server.

    python -m bench.plugin_overhead                                  # event loop only, seconds
    python -m bench.plugin_overhead --python VENV/bin/python --model DIR   # and a real vLLM

The event loop's figure is CPU time of its thread, around an application that does nothing: with
and without the middleware in turn, medians. The server's figure compares rounds on one server,
whose plug-in is switched on and off in turn, so that a neighbour's load meets both alike. This file
refuses to judge: it prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parent.parent
INSTRUMENT = ROOT / "serving" / "instrument"
CHUNKS = 500
BODY = json.dumps(
    {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "x" * 2000}]}
).encode()
CHUNK = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
HEADERS = [
    (b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"accept", b"*/*"),
    (b"user-agent", b"bench"), (b"x-tenant", b"team-a"), (b"x-request-id", b"bench-1"),
    (b"authorization", b"Bearer key"), (b"content-length", b"2100"),
]  # fmt: skip


def null_app(chunks: int) -> Callable[..., Any]:
    """An application that reads the body and answers with ``chunks`` parts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def _us_per_request(app: Callable[..., Any], requests: int) -> float:
    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        return

    start_s = time.thread_time()
    for _ in range(requests):
        scope = {
            "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": HEADERS,
        }  # fmt: skip
        await app(scope, receive, send)
    return (time.thread_time() - start_s) / requests * 1e6


def event_loop(rounds: int) -> None:
    """Print µs of the event loop's thread per request and per chunk."""
    sys.path.insert(0, str(INSTRUMENT))
    from redline_vllm.hub import Hub  # type: ignore[import-not-found,unused-ignore]
    from redline_vllm.middleware import (  # type: ignore[import-not-found,unused-ignore]
        RequestLogMiddleware,
    )
    from redline_vllm.settings import (  # type: ignore[import-not-found,unused-ignore]
        read_settings,
    )

    with tempfile.TemporaryDirectory() as folder:
        hub = Hub(read_settings({"REDLINE_REQUEST_LOG_DIR": folder, "REDLINE_INSTANCE": "bench"}))
        added: dict[int, list[float]] = {}
        for chunks, requests in ((1, 2_000), (CHUNKS, 40)):
            bare, logged = null_app(chunks), RequestLogMiddleware(null_app(chunks), hub)
            added[chunks] = []
            for _ in range(rounds):
                without = asyncio.run(_us_per_request(bare, requests))
                added[chunks].append(asyncio.run(_us_per_request(logged, requests)) - without)
                hub.flush()
        dropped = hub.dropped
        hub.close()
    per_request = statistics.median(added[1])
    per_chunk = (statistics.median(added[CHUNKS]) - per_request) / (CHUNKS - 1)
    print(f"event loop, median of {rounds} interleaved rounds ({dropped} records dropped):")
    print(f"  per request       {per_request:8.2f} µs")
    print(f"  per stream chunk  {per_chunk:8.2f} µs")


class Switch:
    """ASGI middleware for this benchmark only: POST /bench/on and /bench/off switch the plug-in."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Switch, or pass on."""
        if scope["type"] != "http" or not scope["path"].startswith("/bench/"):
            await self._app(scope, receive, send)
            return
        from redline_vllm.hub import process_hub  # type: ignore[import-not-found,unused-ignore]

        process_hub().enabled = scope["path"] == "/bench/on"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _round(
    session: aiohttp.ClientSession, process: psutil.Process, requests: int, *, stream: bool
) -> tuple[float, float]:
    """Requests per second, and CPU ms of the API server per request."""
    gate = asyncio.Semaphore(16)
    body = {
        "model": "tiny", "max_tokens": 16, "ignore_eos": True, "stream": stream,
        "messages": [{"role": "user", "content": "the quick brown fox"}],
    }  # fmt: skip

    async def one() -> None:
        async with gate, session.post("/v1/chat/completions", json=body) as response:
            await response.read()
            assert response.status == 200

    before, start_s = process.cpu_times(), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(requests)))
    wall_s, after = time.perf_counter() - start_s, process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return requests / wall_s, cpu_s / requests * 1e3


async def _compare(url: str, pid: int, rounds: int, requests: int) -> None:
    process = psutil.Process(pid)
    async with aiohttp.ClientSession(url) as session:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                async with session.get("/health") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientError:
                await asyncio.sleep(0.5)
        await _round(session, process, requests, stream=False)  # warm
        for stream in (False, True):
            found: dict[str, list[tuple[float, float]]] = {"on": [], "off": []}
            for number in range(rounds):
                # first and second take turns, so that a trend is nobody's
                for state in ("on", "off") if number % 2 else ("off", "on"):
                    async with session.post(f"/bench/{state}") as response:
                        assert response.status == 200
                    found[state].append(await _round(session, process, requests, stream=stream))
            _print(found, stream=stream)


def _print(found: dict[str, list[tuple[float, float]]], *, stream: bool) -> None:
    rate = {state: statistics.median(r for r, _ in values) for state, values in found.items()}
    cpu = {state: statistics.median(c for _, c in values) for state, values in found.items()}
    pairs = zip(found["on"], found["off"], strict=True)
    ratios = sorted(on[0] / off[0] for on, off in pairs)
    kind = "stream" if stream else "plain "
    print(
        f"  {kind}  with {rate['on']:6.1f} req/s, without {rate['off']:6.1f}; "
        f"paired ratio median {statistics.median(ratios):.3f} "
        f"(quartiles {ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}); "
        f"API server CPU {cpu['on']:.2f} and {cpu['off']:.2f} ms/request"
    )


def server(python: str, model: str, rounds: int, requests: int) -> None:
    """Start one vLLM, compare rounds with and without, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "cli.main", "serve", model, "--python", python, "--port",
            str(port), "--served-name", "tiny", "--log-dir", folder, "--", "--enforce-eager",
            "--middleware", "bench.plugin_overhead.Switch", "--disable-uvicorn-access-log",
        ]  # fmt: skip
        with (Path(folder) / "vllm.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environ, stdout=log, stderr=log, start_new_session=True
            )
        print(f"server, {rounds} interleaved rounds of {requests} requests, 16 at once:")
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(_compare(url, process.pid, rounds, requests))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Both measurements, the second only where a vLLM is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--python", help="the Python of vLLM's environment, with the plug-in")
    parser.add_argument("--model", help="a model directory")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    event_loop(options.rounds)
    if options.python and options.model:
        server(options.python, options.model, options.rounds, options.requests)


if __name__ == "__main__":
    main()
