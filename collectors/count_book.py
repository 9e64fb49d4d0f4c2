"""Core: the counts that are open, on both sides, and which of them may be said.

The rule that makes them exact through a kill: only what a *saved* checkpoint holds is said, and
marks and counts are saved in one file. After a crash the counts are those of the checkpoint, plus
the messages that are found in Kafka after its marks; whatever was said before is a lower revision
of the same part. A minute that was forgotten and then gets a late record begins another part, and
parts add up, so forgetting never loses anything. This file refuses to save and to publish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from collectors.counts import MINUTE_US, MessageCounts, add_tally
from collectors.engine_page import fallen_counters, increase
from redline.records import CollectorCount, EngineSample

KEEP_US = 120_000_000
LATE_US = 5_000_000  # a minute is said so long after its end; what comes later says it again
COUNTS_MAX = 2_000  # in the checkpoint, which is written twice a second


class LogCount(msgspec.Struct, frozen=True):
    """Where one log's count is: its writer's last number, and what dead letters belong to."""

    log: str
    last_seq: int | None = None
    dead: int = 0
    counts: MessageCounts = MessageCounts()  # of the last message, without its tallies
    start_us: int | None = None


class CountState(msgspec.Struct, frozen=True):
    """What is saved with the marks."""

    counts: list[CollectorCount] = []
    logs: list[LogCount] = []
    engines: list[EngineSample] = []  # the last reading of each


class Counted(Protocol):
    """What ``checkpoint.Source`` says of a message."""

    @property
    def log(self) -> str: ...  # noqa: D102

    @property
    def counts(self) -> MessageCounts | None: ...  # noqa: D102


class Key(NamedTuple):
    """One open count."""

    side: str
    instance: str
    log: str
    start_us: int


class CountBook:
    """Every open count. ``wants_saving`` says that something waits for the next checkpoint."""

    def __init__(self, state: CountState | None = None) -> None:
        """Begin from what was saved. Everything may be said again: it is the same."""
        self.wants_saving = False
        state = state or CountState()
        self._open = {_key(count): count for count in state.counts}
        self._saved = dict(self._open)
        self._said: dict[Key, tuple[int, int]] = {}
        self._touched_us: dict[Key, int] = {}
        self._logs = {log.log: log for log in state.logs}
        self._engines = {sample.instance: sample for sample in state.engines}

    def add_sources(self, sources: Iterable[Counted], now_us: int, *, known: bool = True) -> None:
        """Count the messages that ``sources`` stand for. Not ``known``: somebody may have counted
        them before, so that their minutes are only marked as incomplete.
        """
        for source in sources:
            if source.counts is None:
                continue
            if known:
                self.add_message(source.log, source.counts, now_us)
            else:
                self._add_unknown(source.log, source.counts, now_us)

    def add_message(self, log: str, counts: MessageCounts, now_us: int) -> None:
        """Count one message of ``log`` that Kafka has. In the order of the log."""
        held = self._logs.get(log, LogCount(log))
        if counts.dead_letters:
            self._add_dead(held, counts.dead_letters, now_us)
            return
        gap = restart = 0
        if held.last_seq is not None:
            gap = max(0, counts.first_seq - held.last_seq - 1 - held.dead - counts.dropped)
            restart = int(counts.first_seq <= held.last_seq)
        for number, tally in enumerate(counts.tallies):
            key = Key("published", counts.instance, log, tally.start_us)
            count = add_tally(self._count(key, counts, now_us), tally)
            if number == 0 and (gap or restart):
                count = replace(
                    count,
                    lost_lines=count.lost_lines + gap,
                    restarts=count.restarts + restart,
                )
            self._put(key, count, now_us)
        last = counts.tallies[-1]
        self._logs[log] = LogCount(
            log, counts.last_seq, 0, replace(counts, tallies=[]), last.start_us
        )

    def add_sample(self, sample: EngineSample, now_us: int) -> None:
        """Count how far an engine's counters rose since the last reading that there is."""
        if not sample.up or sample.generation_tokens_total is None:
            return
        before = self._engines.get(sample.instance)
        if before is not None and sample.ts_us <= before.ts_us:
            return  # a clock that stepped back: the next one after it has the whole rise
        self._engines[sample.instance] = sample
        start_us = sample.ts_us // MINUTE_US * MINUTE_US
        key = Key("engine", sample.instance, "", start_us)
        count = self._count(key, sample, now_us)
        fallen = fallen_counters(before, sample)
        # a rise that began before the minute before this one belongs to several minutes
        whole = before is not None and not fallen and start_us - before.ts_us <= MINUTE_US
        requests, prompt, completion = (
            int(increase(getattr(before, name, None), getattr(sample, name)) or 0)
            for name in ("requests_total", "prompt_tokens_total", "generation_tokens_total")
        )
        count = replace(
            count,
            revision=count.revision + 1,
            requests=count.requests + requests,
            finished=count.finished + requests,
            prompt_tokens=count.prompt_tokens + prompt,
            completion_tokens=count.completion_tokens + completion,
            restarts=count.restarts + bool(fallen),
            samples=count.samples + 1,
            complete=count.complete and whole,
        )
        self._put(key, count, now_us)

    def snapshot(self, now_us: int) -> CountState:
        """What the next checkpoint must hold. Forgets what is old and said."""
        old = [
            key
            for key, count in self._open.items()
            if self._is_said(key, count) and now_us - self._touched_us.get(key, now_us) >= KEEP_US
        ]
        excess = len(self._open) - len(old) - COUNTS_MAX
        if excess > 0:
            said = [key for key, count in self._open.items() if self._is_said(key, count)]
            old = list(dict.fromkeys([*old, *said]))[: len(old) + excess]
        for key in old:
            for held in (self._open, self._touched_us, self._said):
                held.pop(key, None)
        return CountState(
            list(self._open.values()), list(self._logs.values()), list(self._engines.values())
        )

    def saved(self, state: CountState) -> None:
        """The checkpoint with ``state`` is on disk: from now on its counts may be said."""
        self._saved = {_key(count): count for count in state.counts}
        self.wants_saving = False

    def due(self, now_us: int) -> list[CollectorCount]:
        """The saved counts of minutes that are over, as far as they were not said like this yet."""
        return [
            count
            for key, count in self._saved.items()
            if count.start_us + MINUTE_US + LATE_US <= now_us and not self._is_said(key, count)
        ]

    def say(self, counts: Iterable[CollectorCount]) -> None:
        """Note that ``counts`` are on their way for good."""
        for count in counts:
            key = _key(count)
            if key in self._open and self._open[key].part == count.part:
                self._said[key] = (count.part, count.revision)

    def _add_unknown(self, log: str, counts: MessageCounts, now_us: int) -> None:
        for tally in counts.tallies:
            key = Key("published", counts.instance, log, tally.start_us)
            count = self._count(key, counts, now_us)
            self._put(key, replace(count, revision=count.revision + 1, complete=False), now_us)
            self._logs[log] = LogCount(
                log, counts.last_seq, 0, replace(counts, tallies=[]), tally.start_us
            )

    def _is_said(self, key: Key, count: CollectorCount) -> bool:
        return self._said.get(key, (0, -1)) == (count.part, count.revision)

    def _add_dead(self, held: LogCount, dead_letters: int, now_us: int) -> None:
        """A dead line has no time of its own: it is in the minute of the record before it."""
        counts = held.counts
        start_us = now_us // MINUTE_US * MINUTE_US if held.start_us is None else held.start_us
        instance = counts.instance or held.log
        key = Key("published", instance, held.log, start_us)
        count = self._count(key, counts, now_us)
        count = replace(
            count, revision=count.revision + 1, dead_letters=count.dead_letters + dead_letters
        )
        self._put(key, count, now_us)
        self._logs[held.log] = replace(held, dead=held.dead + dead_letters)

    def _count(self, key: Key, labels: MessageCounts | EngineSample, now_us: int) -> CollectorCount:
        count = self._open.get(key)
        if count is not None:
            return count
        return CollectorCount(
            start_us=key.start_us,
            instance=key.instance,
            side="engine" if key.side == "engine" else "published",
            part=now_us,
            revision=0,
            log=key.log,
            model=labels.model,
            version=labels.version,
            region=labels.region,
        )

    def _put(self, key: Key, count: CollectorCount, now_us: int) -> None:
        self._open[key] = count
        self._touched_us[key] = now_us


def totals(counts: Iterable[CollectorCount]) -> dict[tuple[str, str], dict[str, int]]:
    """Sums by side and instance over rows as they are stored: the highest revision of each part."""
    latest: dict[tuple[Key, int], CollectorCount] = {}
    for count in counts:
        held = latest.get((_key(count), count.part))
        if held is None or count.revision > held.revision:
            latest[_key(count), count.part] = count
    found: dict[tuple[str, str], dict[str, int]] = {}
    for count in latest.values():
        sums = found.setdefault((count.side, count.instance), dict.fromkeys(SUMMED, 0))
        for name in SUMMED:
            sums[name] += getattr(count, name)
    return found


SUMMED: Sequence[str] = (
    "requests", "finished", "aborted", "refused", "failed", "prompt_tokens", "completion_tokens",
    "dropped", "lost_lines", "dead_letters", "restarts",
)  # fmt: skip


def _key(count: CollectorCount) -> Key:
    return Key(count.side, count.instance, count.log, count.start_us)
