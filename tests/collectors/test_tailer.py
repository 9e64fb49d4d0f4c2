"""The tailer with a Kafka in memory that fails in the ways that the real one does."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collectors.batches import Limits
from collectors.checkpoint import Offsets, Source, read_sources
from collectors.checkpoint_file import CheckpointFile
from collectors.directories import DirectoryScan
from collectors.metrics import Metrics
from collectors.tailer import Tailer
from redline.codec import decode_batch, decode_json
from redline.errors import DeliveryFailed
from redline.ports import Acknowledged, Message
from redline.records import DeadLetter, RequestRecord
from redline.testing.publisher import MemoryPublisher
from redline.topics import DEAD_LETTERS, REQUESTS
from tests.collectors.log_writer import LogWriter

SMALL = Limits(10, 20_000)


class Kafka(MemoryPublisher):
    """In memory, and read back as the real one is."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_read_back = 0

    async def sources(self, offsets: Offsets | None, until_us: int) -> tuple[list[Source], Offsets]:
        if self.fail_read_back:
            self.fail_read_back -= 1
            raise DeliveryFailed("Kafka is away", recoverable=True)
        sources: list[Source] = []
        for (topic, partition), messages in self.messages.items():
            if topic not in (REQUESTS.name, DEAD_LETTERS.name):
                continue
            start = (offsets or {}).get(topic, {}).get(partition, 0)
            for message in messages[start:]:
                sources += read_sources(message.headers)
        return sources, await self.ends()

    async def ends(self) -> Offsets:
        ends: Offsets = {}
        for (topic, partition), messages in self.messages.items():
            ends.setdefault(topic, {})[partition] = len(messages)
        return ends

    @property
    def numbers(self) -> list[int]:
        return [
            found.seq
            for message in self.of_topic(REQUESTS.name)
            for found in decode_batch(message.value, RequestRecord)
        ]

    @property
    def letters(self) -> list[DeadLetter]:
        found = self.of_topic(DEAD_LETTERS.name)
        return [decode_json(message.value, DeadLetter) for message in found]


