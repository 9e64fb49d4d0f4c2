"""From a frame to a handler and back: the request header, versions, and ApiVersions.

Only what the tables offer is advertised, so clients negotiate down to it. The file refuses to
handle any request but ApiVersions itself.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable

from embedded.broker.api import Api
from embedded.broker.api_admin import API_VERSIONS
from embedded.broker.codes import ErrorCode
from embedded.broker.connection import Response
from embedded.broker.node import Caller, Handlers
from embedded.broker.wire import INT16, INT32, NULLABLE_STRING, Chunks, Cursor, Malformed, Message

_FLEXIBLE_API_VERSIONS = 3


class Dispatcher:
    """All handlers of one node, by API key."""

    def __init__(self, handlers: Handlers) -> None:
        self._by_key = {api.key: (api, handler) for api, handler in handlers.items()}
        self._offered = sorted([*handlers, API_VERSIONS], key=lambda api: api.key)

    def __call__(
        self, frame: memoryview, caller_of: dict[str, Caller], peer: Caller
    ) -> Response | asyncio.Future[Response]:
        """Answer one request. ``caller_of`` remembers callers by client id on a connection.

        Raises:
            Malformed: the bytes are no request, or ask for what is not advertised.
        """
        cursor = Cursor(frame)
        key, version = INT16.read(cursor), INT16.read(cursor)
        correlation_id: int = INT32.read(cursor)
        client_id = NULLABLE_STRING.read(cursor) or ""
        if key == API_VERSIONS.key:
            return self._api_versions(version, correlation_id)
        api, handler = self._by_key.get(key, (None, None))
        if api is None or handler is None or not api.offers(version):
            raise Malformed(f"API {api.name if api else key} v{version} is not offered")
        caller = caller_of.get(client_id)
        if caller is None:
            caller = Caller(client_id, peer.client_host, peer.local)
            caller_of.clear()  # a connection has one client: its last name is enough
            caller_of[client_id] = caller
        reply = handler(version, api.read_request(version, cursor), caller)
        if reply is None:
            return None
        if inspect.isawaitable(reply):
            return asyncio.ensure_future(_later(reply, api, version, correlation_id))
        return _encode(reply, api, version, correlation_id)

    def _api_versions(self, version: int, correlation_id: int) -> Response:
        offered = [
            {"api_key": api.key, "min_version": api.first, "max_version": api.last}
            for api in self._offered
        ]
        if version == _FLEXIBLE_API_VERSIONS:
            return _flexible_api_versions(offered, correlation_id)
        known = API_VERSIONS.offers(version)
        answer = {
            "error_code": ErrorCode.NONE if known else ErrorCode.UNSUPPORTED_VERSION,
            "api_keys": offered,
            "throttle_time_ms": 0,
        }
        # Version 0 is what every client can read (KIP-511).
        return _encode(answer, API_VERSIONS, version if known else 0, correlation_id)


async def _later(
    reply: Awaitable[Message], api: Api, version: int, correlation_id: int
) -> Response:
    return _encode(await reply, api, version, correlation_id)


def _encode(message: Message, api: Api, version: int, correlation_id: int) -> Response:
    chunks: Chunks = []
    INT32.write(chunks, correlation_id)
    return chunks + api.write_response(version, message)


def _flexible_api_versions(offered: list[Message], correlation_id: int) -> Response:
    """Version 3 by hand: compact array, empty tag buffers. Its header has no tag buffer."""
    chunks: Chunks = []
    INT32.write(chunks, correlation_id)
    INT16.write(chunks, ErrorCode.NONE)
    assert len(offered) < 127  # the compact length is one byte
    chunks.append(bytes([len(offered) + 1]))
    for api in offered:
        last = api["max_version"]
        if api["api_key"] == API_VERSIONS.key:
            last = _FLEXIBLE_API_VERSIONS
        for value in (api["api_key"], api["min_version"], last):
            INT16.write(chunks, value)
        chunks.append(b"\x00")
    INT32.write(chunks, 0)
    chunks.append(b"\x00")
    return chunks
