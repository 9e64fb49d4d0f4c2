from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collectors.engine_names import PAGES
from collectors.engine_page import COUNTERS, down, fallen_counters, increase, parse
from redline.errors import RecordInvalid
from redline.records import EngineSample
from redline.settings import EngineKind, EngineTarget

TARGET = EngineTarget(instance="e1", url="http://e1:8000", model="m", version="v2", region="eu")
DATA = Path(__file__).parent / "data"
PAGE = (DATA / "vllm_0_32.metrics.txt").read_text()


def test_a_real_page_gives_the_whole_sample() -> None:
    assert parse(PAGE, TARGET, 7) == EngineSample(
        ts_us=7,
        instance="e1",
        model="m",
        version="v2",
        region="eu",
        running=0.0,
        waiting=0.0,
        kv_cache_usage=0.0,
        preemptions_total=0.0,
        prompt_tokens_total=8281.0,
        generation_tokens_total=4255.0,
        requests_total=65.0,
        prefix_cache_queries_total=8281.0,
        prefix_cache_hits_total=768.0,
        num_gpu_blocks=32768,
        block_size=128,
        kv_cache_dtype="fp8",
    )


def test_several_engines_behind_one_server_become_one_sample() -> None:
    page = (
        'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_running{engine="1"} 4\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n'
        'vllm:generation_tokens_total{engine="0"} 10\nvllm:generation_tokens_total{engine="1"} 5\n'
        'vllm:cache_config_info{engine="0",num_gpu_blocks="100",block_size="16"} 1\n'
        'vllm:cache_config_info{engine="1",num_gpu_blocks="50",block_size="16"} 1\n'
    )
    sample = parse(page, TARGET, 0)
    assert (sample.running, sample.kv_cache_usage) == (7, 0.75)
    assert (sample.generation_tokens_total, sample.num_gpu_blocks) == (15, 150)
    assert sample.block_size == 16


def test_old_names_are_read_and_not_added_to_the_new_ones() -> None:
    old = 'vllm:gpu_cache_usage_perc{m="x"} 0.5\nvllm:gpu_prefix_cache_hits_total{m="x"} 9\n'
    assert parse(old, TARGET, 0).kv_cache_usage == 0.5
    assert parse(old, TARGET, 0).prefix_cache_hits_total == 9
    both = old + 'vllm:kv_cache_usage_perc{m="x"} 0.25\nvllm:prefix_cache_hits_total{m="x"} 9\n'
    assert parse(both, TARGET, 0).kv_cache_usage == 0.25
    assert parse(both, TARGET, 0).prefix_cache_hits_total == 9


def test_what_is_not_measured_is_none_and_not_zero() -> None:
    sample = parse("vllm:num_requests_running 1\nvllm:kv_cache_usage_perc NaN\n", TARGET, 0)
    assert sample.running == 1
    assert sample.kv_cache_usage is None
    assert sample.waiting is None
    assert sample.num_gpu_blocks is None


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("", "no metrics of vLLM"),
        ("<html>hello</html>", "no metrics of vLLM"),
        ("vllm:num_requests_running{engine} x y z\n", "cannot read"),
        ("vllm:num_requests_running much\n", "no number"),
    ],
)
def test_another_page_is_refused_with_a_reason(page: str, names: str) -> None:
    with pytest.raises(RecordInvalid, match=names):
        parse(page, TARGET, 0)


@given(
    st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20),
    st.floats(0, 1e15, allow_nan=False),
)
def test_labels_of_any_kind_read_as_the_reference_parser_reads_them(
    model: str, number: float
) -> None:
    escaped = model.replace("\\", "\\\\").replace('"', '\\"')
    page = f'vllm:num_requests_running{{engine="0",model_name="{escaped}"}} {number!r}\n'
    (family,) = text_string_to_metric_families(page)
    assert parse(page, TARGET, 0).running == family.samples[0].value


def test_a_down_engine_says_why_and_claims_nothing() -> None:
    sample = down(TARGET, "x" * 1000, 5)
    assert not sample.up
    assert len(sample.error) == 500
    assert sample.running is None


