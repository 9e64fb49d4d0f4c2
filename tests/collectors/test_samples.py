from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.batches import Limits
from collectors.metrics import Metrics
from collectors.sample_spool import SampleSpool
from collectors.samples import SampleBuffer, engine_entry, gpu_entry
from collectors.spool_frames import decode_frames, encode_frame
from redline.codec import decode_batch
from redline.errors import DeliveryFailed
from redline.ports import Message
from redline.records import EngineSample, GpuSample
from redline.testing.publisher import MemoryPublisher
from redline.topics import ENGINES, GPUS

LIMITS = Limits(100, 20_000)


def engine(instance: str, ts_us: int) -> EngineSample:
    return EngineSample(ts_us=ts_us, instance=instance, model="m")


def buffer_in(
    folder: Path, publisher: MemoryPublisher, metrics: Metrics, bytes_max: int = 1 << 20
) -> SampleBuffer:
    spool = SampleSpool(folder / "spool", bytes_max, segment_bytes=2_000)
    return SampleBuffer(publisher, spool, LIMITS, metrics)


def published(publisher: MemoryPublisher) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for message in publisher.of_topic(ENGINES.name):
        for sample in decode_batch(message.value, EngineSample):
            found.setdefault(sample.instance, []).append(sample.ts_us)
    return found


async def test_samples_go_out_in_batches_by_key(tmp_path: Path) -> None:
    publisher = MemoryPublisher()
    buffer = buffer_in(tmp_path, publisher, Metrics())
    for ts_us in range(3):
        buffer.add([engine_entry(engine("a", ts_us)), engine_entry(engine("b", ts_us))])
    buffer.add([gpu_entry(GpuSample(ts_us=1, host="h", gpu_uuid="g", gpu_index=0))])
    await buffer.flush()
    assert published(publisher) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert [message.key for message in publisher.of_topic(GPUS.name)] == [b"h"]
    assert len(buffer) == 0
    assert list((tmp_path / "spool").glob("*.spool")) == []


async def test_while_kafka_is_away_the_oldest_are_kept_and_drops_are_counted(
    tmp_path: Path,
) -> None:
    publisher, metrics = MemoryPublisher(), Metrics()
    buffer = buffer_in(tmp_path, publisher, metrics, bytes_max=3_000)
    stored = 0
    while not metrics.spool_full._value.get():
        buffer.add([engine_entry(engine("a", stored))])
        await buffer.store()
        stored += 1
    publisher.fail_next = 1
    with pytest.raises(DeliveryFailed):
        await buffer.publish()
    await buffer.publish()
    assert published(publisher) == {"a": list(range(stored - 1))}
    name = "redline_collectors_samples_dropped_total"
    assert metrics.registry.get_sample_value(name, {"topic": ENGINES.name}) == 1
    buffer.add([engine_entry(engine("a", stored))])
    await buffer.flush()
    assert metrics.spool_full._value.get() == 0


async def test_a_killed_collectors_samples_are_sent_by_the_next_in_order(tmp_path: Path) -> None:
    publisher = MemoryPublisher()
    for start in range(0, 90, 30):
        dead = buffer_in(tmp_path, publisher, Metrics())
        for ts_us in range(start, start + 30):
            dead.add([engine_entry(engine("a", ts_us))])
            await dead.store()
    await buffer_in(tmp_path, publisher, Metrics()).flush()
    assert published(publisher) == {"a": list(range(90))}


async def test_a_torn_or_damaged_file_costs_no_more_than_itself(tmp_path: Path) -> None:
    publisher, metrics = MemoryPublisher(), Metrics()
    dead = buffer_in(tmp_path, publisher, metrics)
    for ts_us in range(60):
        dead.add([engine_entry(engine("a", ts_us))])
        await dead.store()
    files = sorted((tmp_path / "spool").glob("*.spool"))
    assert len(files) > 3
    with files[1].open("r+b") as file:
        file.seek(9)
        file.write(b"\xff\xff")
    with files[-1].open("r+b") as file:
        file.truncate(files[-1].stat().st_size - 3)
    await buffer_in(tmp_path, publisher, metrics).flush()
    found = published(publisher)["a"]
    assert found == sorted(found)
    assert found[0] == 0
    assert len(found) > 60 - 2 * 60 // len(files) - 3
    assert metrics.spool_damaged_bytes._value.get() > 0


