"""Which proxy a server is reached through, and why: a setting, the environment, a script (PAC), or the system."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

import anyio

from symcache.errors import ConfigError
from symcache.stores.concurrency import call_detached
from symcache.stores.http.urls import host_and_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import httpx

# Not urllib's `getproxies` and `proxy_bypass`: any variable that ends with _PROXY, NO_PROXY too, hides the system's
# settings from these.
if sys.platform == "win32":
    from urllib.request import getproxies_registry as getproxies
    from urllib.request import proxy_bypass_registry as proxy_bypass
elif sys.platform == "darwin":
    from urllib.request import getproxies_macosx_sysconf as getproxies
    from urllib.request import proxy_bypass_macosx_sysconf as proxy_bypass
else:

    def getproxies() -> dict[str, str]:
        """Return nothing, as variables alone name proxies here."""
        return {}

    def proxy_bypass(_host: str) -> bool:
        """Return False."""
        return False


__all__ = ["DIRECT", "Proxy", "ProxyRules", "Route", "matches_no_proxy", "parse_proxy"]


_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_SCRIPT_S = 10.0
_EXCEPTION_S = 5.0
_BELIEVED_S = 30.0  # how long a script that failed is not asked again


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        scheme: ``http``, ``https`` (TLS up to the proxy), ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``.
        is_chosen: The user or the system names it, or a script that these name; no script that was discovered, as
            any machine of the same network may answer for that. The signed-in user is named to no other.
    """

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str = field(default="", repr=False)
    is_chosen: bool = True

    @property
    def is_socks(self) -> bool:
        """It relays connections and knows nothing of HTTP."""
        return self.scheme.startswith("socks")

    def __str__(self) -> str:
        return f"{self.scheme}://{host_and_port(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Route:
    """How a server is reached.

    Attributes:
        proxy: None for a direct connection.
        reason: What decided it, for a person.
    """

    proxy: Proxy | None
    reason: str


DIRECT = Route(None, "no proxy is configured")


