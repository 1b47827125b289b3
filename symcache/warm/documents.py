"""What readers want to see of servers beside symbol files, for work that is no run: answered, fetched where need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from symcache.inputs.records import DocumentsWanted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.inputs.records import Document, Record

T = TypeVar("T")


def answered_by_servers(records: Iterable[Record], config: Config, observer: Observer) -> Iterator[Record]:
    """Yield *records*; the documents that their readers need are those that are kept, else fetched.

    Raises:
        ConfigError: The network cannot be used.
    """
    for record in records:
        if isinstance(record, DocumentsWanted):
            _answer(record, config, observer)
        else:
            yield record


def carry_through(work: Generator[DocumentsWanted, None, T], config: Config, observer: Observer) -> T:
    """Return what *work* does, whose questions are answered by what is kept, else by the servers of the documents.

    Raises:
        ConfigError: The network cannot be used.
    """
    while True:
        try:
            wanted = next(work)
        except StopIteration as end:
            found: T = end.value
            return found
        _answer(wanted, config, observer)


def _answer(wanted: DocumentsWanted, config: Config, observer: Observer) -> None:
    from symcache.stores.documents import DocumentCache  # noqa: PLC0415 - hashes and JSON, for a question alone

    cache = DocumentCache(config.builds.cache, recheck_s=config.builds.recheck_s)
    if left := cache.answer(wanted.documents, may_fetch=True):
        _fetch(left, config, observer)


def _fetch(documents: Sequence[Document], config: Config, observer: Observer) -> None:
    import anyio  # noqa: PLC0415 - what is kept needs no event loop

    from symcache.stores.source import SymbolSource  # noqa: PLC0415

    async def fetch() -> None:
        async with SymbolSource(config, observer=observer) as source:
            await source.fetch_documents(documents)

    anyio.run(fetch)
