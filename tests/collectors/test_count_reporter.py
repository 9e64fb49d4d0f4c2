"""The tailer, the checkpoint file, the spool and the reporter together, killed again and again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collectors.checkpoint_file import CheckpointFile
from collectors.count_book import CountBook, totals
from collectors.count_reporter import CountReporter
from collectors.directories import DirectoryScan
from collectors.metrics import Metrics
from collectors.sample_spool import SampleSpool
from collectors.samples import SampleBuffer
from collectors.tailer import Tailer
from redline.codec import decode_batch, decode_json
from redline.records import CollectorCount, RequestRecord
from redline.testing.publisher import MemoryPublisher
from redline.topics import COLLECTOR_COUNTS, REQUESTS
from tests.collectors.log_writer import LogWriter
from tests.collectors.test_tailer import SMALL, Kafka, Unsteady, until


@asynccontextmanager
async def collecting(
    folder: Path, kafka: Kafka, samples: MemoryPublisher, *, kill: bool
) -> AsyncIterator[None]:
    file = CheckpointFile(folder / "data")
    saved = file.load()
    book = CountBook(saved.counts if saved else None)
    metrics = Metrics()
    (folder / "logs").mkdir(exist_ok=True)
    scan = DirectoryScan([folder / "logs"], "*.ndjson*")
    tailer = Tailer(scan, file, kafka, kafka, SMALL, 1 << 30, metrics, counts=book)
    spool = SampleSpool(folder / "data" / "spool", 1 << 20)
    buffer = SampleBuffer(samples, spool, SMALL, metrics)
    stop, may_publish = asyncio.Event(), asyncio.Event()
    may_publish.set()
    running = [
        asyncio.create_task(tailer.run(stop)),
        asyncio.create_task(CountReporter(book, buffer, every_us=300_000).run(stop)),
        asyncio.create_task(buffer.run(stop, may_publish)),
    ]
    try:
        yield
        if not kill:
            stop.set()
            await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # a process that is killed takes its workers with it
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        file.close()


def said(samples: MemoryPublisher) -> dict[str, int]:
    rows = [
        decode_json(message.value, CollectorCount)
        for message in samples.of_topic(COLLECTOR_COUNTS.name)
    ]
    return {
        instance: sums["requests"] + sums["dead_letters"] * 10**6
        for (side, instance), sums in totals(rows).items()
        if side == "published"
    }


def stored(kafka: Kafka) -> dict[str, int]:
    found: dict[str, int] = {}
    for message in kafka.of_topic(REQUESTS.name):
        for record in decode_batch(message.value, RequestRecord):
            found[record.instance] = found.get(record.instance, 0) + 1
    for letter in kafka.letters:
        instance = Path(letter.source).parent.name
        found[instance] = found.get(instance, 0) + 10**6
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_said_in_the_end_is_what_kafka_has(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    kafka, samples = Unsteady(dice), MemoryPublisher()
    writers = [LogWriter(tmp_path / "logs", f"e{n}", rotate_bytes=9_000) for n in range(3)]
    for _ in range(6):
        async with collecting(tmp_path, kafka, samples, kill=True):
            end = time.monotonic() + dice.uniform(0.2, 1.6)
            while time.monotonic() < end:
                writer = dice.choice(writers)
                writer.write(dice.randint(1, 15))
                if dice.random() < 0.1:
                    writer.seq += 1
                    writer.write_bytes(b"torn\n")
                await asyncio.sleep(0.003)
    async with collecting(tmp_path, kafka, samples, kill=False):
        total = sum(writer.seq for writer in writers)
        await until(lambda: len(kafka.numbers) + len(kafka.letters) >= total)
        await until(lambda: said(samples) == stored(kafka))
    assert said(samples) == stored(kafka)
    assert sum(stored(kafka).values()) % 10**6 == total - len(kafka.letters)
