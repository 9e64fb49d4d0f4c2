from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.checkpoint import (
    SOURCE_HEADER,
    Checkpoint,
    FileKey,
    Frontier,
    Mark,
    Source,
    decode_checkpoint,
    encode_checkpoint,
    encode_source,
    merge,
    read_sources,
)
from collectors.checkpoint_file import CheckpointFile
from redline.errors import ConfigFault, RecordInvalid


def mark(inode: int, offset: int) -> Mark:
    return Mark(log="/logs/e/requests.ndjson", inode=inode, head="ab", offset=offset, seq=offset)


def test_a_checkpoint_survives_its_own_format() -> None:
    checkpoint = Checkpoint(marks=[mark(1, 10), mark(2, 0)], offsets={"t": {0: 5, 3: 7}})
    assert decode_checkpoint(encode_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize("data", [b"", b"{", b'{"marks":[{}]}', b'{"version":9}'])
def test_what_is_no_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(RecordInvalid, match="checkpoint"):
        decode_checkpoint(data)


def test_sources_of_others_are_passed_over() -> None:
    source = Source(log="l", inode=3, head="cd", start=5, offset=9, seq=2)
    headers = [("traceparent", b"00"), (SOURCE_HEADER, b"garbage"), (SOURCE_HEADER, b'{"from":1}')]
    assert read_sources([*headers, (SOURCE_HEADER, encode_source(source))]) == [source]
    assert b'"from":5' in encode_source(source)
    assert b'"to":9' in encode_source(source)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=30))
def test_merging_never_goes_back_and_ignores_order(found: list[tuple[int, int]]) -> None:
    marks = [mark(inode, offset) for inode, offset in found]
    merged = merge({}, marks)
    assert merged == merge({}, reversed(marks))
    for inode in {inode for inode, _ in found}:
        assert merged[FileKey(inode, "ab")].offset == max(at for n, at in found if n == inode)
    assert merge(merged, marks) == merged


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_reading_from_the_frontier_finds_every_message_that_is_not_in_the_marks(
    seed: int, steps: int
) -> None:
    """Publishes overlap, end in any order or never; a checkpoint may be taken at any time."""
    dice = random.Random(seed)
    frontier = Frontier({"t": {0: 0, 1: 0}})
    kafka: dict[int, list[int]] = {0: [], 1: []}  # message ids by offset
    in_flight: dict[int, tuple[int, int | None]] = {}  # ticket: message id, partition if stored
    marked: set[int] = set()
    for number in range(steps):
        move = dice.random()
        if move < 0.1:
            frontier.advance({"t": {at: len(messages) for at, messages in kafka.items()}})
        elif move < 0.4:
            in_flight[frontier.begin()] = (number, None)
        elif move < 0.7 and in_flight:
            ticket = dice.choice(list(in_flight))
            message, partition = in_flight[ticket]
            if partition is None:
                partition = dice.choice((0, 1))
                kafka[partition].append(message)
                in_flight[ticket] = (message, partition)
        elif in_flight:
            ticket = dice.choice(list(in_flight))
            message, partition = in_flight[ticket]
            if partition is not None:
                del in_flight[ticket]
                marked.add(message)
                frontier.end(ticket, [("t", partition, kafka[partition].index(message))])
        offsets = frontier.offsets()["t"]
        visible = {m for partition, at in offsets.items() for m in kafka[partition][at:]}
        stored = {m for messages in kafka.values() for m in messages}
        assert stored <= visible | marked


def test_the_file_is_replaced_as_a_whole_and_locked(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "collectors")
    assert file.load() is None
    file.save(Checkpoint(marks=[mark(1, 2)]))
    with pytest.raises(ConfigFault, match="another collectors process"):
        CheckpointFile(tmp_path / "collectors")
    file.close()
    again = CheckpointFile(tmp_path / "collectors")
    assert again.load() == Checkpoint(marks=[mark(1, 2)])
    (tmp_path / "collectors" / "checkpoint.json").write_bytes(b"\x00\x00")
    assert again.load() is None
    assert (tmp_path / "collectors" / "checkpoint.unreadable").read_bytes() == b"\x00\x00"
    assert again.load() is None
    again.close()
