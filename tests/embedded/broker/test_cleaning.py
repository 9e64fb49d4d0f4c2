"""Retention and compaction against models, and a compaction that is cut short at any point."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.broker import batch_header, batches, compaction
from embedded.broker.codes import ErrorCode
from embedded.broker.log import PartitionLog
from embedded.broker.retention import expired_count
from embedded.broker.topic_config import TopicConfig, check_overrides
from tests.embedded.broker.test_log import NOW_MS, open_log

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Facts:
    size_bytes: int
    max_timestamp_ms: int


FACTS = st.builds(Facts, st.integers(1, 100), st.integers(0, 1_000))


@given(
    segments=st.lists(FACTS, min_size=1, max_size=10),
    retention_ms=st.integers(-1, 1_000),
    retention_bytes=st.integers(-1, 500),
)
def test_retention_keeps_what_it_must_and_no_segment_more(
    segments: list[Facts], retention_ms: int, retention_bytes: int
) -> None:
    now_ms = 1_000
    config = TopicConfig(
        {"retention.ms": str(retention_ms), "retention.bytes": str(retention_bytes)}
    )
    count = expired_count(segments, config, now_ms)
    kept = segments[count:]
    if retention_ms < 0 and retention_bytes < 0:
        assert count == 0
    if kept:  # the first one that stays is young, and needed for the size
        if retention_ms >= 0:
            assert now_ms - kept[0].max_timestamp_ms <= retention_ms
        if retention_bytes >= 0:
            assert sum(s.size_bytes for s in kept[1:]) < retention_bytes
    for dropped_upto in range(count):
        first, rest = segments[dropped_upto], segments[dropped_upto + 1 :]
        old = 0 <= retention_ms < now_ms - first.max_timestamp_ms
        assert old or sum(s.size_bytes for s in rest) >= retention_bytes >= 0


def test_a_compacted_topic_is_not_expired() -> None:
    config = TopicConfig({"cleanup.policy": "compact", "retention.ms": "1"})
    assert expired_count([Facts(1, 0)], config, 10_000) == 0


# -- compaction ------------------------------------------------------------------------------


def compact(
    log: PartitionLog, clean_until: int = 0, now_ms: int = NOW_MS
) -> compaction.Cleaned | None:
    work = compaction.plan(log, clean_until, log.config, now_ms)
    return compaction.clean(work, lambda: False) if work else None


def pairs(log: PartitionLog) -> list[tuple[int, bytes | None, bytes | None]]:
    found = []
    offset = log.start_offset
    while data := log.read(offset, 1 << 20, at_least_one=True):
        for header, batch in batches.walk(data):
            assert batches.crc_matches(batch, header)
            found += [(r.offset, r.key, r.value) for r in batches.records(batch)]
            offset = header.last_offset + 1
    return found


RECORDS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.binary(max_size=60)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(written=RECORDS, codec=st.sampled_from([0, 1, 2, 3, 4]), passes=st.integers(1, 3))
def test_compaction_keeps_the_latest_record_of_each_key_at_its_offset(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[list[tuple[bytes, bytes]]],
    codec: int,
    passes: int,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    overrides = {
        "cleanup.policy": "compact",
        "segment.bytes": "1024",
        "min.cleanable.dirty.ratio": "0.0",
    }
    log = open_log(directory, overrides)
    model: list[tuple[int, bytes, bytes]] = []
    clean_until = 0
    share = -(-len(written) // passes)
    for part in range(passes):
        for values in written[part * share : (part + 1) * share]:
            batch = batches.build([(k, v, NOW_MS - 10) for k, v in values], compression=codec)
            assert log.append(batch, NOW_MS).error is ErrorCode.NONE
            model += [(len(model) + i, k, v) for i, (k, v) in enumerate(values)]
        log.roll(NOW_MS)
        cleaned = compact(log, clean_until)
        if cleaned is not None:
            assert log.replace(cleaned.outputs)
            clean_until = cleaned.clean_until
    latest = {key: offset for offset, key, _ in model}
    expected = [(o, k, v) for o, k, v in model if latest[k] == o]
    assert pairs(log) == expected
    assert log.next_offset == len(model)
    log.close()
    reopened = open_log(directory, overrides)
    assert pairs(reopened) == expected
    assert reopened.next_offset == len(model)
    reopened.close()


def tombstoned(directory: Path) -> PartitionLog:
    log = open_log(
        directory,
        {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.0",
            "delete.retention.ms": str(DAY_MS),
        },
    )
    log.append(batches.build([(b"a", b"1", NOW_MS), (b"b", b"1", NOW_MS)]), NOW_MS)
    log.append(batches.build([(b"a", None, NOW_MS)]), NOW_MS)
    log.roll(NOW_MS)
    written_s = NOW_MS / 1000
    os.utime(log.segments[0].path, (written_s, written_s))
    return log


def test_a_tombstone_is_seen_for_its_time_and_then_goes(tmp_path: Path) -> None:
    log = tombstoned(tmp_path)
    cleaned = compact(log)
    assert cleaned is not None
    log.replace(cleaned.outputs)
    assert pairs(log) == [(1, b"b", b"1"), (2, b"a", None)]

    def next_pass(now_ms: int, clean_until: int) -> int:
        log.append(batches.build([(b"c", b"%d" % now_ms, NOW_MS)]), now_ms)
        log.roll(now_ms)
        work = compaction.plan(log, clean_until, log.config, now_ms)
        assert work is not None
        again = compaction.clean(work, lambda: False)
        log.replace(again.outputs)
        return again.clean_until

    log.config = TopicConfig({**log.config.overrides, "segment.bytes": "1024"})
    clean_until = next_pass(NOW_MS + DAY_MS - 1, cleaned.clean_until)
    assert (2, b"a", None) in pairs(log)
    next_pass(NOW_MS + 400 * DAY_MS, clean_until)
    assert [(key, value) for _, key, value in pairs(log) if key != b"c"] == [(b"b", b"1")]
    log.close()


def test_a_tombstone_is_kept_by_the_first_pass_however_old_it_is(tmp_path: Path) -> None:
    log = tombstoned(tmp_path)
    cleaned = compact(log, now_ms=NOW_MS + 400 * DAY_MS)
    assert cleaned is not None
    log.replace(cleaned.outputs)
    assert pairs(log) == [(1, b"b", b"1"), (2, b"a", None)]
    log.close()


def test_a_young_segment_in_the_middle_is_never_swallowed(tmp_path: Path) -> None:
    """Outputs cover every offset between their ends, so the segments must be a prefix."""
    log = open_log(
        tmp_path,
        {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.0",
            "min.compaction.lag.ms": "1000",
        },
    )
    for value, at_ms in ((b"old", NOW_MS - 9_000), (b"young", NOW_MS), (b"old2", NOW_MS - 9_000)):
        log.append(batches.build([(value, value, at_ms)]), NOW_MS)
        log.roll(NOW_MS)
    cleaned = compact(log)
    assert cleaned is not None
    log.replace(cleaned.outputs)
    assert [key for _, key, _ in pairs(log)] == [b"old", b"young", b"old2"]
    log.close()


def test_a_compaction_that_was_overtaken_is_dropped(tmp_path: Path) -> None:
    log = tombstoned(tmp_path)
    cleaned = compact(log)
    assert cleaned is not None
    log.append(batches.build([(b"z", b"z", NOW_MS)]), NOW_MS)
    log.delete_before(3)
    assert not log.replace(cleaned.outputs)
    assert pairs(log) == [(3, b"z", b"z")]
    assert not list(tmp_path.glob("*.cleaned"))
    log.close()


def test_a_stopping_broker_does_not_wait_for_a_compaction(tmp_path: Path) -> None:
    log = tombstoned(tmp_path)
    work = compaction.plan(log, 0, log.config, NOW_MS)
    assert work is not None
    with pytest.raises(compaction.Stopped):
        compaction.clean(work, lambda: True)
    log.close()


@pytest.mark.parametrize("killed_at", ["writing", "renamed", "half deleted", "deleted"])
def test_a_compaction_cut_short_is_undone_or_finished(tmp_path: Path, killed_at: str) -> None:
    overrides = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.0"}
    log = open_log(tmp_path / "live", overrides)
    for round_number in range(3):
        for key in (b"a", b"b"):
            log.append(batches.build([(key, b"%d" % round_number, NOW_MS)]), NOW_MS)
            log.roll(NOW_MS)
    before = pairs(log)
    cleaned = compact(log)
    assert cleaned is not None
    (output,) = cleaned.outputs
    after = [(4, b"a", b"2"), (5, b"b", b"2")]
    if killed_at != "writing":
        swap = f"{output.base_offset:020d}-{output.end_offset:020d}.swap"
        output.path.rename(tmp_path / "live" / swap)
    covered = [s.path for s in log.segments if s.base_offset < output.end_offset]
    for path in covered[: {"half deleted": 3, "deleted": 6}.get(killed_at, 0)]:
        path.unlink()
    log.close()
    shutil.copytree(tmp_path / "live", tmp_path / "copy")
    reopened = open_log(tmp_path / "copy", overrides)
    assert pairs(reopened) == (before if killed_at == "writing" else after)
    assert reopened.next_offset == 6
    left = sorted(p.name for p in (tmp_path / "copy").iterdir())
    bases = [*range(7)] if killed_at == "writing" else [0, 6]
    assert left == [f"{base:020d}.log" for base in bases]
    reopened.close()


def test_a_record_without_a_key_has_no_place_in_a_compacted_topic(tmp_path: Path) -> None:
    log = open_log(tmp_path, {"cleanup.policy": "compact"})
    keyless = batches.build([(b"k", b"v", NOW_MS), (None, b"v", NOW_MS)])
    assert log.append(keyless, NOW_MS).error is ErrorCode.INVALID_RECORD
    log.close()


def test_a_batch_that_cannot_be_decoded_harms_nobody(tmp_path: Path) -> None:
    batch = bytearray(batches.build([(b"k", b"v" * 100, NOW_MS)]))
    batch[batch_header.HEADER_BYTES :] = os.urandom(len(batch) - batch_header.HEADER_BYTES)
    header = batch_header.read_header(batch)
    batch_header.HEADER.pack_into(batch, 0, *header._replace(attributes=1))  # "gzip"
    poison = batches.stamp(batch, NOW_MS)  # with a true checksum
    log = open_log(tmp_path, {"min.cleanable.dirty.ratio": "0.0"})
    assert log.append(poison, NOW_MS).error is ErrorCode.NONE  # opaque here
    assert log.offset_for_time(NOW_MS) == (NOW_MS, 0)
    log.config = TopicConfig({**log.config.overrides, "cleanup.policy": "compact"})
    assert log.append(poison, NOW_MS).error is ErrorCode.CORRUPT_MESSAGE
    for value in (b"1", b"2"):
        log.append(batches.build([(b"k", value, NOW_MS)]), NOW_MS)
    log.roll(NOW_MS)
    cleaned = compact(log)
    assert cleaned is not None
    assert log.replace(cleaned.outputs)
    left = [header.base_offset for header, _ in batches.walk(log.read(0, 9_999, at_least_one=True))]
    assert left == [0, 2]
    log.close()


def test_compaction_waits_for_its_ratio_but_not_for_ever(tmp_path: Path) -> None:
    log = open_log(
        tmp_path,
        {
            "cleanup.policy": "compact",
            "min.cleanable.dirty.ratio": "0.9",
            "max.compaction.lag.ms": str(DAY_MS),
        },
    )
    for i in range(10):
        log.append(batches.build([(b"%d" % i, b"x" * 100, NOW_MS)]), NOW_MS)
        log.roll(NOW_MS)
    written_s = NOW_MS / 1000
    for segment in log.segments:
        os.utime(segment.path, (written_s, written_s))
    two_of_ten = 8
    assert compaction.plan(log, two_of_ten, log.config, NOW_MS + DAY_MS - 1) is None
    assert compaction.plan(log, two_of_ten, log.config, NOW_MS + DAY_MS) is not None
    assert compaction.plan(log, 10, log.config, NOW_MS + 2 * DAY_MS) is None  # nothing is dirty
    log.close()


@pytest.mark.parametrize(
    "overrides",
    [
        {"cleanup.policy": "burn"},
        {"retention.ms": "-2"},
        {"retention.ms": None},
        {"segment.bytes": str(1 << 40)},
        {"min.cleanable.dirty.ratio": "2"},
        {"no.such.key": "1"},
    ],
)
def test_settings_that_make_no_sense_are_named(overrides: dict[str, str | None]) -> None:
    reason = check_overrides(overrides)
    assert reason is not None
    assert next(iter(overrides)) in reason
