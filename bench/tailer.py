"""How fast the tailer is, from a log on disk to serialised Kafka messages, on one core.

    python -m bench.tailer [--records 200000] [--rounds 5]

It prints CPU time, not wall time, because other processes share the machine, and ratios against the
straightforward way, which ran in the same rounds, in turn. It refuses to need Kafka.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cramjam
import msgspec

from collectors.batches import Limits
from collectors.directories import DirectoryScan
from collectors.log_reader import LogReader
from collectors.request_log import Translate
from redline.codec import decode_batch, decode_json, encode_batch, encode_json
from redline.records import RequestRecord

LIMITS = Limits(1_000, 500_000)


def make_record(number: int, dice: random.Random) -> RequestRecord:
    """A request as vLLM with the plug-in logs it, about 640 bytes of JSON."""
    arrival_us = 1_764_000_000_000_000 + number * 997
    return RequestRecord(
        request_id=f"chatcmpl-{dice.getrandbits(128):032x}",
        seq=number,
        ts_arrival_us=arrival_us,
        ts_end_us=arrival_us + 400_000,
        instance="llama-eu-1",
        model="llama-3.1-8b",
        version="v1",
        region="eu-west",
        tenant=dice.choice(["acme", "borealis", "zeta"]),
        user=f"u{number % 50}",
        api_key_hash="d531ce3dfd89",
        stream=True,
        finish_reason="stop",
        prompt_tokens=dice.randint(1, 4_000),
        cached_tokens=dice.randint(0, 300),
        completion_tokens=dice.randint(1, 600),
        queue_us=dice.randint(1, 20_000),
        prefill_us=dice.randint(1, 50_000),
        decode_us=dice.randint(1, 900_000),
        ttft_us=dice.randint(1, 90_000),
        e2e_us=dice.randint(1, 900_000),
        precision="fp8",
    )


def read_one_by_one(folder: Path) -> list[bytes]:
    """The tailer's way for chunks with a malformed line: an object for each line and its place."""
    return read_with_tailer(folder, lambda line, _: decode_json(line, RequestRecord))


def read_with_tailer(folder: Path, translate: Translate | None = None) -> list[bytes]:
    """Every message of the log, as the collectors' process makes them."""
    (name, files), *_ = DirectoryScan([folder], "*.ndjson*").list_files().items()
    reader = LogReader(name, LIMITS, 0, lambda key: None, translate)
    reader.adopt(files, 0)
    values: list[bytes] = []
    while (step := reader.step(0)).progressed:
        values += [outgoing.message.value for outgoing in step.outgoing]
    values += [outgoing.message.value for outgoing in reader.flush()]
    reader.close()
    return values


def read_plainly(path: Path) -> list[bytes]:
    """The straightforward way: a loop over lines, a loop over records and fields."""
    values: list[bytes] = []
    held: list[RequestRecord] = []
    with path.open("rb") as file:
        for line in file:
            held.append(decode_json(line, RequestRecord))
            if len(held) == 700:
                values.append(encode_plainly(held))
                held = []
    return [*values, encode_plainly(held)] if held else values


def encode_plainly(records: list[RequestRecord]) -> bytes:
    """Columns by one loop a field."""
    fields = RequestRecord.__struct_fields__
    columns = [[getattr(record, field) for record in records] for field in fields]
    return msgspec.msgpack.encode({"type": "request", "fields": fields, "columns": columns})


def decode_plainly(data: bytes) -> list[RequestRecord]:
    """Records by one dictionary a row."""
    batch = msgspec.msgpack.decode(memoryview(data)[1:])
    rows = [
        dict(zip(batch["fields"], row, strict=True), type="request")
        for row in zip(*batch["columns"], strict=True)
    ]
    return msgspec.convert(rows, list[RequestRecord])


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, medians; in turn, so that neighbours disturb all alike."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            took[name].append(time.process_time() - begin)
    return {name: statistics.median(found) for name, found in took.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    dice = random.Random(7)
    batch = [make_record(number, dice) for number in range(1_000)]
    message = encode_batch(batch)
    assert decode_batch(message, RequestRecord) == decode_plainly(message) == batch
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "requests.ndjson"
        with path.open("wb") as file:
            for number in range(chosen.records):
                file.write(encode_json(make_record(number, dice)) + b"\n")
        values = read_with_tailer(Path(name))
        read = [record.seq for value in values for record in decode_batch(value, RequestRecord)]
        assert read == list(range(chosen.records))
        del read
        took = measure(
            {
                "tailer": lambda: read_with_tailer(Path(name)),
                "tailer, zstd": lambda: [
                    cramjam.zstd.compress(value) for value in read_with_tailer(Path(name))
                ],
                "one by one": lambda: read_one_by_one(Path(name)),
                "plain": lambda: read_plainly(path),
                "encode": lambda: [encode_batch(batch) for _ in range(50)],
                "encode plain": lambda: [encode_plainly(batch) for _ in range(50)],
                "decode": lambda: [decode_batch(message, RequestRecord) for _ in range(50)],
                "decode plain": lambda: [decode_plainly(message) for _ in range(50)],
            },
            chosen.rounds,
        )
        size_bytes = path.stat().st_size
    per_line = size_bytes / chosen.records
    print(f"{chosen.records} records, {per_line:.0f} bytes a line, {len(values)} messages")
    for way, text in (
        ("tailer", "from disk to serialised messages"),
        ("tailer, zstd", "  and compressed (zstd)"),
        ("one by one", "  line by line, with places"),
        ("plain", "  a plain loop, without places"),
    ):
        rate, ratio = chosen.records / took[way], took[way] / took["tailer"]
        print(f"{text:34} {rate:>9,.0f} records/CPU-s, {ratio:.2f} times the tailer's time")
    for step in ("encode", "decode"):
        ratio = took[f"{step} plain"] / took[step]
        print(f"{step}: {took[step] / 0.05:.2f} µs a record, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
