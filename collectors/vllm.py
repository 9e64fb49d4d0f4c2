"""Core: reads a vLLM server's /metrics page. One table knows the old and the new names.

Only the lines that are needed are parsed: a page has about 700, and each engine is read every
second. Source of the names: vLLM 0.32's page, and the renames of 0.9 to 0.16. This file refuses
HTTP, and it refuses to take an absent metric for 0.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from redline.errors import RecordInvalid
from redline.records import EngineSample
from redline.settings import EngineTarget

# Field, its metric (newest name first; a page that has several is read by the newest only), and how
# the values of several engines behind one server become one.
_NUMBERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("running", ("vllm:num_requests_running",), "sum"),
    ("waiting", ("vllm:num_requests_waiting",), "sum"),
    ("kv_cache_usage", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), "max"),
    ("preemptions_total", ("vllm:num_preemptions_total", "vllm:num_preemptions"), "sum"),
    ("prompt_tokens_total", ("vllm:prompt_tokens_total",), "sum"),
    ("generation_tokens_total", ("vllm:generation_tokens_total",), "sum"),
    ("requests_total", ("vllm:request_success_total",), "sum"),
    (
        "prefix_cache_queries_total",
        ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "sum",
    ),
    (
        "prefix_cache_hits_total",
        ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "sum",
    ),
)
_CONFIG = "vllm:cache_config_info"
_WANTED = {name for _, names, _ in _NUMBERS for name in names} | {_CONFIG}

_LINE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\S+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Value(NamedTuple):
    """One sample line of the page."""

    labels: dict[str, str]
    number: float


def parse(text: str, target: EngineTarget, now_us: int) -> EngineSample:
    """One sample of ``target`` from its page.

    Raises:
        RecordInvalid: a line that is needed cannot be read, or the page is not vLLM's.
    """
    found = _read_values(text)
    fields: dict[str, Any] = {}
    for field, names, combine in _NUMBERS:
        values = next((found[name] for name in names if name in found), [])
        # NaN is what a gauge shows that was never set
        numbers = [value.number for value in values if not math.isnan(value.number)]
        if numbers:
            fields[field] = max(numbers) if combine == "max" else sum(numbers)
    if not fields:
        raise RecordInvalid(
            f"{target.url}/metrics has none of vLLM's metrics. Fix: let the url be a vLLM server's"
        )
    configs = [value.labels for value in found.get(_CONFIG, [])]
    blocks = [_whole(config.get("num_gpu_blocks")) for config in configs]
    known = [count for count in blocks if count is not None]
    return EngineSample(
        ts_us=now_us,
        instance=target.instance,
        model=target.model,
        version=target.version,
        region=target.region,
        num_gpu_blocks=sum(known) if known else None,
        block_size=_whole(configs[0].get("block_size")) if configs else None,
        kv_cache_dtype=configs[0].get("cache_dtype", "") if configs else "",
        **fields,
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


def _read_values(text: str) -> dict[str, list[Value]]:
    found: dict[str, list[Value]] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name not in _WANTED:
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


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
