"""The log against a model: what is appended is read, by whole batches, also after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedded.broker import batch_header, batches
from embedded.broker.codes import ErrorCode
from embedded.broker.log import PartitionLog
from embedded.broker.topic_config import TopicConfig

NOW_MS = 1_800_000_000_000


def open_log(
    directory: Path,
    overrides: Mapping[str, str] | None = None,
    *,
    clean: bool = False,
    start_offset: int = 0,
) -> PartitionLog:
    return PartitionLog(
        directory,
        TopicConfig(overrides or {}),
        clean_shutdown=clean,
        start_offset=start_offset,
        now_ms=NOW_MS,
    )


def one(*values: bytes, at_ms: int = NOW_MS) -> bytes:
    return batches.build([(b"k", value, at_ms) for value in values])


def everything(log: PartitionLog, max_bytes: int = 1 << 20) -> list[tuple[int, bytes | None]]:
    """Read as a consumer does: fetch, skip what is before the offset, go on."""
    found: list[tuple[int, bytes | None]] = []
    offset = log.start_offset
    while offset < log.next_offset:
        data = log.read(offset, max_bytes, at_least_one=True)
        read = [r for _, b in batches.walk(data) for r in batches.records(b) if r.offset >= offset]
        if not read:
            break
        found += [(r.offset, r.value) for r in read]
        offset = read[-1].offset + 1
    return found


BATCHES = st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=5), max_size=30)
ROOMY = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@ROOMY
@given(
    written=BATCHES,
    max_bytes=st.integers(1, 3_000),
    reopen=st.sampled_from(["no", "killed", "clean"]),
    delete_before=st.integers(0, 100),
)
def test_the_log_equals_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[list[bytes]],
    max_bytes: int,
    reopen: str,
    delete_before: int,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = open_log(directory, {"segment.bytes": "1024"})
    model: list[bytes] = []
    for values in written:
        appended = log.append(one(*values), NOW_MS)
        assert appended.base_offset == len(model)
        model += values
    log.delete_before(delete_before)
    start = min(delete_before, len(model))
    if reopen != "no":
        log.close()
        log = open_log(
            directory, {"segment.bytes": "1024"}, clean=reopen == "clean", start_offset=start
        )
    assert (log.start_offset, log.next_offset) == (start, len(model))
    assert everything(log, max_bytes) == list(enumerate(model))[start:]
    assert log.append(one(b"next"), NOW_MS).base_offset == len(model)
    log.close()


@ROOMY
@given(
    written=BATCHES.filter(bool),
    cut_bytes=st.integers(0, 400),
    noise=st.binary(max_size=100),
    flip=st.none() | st.integers(1, 60),
)
def test_a_torn_tail_costs_only_what_is_torn(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[list[bytes]],
    cut_bytes: int,
    noise: bytes,
    flip: int | None,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = open_log(directory)
    ends = []  # (file size, next offset) after each batch
    for values in written:
        log.append(one(*values), NOW_MS)
        ends.append((log.size_bytes, log.next_offset))
    log.close()
    path = directory / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    sound_bytes = max(len(data) - cut_bytes, 0)
    data = data[:sound_bytes] + noise
    if flip is not None and flip <= sound_bytes:
        data[sound_bytes - flip] ^= 0x55
        sound_bytes -= flip
    path.write_bytes(data)
    survived = max((offset for size, offset in ends if size <= sound_bytes), default=0)
    log = open_log(directory)
    model = list(enumerate([value for values in written for value in values]))
    # Offsets and epochs lie outside the CRC, so a flip there may keep a batch more: never less.
    assert log.next_offset >= survived
    assert everything(log)[:survived] == model[:survived]
    if flip is None and not noise:
        assert log.next_offset == survived
    log.append(one(b"next"), NOW_MS)
    assert everything(log)[-1][1] == b"next"
    log.close()


def test_what_cannot_be_appended_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"max.message.bytes": "200"})
    good = one(b"v")
    header = batch_header.read_header(good)
    cases = {
        b"": ErrorCode.CORRUPT_MESSAGE,
        good[:60]: ErrorCode.CORRUPT_MESSAGE,
        good[:-1]: ErrorCode.CORRUPT_MESSAGE,
        good[:-1] + b"\x01": ErrorCode.CORRUPT_MESSAGE,
        good + good: ErrorCode.INVALID_RECORD,
        one(b"x" * 300): ErrorCode.MESSAGE_TOO_LARGE,
        good[:16] + b"\x01" + good[17:]: ErrorCode.CORRUPT_MESSAGE,  # format v1
    }
    for batch, error in cases.items():
        assert log.append(batch, NOW_MS).error is error
    lying = bytearray(good)
    batch_header.HEADER.pack_into(lying, 0, *header._replace(last_offset_delta=5))
    resealed = batches.stamp(lying, NOW_MS)  # the CRC is right, the count is not
    assert log.append(resealed, NOW_MS).error is ErrorCode.INVALID_RECORD
    assert log.next_offset == 0
    assert log.size_bytes == 0


@pytest.mark.parametrize(
    ("flag", "error"),
    [
        (batch_header.TRANSACTIONAL, ErrorCode.INVALID_TXN_STATE),
        (batch_header.CONTROL, ErrorCode.INVALID_RECORD),
        (5, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    ],
)
def test_batches_of_kinds_that_are_not_kept_here(
    tmp_path: Path, flag: int, error: ErrorCode
) -> None:
    batch = bytearray(one(b"v"))
    header = batch_header.read_header(batch)
    batch_header.HEADER.pack_into(batch, 0, *header._replace(attributes=flag))
    log = open_log(tmp_path)
    assert log.append(batches.stamp(batch, NOW_MS), NOW_MS).error is error


def test_a_full_disk_is_an_answer_and_not_a_torn_log(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(one(b"first"), NOW_MS)
    log.close()
    path = tmp_path / f"{0:020d}.log"
    target = Path("/dev/full")
    if not target.exists():
        pytest.skip("needs /dev/full")
    path.rename(tmp_path / "kept")
    path.symlink_to(target)
    assert log.append(one(b"second"), NOW_MS).error is ErrorCode.KAFKA_STORAGE_ERROR
    assert log.next_offset == 1


def test_times_are_found_although_they_are_not_sorted(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"segment.bytes": "1024"})
    times = [NOW_MS + delta for delta in (5, 3, 9, 1, 7, 20, 2)] * 4
    for first in range(0, len(times), 2):  # two records a batch
        pair = [(b"k", b"v" * 50, at_ms) for at_ms in times[first : first + 2]]
        log.append(batches.build(pair), NOW_MS)
    assert len(log.segments) > 1
    for wanted in range(NOW_MS - 1, NOW_MS + 22):
        expected = next(((t, i) for i, t in enumerate(times) if t >= wanted), (-1, -1))
        assert log.offset_for_time(wanted) == expected
    log.delete_before(6)
    assert log.offset_for_time(NOW_MS) == (NOW_MS + 2, 6)
    log.delete_before(7)  # in the middle of a batch
    assert log.offset_for_time(NOW_MS) == (NOW_MS + 5, 7)
    log.close()


def test_segments_roll_by_age_though_nothing_is_appended(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"segment.ms": "1000"})

    def bases() -> list[int]:
        return [segment.base_offset for segment in log.segments]

    log.append(one(b"a"), NOW_MS)
    log.append(one(b"b"), NOW_MS + 999)
    assert bases() == [0]
    log.append(one(b"c"), NOW_MS + 1_000)
    assert bases() == [0, 2]
    log.roll_if_aged(NOW_MS + 1_999)
    assert bases() == [0, 2]
    log.roll_if_aged(NOW_MS + 2_000)
    assert bases() == [0, 2, 3]
    log.roll_if_aged(NOW_MS + 9_999)  # an empty segment has no age
    assert bases() == [0, 2, 3]
    log.close()


def test_append_time_is_stamped_with_a_true_checksum(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"message.timestamp.type": "LogAppendTime"})
    appended = log.append(one(b"v", at_ms=5), NOW_MS)
    assert appended.append_time_ms == NOW_MS
    ((header, batch),) = batches.walk(log.read(0, 1 << 20, at_least_one=True))
    assert batches.crc_matches(batch, header)
    assert [r.timestamp_ms for r in batches.records(batch)] == [NOW_MS]
    log.close()
