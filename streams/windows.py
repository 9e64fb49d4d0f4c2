"""One instance's 10 s window: open while it collects, settled once it is billed for good.

An open window holds the residences of its requests and can be allocated again and again. A settled
one keeps what a late request needs: the idle money that is left, the profile of who ran when, and
what each series was given. This file refuses to know partitions, watermarks or prices.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from redline.money import largest_remainder
from redline.records import LedgerEntry, RequestCost, Series
from streams.panes import PANE_US
from streams.pricing import Bill
from streams.residence import (
    Times,
    late_share,
    residence_profile,
    time_shares,
)

WINDOW_US = PANE_US
METHOD = "time_share_v1"
# queueing was not reported, so the residence counts from arrival and holds the queue as well
METHOD_FROM_ARRIVAL = "time_share_from_arrival_v1"
FAILED, QUEUE_KNOWN = 1, 2  # flags of a residence


class Residences(NamedTuple):
    """Requests of one message on one instance. Arrays of equal length; times in µs."""

    request_ids: NDArray[np.bytes_]  # UTF-8; one block of memory, not a string each
    start_us: Times
    end_us: Times
    flags: NDArray[np.uint8]
    series: list[Series]
    series_of: NDArray[np.int32]

    def take(self, mask: NDArray[np.bool_]) -> Residences:
        """Those where ``mask`` is true."""
        if mask.all():
            return self
        kept = np.flatnonzero(mask)
        return Residences(
            self.request_ids[kept],
            self.start_us[kept],
            self.end_us[kept],
            self.flags[kept],
            self.series,
            self.series_of[kept],
        )

    def touches(self, start_us: int) -> NDArray[np.bool_]:
        """Which of them reside in the window that starts there, or end in it.

        The second matters for a request that ends on the boundary: it has no time in the window,
        but its pane counts it there, and so must the ledger.
        """
        inside = (self.start_us < start_us + WINDOW_US) & (self.end_us > start_us)
        return inside | self.ends_in(start_us)

    def ends_in(self, start_us: int) -> NDArray[np.bool_]:
        """Which of them are counted in the window that starts there."""
        ends: NDArray[np.bool_] = self.end_us // WINDOW_US * WINDOW_US == start_us
        return ends

    def windows(self) -> range:
        """The starts of the windows that any of them can touch."""
        first = int(self.start_us.min()) // WINDOW_US * WINDOW_US
        return range(first, int(self.end_us.max()) + 1, WINDOW_US)


class Line(NamedTuple):
    """Requests of one series in one window: what all cost, and how many ended in it."""

    cost_nusd: int
    requests: int
    queue_known: bool


class Allocation(NamedTuple):
    """One window's bill, split. ``requests`` are (request id, cost, position) in id order."""

    idle_nusd: int
    lines: dict[tuple[Series, bool], Line]  # by series and whether the requests failed
    requests: list[RequestCost]


