"""``redline replay FILE``: a request log or a trace file through the whole pipeline.

A trace becomes request logs by a simulation in virtual time; a log is taken as it is. Either way
the collectors tail the files, and everything after that is what production runs. Event times are
shifted so that the last request ends now, because the store keeps raw rows for 14 days only; the
shift is printed. This file refuses to change anything else in a log.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiokafka import AIOKafkaProducer
from clickhouse_connect.driver.client import Client

from cli.demo.layout import HOST, SKU, USD_PER_GPU_HOUR, choose_ports
from cli.demo.report import in_words, is_good
from cli.demo.run import prepare_directory
from cli.memory import MemoryWatch
from cli.summary import PANE_US, StoredFacts, stored_facts
from cli.supervisor import Supervisor
from cli.up import supervise
from redline.clickhouse import connect
from redline.codec import encode_batch, encode_json
from redline.errors import ConfigFault
from redline.kafka import client_options
from redline.records import EngineSample, RequestRecord
from redline.settings import Secrets, Settings, load_settings
from redline.topics import ENGINES
from serving.simulator.offline import records_from_trace
from streams.pricing import Pricer

MARKER = "redline-replay"
POLL_S = 0.5
STALLED_AFTER_S = 90.0
LATENESS_S = 60


def run_replay(file: Path, *, as_json: bool, data_dir: Path, keep: bool) -> int:
    """0: every request is stored once and the ledger balances; 1: the summary says what is off."""
    if not file.is_file():
        raise ConfigFault("FILE", str(file), "no such file", "name a request log or a trace file")
    prepare_directory(data_dir, MARKER)
    log_directory = data_dir / "logs"
    written = write_logs(file, log_directory, end_us=int(time.time() * 1e6))
    config = data_dir / "redline.yaml"
    config.write_text(yaml.safe_dump(_settings(data_dir, log_directory), sort_keys=False))
    settings = load_settings(config)
    replay = Replay(settings, written, keep=keep, quiet=as_json)
    notice = (lambda state: None) if as_json else None
    asyncio.run(supervise(settings, config, replay.body, notice=notice))
    if replay.report is None:
        return 0
    if as_json:
        print(json.dumps(replay.report))
    elif not keep:
        print("\n" + in_words(replay.report))
    return 0 if is_good(replay.report) else 1


class Written(msgspec.Struct):
    """What the logs hold; event times in µs."""

    requests: int = 0
    malformed: int = 0
    shifted_us: int = 0
    first_us: int = 0
    last_us: int = 0
    ids: set[str] = msgspec.field(default_factory=set)
    instances: dict[str, RequestRecord] = msgspec.field(default_factory=dict)


def write_logs(file: Path, directory: Path, *, end_us: int) -> Written:
    """Write ``file`` as request logs, one per instance, ending at ``end_us``.

    Raises:
        TraceInvalid: neither a request log nor a known trace.
    """
    written = Written()
    with _LogFiles(directory) as logs:
        if _is_request_log(file):
            _copy_log(file, logs, written, end_us)
        else:
            records = records_from_trace(file, end_us=end_us, sample_every_us=0)
            for record in records:
                if isinstance(record, RequestRecord):
                    _note(record, written)
                    logs.write(record.instance, encode_json(record))
    return written


class _LogFiles:
    """One open file per instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, Any] = {}

    def __enter__(self) -> _LogFiles:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, instance: str, line: bytes) -> None:
        """Append one line."""
        if instance not in self._files:
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in instance) or "unnamed"
            path = self._directory / name / "requests.ndjson"
            path.parent.mkdir(exist_ok=True)
            self._files[instance] = path.open("ab")
        self._files[instance].write(line + b"\n")


def _is_request_log(file: Path) -> bool:
    with file.open("rb") as content:
        first = content.readline(1 << 20)
    return b'"request_id"' in first and b'"ts_end_us"' in first


def _copy_log(file: Path, logs: _LogFiles, written: Written, end_us: int) -> None:
    decode = msgspec.json.Decoder(RequestRecord).decode
    last_us = max((r.ts_end_us for r in _readable(file.open("rb"), decode)), default=end_us)
    written.shifted_us = end_us - last_us
    instance = "unnamed"
    with file.open("rb") as lines:
        for line in lines:
            try:
                record = decode(line)
            except msgspec.DecodeError:
                # it goes on as it is: the collectors dead-letter it, with their reason
                written.malformed += 1
                logs.write(instance, line.rstrip(b"\n"))
                continue
            shifted = msgspec.structs.replace(
                record,
                ts_arrival_us=record.ts_arrival_us + written.shifted_us,
                ts_end_us=record.ts_end_us + written.shifted_us,
            )
            instance = record.instance
            _note(shifted, written)
            logs.write(instance, encode_json(shifted))


