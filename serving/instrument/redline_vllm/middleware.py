# mypy: disable-error-code="import-not-found"
"""The HTTP half: ``vllm serve --middleware redline_vllm.middleware.RequestLogMiddleware``.

Pure ASGI, because a middleware of functions would copy every chunk. It is outermost, so it sees
what vLLM refuses as well: a missing key, a full queue, a body that is no JSON. It looks at status,
headers and times; of the bytes of an answer only at how an error event begins. Every look is
guarded: an error here costs a record, never a request. This file refuses to change what client and
server say to each other, except to name a request that its client did not name.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from redline_vllm.halves import HttpHalf
from redline_vllm.hub import BODY_BYTES_MAX, Hub, process_hub
from redline_vllm.routes import is_logged

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ERROR_STARTS = (b'data: {"error"', b"event: error", b"event: response.failed")
_ERROR_BYTES_MAX = 64 * 1024
_FLUSH_S = 2.0


class RequestLogMiddleware:
    """Wraps vLLM's application. ``hub`` is this process's, unless a test gives another."""

    def __init__(self, app: App, hub: Hub | None = None) -> None:
        self._app = app
        self._hub = process_hub() if hub is None else hub
        self._hub.has_middleware = True
        self._tenant_header = self._hub.settings.tenant_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the server's."""
        kind = scope["type"]
        if kind == "lifespan" and self._hub.enabled:
            try:
                await self._app(scope, receive, send)
            finally:
                self._hub.flush(_FLUSH_S)  # the server takes no more requests: it may wait
            return
        if (
            kind != "http"
            or not self._hub.enabled
            or scope["method"] != "POST"
            or not is_logged(scope["path"])
        ):
            await self._app(scope, receive, send)
            return
        exchange: _Exchange | None = None
        try:
            scope, exchange = self._begin(scope, receive, send)
        except Exception:
            self._hub.dropped += 1
        if exchange is None:
            await self._app(scope, receive, send)
            return
        http = exchange.http
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            # A client that left was seen before this, so this is the server stopping.
            http.stopped = not http.gone and not http.done
            raise
        except BaseException as error:
            http.exception = type(error).__name__
            raise
        finally:
            self._end(http, scope)

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> tuple[Scope, _Exchange]:
        arrival_us, arrival_s = time.time_ns() // 1000, time.perf_counter()
        request_id = tenant = bearer = api_key = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == self._tenant_header:
                tenant = value
            elif name == b"authorization":
                bearer = value
            elif name in (b"x-api-key", b"api-key"):
                api_key = value
        scope.setdefault("state", {})
        if not request_id:
            request_id = uuid.uuid4().hex.encode()
            scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", request_id)]}
        http = HttpHalf(scope["path"], request_id.decode("latin-1"), arrival_us, arrival_s)
        http.tenant = tenant
        http.key = bearer[7:].strip() if bearer[:7].lower() == b"bearer " else api_key
        self._hub.open.add(http)
        return scope, _Exchange(http, self._hub, receive, send)

    def _end(self, http: HttpHalf, scope: Scope) -> None:
        try:
            if http not in self._hub.open:  # the hub was closed and has written it
                return
            http.end_s = time.perf_counter()
            http.metadata = scope["state"].get("request_metadata")
            self._hub.end(http)
        except Exception:
            self._hub.dropped += 1


class _Exchange:
    """Stands between the application and the server for one request."""

    __slots__ = ("_hub", "_receive", "_send", "http")

    def __init__(self, http: HttpHalf, hub: Hub, receive: Receive, send: Send) -> None:
        self.http = http
        self._hub = hub
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """What the client sends: the body's parts, and that it left."""
        message = await self._receive()
        http = self.http
        kind = message["type"]
        if kind == "http.request":
            part = message.get("body", b"")
            if http.body_bytes <= BODY_BYTES_MAX:
                http.body.append(part[:BODY_BYTES_MAX])
            http.body_bytes += len(part)
            if not message.get("more_body", False):
                self._hub.put(http)
        elif kind == "http.disconnect" and not http.done:
            http.gone = True
        return message

    async def send(self, message: Message) -> None:
        """What the server answers."""
        http = self.http
        if message["type"] == "http.response.body":
            part = message.get("body", b"")
            if part:
                if http.first_byte_s is None:
                    http.first_byte_s = time.perf_counter()
                if http.sse:
                    http.chunks += 1
                    if part.startswith(_ERROR_STARTS):
                        http.error_body = part[:_ERROR_BYTES_MAX]
                elif http.status_code >= 400 and len(http.error_body) < _ERROR_BYTES_MAX:
                    http.error_body += part[:_ERROR_BYTES_MAX]
            if not message.get("more_body", False):
                http.done = True
        elif message["type"] == "http.response.start":
            http.status_code = message["status"]
            for name, value in message.get("headers", ()):
                if name == b"content-type":
                    http.sse = value.startswith(b"text/event-stream")
        try:
            await self._send(message)
        except OSError:
            http.gone = True
            raise
