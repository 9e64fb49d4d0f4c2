"""Core: counts what was published, minute by minute, for the reconciliation with the engines.

Each message says in its ``redline-source`` header what it holds (``MessageCounts``), so that counts
move with the marks: with an acknowledgement, or when a message is found in Kafka after a crash.
Minutes are those of ``ts_end_us``. What the engines count instead, by vLLM's own rules, is in
docs/reconciliation.md. This file refuses to read files, Kafka and the clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter, itemgetter

import msgspec
from msgspec.structs import replace

from redline.records import CollectorCount, RequestRecord

MINUTE_US = 60_000_000
_FINISHED = {"stop", "length", "repetition", "tool_calls"}

_end_of = attrgetter("ts_end_us")
_seq_of = attrgetter("seq")
_dropped_of = attrgetter("dropped_before")
_prompt_of = attrgetter("prompt_tokens")
_completion_of = attrgetter("completion_tokens")
_outcome_of = attrgetter("status_code", "finish_reason")


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What one message holds of one minute. As in ``CollectorCount``."""

    start_us: int
    first_seq: int
    last_seq: int
    finished: int = 0
    aborted: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped: int = 0
    lost_lines: int = 0
    restarts: int = 0

    @property
    def requests(self) -> int:
        """All records."""
        return self.finished + self.aborted + self.refused + self.failed


class MessageCounts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one message holds: tallies of requests of one instance, or dead letters.

    ``first_seq`` and ``last_seq`` are the first and the last record's in file order, ``dropped`` is
    what the writer lost before the first.
    """

    tallies: list[Tally] = []
    first_seq: int = 0
    last_seq: int = 0
    dropped: int = 0
    instance: str = ""
    model: str = ""
    version: str = ""
    region: str = ""
    dead_letters: int = 0


def outcome(status_code: int, finish_reason: str) -> str:
    """Which counter of ``CollectorCount`` a request is in: exactly one."""
    if finish_reason == "abort" or status_code == 499:
        return "aborted"
    if finish_reason in _FINISHED:
        return "finished"
    if 400 <= status_code < 500 or status_code == 503:
        return "refused"
    if finish_reason == "error" or status_code >= 500:
        return "failed"
    return "finished"  # e.g. an embedding, which has no finish reason


def count_records(records: Sequence[RequestRecord]) -> MessageCounts:
    """What a message with ``records`` of one instance, in file order, holds. At least one."""
    ends_us = list(map(_end_of, records))
    earliest, latest = min(ends_us) // MINUTE_US, max(ends_us) // MINUTE_US
    gaps = _gaps(records)
    tallies: list[Tally] = []
    if earliest == latest:  # nearly always
        tallies.append(_tally(earliest * MINUTE_US, records, gaps))
    else:
        minutes = [end_us // MINUTE_US for end_us in ends_us]
        for minute in sorted(set(minutes)):
            chosen = [one for one, of in zip(records, minutes, strict=True) if of == minute]
            missing = [gap for gap, of in zip(gaps, minutes, strict=True) if of == minute]
            tallies.append(_tally(minute * MINUTE_US, chosen, missing))
    first = records[0]
    return MessageCounts(
        tallies=tallies,
        first_seq=first.seq,
        last_seq=records[-1].seq,
        dropped=first.dropped_before,
        instance=first.instance,
        model=first.model,
        version=first.version,
        region=first.region,
    )


def add_tally(count: CollectorCount, tally: Tally) -> CollectorCount:
    """The minute's count with one more tally of it."""
    first = tally.first_seq if count.first_seq is None else min(count.first_seq, tally.first_seq)
    last = tally.last_seq if count.last_seq is None else max(count.last_seq, tally.last_seq)
    return replace(
        count,
        revision=count.revision + 1,
        requests=count.requests + tally.requests,
        finished=count.finished + tally.finished,
        aborted=count.aborted + tally.aborted,
        refused=count.refused + tally.refused,
        failed=count.failed + tally.failed,
        prompt_tokens=count.prompt_tokens + tally.prompt_tokens,
        completion_tokens=count.completion_tokens + tally.completion_tokens,
        first_seq=first,
        last_seq=last,
        dropped=count.dropped + tally.dropped,
        lost_lines=count.lost_lines + tally.lost_lines,
        restarts=count.restarts + tally.restarts,
    )


def _gaps(records: Sequence[RequestRecord]) -> Sequence[tuple[int, int]]:
    """Per record, how many numbers are missing before it beyond those dropped, and restarts. The
    first one's gap is not known here.
    """
    numbers = list(map(_seq_of, records))
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return [(0, 0)] * len(numbers)
    later = [
        (max(0, after.seq - before.seq - 1 - after.dropped_before), int(after.seq <= before.seq))
        for before, after in pairwise(records)
    ]
    return [(0, 0), *later]


def _tally(
    start_us: int, records: Sequence[RequestRecord], gaps: Sequence[tuple[int, int]]
) -> Tally:
    counts: Counter[str] = Counter()
    for (status_code, finish_reason), number in Counter(map(_outcome_of, records)).items():
        counts[outcome(status_code, finish_reason)] += number
    numbers = list(map(_seq_of, records))
    return Tally(
        start_us=start_us,
        first_seq=min(numbers),
        last_seq=max(numbers),
        prompt_tokens=sum(map(_prompt_of, records)),
        completion_tokens=sum(map(_completion_of, records)),
        dropped=sum(map(_dropped_of, records)),
        lost_lines=sum(map(itemgetter(0), gaps)),
        restarts=sum(map(itemgetter(1), gaps)),
        **counts,
    )
