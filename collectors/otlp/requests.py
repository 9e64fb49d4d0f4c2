"""Core: vLLM's ``llm_request`` span to a RequestRecord.

A span has tokens, times and the id; it has no status, tenant or cached tokens. vLLM makes none for
errors and aborts, so these do not show here. Attribute names: vLLM's ``SpanAttributes`` (0.32).
This file refuses every other span.
"""

from __future__ import annotations

import math

from collectors.otlp.span import Span, Value
from redline.errors import RecordInvalid
from redline.records import RequestRecord

SPAN_NAME = "llm_request"
_ENDPOINTS = {
    "chatcmpl-": "/v1/chat/completions",
    "cmpl-": "/v1/completions",
    "resp_": "/v1/responses",
}
_S_MAX = 10_000_000.0


def is_request(span: Span) -> bool:
    """Whether the span stands for a request that an engine finished."""
    return span.name == SPAN_NAME


def to_record(span: Span, seq: int) -> RequestRecord:
    """The record. ``seq`` is its number in the spool of its instance.

    Raises:
        RecordInvalid: the span lacks its id, its instance or its times.
    """
    given = span.resource | span.attributes
    engine_id = _text(given, "gen_ai.request.id")
    instance = instance_of(span)
    if not engine_id or not instance or not span.span_id:
        raise RecordInvalid("llm_request: no span id, gen_ai.request.id or service.instance.id")
    if not 0 < span.start_ns <= span.end_ns < 1 << 63:
        raise RecordInvalid(f"llm_request {engine_id}: its times are {span.start_ns}-{span.end_ns}")
    prefix = next((known for known in _ENDPOINTS if engine_id.startswith(known)), "")
    prompt = _count(given, "gen_ai.usage.prompt_tokens")
    completion = _count(given, "gen_ai.usage.completion_tokens")
    end_us = span.end_ns // 1_000
    e2e_us = _span_us(given, "e2e")
    return RequestRecord(
        # chat and completions put a prefix before the client's X-Request-Id
        request_id=engine_id if prefix == "resp_" else engine_id.removeprefix(prefix),
        seq=seq,
        ts_arrival_us=span.start_ns // 1_000,
        ts_end_us=end_us,
        instance=instance,
        model=_text(given, "gen_ai.response.model", "gen_ai.request.model", "service.name"),
        version=_text(given, "service.version"),
        region=_text(given, "cloud.region"),
        endpoint=_ENDPOINTS.get(prefix, ""),
        prompt_tokens=prompt or 0,
        completion_tokens=completion or 0,
        tokens_known=prompt is not None and completion is not None,
        queue_us=_span_us(given, "time_in_queue"),
        prefill_us=_span_us(given, "time_in_model_prefill"),
        decode_us=_span_us(given, "time_in_model_decode"),
        ttft_us=_span_us(given, "time_to_first_token"),
        e2e_us=end_us - span.start_ns // 1_000 if e2e_us is None else e2e_us,
    )


def instance_of(span: Span) -> str:
    """The engine: ``service.instance.id``, else ``service.name``; empty if there is none."""
    return _text(span.resource, "service.instance.id", "service.name")


def _text(given: dict[str, Value], *names: str) -> str:
    return next((str(given[name]) for name in names if given.get(name)), "")


def _count(given: dict[str, Value], name: str) -> int | None:
    value = given.get(name)
    return value if type(value) is int and 0 <= value < 1 << 32 else None


def _span_us(given: dict[str, Value], name: str) -> int | None:
    value = given.get(f"gen_ai.latency.{name}")
    if isinstance(value, (str, bool)) or value is None or not math.isfinite(value):
        return None
    return round(value * 1e6) if 0 <= value < _S_MAX else None
