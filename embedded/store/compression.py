"""HTTP bodies in and out of their compression, with a bound on what comes out.

gzip, deflate, zstd and lz4 frames, as ClickHouse's HTTP interface takes them. This file refuses
ClickHouse's own block compression (``compress=1``), which no client of this store uses.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import lz4.frame
import zstandard

from embedded.store.refusal import StoreRefusal

_ZSTD_PIECE_BYTES = 2048  # becomes 64 MiB at worst: 4 bytes can say 128 KiB of one byte
COMPRESS_FROM_BYTES = 1024  # below this, headers weigh more than what is saved


def decompress(body: bytes, encoding: str, *, bytes_max: int) -> bytes:
    """Undo a Content-Encoding.

    Raises:
        StoreRefusal: unknown encoding, broken data, or more than ``bytes_max`` bytes come out.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    try:
        plain = _decompress(body, encoding, bytes_max)
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise StoreRefusal(
            354, "CANNOT_DECOMPRESS", f"The body is not valid {encoding}: {error}", 400
        ) from error
    if len(plain) > bytes_max:
        raise StoreRefusal(
            307, "TOO_MANY_BYTES", f"The body decompresses to more than {bytes_max} bytes", 413
        )
    return plain


def _decompress(body: bytes, encoding: str, bytes_max: int) -> bytes:
    match encoding:
        case "gzip" | "x-gzip":
            return _decompress_frames(body, lambda: zlib.decompressobj(31), bytes_max)
        case "deflate":
            return _decompress_frames(body, lambda: zlib.decompressobj(15), bytes_max)
        case "zstd":
            return _decompress_zstd(body, bytes_max)
        case "lz4":
            return _decompress_frames(body, lz4.frame.LZ4FrameDecompressor, bytes_max)
    raise StoreRefusal(
        433,
        "UNKNOWN_COMPRESSION_METHOD",
        f"Unknown Content-Encoding {encoding!r}; use gzip, deflate, zstd or lz4",
        400,
    )


def _decompress_frames(body: bytes, open_frame: Callable[[], Any], bytes_max: int) -> bytes:
    """One frame behind the other, as gzip and lz4 allow; a cut one is an error, not an end."""
    chunks: list[bytes] = []
    size = 0
    while body and size <= bytes_max:
        frame = open_frame()
        chunks.append(frame.decompress(body, bytes_max + 1 - size))
        size += len(chunks[-1])
        if not frame.eof and size <= bytes_max:
            raise EOFError("it ends too early")
        body = frame.unused_data or b""
    return b"".join(chunks)


def _decompress_zstd(body: bytes, bytes_max: int) -> bytes:
    """In small pieces: the library bounds no output, and its stream reader takes a cut body."""
    chunks: list[bytes] = []
    size = position = 0
    while position < len(body):
        frame = zstandard.ZstdDecompressor().decompressobj()
        while position < len(body) and not frame.eof and size <= bytes_max:
            piece = body[position : position + _ZSTD_PIECE_BYTES]
            chunks.append(frame.decompress(piece))
            size += len(chunks[-1])
            position += len(piece) - len(frame.unused_data)
        if size > bytes_max:
            break
        if not frame.eof:
            raise EOFError("it ends too early")
    return b"".join(chunks)


def choose_encoding(accept_encoding: str) -> str:
    """The fastest encoding that the client accepts, or an empty text for none."""
    accepted = {
        part.split(";")[0].strip().lower()
        for part in accept_encoding.split(",")
        if part.replace(" ", "").rpartition(";q=")[2] not in ("0", "0.0", "0.00", "0.000")
    }
    for encoding in ("lz4", "zstd", "gzip", "deflate"):
        if encoding in accepted:
            return encoding
    return ""


def compress(body: bytes, encoding: str) -> bytes:
    """Compress for speed; the other end is on this machine.

    Raises:
        ValueError: ``encoding`` is not one that ``choose_encoding`` gives.
    """
    match encoding:
        case "lz4":
            return bytes(lz4.frame.compress(body))
        case "zstd":
            return zstandard.ZstdCompressor(level=1).compress(body)
        case "gzip" | "deflate":
            packer = zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
            return packer.compress(body) + packer.flush()
    raise ValueError(f"unknown encoding {encoding!r}")
