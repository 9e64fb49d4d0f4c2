# mypy: disable-error-code="import-not-found"
"""Core: what is taken from a request's body and from an error's body. Never text of a prompt.

Of an error only its type and the name of the parameter are taken, because messages quote the
input. This file refuses to read sockets and to judge whether a request is valid.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from redline_vllm.halves import BodyFacts

_LABEL_CHARS_MAX = 256
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,256})"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_CHOICES = re.compile(rb'"n"\s*:\s*([1-9][0-9]{0,2})\b')
_ERROR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_. ]{0,63}")
_ERROR_PARAM = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]]{0,63}")


class _Body(msgspec.Struct):
    model: Any = None
    user: Any = None
    safety_identifier: Any = None
    stream: Any = None
    n: Any = None
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()


class _Error(msgspec.Struct):
    error: Any = None
    type: Any = None
    param: Any = None
    object: Any = None


_body_decoder = msgspec.json.Decoder(_Body)
_error_decoder = msgspec.json.Decoder(_Error)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def read_body(path: str, data: bytes, *, complete: bool) -> BodyFacts:
    """The facts of a request's body; of one that was too long to keep, what its start shows."""
    if not complete:
        found = _MODEL.search(data)
        model = found[1].decode("utf-8", "replace") if found else ""
        choices = _CHOICES.search(data)
        return BodyFacts(
            model=model,
            stream=_STREAM.search(data) is not None,
            choices=int(choices[1]) if choices else 1,
        )
    try:
        body = _body_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return BodyFacts()
    return BodyFacts(
        model=_label(body.model),
        user=_label(body.user) or _label(body.safety_identifier),
        stream=body.stream is True,
        choices=body.n if isinstance(body.n, int) and 0 < body.n <= 1024 else 1,
        prompts=_prompts(path, body),
    )


def read_error(data: bytes) -> str:
    """The type of an error and the parameter it is about: ``BadRequestError: max_tokens``."""
    start = data.find(b"data: ")
    if start >= 0 and not data.startswith(b"{"):
        data = data[start + 6 :]
    try:
        error: Any = _error_decoder.decode(data.strip())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    inner = error.error
    if isinstance(inner, str):
        return inner if _ERROR_NAME.fullmatch(inner) else ""
    name, param = (
        (inner.get("type"), inner.get("param"))
        if isinstance(inner, dict)
        else (error.type, error.param)
    )
    if not isinstance(name, str) or not _ERROR_NAME.fullmatch(name):
        return ""
    if isinstance(param, str) and _ERROR_PARAM.fullmatch(param):
        return f"{name}: {param}"
    return name


def _prompts(path: str, body: _Body) -> int:
    """How many prompts a request carries: a list of tokens is one, a list of texts is many."""
    if path.endswith("/batch"):
        raw = bytes(body.messages)
    elif path == "/v1/completions":
        raw = bytes(body.prompt)
    elif path in ("/v1/embeddings", "/pooling", "/classify"):
        raw = bytes(body.input)
    else:
        return 1
    if not raw.lstrip().startswith(b"["):
        return 1
    try:
        items = _list_decoder.decode(raw)
    except msgspec.DecodeError:
        return 1
    if not items or bytes(items[0])[:1] in b"-0123456789":
        return 1
    return len(items)


def _label(value: Any) -> str:
    return value[:_LABEL_CHARS_MAX] if isinstance(value, str) else ""
