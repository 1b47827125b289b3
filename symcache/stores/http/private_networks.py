"""Where a redirect may lead: not from a server outside into the network that the one who follows it stands in."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from symcache.errors import UpstreamRefused
from symcache.stores.http.detached import call_detached
from symcache.stores.http.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import httpx

__all__ = ["admit_redirect", "is_inside", "may_lead"]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOOK_UP_S = 10.0
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def may_lead(upstream: Collection[str], target: Collection[str]) -> bool:
    """Whether a redirect may be followed, by the addresses that the names of both were resolved to.

    One inside is enough for the target to be there. The upstream must have no other, and some: who runs a server
    outside may name any address beside its own.
    """
    return not any(map(is_inside, target)) or (bool(upstream) and all(map(is_inside, upstream)))


def is_inside(address: str) -> bool:
    """Whether *address* is no public one: of this machine, a private, link-local or shared network, or of none.

    An IPv6 address that only carries one of IPv4 counts as that. Sources: the special-purpose address registries of
    IANA, as `ipaddress` knows them; RFC 4291, sections 2.5.5.1 and 2.5.5.2; RFC 3056; RFC 4380; RFC 6052.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        carried = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if parsed in _NAT64 or (parsed in _COMPATIBLE and int(parsed) > 1):
            carried = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if carried is None and parsed.is_site_local:
            return True
        parsed = carried or parsed
    return not parsed.is_global or parsed.is_multicast or parsed.is_reserved


async def admit_redirect(upstream: httpx.URL, target: httpx.URL, *, shown: str) -> bool:
    """Return whether the connection to *target*, where *upstream* redirects, may be one to the inside.

    Names may be resolved to other addresses when the connection is made, so it has to be compared with this. A target
    that cannot be resolved here may be known to a proxy.

    Raises:
        UpstreamRefused: The redirect leads from outside to the inside.
    """
    there = await _resolve(target)
    if there and not any(map(is_inside, there)):
        return False
    here = await _resolve(upstream)
    if not may_lead(here, there):
        raise UpstreamRefused("redirect into a private network; serve.private_redirects allows it", url=shown)
    return bool(here) and all(map(is_inside, here))


async def _resolve(url: httpx.URL) -> Collection[str]:
    """Return the addresses of a URL's host; the system reads one of IPv4 in any base and with any number of dots."""
    _, host, port = origin_of(url)
    with suppress(OSError, UnicodeError), anyio.move_on_after(_LOOK_UP_S):
        return {str(address[0]) for *_, address in await call_detached(_look_up, host, port)}
    return []


def _look_up(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
