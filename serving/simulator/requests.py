"""What goes into a simulated engine and what comes out of it.

This file refuses behaviour, except to name how a finished request looks in the request log.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from redline.errors import Fault
from redline.records import FinishReason, Precision, RequestRecord
from serving.simulator.blocks import PrefixSegment

STATUS_OF: dict[FinishReason, int] = {"stop": 200, "length": 200, "abort": 499, "error": 500}


class Refused(Fault):
    """The engine does not take this request. ``status_code`` is what the client is told."""

    def __init__(self, reason: str, status_code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status_code = status_code


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. Lengths are in tokens, times in µs UTC."""

    request_id: str
    arrival_us: int
    prompt_tokens: int
    output_tokens: int  # what the model would say if nobody stopped it
    max_tokens: int  # where the client stops it
    prefix: tuple[PrefixSegment, ...] = ()
    chunk_tokens: int = 0  # a Chunk at least this many tokens after the last; 0: none
    tenant: str = ""
    user: str = ""
    api_key_hash: str = ""
    endpoint: str = "/v1/chat/completions"
    stream: bool = False


class Chunk(NamedTuple):
    """A request has more tokens for its client: ``generated`` so far."""

    handle: int
    generated: int
    at_us: int


class Finished(NamedTuple):
    """A request is over, in whatever way. Every accepted request has exactly one."""

    handle: int
    request: GenerationRequest
    reason: FinishReason
    end_us: int
    scheduled_us: int | None  # first time in a batch
    first_token_us: int | None
    generated: int
    cached_tokens: int
    preemptions: int


Event = Chunk | Finished


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on an engine: the labels of its requests."""

    instance: str
    model: str
    version: str = ""
    region: str = ""
    precision: Precision = "fp8"
    canary: bool = False


def record_of(finished: Finished, identity: Identity, seq: int) -> RequestRecord:
    """The one log line of a finished request. A stage that was not reached is None."""
    request = finished.request
    arrival_us, end_us = request.arrival_us, finished.end_us
    scheduled_us, first_us = finished.scheduled_us, finished.first_token_us
    started = scheduled_us is not None
    return RequestRecord(
        request_id=request.request_id,
        seq=seq,
        ts_arrival_us=arrival_us,
        ts_end_us=end_us,
        instance=identity.instance,
        model=identity.model,
        version=identity.version,
        region=identity.region,
        tenant=request.tenant,
        user=request.user,
        api_key_hash=request.api_key_hash,
        endpoint=request.endpoint,
        stream=request.stream,
        status_code=STATUS_OF.get(finished.reason, 200),
        finish_reason=finished.reason,
        error="simulated engine error" if finished.reason == "error" else "",
        prompt_tokens=request.prompt_tokens,
        cached_tokens=finished.cached_tokens,
        completion_tokens=finished.generated,
        queue_us=scheduled_us - arrival_us if scheduled_us is not None else end_us - arrival_us,
        prefill_us=first_us - scheduled_us
        if first_us is not None and scheduled_us is not None
        else None,
        decode_us=end_us - first_us if first_us is not None else None,
        ttft_us=first_us - arrival_us if first_us is not None else None,
        e2e_us=end_us - arrival_us,
        preemptions=finished.preemptions if started else 0,
        precision=identity.precision,
        canary=identity.canary,
    )


def refused_record(
    request: GenerationRequest, refused: Refused, identity: Identity, seq: int
) -> RequestRecord:
    """The log line of a request that the engine did not take: no stage was reached."""
    return RequestRecord(
        request_id=request.request_id,
        seq=seq,
        ts_arrival_us=request.arrival_us,
        ts_end_us=request.arrival_us,
        instance=identity.instance,
        model=identity.model,
        version=identity.version,
        region=identity.region,
        tenant=request.tenant,
        user=request.user,
        api_key_hash=request.api_key_hash,
        endpoint=request.endpoint,
        stream=request.stream,
        status_code=refused.status_code,
        error=refused.reason,
        prompt_tokens=request.prompt_tokens,
        precision=identity.precision,
        canary=identity.canary,
    )
