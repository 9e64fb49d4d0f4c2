# mypy: disable-error-code="import-not-found, no-any-return"
"""The middleware and the hub as a server uses them, on applications that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redline_vllm.halves import EngineHalf
from redline_vllm.hub import Hub
from redline_vllm.middleware import RequestLogMiddleware
from redline_vllm.settings import read_settings
from redline_vllm.tenants import hash_key

from redline.codec import decode_json
from redline.records import RequestRecord

SECRET_WORD = "zzsecretzz"
BODY = {"model": "m", "messages": [{"role": "user", "content": SECRET_WORD}]}


class Stand:
    """A hub with the middleware around an application, and a client."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        env = {"REDLINE_REQUEST_LOG_DIR": str(directory), "REDLINE_INSTANCE": "i", **environ}
        self.hub = Hub(read_settings(env))
        self.sent: list[Any] = []

    async def post(
        self,
        app: Callable[..., Any],
        body: Any = BODY,
        path: str = "/v1/chat/completions",
        headers: dict[str, str] | None = None,
        leaves: bool = False,
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        incoming = [{"type": "http.request", "body": data, "more_body": False}]
        if leaves:
            incoming.append({"type": "http.disconnect"})

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            self.sent.append(message)

        named = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": path, "headers": named}
        await RequestLogMiddleware(app, self.hub)(scope, receive, send)

    def records(self) -> list[RequestRecord]:
        self.hub.close()
        found = sorted(self.directory.glob("i/*.ndjson"))
        text = b"".join(path.read_bytes() for path in found)
        assert SECRET_WORD.encode() not in text
        return [decode_json(line, RequestRecord) for line in text.splitlines()]


def answer(status: int, body: bytes, kind: bytes = b"application/json") -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
        )
        await send({"type": "http.response.body", "body": body})

    return app


async def test_error_messages_are_not_written_but_their_type_is(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    error = {"error": {"message": f"bad {SECRET_WORD}", "type": "BadRequestError", "param": "n"}}
    await stand.post(answer(400, json.dumps(error).encode()), headers={"X-Request-Id": "r1"})
    await stand.post(answer(401, b'{"error": "Unauthorized"}'))
    await stand.post(answer(503, f"<html>{SECRET_WORD}".encode()))
    first, second, third = stand.records()
    assert (first.request_id, first.status_code, first.error) == ("r1", 400, "BadRequestError: n")
    assert (second.status_code, second.error) == (401, "Unauthorized")
    assert (third.status_code, third.error, third.failed) == (503, "HTTP 503", True)


async def test_a_client_that_leaves_is_499_and_a_stream_that_never_ends_is_written(
    tmp_path: Path,
) -> None:
    stand = Stand(tmp_path)

    async def left(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        await asyncio.Event().wait()

    await stand.post(left, leaves=True)
    task = asyncio.create_task(stand.post(hangs))
    while not stand.sent:
        await asyncio.sleep(0)
    records = {record.status_code: record for record in stand.records()}
    task.cancel()
    assert records[499].finish_reason == "abort"
    assert records[499].error == ""
    assert records[503].error == "ServerStopped"
    assert records[503].finish_reason == "error"


async def test_an_exception_of_the_application_is_recorded_and_passed_on(tmp_path: Path) -> None:
    stand = Stand(tmp_path)

    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError(SECRET_WORD)

    with pytest.raises(KeyError):
        await stand.post(breaks)
    (record,) = stand.records()
    assert (record.status_code, record.error) == (500, "KeyError")


async def test_both_halves_make_one_record(tmp_path: Path) -> None:
    stand = Stand(tmp_path)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names = dict(scope["headers"])
        usage = SimpleNamespace(prompt_tokens=7, completion_tokens=9, prompt_tokens_details=None)
        request_id = "chatcmpl-" + names[b"x-request-id"].decode()
        scope["state"]["request_metadata"] = SimpleNamespace(
            request_id=request_id, final_usage_info=usage
        )
        for tokens in (4, 5):
            half = EngineHalf(request_id, "length", 7, tokens, 2, 0.001, 0.02, 0.3, 1)
            stand.hub.put(half)
        await answer(200, b"{}")(scope, receive, send)

    await stand.post(app, {**BODY, "n": 2, "user": "u"}, headers={"X-Tenant": "team"})
    (record,) = stand.records()
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (7, 2, 9)
    assert (record.queue_us, record.prefill_us, record.decode_us) == (1_000, 20_000, 300_000)
    assert (record.ttft_us, record.preemptions) == (21_000, 2)
    assert (record.finish_reason, record.tenant, record.user) == ("length", "team", "u")
    assert len(record.request_id) == 32


async def test_the_owner_of_a_key_counts_more_than_a_header(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({hash_key(b"s", b"k1"): "owner"}))
    stand = Stand(
        tmp_path / "logs", REDLINE_KEY_HASH_SECRET="s", REDLINE_TENANT_KEYS_FILE=str(keys)
    )
    told = {"X-Tenant": "told"}
    await stand.post(answer(200, b"{}"), headers={**told, "Authorization": "Bearer k1"})
    await stand.post(answer(200, b"{}"), headers={**told, "X-API-Key": "k2"})
    first, second = stand.records()
    assert (first.tenant, second.tenant) == ("owner", "told")
    assert first.api_key_hash == hash_key(b"s", b"k1")
    assert second.api_key_hash not in ("", first.api_key_hash)


async def test_without_a_secret_no_hash_is_written(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    await stand.post(answer(200, b"{}"), headers={"Authorization": "Bearer k1"})
    assert stand.records()[0].api_key_hash == ""


async def test_a_full_queue_and_a_full_disk_are_told_by_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = Stand(tmp_path, REDLINE_REQUEST_LOG_QUEUE_MAX="100")
    await stand.post(answer(200, b"{}"))
    stand.hub.flush()
    with monkeypatch.context() as patched:

        def full(descriptor: int, data: Any) -> int:
            raise OSError(28, "no space left on device")

        patched.setattr(os, "write", full)
        for _ in range(300):
            await stand.post(answer(200, b"{}"))
        stand.hub.flush()
    await stand.post(answer(200, b"{}"))
    records = stand.records()
    assert stand.hub.dropped > 0
    assert sum(record.dropped_before for record in records) == stand.hub.dropped
    assert len(records) + stand.hub.dropped == 302
    assert records[-1].seq == 302


async def test_it_does_nothing_without_a_directory() -> None:
    hub = Hub(read_settings({}))
    assert not hub.enabled
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((receive, send))

    await RequestLogMiddleware(app, hub)({"type": "http", "method": "POST"}, 1, 2)
    assert seen == [(1, 2)]


async def test_scopes_that_are_odd_reach_the_application(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    odd = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": None}
    await RequestLogMiddleware(app, stand.hub)(odd, None, None)
    assert seen == [odd]
    assert stand.hub.dropped == 1
    stand.hub.close()
