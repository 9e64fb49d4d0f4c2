"""Who may ask: one password for the whole store, or none on loopback.

The store has no users: any user name goes with the password, as clients send ``default``. This
file refuses to read the environment and to log what it was given.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from embedded.store.refusal import StoreRefusal


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """An empty ``password`` lets everybody in; ``__main__`` allows that on loopback only."""

    password: str = ""

    def check(self, query_string: str, headers: Mapping[str, str]) -> None:
        """Let the request pass, or refuse it.

        Without a password, a web page that is open on this machine is kept out: its requests
        carry ``Origin`` or come to a host name that is not this machine's.

        Raises:
            StoreRefusal: 516 AUTHENTICATION_FAILED.
        """
        if not self.password:
            _check_not_from_a_page(headers)
            return
        given = _given_password(query_string, headers)
        if not hmac.compare_digest(given.encode(), self.password.encode()):
            raise StoreRefusal(
                516,
                "AUTHENTICATION_FAILED",
                "Authentication failed: password is incorrect. Set the client's password to the "
                "store's REDLINE_STORE_PASSWORD",
            )


def _check_not_from_a_page(headers: Mapping[str, str]) -> None:
    host = headers.get("host", "localhost")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    fetched = headers.get("sec-fetch-site", "none")
    if "origin" in headers or fetched not in ("none", "same-origin") or not is_loopback(name):
        raise StoreRefusal(
            516,
            "AUTHENTICATION_FAILED",
            "Without a password only programs on this machine are served, no web pages, and only "
            "under a loopback name. Set REDLINE_STORE_PASSWORD to be served otherwise",
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _given_password(query_string: str, headers: Mapping[str, str]) -> str:
    """From X-ClickHouse-Key, Basic or Bearer authorization, or ``?password=``."""
    key = headers.get("x-clickhouse-key")
    if key is not None:
        return key
    scheme, _, value = headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                pair = base64.b64decode(value.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return ""
            return pair.partition(":")[2]
    return dict(parse_qsl(query_string)).get("password", "")
