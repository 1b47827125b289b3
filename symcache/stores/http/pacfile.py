"""What a proxy script (PAC) says of a URL, where Windows does not run it; called in a process of its own."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import httpx

from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["find_proxy", "main", "preferred_script"]


_LARGEST_SCRIPT_BYTES = 1 << 20
_LARGEST_PROCESS_BYTES = 2 << 30
_DOWNLOAD_S = 5.0


class _ScriptError(Exception):
    """There is no script, or it does not run."""


def find_proxy(name: str, url: str, host: str) -> tuple[str, str]:
    """Return what a proxy script says of *url*, as ``PROXY host:port; DIRECT``, and what is wrong, if anything is.

    Args:
        name: URL or path of the script; ``auto`` to discover one; empty for the system's own.
        url: The server's address.
        host: Its host.
    """
    try:
        return str(_open(name)(url, host) or ""), ""
    except _ScriptError as error:
        return "", str(error)
    except Exception as error:  # noqa: BLE001 - whatever a script makes of its interpreter
        return "", f"the proxy script fails for {host}: {_first_line(error)}"


def main() -> None:
    """Answer the question on standard input, the arguments of `find_proxy`, on standard output, both in JSON."""
    answer = find_proxy(*json.load(sys.stdin))
    json.dump(answer, sys.stdout)


def preferred_script() -> str:
    """Return the URL of the script that the system's settings name; empty for none. On macOS they may."""
    if sys.platform == "darwin":
        with suppress(ImportError):
            from pypac.os_settings import autoconfig_url_from_preferences  # noqa: PLC0415

            return autoconfig_url_from_preferences() or ""
    return ""


def _open(name: str) -> Callable[[str, str], str]:
    try:
        from pypac.parser import MalformedPacError, PACFile  # noqa: PLC0415 - it brings requests
        from pypac.wpad import proxy_urls_from_dns  # noqa: PLC0415
    except ImportError:
        raise _ScriptError("it needs an extra: pip install 'symcache[pac]'; or name the proxy itself") from None
    places = [preferred_script(), *proxy_urls_from_dns()] if name == "auto" else [name or preferred_script()]
    text = _load([place for place in places if place])
    _limit_memory()
    try:
        find: Callable[[str, str], str] = PACFile(text).find_proxy_for_url
    except MalformedPacError as error:
        cause = getattr(error, "original_exc", None) or error
        raise _ScriptError(f"not a proxy script that runs: {_first_line(cause)}") from error
    return find


def _load(places: list[str]) -> str:
    """Return the text of the first script of *places*, URLs or paths, that can be had."""
    problem = "no proxy script was found; name the proxy itself in network.proxy"
    for place in places:
        try:
            if "://" not in place or place.startswith("file://"):
                path = unquote(urlsplit(place).path) if "://" in place else place
                with Path(path).open("rb") as file:
                    return file.read(_LARGEST_SCRIPT_BYTES).decode("utf-8", "replace")
            # The way to the script is never through a proxy, as it is what names one.
            with (
                httpx.Client(trust_env=False, timeout=_DOWNLOAD_S, follow_redirects=True) as client,
                client.stream("GET", place) as response,
            ):
                response.raise_for_status()
                received = bytearray()
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > _LARGEST_SCRIPT_BYTES:
                        break
                return received.decode("utf-8", "replace")
        except OSError as error:
            problem = f"the proxy script {redact_url(place)} cannot be read: {error.strerror or error}"
        except httpx.HTTPStatusError as error:
            problem = f"the proxy script {redact_url(place)} cannot be had: {error.response.status_code}"
        except httpx.InvalidURL:
            problem = f"the proxy script {redact_url(place)} cannot be had: not a URL"
        except httpx.HTTPError as error:
            problem = f"the proxy script {redact_url(place)} cannot be had: {_first_line(error)}"
    raise _ScriptError(problem)


def _limit_memory() -> None:
    """Let a script that fills the memory fail instead."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415

        with suppress(OSError, ValueError):
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (_LARGEST_PROCESS_BYTES, hard))


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
