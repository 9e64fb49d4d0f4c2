# mypy: disable-error-code="import-not-found"
"""What the environment says. A value that cannot be read is its default, with a warning.

This file refuses to raise: a typing error in an environment variable must not stop a model server.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from redline_vllm.record import PRECISIONS, Precision

# vLLM formats and shows what is below its own logger.
logger = logging.getLogger("vllm.plugins.redline")

_UNSAFE = re.compile(r"[^A-Za-z0-9._:\-]")


class Settings(NamedTuple):
    """``directory`` None switches everything off. Sizes are bytes, ages seconds."""

    directory: Path | None
    instance: str
    model: str  # "": what vLLM serves
    version: str  # "": the checkpoint's revision
    region: str
    precision: Precision | None  # None: from vLLM's configuration
    canary: bool
    tenant_header: bytes
    tenant_keys_file: Path | None
    key_hash_secret: bytes  # b"": keys are not hashed, and not written
    rotate_bytes: int
    rotate_s: int
    keep: int
    queue_max: int

    @property
    def folder(self) -> Path | None:
        """Where this instance's files are: ``<directory>/<instance>``."""
        if self.directory is None:
            return None
        return self.directory / (_UNSAFE.sub("_", self.instance).lstrip(".") or "vllm")


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process."""
    env = os.environ if environ is None else environ

    def text(name: str, default: str = "") -> str:
        return env.get(f"REDLINE_{name}", default).strip()

    def number(name: str, default: int, least: int) -> int:
        value = text(name)
        if not value:
            return default
        if value.isdecimal() and int(value) >= least:
            return int(value)
        logger.warning(
            "REDLINE_%s=%r is not a number of at least %d: using %d", name, value, least, default
        )
        return default

    directory, keys_file = text("REQUEST_LOG_DIR"), text("TENANT_KEYS_FILE")
    return Settings(
        directory=Path(directory) if directory else None,
        instance=text("INSTANCE")[:128] or socket.gethostname(),
        model=text("MODEL")[:256],
        version=text("MODEL_VERSION")[:256],
        region=text("REGION")[:256],
        precision=_precision(text("PRECISION")),
        canary=text("CANARY").lower() in {"1", "true", "yes"},
        tenant_header=(text("TENANT_HEADER") or "X-Tenant").lower().encode("latin-1", "replace"),
        tenant_keys_file=Path(keys_file) if keys_file else None,
        key_hash_secret=text("KEY_HASH_SECRET").encode(),
        rotate_bytes=number("REQUEST_LOG_ROTATE_BYTES", 64 * 1024 * 1024, 4096),
        rotate_s=number("REQUEST_LOG_ROTATE_S", 3600, 1),
        keep=number("REQUEST_LOG_KEEP", 16, 1),
        queue_max=number("REQUEST_LOG_QUEUE_MAX", 20_000, 100),
    )


def _precision(value: str) -> Precision | None:
    for known in PRECISIONS:
        if value == known:
            return known
    if value:
        logger.warning("REDLINE_PRECISION=%r is not one of %s: ignored", value, PRECISIONS)
    return None
