# mypy: disable-error-code="import-not-found"
"""What a request had when its client left: vLLM makes no statistics of it, so they are looked up.

The one place that needs more than vLLM's hooks: ``OutputProcessor.abort_requests`` is wrapped, and
the request's state is read before vLLM drops it. Where vLLM has changed, nothing is wrapped, and an
aborted stream's tokens are estimated from its chunks. This file refuses to change the outcome.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from redline_vllm.halves import EngineHalf
from redline_vllm.settings import logger

_MARK = "_redline"


def wrap_aborts(put: Callable[[EngineHalf], None]) -> bool:
    """Give ``put`` an engine half of each request that is aborted; False if vLLM has changed."""
    try:
        from vllm.v1.engine.output_processor import OutputProcessor

        wrapped: Any = OutputProcessor.abort_requests
        if getattr(wrapped, _MARK, False):
            return True

        @functools.wraps(wrapped)
        def abort_requests(self: Any, request_ids: Iterable[str], internal: bool) -> Any:
            names = list(request_ids)
            try:
                for half in aborted_halves(self, names, internal=internal):
                    put(half)
            except Exception as error:
                logger.debug("redline: aborts cannot be read: %s", error)
            return wrapped(self, names, internal)

        setattr(abort_requests, _MARK, True)
        OutputProcessor.abort_requests = abort_requests
    except Exception as error:
        logger.warning("redline: tokens of aborted requests are estimated: %s", error)
        return False
    return True


def aborted_halves(
    processor: Any, request_ids: Iterable[str], *, internal: bool
) -> list[EngineHalf]:
    """The halves of what ``abort_requests`` is about to drop.

    A parent's id (n > 1) has no state of its own: vLLM calls itself again with the children.
    """
    halves = []
    for name in request_ids:
        inner = [name] if internal else list(processor.external_req_ids.get(name, ()))
        for state in filter(None, map(processor.request_states.get, inner)):
            stats = state.stats
            if stats is None:
                continue
            halves.append(
                EngineHalf(
                    engine_request_id=state.external_req_id,
                    finish_reason="abort",
                    prompt_tokens=state.prompt_len,
                    completion_tokens=stats.num_generation_tokens,
                    cached_tokens=getattr(state, "num_cached_tokens", 0),
                    queue_s=_span(stats.queued_ts, stats.scheduled_ts),
                    prefill_s=_span(stats.scheduled_ts, stats.first_token_ts),
                    decode_s=_span(stats.first_token_ts, stats.last_token_ts),
                    preemptions=getattr(stats, "num_preemptions", 0),
                )
            )
    return halves


def _span(start: float, end: float) -> float | None:
    return end - start if start and end >= start else None
