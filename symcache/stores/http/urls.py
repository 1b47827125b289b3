"""URLs of upstreams: joining, comparing, printing without secrets, and where a redirect may lead."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
import httpx

from symcache.errors import UpstreamRefused
from symcache.stores.concurrency import call_detached
from symcache.stores.http.servers import PORTS
from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = [
    "admit_redirect",
    "file_url",
    "host_and_port",
    "is_inside",
    "is_loopback",
    "may_lead",
    "origin_of",
    "parse_url",
    "redact",
    "redirect_target",
]


def parse_url(text: str) -> httpx.URL:
    """Return *text* as a URL that can be asked.

    Raises:
        UpstreamRefused: Not an absolute http or https URL.
    """
    try:
        url = httpx.URL(text)
        is_http = _can_be_asked(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UpstreamRefused(f"not a URL: {error}", url=redact(text)) from error
    if not is_http:
        raise UpstreamRefused("only http and https are asked", url=redact(url))
    return url


def file_url(base: httpx.URL, parts: Iterable[str]) -> httpx.URL:
    """Return the URL of a file below *base*, each part percent-encoded as one path segment.

    Slashes are joined exactly: a doubled one has been seen to bring back another file than was asked for.
    """
    tail = "/".join(quote(part, safe="!$&'()*+,;=:@-._~") for part in parts)
    path, question, query = base.raw_path.decode("ascii").partition("?")
    return base.copy_with(raw_path=f"{path.rstrip('/')}/{tail}{question}{query}".encode("ascii"))


def redact(url: httpx.URL | str) -> str:
    """Return *url* without user, password, query and fragment: what may be logged, stored and reported."""
    return redact_url(str(url))


def origin_of(url: httpx.URL) -> tuple[str, str, int]:
    """Return scheme, host and port: equal for two URLs exactly if they are of one origin (RFC 6454).

    The host is ASCII, as it is looked up and sent.
    """
    return url.scheme, url.raw_host.decode("ascii"), url.port or PORTS.get(url.scheme, 0)


def host_and_port(host: str, port: int) -> str:
    """Return both as a URL has them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine, by its name or address alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def redirect_target(url: httpx.URL, location: str, *, shown: str) -> httpx.URL:
    """Return where an answer of *url* with this ``Location`` leads.

    Args:
        url: What answered.
        location: The field as it came; a relative one counts from *url*.
        shown: What errors call the URL, as *url* may be the target of an earlier redirect itself, and secret.

    Raises:
        UpstreamRefused: It leads nowhere, to another scheme than http and https, or from https to http.
    """
    try:
        target = url.join(location)
        is_http = _can_be_asked(target)
    except (httpx.InvalidURL, ValueError) as error:  # the latter from urllib: http:////[
        raise UpstreamRefused("redirect to something that is not a URL", url=shown) from error
    if not is_http and target.scheme in PORTS:
        raise UpstreamRefused("redirect to something that is not a URL", url=shown)
    if not is_http:
        raise UpstreamRefused(f"redirect to a {target.scheme or 'nameless'} URL", url=shown)
    if url.scheme == "https" and target.scheme == "http":
        raise UpstreamRefused("redirect from https to http", url=shown)
    return target


def _can_be_asked(url: httpx.URL) -> bool:
    if url.scheme not in PORTS or not 0 < (url.port or PORTS[url.scheme]) < 1 << 16:
        return False
    # Looking up a name with an empty or overlong label is an error of its own kind on each event loop.
    if not all(0 < len(label) < 64 for label in url.host.removesuffix(".").split(".")):
        return False
    return bool(url.raw_host)  # an address with a zone of other letters has no form in ASCII, which is an error


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
