"""The requests that probes make: one token from an engine, and its generation counter.

Every request carries the tenant ``redline-probe`` and a request id that begins with it, so that
records, costs and load of probes can be told from the users'. It refuses to retry and to follow
redirects: a probe says what is.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any, NamedTuple

import aiohttp
import msgspec

from collectors.scraper import scrape
from redline.settings import EngineTarget, ProbeSettings

TENANT = "redline-probe"
_EVENTS_BYTES_MAX = 64 * 1024


class _Event(msgspec.Struct):
    choices: list[Any] = []
    error: Any = None


class Completion(NamedTuple):
    """How a one-token completion went. ``latency_us`` is the time to its first token."""

    latency_us: int | None
    error: str


async def one_token(
    session: aiohttp.ClientSession, probe: ProbeSettings, api_key: str, *, stream: bool
) -> Completion:
    """Ask for one token; an ``error`` that is not empty says why it did not come."""
    headers = {
        "X-Tenant": TENANT,
        "X-Request-Id": f"{TENANT}-{probe.kind}-{uuid.uuid4().hex}",
        **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
    }
    body = {"model": probe.model, "prompt": "ping", "max_tokens": 1, "stream": stream}
    url = probe.url.rstrip("/") + "/v1/completions"
    begun_s = time.perf_counter()
    try:
        async with asyncio.timeout(probe.timeout_s):
            async with session.post(
                url, json=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    return Completion(None, f"{url} answered {response.status}")
                found = await (_streamed(response) if stream else _whole(response))
    except TimeoutError:
        return Completion(None, f"{url}: no token within {probe.timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Completion(None, f"{url}: {type(error).__name__}: {error}")
    if found is None:
        return Completion(None, f"{url} answered 200 without a token")
    return Completion(round((found - begun_s) * 1e6), "")


async def generation_counter(
    session: aiohttp.ClientSession, probe: ProbeSettings
) -> tuple[float | None, bool]:
    """The engine's generation counter, and whether its page could be read at all."""
    target = EngineTarget(
        instance=probe.instance or probe.target,
        url=probe.url,
        model=probe.model,
        engine=probe.engine,
    )
    try:
        async with asyncio.timeout(probe.timeout_s):
            sample = await scrape(session, target)
    except TimeoutError:
        return None, False
    return sample.generation_tokens_total, sample.up


async def _whole(response: aiohttp.ClientResponse) -> float | None:
    """When the answer was there; None if it has no token."""
    answer = await response.json(content_type=None)
    usage = answer.get("usage") or {} if isinstance(answer, dict) else {}
    return time.perf_counter() if usage.get("completion_tokens") else None


async def _streamed(response: aiohttp.ClientResponse) -> float | None:
    """When the first token was there. Reads to the end: leaving would be logged as an abort."""
    first_s: float | None = None
    seen = 0
    async for line in response.content:
        seen += len(line)
        if seen > _EVENTS_BYTES_MAX:
            raise ValueError(f"more than {_EVENTS_BYTES_MAX} bytes for one token")
        if first_s is None and line.startswith(b"data: {"):
            event = msgspec.json.decode(line[len(b"data: ") :], type=_Event)
            if event.error is not None:
                raise ValueError("the stream says that the engine failed")
            if event.choices:
                first_s = time.perf_counter()
    return first_s
