"""The two halves of a request, as the two hooks see them, before they are joined.

Filled on the event loop, so nothing here parses, hashes or allocates more than it must. Instants
are ``time.perf_counter()`` seconds unless their name says otherwise. This file refuses behaviour.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class EngineHalf(NamedTuple):
    """One sequence as the engine saw it. Durations in seconds; None: a stage that was not reached.

    ``engine_request_id`` is vLLM's own: ``chatcmpl-R``, ``cmpl-R-0``.
    """

    engine_request_id: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float | None
    prefill_s: float | None
    decode_s: float | None
    preemptions: int


class BodyFacts(NamedTuple):
    """What the request asked for. ``model`` is what the client wrote, so it may be anything."""

    model: str = ""
    user: str = ""
    stream: bool = False
    choices: int = 1
    prompts: int = 1


class HttpHalf:
    """One request as HTTP saw it.

    ``body`` is what was read of it so far, until the writer thread takes ``facts`` from it.
    ``metadata`` is the object that vLLM leaves in the scope: its request id and its usage.
    """

    __slots__ = (
        "arrival_s", "arrival_us", "body", "body_bytes", "chunks", "done", "end_s", "error_body",
        "exception", "facts", "first_byte_s", "gone", "key", "metadata", "path", "request_id",
        "sse", "status_code", "stopped", "tenant",
    )  # fmt: skip

    def __init__(self, path: str, request_id: str, arrival_us: int, arrival_s: float) -> None:
        self.path = path
        self.request_id = request_id
        self.arrival_us = arrival_us
        self.arrival_s = arrival_s
        self.tenant = b""
        self.key = b""
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.facts = BodyFacts()
        self.status_code = 0
        self.first_byte_s: float | None = None
        self.end_s = arrival_s
        self.chunks = 0
        self.sse = False
        self.done = False  # the whole answer was handed to the server
        self.gone = False  # the client left before that
        self.stopped = False  # the server stopped before that
        self.error_body = b""
        self.exception = ""
        self.metadata: Any = None

    @property
    def final_status(self) -> int:
        """The status code as logs have it: 499 for a client that left, 500 for no answer at all."""
        if self.gone:
            return 499
        if self.stopped:
            return self.status_code if self.status_code >= 400 else 503
        return self.status_code or 500
