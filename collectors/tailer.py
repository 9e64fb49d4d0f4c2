"""Follows all logs and publishes them, each byte once.

The log files are the spool: while Kafka is away nothing advances. A poll lists the directories and
gives every log that has something to read to a worker; a worker publishes one step of one log at a
time and moves the marks when Kafka acknowledged. Whatever fails on the way ends in ``_recover``,
the same way as a start after a crash: read Kafka back, go on from there.

It refuses to watch for file events: a poll of a few directories costs less than it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from collectors.batches import Limits
from collectors.checkpoint import (
    Checkpoint,
    FileKey,
    Frontier,
    Mark,
    Offsets,
    Source,
    ahead_of,
    find,
    merge,
)
from collectors.checkpoint_file import CheckpointFile
from collectors.count_book import CountBook
from collectors.directories import DirectoryScan, Listing
from collectors.log_reader import LogReader, Outgoing, Step
from collectors.metrics import Metrics
from collectors.request_log import Translate
from redline.errors import DeliveryFailed
from redline.log import get_logger
from redline.ports import Publisher

POLL_S = 0.15
SAVE_S = 0.5
STOP_S = 2.5
BACKOFF_S_MAX = 5.0
STEPS_MAX = 32  # then the log's directory is looked at again, however far behind it is
WORKERS = 4  # bounds what is in memory: each holds two steps of 1 MiB
KEEP_MARK_US = 600_000_000
ADVANCE_S = 60.0
# A checkpoint follows every acknowledged message within a second, and comes each ADVANCE_S anyhow:
# so long after the last one, nothing of ours can be in Kafka. Generous, for clocks that differ.
PUBLISHED_AFTER_SAVE_US = 3_600_000_000

_log = get_logger()


class ReadBack(Protocol):
    """Reads what Kafka has of our logs."""

    async def sources(self, offsets: Offsets | None, until_us: int) -> tuple[list[Source], Offsets]:
        """What the messages from ``offsets`` on (None: the last ones) stand for, and the ends.

        None of ours was published after ``until_us``.

        Raises:
            DeliveryFailed: Kafka cannot be read now.
        """
        ...

    async def ends(self) -> Offsets:
        """Where each partition ends now. Raises as ``sources`` does."""
        ...


class Tailer:
    """The shell around the log readers. ``ready`` is set once Kafka has been read back.

    ``counts`` must hold what the checkpoint file holds; it is saved there with the marks.
    ``translates`` says for directories whose lines are not RequestRecords how to read them.
    """

    def __init__(
        self,
        scan: DirectoryScan,
        checkpoint_file: CheckpointFile,
        publisher: Publisher,
        read_back: ReadBack,
        limits: Limits,
        held_bytes_max: int,
        metrics: Metrics,
        translates: Mapping[str, Translate] | None = None,
        counts: CountBook | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self.reason = "reading back what Kafka has"
        self._scan = scan
        self._file = checkpoint_file
        self._publisher = publisher
        self._read_back = read_back
        self._limits = limits
        self._held_bytes_max = held_bytes_max
        self._metrics = metrics
        self._translates = translates or {}
        self._counts = counts or CountBook()
        self._marks: dict[FileKey, Mark] = {}
        self._gone_since_us: dict[FileKey, int] = {}
        self._frontier: Frontier | None = None
        self._readers: dict[str, LogReader] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(WORKERS)
        self._dirty = False
        self._saved_s = 0.0
        self._saved_us: int | None = None  # by the checkpoint that a start found
        self._advanced_s = time.monotonic()
        self._advancing: asyncio.Task[None] | None = None
        self._errors: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Tail until ``stop``; then publish what was read, save the checkpoint and return."""
        try:
            await self._run(stop)
        finally:
            for reader in self._readers.values():
                reader.close()

    async def _run(self, stop: asyncio.Event) -> None:
        checkpoint = await asyncio.to_thread(self._file.load)
        offsets: Offsets | None = None
        if checkpoint is not None:
            self._marks = {mark.key: mark for mark in checkpoint.marks}
            offsets, self._saved_us = checkpoint.offsets, checkpoint.saved_us
        backoff_s = 0.0
        while not stop.is_set():
            try:
                await self._recover(offsets)
                backoff_s = 0.0
                await self._follow(stop)
            except (DeliveryFailed, OSError) as error:
                backoff_s = min(BACKOFF_S_MAX, max(0.2, backoff_s * 2))
                self.reason = str(error)
                _log.warning("tailing_interrupted", reason=str(error), retry_s=backoff_s)
                self._metrics.publish_failures.inc()
                await _wait(stop, backoff_s)
            finally:
                await self._settle(0 if stop.is_set() else STOP_S)
            offsets = self._frontier.offsets() if self._frontier else offsets
        if self._advancing is not None:
            self._advancing.cancel()
        await self._save()

    async def _recover(self, offsets: Offsets | None) -> None:
        saved_us = time.time_ns() // 1000 if self._saved_us is None else self._saved_us
        found, ends = await self._read_back.sources(offsets, saved_us + PUBLISHED_AFTER_SAVE_US)
        self._saved_us = None
        before = self._marks
        self._marks = merge(before, found)
        ahead = ahead_of(before, found)
        # without a checkpoint nobody knows which of them a lost one had counted
        self._counts.add_sources(ahead, time.time_ns() // 1000, known=offsets is not None)
        if ahead:
            self._metrics.recovered.inc(len(ahead))
            _log.info("recovered_from_kafka", messages=len(ahead))
        self._frontier = Frontier(ends)
        for reader in self._readers.values():
            reader.rewind()
        await self._save()
        self.reason = ""
        self.ready.set()

    async def _follow(self, stop: asyncio.Event) -> None:
        """Poll until ``stop``. Raises what a worker raised."""
        while not stop.is_set():
            busy = set(self._working)
            listing = await asyncio.to_thread(self._scan.list_files)
            now_us = time.time_ns() // 1000
            self._report_errors()
            await asyncio.to_thread(self._adopt, listing, busy, now_us)
            for name, reader in list(self._readers.items()):
                if name not in self._working and reader.has_work(now_us):
                    task = asyncio.create_task(self._work(reader), name=f"log {name}")
                    self._working[name] = task
            self._report_depth()
            self._advance_now_and_then()
            unsaved = self._dirty or self._counts.wants_saving
            if unsaved and time.monotonic() - self._saved_s > SAVE_S:
                await self._save()
            await self._pause(stop)
        try:
            await asyncio.wait_for(self._finish(), STOP_S)
        except TimeoutError:
            _log.warning("stopped_with_lines_unpublished", fix="none: the next start goes on there")

    def _adopt(self, listing: Listing, busy: set[str], now_us: int) -> None:
        for name in listing:
            if name not in self._readers:
                self._readers[name] = LogReader(
                    name,
                    self._limits,
                    self._held_bytes_max,
                    self._lookup,
                    self._translate_of(name),
                )
        for name, reader in list(self._readers.items()):
            # a listing that began while the log was read may show less than was read
            if name not in busy:
                reader.adopt(listing.get(name, ()), now_us)
                if reader.is_empty:
                    del self._readers[name]

    def _advance_now_and_then(self) -> None:
        if self._advancing is not None and self._advancing.done():
            self._advancing = None
        if self._advancing is None and time.monotonic() - self._advanced_s > ADVANCE_S:
            self._advanced_s = time.monotonic()
            self._advancing = asyncio.create_task(self._advance(), name="advance")

    async def _advance(self) -> None:
        frontier = self._frontier
        assert frontier is not None
        try:
            ends = await self._read_back.ends()
        except DeliveryFailed:  # the workers will say so
            return
        frontier.advance(ends)
        self._dirty = True

    async def _pause(self, stop: asyncio.Event) -> None:
        """Wait for the next poll; collect the workers that are done meanwhile."""
        await _wait(stop, POLL_S)
        for name, task in list(self._working.items()):
            if task.done():
                del self._working[name]
                task.result()

    async def _work(self, reader: LogReader) -> None:
        publishing: asyncio.Task[None] | None = None
        try:
            async with self._slots:
                for _ in range(STEPS_MAX):
                    step = await asyncio.to_thread(reader.step, time.time_ns() // 1000)
                    self._count(step)
                    if publishing is not None:
                        await publishing
                    publishing = asyncio.create_task(self._publish(step.outgoing))
                    if not step.progressed:
                        break
        finally:
            if publishing is not None:
                await publishing

    async def _publish(self, outgoing: Sequence[Outgoing]) -> None:
        assert self._frontier is not None
        # One topic and key in flight at a time: what Kafka has of a file is always a prefix of it.
        for _, group in itertools.groupby(outgoing, key=_lane):
            sent = list(group)
            ticket = self._frontier.begin()
            acknowledged = await self._publisher.publish([one.message for one in sent])
            # no await from here on: a checkpoint has marks, counts and offsets of one moment
            self._marks = merge(self._marks, (one.mark for one in sent))
            self._counts.add_sources([one.mark for one in sent], time.time_ns() // 1000)
            self._frontier.end(ticket, acknowledged)
            self._dirty = True
            topic = sent[0].message.topic.name
            self._metrics.messages.labels(topic).inc(len(sent))
            self._metrics.records.labels(topic).inc(sum(one.records for one in sent))

    async def _finish(self) -> None:
        """Publish what was read before the stop."""
        await asyncio.gather(*self._working.values())
        for reader in self._readers.values():
            await self._publish(reader.flush())

    async def _settle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, whatever its end: then Kafka can be read back."""
        if self._working:
            await asyncio.wait(self._working.values(), timeout=timeout_s)
        for task in self._working.values():
            task.cancel()
        await asyncio.gather(*self._working.values(), return_exceptions=True)
        self._working.clear()

    async def _save(self) -> None:
        if self._frontier is None:
            return
        now_us = time.time_ns() // 1000
        known = set().union(*(reader.keys for reader in self._readers.values()))
        for key in self._marks:
            if key in known:
                self._gone_since_us.pop(key, None)
            elif now_us - self._gone_since_us.setdefault(key, now_us) > KEEP_MARK_US:
                del self._gone_since_us[key]
                self._marks = {held: mark for held, mark in self._marks.items() if held != key}
        # taken together, without an await between: the offsets must not pass the marks
        counts = self._counts.snapshot(now_us)
        checkpoint = Checkpoint(
            marks=list(self._marks.values()),
            offsets=self._frontier.offsets(),
            counts=counts,
            saved_us=now_us,
        )
        self._dirty = False
        self._saved_s = time.monotonic()
        await asyncio.to_thread(self._file.save, checkpoint)
        self._counts.saved(counts)

    def is_published(self, inode: int, size_bytes: int) -> bool:
        """Whether Kafka acknowledged all of a file that has so many bytes and grows no more."""
        marks = self._marks.values()
        return any(mark.inode == inode and mark.offset >= size_bytes for mark in marks)

    def _translate_of(self, name: str) -> Translate | None:
        for directory, translate in self._translates.items():
            if name.startswith(directory + os.sep):
                return translate
        return None

    def _lookup(self, key: FileKey) -> Mark | None:
        return find(self._marks, key)

    def _count(self, step: Step) -> None:
        if step.reading is None:
            return
        self._metrics.lines.inc(step.reading.lines)
        self._metrics.dead_letters.inc(step.reading.dead_letters)
        self._metrics.lost_lines.inc(step.reading.lost_lines)
        self._metrics.writer_restarts.inc(step.reading.restarts)
        self._metrics.writer_dropped.inc(step.reading.dropped)

    def _report_depth(self) -> None:
        self._metrics.logs.set(len(self._readers))
        self._metrics.unread_bytes.set(sum(r.unread_bytes for r in self._readers.values()))
        for reader in self._readers.values():
            if reader.truncations or reader.lost_files:
                _log.warning(
                    "log_lost",
                    log=reader.name,
                    truncations=reader.truncations,
                    deleted_unread=reader.lost_files,
                )
                self._metrics.truncations.inc(reader.truncations)
                self._metrics.lost_files.inc(reader.lost_files)
                reader.truncations = reader.lost_files = 0

    def _report_errors(self) -> None:
        self._metrics.directory_errors.set(len(self._scan.errors))
        if self._scan.errors != self._errors:
            self._errors = dict(self._scan.errors)
            _log.warning("directories_unreadable", errors=self._errors)


def _lane(outgoing: Outgoing) -> tuple[str, bytes]:
    return outgoing.message.topic.name, outgoing.message.key


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
