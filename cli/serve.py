"""``redline serve``: prints the vLLM command that a profile gives, checks, and becomes it.

It looks whether the Python that was named has vLLM and the plug-in, and how the checkpoint's
weights are stored. This file refuses to install anything.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from redline.errors import ConfigFault
from redline.settings import Settings, load_settings
from serving.launch import Command, Launch, build

_PROBE = """
from importlib.util import find_spec
import sys
sys.exit(3 if find_spec("vllm") is None else 4 if find_spec("redline_vllm") is None else 0)
"""
_PROBE_S = 30.0


class ServeOptions(NamedTuple):
    """The command line, as typed."""

    model: str
    extra: tuple[str, ...]
    profile: str
    python: Path | None
    host: str
    port: int
    max_model_len: int
    instance: str
    served_name: str
    model_version: str
    region: str
    canary: bool
    log_dir: Path | None
    dry_run: bool


def run_serve(options: ServeOptions, config: Path | None) -> int:  # noqa: RET503 - execs
    """Does not return, unless it was a dry run.

    Raises:
        ConfigFault: the profile does not fit, or this Python has no vLLM or no plug-in.
    """
    python = str(options.python) if options.python else sys.executable
    log_directory = options.log_dir or _log_directory(load_settings(config))
    launch = Launch(
        model=options.model,
        profile=options.profile,
        log_directory=str(log_directory.resolve()),
        instance=options.instance or f"{socket.gethostname()}-{options.port}",
        checkpoint=checkpoint_method(options.model),
        python=python,
        host=options.host,
        port=options.port,
        max_model_len=options.max_model_len,
        served_name=options.served_name,
        version=options.model_version,
        region=options.region,
        canary=options.canary,
        extra=options.extra,
    )
    command = build(launch, os.environ)
    print(in_words(command), flush=True)
    if options.dry_run:
        return 0
    check_python(python)
    log_directory.mkdir(parents=True, exist_ok=True)
    os.execvpe(python, command.arguments, {**os.environ, **command.environment})  # noqa: S606


def in_words(command: Command) -> str:
    """The command as a shell takes it, with what it adds to the environment."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " ".join([*settings, shlex.join(command.arguments)])


def check_python(python: str) -> None:
    """See that ``python`` runs and has what is needed.

    Raises:
        ConfigFault: it does not; says what to install.
    """
    try:
        found = subprocess.run(  # noqa: S603 - the user's own Python
            [python, "-c", _PROBE], timeout=_PROBE_S, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        fix = "name the Python of vLLM's environment"
        raise ConfigFault("--python", python, str(error), fix) from error
    if found == 3:
        fix = f"{python} -m pip install vllm, or name the Python of vLLM's environment"
        raise ConfigFault("--python", python, "it has no vLLM", fix)
    if found == 4:
        source = Path(__file__).parent.parent / "serving" / "instrument"
        what = str(source) if (source / "pyproject.toml").exists() else "redline-vllm"
        fix = f"{python} -m pip install {what}"
        raise ConfigFault("--python", python, "it has vLLM, but not Redline's plug-in", fix)
    if found:
        raise ConfigFault("--python", python, f"it ended with {found}", "name a working Python")


def checkpoint_method(model: str) -> str:
    """How the checkpoint's weights are quantized, "" if they are not.

    Of a model that is not on this disk only the name is known: FP8 checkpoints say so in theirs.
    """
    config = Path(model) / "config.json"
    if not config.is_file():
        return "fp8" if "fp8" in model.rsplit("/", 1)[-1].lower() else ""
    try:
        content: Any = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "name a directory with a readable config.json"
        raise ConfigFault("MODEL", model, f"config.json: {error}", fix) from error
    quantization = content.get("quantization_config") if isinstance(content, dict) else None
    method = quantization.get("quant_method", "") if isinstance(quantization, dict) else ""
    return str(method).lower()


def _log_directory(settings: Settings) -> Path:
    named = settings.collectors.log_directories
    return named[0] if named else settings.data_dir / "logs"
