"""Which credentials a server gets: those of its entry in the config file, else those of the user's netrc file."""

from __future__ import annotations

import netrc
from typing import TYPE_CHECKING

from symcache.stores.http.client import basic
from symcache.stores.http.servers import entry_for

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from symcache.config import ServerEntry

__all__ = ["Credentials"]


class Credentials:
    """Credentials by URL; never shown, never kept anywhere else.

    Args:
        entries: What the config file says of servers.
        netrc_file: The user's netrc file; None looks at none. One that cannot be read counts as empty.
    """

    def __init__(self, entries: tuple[ServerEntry, ...], netrc_file: Path | None) -> None:
        self._entries = entries
        self._hosts: dict[str, tuple[str, str, str]] = {}
        if netrc_file is not None and netrc_file.is_file():
            try:
                self._hosts = dict(netrc.netrc(str(netrc_file)).hosts)
            except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
                self._hosts = {}
        # It would be sent to every server there is.
        self._hosts.pop("default", None)

    def authorize(self, url: httpx.URL) -> str | None:
        """Return the ``Authorization`` field for *url*; None if nothing is known for it."""
        entry = entry_for(str(url), self._entries)
        if entry is not None and entry.token is not None:
            return f"Bearer {entry.token}"
        if entry is not None and entry.password is not None:
            return basic(entry.username or "", entry.password)
        known = self._hosts.get(url.host)
        return basic(known[0] or known[1], known[2]) if known is not None else None
