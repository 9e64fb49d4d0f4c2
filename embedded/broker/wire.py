"""The wire's building blocks: integers, strings, arrays, and structures that vary by version.

A message is described once, as a tuple of ``Field``; both directions are compiled from it per
version, so a test can round-trip every message without knowing it. Only the pre-flexible
encoding exists here. The file refuses to know any API.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Chunks = list[bytes | memoryview]

ALL_VERSIONS = 1 << 15


class Malformed(Exception):
    """The peer's bytes are not the message they claim to be: close the connection."""


class Cursor:
    """A read position in one request. Every step is bounds-checked."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return len(self.data) - self.position

    def take(self, size_bytes: int) -> memoryview:
        """The next ``size_bytes`` bytes, not copied. Raises ``Malformed`` at the end."""
        end = self.position + size_bytes
        if size_bytes < 0 or end > len(self.data):
            raise Malformed(f"{size_bytes} bytes wanted, {self.remaining} left")
        taken = self.data[self.position : end]
        self.position = end
        return taken


Read = Callable[[Cursor], Any]
Write = Callable[[Chunks, Any], None]


@dataclass(frozen=True, slots=True)
class Primitive:
    """One scalar type: how it is read and written."""

    name: str
    read: Read
    write: Write


@dataclass(frozen=True, slots=True)
class Array:
    """A sequence of a scalar, or of a structure given by its fields."""

    of: Primitive | tuple[Field, ...]
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A named value of a structure, present in versions ``since`` to ``until`` inclusive."""

    name: str
    kind: Primitive | Array
    since: int = 0
    until: int = ALL_VERSIONS


Fields = tuple[Field, ...]


def _integer(name: str, code: str) -> Primitive:
    packed = struct.Struct(">" + code)
    pack, unpack_from, size_bytes = packed.pack, packed.unpack_from, packed.size

    def read(cursor: Cursor) -> int:
        try:
            (value,) = unpack_from(cursor.data, cursor.position)
        except struct.error as error:
            raise Malformed(f"{name} wanted, {cursor.remaining} bytes left") from error
        cursor.position += size_bytes
        return int(value)

    def write(chunks: Chunks, value: Any) -> None:
        chunks.append(pack(value))

    return Primitive(name, read, write)


INT8 = _integer("int8", "b")
INT16 = _integer("int16", "h")
INT32 = _integer("int32", "i")
INT64 = _integer("int64", "q")

_read_int16, _read_int32 = INT16.read, INT32.read


def _read_bool(cursor: Cursor) -> bool:
    return bool(cursor.take(1)[0])


def _write_bool(chunks: Chunks, value: Any) -> None:
    chunks.append(b"\x01" if value else b"\x00")


def _read_nullable_string(cursor: Cursor) -> str | None:
    length = _read_int16(cursor)
    if length < 0:
        return None
    try:
        return str(cursor.take(length), "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("a string is not UTF-8") from error


def _write_nullable_string(chunks: Chunks, value: Any) -> None:
    if value is None:
        INT16.write(chunks, -1)
        return
    encoded = value.encode()
    INT16.write(chunks, len(encoded))
    chunks.append(encoded)


def _read_nullable_bytes(cursor: Cursor) -> memoryview | None:
    length = _read_int32(cursor)
    return None if length < 0 else cursor.take(length)


def _write_nullable_bytes(chunks: Chunks, value: Any) -> None:
    if value is None:
        INT32.write(chunks, -1)
        return
    INT32.write(chunks, len(value))
    chunks.append(value)


def _required(nullable: Primitive, name: str) -> Primitive:
    def read(cursor: Cursor) -> Any:
        value = nullable.read(cursor)
        if value is None:
            raise Malformed(f"{name} is null")
        return value

    return Primitive(name, read, nullable.write)


BOOL = Primitive("bool", _read_bool, _write_bool)
NULLABLE_STRING = Primitive("nullable string", _read_nullable_string, _write_nullable_string)
STRING = _required(NULLABLE_STRING, "string")
NULLABLE_BYTES = Primitive("nullable bytes", _read_nullable_bytes, _write_nullable_bytes)
BYTES = _required(NULLABLE_BYTES, "bytes")


def compile_reader(kind: Primitive | Array | Fields, version: int) -> Read:
    """The function that reads ``kind`` in ``version``. It raises ``Malformed``."""
    if isinstance(kind, Primitive):
        return kind.read
    if isinstance(kind, Array):
        return _array_reader(compile_reader(kind.of, version), kind.nullable)
    steps = [
        (field.name, compile_reader(field.kind, version))
        for field in kind
        if field.since <= version <= field.until
    ]

    def read(cursor: Cursor) -> Message:
        return {name: step(cursor) for name, step in steps}

    return read


def _array_reader(read_element: Read, nullable: bool) -> Read:
    def read(cursor: Cursor) -> list[Any] | None:
        count = _read_int32(cursor)
        if count < 0:
            if nullable:
                return None
            raise Malformed("an array is null")
        # Every element takes a byte at least: a huge count is refused before it is believed.
        if count > cursor.remaining:
            raise Malformed(f"{count} elements announced, {cursor.remaining} bytes left")
        return [read_element(cursor) for _ in range(count)]

    return read


def compile_writer(kind: Primitive | Array | Fields, version: int) -> Write:
    """The function that writes ``kind`` in ``version``; a missing field raises ``KeyError``."""
    if isinstance(kind, Primitive):
        return kind.write
    if isinstance(kind, Array):
        return _array_writer(compile_writer(kind.of, version))
    steps = [
        (field.name, compile_writer(field.kind, version))
        for field in kind
        if field.since <= version <= field.until
    ]

    def write(chunks: Chunks, value: Any) -> None:
        for name, step in steps:
            step(chunks, value[name])

    return write


def _array_writer(write_element: Write) -> Write:
    def write(chunks: Chunks, value: Any) -> None:
        if value is None:
            INT32.write(chunks, -1)
            return
        INT32.write(chunks, len(value))
        for element in value:
            write_element(chunks, element)

    return write
