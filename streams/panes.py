"""10 s partial aggregates of one source partition: counts, sums and DDSketch states by series.

Absolute values under a per-key offset guard: a message that is replayed after a crash is skipped
for the keys that already hold it, but marks them dirty, so that what a crash kept from the sink is
written again. Sketches live unpacked only while their pane is hot; the stored bytes are the rest.

A record that is late by whole hours (its pane may have left the state) never touches the stored
pane: it goes to a pane of its own, whose source partition is ``partition + 256 * hours late``.
Totals stay right because readers sum over source partitions. Hours are counted by the watermark
of the requests alone, so a replay decides the same. Past 255 hours a record gets no pane and is
counted as ``too_late``.

This file refuses clocks, prices and percentiles of percentiles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from redline.records import Pane, Series
from redline.sketch import DDSketch
from streams.batch import SUM_FIELDS, RequestBatch

PANE_US = 10_000_000
LATE_STEP_US = 3_600_000_000
LATE_STEPS_MAX = 255
LATE_PARTITION_STEP = 256  # settings allow at most 256 partitions
HOT_US = 60_000_000  # a pane this long behind the watermark is packed
OTHER = "__other__"
PANE_TAG = b"P"

_KEY = struct.Struct(">HcQB")


class PaneKey(NamedTuple):
    """What a pane is of. ``late_hours`` is 0 for all but late panes."""

    series: Series
    start_us: int
    late_hours: int


class _Stored(msgspec.Struct, array_like=True):
    last_offset: int
    revision: int
    cost_nusd: int
    sums: list[int]
    e2e: bytes
    ttft: bytes


class _Open:
    """One unpacked pane."""

    __slots__ = ("cost_nusd", "e2e", "last_offset", "revision", "sums", "ttft")

    def __init__(self) -> None:
        self.last_offset = -1
        self.revision = 0
        self.cost_nusd = 0
        self.sums: NDArray[np.int64] = np.zeros(len(SUM_FIELDS), np.int64)
        self.e2e = DDSketch()
        self.ttft = DDSketch()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_decode_series = msgspec.msgpack.Decoder(Series).decode


def pane_key_bytes(partition: int, key: PaneKey) -> bytes:
    """The table key: partition, tag, start, lateness, series."""
    return _KEY.pack(partition, PANE_TAG, key.start_us, key.late_hours) + _encode(key.series)


def read_pane_key(data: bytes) -> PaneKey:
    """The inverse of ``pane_key_bytes``."""
    _, _, start_us, late_hours = _KEY.unpack_from(data)
    return PaneKey(_decode_series(data[_KEY.size :]), start_us, late_hours)


class PaneBook:
    """All panes of one source partition. ``stored`` is the table's content, read lazily."""

    def __init__(self, partition: int, series_max: int, stored: Mapping[bytes, bytes]) -> None:
        self.partition = partition
        self.series_max = series_max
        self.capped_records = 0
        self.too_late_records = 0
        self._stored = stored
        self._hot: dict[PaneKey, _Open] = {}
        self._by_expiry: dict[int, set[PaneKey]] = {}
        self._series_panes: dict[Series, int] = {}
        self._interned: dict[Series, Series] = {}  # one tuple a series, whatever message it is in
        self._fresh: set[PaneKey] = set()  # new requests since the last fast flush
        self._dirty: set[PaneKey] = set()  # anything new since the last checkpoint

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._by_expiry.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held any more."""
        return not self._by_expiry

    @property
    def hot_panes(self) -> int:
        """How many panes are unpacked."""
        return len(self._hot)

    def restore(self, keys: Iterator[bytes]) -> None:
        """Register the panes that the table holds, without unpacking them."""
        for data in keys:
            self._register(read_pane_key(data))

    def resolve(self, labels: Sequence[Series]) -> list[Series]:
        """The series that are counted, one for each of ``labels``: itself, or past the cap a
        shared one with the tenant ``__other__``.

        Models and versions may fill the cap once more; past that there is one series for all.
        """
        new: set[Series] = set()
        return [self._resolve(series, new) for series in labels]

    def _resolve(self, series: Series, new: set[Series]) -> Series:
        other = series._replace(tenant=OTHER)
        for candidate, series_max in ((series, self.series_max), (other, 2 * self.series_max)):
            interned = self._interned.get(candidate)
            if interned is not None:
                return interned
            if candidate in new:
                return candidate
            if len(self._series_panes) + len(new) < series_max:
                new.add(candidate)
                return candidate
        return Series(OTHER, "", "", OTHER)

    def fold(
        self, batch: RequestBatch, series: list[Series], offset: int, watermark_us: int
    ) -> None:
        """Add one message. ``series`` are the batch's resolved; the watermark is the one before it.

        A pane whose guard is at or past ``offset`` already holds this message and is only marked.
        """
        starts = batch.end_us // PANE_US
        base = int(starts.min())
        code = (starts - base) * len(series) + batch.series_of
        order = np.argsort(code, kind="stable")
        groups, firsts = np.unique(code[order], return_index=True)
        sums = np.add.reduceat(batch.sums[:, order], firsts, axis=1)
        e2e, ttft = batch.e2e_us[order], batch.ttft_us[order]
        bounds = [*firsts.tolist(), len(order)]
        taken: set[PaneKey] = set()
        for index, group in enumerate(groups.tolist()):
            first, last = bounds[index], bounds[index + 1]
            start_us = (base + group // len(series)) * PANE_US
            late_hours = max(0, watermark_us - start_us) // LATE_STEP_US
            if late_hours > LATE_STEPS_MAX:
                self.too_late_records += last - first
                continue
            raw, counted = batch.series[group % len(series)], series[group % len(series)]
            self.capped_records += (last - first) * (raw != counted)
            key = PaneKey(counted, start_us, late_hours)
            pane = self._open(key)
            self._fresh.add(key)
            self._dirty.add(key)
            # capping can send two groups of one message to one pane
            if pane.last_offset >= offset and key not in taken:
                continue
            taken.add(key)
            pane.last_offset = offset
            pane.revision = max(pane.revision, offset)
            pane.sums += sums[:, index]
            _measure(pane.e2e, e2e[first:last])
            _measure(pane.ttft, ttft[first:last])

    def set_cost(
        self, series: Series, start_us: int, cost_nusd: int, revision: int, *, forced: bool = False
    ) -> None:
        """Put the ledger's allocation on a pane; the pane may have no request of its own.

        ``forced`` writes the pane again even where nothing changed.
        """
        key = PaneKey(series, start_us, 0)
        pane = self._open(key)
        if not forced and pane.cost_nusd == cost_nusd and pane.revision >= revision:
            return
        pane.cost_nusd = cost_nusd
        pane.revision = max(pane.revision, revision)
        self._dirty.add(key)

    def take_fresh(self) -> list[Pane]:
        """The panes with new requests since the last call; for the quick flush."""
        fresh, self._fresh = self._fresh, set()
        return [self._record(key) for key in sorted(fresh)]

    def take_dirty(self) -> list[tuple[bytes, bytes, Pane]]:
        """(table key, stored value, record) of everything changed since the last checkpoint."""
        dirty, self._dirty = self._dirty, set()
        self._fresh.clear()
        taken = []
        for key in sorted(dirty):
            pane, record = self._open(key), self._record(key)
            value = _Stored(
                pane.last_offset, pane.revision, pane.cost_nusd, pane.sums.tolist(),
                record.e2e_sketch, record.ttft_sketch,
            )  # fmt: skip
            taken.append((pane_key_bytes(self.partition, key), _encode(value), record))
        return taken

    def pack(self, watermark_us: int) -> None:
        """Drop unpacked panes that are stored and old; they are read back if a record comes."""
        for key in [
            k
            for k in self._hot
            if k.start_us + PANE_US + HOT_US <= watermark_us
            and k not in self._dirty
            and k not in self._fresh
        ]:
            del self._hot[key]

    def expire(self, watermark_us: int) -> list[bytes]:
        """Forget panes that no record can reach any more; return their table keys."""
        gone: list[bytes] = []
        for hour in [h for h in self._by_expiry if h <= watermark_us]:
            for key in sorted(self._by_expiry.pop(hour)):
                self._hot.pop(key, None)
                self._fresh.discard(key)
                self._dirty.discard(key)
                gone.append(pane_key_bytes(self.partition, key))
                left = self._series_panes[key.series] - 1
                if left:
                    self._series_panes[key.series] = left
                else:
                    del self._series_panes[key.series], self._interned[key.series]
        return gone

    def _register(self, key: PaneKey) -> None:
        # from here on the next record of this pane belongs to a later late pane; one lateness of
        # slack keeps a pane until the checkpoint that holds its last record is surely committed
        expiry = key.start_us + (key.late_hours + 1) * LATE_STEP_US + HOT_US
        keys = self._by_expiry.setdefault(expiry, set())
        if key not in keys:
            keys.add(key)
            self._series_panes[key.series] = self._series_panes.get(key.series, 0) + 1
            self._interned.setdefault(key.series, key.series)

    def _open(self, key: PaneKey) -> _Open:
        pane = self._hot.get(key)
        if pane is None:
            pane = self._hot[key] = _Open()
            data = self._stored.get(pane_key_bytes(self.partition, key))
            if data is not None:
                value = _decode(data)
                pane.last_offset, pane.revision = value.last_offset, value.revision
                pane.cost_nusd = value.cost_nusd
                pane.sums = np.array(value.sums, np.int64)
                pane.e2e = DDSketch.from_bytes(value.e2e)
                pane.ttft = DDSketch.from_bytes(value.ttft)
            self._register(key)
        return pane

    def _record(self, key: PaneKey) -> Pane:
        pane = self._open(key)
        return Pane(
            **key.series._asdict(),
            **dict(zip(SUM_FIELDS, pane.sums.tolist(), strict=True)),
            start_us=key.start_us,
            source_partition=self.partition + LATE_PARTITION_STEP * key.late_hours,
            revision=pane.revision,
            cost_nusd=pane.cost_nusd,
            e2e_sketch=pane.e2e.to_bytes() if pane.e2e.count else b"",
            ttft_sketch=pane.ttft.to_bytes() if pane.ttft.count else b"",
        )


def _measure(sketch: DDSketch, values: NDArray[np.int64]) -> None:
    known = values[values >= 0]
    if len(known):
        sketch.add_many(known)
