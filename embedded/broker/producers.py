"""Idempotent producers: which batch of a producer is new, which is a resend, which skips one.

Per partition and producer id, the epoch and the last five batches are remembered, as many as a
producer may have in flight. The rules are Apache Kafka's (KIP-98, KIP-360): a resend is answered
with its old offset, a gap is ``OUT_OF_ORDER_SEQUENCE_NUMBER``, an old epoch is fenced, and an
unknown producer may start anywhere. State is rebuilt from the log at start. The file refuses
transactions.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from embedded.broker.batch_header import NO_PRODUCER, BatchHeader
from embedded.broker.codes import ErrorCode

BATCHES_REMEMBERED = 5
MAX_PRODUCERS = 1_000
_SEQUENCES = 1 << 31  # sequence numbers wrap from 2³¹ - 1 to 0


@dataclass(slots=True)
class _Producer:
    epoch: int
    # (first sequence, last sequence, base offset), oldest first
    batches: deque[tuple[int, int, int]] = field(
        default_factory=lambda: deque(maxlen=BATCHES_REMEMBERED)
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a batch. ``duplicate_of`` is the offset of its first arrival."""

    error: ErrorCode = ErrorCode.NONE
    duplicate_of: int | None = None


NEW = Verdict()


def _sequences(header: BatchHeader) -> tuple[int, int]:
    first = header.base_sequence
    return first, (first + header.last_offset_delta) % _SEQUENCES


class ProducerStates:
    """The producers that wrote to one partition; the least recent is forgotten past a limit."""

    def __init__(self, max_producers: int = MAX_PRODUCERS) -> None:
        self._producers: OrderedDict[int, _Producer] = OrderedDict()
        self._max_producers = max_producers

    def __len__(self) -> int:
        return len(self._producers)

    def judge(self, header: BatchHeader) -> Verdict:
        """Whether the batch is new, a resend, or out of order. Changes nothing."""
        if header.producer_id == NO_PRODUCER:
            return NEW
        if header.base_sequence < 0 or header.producer_epoch < 0:
            return Verdict(ErrorCode.INVALID_RECORD)
        known = self._producers.get(header.producer_id)
        if known is None:
            return NEW
        if header.producer_epoch < known.epoch:
            return Verdict(ErrorCode.INVALID_PRODUCER_EPOCH)
        if header.producer_epoch > known.epoch:
            if header.base_sequence != 0:
                return Verdict(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
            return NEW
        first, last = _sequences(header)
        for old_first, old_last, offset in known.batches:
            if (old_first, old_last) == (first, last):
                return Verdict(duplicate_of=offset)
        if known.batches and first != (known.batches[-1][1] + 1) % _SEQUENCES:
            return Verdict(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
        return NEW

    def remember(self, header: BatchHeader, base_offset: int) -> None:
        """The batch is in the log at ``base_offset``."""
        if header.producer_id == NO_PRODUCER:
            return
        known = self._producers.get(header.producer_id)
        if known is None or known.epoch != header.producer_epoch:
            known = self._producers[header.producer_id] = _Producer(header.producer_epoch)
        known.batches.append((*_sequences(header), base_offset))
        self._producers.move_to_end(header.producer_id)
        if len(self._producers) > self._max_producers:
            self._producers.popitem(last=False)
