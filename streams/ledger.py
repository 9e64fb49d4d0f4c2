"""The cost ledger of one source partition: every window of every instance, billed exactly once.

A window exists as soon as its instance was seen in it, by an engine sample or by a request. It is
provisional while it is open: its lines are absolute and replaced as requests finish. It settles
when the partition's watermark passes its end by the lateness. From then on it never changes: what
comes later makes a pair of ``correction`` lines that sum to zero, the request's share taken out of
the window's idle money. What comes later than ``RETAIN_US`` is counted as ``unpriced_residences``.

Stored state, all under the partition's prefix: the settled windows and the windows that were seen
(``W``), and the residences of open windows as append-only segments by source offset (``S``), which
are dropped once every window that they touch has settled. A replayed message is skipped where its
residences are already in a segment or behind a settled window's guard.

This file refuses to settle by wall clock and to bill an instance without a price.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from redline.records import LedgerEntry, RequestCost, Series, Signal
from streams.batch import RequestBatch
from streams.corrections import correction_lines
from streams.pricing import Bill, Unpriced
from streams.segments import Part, cut_segments, decode_segment, encode_segment, store_part
from streams.windows import (
    FAILED,
    QUEUE_KNOWN,
    WINDOW_US,
    OpenWindow,
    Residences,
    SettledWindow,
    ledger_lines,
    pack_ids,
    series_costs,
    settle,
)

RETAIN_US = 3_600_000_000  # not above the panes' first hour, so that a cost finds its pane
WINDOW_TAG, SEGMENT_TAG = b"W", b"S"

PriceOf = Callable[[str, int, int], Bill | Unpriced]
Key = tuple[str, int]  # instance, window start

_WINDOW_KEY = struct.Struct(">HcQ")
_SEGMENT_KEY = struct.Struct(">HcQ")


_encode = msgspec.msgpack.Encoder().encode
_decode_window = msgspec.msgpack.Decoder(SettledWindow | None).decode


class LedgerOutput(NamedTuple):
    """What one checkpoint of the ledger produced.

    ``segments`` and ``windows`` are to be stored, in this order; ``final`` and ``costs`` must be
    stored as well until they are delivered, because a settled window cannot make them again.
    """

    segments: list[tuple[bytes, bytes]]
    windows: list[tuple[bytes, bytes]]
    final: list[LedgerEntry]
    provisional: list[LedgerEntry]
    costs: list[RequestCost]
    touched: set[int]  # window starts in which some series' cost may have changed


class Ledger:
    """Windows of one partition. ``price_of`` is pure: instance, start, end to a bill."""

    def __init__(self, partition: int, price_of: PriceOf, lateness_us: int) -> None:
        self.partition = partition
        self.unpriced: dict[str, Unpriced] = {}  # instances whose last window had no price
        self.unpriced_windows = 0
        self.unpriced_residences = 0
        self.corrected_requests = 0
        self._price_of = price_of
        self._lateness_us = lateness_us
        self._open: dict[Key, OpenWindow] = {}
        self._settled: dict[Key, SettledWindow] = {}
        self._at: dict[int, set[str]] = {}  # instances by window start
        self._dirty: set[Key] = set()
        self._seen: set[Key] = set()  # created since the last checkpoint
        self._changed: set[Key] = set()  # settled windows corrected since the last checkpoint
        self._parts: list[Part] = []
        self._corrections: list[LedgerEntry] = []
        self._correction_costs: list[RequestCost] = []
        self._segments: dict[bytes, int] = {}  # key to the latest end in it
        self._covered: set[int] = set()  # offsets above the committed one that segments hold

    @property
    def open_windows(self) -> int:
        """How many windows are still provisional."""
        return len(self._open)

    @property
    def settled_windows(self) -> int:
        """How many settled windows can still be corrected."""
        return len(self._settled)

    def price_signals(self, now_us: int) -> list[Signal]:
        """One ``price_missing`` for each instance whose windows have no price."""
        return [
            Signal(
                ts_us=now_us,
                name="price_missing",
                value=1.0,
                window_s=WINDOW_US // 1_000_000,
                labels={"instance": instance, "gpu_group": unpriced.gpu_group},
                samples=1,
            )
            for instance, unpriced in sorted(self.unpriced.items())
        ]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held any more."""
        return not (self._open or self._settled or self._segments)

    def see(self, instance: str, ts_us: int, watermark_us: int) -> None:
        """The instance was up at ``ts_us``, so that window is billed."""
        start_us = ts_us // WINDOW_US * WINDOW_US
        if start_us >= _oldest_start(watermark_us) and (instance, start_us) not in self._settled:
            self._window((instance, start_us))

    def add(
        self, batch: RequestBatch, series: list[Series], offset: int, watermark_us: int
    ) -> None:
        """Add the residences of one message (``series``: the batch's, resolved)."""
        flags = batch.failed * np.uint8(FAILED) + batch.queue_known * np.uint8(QUEUE_KNOWN)
        whole = Residences(
            np.empty(0, np.bytes_),
            batch.start_us,
            batch.end_us,
            flags.astype(np.uint8),
            series,
            batch.series_of.astype(np.int32),
        )
        for instance, at in batch.instances.items():
            chunk = Residences(
                pack_ids([batch.records[i].request_id for i in at.tolist()]),
                whole.start_us[at],
                whole.end_us[at],
                whole.flags[at],
                series,
                whole.series_of[at],
            )
            self._add(instance, chunk, offset, watermark_us)

    def _add(self, instance: str, chunk: Residences, offset: int, watermark_us: int) -> None:
        kept = np.zeros(len(chunk.request_ids), np.bool_)
        windows = chunk.windows()
        reachable = max(windows.start, _oldest_start(watermark_us))
        self.unpriced_residences += int((chunk.start_us < reachable).sum())
        for start_us in range(reachable, windows.stop, WINDOW_US):
            mask = chunk.touches(start_us)
            if not mask.any():
                continue
            key = (instance, start_us)
            settled = self._settled.get(key)
            if settled is not None:
                self._correct(key, settled, chunk.take(mask), offset)
                continue
            window = self._window(key)
            if offset not in self._covered:
                window.add(chunk.take(mask), offset)
                kept |= mask
            self._dirty.add(key)
        if kept.any():
            self._parts.append(store_part(instance, chunk.take(kept), offset))

    def _window(self, key: Key) -> OpenWindow:
        window = self._open.get(key)
        if window is None:
            window = self._open[key] = OpenWindow(key[1])
            self._at.setdefault(key[1], set()).add(key[0])
            self._seen.add(key)
            self._dirty.add(key)
        return window

    def _correct(self, key: Key, window: SettledWindow, late: Residences, offset: int) -> None:
        if offset <= window.guard:
            return
        given = window.correct(late, offset)
        self._changed.add(key)
        self.corrected_requests += len(given)
        lines, costs = correction_lines(key[0], window, late, given, f"{self.partition}-{offset}")
        self._corrections += lines
        self._correction_costs += costs

    def checkpoint(self, watermark_us: int, applied_offset: int, number: int) -> LedgerOutput:
        """Settle what is due, allocate what changed, and say what is to be stored and sent."""
        final, provisional, costs = self._corrections, [], self._correction_costs
        self._corrections, self._correction_costs = [], []
        stored: list[tuple[bytes, bytes]] = []
        touched = {start for _, start in self._dirty | self._changed}
        due = [k for k in self._open if k[1] + WINDOW_US + self._lateness_us <= watermark_us]
        for key in sorted(due):
            lines, request_costs = self._settle(key, applied_offset, number)
            final += lines
            costs += request_costs
            touched.add(key[1])
        for key in sorted(self._dirty - set(due)):
            provisional += self._allocate(key)
        for key in sorted(self._changed):
            self._settled[key].checkpoint = number
        for key in sorted(self._seen | self._changed | set(due)):
            stored.append((self._window_key(key), _encode(self._settled.get(key))))
        self._dirty.clear()
        self._seen.clear()
        self._changed.clear()
        return LedgerOutput(self._cut_segments(), stored, final, provisional, costs, touched)

    def _settle(
        self, key: Key, guard: int, number: int
    ) -> tuple[list[LedgerEntry], list[RequestCost]]:
        window = self._open.pop(key)
        bill = self._bill(key)
        if bill is None:
            self.unpriced_windows += 1
        settled, allocation = settle(window, key[0], bill, guard=guard, checkpoint=number)
        self._settled[key] = settled
        if bill is None or allocation is None:
            return [], []
        lines = ledger_lines(allocation, bill, key[0], key[1], window.last_offset, final=True)
        return lines, allocation.requests

    def _allocate(self, key: Key) -> list[LedgerEntry]:
        bill, window = self._bill(key), self._open[key]
        if bill is None:
            return []
        allocation = window.allocate(key[0], bill.bill_nusd, per_request=False)
        window.costs = series_costs(allocation)
        return ledger_lines(allocation, bill, key[0], key[1], window.last_offset, final=False)

    def _bill(self, key: Key) -> Bill | None:
        answer = self._price_of(key[0], key[1], key[1] + WINDOW_US)
        if isinstance(answer, Unpriced):
            self.unpriced[key[0]] = answer
            return None
        self.unpriced.pop(key[0], None)
        return answer

    def series_costs(self, start_us: int) -> dict[Series, tuple[int, int]]:
        """Per series: what its requests cost in that window over all instances, and the offset."""
        total: dict[Series, tuple[int, int]] = {}
        for instance in self._at.get(start_us, ()):
            key = (instance, start_us)
            window = self._settled.get(key) or self._open[key]
            for series, nusd in window.costs.items():
                have, offset = total.get(series, (0, -1))
                total[series] = (have + nusd, max(offset, window.last_offset))
        return total

    def commit(self, applied_offset: int, watermark_us: int) -> list[bytes]:
        """The checkpoint is delivered: forget what is not needed; returns the keys to delete."""
        self._covered = {offset for offset in self._covered if offset > applied_offset}
        gone = []
        opened = min((start for _, start in self._open), default=None)
        for key, end_us in list(self._segments.items()):
            # a segment stays while a window that it touches may still be open
            if opened is None or end_us < opened:
                del self._segments[key]
                gone.append(key)
        oldest = _oldest_start(watermark_us)
        for start_us in [s for s in self._at if s < oldest]:
            instances = self._at[start_us]
            for instance in sorted(instances):
                if self._settled.pop((instance, start_us), None) is not None:
                    instances.discard(instance)
                    gone.append(self._window_key((instance, start_us)))
            if not instances:
                del self._at[start_us]
        return gone

    def restore(
        self, items: Iterable[tuple[bytes, bytes]], number: int, offset: int, watermark_us: int
    ) -> None:
        """Read back windows and segments, given the last delivered checkpoint and its position."""
        segments = []
        for key, value in items:
            if key[2:3] == SEGMENT_TAG:
                segments.append((key, value))
                continue
            window = _decode_window(value)
            start_us = _WINDOW_KEY.unpack_from(key)[2]
            where = (key[_WINDOW_KEY.size :].decode(), start_us)
            self._at.setdefault(start_us, set()).add(where[0])
            if window is None:
                self._open[where] = OpenWindow(start_us)
            else:
                self._settled[where] = window
                if window.checkpoint > number:  # its pane may not have been sent
                    self._changed.add(where)
        for key, value in sorted(segments):
            self._segments[key] = 0
            for part in decode_segment(value):
                chunk = part.load()
                self._segments[key] = max(self._segments[key], int(chunk.end_us.max()))
                self._reload(part.instance, chunk, part.offset, _oldest_start(watermark_us))
                if part.offset > offset:
                    self._covered.add(part.offset)
        self._dirty = set(self._open)

    def _reload(self, instance: str, chunk: Residences, offset: int, oldest: int) -> None:
        windows = chunk.windows()
        for start_us in range(max(oldest, windows.start), windows.stop, WINDOW_US):
            mask = chunk.touches(start_us)
            if mask.any() and (instance, start_us) not in self._settled:
                self._window((instance, start_us)).add(chunk.take(mask), offset)

    def _window_key(self, key: Key) -> bytes:
        return _WINDOW_KEY.pack(self.partition, WINDOW_TAG, key[1]) + key[0].encode()

    def _cut_segments(self) -> list[tuple[bytes, bytes]]:
        parts, self._parts = self._parts, []
        segments: list[tuple[bytes, bytes]] = []
        for cut in cut_segments(parts):
            key = _SEGMENT_KEY.pack(self.partition, SEGMENT_TAG, cut[0].offset)
            self._segments[key] = max(part.latest_us for part in cut)
            segments.append((key, encode_segment(cut)))
        return segments


def _oldest_start(watermark_us: int) -> int:
    """The oldest window that is still held when the watermark is there."""
    return (watermark_us - RETAIN_US) // WINDOW_US * WINDOW_US + WINDOW_US
