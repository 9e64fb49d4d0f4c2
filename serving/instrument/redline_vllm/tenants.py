# mypy: disable-error-code="import-not-found"
"""Who a request is billed to: the owner of its API key, else its tenant header.

A key counts more than a header, because vLLM checks the key and nobody checks the header. Keys are
only ever compared and written as HMAC-SHA-256 with a secret from the environment: a bare hash of a
short key can be guessed. Used by the writer thread only. This file refuses to keep or write a key.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import msgspec

from redline_vllm.settings import logger

HASH_CHARS = 16
_TENANT_CHARS_MAX = 128


def hash_key(secret: bytes, key: bytes) -> str:
    """The name of an API key: 16 hexadecimal digits; "" without a secret or a key."""
    if not secret or not key:
        return ""
    return hmac.new(secret, key, hashlib.sha256).hexdigest()[:HASH_CHARS]


class TenantDirectory:
    """The JSON file ``{"<hash of the key>": "<tenant>"}``, read again when it changes.

    A file that cannot be read leaves the last good one in force.
    """

    def __init__(self, path: Path | None, secret: bytes) -> None:
        self._path = path
        self._secret = secret
        self._tenants: dict[str, str] = {}
        self._stamp: tuple[int, int] | None = None
        self._fault = ""
        if path is not None and not secret:
            logger.warning("REDLINE_TENANT_KEYS_FILE needs REDLINE_KEY_HASH_SECRET: it is not used")

    def refresh(self) -> None:
        """Read the file if it changed. Never raises."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            self._tenants = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
            self._stamp, self._fault = stamp, ""
        except (OSError, msgspec.DecodeError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                logger.warning("tenant keys file %s: %s", self._path, error)

    def identify(self, key: bytes, header: bytes) -> tuple[str, str]:
        """The tenant and the name of the key."""
        hashed = hash_key(self._secret, key)
        return self._tenants.get(hashed) or clean_label(header), hashed


def clean_label(value: bytes) -> str:
    """A header's value as a label: printable, at most 128 characters."""
    text = value.decode("utf-8", "replace").strip()[:_TENANT_CHARS_MAX]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())
