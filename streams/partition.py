"""The whole state of one source partition, and how it becomes a checkpoint.

Messages of requests and of engine samples go in, in offset order; out come panes (often) and
checkpoints (every second or two). A checkpoint is delivered in this order, which is what makes
SIGKILL at any point harmless:

1. ``puts`` to the changelog, confirmed: residences, the outbox, settled windows, panes;
2. rows to ClickHouse, records to Kafka: absolute values or deduplicated blocks;
3. ``commit`` to the changelog, confirmed: "everything up to this offset is delivered";
4. source messages acknowledged; ``finish`` names the keys that are not needed any more.

After a restart, messages up to the committed offset are skipped whole. Those after it are folded
under the per-key guards, because a crash between 1 and 3 leaves some keys ahead of others; what
such a checkpoint may not have delivered is delivered again (the outbox, and every open window).

This file refuses clocks, Kafka and ClickHouse: it only knows bytes and records.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from redline.records import EngineSample, LedgerEntry, Pane, RequestCost
from streams.batch import RequestBatch
from streams.ledger import SEGMENT_TAG, WINDOW_TAG, Ledger, LedgerOutput, PriceOf
from streams.panes import PANE_TAG, PaneBook

COMMIT_TAG, OUTBOX_TAG = b"C", b"O"
OUTBOX_RECORDS_MAX = 500
SAMPLE_AHEAD_MAX_US = 300_000_000


class Committed(msgspec.Struct, array_like=True):
    """What the last delivered checkpoint covered."""

    number: int = 0
    offset: int = -1
    requests_us: int = 0  # watermark of the requests
    engines_us: int = 0  # watermark of the engine samples
    settled_us: int = 0  # watermark that windows were settled by


class _Outbox(msgspec.Struct, array_like=True):
    number: int
    ledger: list[LedgerEntry]
    costs: list[RequestCost]


class Checkpoint(NamedTuple):
    """One checkpoint, ready to be delivered; immutable while the state moves on."""

    puts: list[tuple[bytes, bytes]]
    panes: list[Pane]
    ledger: list[LedgerEntry]
    costs: list[RequestCost]
    commit: tuple[bytes, bytes]
    committed: Committed
    outbox_keys: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode_commit = msgspec.msgpack.Decoder(Committed).decode
_decode_outbox = msgspec.msgpack.Decoder(_Outbox).decode
_HEAD = struct.Struct(">Hc")
_OUTBOX_KEY = struct.Struct(">HcII")


def partition_of(key: bytes) -> int:
    """The source partition that a table key belongs to."""
    return int.from_bytes(key[:2], "big")


class Partition:
    """State of one partition. ``stored`` is the table; this class never writes to it."""

    def __init__(
        self,
        partition: int,
        *,
        price_of: PriceOf,
        lateness_us: int,
        series_max: int,
        stored: Mapping[bytes, bytes],
    ) -> None:
        self.partition = partition
        self.panes = PaneBook(partition, series_max, stored)
        self.ledger = Ledger(partition, price_of, lateness_us)
        self._stored = stored
        self._number = 0
        self._offset = -1  # last request message applied
        self._delivered = -1  # last request message whose effects are all delivered
        self._requests_us = 0
        self._engines_us = 0
        self._settled_us = 0
        self._outbox: list[_Outbox] = []
        self._outbox_keys: list[bytes] = []
        self._forced = True  # the first checkpoint writes the cost of every touched pane again
        self._restore()

    @property
    def watermark_us(self) -> int:
        """The latest event time seen, of requests and of engine samples."""
        return max(self._requests_us, self._engines_us)

    @property
    def delivered_offset(self) -> int:
        """The offset up to which request messages need no work at all any more; -1 at first."""
        return self._delivered

    def is_delivered(self, offset: int) -> bool:
        """Whether a request message was delivered by an earlier life of this partition."""
        return offset <= self._delivered

    def apply_requests(self, batch: RequestBatch, offset: int) -> None:
        """Fold one message of admitted requests. Offsets must rise."""
        if offset <= self._delivered:
            return
        if batch.records:
            series = self.panes.resolve(batch.series)
            self.panes.fold(batch, series, offset, self._requests_us)
            self.ledger.add(batch, series, offset, self._settled_us)
            self._requests_us = max(self._requests_us, batch.latest_us)
        self._offset = max(self._offset, offset)

    def apply_samples(self, samples: Sequence[EngineSample], received_us: int) -> None:
        """Note in which windows instances were up. Samples from the future are left out."""
        for sample in samples:
            if not 0 < sample.ts_us <= received_us + SAMPLE_AHEAD_MAX_US:
                continue
            if sample.up:
                self.ledger.see(sample.instance, sample.ts_us, self._settled_us)
            self._engines_us = max(self._engines_us, sample.ts_us)

    def fresh_panes(self) -> list[Pane]:
        """Panes with new requests since the last call, for the quick flush."""
        return self.panes.take_fresh()

    def checkpoint(self, *, caught_up: bool) -> Checkpoint:
        """Everything to store and to send.

        ``caught_up`` says that no request waits in Kafka. While some do, only the requests' own
        time settles windows: samples that were read ahead must not close them early.
        """
        self._number += 1
        reached = self.watermark_us if caught_up else self._requests_us
        self._settled_us = max(self._settled_us, reached)
        output = self.ledger.checkpoint(self._settled_us, self._offset, self._number)
        self._spread_costs(output)
        outbox, ledger, costs = self._fill_outbox(output)
        panes = self.panes.take_dirty()
        committed = Committed(
            self._number, self._offset, self._requests_us, self._engines_us, self._settled_us
        )
        stored_panes = [(key, value) for key, value, _ in panes]
        return Checkpoint(
            puts=[*output.segments, *outbox, *output.windows, *stored_panes],
            panes=[record for _, _, record in panes],
            ledger=ledger,
            costs=costs,
            commit=(_HEAD.pack(self.partition, COMMIT_TAG), _encode(committed)),
            committed=committed,
            outbox_keys=[key for key, _ in outbox] + self._outbox_keys,
        )

    def finish(self, checkpoint: Checkpoint) -> list[bytes]:
        """The checkpoint is delivered and committed; returns the table keys to delete."""
        committed = checkpoint.committed
        self._delivered = max(self._delivered, committed.offset)
        self._outbox_keys = []
        gone = list(dict.fromkeys(checkpoint.outbox_keys))
        gone += self.ledger.commit(committed.offset, committed.settled_us)
        gone += self.panes.expire(committed.requests_us)
        self.panes.pack(committed.requests_us)
        return gone

    def _spread_costs(self, output: LedgerOutput) -> None:
        for start_us in sorted(output.touched):
            for series, (nusd, offset) in self.ledger.series_costs(start_us).items():
                self.panes.set_cost(series, start_us, nusd, offset, forced=self._forced)
        self._forced = False

    def _fill_outbox(
        self, output: LedgerOutput
    ) -> tuple[list[tuple[bytes, bytes]], list[LedgerEntry], list[RequestCost]]:
        """Records that cannot be made again, as stored chunks; and all that is to be sent now."""
        chunks: list[tuple[bytes, bytes]] = []
        ledger, costs = list(output.final), list(output.costs)
        while ledger or costs:
            box = _Outbox(self._number, ledger[:OUTBOX_RECORDS_MAX], costs[:OUTBOX_RECORDS_MAX])
            ledger, costs = ledger[OUTBOX_RECORDS_MAX:], costs[OUTBOX_RECORDS_MAX:]
            key = _OUTBOX_KEY.pack(self.partition, OUTBOX_TAG, self._number, len(chunks))
            chunks.append((key, _encode(box)))
        kept, self._outbox = self._outbox, []
        return (
            chunks,
            [e for box in kept for e in box.ledger] + output.provisional + output.final,
            [c for box in kept for c in box.costs] + output.costs,
        )

    def _restore(self) -> None:
        ledger: list[tuple[bytes, bytes]] = []
        panes: list[bytes] = []
        outbox: list[tuple[bytes, bytes]] = []
        committed = Committed()
        for key, value in list(self._stored.items()):
            if partition_of(key) != self.partition or not value:
                continue
            tag = key[2:3]
            if tag == PANE_TAG:
                panes.append(key)
            elif tag in {WINDOW_TAG, SEGMENT_TAG}:
                ledger.append((key, value))
            elif tag == OUTBOX_TAG:
                outbox.append((key, value))
            elif tag == COMMIT_TAG:
                committed = _decode_commit(value)
        self._offset = self._delivered = committed.offset
        self._requests_us, self._engines_us = committed.requests_us, committed.engines_us
        self._settled_us = committed.settled_us
        self._number = committed.number
        self.panes.restore(iter(panes))
        self.ledger.restore(ledger, committed.number, committed.offset, committed.settled_us)
        for key, value in sorted(outbox):
            box = _decode_outbox(value)
            self._outbox_keys.append(key)
            self._number = max(self._number, box.number)
            if box.number > committed.number:
                self._outbox.append(box)
