"""The command that a profile gives, and what the user's own arguments do to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import ConfigFault
from serving.launch import MIDDLEWARE, PROFILES, Launch, build


def launch(**changes: object) -> Launch:
    base = Launch(model="org/model", profile="fp8", log_directory="logs", instance="vllm-0")
    return base._replace(**changes)  # type: ignore[arg-type]


def value_of(arguments: tuple[str, ...], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def test_fp8_quantizes_weights_and_cache_and_keeps_the_context_short() -> None:
    arguments, environment = build(launch(), {})
    assert arguments[3:5] == ("serve", "org/model")
    assert value_of(arguments, "--quantization") == "fp8"
    assert value_of(arguments, "--kv-cache-dtype") == "fp8"
    assert value_of(arguments, "--max-model-len") == "4096"
    assert value_of(arguments, "--middleware") == MIDDLEWARE
    for flag in ("--enable-chunked-prefill", "--enable-prefix-caching"):
        assert flag in arguments
    assert "--enable-request-id-headers" in arguments
    assert environment["REDLINE_PRECISION"] == "fp8"
    assert environment["REDLINE_REQUEST_LOG_DIR"] == "logs"
    assert environment["REDLINE_INSTANCE"] == "vllm-0"


@pytest.mark.parametrize("checkpoint", ["fp8", "compressed-tensors"])
def test_an_fp8_checkpoint_is_not_quantized_again(checkpoint: str) -> None:
    arguments, environment = build(launch(checkpoint=checkpoint), {})
    assert "--quantization" not in arguments
    assert value_of(arguments, "--kv-cache-dtype") == "fp8"
    # what is inside compressed-tensors only vLLM knows
    assert environment.get("REDLINE_PRECISION") == ("fp8" if checkpoint == "fp8" else None)


def test_fp8_kv_leaves_the_weights_and_bf16_leaves_both() -> None:
    arguments, environment = build(launch(profile="fp8-kv", checkpoint="awq"), {})
    assert "--quantization" not in arguments
    assert value_of(arguments, "--kv-cache-dtype") == "fp8"
    assert "REDLINE_PRECISION" not in environment
    arguments, environment = build(launch(profile="bf16"), {})
    assert value_of(arguments, "--kv-cache-dtype") == "auto"
    assert value_of(arguments, "--dtype") == "bfloat16"
    assert environment["REDLINE_PRECISION"] == "bf16"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"profile": "fp9"}, "fp8, fp8-kv, bf16"),
        ({"checkpoint": "awq"}, "--profile fp8-kv"),
        ({"profile": "bf16", "checkpoint": "fp8"}, "--profile fp8"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        build(launch(**changes), {})
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "gone"),
    [
        (("--max-model-len", "512"), "4096"),
        (("--max_model_len=512",), "4096"),
        (("--no-enable-prefix-caching",), "--enable-prefix-caching"),
        (("-q", "awq"), "fp8_weights"),
    ],
)
def test_the_users_arguments_win(extra: tuple[str, ...], gone: str) -> None:
    arguments, environment = build(launch(extra=extra), {})
    assert arguments[-len(extra) :] == extra
    assert gone not in arguments
    if "-q" in extra:
        assert "--quantization" not in arguments
        assert "REDLINE_PRECISION" not in environment


def test_version_region_and_canary_reach_the_records() -> None:
    made = launch(version="v2", region="eu", canary=True, served_name="llama")
    arguments, environment = build(made, {})
    assert value_of(arguments, "--served-model-name") == "llama"
    assert environment["REDLINE_MODEL"] == "llama"
    assert environment["REDLINE_MODEL_VERSION"] == "v2"
    assert environment["REDLINE_REGION"] == "eu"
    assert environment["REDLINE_CANARY"] == "1"


@pytest.mark.parametrize(
    ("allowed", "added"),
    [(None, None), ("", "redline"), ("lora", "lora,redline"), ("redline", None)],
)
def test_a_list_of_allowed_plugins_is_extended(allowed: str | None, added: str | None) -> None:
    environ = {} if allowed is None else {"VLLM_PLUGINS": allowed}
    assert build(launch(), environ).environment.get("VLLM_PLUGINS") == added


@given(st.sampled_from(sorted(PROFILES)), st.integers(1, 65535), st.integers(1, 10**6))
def test_no_option_comes_twice(profile: str, port: int, length: int) -> None:
    made = launch(profile=profile, port=port, max_model_len=length, extra=("--port", "9"))
    arguments = build(made, {}).arguments
    options = [part for part in arguments if part.startswith("--")]
    assert len(options) == len(set(options))
    assert value_of(arguments, "--port") == "9"