async def test_a_disk_that_takes_nothing_does_not_stop_what_kafka_takes(tmp_path: Path) -> None:
    publisher, metrics = MemoryPublisher(), Metrics()
    buffer = buffer_in(tmp_path, publisher, metrics)
    (tmp_path / "spool").rmdir()
    buffer.add([engine_entry(engine("a", 1))])
    await buffer.store()
    assert published(publisher) == {"a": [1]}
    publisher.fail_next = 1
    buffer.add([engine_entry(engine("a", 2))])
    await buffer.store()
    name = "redline_collectors_samples_dropped_total"
    assert metrics.registry.get_sample_value(name, {"topic": ENGINES.name}) == 1


async def test_running_it_publishes_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    publisher = MemoryPublisher()
    buffer = buffer_in(tmp_path, publisher, Metrics())
    stop, may_publish = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(buffer.run(stop, may_publish))
    buffer.add([engine_entry(engine("a", 1))])
    async with asyncio.timeout(10):
        while len(buffer):
            await asyncio.sleep(0.01)
    assert publisher.messages == {}  # Kafka's topics are not there yet
    may_publish.set()
    buffer.add([engine_entry(engine("a", 2))])
    stop.set()
    await running
    assert published(publisher) == {"a": [1, 2]}


@pytest.mark.parametrize("seed", range(5))
async def test_kills_and_failures_lose_nothing_and_only_repeat(tmp_path: Path, seed: int) -> None:
    """Each repeat begins at or before where Kafka was: nothing is skipped."""
    dice = random.Random(seed)
    publisher = MemoryPublisher()
    number = 0
    for _ in range(12):
        buffer = buffer_in(tmp_path, publisher, Metrics())
        for _ in range(dice.randint(1, 40)):
            buffer.add([engine_entry(engine("a", number))])
            number += 1
            await buffer.store()
            if dice.random() < 0.2:
                publisher.fail_next = dice.randint(0, 1)
                publisher.stored_before_failure = dice.randint(0, 3)
                try:
                    await buffer.publish()
                except DeliveryFailed:
                    continue
    publisher.fail_next = 0
    await buffer_in(tmp_path, publisher, Metrics()).flush()
    found = published(publisher)["a"]
    assert set(found) == set(range(number))
    highest = -1
    for ts_us in found:
        assert ts_us <= highest + 1
        highest = max(highest, ts_us)


message = st.builds(
    Message, st.sampled_from([ENGINES, GPUS]), st.binary(), st.binary(), headers=st.just(())
)
numbered = st.tuples(message, st.integers(0, 2000))


@given(st.lists(numbered, max_size=8), st.integers(0, 400))
def test_frames_survive_any_cut_and_a_cut_one_is_never_taken(
    messages: list[tuple[Message, int]], cut: int
) -> None:
    data = b"".join(encode_frame(*one) for one in messages)
    frames, whole = decode_frames(data[:cut], 1 << 30)
    kept = [(frame.message, frame.records) for frame in frames]
    assert kept == messages[: len(kept)]
    assert sum(frame.size_bytes for frame in frames) <= cut
    if cut >= len(data):
        assert (kept, whole) == (messages, True)
    elif whole:
        assert sum(frame.size_bytes for frame in frames) == min(cut, len(data))


@settings(max_examples=40, deadline=None)
@given(
    operations=st.lists(st.integers(0, 3), max_size=60),
    segment_bytes=st.integers(1, 400),
    bytes_max=st.integers(0, 2_000),
)
def test_the_spool_is_a_bounded_queue_through_restarts(
    tmp_path_factory: pytest.TempPathFactory,
    operations: list[int],
    segment_bytes: int,
    bytes_max: int,
) -> None:
    """0: append, 1: read all that is shown, 2: read one, 3: begin again from the disk."""
    folder = tmp_path_factory.mktemp("spool")
    spool = SampleSpool(folder, bytes_max, segment_bytes)
    waiting: list[int] = []
    done: Counter[int] = Counter()
    for number, operation in enumerate(operations):
        if operation == 0:
            one = Message(ENGINES, b"k", str(number).encode() * 9)
            if spool.append([(one, number)]):
                waiting.append(number)
            assert spool.unread_bytes <= bytes_max
        elif operation == 3:
            spool = SampleSpool(folder, bytes_max, segment_bytes)
        else:
            frames = spool.peek(1 if operation == 2 else 1 << 20)
            assert [frame.records for frame in frames] == waiting[: len(frames)]
            assert bool(frames) == bool(waiting)
            if frames:
                spool.advance(frames)
                done.update(waiting[: len(frames)])
                del waiting[: len(frames)]
    assert max(done.values(), default=1) == 1
