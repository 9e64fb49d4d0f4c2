"""The one owner of the wire formats: JSON for single records and log lines, columns for batches.

A batch message is one version byte, then msgpack of ``{"type", "fields", "columns"}``: one list
per field, in ``fields`` order. Columns because a Faust worker pays per message, not per record,
and because columns of small ints and repeated strings compress about 1.5 times better than rows
of JSON. The producer compresses (zstd); this file does not.

No record costs a line of Python here: rows become columns by ``astuple`` and ``zip``, columns are
decoded and checked by the types of the record's fields, and become records by ``map``. Only a
message with other fields than this build's (an older or newer one), or a wrong one, goes the slow
way, by names.

It refuses to guess: unknown version, unknown type, unequal columns or a wrong field type raise
RecordInvalid with the reason. Unknown fields are ignored, missing ones take their default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec.structs import astuple

from redline.errors import RecordInvalid
from redline.records import RECORD_TYPES, Record

BATCH_VERSION = 1
BATCH_RECORDS_MAX = 2_000
BATCH_BYTES_MAX = 512 * 1024

R = TypeVar("R", bound=Record)

_TAG_OF: dict[type[Record], str] = {kind: str(kind.__struct_config__.tag) for kind in RECORD_TYPES}
_TYPE_OF: dict[str, type[Record]] = {tag: kind for kind, tag in _TAG_OF.items()}
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()
_json_decoders: dict[type[Record], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in RECORD_TYPES
}


class _Batch(msgspec.Struct):
    type: str
    fields: list[str]
    columns: Any


class _Sealed(msgspec.Struct):
    type: str
    fields: list[str]
    columns: msgspec.Raw


class _Columns:
    """What a record type is on the wire: its fields, and a decoder of their columns."""

    def __init__(self, kind: type[Record]) -> None:
        hints = get_type_hints(kind)
        self.tag = str(kind.__struct_config__.tag)
        self.fields = list(kind.__struct_fields__)
        row = [(field, list[hints[field]]) for field in self.fields]  # type: ignore[valid-type]
        typed = msgspec.defstruct(
            f"{kind.__name__}Columns", row, array_like=True, forbid_unknown_fields=True
        )
        self.decoder = msgspec.msgpack.Decoder(typed)


_columns_of: dict[type[Record], _Columns] = {kind: _Columns(kind) for kind in RECORD_TYPES}
_sealed_decoder = msgspec.msgpack.Decoder(_Sealed)
_plain_decoder = msgspec.msgpack.Decoder(list[list[Any]])


def tag_of(kind: type[Record]) -> str:
    """The ``type`` value of a record class."""
    return _TAG_OF[kind]


def encode_json(record: Record) -> bytes:
    """One record as one JSON object, without a newline."""
    return _json_encoder.encode(record)


def decode_json(data: bytes | str, kind: type[R]) -> R:
    """Read one JSON object as ``kind``.

    Raises:
        RecordInvalid: not JSON, another type, a missing field or a wrong field type.
    """
    try:
        record: R = _json_decoders[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"{_TAG_OF[kind]}: {error}") from error
    return record


def decode_json_lines(lines: Iterable[bytes], kind: type[R]) -> list[R]:
    """Read JSON objects as ``decode_json`` does, one a line, all or none.

    Raises:
        RecordInvalid: some line is wrong; which one is for ``decode_json`` to say.
    """
    try:
        return list(map(_json_decoders[kind].decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"{_TAG_OF[kind]}: {error}") from error


def encode_batch(records: Sequence[Record]) -> bytes:
    """Records of one type as one columnar message.

    Raises:
        ValueError: no records, more than BATCH_RECORDS_MAX, or mixed types.
    """
    if not 0 < len(records) <= BATCH_RECORDS_MAX:
        raise ValueError(f"a batch holds 1 to {BATCH_RECORDS_MAX} records, not {len(records)}")
    kind = type(records[0])
    if len(set(map(type, records))) > 1:
        raise ValueError("a batch holds records of one type")
    layout = _columns_of[kind]
    columns = tuple(zip(*map(astuple, records), strict=True))
    body = _msgpack_encoder.encode(_Batch(layout.tag, layout.fields, columns))
    return bytes([BATCH_VERSION]) + body


def decode_batch(data: bytes, kind: type[R]) -> list[R]:
    """Read one columnar message as records of ``kind``.

    Raises:
        RecordInvalid: unknown version, another type, unequal columns or a wrong field type.
    """
    batch = _open_batch(data)
    if batch.type != _TAG_OF[kind]:
        raise RecordInvalid(f"batch of {batch.type!r} where {_TAG_OF[kind]!r} is expected")
    return _rows(batch, kind)


def decode_any_batch(data: bytes) -> list[Record]:
    """Read one columnar message of whatever type it says it is."""
    batch = _open_batch(data)
    kind = _TYPE_OF.get(batch.type)
    if kind is None:
        raise RecordInvalid(f"batch of unknown type {batch.type!r}")
    return _rows(batch, kind)


def _open_batch(data: bytes) -> _Sealed:
    if not data:
        raise RecordInvalid("empty message")
    if data[0] != BATCH_VERSION:
        raise RecordInvalid(f"batch version {data[0]}, this build reads {BATCH_VERSION}")
    try:
        return _sealed_decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"batch: {error}") from error


def _rows(batch: _Sealed, kind: type[R]) -> list[R]:
    layout = _columns_of[kind]
    if batch.fields == layout.fields:
        try:
            columns = astuple(layout.decoder.decode(batch.columns))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _rows_by_name(batch, kind)  # it says which field of which record
        _check_shape(columns, len(batch.fields))
        return list(map(kind, *columns))
    return _rows_by_name(batch, kind)


def _rows_by_name(batch: _Sealed, kind: type[R]) -> list[R]:
    tag = _TAG_OF[kind]
    try:
        columns = _plain_decoder.decode(batch.columns)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"batch: {error}") from error
    _check_shape(columns, len(batch.fields))
    rows: list[dict[str, Any]] = [
        dict(zip(batch.fields, row, strict=True), type=tag) for row in zip(*columns, strict=True)
    ]
    try:
        return msgspec.convert(rows, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise RecordInvalid(f"batch of {tag!r}: {error}") from error


def _check_shape(columns: Sequence[Sequence[Any]], fields: int) -> None:
    if fields != len(columns):
        raise RecordInvalid(f"{fields} fields but {len(columns)} columns")
    if not columns or len(set(map(len, columns))) != 1:
        raise RecordInvalid("columns of unequal length, or none")
    if len(columns[0]) > BATCH_RECORDS_MAX:
        raise RecordInvalid(f"{len(columns[0])} records in one batch")
