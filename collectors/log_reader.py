"""Reads one log: its files in order, each to its end, into runs that are ready to be published.

One step at a time, in whatever thread: it blocks on the disk. The state here is how far the log is
*read*; how far it is *published* is the checkpoint's. This file refuses to publish.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple, cast

from collectors.batches import Limits, Run, encode, gather, is_due
from collectors.checkpoint import ANY_INODE, SOURCE_HEADER, FileKey, Mark, Source, encode_source
from collectors.counts import MessageCounts, count_records
from collectors.lines import LINE_BYTES_MAX, Position, split
from collectors.log_file import LogFile
from collectors.packed_log_file import PackedLogFile, open_log_file
from collectors.request_log import (
    Reading,
    Translate,
    WriterSequence,
    read_block,
    read_lines,
)
from collectors.rotation import Listed, reading_order
from redline.ports import Message
from redline.records import RequestRecord
from redline.topics import REQUESTS

READ_BYTES = 1024 * 1024
FORGET_US = 60_000_000  # a listing may miss a file for a moment; forgetting it would read it twice
LOST_US = 3_000_000  # after that a file that is deleted and not open is lost


class Outgoing(NamedTuple):
    """A message, how many records are in it, and the mark that holds once it is acknowledged."""

    message: Message
    records: int
    mark: Source


class Step(NamedTuple):
    """What one step read. ``outgoing`` is in order. ``progressed`` says that more may follow."""

    outgoing: list[Outgoing]
    reading: Reading | None = None
    progressed: bool = False


class LogReader:
    """One writer's files.

    ``lookup`` says how far a file is published. ``translate`` reads lines that are not
    RequestRecords; None where all are. ``truncations`` and ``lost_files`` count what was
    noticed; both are losses that nobody can undo.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        held_bytes_max: int,
        lookup: Callable[[FileKey], Mark | None],
        translate: Translate | None = None,
    ) -> None:
        self.name = name
        self.truncations = 0
        self.lost_files = 0
        self._limits = limits
        self._held_bytes_max = held_bytes_max
        self._lookup = lookup
        self._translate = translate
        self._files: dict[int, LogFile] = {}  # oldest first
        self._sequence = WriterSequence()
        self._run: Run | None = None
        self._run_file: LogFile | None = None

    @property
    def unread_bytes(self) -> int:
        """How much is left to read, by the last listing."""
        return sum(file.unread_bytes for file in self._files.values())

    @property
    def is_empty(self) -> bool:
        """Whether no file is left, so that the log may be forgotten."""
        return not self._files and self._run is None

    @property
    def keys(self) -> set[FileKey]:
        """The files that are known."""
        return {file.key for file in self._files.values() if file.key is not None}

    def has_work(self, now_us: int) -> bool:
        """Whether a step would find something."""
        if self._run is not None and is_due(self._run, self._limits, now_us):
            return True
        return any(self._is_readable(file) for file in self._files.values())

    def adopt(self, listed: tuple[Listed, ...], now_us: int) -> None:
        """Take note of what the directory shows: a listing begun after the last step ended."""
        shown = {file.inode: file for file in listed}
        for inode, file in list(self._files.items()):
            seen = shown.get(inode)
            if seen is None:
                self._miss(file, now_us)
                continue
            if not file.is_open and seen.number < file.number:
                del self._files[inode]  # it was deleted, and its inode is a new file's now
                continue
            shrunk = not file.packed and seen.size_bytes < file.read.offset
            if shrunk and file.check() == "replaced":
                self.truncations += 1
                self._replace(file)
            else:
                file.see(seen)
                file.missing_since_us = None
        for inode in reading_order(tuple(self._files), listed):
            if inode not in self._files:
                self._files[inode] = open_log_file(shown[inode])
        self._order_packed()
        for file in list(self._files.values()):
            if file.head is None and file.size_bytes and file.missing_since_us is None:
                self._identify(file, ended=False)
        self._find_shadowed()
        self._limit_held()

    def step(self, now_us: int) -> Step:
        """Read the next piece, and close the runs that are full or old."""
        for file in list(self._files.values()):
            if not self._is_readable(file):
                continue
            step = self._read(file, now_us)
            if step is not None:
                return step
            if file.inode in self._files and not file.is_open:
                break  # cannot be opened now, and newer files have to wait for it
        outgoing: list[Outgoing] = []
        if self._run is not None and is_due(self._run, self._limits, now_us):
            outgoing = self._close_run()
        self._close_files()
        return Step(outgoing)

    def flush(self) -> list[Outgoing]:
        """What was read and not given out yet, whatever its age."""
        return self._close_run()

    def rewind(self) -> None:
        """Go back to what is published; what was read since is read again."""
        self._run = self._run_file = None
        self._sequence = WriterSequence()
        for file in self._files.values():
            if file.key is not None:
                self._resume(file)

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def _read(self, file: LogFile, now_us: int) -> Step | None:
        ended = self._is_ended(file)
        if not self._identify(file, ended=ended):
            return None
        window = file.window(READ_BYTES)
        at_end = len(window) < READ_BYTES
        position, reading = self._parse(file, window, now_us, ended=ended and at_end)
        if position == file.read:
            file.looked_bytes = file.size_bytes
            return None
        file.read = position
        outgoing = self._close_run() if self._run_file is not file else []
        self._run_file = file
        self._run, closed = gather(self._run, reading.entries, self._limits, now_us)
        for run in closed:
            outgoing += _encode_run(run, file, self.name)
        return Step(outgoing, reading, progressed=True)

    def _parse(
        self, file: LogFile, window: bytes, now_us: int, *, ended: bool
    ) -> tuple[Position, Reading]:
        """Read the lines of ``window``: all at once if they are plain ones, else one by one."""
        if self._translate is None and not file.read.inside:
            lines = window.split(b"\n")
            unfinished = lines.pop()
            found = read_block(self._sequence, file.read.offset, lines)
            if found is not None:
                self._sequence, reading = found
                return Position(file.read.offset + len(window) - len(unfinished)), reading
        position, cut = split(file.read, window, LINE_BYTES_MAX, ended=ended)
        self._sequence, reading = read_lines(
            self._sequence, cut, file.path, now_us, translate=self._translate
        )
        return position, reading

    def _close_run(self) -> list[Outgoing]:
        run, file = self._run, self._run_file
        self._run = None
        return _encode_run(run, file, self.name) if run and file else []

    def _order_packed(self) -> None:
        """Compressed files are the oldest, however late they appear."""
        packed = [file for file in self._files.values() if file.packed]
        plain = [file for file in self._files.values() if not file.packed]
        packed.sort(key=lambda file: -file.number)
        self._files = {file.inode: file for file in (*packed, *plain)}

    def _find_shadowed(self) -> None:
        """A compressed file waits while what it was made from is known: its mark still moves."""
        plain = {file.head for file in self._files.values() if not file.packed}
        for file in self._files.values():
            if file.packed and file.head is not None:
                was, file.shadowed = file.shadowed, file.head in plain
                if was and not file.shadowed:
                    self._resume(file)

    def _is_ended(self, file: LogFile) -> bool:
        """Whether the writer went on to a newer file: then nothing is added to this one."""
        newer = False
        for other in self._files.values():
            newer = newer or other is file
            if newer and other is not file and other.size_bytes:
                return True
        return False

    def _is_readable(self, file: LogFile) -> bool:
        if not file.unread_bytes or file.shadowed:
            return False
        return file.looked_bytes != file.size_bytes or self._is_ended(file)

    def _identify(self, file: LogFile, *, ended: bool) -> bool:
        """Make sure that ``file`` is open, known by its first line and still the same file."""
        known = file.head is not None
        state = file.check(ended=ended)
        if state == "gone":
            return False
        if state == "replaced":
            self.truncations += 1
            self._replace(file)
            return False
        if file.head is None:
            file.looked_bytes = file.size_bytes
            return False
        if not known:
            self._resume(file)
        return True

    def _resume(self, file: LogFile) -> None:
        mark = self._lookup(file.key) if file.key else None
        if isinstance(file, PackedLogFile) and file.head is not None:
            mark = self._lookup(FileKey(ANY_INODE, file.head))
            file.lineage_inode = mark.inode if mark else None
        file.rewind(mark)
        if mark is not None and mark.seq is not None:
            self._sequence = WriterSequence(mark.seq, mark.dead)

    def _replace(self, file: LogFile) -> None:
        """Start anew with a file that was cut or written over, as the newest one."""
        file.close()
        del self._files[file.inode]
        listed = Listed(file.path, file.inode, file.size_bytes, file.number)
        self._files[file.inode] = open_log_file(listed)

    def _miss(self, file: LogFile, now_us: int) -> None:
        if file.missing_since_us is None:
            file.missing_since_us = now_us
        lost = not file.is_open and file.unread_bytes > 0
        if now_us - file.missing_since_us < (LOST_US if lost else FORGET_US):
            return
        if file.is_open and file.unread_bytes:
            return
        self.lost_files += lost
        file.close()
        del self._files[file.inode]

    def _limit_held(self) -> None:
        """Let go of the oldest deleted files that are kept open only because they are unread."""
        held = [file for file in self._files.values() if file.missing_since_us and file.is_open]
        excess = sum(file.size_bytes for file in held) - self._held_bytes_max
        for file in held:
            if excess <= 0:
                return
            excess -= file.size_bytes
            self.lost_files += file.unread_bytes > 0
            file.close()
            del self._files[file.inode]

    def _close_files(self) -> None:
        files = list(self._files.values())
        for file in files[:-1]:
            # open while something of it is unpublished: its inode cannot become another file's
            if not file.unread_bytes and (self._run is None or file is not self._run_file):
                file.close()


def _encode_run(run: Run, file: LogFile, log: str) -> list[Outgoing]:
    key = file.key
    assert key is not None
    outgoing: list[Outgoing] = []
    for payload in encode(run):
        span = payload.span
        assert span is not None
        source = Source(
            log=log,
            inode=key.inode,
            head=key.head,
            start=span.start,
            offset=span.after.offset,
            inside=span.after.inside,
            seq=span.seq,
            dead=span.dead,
            counts=_counts(run),
        )
        headers = ((SOURCE_HEADER, encode_source(source)),)
        message = Message(run.topic, run.key, payload.value, headers)
        outgoing.append(Outgoing(message, payload.records, source))
    return outgoing


def _counts(run: Run) -> MessageCounts:
    """What each message of ``run`` holds: the requests, or one dead letter."""
    if run.topic is not REQUESTS:
        return MessageCounts(dead_letters=1)
    records = list(chain.from_iterable(entry.records for entry in run.entries))
    return count_records(cast("list[RequestRecord]", records))
