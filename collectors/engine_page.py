"""Core: reads an engine's metrics page into one sample, by the table in ``engine_names``.

Only the lines that are needed are parsed: a page has about 700, and each engine is read every
second. This file refuses HTTP, and it refuses to take an absent metric for 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from collectors.engine_names import COPIES_OF_COUNTERS, COPIES_OF_GAUGES, PAGES, Page, Source
from redline.errors import RecordInvalid
from redline.records import EngineSample
from redline.settings import EngineKind, EngineTarget

COUNTERS = ("preemptions_total", "prompt_tokens_total", "generation_tokens_total", "requests_total")
_WHOLE = {"num_gpu_blocks", "block_size"}

_LINE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\S+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Value(NamedTuple):
    """One sample line of the page."""

    labels: dict[str, str]
    number: float


def parse(text: str, target: EngineTarget, now_us: int) -> EngineSample:
    """One sample of ``target`` from its page; ``target.engine`` or the page says whose it is.

    Raises:
        RecordInvalid: a line that is needed cannot be read, or the page is no engine's.
    """
    wanted = [target.engine] if target.engine else list(PAGES)
    for engine in wanted:
        page = PAGES[engine]
        found = _read_values(text, page)
        fields = {
            name: number
            for name, source in page.fields.items()
            if (number := _number(source, found)) is not None
        }
        if any(name not in _WHOLE for name in fields):
            break
    else:
        raise RecordInvalid(_unknown(text, target))
    for name in _WHOLE & fields.keys():
        fields[name] = int(fields[name])
    dtypes = _values(page.dtype, found) if page.dtype else []
    return EngineSample(
        ts_us=now_us,
        instance=target.instance,
        model=target.model,
        version=target.version,
        region=target.region,
        kv_cache_dtype=dtypes[0].labels.get(page.dtype.label, "") if dtypes and page.dtype else "",
        **cast("dict[str, Any]", fields),
    )


def down(target: EngineTarget, error: str, now_us: int) -> EngineSample:
    """The sample of an engine that could not be read: every number unknown, and why."""
    return EngineSample(
        ts_us=now_us,
        instance=target.instance,
        model=target.model,
        version=target.version,
        region=target.region,
        up=False,
        error=error[:500],
    )


def fallen_counters(before: EngineSample | None, after: EngineSample) -> list[str]:
    """The counters that went back: the engine began anew in between. A number unknown is none."""
    if before is None:
        return []
    pairs = ((name, getattr(before, name), getattr(after, name)) for name in COUNTERS)
    return [name for name, old, new in pairs if None not in (old, new) and new < old]


def increase(before: float | None, after: float | None) -> float | None:
    """How far a counter rose between two readings. One that fell began anew, from 0 (as Prometheus
    has it): what it counted between ``before`` and its end is unknown, and not in the result.
    """
    if after is None or before is None:
        return None
    return after - before if after >= before else after


def _number(source: Source, found: dict[str, list[Value]]) -> float | None:
    """One number of the page: copies become one by the highest, engines as ``combine`` says."""
    copies = COPIES_OF_COUNTERS if source.counter else COPIES_OF_GAUGES
    best: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, number in _values(source, found):
        value = _fact(labels.get(source.label)) if source.label else number
        # NaN is what a gauge shows that was never set
        if value is None or math.isnan(value):
            continue
        engine = _engine(labels, source, copies)
        best[engine] = max(best.get(engine, -math.inf), value)
    if not best:
        return None
    return max(best.values()) if source.combine == "max" else math.fsum(best.values())


def _engine(
    labels: dict[str, str], source: Source, copies: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """Which of the engines a line is of. An info line is told apart by its engine alone: its facts
    may differ in what does not matter from process to process.
    """
    if source.label:
        return tuple((name, labels[name]) for name in ("engine", "dp_rank") if name in labels)
    return tuple(sorted(item for item in labels.items() if item[0] not in copies))


def _values(source: Source, found: dict[str, list[Value]]) -> Sequence[Value]:
    values = next((found[name] for name in source.names if name in found), [])
    if source.where is None:
        return values
    label, wanted = source.where
    return [value for value in values if value.labels.get(label) == wanted]


def _read_values(text: str, page: Page) -> dict[str, list[Value]]:
    wanted = {name for source in page.fields.values() for name in source.names}
    found: dict[str, list[Value]] = {}
    for line in text.splitlines():
        if not line.startswith(page.prefix):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name not in wanted:
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise RecordInvalid(f"/metrics: cannot read {line[:200]!r}")
        try:
            number = float(match["value"])
        except ValueError as error:
            raise RecordInvalid(f"/metrics: {name} is {match['value']!r}, no number") from error
        labels = dict(_LABEL.findall(match["labels"] or ""))
        found.setdefault(name, []).append(Value(labels, number))
    return found


def _unknown(text: str, target: EngineTarget) -> str:
    if not target.engine:
        titles = ", ".join(page.title for page in PAGES.values())
        return (
            f"{target.url}/metrics has no metrics of {titles}. Fix: let the url be an engine's; "
            "for trtllm-serve set engine: tensorrt_llm, for SGLang start it with --enable-metrics"
        )
    others: list[EngineKind] = [
        engine
        for engine, page in PAGES.items()
        if any(line.startswith(page.prefix) for line in text.splitlines())
    ]
    fix = f"set engine: {others[0]}" if others else "let the url be an engine's"
    return f"{target.url} has none of {PAGES[target.engine].title}'s metrics. Fix: {fix}"


def _fact(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
