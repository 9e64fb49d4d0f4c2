"""Core: which files belong to one log, and in which order they are read.

A log is one writer's file and what was rotated away from it: ``requests.ndjson``,
``requests.ndjson.1`` (newer), ``requests.ndjson.2`` (older). Files are told apart by inode, because
rotation renames them. A gzipped file (``requests.ndjson.2.gz``) is an old one; other compressions
are not read. Rotation by copying and cutting is not followed: it is noticed as a truncation, and it
loses lines whoever reads. This file refuses to touch the disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HEAD_BYTES_MAX = 1_024

_NUMBERED = re.compile(r"(?P<base>.+)\.(?P<number>\d+)")
_NOT_TEXT = (".zst", ".xz", ".bz2", ".lz4", ".zip", ".tmp", ".swp")


class Listed(NamedTuple):
    """One file as a directory shows it. ``number`` is 0 for the file that is being written."""

    path: str
    inode: int
    size_bytes: int
    number: int


def parse_name(name: str) -> tuple[str, int] | None:
    """The log's base name and the rotation number; None for what is not read."""
    if name.endswith(_NOT_TEXT) or name.startswith("."):
        return None
    name = name.removesuffix(".gz")
    found = _NUMBERED.fullmatch(name)
    return (found["base"], int(found["number"])) if found else (name, 0)


def reading_order(known: Sequence[int], listed: Iterable[Listed]) -> list[int]:
    """Inodes, oldest first: known ones keep their place, new ones follow by number, high first.

    Known inodes stay even if they are not listed: a file that was deleted may still be read.
    """
    present = set(known)
    new = sorted((file for file in listed if file.inode not in present), key=_age, reverse=True)
    return [*known, *dict.fromkeys(file.inode for file in new)]


def head_of(first_bytes: bytes) -> str | None:
    """What tells a file apart from a later one with the same inode: a hash of its first line.

    ``first_bytes`` are the file's first HEAD_BYTES_MAX bytes, or fewer if it is shorter. None while
    the first line is not there yet; nothing is published from a file before it is.
    """
    end = first_bytes.find(b"\n", 0, HEAD_BYTES_MAX)
    if end < 0:
        if len(first_bytes) < HEAD_BYTES_MAX:
            return None
        end = HEAD_BYTES_MAX
    return hashlib.blake2b(first_bytes[:end], digest_size=12).hexdigest()


def _age(file: Listed) -> int:
    return file.number
