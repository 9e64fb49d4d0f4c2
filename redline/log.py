"""Structured logs: constant event names, facts as keys, one line an event, to stderr.

``configure`` is called once, by a process's entry point. Values of keys that look like secrets
are masked, whoever logs them. This file refuses to write to stdout, which belongs to results.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

_SECRET_KEY = re.compile(r"token|secret|password|authorization|api_key$|signature", re.IGNORECASE)


def _mask_secrets(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key in event:
        if _SECRET_KEY.search(key) and isinstance(event[key], str) and event[key]:
            event[key] = "***"
    return event


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    form: Literal["console", "json"] = "json",
    component: str = "",
) -> None:
    """Set up the process's log. ``component`` is put on every line."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    if component:
        structlog.contextvars.bind_contextvars(component=component)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    # While Kafka is away it writes 30 lines a second; each room says so once, in its own words.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """A logger for a shell. Cores return reasons; shells log them."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