class Unsteady(Kafka):
    """Answers late, in any order, and now and then not at all; some messages arrived, some not."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice

    async def publish(self, messages: Sequence[Message]) -> list[Acknowledged]:
        await asyncio.sleep(self._dice.choice((0, 0, 0.001, 0.02)))
        if self._dice.random() < 0.03:
            self.fail_next = 1
            self.stored_before_failure = self._dice.randint(0, len(messages))
        found = await super().publish(messages)
        await asyncio.sleep(self._dice.choice((0, 0, 0.001, 0.02)))
        return found


@asynccontextmanager
async def tailing(
    folder: Path, kafka: Kafka, metrics: Metrics, limits: Limits = SMALL
) -> AsyncIterator[Tailer]:
    file = CheckpointFile(folder / "data")
    (folder / "logs").mkdir(exist_ok=True)
    scan = DirectoryScan([folder / "logs"], "*.ndjson*")
    tailer = Tailer(scan, file, kafka, kafka, limits, 1 << 30, metrics)
    stop = asyncio.Event()
    running = asyncio.create_task(tailer.run(stop))
    try:
        yield tailer
        stop.set()
        await running
    finally:
        running.cancel()
        file.close()


@asynccontextmanager
async def killed_tailing(folder: Path, kafka: Kafka) -> AsyncIterator[None]:
    """A tailer that ends without a last checkpoint and with messages under way."""
    file = CheckpointFile(folder / "data")
    scan = DirectoryScan([folder / "logs"], "*.ndjson*")
    tailer = Tailer(scan, file, kafka, kafka, SMALL, 1 << 30, Metrics())
    running = asyncio.create_task(tailer.run(asyncio.Event()))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        # A process that is killed takes its workers with it; a task that is cancelled while it
        # settles would leave them.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        file.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def metric(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"redline_collectors_{name}")


async def test_a_failure_that_nobody_can_read_is_sorted_out_without_loss_or_repeat(
    tmp_path: Path,
) -> None:
    kafka, metrics = Kafka(), Metrics()
    writer = LogWriter(tmp_path / "logs", "e1")
    async with tailing(tmp_path, kafka, metrics):
        for stored in range(4):
            writer.write(35)
            kafka.stored_before_failure = stored
            kafka.fail_next = 1
            await until(lambda: kafka.fail_next == 0)
        await until(lambda: len(kafka.numbers) >= 140)
    assert kafka.numbers == list(range(1, 141))
    assert metric(metrics, "publish_failures_total") == 4
    assert metric(metrics, "recovered_messages_total") == 1 + 2 + 3


async def test_kafka_that_cannot_be_read_back_holds_everything_up(tmp_path: Path) -> None:
    kafka, metrics = Kafka(), Metrics()
    kafka.fail_read_back = 2
    LogWriter(tmp_path / "logs", "e1").write(3)
    async with tailing(tmp_path, kafka, metrics) as tailer:
        await until(lambda: tailer.reason == "Kafka is away")
        assert kafka.messages == {}
        await until(lambda: len(kafka.numbers) == 3)
        assert tailer.ready.is_set()
        assert tailer.reason == ""


async def test_new_instances_appear_and_bad_lines_go_their_own_way(tmp_path: Path) -> None:
    kafka, metrics = Kafka(), Metrics()
    async with tailing(tmp_path, kafka, metrics) as tailer:
        await tailer.ready.wait()
        first = LogWriter(tmp_path / "logs", "e1")
        first.write(2)
        await until(lambda: len(kafka.numbers) == 2)
        second = LogWriter(tmp_path / "logs", "e2")
        second.write(1)
        second.write_bytes(b"garbage\n")
        second.seq += 1
        second.write(1)
        second.seq += 5
        second.write(1)
        await until(lambda: len(kafka.numbers) == 5 and len(kafka.letters) == 1)
    (letter,) = kafka.letters
    assert letter.source == str(second.path)
    assert letter.payload == b"garbage"
    assert metric(metrics, "log_lost_lines_total") == 5
    assert metric(metrics, "log_dead_letters_total") == 1
    assert metric(metrics, "log_lines_total") == 6


async def test_a_restart_goes_on_where_it_stopped_even_without_its_checkpoint(
    tmp_path: Path,
) -> None:
    kafka = Kafka()
    writer = LogWriter(tmp_path / "logs", "e1")
    for run in range(4):
        writer.write(15)
        writer.rotate()
        writer.write(15)
        if run == 2:
            (tmp_path / "data" / "checkpoint.json").unlink()
        async with tailing(tmp_path, kafka, Metrics()):
            await until(lambda: len(kafka.numbers) >= writer.seq)
    assert kafka.numbers == list(range(1, 121))


@pytest.mark.parametrize("seed", range(4))
async def test_kills_and_failures_in_any_order_leave_every_line_once(
    tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    kafka = Unsteady(dice)
    writers = [LogWriter(tmp_path / "logs", f"e{n}", rotate_bytes=9_000) for n in range(6)]
    saves = 0
    for _ in range(8):
        async with killed_tailing(tmp_path, kafka):
            end = time.monotonic() + dice.uniform(0.05, 0.9)
            while time.monotonic() < end:
                dice.choice(writers).write(dice.randint(1, 15))
                await asyncio.sleep(0.002)
        saves += (tmp_path / "data" / "checkpoint.json").exists()
    assert saves
    async with tailing(tmp_path, kafka, Metrics()):
        total = sum(writer.seq for writer in writers)
        await until(lambda: len(kafka.numbers) >= total)
    found = [
        (record.instance, record.seq)
        for message in kafka.of_topic(REQUESTS.name)
        for record in decode_batch(message.value, RequestRecord)
    ]
    for writer in writers:
        mine = [seq for instance, seq in found if instance == writer.instance]
        assert mine == list(range(1, writer.seq + 1))


async def test_stopping_publishes_what_was_read(tmp_path: Path) -> None:
    kafka, metrics = Kafka(), Metrics()
    writer = LogWriter(tmp_path / "logs", "e1")
    async with tailing(tmp_path, kafka, metrics, Limits(1_000, 60_000_000)):
        writer.write(7)
        await until(lambda: metric(metrics, "log_lines_total") == 7)
        assert kafka.numbers == []
    assert kafka.numbers == list(range(1, 8))