GOLDEN: dict[str, dict[str, object]] = {
    "vllm_0_9_old_names": {
        "running": 12, "waiting": 3, "kv_cache_usage": 0.61, "preemptions_total": 2,
        "prompt_tokens_total": 9000, "generation_tokens_total": 5000, "requests_total": 45,
        "prefix_cache_queries_total": 9000, "prefix_cache_hits_total": 4000,
        "num_gpu_blocks": 1000, "block_size": 16, "kv_cache_dtype": "auto",
    },
    "vllm_api_servers": {
        "running": 95, "waiting": 17, "kv_cache_usage": 0.97, "prompt_tokens_total": 1500,
        "generation_tokens_total": 1000, "requests_total": 13, "num_gpu_blocks": 1900,
        "block_size": 16, "kv_cache_dtype": "fp8",
    },
    "sglang": {
        "running": 20, "waiting": 5, "kv_cache_usage": 0.72, "prompt_tokens_total": 128201,
        "generation_tokens_total": 7557, "requests_total": 90,
        "prefix_cache_queries_total": 128201, "prefix_cache_hits_total": 32000,
        "num_gpu_blocks": 11147, "block_size": 64,
    },
    "tensorrt_llm": {
        "running": 8, "waiting": 1, "kv_cache_usage": 0.42, "prompt_tokens_total": 41000,
        "generation_tokens_total": 12345, "requests_total": 90, "num_gpu_blocks": 6239,
        "block_size": 32,
    },
    "triton_tensorrt_llm": {
        "running": 48, "waiting": 6, "kv_cache_usage": 0.875, "num_gpu_blocks": 6239,
        "block_size": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_the_page_says_whose_it_is_and_gives_all_that_it_has(name: str) -> None:
    sample = parse((DATA / f"{name}.metrics.txt").read_text(), TARGET, 7)
    empty = EngineSample(ts_us=7, instance="e1", model="m", version="v2", region="eu")
    assert sample == msgspec.structs.replace(empty, **GOLDEN[name])


@pytest.mark.parametrize("engine", PAGES)
def test_a_hint_is_kept_and_a_wrong_one_says_what_would_be_right(engine: EngineKind) -> None:
    files: dict[str, str] = {"vllm": "vllm_api_servers", "triton": "triton_tensorrt_llm"}
    page = (DATA / f"{files.get(engine, engine)}.metrics.txt").read_text()
    hinted = TARGET.model_copy(update={"engine": engine})
    assert parse(page, hinted, 7) == parse(page, TARGET, 7)
    other: EngineKind = "vllm" if engine != "vllm" else "sglang"
    with pytest.raises(RecordInvalid, match=f"set engine: {engine}"):
        parse(page, TARGET.model_copy(update={"engine": other}), 7)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_processes_are_copies_and_engines_are_not(readings: list[list[float]]) -> None:
    """Whatever idle processes show, the fullest cache and every running request is seen."""
    lines = [
        f'vllm:{metric}{{engine="{engine}",model_name="m",pid="{pid}"}} {value!r}'
        for metric in ("kv_cache_usage_perc", "num_requests_running")
        for engine, values in enumerate(readings)
        for pid, value in enumerate(values)
    ]
    sample = parse("\n".join(lines), TARGET, 0)
    assert sample.kv_cache_usage == max(max(values) for values in readings)
    assert sample.running == pytest.approx(sum(max(values) for values in readings))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=1, max_size=30))
def test_increases_add_up_to_what_was_counted_whatever_restarts(
    steps: list[tuple[bool, int]],
) -> None:
    """True: the engine begins anew right after a reading, and counts from 0."""
    reading, counted, found = 0.0, 0, 0.0
    before: float | None = 0.0
    for restarts, drawn in steps:
        # a restart that counts past the old reading at once cannot be told from none
        amount = min(drawn, int(reading) - 1) if restarts else drawn
        if restarts and amount < 0:
            continue
        reading = amount if restarts else reading + amount
        counted += amount
        found += increase(before, reading) or 0
        before = reading
    assert found == counted


@given(st.sampled_from(COUNTERS), st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_counter_that_fell_is_named_and_one_that_did_not_is_not(
    name: str, old: float, new: float
) -> None:
    plain = EngineSample(ts_us=0, instance="e", model="m")
    before = msgspec.structs.replace(plain, **{name: old})
    after = msgspec.structs.replace(plain, **{name: new})
    assert fallen_counters(before, after) == ([name] if new < old else [])
    assert fallen_counters(None, after) == fallen_counters(before, plain) == []
    assert increase(None, new) is None
