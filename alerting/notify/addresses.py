"""Which addresses an outbound call may reach: resolved, checked, and the checked one is used.

A name on the allow-list can be pointed anywhere by whoever owns its DNS; a cloud's metadata
service gives credentials to whoever asks from inside. aiohttp connects to exactly what this
resolver returns, so that no second look-up can differ from the checked one.
This file refuses to decide which hosts are allowed: that is configuration.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Metadata services outside the link-local range: AWS over IPv6, Alibaba, Oracle.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)


def is_forbidden(address: Address) -> bool:
    """Link-local, metadata, multicast, unspecified and reserved addresses are never called."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return False
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or address in _METADATA
    )


class CheckedResolver(AbstractResolver):
    """Resolves a name, and refuses it when any of its addresses is forbidden."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host``.

        Raises:
            OSError: not found, or one of them is forbidden.
        """
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            address = ipaddress.ip_address(result["host"].partition("%")[0])
            if is_forbidden(address):
                raise OSError(f"{host} resolves to {address}, a link-local or metadata address")
        return found

    async def close(self) -> None:
        """Release the inner resolver."""
        await self._resolver.close()
