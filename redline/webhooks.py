"""Standard Webhooks 1.0: the signature of a webhook, made and checked.

Signed content is ``{webhook-id}.{webhook-timestamp}.{body}``, HMAC-SHA256, base64, ``v1,`` in
front. Secrets are ``whsec_`` and base64. The header may carry several space-separated signatures
and the receiver may hold several space-separated secrets, so that a secret can be rotated without
a gap. Source: github.com/standard-webhooks/standard-webhooks, spec 1.0.0.

This file refuses to read a clock, to send, and to know asymmetric signatures (``v1a``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from redline.errors import ConfigFault, SignatureInvalid

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
TOLERANCE_S = 300
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix, not a secret
SECRET_BYTES_MIN = 24
SECRET_BYTES_MAX = 64


def read_secrets(text: str) -> tuple[bytes, ...]:
    """The keys in a space-separated list of ``whsec_`` secrets, first one signs.

    Raises:
        ConfigFault: none, not base64, or not 24 to 64 bytes. The secret is never in the message.
    """
    keys = tuple(_key(part) for part in text.split())
    if not keys:
        raise ConfigFault(
            "REDLINE_WEBHOOK_SECRET", "", "no webhook secret", "set it to whsec_ and base64"
        )
    return keys


def _key(secret: str) -> bytes:
    fix = "make one of whsec_ and the base64 of 24 to 64 random bytes"
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigFault("REDLINE_WEBHOOK_SECRET", "***", "not base64", fix) from error
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ConfigFault("REDLINE_WEBHOOK_SECRET", "***", f"{len(key)} bytes long", fix)
    return key


def sign(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` of one message with one key (see ``read_secrets``).

    Raises:
        ValueError: the id holds a dot, which would make the signed content ambiguous.
    """
    if not message_id or "." in message_id:
        raise ValueError(f"webhook-id {message_id!r}: empty, or with a dot")
    content = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    return "v1," + base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()


def headers(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one message."""
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp_s),
        SIGNATURE_HEADER: sign(secret, message_id, timestamp_s, body),
    }


def verify(
    secrets: Sequence[bytes],
    headers: Mapping[str, str],
    body: bytes,
    now_s: float,
    tolerance_s: int = TOLERANCE_S,
) -> str:
    """Check a message and return its ``webhook-id``. ``headers`` are looked up in lower case.

    Raises:
        SignatureInvalid: a header is missing, the timestamp is off by more than ``tolerance_s``,
            or no signature was made with any of ``secrets``.
    """
    message_id, timestamp, signatures = (
        headers.get(name, "") for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    )
    if not message_id or not timestamp or not signatures:
        raise SignatureInvalid("webhook-id, webhook-timestamp or webhook-signature is missing")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise SignatureInvalid("webhook-timestamp is not a number of seconds")
    age_s = now_s - int(timestamp)
    if abs(age_s) > tolerance_s:
        when = "ago" if age_s > 0 else "ahead"
        raise SignatureInvalid(f"webhook-timestamp is {abs(age_s):.0f} s {when}: clock or replay")
    if "." in message_id:
        raise SignatureInvalid("webhook-id holds a dot")
    given = [part.encode() for part in signatures.split() if part.startswith("v1,")]
    matches = False
    for secret in secrets:
        wanted = sign(secret, message_id, int(timestamp), body).encode()
        for signature in given:
            matches |= hmac.compare_digest(wanted, signature)
    if not matches:
        raise SignatureInvalid("no webhook-signature fits any secret that is held here")
    return message_id
