from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.simulator.request_log import RequestLog, last_seq


def line(seq: int) -> bytes:
    return json.dumps({"type": "request", "seq": seq, "filler": "x" * 80}).encode()


def seqs(folder: Path) -> list[int]:
    """All sequence numbers of an instance, oldest file first."""
    files = sorted(folder.iterdir(), key=lambda path: -int(path.suffix[1:].replace("ndjson", "0")))
    return [json.loads(row)["seq"] for path in files for row in path.read_bytes().splitlines()]


def test_lines_go_to_their_instance_s_file(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, ["a", "b"])
    for instance in ("a", "b", "a"):
        log.append(instance, line(log.next_seq(instance)))
    log.close()
    assert seqs(tmp_path / "a") == [1, 2]
    assert seqs(tmp_path / "b") == [1]
    assert (log.written, log.dropped) == (3, 0)


def test_sequence_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        log = RequestLog(tmp_path, ["a"])
        for _ in range(4):
            log.append("a", line(log.next_seq("a")))
        log.close()
    assert seqs(tmp_path / "a") == list(range(1, 13))


def test_rotation_renames_and_loses_nothing(tmp_path: Path) -> None:
    total = 0
    for _ in range(6):  # a batch is never split, so several batches are needed
        log = RequestLog(tmp_path, ["a"], rotate_bytes=1500, keep=16)
        for _ in range(10):
            total += 1
            log.append("a", line(log.next_seq("a")))
        log.close()
    assert seqs(tmp_path / "a") == list(range(1, total + 1))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names[:3] == ["requests.ndjson", "requests.ndjson.1", "requests.ndjson.2"]


def test_the_oldest_file_goes_when_there_are_too_many(tmp_path: Path) -> None:
    for _ in range(6):
        log = RequestLog(tmp_path, ["a"], rotate_bytes=500, keep=2)
        for _ in range(10):
            log.append("a", line(log.next_seq("a")))
        log.close()
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["requests.ndjson", "requests.ndjson.1", "requests.ndjson.2"]
    assert seqs(tmp_path / "a") == list(range(31, 61))


@pytest.mark.parametrize("torn", [b'{"type":"request","seq":3,"fil', b"", b"noise\n"])
def test_a_torn_last_line_is_closed_and_skipped(tmp_path: Path, torn: bytes) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "requests.ndjson").write_bytes(line(1) + b"\n" + line(2) + b"\n" + torn)
    assert last_seq(folder) == 2
    log = RequestLog(tmp_path, ["a"])
    log.append("a", line(log.next_seq("a")))
    log.close()
    rows = (folder / "requests.ndjson").read_bytes().splitlines()
    assert json.loads(rows[-1])["seq"] == 3
    assert rows[:2] == [line(1), line(2)]


def test_the_last_number_is_found_where_the_file_was_just_rotated(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "requests.ndjson").touch()
    (folder / "requests.ndjson.1").write_bytes(line(41) + b"\n")
    assert last_seq(folder) == 41
    assert last_seq(tmp_path / "nobody") == 0


def test_closing_twice_is_safe(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, ["a"])
    log.close()
    log.close()
    assert log.written == 0
