from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collectors.vllm import down, parse
from redline.errors import RecordInvalid
from redline.records import EngineSample
from redline.settings import EngineTarget

TARGET = EngineTarget(instance="e1", url="http://e1:8000", model="m", version="v2", region="eu")
PAGE = (Path(__file__).parent / "data" / "vllm_0_32.metrics.txt").read_text()


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
        ("", "none of vLLM's metrics"),
        ("<html>hello</html>", "none of vLLM's metrics"),
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
