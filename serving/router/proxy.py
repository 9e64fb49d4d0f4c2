"""Passes requests through: one version by the request's id, one of its servers, bytes as they come.

Plain ASGI without a framework, because every request and every token goes through here. A chunk
costs one read and one send; what has piled up meanwhile goes out as one. A connection that cannot
be made is tried on the version's other servers; after the first byte nothing is tried again,
because a generation that was begun twice is paid twice. This file refuses to change the split.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from yarl import URL

from redline.log import get_logger
from serving.router.metrics import Metrics
from serving.router.weights import Weights

REQUEST_BYTES_MAX = 32 * 1024 * 1024
REQUEST_ID_CHARACTERS_MAX = 256
CONNECT_S = 5.0
READ_S = 600.0  # between two chunks: a long prefill sends nothing
DOWN_S = 2.0  # a server that refused a connection is asked last for so long
# Under uvicorn's own 5 s, so that a connection is never used while its server closes it.
KEEPALIVE_S = 4.0
CLIENT_LEFT = 499

_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
_NOT_FORWARDED = _HOP_BY_HOP | {b"host", b"content-length", b"expect", b"x-request-id"}
_NOT_RETURNED = _HOP_BY_HOP | {b"date", b"server", b"x-request-id", b"x-redline-version"}


class _ClientLeft(Exception):
    """Before its request was whole."""


class _Unreachable(Exception):
    """No server of a version took the connection."""


def open_session() -> aiohttp.ClientSession:
    """The client side: bytes untouched, connections kept, no limit but the servers' own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


class Servers:
    """One version's servers, in turn; one that refused a connection goes last for a while."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._next = 0
        self._down_until_s: dict[str, float] = {}

    def order(self, now_s: float) -> list[str]:
        """All of them, the one to ask first first."""
        start = self._next
        self._next = (start + 1) % len(self._urls)
        turned = self._urls[start:] + self._urls[:start]
        if not self._down_until_s:
            return turned
        return sorted(turned, key=lambda url: self._down_until_s.get(url, 0.0) > now_s)

    def refused(self, url: str, now_s: float) -> None:
        """It did not take a connection."""
        self._down_until_s[url] = now_s + DOWN_S

    def accepted(self, url: str) -> None:
        """It did."""
        if self._down_until_s:
            self._down_until_s.pop(url, None)


class Proxy:
    """An ASGI application."""

    def __init__(
        self,
        backends: Mapping[str, Sequence[str]],
        weights: Weights,
        session: aiohttp.ClientSession,
        metrics: Metrics,
    ) -> None:
        self._servers = {version: Servers(urls) for version, urls in backends.items()}
        self._weights = weights
        self._session = session
        self._metrics = metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        request_id, headers = _request_headers(scope["headers"])
        try:
            body = await _read_body(receive)
        except _ClientLeft:
            return
        if body is None:
            await _refuse(send, 413, f"body over {REQUEST_BYTES_MAX} bytes", request_id)
            return
        version = self._weights.split.choose(request_id)
        exchange = _Exchange(send, request_id, version)
        task = asyncio.current_task()
        assert task is not None
        left = asyncio.create_task(_watch(receive, exchange, task))
        self._metrics.in_flight.inc()
        try:
            await self._pass(scope, headers, body, exchange)
        except asyncio.CancelledError:
            if not exchange.client_left:
                raise
            task.uncancel()
            exchange.code = CLIENT_LEFT
        finally:
            exchange.finished = True
            left.cancel()
            self._metrics.in_flight.dec()
            self._metrics.answered(version, exchange.code)

    async def _pass(
        self, scope: Any, headers: list[tuple[str, str]], body: bytes, exchange: _Exchange
    ) -> None:
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        try:
            response = await self._connect(scope["method"], path, headers, body, exchange)
        except _Unreachable as error:
            await exchange.refuse(502, str(error))
            return
        except TimeoutError:
            await exchange.refuse(504, f"version {exchange.version}: no answer in {READ_S:.0f} s")
            return
        except aiohttp.ClientError as error:
            await exchange.refuse(502, f"version {exchange.version}: {error}")
            return
        try:
            await exchange.forward(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The answer has begun: only a cut connection can tell the client that it is not whole.
            exchange.code = 502
            get_logger().warning(
                "proxy.cut",
                version=exchange.version,
                request=exchange.request_id,
                reason=str(error),
            )
        finally:
            if not response.content.at_eof():
                response.close()  # the server stops generating

    async def _connect(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes,
        exchange: _Exchange,
    ) -> aiohttp.ClientResponse:
        servers = self._servers[exchange.version]
        now_s = asyncio.get_running_loop().time()
        problem = "no server"
        for index, url in enumerate(servers.order(now_s)):
            if index:
                self._metrics.retries.labels(exchange.version).inc()
            try:
                response = await self._session.request(
                    method,
                    URL(url + path, encoded=True),
                    headers=headers,
                    data=body or None,
                    allow_redirects=False,
                )
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                servers.refused(url, now_s)
                problem = str(error)
                continue
            servers.accepted(url)
            return response
        raise _Unreachable(f"version {exchange.version}: {problem}")


class _Exchange:
    """One request's answer on its way to the client."""

    __slots__ = ("_send", "client_left", "code", "finished", "request_id", "version")

    def __init__(self, send: Any, request_id: str, version: str) -> None:
        self._send = send
        self.request_id = request_id
        self.version = version
        self.client_left = False
        self.finished = False
        self.code = 0

    async def forward(self, response: aiohttp.ClientResponse) -> None:
        """The upstream's answer, as it comes."""
        self.code = response.status
        headers = [
            (lower, value)
            for name, value in response.raw_headers
            if (lower := name.lower()) not in _NOT_RETURNED
        ]
        headers.append((b"x-request-id", self.request_id.encode("latin-1")))
        headers.append((b"x-redline-version", self.version.encode("latin-1")))
        send, content = self._send, response.content
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        while chunk := await content.readany():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def refuse(self, status: int, reason: str) -> None:
        """Our own answer, in the shape of an OpenAI error."""
        self.code = status
        get_logger().warning("proxy.refused", request=self.request_id, reason=reason)
        await _refuse(self._send, status, reason, self.request_id, self.version)


async def _watch(receive: Any, exchange: _Exchange, task: asyncio.Task[None]) -> None:
    """Stop the upstream's work when the client leaves: nobody will read it, the GPU is paid."""
    while (await receive())["type"] != "http.disconnect":
        continue
    if not exchange.finished:
        exchange.client_left = True
        task.cancel()


def _request_headers(raw: Sequence[tuple[bytes, bytes]]) -> tuple[str, list[tuple[str, str]]]:
    request_id = ""
    headers = []
    for name, value in raw:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name not in _NOT_FORWARDED:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))
    if not 0 < len(request_id) <= REQUEST_ID_CHARACTERS_MAX:
        request_id = uuid.uuid4().hex
    headers.append(("x-request-id", request_id))
    return request_id, headers


async def _read_body(receive: Any) -> bytes | None:
    """The whole body, so that it can be sent again; None if it is too long.

    Raises:
        _ClientLeft: there will be no whole body.
    """
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        part: bytes = message.get("body", b"")
        length += len(part)
        if length > REQUEST_BYTES_MAX:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _refuse(send: Any, status: int, reason: str, request_id: str, version: str = "") -> None:
    error = {"message": reason, "type": "redline_router", "code": status}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode("latin-1")),
    ]
    if version:
        headers.append((b"x-redline-version", version.encode("latin-1")))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
