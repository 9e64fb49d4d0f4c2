"""Core: what each engine calls what Redline reads from its metrics page. The one mapping table.

Names of a row are newest first: a page that has several is read by the newest only. A new engine,
or a renamed metric, is a row here and an excerpt in the tests. Sources: vLLM 0.32's page and the
renames of 0.9 to 0.16; SGLang's and TensorRT-LLM's metrics collectors; Triton's TensorRT-LLM
backend, whose families tell their members apart by a label. This file refuses to parse.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from redline.settings import EngineKind

# Several processes of one engine each show their own last reading of the *same* scheduler, most
# of them 0 or stale. They are copies of one gauge: the highest counts. An average would hide a full
# cache, a sum would show it twice. Counters of ranks are copies as well, those of processes shares.
COPIES_OF_GAUGES = frozenset({"pid", "tp_rank", "pp_rank", "moe_ep_rank"})
COPIES_OF_COUNTERS = COPIES_OF_GAUGES - {"pid"}


class Source(NamedTuple):
    """Where one number of a sample is found.

    ``combine`` makes one of the values of several engines (data parallel ranks) behind one page.
    ``where`` is the label and value that a line must have. ``label`` names the label that holds
    the value, on a line that says 1 and carries facts as labels.
    """

    names: tuple[str, ...]
    combine: Literal["sum", "max"] = "sum"
    counter: bool = False
    where: tuple[str, str] | None = None
    label: str = ""


class Page(NamedTuple):
    """One engine's page: where it is, how its lines begin, and the rows of the table."""

    title: str
    path: str
    prefix: str
    fields: dict[str, Source]
    dtype: Source | None = None


def _counter(*names: str) -> Source:
    return Source(names, counter=True)


def _fact(name: str, label: str, combine: Literal["sum", "max"] = "sum") -> Source:
    return Source((name,), combine, label=label)


def _triton(family: str, label: str, value: str, combine: Literal["sum", "max"] = "sum") -> Source:
    return Source((f"nv_trt_llm_{family}_metrics",), combine, where=(label, value))


PAGES: dict[EngineKind, Page] = {
    "vllm": Page(
        "vLLM",
        "/metrics",
        "vllm:",
        {
            "running": Source(("vllm:num_requests_running",)),
            "waiting": Source(("vllm:num_requests_waiting",)),
            "kv_cache_usage": Source(
                ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), "max"
            ),
            "preemptions_total": _counter("vllm:num_preemptions_total", "vllm:num_preemptions"),
            "prompt_tokens_total": _counter("vllm:prompt_tokens_total"),
            "generation_tokens_total": _counter("vllm:generation_tokens_total"),
            "requests_total": _counter("vllm:request_success_total"),
            "prefix_cache_queries_total": _counter(
                "vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"
            ),
            "prefix_cache_hits_total": _counter(
                "vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"
            ),
            "num_gpu_blocks": _fact("vllm:cache_config_info", "num_gpu_blocks"),
            "block_size": _fact("vllm:cache_config_info", "block_size", "max"),
        },
        _fact("vllm:cache_config_info", "cache_dtype"),
    ),
    "sglang": Page(
        "SGLang",
        "/metrics",
        "sglang:",
        {
            "running": Source(("sglang:num_running_reqs",)),
            "waiting": Source(("sglang:num_queue_reqs",)),
            "kv_cache_usage": Source(("sglang:token_usage",), "max"),
            "prompt_tokens_total": _counter("sglang:prompt_tokens_total"),
            "generation_tokens_total": _counter("sglang:generation_tokens_total"),
            "requests_total": _counter("sglang:num_requests_total"),
            # it asks its radix cache for every prompt token
            "prefix_cache_queries_total": _counter("sglang:prompt_tokens_total"),
            "prefix_cache_hits_total": _counter("sglang:cached_tokens_total"),
            "num_gpu_blocks": _fact("sglang:cache_config_info", "num_pages"),
            "block_size": _fact("sglang:cache_config_info", "page_size", "max"),
        },
    ),
    "tensorrt_llm": Page(
        "TensorRT-LLM",
        "/prometheus/metrics",  # its /metrics is JSON, of iterations
        "trtllm_",
        {
            "running": Source(("trtllm_num_requests_running",)),
            "waiting": Source(("trtllm_num_requests_waiting",)),
            "kv_cache_usage": Source(("trtllm_kv_cache_utilization",), "max"),
            "prompt_tokens_total": _counter("trtllm_prompt_tokens_total"),
            "generation_tokens_total": _counter("trtllm_generation_tokens_total"),
            "requests_total": _counter("trtllm_request_success_total"),
            "num_gpu_blocks": Source(("trtllm_kv_cache_max_blocks",)),
            "block_size": Source(("trtllm_kv_cache_tokens_per_block",), "max"),
        },
    ),
    "triton": Page(
        "Triton's TensorRT-LLM backend",
        "/metrics",
        "nv_trt_llm_",
        {
            "running": _triton("request", "request_type", "scheduled"),
            "waiting": _triton("request", "request_type", "waiting"),
            "kv_cache_usage": _triton("kv_cache_block", "kv_cache_block_type", "fraction", "max"),
            "num_gpu_blocks": _triton("kv_cache_block", "kv_cache_block_type", "max"),
            "block_size": _triton("kv_cache_block", "kv_cache_block_type", "tokens_per", "max"),
        },
    ),
}