def _readable(lines: Iterable[bytes], decode: Any) -> Iterator[RequestRecord]:
    for line in lines:
        try:
            yield decode(line)
        except msgspec.DecodeError:
            continue


def _note(record: RequestRecord, written: Written) -> None:
    written.requests += 1
    written.ids.add(record.request_id)
    written.instances.setdefault(record.instance, record)
    written.last_us = max(written.last_us, record.ts_end_us)
    if not written.first_us or record.ts_end_us < written.first_us:
        written.first_us = record.ts_end_us


def _settings(data_dir: Path, log_directory: Path) -> dict[str, Any]:
    ports = choose_ports(0)
    return {
        "data_dir": str(data_dir),
        "kafka": {"bootstrap_servers": f"{HOST}:{ports.broker}"},
        "clickhouse": {"port": ports.store},
        "gpu_groups": [{"name": "replayed", "sku": SKU}],
        "prices": [{"sku": SKU, "price": USD_PER_GPU_HOUR, "valid_from": "2020-01-01"}],
        "collectors": {
            "port": ports.collectors,
            "log_directories": [str(log_directory)],
            "gpu": {"enabled": False},
        },
        "streams": {"port": ports.streams, "lateness_s": LATENESS_S},
        "alerting": {"port": ports.alerting},
        "dashboards": {"port": ports.page},
    }


class Replay:
    """Waits until the pipeline has taken everything; ``report`` is then there."""

    def __init__(self, settings: Settings, written: Written, *, keep: bool, quiet: bool) -> None:
        self.report: dict[str, Any] | None = None
        self._settings = settings
        self._written = written
        self._keep = keep
        self._quiet = quiet

    async def body(self, stop: asyncio.Event, supervisor: Supervisor) -> None:
        """From the moment that everything is ready."""
        began = time.monotonic()
        client = await asyncio.to_thread(connect, self._settings.clickhouse, Secrets())
        memory = MemoryWatch(supervisor)
        watching = asyncio.create_task(memory.watch())
        try:
            if await self._until(client, stop, lambda facts: facts.lost == 0):
                await self._close_windows()
                await self._until(client, stop, _settled)
            facts = await asyncio.to_thread(self._facts, client)
        finally:
            watching.cancel()
        self.report = {
            "requests_sent": self._written.requests,
            **facts._asdict(),
            "malformed_in_file": self._written.malformed,
            "shifted_s": self._written.shifted_us / 1e6,
            "alerts": [],
            "actions": [],
            "seconds": round(time.monotonic() - began, 1),
            **memory.figures(),
        }
        if self._keep:
            print("\n" + in_words(self.report))
            page = self._settings.dashboards
            print(f"\nThe page: http://{page.host}:{page.port}/ Stop with Ctrl-C.")
            await stop.wait()

    async def _until(self, client: Client, stop: asyncio.Event, done: Any) -> bool:
        """Poll until ``done(facts)``; False if nothing has moved for STALLED_AFTER_S."""
        last: StoredFacts | None = None
        moved = time.monotonic()
        while not stop.is_set():
            facts = await asyncio.to_thread(self._facts, client)
            if facts != last:
                last, moved = facts, time.monotonic()
                if not self._quiet:
                    print(f"\r{facts.requests_stored:,} of {self._written.requests:,}", end="")
            if done(facts):
                return True
            if time.monotonic() - moved > STALLED_AFTER_S:
                return False
            await asyncio.sleep(POLL_S)
        return False

    def _facts(self, client: Client) -> StoredFacts:
        pricer = Pricer(self._settings.gpu_groups, self._settings.prices)
        first_us, until_us = self._written.first_us - 1, self._written.last_us + PANE_US
        return stored_facts(client, self._written.ids, first_us, until_us, pricer)

    async def _close_windows(self) -> None:
        """One engine sample per instance, past the lateness: the log says that time went on."""
        at_us = self._written.last_us + LATENESS_S * 1_000_000 + 2 * PANE_US
        producer = AIOKafkaProducer(**client_options(self._settings.kafka, Secrets()))
        await producer.start()
        try:
            for instance, record in self._written.instances.items():
                sample = EngineSample(
                    ts_us=at_us,
                    instance=instance,
                    model=record.model,
                    version=record.version,
                    region=record.region,
                    up=False,
                    error="end of the replayed log",
                )
                await producer.send_and_wait(
                    ENGINES.name, encode_batch([sample]), key=instance.encode()
                )
        finally:
            await producer.stop()


def _settled(facts: StoredFacts) -> bool:
    return facts.unsettled_windows == 0 and facts.panes_requests == facts.requests_stored
