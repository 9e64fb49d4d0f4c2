"""The body of a completion request, and what the simulated engine makes of it.

A client may say how long the prompt and the answer are in ``vllm_xargs`` (which a real vLLM
ignores); else the prompt is its text at four characters a token and the answer's length follows
from the request id. This file refuses HTTP: it reads bytes and raises ``Refused``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from serving.simulator.blocks import PrefixSegment
from serving.simulator.draws import Draws
from serving.simulator.requests import GenerationRequest, Refused

CHARACTERS_PER_TOKEN = 4
OUTPUT_MEDIAN_TOKENS = 64.0
OUTPUT_SIGMA = 0.6
MAX_TOKENS_DEFAULT = 1024


class SimulatedLengths(msgspec.Struct):
    """``vllm_xargs``: lengths that the client knows. 0: not said."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_id: int = 0
    prefix_tokens: int = 0


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool = False


class CompletionBody(msgspec.Struct):
    """What of an OpenAI completion body matters here; the rest is ignored."""

    model: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    vllm_xargs: SimulatedLengths | None = None


_decoder = msgspec.json.Decoder(CompletionBody)


def read_body(data: bytes) -> CompletionBody:
    """Read a request body.

    Raises:
        Refused: 400, with what is wrong with it.
    """
    try:
        body = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the body is not a completion request: {error}", 400) from error
    if body.messages is None and body.prompt is None:
        raise Refused("give messages (chat) or prompt (completions)", 400)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is not None and limit < 1:
        raise Refused(f"max_tokens must be at least 1, not {limit}", 400)
    return body


def generation_request(
    body: CompletionBody,
    *,
    request_id: str,
    endpoint: str,
    tenant: str,
    api_key_hash: str,
    chunk_tokens: int,
    now_us: int,
) -> GenerationRequest:
    """A body as the engine sees it."""
    lengths = body.vllm_xargs or SimulatedLengths()
    prompt_tokens = lengths.prompt_tokens or prompt_tokens_of(body)
    prefix: tuple[PrefixSegment, ...] = ()
    if 0 < lengths.prefix_tokens < prompt_tokens:
        prefix = (PrefixSegment(lengths.prefix_id, lengths.prefix_tokens),)
    draws = Draws(zlib.crc32(request_id.encode()), "output")
    return GenerationRequest(
        request_id=request_id,
        arrival_us=now_us,
        prompt_tokens=prompt_tokens,
        output_tokens=lengths.output_tokens
        or draws.lognormal_tokens(OUTPUT_MEDIAN_TOKENS, OUTPUT_SIGMA, 1, MAX_TOKENS_DEFAULT),
        max_tokens=body.max_completion_tokens or body.max_tokens or MAX_TOKENS_DEFAULT,
        prefix=prefix,
        chunk_tokens=chunk_tokens if body.stream else 0,
        tenant=tenant,
        user=body.user or "",
        api_key_hash=api_key_hash,
        endpoint=endpoint,
        stream=body.stream,
    )


def prompt_tokens_of(body: CompletionBody) -> int:
    """Tokens of the prompt's text, at ``CHARACTERS_PER_TOKEN``; token ids count one each."""
    characters = 0
    if isinstance(body.prompt, str):
        characters = len(body.prompt)
    elif body.prompt is not None:
        characters = sum(
            len(part) if isinstance(part, str) else CHARACTERS_PER_TOKEN for part in body.prompt
        )
    for message in body.messages or ():
        characters += _characters(message)
    return max(1, math.ceil(characters / CHARACTERS_PER_TOKEN))


def _characters(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(len(str(part.get("text", ""))) for part in content if isinstance(part, dict))
    return 0