def parse_proxy(text: str, where: str) -> Proxy:
    """Return the proxy that *text* names: a URL, or ``host:port``, which means HTTP.

    Raises:
        ConfigError: It names none; *where* is the setting.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or parts.scheme not in _PORTS:
        schemes = "http, https, socks4, socks5 or socks5h"
        problem = f"not a proxy that can be used: name it as host:port or as a {schemes} URL"
        raise ConfigError(problem, where=where)
    username = None if parts.username is None else unquote(parts.username)
    return Proxy(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], username, unquote(parts.password or ""))


def matches_no_proxy(host: str, port: int, entries: Iterable[str]) -> str | None:
    """Return the entry of a ``NO_PROXY`` list that covers *host* and *port*; None if none does.

    An entry is ``*``, a name (which covers its subdomains, with a leading dot or ``*.`` or without), an address, or a
    network such as ``10.0.0.0/8``; each may end with ``:port``. Names are compared without regard to letter case.

    Source: the variable has no specification; this is what curl, Go's httpproxy and Python's urllib agree on, and
    networks and ports as Go has them.
    """
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in entries:
        pattern, wanted_port = _split_port(entry.strip().lower())
        if not pattern or (wanted_port is not None and wanted_port != port):
            continue
        if pattern == "*":
            return entry
        name = pattern.removeprefix("*").removeprefix(".").rstrip(".")
        if address is None:
            if name and (host == name or host.endswith(f".{name}")):
                return entry
            continue
        try:
            if address in ipaddress.ip_network(pattern, strict=False):
                return entry
        except ValueError:
            continue
    return None


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"\[([^]]+)\](?::([0-9]{1,5}))?|([^:]*)(?::([0-9]{1,5}))?", entry)
    if match is None:
        return entry, None  # an IPv6 address or network without brackets
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None


class ProxyRules:
    """Decides the route to each server, once for each origin.

    What counts first: *configured*, then *script*, then the environment (``HTTPS_PROXY``, ``HTTP_PROXY``,
    ``ALL_PROXY``), then the system's settings, a script named there included. ``NO_PROXY`` and *no_proxy* are heeded
    whichever it is.

    Args:
        configured: URL or ``host:port``; empty for no proxy at all, None for what follows.
        script: URL or path of a proxy script; ``auto`` to discover one (WPAD); empty for none.
        no_proxy: Servers that are reached directly, as ``NO_PROXY`` lists them.
    """

    def __init__(self, configured: str | None, *, script: str = "", no_proxy: Sequence[str] = ()) -> None:
        self._script_name = "" if configured is not None else script
        self._fixed = parse_proxy(configured, "network.proxy") if configured else None
        environment = getproxies_environment()
        self._no_proxy = (*no_proxy, *environment.get("no", "").split(","))
        self._variables: dict[str, Proxy] = {}
        self._system: dict[str, Proxy] = {}
        self._has_system_script = False
        if configured is None and not script:
            for scheme in ("http", "https", "all"):
                if environment.get(scheme):
                    self._variables[scheme] = parse_proxy(environment[scheme], f"{scheme.upper()}_PROXY")
            if not self._variables:
                self._system = _system_proxies()
                self._has_system_script = _has_system_script()
        self._failure = "", 0.0
        self._lock = anyio.Lock()
        self._known: dict[tuple[str, str, int], tuple[Route, ...]] = {}

    @property
    def is_always_direct(self) -> bool:
        """No server is reached through a proxy."""
        return not (self._fixed or self._variables or self._system or self._script_name or self._has_system_script)

    async def routes(self, url: httpx.URL) -> tuple[Route, ...]:
        """Return the routes to *url*'s server, the first that works to be taken.

        Raises:
            ConfigError: The proxy script cannot be had or run.
        """
        if self.is_always_direct:
            return (DIRECT,)
        port = url.port or _PORTS[url.scheme]
        origin = url.scheme, url.host, port
        if origin not in self._known:
            self._known[origin] = await self._decide(url, port)
        return self._known[origin]

    async def _decide(self, url: httpx.URL, port: int) -> tuple[Route, ...]:
        if (entry := matches_no_proxy(url.host, port, self._no_proxy)) is not None:
            return (Route(None, f"NO_PROXY covers it: {entry.strip()}"),)
        if self._fixed is not None:
            return (Route(self._fixed, "network.proxy"),)
        if self._script_name:
            return await self._ask_script(url, self._script_name)
        for scheme in (url.scheme, "all"):
            if scheme in self._variables:
                return (Route(self._variables[scheme], f"{scheme.upper()}_PROXY"),)
        if self._has_system_script:
            return await self._ask_script(url, "")
        proxy = self._system.get(url.scheme) or self._system.get("all")
        if proxy is None:
            return (DIRECT,)
        # On Windows it looks the name up, which may take long where only the proxy can.
        with anyio.move_on_after(_EXCEPTION_S):
            if await call_detached(proxy_bypass, url.host):
                return (Route(None, "the system's settings except it"),)
        return (Route(proxy, "the system's settings"),)

    async def _ask_script(self, url: httpx.URL, name: str) -> tuple[Route, ...]:
        where = "network.proxy_script" if name else "the system's proxy script"
        # One answer counts for a whole origin, and the rest of the URL is not told to the script.
        shown = str(url.copy_with(userinfo=b"", path="/", query=None, fragment=None))
        async with self._lock:
            if time.monotonic() < self._failure[1]:
                raise ConfigError(self._failure[0], where=where)
            try:
                with anyio.fail_after(_SCRIPT_S):
                    answer, problem = await _ask(name, shown, url.host)
            except TimeoutError:
                answer, problem = "", f"no answer within {_SCRIPT_S:g} s"
            if problem:
                self._failure = problem, time.monotonic() + _BELIEVED_S
                raise ConfigError(problem, where=where)
        routes = parse_script_answer(answer, where, is_chosen=name != "auto")
        return tuple(routes) or (Route(None, f"{where} names no proxy"),)


_SCRIPT_SCHEMES = {
    "PROXY": "http",
    "HTTP": "http",
    "HTTPS": "https",
    "SOCKS": "socks4a",
    "SOCKS4": "socks4a",
    "SOCKS5": "socks5",
}


def parse_script_answer(answer: str, reason: str, *, is_chosen: bool = True) -> list[Route]:
    """Return the routes that a proxy script's answer names, such as ``PROXY proxy:8080; DIRECT``.

    *is_chosen* as `Proxy.is_chosen`.

    Source: Netscape's "Navigator Proxy Auto-Config File Format"; ``HTTPS`` and ``SOCKS5`` as browsers know them, and
    as for them ``SOCKS`` is version 4. A bare ``host:port`` is WinHTTP's form.
    """
    routes = []
    for part in re.split(r"[;\n]", answer):
        kind, _, address = part.strip().partition(" ")
        if not kind:
            continue
        if kind.upper() == "DIRECT":
            routes.append(Route(None, f"{reason} says DIRECT"))
            continue
        scheme = _SCRIPT_SCHEMES.get(kind.upper()) if address else "http"
        # What cannot be used is passed over, as browsers do.
        if scheme is not None:
            with suppress(ConfigError):
                proxy = parse_proxy(f"{scheme}://{(address or kind).strip()}", reason)
                routes.append(Route(replace(proxy, is_chosen=is_chosen), reason))
    return routes


# urllib does not tell which: Windows speaks version 4, as urllib knows elsewhere, and macOS 5.
_SYSTEM_SOCKS = "socks4a" if sys.platform == "win32" else "socks5"


def _system_proxies() -> dict[str, Proxy]:
    proxies = {}
    for scheme, text in getproxies().items():
        if scheme in {"http", "https", "all", "socks"} and text:
            url = f"{_SYSTEM_SOCKS}://{text.rpartition('://')[2]}" if scheme == "socks" else text
            proxies["all" if scheme == "socks" else scheme] = parse_proxy(url, "the system's proxy settings")
    return proxies


if sys.platform == "win32":
    from symcache.stores.http.winhttp import find_proxy
    from symcache.stores.http.winhttp import has_script as _has_system_script

    async def _ask(name: str, url: str, _host: str) -> tuple[str, str]:
        try:
            return await call_detached(find_proxy, url, name), ""
        except OSError as error:
            return "", str(error)

else:
    from symcache.stores.http import pacfile

    def _has_system_script() -> bool:
        """Return whether the system's settings name a proxy script: on macOS they may."""
        return bool(pacfile.preferred_script())

    async def _ask(name: str, url: str, host: str) -> tuple[str, str]:
        """Return what the script called *name* says, empty for the system's own; and what is wrong, if anything is."""
        # In a process, as the interpreter of scripts lets no other thread run: one that loops would hold up all.
        command = [sys.executable, "-P", "-c", _ASK, str(Path(__file__).parents[3])]
        question = json.dumps([name, url, host]).encode()
        try:
            done = await anyio.run_process(command, input=question, stderr=subprocess.DEVNULL)
            answer, problem = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return "", "the proxy script ends the process that it runs in"
        return answer, problem


_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from symcache.stores.http.pacfile import main; main()"
