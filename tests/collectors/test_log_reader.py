"""Log readers on real files: whatever the writer does, each line comes out once and in order."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.batches import Limits
from collectors.checkpoint import FileKey, Mark, find, merge, read_sources
from collectors.directories import DirectoryScan, log_directories
from collectors.log_reader import FORGET_US, LOST_US, LogReader
from collectors.rotation import Listed, head_of, parse_name, reading_order
from redline.codec import decode_batch, decode_json, encode_json
from redline.errors import ConfigFault
from redline.ports import Message
from redline.records import DeadLetter, RequestRecord
from redline.settings import CollectorSettings
from redline.topics import REQUESTS
from tests.collectors.log_writer import LogWriter, record


class Bench:
    """One log, a reader that can be killed, and a Kafka that is a list."""

    def __init__(self, folder: Path, records_max: int = 3, held_bytes_max: int = 1 << 30) -> None:
        self.writer = LogWriter(folder, "e")
        self.scan = DirectoryScan([folder], "*.ndjson*")
        self.kafka: list[Message] = []
        self.marks: dict[FileKey, Mark] = {}
        self.now_us = 1_000_000
        self.lost_lines = 0
        self.lost_files = 0
        self.truncations = 0
        self._limits = Limits(records_max, 1_000)
        self._held_bytes_max = held_bytes_max
        self.reader = self._new_reader()

    def _new_reader(self) -> LogReader:
        name = str(self.writer.path)
        return LogReader(name, self._limits, self._held_bytes_max, self._published_to)

    def _published_to(self, key: FileKey) -> Mark | None:
        return find(self.marks, key)  # whatever the marks are then

    def list_files(self) -> None:
        listed = self.scan.list_files().get(str(self.writer.path), ())
        self.reader.adopt(listed, self.now_us)
        self.lost_files += self.reader.lost_files
        self.truncations += self.reader.truncations
        self.reader.lost_files = self.reader.truncations = 0

    def step(self, *, die_after: int | None = None) -> bool:
        """One step, published; ``die_after`` so many messages the process is killed."""
        step = self.reader.step(self.now_us)
        self.lost_lines += step.reading.lost_lines if step.reading else 0
        for number, outgoing in enumerate(step.outgoing):
            if number == die_after:
                break
            self.kafka.append(outgoing.message)
            if die_after is None:
                self.marks = merge(self.marks, [outgoing.mark])
        return step.progressed

    def kill(self) -> None:
        """Marks that were not saved are gone; what Kafka has tells them."""
        self.reader.close()
        self.marks = merge({}, [s for m in self.kafka for s in read_sources(m.headers)])
        self.reader = self._new_reader()

    def drain(self) -> None:
        self.list_files()
        while self.step():
            pass
        self.now_us += 10_000
        self.list_files()
        while self.step():
            pass
        for outgoing in self.reader.flush():
            self.kafka.append(outgoing.message)

    @property
    def numbers(self) -> list[int]:
        return [
            found.seq
            for message in self.kafka
            if message.topic is REQUESTS
            for found in decode_batch(message.value, RequestRecord)
        ]

    @property
    def letters(self) -> list[DeadLetter]:
        return [
            decode_json(message.value, DeadLetter)
            for message in self.kafka
            if message.topic is not REQUESTS
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


MOVES = ("write", "half", "bad", "rotate", "list", "step", "die", "kill", "tick")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(MOVES), max_size=60))
def test_any_schedule_of_writes_rotations_and_kills_gives_each_line_once(
    seed: int, moves: list[str]
) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        rest = b""
        bad = 0
        for move in moves:
            if move in ("write", "half", "bad", "rotate") and rest:
                bench.writer.write_bytes(rest)  # a line is finished before anything follows it
                rest = b""
            if move == "write":
                bench.writer.write(dice.randint(1, 5))
            elif move == "half":
                bench.writer.seq += 1
                line = encode_json(record("e", bench.writer.seq)) + b"\n"
                cut = dice.randint(0, len(line))
                bench.writer.write_bytes(line[:cut])
                rest = line[cut:]
            elif move == "bad":
                bad += 1
                bench.writer.seq += 1
                bench.writer.write_bytes(b'{"bad": %d}\n' % bad)
            elif move == "rotate":
                bench.writer.rotate()
            elif move == "list":
                bench.list_files()
            elif move == "step":
                bench.step()
            elif move == "die":
                bench.step(die_after=dice.randint(0, 2))
                bench.kill()
            elif move == "kill":
                bench.kill()
            else:
                bench.now_us += 700
        bench.writer.write_bytes(rest)
        bench.drain()
        bads = {letter.payload for letter in bench.letters}
        assert len(bench.letters) == len(bads) == bad
        assert bench.numbers == sorted(set(bench.numbers))
        assert len(bench.numbers) + bad == bench.writer.seq
        assert bench.lost_lines == 0
        bench.reader.close()


def test_a_file_deleted_while_it_is_read_is_read_to_its_end(bench: Bench) -> None:
    bench.writer.write(5)
    bench.list_files()
    bench.writer.write(5)
    bench.writer.rotate()
    bench.writer.path.with_name("requests.ndjson.1").unlink()
    bench.writer.write(1)
    bench.drain()
    assert bench.numbers == list(range(1, 12))


def test_a_file_deleted_before_it_was_seen_is_counted_by_its_gap(bench: Bench) -> None:
    bench.writer.write(2)
    bench.drain()
    bench.writer.rotate()
    bench.writer.write(3)
    bench.writer.rotate()
    bench.writer.path.with_name("requests.ndjson.1").unlink()
    bench.writer.write(1)
    bench.drain()
    assert bench.numbers == [1, 2, 6]
    assert bench.lost_lines == 3


def test_a_reused_inode_is_a_new_file(bench: Bench) -> None:
    bench.writer.write(3)
    bench.drain()
    inode = bench.writer.path.stat().st_ino
    bench.writer.rotate()
    bench.writer.write(1)
    bench.drain()
    assert bench.reader.unread_bytes == 0
    # the rotated file is deleted, and the file system gives its inode to the next one at once
    bench.reader.adopt((Listed(str(bench.writer.path), inode, 10, 0),), bench.now_us)
    assert bench.reader.unread_bytes == 10


def test_rotation_with_deletion_reuses_inodes_and_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer = LogWriter(tmp_path, "e", rotate_bytes=2_000, keep=2)
    for _ in range(40):
        bench.writer.write(3)
        bench.drain()
    assert bench.writer.rotations > 20
    assert bench.numbers == list(range(1, 121))
    assert (bench.lost_files, bench.truncations, bench.lost_lines) == (0, 0, 0)


@pytest.mark.parametrize("lines_after", [1, 12])
def test_truncation_is_noticed_however_long_the_file_is_again(
    bench: Bench, lines_after: int
) -> None:
    bench.writer.write(5)
    bench.drain()
    os.truncate(bench.writer.path, 0)
    bench.writer.write(lines_after)
    bench.drain()
    bench.drain()
    assert bench.numbers == list(range(1, 6 + lines_after))
    assert bench.truncations == 1


def test_a_last_line_cut_by_rotation_becomes_a_dead_letter_and_not_before(bench: Bench) -> None:
    bench.writer.write(1)
    bench.writer.write_bytes(b'{"type":"request","re')
    bench.drain()
    assert bench.letters == []
    bench.writer.rotate()
    bench.drain()
    assert bench.letters == []  # the writer may still hold the old file
    bench.writer.write(1)
    bench.drain()
    (letter,) = bench.letters
    assert letter.payload == b'{"type":"request","re'
    assert "rotated away" in letter.reason
    assert bench.numbers == [1, 2]


def test_deleted_files_are_held_up_to_a_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, held_bytes_max=4_000)
    for _ in range(4):
        bench.writer.write(5)
        bench.list_files()
        bench.writer.rotate()
    for path in tmp_path.glob("e/requests.ndjson.*"):
        path.unlink()
    bench.writer.write(1)
    bench.list_files()
    assert bench.lost_files == 3
    bench.drain()
    assert bench.numbers == [16, 17, 18, 19, 20, 21]


def test_a_file_that_vanished_unread_does_not_hold_up_the_newer_one_for_ever(bench: Bench) -> None:
    newest = (Listed(str(bench.writer.path), bench.writer.path.stat().st_ino, 0, 0),)
    ghost = Listed(str(bench.writer.path) + ".1", 2**40, 100, 1)
    bench.reader.adopt((ghost, *newest), bench.now_us)
    bench.writer.write(1)
    bench.drain()
    assert bench.numbers == []
    bench.now_us += LOST_US
    bench.drain()
    assert bench.numbers == [1]
    assert bench.lost_files == 1


def test_a_log_whose_files_are_gone_is_forgotten(bench: Bench) -> None:
    bench.writer.write(1)
    bench.drain()
    bench.writer.path.unlink()
    bench.drain()
    assert not bench.reader.is_empty
    bench.now_us += FORGET_US
    bench.list_files()
    assert bench.reader.is_empty


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("requests.ndjson", ("requests.ndjson", 0)),
        ("requests.ndjson.12", ("requests.ndjson", 12)),
        ("requests-77.ndjson.1", ("requests-77.ndjson", 1)),
        ("requests.ndjson.1.gz", ("requests.ndjson", 1)),
        ("requests.ndjson.1.zst", None),
        (".requests.ndjson", None),
    ],
)
def test_names_tell_logs_and_rotations(name: str, parsed: tuple[str, int] | None) -> None:
    assert parse_name(name) == parsed


def test_known_files_keep_their_order_whatever_a_listing_shows() -> None:
    listed = [Listed("r.1", 11, 5, 1), Listed("r", 12, 5, 0), Listed("r.2", 10, 5, 2)]
    assert reading_order((), listed) == [10, 11, 12]
    assert reading_order((11,), listed) == [11, 10, 12]
    assert reading_order((9, 10), listed[:2]) == [9, 10, 11, 12]


@given(st.binary(max_size=1500), st.binary(max_size=1500))
def test_a_head_does_not_change_while_a_file_grows(first: bytes, more: bytes) -> None:
    head = head_of(first[:1024])
    assert head is None or head == head_of((first + more)[:1024])


class Torn(DirectoryScan):
    """Each look shows what comes next: a look may fall into a rotation."""

    def __init__(self, *looks: tuple[Listed, ...]) -> None:
        super().__init__([], "*")
        self._looks = list(looks)

    def _look(self) -> dict[str, tuple[Listed, ...]]:
        return {"r": self._looks.pop(0)}


def test_a_listing_that_fell_into_a_rotation_is_taken_again() -> None:
    before = (Listed("r", 1, 9, 0),)
    torn = (Listed("r", 2, 0, 0),)  # inode 1 was renamed past the place where the look was
    after = (Listed("r", 2, 0, 0), Listed("r.1", 1, 9, 1))
    scan = Torn(before, before, torn, after, after, after)
    assert scan.list_files() == {"r": before}
    assert scan.list_files() == {"r": after}
    assert scan.list_files() == {"r": after}


def test_a_listing_from_before_the_last_step_reads_nothing_twice(bench: Bench) -> None:
    bench.writer.write(1)
    stale = bench.scan.list_files()[str(bench.writer.path)]
    bench.writer.write(1)
    bench.writer.rotate()
    bench.writer.path.touch()
    bench.list_files()
    bench.step()
    bench.step()  # the first file is read, its run is open
    bench.reader.adopt(stale, bench.now_us)
    bench.drain()
    assert bench.numbers == [1, 2]


def test_a_missing_directory_says_which_setting_and_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "logs"
    with pytest.raises(ConfigFault) as caught:
        log_directories(CollectorSettings(log_directories=[tmp_path, missing]), tmp_path)
    text = str(caught.value)
    assert "collectors.log_directories.1" in text
    assert str(missing) in text
    assert "mkdir -p" in text
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigFault, match="not a directory"):
        log_directories(CollectorSettings(log_directories=[file]), tmp_path)


def test_the_default_directory_is_created(tmp_path: Path) -> None:
    assert log_directories(CollectorSettings(), tmp_path / "d") == [tmp_path / "d" / "logs"]
    assert (tmp_path / "d" / "logs").is_dir()


def test_a_directory_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    chosen = CollectorSettings(log_directories=[tmp_path / "a", tmp_path / "b"])
    assert log_directories(chosen, tmp_path) == [tmp_path / "a"]


def test_a_directory_that_cannot_be_listed_now_keeps_its_logs(tmp_path: Path) -> None:
    LogWriter(tmp_path / "logs", "e").write(1)
    scan = DirectoryScan([tmp_path / "logs"], "*.ndjson*")
    before = scan.list_files()
    (tmp_path / "logs").rename(tmp_path / "away")
    assert scan.list_files() == before
    assert list(scan.errors) == [str(tmp_path / "logs")]
    (tmp_path / "away").rename(tmp_path / "logs")
    assert scan.list_files() == before
    assert scan.errors == {}
