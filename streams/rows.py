"""Records as rows of ClickHouse tables: which table, which columns, in which unit.

One rule maps them all: a field that ends in ``_us`` and is an instant loses the suffix, because
the column is a DateTime; everything else keeps its name. Tables that record what arrived carry the
message's partition and offset. Panes hold sketch states, which only the row format takes as they
are, so this file encodes them as RowBinary. It refuses to talk to a server.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from redline.records import (
    ActionEvent,
    AlertEvent,
    AuditEntry,
    CollectorCount,
    DeadLetter,
    DeployEvent,
    EngineSample,
    GpuSample,
    LedgerEntry,
    Pane,
    ProbeResult,
    Record,
    RequestCost,
    RequestRecord,
    Signal,
)
from redline.sketch import DDSketch

INSTANTS = {
    "ts_us", "ts_arrival_us", "ts_end_us", "start_us", "window_start_us", "window_end_us",
    "breached_at_us", "started_at_us", "expires_at_us",
}  # fmt: skip
_WHOLE_SECONDS = {"start_us", "window_start_us", "window_end_us"}
SOURCE_COLUMNS = ("src_partition", "src_offset")


class Table(NamedTuple):
    """A table that records of one type go to. ``sourced``: rows carry partition and offset."""

    name: str
    record: type[Record]
    sourced: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names, in the order of the record's fields."""
        names = tuple(column_of(field) for field in self.record.__struct_fields__)
        return names + SOURCE_COLUMNS if self.sourced else names


TABLES: dict[type[Record], Table] = {
    table.record: table
    for table in (
        Table("requests", RequestRecord, True),
        Table("engine_samples", EngineSample, True),
        Table("gpu_samples", GpuSample, True),
        Table("probes", ProbeResult, True),
        Table("deploys", DeployEvent, True),
        Table("dead_letters", DeadLetter, True),
        Table("collector_counts", CollectorCount, True),
        Table("signals", Signal, True),
        Table("alerts", AlertEvent, True),
        Table("actions", ActionEvent, True),
        Table("audit", AuditEntry, True),
        Table("panes", Pane, False),
        Table("ledger", LedgerEntry, False),
        Table("request_costs", RequestCost, False),
    )
}


def column_of(field: str) -> str:
    """The column that a record's field is stored in."""
    return field.removesuffix("_us") if field in INSTANTS else field


def to_columns(records: Sequence[Record], source: tuple[int, int] | None = None) -> list[list[Any]]:
    """One list per column of the table, for records of one type; ``source``: partition, offset."""
    table = TABLES[type(records[0])]
    columns: list[list[Any]] = []
    for field in table.record.__struct_fields__:
        values = [getattr(record, field) for record in records]
        if field in _WHOLE_SECONDS:
            values = [value // 1_000_000 for value in values]
        columns.append(values)
    if source is not None:
        columns += [[part] * len(records) for part in source]
    return columns


_EMPTY_STATE = DDSketch().to_bytes()
_PANE_LABELS = ("model", "version", "region", "tenant")
_PANE_NUMBERS = (
    "revision", "requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens",
    "preemptions", "queue_us", "prefill_us", "decode_us", "cost_nusd",
)  # fmt: skip
PANE_COLUMNS = (
    "start", *_PANE_LABELS, "source_partition", *_PANE_NUMBERS, "e2e_sketch", "ttft_sketch",
)  # fmt: skip
_PANE_HEAD = struct.Struct("<I")
_PANE_BODY = struct.Struct("<HQQQQQQQQQQq")


def panes_row_binary(panes: Sequence[Pane]) -> bytes:
    """Panes in ``PANE_COLUMNS`` order as RowBinary; a sketch state is written as it is."""
    out = bytearray()
    for pane in panes:
        out += _PANE_HEAD.pack(pane.start_us // 1_000_000)
        for name in _PANE_LABELS:
            _put_string(out, getattr(pane, name).encode())
        out += _PANE_BODY.pack(
            pane.source_partition, *(getattr(pane, name) for name in _PANE_NUMBERS)
        )
        out += pane.e2e_sketch or _EMPTY_STATE
        out += pane.ttft_sketch or _EMPTY_STATE
    return bytes(out)


def _put_string(out: bytearray, data: bytes) -> None:
    length = len(data)
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    out += data
