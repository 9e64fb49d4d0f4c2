"""Stage 2: merged panes become signals that say what they rest on."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.records import EngineSample, Pane, Signal
from redline.sketch import DDSketch
from streams.signals import ENGINE_FORGET_US, EngineBook, SignalBook
from tests.streams.world import SECOND_US, T0_US

SLOT_US = 10 * SECOND_US


def pane(
    start: int,
    latencies_us: list[int],
    *,
    tenant: str = "t",
    partition: int = 0,
    revision: int = 1,
    errors: int = 0,
    version: str = "1",
    cost_nusd: int = 0,
) -> Pane:
    sketch = DDSketch()
    sketch.add_many(latencies_us)
    return Pane(
        model="m",
        version=version,
        region="eu",
        tenant=tenant,
        start_us=T0_US + start * SLOT_US,
        source_partition=partition,
        revision=revision,
        requests=len(latencies_us),
        errors=errors,
        completion_tokens=10 * len(latencies_us),
        cost_nusd=cost_nusd,
        e2e_sketch=sketch.to_bytes(),
        ttft_sketch=sketch.to_bytes(),
    )


def by_name(signals: list[Signal], version: str = "1") -> dict[str, Signal]:
    return {s.name: s for s in signals if s.labels.get("version") == version}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_order_and_repeats_change_nothing_and_p99_is_within_one_percent(seed: int) -> None:
    rng = random.Random(seed)
    panes, values = [], []
    for start in range(6):
        for partition in range(2):
            for tenant in ("t", "u"):
                now = [int(rng.lognormvariate(12, 1)) + 1 for _ in range(rng.randrange(1, 40))]
                values += now
                panes.append(pane(start, now[:1], partition=partition, tenant=tenant, revision=1))
                panes.append(
                    pane(start, now, partition=partition, tenant=tenant, revision=5, errors=1)
                )
    now_us = T0_US + 6 * SLOT_US
    answers = []
    for _ in range(2):
        book = SignalBook(60)
        for item in panes:
            book.add([item], now_us)
        answers.append(book.evaluate(now_us))
        late = [p for p in panes if p.revision == 5]
        panes = rng.sample(late, len(late)) + [p for p in panes if p.revision == 1]
    assert answers[0] == answers[1]
    signals = by_name(answers[0])
    exact = sorted(values)[int(0.99 * (len(values) - 1))]
    value = signals["p99_latency_ms"].value
    assert value is not None
    assert abs(value * 1_000 / exact - 1) < 0.0101
    assert signals["p99_latency_ms"].samples == len(values)
    rate = signals["requests_per_s"].value
    assert rate is not None
    assert np.isclose(rate, len(values) / 60)
    assert signals["error_ratio"].value == 24 / len(values)


def test_a_window_without_data_is_none_and_then_forgotten() -> None:
    book = SignalBook(60)
    assert book.evaluate(T0_US) == []
    book.add([pane(0, [1_000])], T0_US + 5 * SECOND_US)
    signals = by_name(book.evaluate(T0_US + 5 * SECOND_US))
    assert signals["p99_latency_ms"].samples == 1
    assert signals["p99_latency_ms"].coverage == 1 / 6
    assert signals["usd_per_million_output_tokens"].value == 0
    silent = by_name(book.evaluate(T0_US + 100 * SECOND_US))
    assert {s.value for s in silent.values()} == {None}
    assert silent["p99_latency_ms"].data_age_ms == 90_000
    assert book.evaluate(T0_US + 10_000 * SECOND_US) == []
    assert book.is_empty


def test_the_open_pane_counts_for_the_time_that_has_passed() -> None:
    book = SignalBook(60)
    for start in range(7):
        book.add([pane(start, [1_000] * 10)], T0_US + start * SLOT_US + SECOND_US)
    signals = by_name(book.evaluate(T0_US + 65 * SECOND_US))
    # slots 1 to 5 in full and 5 s of slot 6
    assert signals["requests_per_s"].value == 60 / 55
    assert signals["requests_per_s"].ts_us == T0_US + 65 * SECOND_US


def test_history_is_evaluated_at_its_own_time() -> None:
    book = SignalBook(60)
    long_after_us = T0_US + 40 * 86_400 * SECOND_US
    for start in range(6):
        book.add([pane(start, [1_000] * 6)], long_after_us)
    signals = by_name(book.evaluate(long_after_us))
    assert signals["requests_per_s"].value == 36 / 60
    assert signals["requests_per_s"].ts_us == T0_US + 60 * SECOND_US


def test_a_pane_of_the_future_hides_nothing() -> None:
    book = SignalBook(60)
    book.add([pane(0, [1_000]), pane(10_000, [1_000])], T0_US + SECOND_US)
    assert by_name(book.evaluate(T0_US + SECOND_US))["p99_latency_ms"].samples == 1


def test_cost_per_million_tokens() -> None:
    book = SignalBook(60)
    book.add([pane(0, [1_000] * 100, cost_nusd=2_000_000)], T0_US + SECOND_US)
    value = by_name(book.evaluate(T0_US + SECOND_US))["usd_per_million_output_tokens"].value
    assert value == 2.0


def sample(at_s: float, **fields: object) -> EngineSample:
    return EngineSample(
        ts_us=T0_US + round(at_s * SECOND_US),
        instance="i",
        model="m",
        **fields,  # type: ignore[arg-type]
    )


def test_engines_show_their_worst_of_ten_seconds() -> None:
    book = EngineBook()
    book.add([sample(0, kv_cache_usage=0.9, waiting=7.0), sample(5, kv_cache_usage=0.4)])
    kv, waiting = book.evaluate(T0_US + 6 * SECOND_US)
    assert (kv.value, kv.samples, waiting.value, waiting.samples) == (0.9, 2, 7.0, 1)
    kv, waiting = book.evaluate(T0_US + 12 * SECOND_US)
    assert (kv.value, waiting.value) == (0.4, None)


def test_an_engine_that_is_down_has_no_value_rather_than_zero() -> None:
    book = EngineBook()
    book.add([sample(0, up=False)])
    assert [s.value for s in book.evaluate(T0_US + SECOND_US)] == [None, None]
    later = book.evaluate(T0_US + 60 * SECOND_US)
    assert {s.value for s in later} == {None}
    assert later[0].data_age_ms == 60_000
    assert book.evaluate(T0_US + ENGINE_FORGET_US + 2 * SECOND_US) == []
