"""Record batches, format v2: the checks before an append, the records inside.

A batch is stored as the producer made it (keys, values and compression are opaque); only its
offset is written into it, and the timestamp where the topic says LogAppendTime. The layout is
https://kafka.apache.org/documentation/#recordbatch. The file refuses formats v0 and v1,
control batches and transactional batches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from embedded.broker.batch_header import (
    COMPRESSION_MASK,
    CONTROL,
    CRC_COVERS_FROM,
    HEADER_BYTES,
    LAST_KNOWN_CODEC,
    LOG_APPEND_TIME,
    NO_PRODUCER,
    PREFIX_BYTES,
    TRANSACTIONAL,
    BatchHeader,
    read_header,
)
from embedded.broker.codes import ErrorCode

Bytes = bytes | bytearray | memoryview

_OFFSET_LENGTH_EPOCH = struct.Struct(">qii")
_ATTRIBUTES_AT = 21
_LAST_OFFSET_DELTA_AT = 23
_MAX_TIMESTAMP_AT = 35
_CRC_AT = 17
_LEADER_EPOCH = 0


class Unreadable(Exception):
    """A batch with a true checksum whose content cannot be decoded: keep it as it is."""


class Record(NamedTuple):
    """One record of a batch, decompressed."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def crc_matches(batch: Bytes, header: BatchHeader) -> bool:
    """Whether the batch's own CRC-32C agrees with its bytes."""
    return bool(calc_crc32c(memoryview(batch)[CRC_COVERS_FROM:]) == header.crc)


def refuse(batch: Bytes, max_bytes: int) -> ErrorCode:
    """Why a produced batch cannot be appended, or ``NONE``."""
    if len(batch) < HEADER_BYTES:
        return ErrorCode.CORRUPT_MESSAGE
    header = read_header(batch)
    if header.magic != 2 or header.length_bytes < HEADER_BYTES - PREFIX_BYTES:
        return ErrorCode.CORRUPT_MESSAGE
    if header.size_bytes > max_bytes:
        return ErrorCode.MESSAGE_TOO_LARGE
    if header.size_bytes < len(batch):
        return ErrorCode.INVALID_RECORD  # the protocol allows one batch a partition
    if header.size_bytes > len(batch) or not crc_matches(batch, header):
        return ErrorCode.CORRUPT_MESSAGE
    if header.attributes & TRANSACTIONAL:
        return ErrorCode.INVALID_TXN_STATE
    if header.attributes & CONTROL:
        return ErrorCode.INVALID_RECORD
    if header.attributes & COMPRESSION_MASK > LAST_KNOWN_CODEC:
        return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    if header.record_count < 1 or header.last_offset_delta != header.record_count - 1:
        return ErrorCode.INVALID_RECORD
    return ErrorCode.NONE


def place(batch: Bytes, header: BatchHeader, offset: int) -> tuple[bytes, memoryview]:
    """The batch at ``offset``, as two pieces, so that the records are not copied.

    Offset and leader epoch lie outside the CRC: the producer's checksum stays true.
    """
    head = _OFFSET_LENGTH_EPOCH.pack(offset, header.length_bytes, _LEADER_EPOCH)
    return head, memoryview(batch)[len(head) :]


def stamp(batch: Bytes, append_time_ms: int) -> bytearray:
    """The batch with the broker's append time, for topics with LogAppendTime."""
    stamped = bytearray(batch)
    (attributes,) = struct.unpack_from(">h", stamped, _ATTRIBUTES_AT)
    struct.pack_into(">h", stamped, _ATTRIBUTES_AT, attributes | LOG_APPEND_TIME)
    struct.pack_into(">q", stamped, _MAX_TIMESTAMP_AT, append_time_ms)
    return _sealed(stamped)


def _sealed(batch: bytearray) -> bytearray:
    crc = calc_crc32c(memoryview(batch)[CRC_COVERS_FROM:])
    struct.pack_into(">I", batch, _CRC_AT, crc)
    return batch


def walk(data: Bytes) -> Iterator[tuple[BatchHeader, memoryview]]:
    """The whole batches in ``data``, in order; stops at the first that is cut or senseless."""
    view = memoryview(data)
    at = 0
    while at + HEADER_BYTES <= len(view):
        header = read_header(view, at)
        end = at + header.size_bytes
        if header.magic != 2 or end > len(view) or header.size_bytes < HEADER_BYTES:
            return
        yield header, view[at:end]
        at = end


def records(batch: Bytes) -> list[Record]:
    """The records of one batch, decompressed.

    Raises:
        Unreadable: what is inside is not records, though the checksum is right.
    """
    try:
        return [
            Record(found.offset, found.timestamp, found.key, found.value, list(found.headers))
            for found in DefaultRecordBatch(bytes(batch))
        ]
    except Exception as error:  # each codec has its own errors, and none names them all
        raise Unreadable(str(error)) from error


def keep(batch: Bytes, header: BatchHeader, kept: Iterable[Record]) -> bytearray:
    """The batch with only the ``kept`` records (at least one), at their old offsets.

    Producer id, sequence and last offset stay, so that duplicates are still recognised and the
    offsets after the batch do not move (as Apache Kafka's cleaner does).
    """
    builder: Any = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=header.attributes & COMPRESSION_MASK,
        is_transactional=0,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
        batch_size=1 << 30,
    )
    for record in kept:
        builder.append(
            record.offset - header.base_offset,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
    built = bytearray(builder.build())
    _OFFSET_LENGTH_EPOCH.pack_into(
        built, 0, header.base_offset, len(built) - PREFIX_BYTES, _LEADER_EPOCH
    )
    struct.pack_into(">i", built, _LAST_OFFSET_DELTA_AT, header.last_offset_delta)
    if header.attributes & LOG_APPEND_TIME:
        return stamp(built, header.max_timestamp_ms)
    return _sealed(built)


def build(
    values: Sequence[tuple[bytes | None, bytes | None, int]],
    *,
    producer_id: int = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    compression: int = 0,
) -> bytes:
    """A batch of (key, value, timestamp in ms), as a producer sends it."""
    builder: Any = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=0,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        batch_size=1 << 30,
    )
    for delta, (key, value, timestamp_ms) in enumerate(values):
        builder.append(delta, timestamp_ms, key, value, [])
    return bytes(builder.build())
