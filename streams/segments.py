"""Residences of open windows as they are stored: arrays by their bytes, one part per message.

Append-only, keyed by source offset, so that nothing is ever rewritten while a window fills. It
refuses to decide when a segment may go.
"""

from __future__ import annotations

import msgspec
import numpy as np

from redline.records import Series
from streams.windows import Residences

SEGMENT_RECORDS_MAX = 2_000


class Part(msgspec.Struct, array_like=True):
    """Residences of one message on one instance."""

    offset: int
    instance: str
    id_bytes: int  # width of one request id
    request_ids: bytes
    start_us: bytes
    end_us: bytes
    flags: bytes
    series: list[Series]
    series_of: bytes

    @property
    def latest_us(self) -> int:
        """The latest end in it."""
        return int(np.frombuffer(self.end_us, np.int64).max())

    def load(self) -> Residences:
        """The arrays again; they share this part's memory."""
        return Residences(
            np.frombuffer(self.request_ids, f"S{self.id_bytes}"),
            np.frombuffer(self.start_us, np.int64),
            np.frombuffer(self.end_us, np.int64),
            np.frombuffer(self.flags, np.uint8),
            self.series,
            np.frombuffer(self.series_of, np.int32),
        )


def store_part(instance: str, chunk: Residences, offset: int) -> Part:
    """The residences of one message as a part."""
    return Part(
        offset,
        instance,
        chunk.request_ids.itemsize,
        chunk.request_ids.tobytes(),
        chunk.start_us.tobytes(),
        chunk.end_us.tobytes(),
        chunk.flags.tobytes(),
        chunk.series,
        chunk.series_of.tobytes(),
    )


def cut_segments(parts: list[Part]) -> list[list[Part]]:
    """Parts in segments of bounded size.

    The parts of one message stay together: its offset is what says that they are stored.
    """
    segments: list[list[Part]] = []
    size = 0
    for part in parts:
        if not segments or (size >= SEGMENT_RECORDS_MAX and segments[-1][-1].offset != part.offset):
            segments.append([])
            size = 0
        segments[-1].append(part)
        size += len(part.flags)
    return segments


encode_segment = msgspec.msgpack.Encoder().encode
decode_segment = msgspec.msgpack.Decoder(list[Part]).decode
