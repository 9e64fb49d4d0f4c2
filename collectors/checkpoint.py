"""Core: how far each log file is published, and where in Kafka to look for what came after that.

Nothing twice, although the checkpoint is always a little behind Kafka: every message names the
bytes that it stands for (header ``redline-source``). After a crash the collector reads back what
Kafka has from ``offsets`` on, and ``merge`` moves the marks to the end of what was acknowledged.

That works because of two rules that the shell keeps. One log has messages of one topic and key in
flight at a time, so what Kafka has of a file is always a prefix of it. And ``offsets`` never pass
a message that is not in the marks yet: see ``Frontier``.

This file refuses to read files and Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from collectors.count_book import CountState
from collectors.counts import MessageCounts
from collectors.lines import Position
from redline.errors import RecordInvalid

SOURCE_HEADER = "redline-source"
VERSION = 1
ANY_INODE = 0  # no file has it

Offsets = dict[str, dict[int, int]]  # topic, partition: the next offset to look at


class FileKey(NamedTuple):
    """One file through all its names: the inode, and the hash of its first line."""

    inode: int
    head: str


class Mark(msgspec.Struct, frozen=True, kw_only=True, rename={"offset": "to"}):
    """How far one file is published, and the writer's count there (see ``batches.Span``)."""

    log: str
    inode: int
    head: str
    offset: int
    inside: bool = False
    seq: int | None = None
    dead: int = 0

    @property
    def key(self) -> FileKey:
        """Which file this is about."""
        return FileKey(self.inode, self.head)

    @property
    def position(self) -> Position:
        """Where reading goes on."""
        return Position(self.offset, self.inside)


class Source(Mark, frozen=True, kw_only=True, rename={"start": "from"}):
    """A mark and where it began: the bytes of a file that one message stands for."""

    start: int
    counts: MessageCounts | None = None  # what the message holds; None of older builds


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What is saved. Marks of files that are gone for good are left out."""

    marks: list[Mark] = []
    offsets: Offsets = {}
    counts: CountState = CountState()  # of exactly what the marks cover
    saved_us: int = 0
    version: int = VERSION


_checkpoint_decoder = msgspec.json.Decoder(Checkpoint)
_source_decoder = msgspec.json.Decoder(Source)
_encoder = msgspec.json.Encoder()

Marks = Mapping[FileKey, Mark]


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as JSON that an operator can read."""
    return msgspec.json.format(_encoder.encode(checkpoint), indent=1)


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Read a saved checkpoint.

    Raises:
        RecordInvalid: it is not one, or another version's.
    """
    try:
        checkpoint = _checkpoint_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(f"checkpoint: {error}") from error
    if checkpoint.version != VERSION:
        raise RecordInvalid(f"checkpoint version {checkpoint.version}, this build reads {VERSION}")
    return checkpoint


def encode_source(source: Source) -> bytes:
    """The value of the ``redline-source`` header: compact JSON."""
    return _encoder.encode(source)


def read_sources(headers: Iterable[tuple[str, bytes]]) -> list[Source]:
    """The sources that a message's headers name. A header of another make is not ours: skipped."""
    sources = []
    for name, value in headers:
        if name == SOURCE_HEADER:
            try:
                sources.append(_source_decoder.decode(value))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
    return sources


def find(marks: Marks, key: FileKey) -> Mark | None:
    """The mark of one file; with ANY_INODE the furthest one of a file that begins so."""
    if key.inode != ANY_INODE:
        return marks.get(key)
    alike = (mark for mark in marks.values() if mark.head == key.head)
    return max(alike, key=lambda mark: mark.offset, default=None)


def merge(marks: Marks, found: Iterable[Mark]) -> dict[FileKey, Mark]:
    """``marks``, moved forward to what ``found`` shows. Never backward."""
    merged = dict(marks)
    for mark in found:
        held = merged.get(mark.key)
        if held is None or mark.offset > held.offset:
            merged[mark.key] = Mark(
                log=mark.log,
                inode=mark.inode,
                head=mark.head,
                offset=mark.offset,
                inside=mark.inside,
                seq=mark.seq,
                dead=mark.dead,
            )
    return merged


def ahead_of(marks: Marks, found: Iterable[Source]) -> list[Source]:
    """The sources that ``marks`` do not cover, each once, in the order of each log."""
    by_log: dict[str, dict[FileKey, dict[int, Source]]] = {}
    for source in found:
        held = marks.get(source.key)
        if held is None or source.offset > held.offset:
            by_log.setdefault(source.log, {}).setdefault(source.key, {})[source.offset] = source
    return [
        source
        for files in by_log.values()
        # older files have the lower numbers, whatever they are called now
        for sources in sorted(files.values(), key=lambda one: min(s.seq or 0 for s in one.values()))
        for _, source in sorted(sources.items())
    ]


class Frontier:
    """From where Kafka must be read back after a crash.

    Each publish takes a ticket that remembers what was acknowledged when it began: its own message
    lies behind that. While a ticket is open, the frontier is the oldest open ticket's. Tickets that
    failed stay open, because nobody knows whether their message arrived.
    """

    def __init__(self, offsets: Offsets) -> None:
        self._acknowledged = {topic: dict(found) for topic, found in offsets.items()}
        self._open: dict[int, Offsets] = {}
        self._next = 0
        self._ends: list[tuple[int, Offsets]] = []  # they hold once no ticket up to this is open

    def begin(self) -> int:
        """A ticket for one publish that is about to start."""
        self._next += 1
        # replaced, never changed, by end(): so this needs no copy
        self._open[self._next] = self._acknowledged
        return self._next

    def end(self, ticket: int, acknowledged: Iterable[tuple[str, int, int]]) -> None:
        """Close a ticket whose messages (topic, partition, offset) are all in the marks now."""
        del self._open[ticket]
        self._move((topic, partition, offset + 1) for topic, partition, offset in acknowledged)
        self._take_ends()

    def advance(self, ends: Offsets) -> None:
        """Note where the partitions ended a moment ago: what others publish need not be read back.

        Messages that were in flight then may lie before those ends, so they count only later.
        """
        self._ends.append((self._next, ends))
        self._take_ends()

    def offsets(self) -> Offsets:
        """Reading from here on finds every message that is not in the marks."""
        for opened in self._open.values():
            return opened
        return self._acknowledged

    def _take_ends(self) -> None:
        oldest = next(iter(self._open), self._next + 1)
        while self._ends and self._ends[0][0] < oldest:
            _, ends = self._ends.pop(0)
            for topic, found in ends.items():
                self._move((topic, partition, end) for partition, end in found.items())

    def _move(self, ends: Iterable[tuple[str, int, int]]) -> None:
        moved = {topic: dict(found) for topic, found in self._acknowledged.items()}
        for topic, partition, end in ends:
            found = moved.setdefault(topic, {})
            found[partition] = max(found.get(partition, 0), end)
        self._acknowledged = moved
