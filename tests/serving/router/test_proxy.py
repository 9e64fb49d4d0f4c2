"""The router as a process of its own, in front of real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from redline.webhooks import headers
from serving.router.traffic import Split

KEY = b"k" * 32
TOKEN = "token-of-the-test"
READY_S = 30.0


class Backend:
    """A server of one version. ``/v1/slow`` streams until it is cut and says when it was."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = ""
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.go_on = asyncio.Event()
        self.cut = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/stream", self._stream)
        app.router.add_post("/v1/slow", self._slow)
        app.router.add_post("/v1/break", self._break)
        app.router.add_route("*", "/v1/{rest:.*}", self._echo)
        # handler_cancellation: aiohttp tells a handler that its client left.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        self.go_on.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append((request.path_qs, dict(request.headers), body))
        return web.json_response(
            {"server": self.name, "length": len(body)},
            status=201,
            headers={"x-engine": self.name, "connection": "close"},
        )

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await self.go_on.wait()
        await response.write(b"data: two\n\ndata: [DONE]\n\n")
        return response

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        try:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"data: one\n\n")
            await self.go_on.wait()
        finally:
            self.cut.set()
        return response

    async def _break(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response


class Collector:
    """Takes deploy events; the first answer is a failure."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.refusals = 1
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/deploys", self._deploys)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _deploys(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        self.events.append(await request.json())
        return web.json_response({}, status=202)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Router:
    """The process."""

    def __init__(self, folder: Path, versions: dict[str, tuple[float, list[str]]]) -> None:
        self.folder = folder
        self.versions = versions
        self.collector_url = ""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        backends = [
            {"version": version, "weight": weight, "urls": urls}
            for version, (weight, urls) in self.versions.items()
        ]
        config = {
            "data_dir": str(self.folder),
            "router": {
                "port": self.port,
                "model": "m",
                "stable": "v1",
                "backends": backends,
                "collector_url": self.collector_url,
            },
        }
        path = self.folder / "redline.yaml"
        path.write_text(json.dumps(config))
        secret = "whsec_" + base64.b64encode(KEY).decode()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "serving.router", "--config", str(path),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "REDLINE_API_TOKEN": TOKEN, "REDLINE_WEBHOOK_SECRET": secret},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), READY_S)
        assert json.loads(line) == {"event": "listening", "host": "127.0.0.1", "port": self.port}

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 6)


def id_for(version: str) -> str:
    split = Split({"v1": 0.5, "v2": 0.5})
    return next(name for n in range(100) if split.choose(name := f"req-{n}") == version)


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[tuple[Backend, Backend]]:
    first, second = Backend("one"), Backend("two")
    await first.start()
    await second.start()
    yield first, second
    await first.stop()
    await second.stop()


@pytest_asyncio.fixture
async def router(tmp_path: Path, backends: tuple[Backend, Backend]) -> AsyncIterator[Router]:
    one, two = backends
    running = Router(tmp_path, {"v1": (0.5, [one.url]), "v2": (0.5, [two.url])})
    await running.start()
    yield running
    assert await running.stop() == 0


async def test_passes_through_and_says_which_version(
    router: Router, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    for version, backend in zip(("v1", "v2"), backends, strict=True):
        request_id = id_for(version)
        async with http.post(
            f"{router.url}/v1/chat/completions?a=b%20c",
            data=b'{"model": "m"}',
            headers={"x-request-id": request_id, "x-tenant": "acme", "te": "trailers"},
        ) as response:
            assert response.status == 201
            assert response.headers["x-redline-version"] == version
            assert response.headers["x-request-id"] == request_id
            assert response.headers["x-engine"] == backend.name
            assert (await response.json())["server"] == backend.name
        path, sent, body = backend.seen[-1]
        assert (path, body) == ("/v1/chat/completions?a=b%20c", b'{"model": "m"}')
        lower = {name.lower(): value for name, value in sent.items()}
        assert lower["x-request-id"] == request_id
        assert "x-tenant" in lower
        assert "te" not in lower


async def test_a_missing_request_id_is_made(router: Router, http: aiohttp.ClientSession) -> None:
    ids = set()
    for _ in range(3):
        async with http.get(f"{router.url}/v1/models") as response:
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 3


async def test_a_large_body_goes_through(router: Router, http: aiohttp.ClientSession) -> None:
    async with http.post(f"{router.url}/v1/embeddings", data=b"x" * 3_000_000) as response:
        assert (await response.json())["length"] == 3_000_000


async def test_chunks_come_as_they_are_written(
    router: Router, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    request_id = {"x-request-id": id_for("v1")}
    async with http.post(f"{router.url}/v1/stream", headers=request_id) as response:
        first = await asyncio.wait_for(response.content.readany(), 5)
        assert first == b"data: one\n\n"  # the server has not written the rest yet
        backends[0].go_on.set()
        assert await response.content.read() == b"data: two\n\ndata: [DONE]\n\n"
        assert response.headers["content-type"] == "text/event-stream"


async def test_when_the_client_leaves_the_server_stops(
    router: Router, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    response = await http.post(f"{router.url}/v1/slow", headers={"x-request-id": id_for("v1")})
    await response.content.readany()
    response.close()
    await asyncio.wait_for(backends[0].cut.wait(), 5)
    page = await metrics(router, http)
    assert 'redline_router_requests_total{code="499",version="v1"} 1.0' in page
    assert "redline_router_in_flight 0.0" in page


async def test_an_answer_that_breaks_off_is_not_made_whole(
    router: Router, http: aiohttp.ClientSession
) -> None:
    async with http.post(
        f"{router.url}/v1/break", headers={"x-request-id": id_for("v1")}
    ) as response:
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def metrics(router: Router, http: aiohttp.ClientSession) -> str:
    async with http.get(f"{router.url}/metrics") as response:
        return await response.text()


async def test_a_server_that_is_down_is_replaced_by_one_of_its_version_only(
    tmp_path: Path, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    one, _ = backends
    down = f"http://127.0.0.1:{free_port()}"
    router = Router(tmp_path, {"v1": (0.5, [down, one.url]), "v2": (0.5, [down])})
    await router.start()
    try:
        for _ in range(4):
            async with http.get(
                f"{router.url}/v1/models", headers={"x-request-id": id_for("v1")}
            ) as response:
                assert response.status == 201
        async with http.get(
            f"{router.url}/v1/models", headers={"x-request-id": id_for("v2")}
        ) as response:
            assert response.status == 502
            assert "v2" in (await response.json())["error"]["message"]
        # Asked first once, then last for two seconds.
        assert 'redline_router_retries_total{version="v1"} 1.0' in await metrics(router, http)
    finally:
        await router.stop()


async def test_a_rollback_moves_the_traffic_and_is_reported(
    tmp_path: Path, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    one, two = backends
    collector = Collector()
    await collector.start()
    router = Router(tmp_path, {"v1": (0.5, [one.url]), "v2": (0.5, [two.url])})
    router.collector_url = collector.url
    await router.start()
    try:
        bad = {"x-request-id": id_for("v2")}
        async with http.get(f"{router.url}/v1/models", headers=bad) as response:
            assert response.headers["x-redline-version"] == "v2"
        body = json.dumps(
            {
                "specversion": "1.0", "id": "act_1", "source": "s", "type": "t",
                "data": {
                    "kind": "rollback", "target": "m", "from": "v2", "incident_id": "inc_1",
                    "expires_at": "2100-01-01T00:00:00Z",
                },
            }
        ).encode()  # fmt: skip
        forged = headers(b"x" * 32, "act_1", int(time.time()), body)
        async with http.post(f"{router.url}/hooks/redline", data=body, headers=forged) as response:
            assert response.status == 401
        signed = headers(KEY, "act_1", int(time.time()), body)
        for _ in range(2):
            async with http.post(
                f"{router.url}/hooks/redline", data=body, headers=signed
            ) as response:
                assert response.status == 200
                assert (await response.json())["weights"] == {"v1": 1.0, "v2": 0.0}
        async with http.get(f"{router.url}/v1/models", headers=bad) as response:
            assert response.headers["x-redline-version"] == "v1"
        await router.stop()
        await router.start()
        async with http.get(f"{router.url}/weights") as response:
            assert (await response.json())["weights"] == {"v1": 1.0, "v2": 0.0}
    finally:
        await router.stop()
        await collector.stop()
    assert {(e["version"], e["action"], e["weight"]) for e in collector.events} <= {
        ("v1", "weights", 1.0),
        ("v2", "rollback", 0.0),
    }


async def test_reports_are_repeated_until_taken(
    tmp_path: Path, backends: tuple[Backend, Backend], http: aiohttp.ClientSession
) -> None:
    collector = Collector()
    await collector.start()
    router = Router(tmp_path, {"v1": (0.5, [backends[0].url]), "v2": (0.5, [backends[1].url])})
    router.collector_url = collector.url
    await router.start()
    try:
        url, new = f"{router.url}/weights", {"weights": {"v1": 0.7, "v2": 0.3}, "who": "eva"}
        async with http.put(url, json=new) as response:
            assert response.status == 401
        token = {"authorization": f"Bearer {TOKEN}"}
        async with http.put(url, json={"weights": {"v1": 0.7}}, headers=token) as response:
            assert response.status == 422
        async with http.put(url, json=new, headers=token) as response:
            assert response.status == 200
        deadline = time.monotonic() + 10
        while len(collector.events) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
    finally:
        await router.stop()
        await collector.stop()
    assert [(e["version"], e["action"], e["weight"]) for e in collector.events] == [
        ("v1", "weights", 0.7),
        ("v2", "weights", 0.3),
    ]
    assert {event["detail"] for event in collector.events} == {"eva"}


@pytest.mark.parametrize(
    ("router_settings", "says"),
    [
        ({"backends": []}, "router.backends"),
        ({"stable": "v9", "backends": [{"version": "v1", "urls": ["http://x"], "weight": 1}]},
         "router.stable"),
        ({"stable": "v1", "backends": [{"version": "v1", "urls": [], "weight": 1}]},
         "router.backends.0.urls"),
    ],
)  # fmt: skip
async def test_settings_that_cannot_route_end_with_2_and_one_line(
    tmp_path: Path, router_settings: dict[str, Any], says: str
) -> None:
    path = tmp_path / "redline.yaml"
    path.write_text(json.dumps({"data_dir": str(tmp_path), "router": router_settings}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.router", "--config", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), READY_S)
    assert process.returncode == 2
    assert out == b""
    assert says in err.decode()
    assert err.count(b"\n") == 1
