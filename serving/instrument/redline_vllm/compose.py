# mypy: disable-error-code="import-not-found, no-any-return"
"""Core: one record from the halves of a request.

Tokens are the usage that the client was told; where it was told none (it left, or an error), they
are the engine's own count, so that all records sum to what the engine generated. Times of stages
are the engine's, end-to-end and time to first token of a stream are HTTP's: both clocks matter,
because a starved API server is slow while its engine is not. This file refuses clocks and I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from redline_vllm.body import read_error
from redline_vllm.halves import EngineHalf, HttpHalf
from redline_vllm.joiner import Joined, engine_ids
from redline_vllm.record import FINISH_REASONS, FinishReason, Precision, RequestRecord
from redline_vllm.routes import endpoint_of

_LABEL_CHARS_MAX = 256
_WORST_FIRST: tuple[FinishReason, ...] = (
    "error", "abort", "repetition", "length", "tool_calls", "stop",
)  # fmt: skip


class Identity(NamedTuple):
    """What runs here: the labels of every record. ``served`` are the names that clients may use."""

    instance: str
    served: tuple[str, ...]
    version: str
    region: str
    precision: Precision
    canary: bool


def record_of(joined: Joined, identity: Identity, tenant: str, api_key_hash: str) -> RequestRecord:
    """The record of a request; ``seq`` is not set yet."""
    http, engine = joined.http, joined.engine
    e2e_us = _us(http.end_s - http.arrival_s) or 0
    queue_us = _longest(half.queue_s for half in engine)
    prefill_us = _longest(half.prefill_s for half in engine)
    decode_us = _longest(half.decode_s for half in engine)
    prompt_tokens, cached_tokens, completion_tokens = _tokens(joined)
    streams = http.facts.stream or http.sse
    return RequestRecord(
        request_id=http.request_id[:_LABEL_CHARS_MAX],
        seq=0,
        ts_arrival_us=http.arrival_us,
        ts_end_us=http.arrival_us + e2e_us,
        instance=identity.instance,
        model=_model(http, identity),
        version=identity.version,
        region=identity.region,
        tenant=tenant,
        user=http.facts.user,
        api_key_hash=api_key_hash,
        endpoint=endpoint_of(http.path),
        stream=streams,
        status_code=http.final_status,
        finish_reason=_finish_reason(joined),
        error=_error(http),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        queue_us=queue_us,
        prefill_us=prefill_us,
        decode_us=decode_us,
        ttft_us=_ttft_us(http, engine, streams=streams),
        e2e_us=e2e_us,
        preprocess_us=_outside_engine_us(http, engine, e2e_us, streams=streams),
        preemptions=min(sum(half.preemptions for half in engine), 65_535),
        precision=identity.precision,
        canary=identity.canary,
        tokens_known=_tokens_known(joined),
    )


def record_without_http(half: EngineHalf, identity: Identity, now_us: int) -> RequestRecord:
    """The record of one sequence on a server that runs without the middleware."""
    parts = [half.queue_s, half.prefill_s, half.decode_s]
    e2e_us = sum(_us(part) or 0 for part in parts)
    ttft_s = None if half.prefill_s is None else (half.queue_s or 0.0) + half.prefill_s
    reason = _known(half.finish_reason)
    return RequestRecord(
        request_id=half.engine_request_id[:_LABEL_CHARS_MAX],
        seq=0,
        ts_arrival_us=now_us - e2e_us,
        ts_end_us=now_us,
        instance=identity.instance,
        model=identity.served[0] if identity.served else "",
        version=identity.version,
        region=identity.region,
        endpoint="",
        status_code={"abort": 499, "error": 500}.get(reason, 200),
        finish_reason=reason,
        prompt_tokens=half.prompt_tokens,
        cached_tokens=half.cached_tokens,
        completion_tokens=half.completion_tokens,
        queue_us=_us(half.queue_s),
        prefill_us=_us(half.prefill_s),
        decode_us=_us(half.decode_s),
        ttft_us=_us(ttft_s),
        e2e_us=e2e_us,
        preemptions=half.preemptions,
        precision=identity.precision,
        canary=identity.canary,
    )


def _tokens(joined: Joined) -> tuple[int, int, int]:
    http, engine = joined.http, joined.engine
    usage = getattr(http.metadata, "final_usage_info", None)
    # Sequences of one prompt share its id and its tokens.
    prompts = {half.engine_request_id: half.prompt_tokens for half in engine}
    cached: dict[str, int] = {}
    for half in engine:
        name = half.engine_request_id
        cached[name] = max(cached.get(name, 0), half.cached_tokens)
    counted = (
        sum(prompts.values()),
        sum(cached.values()),
        sum(half.completion_tokens for half in engine),
    )
    if http.gone and joined.complete:
        return counted
    if usage is not None:
        details = getattr(usage, "prompt_tokens_details", None)
        told = getattr(details, "cached_tokens", None)
        return (
            _count(getattr(usage, "prompt_tokens", 0)),
            counted[1] if engine else _count(told),
            _count(getattr(usage, "completion_tokens", 0)),
        )
    if engine or not http.sse:
        return counted
    # No engine half and no usage: a chunk is a token, but for the one that opens the answer.
    return (0, 0, max(0, http.chunks - 1))


def _tokens_known(joined: Joined) -> bool:
    """Whether somebody counted them, or the request never came to the engine."""
    http = joined.http
    if joined.complete or getattr(http.metadata, "final_usage_info", None) is not None:
        return True
    return not engine_ids(http) and not (http.sse and http.status_code < 400)


def _finish_reason(joined: Joined) -> FinishReason:
    http = joined.http
    if http.gone:
        return "abort"
    if http.stopped or http.exception or (http.error_body and http.status_code < 400):
        return "error"
    reasons = {_known(half.finish_reason) for half in joined.engine}
    return next((reason for reason in _WORST_FIRST if reason in reasons), "")


def _error(http: HttpHalf) -> str:
    if http.stopped:
        return "ServerStopped"
    if http.gone:
        return ""
    if http.error_body and (found := read_error(http.error_body)):
        return found
    if http.exception:
        return http.exception[:_LABEL_CHARS_MAX]
    status_code = http.final_status
    return f"HTTP {status_code}" if status_code >= 400 else ""


def _model(http: HttpHalf, identity: Identity) -> str:
    """A client can write anything as the model: only what was served is a label."""
    asked = http.facts.model
    if not identity.served or (asked and (asked in identity.served or http.final_status < 400)):
        return asked
    return identity.served[0]


def _ttft_us(http: HttpHalf, engine: list[EngineHalf], *, streams: bool) -> int | None:
    if streams:
        if http.first_byte_s is None or http.status_code >= 400:
            return None
        return _us(http.first_byte_s - http.arrival_s)
    return _soonest(engine)


def _outside_engine_us(
    http: HttpHalf, engine: list[EngineHalf], e2e_us: int, *, streams: bool
) -> int | None:
    """Time in the API server: parsing, template, tokens, and waiting for its event loop."""
    if streams:
        first_us, engine_us = _ttft_us(http, engine, streams=True), _soonest(engine)
        if first_us is None or engine_us is None:
            return None
        return max(0, first_us - engine_us)
    spans = [
        half.queue_s + half.prefill_s + half.decode_s
        for half in engine
        if half.queue_s is not None and half.prefill_s is not None and half.decode_s is not None
    ]
    inside_us = _longest(spans)
    return None if inside_us is None or http.gone else max(0, e2e_us - inside_us)


def _soonest(engine: list[EngineHalf]) -> int | None:
    firsts = [
        half.queue_s + half.prefill_s
        for half in engine
        if half.queue_s is not None and half.prefill_s is not None
    ]
    return _us(min(firsts)) if firsts else None


def _longest(spans: Iterable[float | None]) -> int | None:
    known = [span for span in spans if span is not None]
    return _us(max(known)) if known else None


def _us(span_s: float | None) -> int | None:
    return None if span_s is None else max(0, round(span_s * 1e6))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**32 else 0


def _known(reason: str) -> FinishReason:
    for known in FINISH_REASONS:
        if reason == known:
            return known
    return ""
