"""Trace files of real services, read as arrivals. The format is told by the content.

Known: the Azure LLM inference traces (CSV), Mooncake's (JSON lines) and ServeGen's client rates
(CSV). All may be gzipped. Times are relative: the first arrival of a file is at or soon after 0.
This file refuses to skip what it cannot read: a wrong line is an error that names it.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TextIO

from redline.errors import Fault
from serving.simulator.blocks import PrefixSegment
from serving.simulator.draws import Draws
from serving.simulator.workload import Arrival

AZURE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
SERVEGEN_HEADER = ("client", "t_s", "rate_rps", "iat_cv")
MOONCAKE_BLOCK_TOKENS = 512  # tokens that one of Mooncake's hash ids stands for
SERVEGEN_WINDOW_S = 600
SERVEGEN_PROMPT_MEDIAN_TOKENS = 800.0  # its length tables are not in the rate file
SERVEGEN_OUTPUT_MEDIAN_TOKENS = 150.0
_EARLIER = ValueError("it is earlier than the line before it")
_IN_ORDER = "the lines in order of time"


class TraceInvalid(Fault):
    """A trace cannot be read; the message names the file, the line and what was expected."""


def read_trace(path: Path, *, seed: int = 1, tenants: tuple[str, ...] = ()) -> Iterator[Arrival]:
    """The arrivals of ``path``, in order of time.

    ``tenants`` share the requests of formats that name none; ``seed`` draws what a format leaves
    open (ServeGen: the arrivals within a window, and the lengths).

    Raises:
        TraceInvalid: unknown format, or a line that is wrong.
    """
    names = tenants or ("tenant-a", "tenant-b", "tenant-c", "tenant-d")
    with _open_text(path) as text:
        first = text.readline().strip()
        text.seek(0)
        columns = tuple(first.split(","))
        if columns == AZURE_HEADER:
            yield from _azure(path, text, names)
        elif columns[: len(SERVEGEN_HEADER)] == SERVEGEN_HEADER:
            yield from _servegen(path, text, seed)
        elif first.startswith("{"):
            yield from _mooncake(path, text, names)
        else:
            raise TraceInvalid(
                f"{path.name}, line 1: {first[:80]!r} is no known trace. Fix: give an Azure CSV "
                f"({','.join(AZURE_HEADER)}), ServeGen rates ({','.join(SERVEGEN_HEADER)},...) or "
                'Mooncake JSON lines ({"timestamp", "input_length", "output_length"}).'
            )


def _open_text(path: Path) -> TextIO:
    try:
        raw = path.open("rb")
    except OSError as error:
        raise TraceInvalid(f"{path}: {error.strerror}. Fix: name a file that exists.") from error
    magic = raw.read(2)
    raw.seek(0)
    if magic == b"\x1f\x8b":
        return io.TextIOWrapper(gzip.GzipFile(fileobj=raw), encoding="utf-8", errors="replace")
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace")


def azure_timestamp_us(text: str) -> int:
    """``2023-11-16 18:15:46.6805900`` (UTC, seven digits of fraction) in µs, truncated.

    Raises:
        ValueError: another form.
    """
    seconds, _, fraction = text.strip().partition(".")
    moment = datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    digits = fraction.removesuffix("+00:00").removesuffix("Z")
    if digits and not digits.isdigit():
        raise ValueError(f"fraction {fraction!r} is not digits")
    return int(moment.timestamp()) * 1_000_000 + int(digits[:6].ljust(6, "0") or 0)


def _azure(path: Path, text: TextIO, tenants: tuple[str, ...]) -> Iterator[Arrival]:
    picks = Draws(0, path.name)
    start_us: int | None = None
    last_us = 0
    for number, line in _numbered(text, skip=1):
        fields = line.split(",")
        try:
            stamp, prompt, output = fields
            at_us = azure_timestamp_us(stamp)
            tokens = _positive(prompt), _positive(output)
        except ValueError as error:
            raise _wrong(path, number, line, error, ",".join(AZURE_HEADER)) from error
        start_us = at_us if start_us is None else start_us
        if at_us < last_us:
            raise _wrong(path, number, line, _EARLIER, _IN_ORDER)
        last_us = at_us
        yield Arrival(
            at_us=at_us - start_us,
            request_id=f"{_stem(path)}-{number}",
            tenant=tenants[picks.integer() % len(tenants)],
            prompt_tokens=tokens[0],
            output_tokens=tokens[1],
            stream=True,
        )


def _mooncake(path: Path, text: TextIO, tenants: tuple[str, ...]) -> Iterator[Arrival]:
    start_ms: float | None = None
    last_ms = 0.0
    for number, line in _numbered(text, skip=0):
        try:
            row = json.loads(line)
            at_ms = float(row["timestamp"])
            prompt, output = _positive(row["input_length"]), _positive(row["output_length"])
            hashes = [int(value) for value in row.get("hash_ids", [])]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            expected = '{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": []}'
            raise _wrong(path, number, line, error, expected) from error
        start_ms = at_ms if start_ms is None else start_ms
        if at_ms < last_ms:
            raise _wrong(path, number, line, _EARLIER, _IN_ORDER)
        last_ms = at_ms
        whole = list(dict.fromkeys(hashes))[: prompt // MOONCAKE_BLOCK_TOKENS]
        yield Arrival(
            at_us=round((at_ms - start_ms) * 1000),
            request_id=f"{_stem(path)}-{number}",
            # Requests that start alike come from the same application.
            tenant=tenants[(hashes[0] if hashes else number) % len(tenants)],
            prompt_tokens=prompt,
            output_tokens=output,
            prefix=tuple(PrefixSegment(value, MOONCAKE_BLOCK_TOKENS) for value in whole),
            stream=True,
        )


def _servegen(path: Path, text: TextIO, seed: int) -> Iterator[Arrival]:
    rows: list[tuple[int, int, float, float]] = []
    for number, line in _numbered(text, skip=1):
        try:
            name, t_s, rate, cv = line.split(",")[:4]
            rows.append((round(float(t_s)), int(name), float(rate), float(cv or 1.0)))
        except ValueError as error:
            raise _wrong(path, number, line, error, ",".join(SERVEGEN_HEADER)) from error
    rows.sort()
    draws = Draws(seed, path.name)
    count = 0
    for window_s, group in groupby(rows, key=lambda row: row[0]):
        moments = sorted(
            (at_s, client)
            for _, client, rate_rps, iat_cv in group
            for at_s in _renewals(draws, rate_rps, iat_cv)
        )
        for at_s, client in moments:
            count += 1
            yield Arrival(
                at_us=round((window_s + at_s) * 1e6),
                request_id=f"{_stem(path)}-{count}",
                tenant=f"client-{client}",
                prompt_tokens=draws.lognormal_tokens(SERVEGEN_PROMPT_MEDIAN_TOKENS, 0.9, 1, 12_000),
                output_tokens=draws.lognormal_tokens(SERVEGEN_OUTPUT_MEDIAN_TOKENS, 0.8, 1, 2_000),
                stream=True,
            )


def _renewals(draws: Draws, rate_rps: float, iat_cv: float) -> Iterator[float]:
    """Arrivals within one window: gamma gaps with its rate and coefficient of variation."""
    if rate_rps <= 0:
        return
    shape = 1.0 / max(iat_cv, 0.05) ** 2
    # Starting inside a gap, not at one's end: a bursty client would otherwise arrive too often.
    at_s = -draws.uniform() * SERVEGEN_WINDOW_S
    while True:
        at_s += draws.gamma(shape) / shape / rate_rps
        if at_s >= SERVEGEN_WINDOW_S:
            return
        if at_s >= 0:
            yield at_s


def _numbered(text: TextIO, skip: int) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(text, start=1):
        line = raw.strip()
        if number > skip and line:
            yield number, line


def _positive(value: object) -> int:
    number = int(str(value))
    if number < 1:
        raise ValueError(f"{number} tokens")
    return number


def _stem(path: Path) -> str:
    return path.name.split(".", 1)[0]


def _wrong(path: Path, number: int, line: str, error: Exception, expected: str) -> TraceInvalid:
    return TraceInvalid(
        f"{path.name}, line {number}: {line[:80]!r}: {error}. Fix: write {expected}."
    )
