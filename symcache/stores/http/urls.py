"""URLs of upstreams: joining, comparing, and printing without secrets."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from symcache.errors import UpstreamRefused
from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["file_url", "host_and_port", "is_loopback", "origin_of", "parse_url", "redact", "redirect_target"]


_PORTS = {"http": 80, "https": 443}


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
    return url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS.get(url.scheme, 0)


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
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UpstreamRefused("redirect to something that is not a URL", url=shown) from error
    if not is_http and target.scheme in _PORTS:
        raise UpstreamRefused("redirect to something that is not a URL", url=shown)
    if not is_http:
        raise UpstreamRefused(f"redirect to a {target.scheme or 'nameless'} URL", url=shown)
    if url.scheme == "https" and target.scheme == "http":
        raise UpstreamRefused("redirect from https to http", url=shown)
    return target


def _can_be_asked(url: httpx.URL) -> bool:
    if url.scheme not in _PORTS or not 0 < (url.port or _PORTS[url.scheme]) < 1 << 16:
        return False
    # Looking up a name with an empty or overlong label is an error of its own kind on each event loop.
    return all(0 < len(label) < 64 for label in url.host.removesuffix(".").split("."))
