# mypy: disable-error-code="import-not-found, misc"
"""The engine half: a StatLogger, found through the entry point ``vllm.stat_logger_plugins``.

vLLM says that the statistics are no stable interface, so each is read by name with a default. An
exception in ``record`` would end the task that hands out every request's tokens, and with it the
server: everything here is guarded. This file refuses to be loaded without vLLM.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from redline_vllm.aborts import wrap_aborts
from redline_vllm.compose import Identity
from redline_vllm.halves import EngineHalf
from redline_vllm.hub import Hub, process_hub
from redline_vllm.precision import precision_of
from redline_vllm.settings import logger


class RequestStatLogger(AggregateStatLoggerBase):
    """One per API server process, for all its engines."""

    def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
        self._hub: Hub | None = None
        try:
            hub = process_hub()
            if hub.enabled:
                hub.identity = identity_of(vllm_config, hub)
                wrap_aborts(hub.put)
                self._hub = hub
                logger.info("redline: request log in %s", hub.settings.folder)
        except Exception as error:
            logger.warning("redline: nothing is logged: %s: %s", type(error).__name__, error)

    def log_engine_initialized(self) -> None:
        """Nothing: the engine collector reads what vLLM says about itself."""

    def record(
        self,
        scheduler_stats: Any = None,
        iteration_stats: Any = None,
        *others: Any,
        **named: Any,
    ) -> None:
        """Queue the requests that ended in this step of an engine."""
        hub = self._hub
        if hub is None or not hub.enabled or iteration_stats is None:
            return
        try:
            for finished in iteration_stats.finished_requests:
                hub.put(engine_half(finished))
        except Exception as error:
            logger.debug("redline: statistics cannot be read: %s", error)


def engine_half(finished: Any) -> EngineHalf:
    """``FinishedRequestStats`` as an engine half; a negative time is a stage not reached."""
    return EngineHalf(
        engine_request_id=getattr(finished, "request_id", None) or "",
        finish_reason=str(finished.finish_reason),
        prompt_tokens=getattr(finished, "num_prompt_tokens", 0),
        completion_tokens=getattr(finished, "num_generation_tokens", 0),
        cached_tokens=getattr(finished, "num_cached_tokens", 0) or 0,
        queue_s=_reached(finished, "queued_time"),
        prefill_s=_reached(finished, "prefill_time"),
        decode_s=_reached(finished, "decode_time"),
        preemptions=getattr(finished, "num_preemptions", 0),
    )


def identity_of(vllm_config: Any, hub: Hub) -> Identity:
    """The labels of this server: what the environment says, else what vLLM knows."""
    settings = hub.settings
    model_config = vllm_config.model_config
    served = getattr(model_config, "served_model_name", None) or model_config.model
    names = [served] if isinstance(served, str) else list(served)
    if settings.model:
        names = [settings.model, *names]
    return hub.identity._replace(
        served=tuple(dict.fromkeys(names)),
        version=settings.version or getattr(model_config, "revision", None) or "",
        precision=settings.precision or precision_of(model_config),
    )


def _reached(finished: Any, name: str) -> float | None:
    value = getattr(finished, name, None)
    return value if isinstance(value, int | float) and value >= 0 else None
