# mypy: disable-error-code="import-not-found, no-any-return"
"""Numbers without gaps over restarts, rotations and torn lines; nothing written when it failed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from redline_vllm.log_file import LogFile
from redline_vllm.record import RequestRecord as Line

from redline.codec import decode_json
from redline.records import RequestRecord


def lines(count: int) -> list[Any]:
    return [
        Line(request_id=f"r{n}", seq=0, ts_arrival_us=1, ts_end_us=2, instance="i", model="m")
        for n in range(count)
    ]


def open_log(folder: Path, rotate_bytes: int = 1 << 20, keep: int = 3, rotate_s: int = 60) -> Any:
    return LogFile(folder, rotate_bytes=rotate_bytes, rotate_s=rotate_s, keep=keep)


def read(path: Path) -> list[RequestRecord]:
    return [decode_json(line, RequestRecord) for line in path.read_bytes().splitlines()]


def test_numbers_go_on_after_a_restart_and_count_what_was_dropped(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.write(lines(2), 0)
    log.write(lines(2), 5)
    log.close()
    log = open_log(tmp_path)
    log.write(lines(1), 0)
    log.close()
    records = read(log.path)
    assert [record.seq for record in records] == [1, 2, 8, 9, 10]
    assert [record.dropped_before for record in records] == [0, 0, 5, 0, 0]


def test_two_writers_of_one_instance_have_a_file_each(tmp_path: Path) -> None:
    first, second = open_log(tmp_path), open_log(tmp_path)
    assert first.path != second.path
    first.close()
    again = open_log(tmp_path)
    assert again.path == first.path
    again.close()
    second.close()


def test_rotation_keeps_the_newest_files_and_loses_no_line_between_them(tmp_path: Path) -> None:
    log = open_log(tmp_path, rotate_bytes=2_000, keep=3)
    for _ in range(20):
        log.write(lines(2), 0)
    log.close()
    names = ["requests-0.ndjson.3", "requests-0.ndjson.2", "requests-0.ndjson.1", log.path.name]
    assert sorted(path.name for path in tmp_path.glob("*.ndjson*")) == sorted(names)
    seqs = [record.seq for name in names for record in read(tmp_path / name)]
    assert seqs == list(range(seqs[0], 41))


def test_an_old_file_is_rotated_without_a_write(tmp_path: Path) -> None:
    log = open_log(tmp_path, rotate_s=0)
    log.tend()
    assert not (tmp_path / "requests-0.ndjson.1").exists()  # an empty one is not
    log.write(lines(1), 0)
    log.tend()
    assert len(read(tmp_path / "requests-0.ndjson.1")) == 1
    log.close()


def test_a_torn_last_line_stays_alone(tmp_path: Path) -> None:
    (tmp_path / "requests-0.ndjson").write_bytes(b'{"type":"request","seq":4}\n{"type":"requ')
    log = open_log(tmp_path)
    log.write(lines(1), 0)
    log.close()
    last = log.path.read_bytes().splitlines()
    assert last[1] == b'{"type":"requ'
    assert decode_json(last[2], RequestRecord).seq == 5


def test_a_file_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    log = open_log(tmp_path / "x")
    log.write(lines(1), 0)
    log.path.unlink()
    log.tend()
    log.write(lines(1), 0)
    log.close()
    assert [record.seq for record in read(log.path)] == [2]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.write(lines(1), 0)
    before = log.path.read_bytes()
    real = os.write
    room = [40]

    def full(descriptor: int, data: Any) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space"):
            log.write(lines(2), 0)
    assert log.path.read_bytes() == before
    log.write(lines(2), 3)
    log.close()
    assert [record.seq for record in read(log.path)] == [1, 5, 6]
