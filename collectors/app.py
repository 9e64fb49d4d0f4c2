"""Composition: the only file of the room that names concrete classes and connects them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from collectors.batches import Entry, Limits
from collectors.checkpoint_file import CheckpointFile
from collectors.count_book import CountBook
from collectors.count_reporter import CountReporter
from collectors.directories import DirectoryScan, log_directories
from collectors.gpu_thread import GpuThread
from collectors.http import create_app
from collectors.kafka_publisher import KafkaPublisher, wait_for_topics
from collectors.kafka_read_back import KafkaReadBack
from collectors.metrics import Metrics
from collectors.otlp.app import OtlpReceiver, spool_folder
from collectors.prober import Prober
from collectors.request_log import Translate
from collectors.sample_spool import SampleSpool
from collectors.samples import SampleBuffer, gpu_entry
from collectors.scraper import EngineScraper
from collectors.sources.app import open_sources
from collectors.tailer import Tailer
from redline.log import get_logger
from redline.records import EngineSample, GpuSample
from redline.serve import Server, announce, bind, stop_event
from redline.settings import CollectorSettings, Secrets, Settings

JOIN_S = 1.0

_log = get_logger()


async def run(settings: Settings, secrets: Secrets) -> None:
    """Collect until SIGTERM or SIGINT.

    Raises:
        ConfigFault: a setting is wrong.
        AddressInUse: the port is taken.
    """
    mine = settings.collectors
    listener = bind("collectors", mine.host, mine.port, "collectors.port")
    directories = log_directories(mine, settings.data_dir)
    scan, translates = _scan(settings, directories)
    checkpoint_file = CheckpointFile(settings.data_dir / "collectors")
    saved = checkpoint_file.load()
    counts = CountBook(saved.counts if saved else None)
    metrics = Metrics()
    limits = Limits(mine.batch_records_max, mine.batch_age_ms * 1_000)
    # apart, so that a deploy event that gives up waiting does not disturb the logs
    log_publisher = KafkaPublisher(settings.kafka, secrets)
    publisher = KafkaPublisher(settings.kafka, secrets)
    tailer = Tailer(
        scan,
        checkpoint_file,
        log_publisher,
        KafkaReadBack(settings.kafka, secrets),
        limits,
        mine.spool_bytes_max,
        metrics,
        translates,
        counts,
    )
    spool = SampleSpool(settings.data_dir / "collectors" / "spool", mine.spool_bytes_max)
    buffer = SampleBuffer(publisher, spool, limits, metrics)
    topics_made = asyncio.Event()

    def not_ready() -> str:
        if not topics_made.is_set():
            return f"waiting for Kafka at {settings.kafka.bootstrap_servers}"
        return tailer.reason or log_publisher.reason

    token = secrets.api_token.get_secret_value()
    server = Server(create_app(publisher, metrics.registry, token, not_ready))
    stop = stop_event()
    gpus = _gpu_thread(settings, buffer, metrics)
    measuring = _measuring(mine, secrets, buffer, counts, metrics)
    receiver = OtlpReceiver(
        mine.otlp, settings.data_dir, token, tailer.is_published, metrics.registry
    )
    await receiver.start()
    await server.start(listener)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(buffer.run(stop, topics_made), name="samples")
            for name, run_until in measuring.items():
                group.create_task(run_until(stop), name=name)
            if gpus is not None:
                gpus.start()
            # What measures begins at once; what publishes, once Kafka is there.
            if await _wait_for_topics(settings, secrets, stop):
                topics_made.set()
                group.create_task(tailer.run(stop), name="tailer")
                if await _first(tailer.ready, stop):
                    announce(listener)
                    _log.info("collecting", directories=[str(path) for path in directories])
    finally:
        if gpus is not None and gpus.is_alive():
            gpus.stop()
            await asyncio.to_thread(gpus.join, JOIN_S)
        await asyncio.gather(
            publisher.close(), log_publisher.close(), server.stop(), receiver.stop()
        )
        checkpoint_file.close()


def _scan(
    settings: Settings, directories: list[Path]
) -> tuple[DirectoryScan, dict[str, Translate]]:
    """Where logs are looked for, and how those of other formats are read."""
    mine = settings.collectors
    watched, translates = open_sources(mine, directories)
    if mine.otlp.enabled:
        watched.append((spool_folder(settings.data_dir), mine.log_pattern))
    return DirectoryScan(directories, mine.log_pattern, watched), translates


def _measuring(
    mine: CollectorSettings,
    secrets: Secrets,
    buffer: SampleBuffer,
    counts: CountBook,
    metrics: Metrics,
) -> dict[str, Callable[[asyncio.Event], Coroutine[Any, Any, None]]]:
    """What runs from the start to the end, by name: scraper, probes, counts."""

    def take_engine_samples(entries: Sequence[Entry]) -> None:
        buffer.add(entries)
        for entry in entries:
            if isinstance(entry.record, EngineSample):
                counts.add_sample(entry.record, entry.record.ts_us)

    api_key = secrets.probe_api_key.get_secret_value()
    scraper = EngineScraper(mine.engines, mine.engine_poll_s, take_engine_samples, metrics)
    return {
        "scraper": scraper.run,
        "prober": Prober(mine.probes, api_key, buffer.add, metrics).run,
        "counts": CountReporter(counts, buffer).run,
    }


def _gpu_thread(settings: Settings, buffer: SampleBuffer, metrics: Metrics) -> GpuThread | None:
    if not settings.collectors.gpu.enabled:
        return None
    loop = asyncio.get_running_loop()

    def sink(samples: Sequence[GpuSample]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(buffer.add, [gpu_entry(sample) for sample in samples])

    return GpuThread(settings.collectors.gpu, sink, metrics)


async def _wait_for_topics(settings: Settings, secrets: Secrets, stop: asyncio.Event) -> bool:
    """True once the topics exist; False if ``stop`` came first."""
    waiting = asyncio.create_task(wait_for_topics(settings.kafka, secrets))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            waiting.result()
            return True
        return False
    finally:
        waiting.cancel()
        stopping.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


async def _first(wanted: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait until one of the two is set; whether it was ``wanted``, and ``other`` was not."""
    tasks = [asyncio.create_task(event.wait()) for event in (wanted, other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return wanted.is_set() and not other.is_set()
    finally:
        for task in tasks:
            task.cancel()
