"""Idempotent producers: a resend is recognised, whatever the sequence wraps to."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from embedded.broker import batches
from embedded.broker.batch_header import BatchHeader
from embedded.broker.codes import ErrorCode
from embedded.broker.producers import NEW, ProducerStates
from tests.embedded.broker.test_log import NOW_MS, open_log

WRAP = 1 << 31


def header(producer_id: int, sequence: int, count: int = 1, epoch: int = 0) -> BatchHeader:
    return BatchHeader(
        0, 49, 0, 2, 0, 0, count - 1, NOW_MS, NOW_MS, producer_id, epoch, sequence, count
    )


@given(
    start=st.sampled_from([0, 5, WRAP - 3, WRAP - 1]),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=12),
)
def test_the_last_five_batches_are_recognised(start: int, counts: list[int]) -> None:
    states = ProducerStates()
    sequence, offset, sent = start, 0, []
    for count in counts:
        batch = header(7, sequence, count)
        assert states.judge(batch) == NEW
        states.remember(batch, offset)
        sent.append((batch, offset))
        sequence, offset = (sequence + count) % WRAP, offset + count
    for batch, at in sent[-5:]:
        assert states.judge(batch).duplicate_of == at
    for batch, _ in sent[:-5]:
        if batch.base_sequence != sequence:
            assert states.judge(batch).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    gap = header(7, (sequence + 1) % WRAP)
    if all((b.base_sequence, b.record_count) != (gap.base_sequence, 1) for b, _ in sent[-5:]):
        assert states.judge(gap).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_epochs() -> None:
    states = ProducerStates()
    states.remember(header(7, 0, epoch=1), 0)
    assert states.judge(header(7, 1, epoch=0)).error is ErrorCode.INVALID_PRODUCER_EPOCH
    assert states.judge(header(7, 0, epoch=2)) == NEW
    assert states.judge(header(7, 3, epoch=2)).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert states.judge(header(8, 99)) == NEW  # unknown producers may start anywhere
    assert states.judge(header(7, -1)).error is ErrorCode.INVALID_RECORD


def test_the_least_recent_producer_is_forgotten() -> None:
    states = ProducerStates(max_producers=2)
    for producer_id in (1, 2, 1, 3):
        states.remember(header(producer_id, len(states)), 0)
    assert len(states) == 2
    assert states.judge(header(2, 77)) == NEW
    assert states.judge(header(1, 77)) != NEW


def test_the_state_is_rebuilt_from_the_log(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"segment.bytes": "1024"})

    def batch(sequence: int) -> bytes:
        return batches.build(
            [(b"k", b"v" * 100, NOW_MS)],
            producer_id=7,
            producer_epoch=0,
            base_sequence=sequence,
        )

    for sequence in range(12):
        assert log.append(batch(sequence), NOW_MS).base_offset == sequence
    log.close()
    log = open_log(tmp_path, {"segment.bytes": "1024"})
    assert log.append(batch(11), NOW_MS).base_offset == 11
    assert log.append(batch(8), NOW_MS).base_offset == 8
    assert log.append(batch(13), NOW_MS).error is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert log.append(batch(12), NOW_MS).base_offset == 12
    assert log.next_offset == 13
    log.close()
