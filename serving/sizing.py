"""How many KV-cache blocks a model server has, and what they hold.

Formulas follow vLLM's ``v1/kv_cache_interface.py``: a page is one block of one layer on one rank.
This file refuses to guess a model's shape: read it from the model's ``config.json`` (web pages
get head_dim wrong), or take one of ``SHAPES``, which were checked against theirs.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from redline.errors import ConfigFault

KvCacheDtype = Literal[
    "bf16", "fp16", "fp8", "fp8_per_token_head", "int8_per_token_head", "fp8_ds_mla"
]

_BYTES_PER_VALUE: dict[KvCacheDtype, int] = {
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "fp8_per_token_head": 1,
    "int8_per_token_head": 1,
}
_SCALED: frozenset[KvCacheDtype] = frozenset({"fp8_per_token_head", "int8_per_token_head"})
_SCALE_BYTES_PER_HEAD = 2 * 4  # one float32 for K, one for V, per token and head
_FP8_DS_MLA_BYTES = 656  # per token and layer, DeepSeek's own layout


class AttentionShape(msgspec.Struct, frozen=True):
    """Multi-head or grouped-query attention: K and V per head."""

    layers: int
    kv_heads: int
    head_dim: int
    head_dim_v: int | None = None  # None: as head_dim


class MlaShape(msgspec.Struct, frozen=True):
    """Multi-head latent attention: one compressed vector per token, the same on every rank."""

    layers: int
    kv_lora_rank: int
    qk_rope_head_dim: int


ModelShape = AttentionShape | MlaShape

SHAPES: dict[str, ModelShape] = {
    "llama-3.1-8b": AttentionShape(32, 8, 128),
    "llama-3.1-70b": AttentionShape(80, 8, 128),
    "llama-3.1-405b": AttentionShape(126, 8, 128),
    "llama-2-7b": AttentionShape(32, 32, 128),
    "mistral-7b-v0.3": AttentionShape(32, 8, 128),
    "qwen2.5-7b": AttentionShape(28, 4, 128),
    "qwen2.5-72b": AttentionShape(80, 8, 128),
    "deepseek-v3": MlaShape(61, 512, 64),
}


def page_bytes(shape: ModelShape, dtype: KvCacheDtype, block_size: int = 16, tp: int = 1) -> int:
    """Bytes of one block of one layer on one tensor-parallel rank.

    KV heads are replicated, not split, where ``tp`` exceeds them; MLA is the same at any ``tp``.

    Raises:
        ConfigFault: ``fp8_ds_mla`` for a model without MLA, or a size below 1.
    """
    _at_least_one("block_size", block_size)
    _at_least_one("tp", tp)
    if isinstance(shape, MlaShape):
        if dtype == "fp8_ds_mla":
            return block_size * _FP8_DS_MLA_BYTES
        width = shape.kv_lora_rank + shape.qk_rope_head_dim
        return block_size * width * _BYTES_PER_VALUE[dtype]
    if dtype == "fp8_ds_mla":
        raise ConfigFault(
            "kv_cache_dtype", dtype, "only models with latent attention have it", "use fp8 or bf16"
        )
    heads = max(1, shape.kv_heads // tp)
    width = shape.head_dim + (shape.head_dim if shape.head_dim_v is None else shape.head_dim_v)
    scales = _SCALE_BYTES_PER_HEAD if dtype in _SCALED else 0
    return block_size * heads * (width * _BYTES_PER_VALUE[dtype] + scales)


def kv_bytes_per_token(shape: ModelShape, dtype: KvCacheDtype, tp: int = 1) -> int:
    """Bytes that one token takes on one rank, over all layers."""
    return shape.layers * page_bytes(shape, dtype, 1, tp)


def blocks_for_tokens(tokens: int, block_size: int = 16) -> int:
    """Blocks that hold ``tokens``: whole blocks, rounded up."""
    return -(-tokens // block_size)


def num_gpu_blocks(available_bytes: int, page: int, layers: int) -> int:
    """Blocks that fit into the memory left for the cache: the minimum over ranks is the server's.

    Two floors, one after the other, as vLLM does it.
    """
    return available_bytes // page // layers


def max_concurrency(blocks: int, max_model_len: int, block_size: int = 16) -> float:
    """How many requests of full length the blocks hold at once."""
    return blocks / blocks_for_tokens(max_model_len, block_size)


def kv_cache_usage(blocks: int, free: int) -> float:
    """``vllm:kv_cache_usage_perc``: 0 to 1. One block is the null block and is never free."""
    if blocks <= 1:
        return 0.0
    return 1.0 - free / (blocks - 1)


def sliding_window_bytes_max(
    shape: AttentionShape,
    dtype: KvCacheDtype,
    *,
    window_tokens: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    block_size: int = 16,
) -> int:
    """Most bytes that one request takes where every layer attends to a window only."""
    tokens = min(window_tokens - 1 + max_num_batched_tokens, max_model_len)
    blocks = blocks_for_tokens(tokens, block_size) + 1  # the window may start inside a block
    return shape.layers * blocks * page_bytes(shape, dtype, block_size)


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise ConfigFault(field, value, "must be at least 1", "give a positive whole number")
