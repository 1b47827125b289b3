"""Servers behind servers: each adds itself to the ``Via`` field of what it asks, and knows itself again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from symcache.upstream.client import VIA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.server.exchange import Exchange

__all__ = ["Loops"]

_MOST_HOPS = 16


class Loops:
    """Finds requests that this server has made itself, by way of others.

    Args:
        run: Names this server; a random text.
    """

    def __init__(self, run: str) -> None:
        self._own = f"symcache-{run}"

    def is_in_one(self, exchange: Exchange) -> bool:
        """Whether *exchange* came from this very server, or by way of too many."""
        via = exchange.fields.get(b"via")
        if via is None:
            return False
        hops = via.decode("latin-1").split(",")
        return len(hops) > _MOST_HOPS or any(self._own in hop.split() for hop in hops)

    @contextmanager
    def noting(self, exchange: Exchange) -> Iterator[None]:
        """Let what is asked of upstreams in a ``with`` block say whom it is for.

        Source: RFC 9110, section 7.6.3: protocol version and a name, nearest hop last.
        """
        before = exchange.fields.get(b"via", b"").decode("latin-1")
        own = f"1.1 {self._own}"
        token = VIA.set(f"{before}, {own}" if before and before.isprintable() else own)
        try:
            yield
        finally:
            VIA.reset(token)
