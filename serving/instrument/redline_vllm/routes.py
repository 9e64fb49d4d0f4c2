"""Core: which requests are logged, and under which endpoint.

Everything that makes an engine work, and everything a client may take for it; not what operates
the server. An unknown path is one label, because clients invent paths. This file refuses to look
at anything but the path.
"""

from __future__ import annotations

KNOWN = frozenset(
    {
        "/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions", "/v1/responses",
        "/v1/messages", "/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/audio/transcriptions",
        "/v1/audio/translations", "/v2/embed", "/v2/rerank", "/cohere/v2/chat", "/pooling",
        "/classify", "/score", "/rerank", "/generative_scoring", "/inference/v1/generate",
        "/invocations",
    }
)  # fmt: skip
OTHER = "other"

_PREFIXES = ("/v1/", "/v2/", "/inference/", "/cohere/")
_NOT_INFERENCE = (
    "/render", "/derender", "/count_tokens", "/cancel", "/load_lora_adapter",
    "/unload_lora_adapter", "/systemone",
)  # fmt: skip


def is_logged(path: str) -> bool:
    """Whether a POST to ``path`` has a record."""
    if path in KNOWN:
        return True
    return path.startswith(_PREFIXES) and not path.endswith(_NOT_INFERENCE)


def endpoint_of(path: str) -> str:
    """The endpoint's label."""
    return path if path in KNOWN else OTHER
