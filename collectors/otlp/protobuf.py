"""Reads the few protobuf fields of an OTLP trace export that a RequestRecord needs.

The wire format is protobuf's: a varint key of field number and wire type, then the value. Unknown
fields are passed over, as protobuf demands. Why not the protobuf package: docs/adr/0005. This file
refuses groups, events, links, and values that are lists or maps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from collectors.otlp.span import Span, Value
from redline.errors import RecordInvalid

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_protobuf(data: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest.

    Raises:
        RecordInvalid: it is none.
    """
    try:
        return list(_read_request(data))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise RecordInvalid(f"OTLP protobuf: {error}") from error


def _read_request(data: bytes) -> Iterator[Span]:
    for group in _messages(data, 1):
        resource = {}
        for message in _messages(group, 1):
            resource = _attributes(message, 1)
        for scope in _messages(group, 2):
            for span in _messages(scope, 2):
                yield _read_span(span, resource)


def _read_span(data: bytes, resource: dict[str, Value]) -> Span:
    trace_id = span_id = b""
    name, start_ns, end_ns = "", 0, 0
    for number, value in _fields(data):
        if number == 1:
            trace_id = _as_bytes(value)
        elif number == 2:
            span_id = _as_bytes(value)
        elif number == 5:
            name = _as_bytes(value).decode()
        elif number == 7:
            start_ns = _as_int(value)
        elif number == 8:
            end_ns = _as_int(value)
    ids = trace_id.hex(), span_id.hex()
    return Span(*ids, name, start_ns, end_ns, _attributes(data, 9), resource)


def _attributes(data: bytes, number: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in _messages(data, number):
        key, value = "", None
        for field, content in _fields(pair):
            if field == 1:
                key = _as_bytes(content).decode()
            elif field == 2:
                value = _any_value(_as_bytes(content))
        if value is not None:
            found[key] = value
    return found


def _any_value(data: bytes) -> Value | None:
    found: Value | None = None
    for number, value in _fields(data):
        if number == 1:
            found = _as_bytes(value).decode()
        elif number == 2:
            found = bool(_as_int(value))
        elif number == 3:
            unsigned = _as_int(value)
            found = unsigned - (1 << 64) if unsigned >> 63 else unsigned
        elif number == 4:
            found = struct.unpack("<d", _as_int(value).to_bytes(8, "little"))[0]
    return found


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    return (_as_bytes(value) for field, value in _fields(data) if field == number)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, at = _varint(data, at)
        if size is None:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("the message ends within a field")
        content, at = data[at : at + size], at + size
        yield key >> 3, content if kind == _BYTES else int.from_bytes(content, "little")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found & (1 << 64) - 1, at
    raise ValueError("a number of more than ten bytes")


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes are expected")
    return value


def _as_int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where a number is expected")
    return value
