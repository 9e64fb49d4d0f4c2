"""Core: how a message lies in the sample spool: length, CRC-32, then msgpack of the message.

A crash tears the last frame at most; the CRC tells. This file refuses to read and to write files.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import msgspec

from redline.ports import Message
from redline.topics import TOPICS

_HEAD = struct.Struct("<II")
_TOPICS = {topic.name: topic for topic in TOPICS}


class _Body(msgspec.Struct, array_like=True):
    topic: str
    key: bytes
    value: bytes
    records: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Body)


class Frame(NamedTuple):
    """One message, how many records are in it, and the bytes that it takes in a spool file."""

    message: Message
    records: int
    size_bytes: int


def encode_frame(message: Message, records: int) -> bytes:
    """The bytes of one frame. Headers are not kept: samples have none."""
    body = _encoder.encode(_Body(message.topic.name, message.key, message.value, records))
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def decode_frames(data: bytes, size_bytes_max: int) -> tuple[list[Frame], bool]:
    """The frames at the beginning of ``data``, up to about ``size_bytes_max``, at least one.

    Returns:
        The frames, and whether all is well: False if what comes next is torn or damaged.
    """
    frames: list[Frame] = []
    at = 0
    while at < len(data) and (not frames or at < size_bytes_max):
        body_at = at + _HEAD.size
        if body_at > len(data):
            return frames, False
        length, checksum = _HEAD.unpack_from(data, at)
        body = data[body_at : body_at + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return frames, False
        try:
            found = _decoder.decode(body)
        except msgspec.DecodeError:
            return frames, False
        topic = _TOPICS.get(found.topic)
        if topic is None:  # another version's
            return frames, False
        message = Message(topic, found.key, found.value)
        frames.append(Frame(message, found.records, _HEAD.size + length))
        at = body_at + length
    return frames, True
