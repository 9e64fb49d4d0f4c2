# mypy: disable-error-code="import-not-found"
"""Core: in which number format the weights are, from vLLM's configuration.

The format of the weights decides; a KV cache in FP8 beside BF16 weights is bf16 (the engine's
``cache_config_info`` names the cache's). This file refuses to import vLLM.
"""

from __future__ import annotations

from typing import Any

from redline_vllm.record import Precision

_BY_METHOD: tuple[tuple[str, Precision], ...] = (
    ("fp8", "fp8"), ("awq", "int4"), ("gptq", "int4"), ("int8", "int8"),
    ("experts_int8", "int8"), ("modelopt_fp4", "unknown"), ("modelopt", "fp8"),
)  # fmt: skip
_BY_DTYPE: dict[str, Precision] = {"torch.bfloat16": "bf16", "torch.float16": "fp16"}


def precision_of(model_config: Any) -> Precision:
    """The precision of ``vllm_config.model_config``'s weights; "unknown" rather than a guess."""
    method = getattr(model_config, "quantization", None)
    config = _quantization_config(model_config)
    if not method:
        return _BY_DTYPE.get(str(getattr(model_config, "dtype", "")), "unknown")
    method = str(method).lower()
    if (declared := _declared(config)) is not None:
        return declared
    for part, precision in _BY_METHOD:
        if part in method:
            return precision
    return "unknown"


def _declared(config: dict[str, Any]) -> Precision | None:
    """From the bits and type that compressed-tensors and GPTQ or AWQ checkpoints declare."""
    groups = config.get("config_groups")
    weights: Any = config
    kind = "int"
    if isinstance(groups, dict) and groups:
        first = next(iter(groups.values()))
        weights = first.get("weights") if isinstance(first, dict) else None
        kind = weights.get("type", "int") if isinstance(weights, dict) else "int"
        bits = weights.get("num_bits") if isinstance(weights, dict) else None
    else:
        bits = config.get("bits") or config.get("w_bit")
    known: dict[tuple[Any, Any], Precision] = {
        (8, "float"): "fp8", (8, "int"): "int8", (4, "int"): "int4",
    }  # fmt: skip
    return known.get((bits, kind))


def _quantization_config(model_config: Any) -> dict[str, Any]:
    hf_config = getattr(model_config, "hf_config", None)
    config = getattr(hf_config, "quantization_config", None)
    if config is None:
        return {}
    if not isinstance(config, dict):
        to_dict = getattr(config, "to_dict", None)
        config = to_dict() if callable(to_dict) else {}
    return config if isinstance(config, dict) else {}
