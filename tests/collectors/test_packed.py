"""Old files that are gzipped while a reader is up, down, behind or dead: each line once."""

from __future__ import annotations

import gzip
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.log_reader import FORGET_US
from tests.collectors.test_log_reader import Bench


def pack(bench: Bench) -> bool:
    """Gzip the oldest plain rotated file, as logrotate does; whether there was one."""
    plain = [path for path in bench.writer.path.parent.iterdir() if path.suffix[1:].isdigit()]
    if not plain:
        return False
    oldest = max(plain, key=lambda path: int(path.suffix[1:]))
    oldest.with_name(oldest.name + ".gz").write_bytes(gzip.compress(oldest.read_bytes(), 1))
    oldest.unlink()
    return True


def rotate(bench: Bench) -> None:
    """As the writer does, with the compressed ones moved first."""
    packed = bench.writer.path.parent.glob("*.gz")
    for path in sorted(packed, key=lambda path: -int(path.name.split(".")[-2])):
        number = int(path.name.split(".")[-2])
        path.rename(path.with_name(f"requests.ndjson.{number + 1}.gz"))
    bench.writer._keep = 10_000
    bench.writer.rotate()


MOVES = ("write", "rotate", "pack", "list", "step", "die", "kill", "tick", "wait", "back")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(MOVES), max_size=50))
def test_any_schedule_with_compression_gives_each_line_once(seed: int, moves: list[str]) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for move in moves:
            if move == "write":
                bench.writer.write(dice.randint(1, 5))
            elif move == "rotate":
                rotate(bench)
            elif move == "pack":
                pack(bench)
            elif move == "list":
                bench.list_files()
            elif move == "step":
                bench.step()
            elif move == "die":
                bench.step(die_after=dice.randint(0, 2))
                bench.kill()
            elif move == "kill":
                bench.kill()
            elif move == "back":
                bench.now_us -= 3_600_000_000  # somebody set the clock
            else:
                bench.now_us += 700 if move == "tick" else FORGET_US + 1
        bench.drain()
        bench.now_us += FORGET_US + 1
        bench.drain()
        bench.now_us += FORGET_US + 1
        bench.drain()
        assert sorted(bench.numbers) == list(range(1, bench.writer.seq + 1))
        bench.reader.close()


@pytest.mark.parametrize("known", [0, 4, 9])
def test_a_file_that_was_compressed_meanwhile_goes_on_where_its_mark_is(
    tmp_path: Path, known: int
) -> None:
    bench = Bench(tmp_path)
    bench.writer.write(known)
    bench.drain()
    bench.kill()
    bench.writer.write(9 - known)
    rotate(bench)
    assert pack(bench)
    bench.writer.write(2)
    bench.drain()
    assert bench.numbers == list(range(1, 12))
    bench.kill()
    bench.drain()
    assert bench.numbers == list(range(1, 12))


def test_a_copy_that_gzip_is_still_writing_is_not_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.write(5)
    rotate(bench)
    first = bench.writer.path.with_name("requests.ndjson.1")
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes())[:50])
    bench.drain()
    assert bench.numbers == [1, 2, 3, 4, 5]


def test_of_a_damaged_file_what_can_be_read_is_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.writer.write(2_000)
    rotate(bench)
    pack(bench)
    bench.writer.write(1)
    path = bench.writer.path.with_name("requests.ndjson.1.gz")
    path.write_bytes(path.read_bytes()[:-2_000])
    bench.drain()
    assert bench.numbers[:100] == list(range(1, 101))
    assert bench.numbers == sorted(set(bench.numbers))
    assert bench.numbers[-1] == 2_001
    assert bench.lost_lines > 0
