"""Fetching single files again, for code that runs on no event loop."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from symcache.cli.output import say
from symcache.events import Noted
from symcache.stores.results import Failed, Fetched, Missing, Present
from symcache.stores.source import SymbolSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.from_thread import BlockingPortal

    from symcache.config import Config
    from symcache.events import Event
    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["Refetch", "refetching"]


class Refetch:
    """Brings the file of a key into one store.

    Attributes:
        missing: How often no place of the symbol path had it.
        failed: How often that could not be told, or it could not be had.
    """

    def __init__(self, portal: BlockingPortal, source: SymbolSource, store: Store) -> None:
        self._portal = portal
        self._source = source
        self._store = store
        self.missing = 0
        self.failed = 0

    def __call__(self, key: Key) -> str | None:
        """Return why the file of *key* is not in the store; None if it is."""
        match self._portal.call(self._source.fetch, key):
            case Present(path) | Fetched(path):
                if path.is_relative_to(self._store.root):
                    return None
                self.missing += 1
                return f"debuggers open it in {path}"
            case Missing(cause, detail=detail):
                self.missing += 1
                return detail or cause.value
            case Failed(cause, detail=detail):
                self.failed += 1
                return detail or cause.value


@contextmanager
def refetching(config: Config, store: Store, *, quiet: bool) -> Iterator[Refetch]:
    """Lend what fetches along the symbol path, whose bottom-most store *store* is."""

    def observe(event: Event) -> None:
        if isinstance(event, Noted) and not quiet:
            say(event.text)

    source = SymbolSource(config, observer=observe)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(source):
        yield Refetch(portal, source, store)
