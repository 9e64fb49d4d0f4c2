"""What is read of a span, whatever the encoding, and the JSON encoding of OTLP.

Only what RequestRecord needs is read: no events, no links. This file refuses protobuf and HTTP.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from redline.errors import RecordInvalid

Value = str | int | float | bool


class Span(NamedTuple):
    """One span. Ids are hex, times are ns since the epoch; ``resource`` are its attributes."""

    trace_id: str
    span_id: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    resource: dict[str, Value]


class _AnyValue(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None


class _KeyValue(msgspec.Struct):
    key: str
    value: _AnyValue | None = None


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[_KeyValue] = []


class _Scope(msgspec.Struct):
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    attributes: list[_KeyValue] = []


class _ResourceSpans(msgspec.Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_Scope] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_ResourceSpans] = []


_decoder = msgspec.json.Decoder(_Request)


def read_json(data: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest in JSON; 64-bit numbers may be text, as OTLP says.

    Raises:
        RecordInvalid: it is none.
    """
    try:
        return [
            Span(
                span.trace_id.lower(),
                span.span_id.lower(),
                span.name,
                int(span.start_time_unix_nano),
                int(span.end_time_unix_nano),
                _attributes(span.attributes),
                _attributes(group.resource.attributes if group.resource else []),
            )
            for group in _decoder.decode(data).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RecordInvalid(f"OTLP JSON: {error}") from error


def _attributes(pairs: list[_KeyValue]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in pairs:
        value: Any = pair.value
        if value is None:
            continue
        if value.string_value is not None:
            found[pair.key] = value.string_value
        elif value.bool_value is not None:
            found[pair.key] = value.bool_value
        elif value.int_value is not None:
            found[pair.key] = int(value.int_value)
        elif value.double_value is not None:
            found[pair.key] = float(value.double_value)
    return found
