"""The header of a record batch, format v2, and the bits of its attributes.

The layout is https://kafka.apache.org/documentation/#recordbatch. Values only: the file refuses
to look at records, and to judge.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size  # 61
# What the length field does not count: the offset and the length field itself.
PREFIX_BYTES = 12
CRC_COVERS_FROM = 21

COMPRESSION_MASK = 0x07
LAST_KNOWN_CODEC = 4  # zstd
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
NO_PRODUCER = -1


class BatchHeader(NamedTuple):
    """The fixed part of a batch. ``length_bytes`` counts what follows that field."""

    base_offset: int
    length_bytes: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return PREFIX_BYTES + self.length_bytes

    @property
    def last_offset(self) -> int:
        """Offset of the last record that the batch had when it was written."""
        return self.base_offset + self.last_offset_delta


def read_header(data: bytes | bytearray | memoryview, at: int = 0) -> BatchHeader:
    """The header at byte ``at``. Raises ``struct.error`` when fewer than 61 bytes are there."""
    return BatchHeader._make(HEADER.unpack_from(data, at))
