"""Who asks, where a proxy stands between."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.server.exchange import Exchange

__all__ = ["Proxies"]


class Proxies:
    """The proxies that are believed.

    Args:
        trusted: Addresses and networks.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]

    def client_of(self, exchange: Exchange) -> str:
        """Return the address that *exchange* came from: the last one of the chain that is no trusted proxy."""
        client = exchange.scope.get("client")
        address = str(client[0]) if client else ""
        if not self._is_trusted(address):
            return address
        named = exchange.fields.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        for text in reversed([part.strip() for part in named if part.strip()]):
            if not _is_address(text):
                return address
            address = text
            if not self._is_trusted(text):
                break
        return address

    def _is_trusted(self, address: str) -> bool:
        if not self._networks or not _is_address(address):
            return False
        known = ipaddress.ip_address(address)
        return any(known in network for network in self._networks if network.version == known.version)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
