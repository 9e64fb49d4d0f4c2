"""A client that sends mixed requests, well and badly, and remembers what it was told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp

SECRET_WORD = "zzsecretzz"
CONCURRENCY = 24
LONG_TOKENS = 1500
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


class Ask(NamedTuple):
    """One request. ``leaves``: the client hangs up before the answer is there."""

    request_id: str
    path: str
    body: dict[str, Any] | bytes
    tenant: str = ""
    leaves: bool = False


class Told(NamedTuple):
    """What the client knows afterwards; ``usage`` None: it was not told."""

    ask: Ask
    status_code: int
    usage: dict[str, Any] | None


def mixed(count: int, seed: int) -> Iterator[Ask]:
    """``count`` requests: every 20 hold each kind in a fixed share."""
    draw = random.Random(seed)
    for number in range(count):
        name, tenant = f"load-{number}", f"team-{number % 5}"
        text = f"{SECRET_WORD} the quick brown fox {number % 7}"
        base = {"model": "tiny", "max_tokens": draw.randint(1, 6), "user": f"user-{number % 9}"}
        chat = {**base, "messages": [{"role": "user", "content": text}]}
        told = {"stream": True, "stream_options": {"include_usage": True}}
        long = {**base, "prompt": text, "max_tokens": LONG_TOKENS, "ignore_eos": True}
        kinds: list[tuple[str, dict[str, Any] | bytes, bool]] = [
            (CHAT, chat, False), (CHAT, chat, False), (CHAT, chat, False), (CHAT, chat, False),
            (CHAT, {**chat, **told}, False), (CHAT, {**chat, **told}, False),
            (CHAT, {**chat, **told}, False), (CHAT, {**chat, "stream": True}, False),
            (COMPLETIONS, {**base, "prompt": text}, False),
            (COMPLETIONS, {**base, "prompt": text, **told}, False),
            (COMPLETIONS, {**base, "prompt": [text, "b", "c d"]}, False),
            (COMPLETIONS, {**base, "prompt": [text, "b"], "n": 2, **told}, False),
            (CHAT, {**chat, "n": 3}, False), (CHAT, {**chat, "n": 2, **told}, False),
            (RESPONSES, {"model": "tiny", "input": text, "max_output_tokens": 4}, False),
            (CHAT, {**chat, "model": f"nope {SECRET_WORD}"}, False),
            (COMPLETIONS, {**base, "prompt": text, "max_tokens": -1}, False),
            (COMPLETIONS, b'{"prompt": "' + text.encode(), False),
            (COMPLETIONS, {**long, "stream": True}, True),
            (COMPLETIONS, {**long, "n": 1 + number // 20 % 2}, True),
        ]  # fmt: skip
        path, body, leaves = kinds[number % len(kinds)]
        yield Ask(name, path, body, tenant, leaves)


async def send_all(base_url: str, asks: list[Ask], concurrency: int = CONCURRENCY) -> list[Told]:
    """Send them, at most ``concurrency`` at once."""
    gate = asyncio.Semaphore(concurrency)
    timeout = aiohttp.ClientTimeout(total=240)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(base_url, timeout=timeout, connector=connector) as session:

        async def one(ask: Ask) -> Told:
            async with gate:
                return await _send(session, ask)

        return list(await asyncio.gather(*map(one, asks)))


async def _send(session: aiohttp.ClientSession, ask: Ask) -> Told:
    data = ask.body if isinstance(ask.body, bytes) else json.dumps(ask.body).encode()
    headers = {"X-Request-Id": ask.request_id, "Content-Type": "application/json"}
    if ask.tenant:
        headers["X-Tenant"] = ask.tenant
    if ask.leaves:
        return await _leave(session, ask, data, headers)
    async with session.post(ask.path, data=data, headers=headers) as response:
        body = await response.read()
        usage = None
        if response.content_type == "text/event-stream":
            for line in body.split(b"\n"):
                if line.startswith(b"data: {"):
                    usage = json.loads(line[6:]).get("usage") or usage
        elif response.status == 200:
            usage = json.loads(body)["usage"]
        return Told(ask, response.status, usage)


async def _leave(
    session: aiohttp.ClientSession, ask: Ask, data: bytes, headers: dict[str, str]
) -> Told:
    try:
        async with session.post(
            ask.path, data=data, headers=headers, timeout=aiohttp.ClientTimeout(total=0.4)
        ) as response:
            await response.content.readany()
            response.close()
    except TimeoutError:
        pass
    return Told(ask, 499, None)
