"""One client's connection: frames in, answers out, in the order of the requests.

Requests that are answered at once never leave ``data_received``; one that waits (fetch, join,
sync) becomes a task, and the requests behind it wait. A connection that is lost cancels its
task. Bytes that are not the protocol close the connection, never the broker. The file refuses to
know what requests mean.
"""

from __future__ import annotations

import asyncio
import inspect
import struct
from collections.abc import Callable
from typing import cast

from embedded.broker.wire import Malformed
from redline.log import get_logger

Response = list[bytes | memoryview] | None
# Takes one request; answers now, or later, or (None) not at all.
Dispatch = Callable[[memoryview], "Response | asyncio.Future[Response]"]

_LENGTH = struct.Struct(">i")
_TLS_HANDSHAKE = b"\x16\x03"
# A fatal "protocol_version" alert: TLS clients then report an error instead of hanging.
_TLS_ALERT = bytes([0x15, 3, 1, 0, 2, 2, 70])


class Connection(asyncio.Protocol):
    """The protocol of one socket. ``dispatch`` is made once the peer is known."""

    def __init__(
        self,
        make_dispatch: Callable[[asyncio.Transport], Dispatch],
        connections: set[Connection],
        max_connections: int,
        max_request_bytes: int,
    ) -> None:
        self._make_dispatch = make_dispatch
        self._connections = connections
        self._max_connections = max_connections
        self._max_request_bytes = max_request_bytes
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Response] | None = None
        self._writable = True
        self._reading = True

    # -- asyncio's callbacks ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= self._max_connections:
            self._refuse("too_many_connections", limit=self._max_connections)
            return
        self._connections.add(self)
        self._dispatch = self._make_dispatch(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went: whatever it waited for is not wanted any more."""
        self._connections.discard(self)
        if self._waiting is not None:
            self._waiting.cancel()

    def pause_writing(self) -> None:
        """The client reads too slowly: take no further request."""
        self._writable = False

    def resume_writing(self) -> None:
        """The client caught up."""
        self._writable = True
        self._serve()

    def data_received(self, data: bytes) -> None:
        """More bytes of requests."""
        self._buffer += data
        self._serve()

    # -- requests --------------------------------------------------------------------------

    def _serve(self) -> None:
        start = 0  # of the next frame; the buffer is trimmed once, after the loop
        try:
            while self._waiting is None and self._writable and not self._transport.is_closing():
                frame_bytes = self._frame_bytes(start)
                if frame_bytes is None:
                    break
                begin, start = start + _LENGTH.size, start + _LENGTH.size + frame_bytes
                self._answer(memoryview(memoryview(self._buffer)[begin:start].tobytes()))
        except Malformed as error:
            self._refuse("request_malformed", reason=str(error))
        except Exception:
            get_logger().exception("request_failed", client=self._peer())
            self._transport.close()
        del self._buffer[:start]
        self._throttle()

    def _frame_bytes(self, start: int) -> int | None:
        """Length of the frame at ``start`` if all of it is here. Raises ``Malformed``."""
        available = len(self._buffer) - start
        if available < _LENGTH.size:
            return None
        if self._buffer.startswith(_TLS_HANDSHAKE, start):
            self._transport.write(_TLS_ALERT)
            raise Malformed(
                "the client speaks TLS, this broker does not: set security_protocol to PLAINTEXT"
            )
        (frame_bytes,) = _LENGTH.unpack_from(self._buffer, start)
        if not 0 <= frame_bytes <= self._max_request_bytes:
            raise Malformed(f"a request of {frame_bytes} bytes is not Kafka's protocol, or too big")
        return frame_bytes if available >= _LENGTH.size + frame_bytes else None

    def _answer(self, frame: memoryview) -> None:
        outcome = self._dispatch(frame)
        if inspect.isawaitable(outcome):
            self._waiting = outcome
            outcome.add_done_callback(self._resume)
        else:
            self._send(outcome)

    def _resume(self, answered: asyncio.Future[Response]) -> None:
        self._waiting = None
        if answered.cancelled() or self._transport.is_closing():
            return
        failure = answered.exception()
        if failure is not None:
            get_logger().error("request_failed", client=self._peer(), exc_info=failure)
            self._transport.close()
            return
        self._send(answered.result())
        self._serve()

    def _send(self, response: Response) -> None:
        if response is not None:
            length = sum(len(chunk) for chunk in response)
            self._transport.write(b"".join([_LENGTH.pack(length), *response]))

    def _throttle(self) -> None:
        """Read no more than one request ahead, so that a client cannot fill the memory."""
        if self._transport.is_closing():
            return
        ahead = self._waiting is not None or not self._writable
        full = ahead and len(self._buffer) > self._max_request_bytes
        if full and self._reading:
            self._transport.pause_reading()
        elif not full and not self._reading:
            self._transport.resume_reading()
        self._reading = not full

    def _refuse(self, event: str, **facts: object) -> None:
        get_logger().warning(event, client=self._peer(), **facts)
        self._transport.close()

    def _peer(self) -> str:
        peer = self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else "unknown"

    def close(self) -> None:
        """The broker stops: drop the connection and what it waits for."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._transport.abort()
