"""``POST /v1/traces`` as OTLP/HTTP 1.x wants it: protobuf or JSON, plain or gzip.

200 only once every request is on disk. What an exporter should send again is 503 with Retry-After;
what it should not, 4xx. Spans that are no requests are taken and passed over. A body is not read
beyond the limit, packed or unpacked. This file refuses gRPC.
"""

from __future__ import annotations

import asyncio
import zlib

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter

from collectors.otlp.protobuf import read_protobuf
from collectors.otlp.requests import is_request
from collectors.otlp.span import read_json
from collectors.otlp.spool import Spool
from redline.errors import Backpressure, RecordInvalid
from redline.serve import bearer_problem

RETRY_AFTER_S = 5
PROTOBUF, JSON = "application/x-protobuf", "application/json"


def create_receiver(
    spool: Spool, body_bytes_max: int, token: str | None, registry: CollectorRegistry
) -> FastAPI:
    """The application. ``token`` None: no token is asked for, which is for loopback only."""
    app = FastAPI(title="Redline OTLP", docs_url=None, redoc_url=None, openapi_url=None)
    name, text = "redline_collectors_otlp_spans", "Spans of requests that were pushed"
    spans = Counter(name, text, ["result"], registry=registry)
    one_at_a_time = asyncio.Lock()

    @app.post("/v1/traces")
    async def traces(request: Request) -> Response:
        if token is not None:
            problem = bearer_problem(request.headers.get("authorization", ""), token)
            if problem:
                raise HTTPException(*problem)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (PROTOBUF, JSON):
            raise HTTPException(415, f"send {PROTOBUF} or {JSON}, not {kind!r}")
        body = await _read_body(request, body_bytes_max)
        try:
            found = await asyncio.to_thread(read_json if kind == JSON else read_protobuf, body)
        except RecordInvalid as error:
            raise HTTPException(400, str(error)) from error
        requests = [span for span in found if is_request(span)]
        async with one_at_a_time:
            try:
                written, refused = await asyncio.to_thread(spool.write, requests)
            except Backpressure as error:
                spans.labels("later").inc(len(requests))
                raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER_S)}) from error
        spans.labels("written").inc(written)
        spans.labels("refused").inc(len(refused))
        spans.labels("repeated").inc(len(requests) - written - len(refused))
        return Response(_answer(kind, refused), media_type=kind)

    return app


async def _read_body(request: Request, bytes_max: int) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "", "gzip"):
        raise HTTPException(415, f"content-encoding {encoding!r}: send gzip or none")
    unpacker = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    body = bytearray()
    try:
        async for chunk in request.stream():
            room = bytes_max + 1 - len(body)
            body += unpacker.decompress(chunk, room) if unpacker else chunk
            if len(body) > bytes_max:
                raise HTTPException(413, f"a body has at most {bytes_max} bytes, unpacked")
    except zlib.error as error:
        raise HTTPException(400, f"not gzip: {error}") from error
    if unpacker is not None and not unpacker.eof:
        raise HTTPException(400, "not gzip: it ends too early")
    return bytes(body)


def _answer(kind: str, refused: list[str]) -> bytes:
    """An ExportTraceServiceResponse; with refused spans, its partial_success."""
    if not refused:
        return b"{}" if kind == JSON else b""
    count, text = len(refused), refused[0][:100]
    if kind == JSON:
        partial = {"rejectedSpans": str(count), "errorMessage": text}
        return msgspec.json.encode({"partialSuccess": partial})
    message = text.encode(errors="replace")[:100]
    inner = b"\x08" + _varint(count) + b"\x12" + _varint(len(message)) + message
    return b"\x0a" + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])
