"""Core: the command and the environment that start vLLM by a profile, with the request log on.

A profile says in which format weights and KV cache are; the rest is the same for all: a short
context, limits that keep the KV cache from preempting, chunked prefill, prefix caching, request
ids, the plug-in. What the user gives behind ``--`` wins over all of it. This file refuses to look
at disks, to run anything and to know where vLLM is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redline.errors import ConfigFault

MAX_MODEL_LEN = 4096
MIDDLEWARE = "redline_vllm.middleware.RequestLogMiddleware"
PLUGIN = "redline"
VLLM_MODULE = "vllm.entrypoints.cli.main"  # what the ``vllm`` script runs

# Checkpoints that hold FP8 weights already; vLLM reads the details from their config.json.
FP8_CHECKPOINTS = frozenset({"fp8", "compressed-tensors", "modelopt", "fbgemm_fp8"})


class Profile(NamedTuple):
    """Formats: ``weights`` as ``--quantization`` ("" for none), ``kv_cache`` as its dtype."""

    weights: str
    kv_cache: str
    dtype: str
    precision: str  # "": the plug-in asks vLLM


PROFILES: dict[str, Profile] = {
    "fp8": Profile("fp8", "fp8", "auto", "fp8"),
    "fp8-kv": Profile("", "fp8", "auto", ""),
    "bf16": Profile("", "auto", "bfloat16", "bf16"),
}

# Half of the KV cache's trouble is too many sequences at once: they preempt each other.
COMMON: tuple[tuple[str, str], ...] = (
    ("--gpu-memory-utilization", "0.90"),
    ("--max-num-seqs", "256"),
    ("--max-num-batched-tokens", "8192"),
    ("--enable-chunked-prefill", ""),
    ("--enable-prefix-caching", ""),
    ("--enable-request-id-headers", ""),
)


class Launch(NamedTuple):
    """What to start. ``checkpoint`` is the model's own quantization method, "" if it has none."""

    model: str
    profile: str
    log_directory: str
    instance: str
    checkpoint: str = ""
    python: str = "python3"
    host: str = "127.0.0.1"
    port: int = 8000
    max_model_len: int = MAX_MODEL_LEN
    served_name: str = ""
    version: str = ""
    region: str = ""
    canary: bool = False
    extra: tuple[str, ...] = ()


class Command(NamedTuple):
    """The arguments, the first of them the program, and what is added to the environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str]


def build(launch: Launch, environ: Mapping[str, str]) -> Command:
    """The command that starts ``launch`` from a process with the environment ``environ``.

    Raises:
        ConfigFault: the profile is unknown, or does not fit the checkpoint's weights.
    """
    profile = PROFILES.get(launch.profile)
    if profile is None:
        known = ", ".join(PROFILES)
        raise ConfigFault("--profile", launch.profile, "unknown profile", f"use one of: {known}")
    _refuse_misfit(launch, profile)
    options: list[tuple[str, str]] = [
        ("--host", launch.host),
        ("--port", str(launch.port)),
        ("--dtype", profile.dtype),
    ]
    if profile.weights and not launch.checkpoint:
        options.append(("--quantization", profile.weights))
    options.append(("--kv-cache-dtype", profile.kv_cache))
    options.append(("--max-model-len", str(launch.max_model_len)))
    options.extend(COMMON)
    if launch.served_name:
        options.append(("--served-model-name", launch.served_name))
    given = _names(launch.extra)
    arguments = [launch.python, "-m", VLLM_MODULE, "serve", launch.model]
    for name, value in options:
        if name not in given:
            arguments += [name, value] if value else [name]
    arguments += ["--middleware", MIDDLEWARE, *launch.extra]
    return Command(tuple(arguments), _environment(launch, profile, environ))


def _refuse_misfit(launch: Launch, profile: Profile) -> None:
    if launch.profile == "fp8" and launch.checkpoint not in {"", *FP8_CHECKPOINTS}:
        raise ConfigFault(
            "MODEL",
            launch.model,
            f"its weights are {launch.checkpoint}, which the profile fp8 cannot serve",
            "use --profile fp8-kv, or name a BF16 or FP8 checkpoint",
        )
    if launch.profile == "bf16" and launch.checkpoint:
        raise ConfigFault(
            "MODEL",
            launch.model,
            f"its weights are {launch.checkpoint}, not BF16",
            f"use --profile {'fp8' if launch.checkpoint in FP8_CHECKPOINTS else 'fp8-kv'}",
        )


def _environment(launch: Launch, profile: Profile, environ: Mapping[str, str]) -> dict[str, str]:
    # compressed-tensors may be INT8 or INT4 inside: then only vLLM knows.
    sure = profile.precision and launch.checkpoint in {"", "fp8", "fbgemm_fp8"}
    values = {
        "REDLINE_REQUEST_LOG_DIR": launch.log_directory,
        "REDLINE_INSTANCE": launch.instance,
        "REDLINE_MODEL": launch.served_name,
        "REDLINE_MODEL_VERSION": launch.version,
        "REDLINE_REGION": launch.region,
        "REDLINE_PRECISION": profile.precision if sure and not _reformats(launch.extra) else "",
        "REDLINE_CANARY": "1" if launch.canary else "",
    }
    added = {name: value for name, value in values.items() if value}
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        added["VLLM_PLUGINS"] = f"{allowed},{PLUGIN}" if allowed else PLUGIN
    return added


def _reformats(extra: Sequence[str]) -> bool:
    return bool(_names(extra) & {"--quantization", "--dtype"})


def _names(extra: Sequence[str]) -> set[str]:
    """The options in ``extra``, in the form without ``=`` and without ``no-``."""
    short = {"-q": "--quantization"}
    names = {short.get(part, part).split("=", 1)[0] for part in extra if part.startswith("-")}
    names = {"--" + name[2:].replace("_", "-") for name in names if name.startswith("--")}
    return names | {"--" + name.removeprefix("--no-") for name in names}
