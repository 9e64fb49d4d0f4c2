"""The OpenAI-compatible HTTP interface of one simulated engine, as a bare ASGI application.

Bare, because hundreds of requests a second share two cores with the pipeline that watches them.
Every completion request that arrives is logged exactly once, whatever becomes of it.
This file refuses to know incidents and time: it submits, waits and answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from serving.simulator.completion_body import CompletionBody, generation_request, read_body
from serving.simulator.requests import STATUS_OF, Chunk, Event, Finished, GenerationRequest, Refused
from serving.simulator.served_engine import ServedEngine

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

VLLM_VERSION = "0.32.0"
BODY_BYTES_MAX = 4 * 1024 * 1024
COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
_WORD = " redline"  # what every token says
_JSON = b"application/json"
_DONE = b"data: [DONE]\n\n"


class EngineApi:
    """The ASGI application of one engine."""

    def __init__(self, served: ServedEngine, *, chunk_tokens: int, key_salt: bytes) -> None:
        self._served = served
        self._chunk_tokens = chunk_tokens
        self._key_salt = key_salt

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if path in COMPLETIONS:
            if method == "POST":
                await self._complete(scope, receive, send)
            else:
                await _error(send, 405, "Method Not Allowed")
        elif self._served.down:
            await _error(send, 503, "the region is not reachable")
        elif path == "/metrics":
            kind = b"text/plain; version=0.0.4; charset=utf-8"
            await _answer(send, 200, self._served.metrics.render(), kind)
        elif path == "/health":
            await _answer(send, 200 if self._served.ready else 503, b"", _JSON)
        elif path == "/version":
            await _answer(send, 200, msgspec.json.encode({"version": VLLM_VERSION}), _JSON)
        elif path == "/v1/models":
            await _answer(send, 200, self._models(), _JSON)
        else:
            await _error(send, 404, "Not Found")

    async def _complete(self, scope: Message, receive: Receive, send: Send) -> None:
        request = self._unread(scope)
        data = await _read(receive)
        if data is None:
            self._served.log_refusal(request, Refused("the client left while sending", 499))
            return
        try:
            body = read_body(data)
            request = self._request(request, body)
            if body.model != self._served.identity.model:
                raise Refused(f"The model `{body.model}` does not exist.", 404)
        except Refused as refused:
            self._served.log_refusal(request, refused)
            await _error(send, refused.status_code, refused.reason)
            return
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        try:
            handle = self._served.submit(request, events.put_nowait)
        except Refused as refused:
            await _error(send, refused.status_code, refused.reason)
            return
        watch = asyncio.ensure_future(_until_disconnect(receive, events))
        try:
            await self._reply(request, body, events, send)
        finally:
            watch.cancel()
            self._served.abort(handle)  # nothing, unless the client left

    async def _reply(
        self,
        request: GenerationRequest,
        body: CompletionBody,
        events: asyncio.Queue[Event | None],
        send: Send,
    ) -> None:
        """Wait for the events of one request and send what they say; returns when it is over."""
        writer = _Writer(request, self._served.identity.model, send)
        while True:
            event = await events.get()
            if event is None:
                return
            if isinstance(event, Chunk):
                await writer.chunk(event)
                continue
            if event.reason in ("error", "abort"):
                await writer.failed(event)
            elif request.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                await writer.last_chunk(event, usage=usage)
            else:
                await writer.whole(event)
            return

    def _unread(self, scope: Message) -> GenerationRequest:
        """What is known of a request before its body is read."""
        request_id = tenant = key = ""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value.decode("latin-1")[:200]
            elif name == b"x-tenant":
                tenant = value.decode("latin-1")[:200]
            elif name == b"authorization":
                key = value.decode("latin-1")
        return GenerationRequest(
            request_id=request_id or uuid.uuid4().hex,
            arrival_us=self._served.clock(),
            prompt_tokens=0,
            output_tokens=0,
            max_tokens=0,
            tenant=tenant,
            api_key_hash=self._key_hash(key),
            endpoint=scope["path"],
        )

    def _request(self, unread: GenerationRequest, body: CompletionBody) -> GenerationRequest:
        return generation_request(
            body,
            request_id=unread.request_id,
            endpoint=unread.endpoint,
            tenant=unread.tenant,
            api_key_hash=unread.api_key_hash,
            chunk_tokens=self._chunk_tokens,
            now_us=unread.arrival_us,
        )

    def _key_hash(self, authorization: str) -> str:
        if not authorization:
            return ""
        key = authorization.removeprefix("Bearer ").encode()
        return hmac.new(self._key_salt, key, hashlib.sha256).hexdigest()[:12]

    def _models(self) -> bytes:
        card = {
            "id": self._served.identity.model,
            "object": "model",
            "created": 0,
            "owned_by": "vllm",
            "root": self._served.identity.model,
            "max_model_len": self._served.engine.profile.max_model_len,
        }
        return msgspec.json.encode({"object": "list", "data": [card]})


class _Writer:
    """Writes the answer of one request, whole or in chunks."""

    def __init__(self, request: GenerationRequest, model: str, send: Send) -> None:
        self._send = send
        self._request = request
        self._chat = request.endpoint == COMPLETIONS[0]
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{request.request_id}"
        self._model = model
        self._sent_tokens = 0
        self._started = False

    async def chunk(self, event: Chunk) -> None:
        await self._start_stream()
        await _body(self._send, self._delta(event.generated, None), more=True)

    async def last_chunk(self, finished: Finished, *, usage: bool) -> None:
        await self._start_stream()
        data = self._delta(finished.generated, finished.reason)
        if usage:
            data += self._event({"choices": [], "usage": _usage(finished)})
        await _body(self._send, data + _DONE, more=False)

    async def whole(self, finished: Finished) -> None:
        text = _WORD * finished.generated
        choice: dict[str, Any] = {"index": 0, "finish_reason": finished.reason}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        answer = {
            "id": self._id,
            "object": "chat.completion" if self._chat else "text_completion",
            "created": finished.end_us // 1_000_000,
            "model": self._model,
            "choices": [choice],
            "usage": _usage(finished),
        }
        headers = [(b"x-request-id", self._request.request_id.encode("latin-1", "replace"))]
        await _answer(self._send, 200, msgspec.json.encode(answer), _JSON, headers)

    async def failed(self, finished: Finished) -> None:
        if self._started:
            error = {"error": {"message": "the engine failed", "code": 500}}
            await _body(self._send, self._event(error) + _DONE, more=False)
            return
        # An abort that the client did not ask for: the engine went away under it.
        status = 503 if finished.reason == "abort" else STATUS_OF[finished.reason]
        await _error(self._send, status, "the engine failed")

    async def _start_stream(self) -> None:
        if self._started:
            return
        self._started = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"x-request-id", self._request.request_id.encode("latin-1", "replace")),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    def _delta(self, generated: int, reason: str | None) -> bytes:
        text = _WORD * (generated - self._sent_tokens)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self._chat:
            first = not self._sent_tokens
            choice["delta"] = {"role": "assistant", "content": text} if first else {"content": text}
        else:
            choice["text"] = text
        self._sent_tokens = generated
        return self._event({"choices": [choice]})

    def _event(self, content: dict[str, Any]) -> bytes:
        envelope = {
            "id": self._id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": self._request.arrival_us // 1_000_000,
            "model": self._model,
        }
        return b"data: " + msgspec.json.encode(envelope | content) + b"\n\n"


def _usage(finished: Finished) -> dict[str, Any]:
    prompt_tokens = finished.request.prompt_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": finished.generated,
        "total_tokens": prompt_tokens + finished.generated,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    }


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None if the client left, cut at ``BODY_BYTES_MAX``."""
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        data += part
        if not message.get("more_body", False) or len(data) > BODY_BYTES_MAX:
            return data[:BODY_BYTES_MAX]


async def _until_disconnect(receive: Receive, events: asyncio.Queue[Event | None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    events.put_nowait(None)


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    fixed = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": fixed + (headers or [])}
    await send(start)
    await _body(send, body, more=False)


async def _body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _error(send: Send, status: int, message: str) -> None:
    kind = "NotFoundError" if status == 404 else "BadRequestError" if status == 400 else "Error"
    error = {"error": {"message": message, "type": kind, "code": status}}
    await _answer(send, status, msgspec.json.encode(error), _JSON)
