"""The line that is written: the same JSON as Redline's own request record.

This distribution cannot import Redline, so the fields are repeated here; a test of Redline's keeps
both equal. Times are µs UTC, durations µs; a stage that was not measured is None. Additive changes
only. This file refuses behaviour.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

FinishReason = Literal["stop", "length", "abort", "error", "repetition", "tool_calls", ""]
Precision = Literal["fp8", "bf16", "fp16", "int8", "int4", "unknown"]

FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class RequestRecord(msgspec.Struct, kw_only=True, tag_field="type", tag="request"):
    """One finished request, in whatever way it finished.

    ``seq`` and ``dropped_before`` are set when the line is written, the rest when it is made.
    """

    request_id: str
    seq: int
    ts_arrival_us: int
    ts_end_us: int
    instance: str
    model: str
    version: str = ""
    region: str = ""
    tenant: str = ""
    user: str = ""
    api_key_hash: str = ""
    endpoint: str = "/v1/chat/completions"
    stream: bool = False
    status_code: int = 200
    finish_reason: FinishReason = ""
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_us: int | None = None
    prefill_us: int | None = None
    decode_us: int | None = None
    ttft_us: int | None = None
    e2e_us: int | None = None
    preprocess_us: int | None = None
    network_us: int | None = None
    preemptions: int = 0
    precision: Precision = "unknown"
    canary: bool = False
    dropped_before: int = 0
    tokens_known: bool = True
