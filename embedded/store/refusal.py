"""Errors as ClickHouse's HTTP clients expect them: a number, a name, a status and a text.

This file refuses to log and to know HTTP frameworks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from redline.errors import Fault

_ENGINE_CODE = re.compile(r"Code: (\d+)\. DB::")
_UNKNOWN_CODE = 1002  # UNKNOWN_EXCEPTION

# As in ClickHouse's exceptionCodeToHTTPStatus; everything else is a 500.
_HTTP_STATUS = {
    27: 400, 26: 400, 6: 400, 36: 400, 38: 400, 41: 400, 43: 400, 44: 400, 47: 400, 53: 400,
    62: 400, 69: 400, 70: 400, 72: 400, 117: 400, 130: 400, 131: 400, 386: 400, 456: 400, 457: 400,
    46: 404, 50: 404, 56: 404, 60: 404, 73: 404, 75: 404, 81: 404, 115: 404, 372: 404,
    48: 501, 159: 408, 164: 403, 192: 403, 193: 403, 194: 401, 202: 503, 291: 403, 305: 403,
    307: 403, 358: 403, 373: 409, 497: 403, 516: 403,
}  # fmt: skip


class StoreRefusal(Fault):
    """A request that the store does not run, with ClickHouse's number and name for the reason."""

    def __init__(self, code: int, name: str, message: str, http_status: int | None = None) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}. ({name})")
        self.code = code
        self.http_status = http_status or _HTTP_STATUS.get(code, 500)


@dataclass(frozen=True, slots=True)
class Failure:
    """What goes over the wire for a failed request."""

    code: int
    http_status: int
    text: str


def describe_failure(error: Exception, engine_version: str) -> Failure:
    """Turn an exception of the engine, or a refusal, into ClickHouse's wire form.

    The engine's own prefixes ("Streaming insert finish failed: …") are cut, so that
    ``Code: N. DB::Exception: …`` comes first, where clients look for it.
    """
    text = str(error)
    found = _ENGINE_CODE.search(text)
    if found is None:
        code, text = _UNKNOWN_CODE, f"Code: {_UNKNOWN_CODE}. DB::Exception: {text}"
    else:
        code, text = int(found.group(1)), text[found.start() :]
    if "(version " not in text:
        text = f"{text.rstrip()} (version {engine_version} (official build))"
    status = error.http_status if isinstance(error, StoreRefusal) else _HTTP_STATUS.get(code, 500)
    return Failure(code, status, text + "\n")