class OpenWindow:
    """Collects residences. ``last_offset`` is the last request message that touched it."""

    __slots__ = ("chunks", "costs", "last_offset", "start_us")

    def __init__(self, start_us: int) -> None:
        self.start_us = start_us
        self.costs: dict[Series, int] = {}  # as last allocated
        self.chunks: list[Residences] = []
        self.last_offset = -1

    def add(self, chunk: Residences, offset: int) -> None:
        """Add the residences of one message that touch this window."""
        self.chunks.append(chunk)
        self.last_offset = max(self.last_offset, offset)

    def allocate(self, instance: str, bill_nusd: int, *, per_request: bool) -> Allocation:
        """Split the bill by time shares; everything sums to it exactly, in integers.

        Largest remainder over requests in the order of their ids, so that neither the order of
        arrival nor the cut into messages matters.
        """
        merged = _merge(self.chunks)
        if not len(merged.request_ids):
            return Allocation(bill_nusd, {}, [])
        start_us, end_us = self.start_us, self.start_us + WINDOW_US
        shares = time_shares(merged.start_us, merged.end_us, start_us, end_us)
        order = np.lexsort((merged.end_us, merged.start_us, merged.request_ids))
        weights = np.concatenate((np.array([shares.idle], np.int64), shares.requests[order]))
        idle, *costs = largest_remainder(bill_nusd, weights)
        if not weights.any():
            idle = bill_nusd  # nobody ran for any time: all of it is idle
        cost = np.zeros(len(order), np.int64)
        cost[order] = costs
        lines: dict[tuple[Series, bool], Line] = {}
        ended = merged.ends_in(start_us)
        group = merged.series_of.astype(np.int64) * 2 + (merged.flags & FAILED)
        for code in np.unique(group).tolist():
            chosen = group == code
            lines[merged.series[code // 2], bool(code % 2)] = Line(
                int(cost[chosen].sum()),
                int((chosen & ended).sum()),
                bool((merged.flags[chosen] & QUEUE_KNOWN).all()),
            )
        requests = _request_costs(instance, start_us, merged, cost) if per_request else []
        return Allocation(idle, lines, requests)


class SettledWindow(msgspec.Struct, array_like=True):
    """A billed window. ``profile`` is float32 per slot; ``costs`` sum per series, corrections in.

    ``guard`` is the last request message that was considered; ``bill_nusd`` None means that there
    was no price, so the window has no lines and takes no corrections.
    """

    start_us: int
    gpu_group: str
    bill_nusd: int | None
    idle_left_nusd: int
    profile: bytes
    costs: dict[Series, int]
    guard: int
    last_offset: int
    checkpoint: int

    def correct(self, late: Residences, offset: int) -> list[tuple[int, int]]:
        """Give late requests their share out of what is left of the idle money.

        Returns (position in ``late``, n$), in the order of request ids. A window that was busy all
        the time has nothing left to give: its bill is already spread over the others.
        """
        self.guard = max(self.guard, offset)
        if self.bill_nusd is None:
            return []
        profile = np.frombuffer(self.profile, np.float32)
        given: list[tuple[int, int]] = []
        for at in np.argsort(late.request_ids, kind="stable").tolist():
            part, profile = late_share(
                profile,
                int(late.start_us[at]),
                int(late.end_us[at]),
                self.start_us,
                self.start_us + WINDOW_US,
            )
            nusd = min(int(part * self.bill_nusd), self.idle_left_nusd)
            self.idle_left_nusd -= nusd
            given.append((at, nusd))
            series = late.series[int(late.series_of[at])]
            if nusd and not late.flags[at] & FAILED:
                self.costs[series] = self.costs.get(series, 0) + nusd
        self.profile = profile.tobytes()
        self.last_offset = max(self.last_offset, offset)
        return given


def settle(
    window: OpenWindow, instance: str, bill: Bill | None, *, guard: int, checkpoint: int
) -> tuple[SettledWindow, Allocation | None]:
    """Close a window. Without a bill there is no allocation."""
    merged = _merge(window.chunks)
    start_us = window.start_us
    profile = residence_profile(merged.start_us, merged.end_us, start_us, start_us + WINDOW_US)
    allocation = (
        None if bill is None else window.allocate(instance, bill.bill_nusd, per_request=True)
    )
    settled = SettledWindow(
        start_us=start_us,
        gpu_group="" if bill is None else bill.gpu_group,
        bill_nusd=None if bill is None else bill.bill_nusd,
        idle_left_nusd=0 if allocation is None else allocation.idle_nusd,
        profile=profile.tobytes(),
        costs={} if allocation is None else series_costs(allocation),
        guard=guard,
        last_offset=window.last_offset,
        checkpoint=checkpoint,
    )
    return settled, allocation


def series_costs(allocation: Allocation) -> dict[Series, int]:
    """What each series was given. Failed requests are overhead, so they count for no series."""
    return {key[0]: line.cost_nusd for key, line in allocation.lines.items() if not key[1]}


def ledger_lines(
    allocation: Allocation,
    bill: Bill,
    instance: str,
    start_us: int,
    last_offset: int,
    *,
    final: bool,
) -> list[LedgerEntry]:
    """The lines of one window. The idle line is always there, so that a later 0 replaces it."""

    def entry(**fields: object) -> LedgerEntry:
        return LedgerEntry(
            gpu_group=bill.gpu_group,
            instance=instance,
            window_start_us=start_us,
            window_end_us=start_us + WINDOW_US,
            status="settled" if final else "provisional",
            revision=(last_offset + 1) << 1 | final,
            bill_nusd=bill.bill_nusd,
            **fields,  # type: ignore[arg-type]
        )

    lines = [entry(kind="idle", cost_nusd=allocation.idle_nusd, method=METHOD, reason="no_request")]
    for (series, failed), line in sorted(allocation.lines.items()):
        lines.append(
            entry(
                kind="overhead" if failed else "request",
                reason="failed" if failed else "",
                cost_nusd=line.cost_nusd,
                requests=line.requests,
                method=METHOD if line.queue_known else METHOD_FROM_ARRIVAL,
                **series._asdict(),
            )
        )
    return lines


def pack_ids(request_ids: list[str]) -> NDArray[np.bytes_]:
    """Request ids as one array."""
    return np.array([request_id.encode() for request_id in request_ids], np.bytes_)


def read_ids(packed: NDArray[np.bytes_]) -> list[str]:
    """The inverse of ``pack_ids``."""
    return [request_id.decode() for request_id in packed.tolist()]


def _merge(chunks: list[Residences]) -> Residences:
    """All chunks as one, with one numbering of the series."""
    known: dict[Series, int] = {}
    codes = []
    for chunk in chunks:
        numbers = np.array([known.setdefault(s, len(known)) for s in chunk.series], np.int32)
        codes.append(numbers[chunk.series_of])
    empty = np.empty(0, np.int64)
    return Residences(
        np.concatenate([np.empty(0, "S1"), *(chunk.request_ids for chunk in chunks)]),
        np.concatenate([empty, *(chunk.start_us for chunk in chunks)]),
        np.concatenate([empty, *(chunk.end_us for chunk in chunks)]),
        np.concatenate([empty.astype(np.uint8), *(chunk.flags for chunk in chunks)]),
        list(known),
        np.concatenate([empty.astype(np.int32), *codes]),
    )


def _request_costs(
    instance: str, start_us: int, merged: Residences, cost: NDArray[np.int64]
) -> list[RequestCost]:
    """One row per request id: a client that reuses an id gets the sum, for the table keeps one."""
    rows: dict[str, RequestCost] = {}
    for at, request_id in enumerate(read_ids(merged.request_ids)):
        nusd = int(cost[at])
        if request_id in rows:
            nusd += rows[request_id].cost_nusd
        rows[request_id] = RequestCost(
            request_id=request_id,
            instance=instance,
            window_start_us=start_us,
            cost_nusd=nusd,
            method=METHOD if merged.flags[at] & QUEUE_KNOWN else METHOD_FROM_ARRIVAL,
            **merged.series[int(merged.series_of[at])]._asdict(),
        )
    return list(rows.values())
