from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import ConfigFault
from serving.sizing import (
    SHAPES,
    AttentionShape,
    KvCacheDtype,
    MlaShape,
    blocks_for_tokens,
    kv_bytes_per_token,
    kv_cache_usage,
    max_concurrency,
    num_gpu_blocks,
    page_bytes,
    sliding_window_bytes_max,
)

LLAMA_8B, LLAMA_70B, LLAMA_405B = (32, 8, 128), (80, 8, 128), (126, 8, 128)
QWEN_7B, LLAMA_2 = (28, 4, 128), (32, 32, 128)

# (layers, kv heads, head dim), tensor parallel, dtype, bytes per token: of a rank, of all ranks
PER_TOKEN: list[tuple[tuple[int, int, int], int, KvCacheDtype, int, int]] = [
    (LLAMA_8B, 1, "bf16", 131072, 131072),
    (LLAMA_8B, 1, "fp8", 65536, 65536),
    (LLAMA_8B, 2, "bf16", 65536, 131072),
    (LLAMA_8B, 2, "fp8", 32768, 65536),
    (LLAMA_8B, 8, "bf16", 16384, 131072),
    (LLAMA_8B, 8, "fp8", 8192, 65536),
    (LLAMA_8B, 16, "bf16", 16384, 262144),
    (LLAMA_8B, 16, "fp8", 8192, 131072),
    (LLAMA_70B, 1, "fp8", 163840, 163840),
    (LLAMA_70B, 8, "bf16", 40960, 327680),
    (LLAMA_70B, 8, "fp8", 20480, 163840),
    (LLAMA_70B, 16, "bf16", 40960, 655360),
    (LLAMA_70B, 16, "fp8", 20480, 327680),
    (LLAMA_405B, 1, "fp8", 258048, 258048),
    (LLAMA_405B, 2, "bf16", 258048, 516096),
    (LLAMA_405B, 8, "bf16", 64512, 516096),
    (LLAMA_405B, 16, "fp8", 32256, 516096),
    (QWEN_7B, 1, "bf16", 57344, 57344),
    (QWEN_7B, 2, "bf16", 28672, 57344),
    (QWEN_7B, 2, "fp8", 14336, 28672),
    (QWEN_7B, 8, "fp8", 7168, 57344),
    (QWEN_7B, 16, "bf16", 14336, 229376),
    (QWEN_7B, 16, "fp8", 7168, 114688),
    (LLAMA_2, 1, "fp8", 262144, 262144),
    (LLAMA_2, 2, "bf16", 262144, 524288),
    (LLAMA_2, 8, "bf16", 65536, 524288),
    (LLAMA_2, 16, "bf16", 32768, 524288),
    (LLAMA_2, 16, "fp8", 16384, 262144),
]


@pytest.mark.parametrize(("sizes", "tp", "dtype", "rank", "all_ranks"), PER_TOKEN)
def test_bytes_per_token_of_a_rank_and_of_all(
    sizes: tuple[int, int, int], tp: int, dtype: KvCacheDtype, rank: int, all_ranks: int
) -> None:
    per_rank = kv_bytes_per_token(AttentionShape(*sizes), dtype, tp)
    assert per_rank == rank
    assert per_rank * tp == all_ranks


@pytest.mark.parametrize("tp", [1, 2, 8, 16])
@pytest.mark.parametrize(
    ("dtype", "expected"), [("bf16", 70272), ("fp8", 35136), ("fp8_ds_mla", 40016)]
)
def test_latent_attention_is_not_shrunk_by_tensor_parallelism(
    tp: int, dtype: KvCacheDtype, expected: int
) -> None:
    assert kv_bytes_per_token(MlaShape(61, 512, 64), dtype, tp) == expected


@pytest.mark.parametrize(
    ("available", "page", "layers", "block_size", "length", "blocks", "concurrency"),
    [
        (64424509440, 32768, 32, 16, 8192, 61440, 120.0),
        (32212254720, 32768, 80, 16, 32768, 12288, 6.0),
        (53687091200, 8192, 80, 16, 32768, 81920, 40.0),
        (21474836480, 41984, 61, 64, 65536, 8385, 8.1885),
    ],
)
def test_blocks_that_fit(
    available: int,
    page: int,
    layers: int,
    block_size: int,
    length: int,
    blocks: int,
    concurrency: float,
) -> None:
    assert num_gpu_blocks(available, page, layers) == blocks
    assert max_concurrency(blocks, length, block_size) == pytest.approx(concurrency, abs=1e-4)


def test_the_pages_of_those_vectors_follow_from_the_models() -> None:
    assert page_bytes(SHAPES["llama-3.1-8b"], "fp8") == 32768
    assert page_bytes(SHAPES["llama-3.1-70b"], "bf16", tp=2) == 32768
    assert page_bytes(SHAPES["qwen2.5-72b"], "fp8", tp=4) == 8192
    assert page_bytes(SHAPES["deepseek-v3"], "fp8_ds_mla", block_size=64) == 41984


@pytest.mark.parametrize(
    ("blocks", "free", "usage"),
    [(30720, 30719, 0.0), (30720, 15360, 0.49998372342849706), (30720, 0, 1.0), (1, 0, 0.0)],
)
def test_usage_leaves_the_null_block_out(blocks: int, free: int, usage: float) -> None:
    assert kv_cache_usage(blocks, free) == pytest.approx(usage, abs=1e-15)


def test_a_started_block_is_a_whole_block() -> None:
    assert [blocks_for_tokens(tokens) for tokens in (1, 16, 17, 1000, 8192)] == [1, 1, 2, 63, 512]


def test_a_sliding_window_caps_what_a_request_takes() -> None:
    mistral = AttentionShape(32, 8, 128)
    capped = sliding_window_bytes_max(
        mistral, "bf16", window_tokens=4096, max_num_batched_tokens=2048, max_model_len=32768
    )
    assert capped == 807_403_520
    assert capped < 32768 * kv_bytes_per_token(mistral, "bf16")


def test_scales_of_quantised_heads_take_eight_bytes() -> None:
    shape = AttentionShape(1, 2, 128)
    assert page_bytes(shape, "fp8_per_token_head", 1) - page_bytes(shape, "fp8", 1) == 2 * 8


def test_a_latent_format_for_another_model_is_refused() -> None:
    with pytest.raises(ConfigFault, match="fp8_ds_mla"):
        page_bytes(SHAPES["llama-3.1-8b"], "fp8_ds_mla")


@pytest.mark.parametrize(("block_size", "tp", "field"), [(0, 1, "block_size"), (16, 0, "tp")])
def test_sizes_below_one_are_refused(block_size: int, tp: int, field: str) -> None:
    with pytest.raises(ConfigFault, match=field):
        page_bytes(SHAPES["llama-3.1-8b"], "fp8", block_size, tp)


@given(
    heads=st.integers(1, 64),
    tp=st.sampled_from([1, 2, 4, 8, 16]),
    layers=st.integers(1, 130),
    available=st.integers(0, 2**40),
)
def test_more_ranks_never_need_less_memory_in_all(
    heads: int, tp: int, layers: int, available: int
) -> None:
    shape = AttentionShape(layers, heads, 128)
    one, rank = kv_bytes_per_token(shape, "fp8"), kv_bytes_per_token(shape, "fp8", tp)
    assert rank <= one
    if heads % tp == 0 or tp > heads:
        assert rank * tp >= one
    page = page_bytes(shape, "fp8", tp=tp)
    assert num_gpu_blocks(available, page, layers) * page * layers <= available
