"""The ASGI application: ClickHouse's HTTP interface, served from one ``Engine``.

Takes a request apart, runs it on a bounded pool of threads, writes the answer with ClickHouse's
headers. Every bound that is hit is counted and shows in ``/metrics``. This file refuses to know
SQL.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from embedded.store.access import Access
from embedded.store.compression import (
    COMPRESS_FROM_BYTES,
    choose_encoding,
    compress,
    decompress,
)
from embedded.store.engine import DISPLAY_NAME, Engine, Reply
from embedded.store.limits import Limits
from embedded.store.refusal import StoreRefusal, describe_failure
from embedded.store.request import Request, read_request
from redline.log import get_logger

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_TEXT = b"text/plain; charset=UTF-8"
_CONTENT_TYPES = {
    "JSON": b"application/json; charset=UTF-8",
    "JSONCompact": b"application/json; charset=UTF-8",
    "JSONEachRow": b"application/x-ndjson; charset=UTF-8",
    "TabSeparated": b"text/tab-separated-values; charset=UTF-8",
    "CSV": b"text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": b"text/csv; charset=UTF-8; header=present",
}


class StoreApp:
    """The application. Create it in the process that serves it; ``close`` it when serving ends."""

    def __init__(self, engine: Engine, access: Access, limits: Limits) -> None:
        self._engine = engine
        self._access = access
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.running_queries_max, "store")
        self._places = asyncio.Semaphore(limits.running_queries_max)
        self._waiting = 0
        self._jobs: set[asyncio.Future[tuple[Request, Reply]]] = set()
        self._counts: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request (ASGI). Other scopes get no answer."""
        if scope["type"] != "http":
            return
        match (scope["method"], scope["path"]):
            case ("GET" | "HEAD", "/ping" | "/replicas_status"):
                await _reply(send, 200, [(b"content-type", _TEXT)], b"Ok.\n")
            case ("GET", "/metrics"):
                await _reply(send, 200, [(b"content-type", _TEXT)], self._metrics().encode())
            case ("GET" | "HEAD", "/") if not scope["query_string"]:
                await _reply(send, 200, [(b"content-type", _TEXT)], b"Ok.\n")
            case ("GET" | "HEAD" | "POST", "/" | "/query"):
                await self._serve_query(scope, receive, send)
            case _:
                text = b"There is no such page. Queries go to / by POST, health to /ping.\n"
                await _reply(send, 404, [(b"content-type", _TEXT)], text)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no query runs; whether that came about in time."""
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=timeout_s)
        return not self._jobs

    def close(self) -> None:
        """Stop the threads without waiting for queries that still run."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve_query(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        query_string = scope["query_string"].decode("latin-1")
        answer_headers: Headers = [
            (b"x-clickhouse-server-display-name", DISPLAY_NAME.encode()),
            (b"x-clickhouse-timezone", self._engine.timezone.encode()),
        ]
        try:
            self._access.check(query_string, headers)
            body = await self._read_body(receive, headers)
            request, reply = await self._in_turn(scope["method"], query_string, headers, body)
        except Exception as error:
            await self._reply_failure(send, answer_headers, error)
            return
        answer_headers += _reply_headers(request, reply)
        body = reply.body
        encoding = choose_encoding(request.accept_encoding)
        if encoding and len(body) >= COMPRESS_FROM_BYTES:
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(self._threads, compress, body, encoding)
            answer_headers.append((b"content-encoding", encoding.encode()))
        self._counts["bytes_out"] += len(body)
        await _reply(send, 200, answer_headers, b"" if scope["method"] == "HEAD" else body)

    async def _read_body(self, receive: Receive, headers: dict[str, str]) -> bytes:
        limit = self._limits.body_bytes_max
        declared = headers.get("content-length", "0")
        size = int(declared) if declared.isdigit() else 0
        chunks: list[bytes] = []
        taken = 0
        while size <= limit and taken <= limit:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise StoreRefusal(210, "NETWORK_ERROR", "The client went away", 499)
            chunk = message.get("body", b"")
            taken += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body"):
                self._counts["bytes_in"] += taken
                return b"".join(chunks)
        self._counts["refused_body_too_large"] += 1
        raise StoreRefusal(
            307,
            "TOO_MANY_BYTES",
            f"The body is larger than {limit} bytes: send smaller blocks",
            413,
        )

    async def _in_turn(
        self, method: str, query_string: str, headers: dict[str, str], body: bytes
    ) -> tuple[Request, Reply]:
        """Wait for a free place among the running queries, then run on a thread."""
        if self._places.locked() and self._waiting >= self._limits.queued_queries_max:
            raise self._too_busy("the queue is full")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_wait_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise self._too_busy(f"no place within {self._limits.queue_wait_s:g} s") from error
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(
            self._threads, self._read_and_run, method, query_string, headers, body
        )
        # The place is free when the thread is, even if the client has gone before.
        self._jobs.add(job)
        job.add_done_callback(self._free_place)
        return await asyncio.shield(job)

    def _free_place(self, job: asyncio.Future[tuple[Request, Reply]]) -> None:
        self._jobs.discard(job)
        self._places.release()

    def _read_and_run(
        self, method: str, query_string: str, headers: dict[str, str], body: bytes
    ) -> tuple[Request, Reply]:
        plain = decompress(
            body, headers.get("content-encoding", ""), bytes_max=self._limits.body_bytes_max
        )
        request = read_request(method, query_string, headers, plain)
        self._counts["queries"] += 1
        return request, self._engine.run(request)

    def _too_busy(self, why: str) -> StoreRefusal:
        self._counts["refused_too_busy"] += 1
        return StoreRefusal(
            202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many simultaneous queries: {why}"
        )

    async def _reply_failure(self, send: Send, headers: Headers, error: Exception) -> None:
        failure = describe_failure(error, self._engine.version)
        self._counts["failed"] += 1
        get_logger().info("store.query_failed", code=failure.code, reason=failure.text[:300])
        headers += [
            (b"x-clickhouse-exception-code", str(failure.code).encode()),
            (b"content-type", _TEXT),
        ]
        if failure.http_status in (413, 499):
            headers.append((b"connection", b"close"))
        await _reply(send, failure.http_status, headers, failure.text.encode())

    def _metrics(self) -> str:
        gauges = {
            "queries_running": len(self._jobs),
            "queries_waiting": self._waiting,
            "sessions_open": self._engine.sessions_open,
        }
        lines = [f"redline_store_{name} {value}" for name, value in gauges.items()]
        for name in (
            "queries",
            "failed",
            "refused_too_busy",
            "refused_body_too_large",
            "bytes_in",
            "bytes_out",
        ):
            lines.append(f"redline_store_{name}_total {self._counts[name]}")
        return "\n".join(lines) + "\n"


def _reply_headers(request: Request, reply: Reply) -> Iterable[tuple[bytes, bytes]]:
    query_id = request.query_id or str(uuid.uuid4())
    yield b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")
    yield b"x-clickhouse-summary", json.dumps(reply.summary).encode()
    if reply.output_format is not None:
        yield b"x-clickhouse-format", reply.output_format.encode()
        yield (
            b"content-type",
            _CONTENT_TYPES.get(reply.output_format, b"application/octet-stream"),
        )


async def _reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
