"""The one owner of the wire formats: JSON for single records and log lines, columns for batches.

A batch message is one version byte, then msgpack of ``{"type", "fields", "columns"}``: one list
per field, in ``fields`` order. Columns because a Faust worker pays per message, not per record,
and because columns of small ints and repeated strings compress about 1.5 times better than rows
of JSON. The producer compresses (zstd); this file does not.

It refuses to guess: unknown version, unknown type, unequal columns or a wrong field type raise
RecordInvalid with the reason. Unknown fields are ignored, missing ones take their default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

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
    columns: list[list[Any]]


_batch_decoder = msgspec.msgpack.Decoder(_Batch)


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


def encode_batch(records: Sequence[Record]) -> bytes:
    """Records of one type as one columnar message.

    Raises:
        ValueError: no records, more than BATCH_RECORDS_MAX, or mixed types.
    """
    if not 0 < len(records) <= BATCH_RECORDS_MAX:
        raise ValueError(f"a batch holds 1 to {BATCH_RECORDS_MAX} records, not {len(records)}")
    kind = type(records[0])
    if any(type(record) is not kind for record in records):
        raise ValueError("a batch holds records of one type")
    fields = list(kind.__struct_fields__)
    columns = [[getattr(record, field) for record in records] for field in fields]
    body = _msgpack_encoder.encode(_Batch(_TAG_OF[kind], fields, columns))
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


def _open_batch(data: bytes) -> _Batch:
    if not data:
        raise RecordInvalid("empty message")
    if data[0] != BATCH_VERSION:
        raise RecordInvalid(f"batch version {data[0]}, this build reads {BATCH_VERSION}")
    try:
        batch = _batch_decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"batch: {error}") from error
    if len(batch.fields) != len(batch.columns):
        raise RecordInvalid(f"{len(batch.fields)} fields but {len(batch.columns)} columns")
    if not batch.columns or len({len(column) for column in batch.columns}) != 1:
        raise RecordInvalid("columns of unequal length, or none")
    if len(batch.columns[0]) > BATCH_RECORDS_MAX:
        raise RecordInvalid(f"{len(batch.columns[0])} records in one batch")
    return batch


def _rows(batch: _Batch, kind: type[R]) -> list[R]:
    tag = _TAG_OF[kind]
    rows: list[dict[str, Any]] = [
        dict(zip(batch.fields, row, strict=True), type=tag)
        for row in zip(*batch.columns, strict=True)
    ]
    try:
        return msgspec.convert(rows, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise RecordInvalid(f"batch of {tag!r}: {error}") from error
