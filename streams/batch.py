"""The columns of one Kafka message of requests, and which of its records can be counted at all.

Folding works on arrays, because a worker that touches every record in Python is ten times slower.
``admit`` refuses records whose numbers fit no column or whose clock runs ahead: one such record
must not block its whole message, nor push the watermark past everybody else's data. It refuses
to correct a record: what is refused goes to the dead letters as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from redline.records import RequestRecord, Series

CLOCK_AHEAD_MAX_US = 300_000_000
TS_MIN_US = 946_684_800_000_000  # 2000-01-01: anything before is not µs
LABEL_CHARS_MAX = 256
_CHARS_ABOVE = LABEL_CHARS_MAX + 1
_U16, _U32, _I63 = 2**16, 2**32, 2**63
_STAGES = (
    "queue_us", "prefill_us", "decode_us", "ttft_us", "e2e_us", "preprocess_us", "network_us",
)  # fmt: skip
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_LABELS = ("request_id", "instance", "model", "version", "region", "tenant")

# The summed columns of a pane, in the order of RequestBatch.sums.
SUM_FIELDS = (
    "requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "preemptions",
    "queue_us", "prefill_us", "decode_us",
)  # fmt: skip


class Refusal(NamedTuple):
    """A record that cannot be counted, and why."""

    record: RequestRecord
    reason: str


def admit(
    records: Sequence[RequestRecord], received_us: int
) -> tuple[list[RequestRecord], list[Refusal]]:
    """Split records into those that can be counted and those that cannot.

    ``received_us`` is when the broker took the message, so that a replay decides the same.
    """
    latest_us = received_us + CLOCK_AHEAD_MAX_US
    if _all_fit(records, latest_us):
        return list(records), []
    good: list[RequestRecord] = []
    refused: list[Refusal] = []
    for record in records:
        reason = _fault_of(record, latest_us)
        if reason:
            refused.append(Refusal(record, reason))
        else:
            good.append(record)
    return good, refused


def _all_fit(records: Sequence[RequestRecord], latest_us: int) -> bool:
    """Whether no record has any fault: the usual case, five times faster by columns."""

    def within(values: list[int], low: int, above: int) -> bool:
        return not values or (low <= min(values) and max(values) < above)

    return (
        within([r.ts_end_us for r in records], TS_MIN_US, latest_us + 1)
        and within([r.ts_arrival_us for r in records], TS_MIN_US, latest_us + 1)
        and within([r.status_code for r in records], 0, _U16)
        and within([r.preemptions for r in records], 0, _U16)
        and within([r.seq for r in records], 0, _I63)
        and within([r.dropped_before for r in records], 0, _I63)
        and all(within([getattr(r, name) for r in records], 0, _U32) for name in _TOKENS)
        and all(
            within([v for r in records if (v := getattr(r, name)) is not None], 0, _I63)
            for name in _STAGES
        )
        and all(
            within([len(label) for label in {getattr(r, name) for r in records}], 0, _CHARS_ABOVE)
            for name in _LABELS
        )
    )


def _fault_of(record: RequestRecord, latest_us: int) -> str:
    if not TS_MIN_US <= record.ts_end_us <= latest_us:
        return f"ts_end_us {record.ts_end_us} is before 2000 or more than 5 min ahead of the broker"
    if not TS_MIN_US <= record.ts_arrival_us <= latest_us:
        return f"ts_arrival_us {record.ts_arrival_us} is before 2000 or ahead of the broker"
    for name in _TOKENS:
        if not 0 <= getattr(record, name) < _U32:
            return f"{name} {getattr(record, name)} is not in [0, 2^32)"
    for name in _STAGES:
        value = getattr(record, name)
        if value is not None and not 0 <= value < _I63:
            return f"{name} {value} is not in [0, 2^63)"
    if not (0 <= record.status_code < _U16 and 0 <= record.preemptions < _U16):
        return f"status_code {record.status_code} or preemptions {record.preemptions} out of range"
    if not 0 <= record.seq < _I63:
        return f"seq {record.seq} is not in [0, 2^63)"
    if not 0 <= record.dropped_before < _I63:
        return f"dropped_before {record.dropped_before} is not in [0, 2^63)"
    for name in _LABELS:
        if len(getattr(record, name)) > LABEL_CHARS_MAX:
            return f"{name} is longer than {LABEL_CHARS_MAX} characters"
    return ""


class RequestBatch:
    """The admitted records of one message as arrays; all of length ``len(records)``, times in µs.

    ``start_us`` is the start of service (arrival plus queueing where known); ``queue_known`` says
    whether it is. ``e2e_us`` and ``ttft_us`` hold -1 for what was not measured. ``series`` are the
    distinct label sets, ``series_of`` indexes into them.
    """

    __slots__ = (
        "e2e_us", "end_us", "failed", "instances", "queue_known", "records", "series", "series_of",
        "start_us", "sums", "ttft_us",
    )  # fmt: skip

    def __init__(self, records: Sequence[RequestRecord]) -> None:
        self.records = records
        size = len(records)
        self.end_us: NDArray[np.int64] = np.fromiter((r.ts_end_us for r in records), np.int64, size)
        arrival = np.fromiter((r.ts_arrival_us for r in records), np.int64, size)
        queue = _optional([r.queue_us for r in records])
        self.e2e_us = _optional([r.e2e_us for r in records])
        self.ttft_us = _optional([r.ttft_us for r in records])
        self.queue_known: NDArray[np.bool_] = (queue >= 0) & (arrival <= self.end_us)
        self.start_us = np.minimum(arrival + np.maximum(queue, 0), self.end_us)
        self.failed: NDArray[np.bool_] = np.fromiter((r.failed for r in records), np.bool_, size)
        self.sums: NDArray[np.int64] = np.stack(
            [
                np.ones(size, np.int64),
                self.failed.astype(np.int64),
                np.array([r.prompt_tokens for r in records], np.int64),
                np.array([r.cached_tokens for r in records], np.int64),
                np.array([r.completion_tokens for r in records], np.int64),
                np.array([r.preemptions for r in records], np.int64),
                np.maximum(queue, 0),
                np.maximum(_optional([r.prefill_us for r in records]), 0),
                np.maximum(_optional([r.decode_us for r in records]), 0),
            ]
        )
        known: dict[tuple[str, str, str, str], int] = {}
        self.series_of: NDArray[np.int64] = np.fromiter(
            (
                known.setdefault((r.model, r.version, r.region, r.tenant), len(known))
                for r in records
            ),
            np.int64,
            size,
        )
        self.series = [Series(*labels) for labels in known]
        self.instances: dict[str, NDArray[np.int64]] = _positions([r.instance for r in records])

    @property
    def latest_us(self) -> int:
        """The latest end in the batch; 0 when it is empty."""
        return int(self.end_us.max()) if len(self.end_us) else 0


def _optional(values: list[int | None]) -> NDArray[np.int64]:
    return np.array([-1 if value is None else value for value in values], np.int64)


def _positions(names: list[str]) -> dict[str, NDArray[np.int64]]:
    if names and names.count(names[0]) == len(names):  # the usual case: one instance a message
        return {names[0]: np.arange(len(names))}
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    return {name: np.array(at, np.int64) for name, at in found.items()}
