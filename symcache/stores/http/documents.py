"""Fetch documents that are no symbol files, and keep them: asked for only if there is a newer one than that kept."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from symcache.errors import InputError, StoreError, UpstreamError
from symcache.stores.documents import stale_text
from symcache.stores.http.urls import parse_url
from symcache.stores.local.atomic import drop
from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from symcache.inputs.records import Document
    from symcache.stores.documents import DocumentCache, Kept
    from symcache.stores.http.download import Downloader

__all__ = ["fetch_documents"]

# A page of static files is asked, by one user for some hundreds of documents.
_AT_ONCE = 8
_MANY = 16


async def fetch_documents(
    documents: Sequence[Document], cache: DocumentCache, downloader: Downloader, notify: Callable[[str], None]
) -> None:
    """Answer in each of *documents*, which *cache* cannot answer, what its server has; 8 at once.

    Where the server cannot be asked, or sends what is no such document, what is kept is taken, whatever its age, and
    *notify* is told of that once, and beforehand if there are many.
    """
    if len(documents) > _MANY:
        hosts = dict.fromkeys(host for each in documents if (host := urlsplit(each.url).hostname))
        notify(f"{len(documents)} documents are asked for at {', '.join(hosts)}")
    stale: list[tuple[Document, Kept, str]] = []
    turns = iter(documents)

    async def work() -> None:
        await _fetch_each(turns, cache, downloader, stale)

    async with anyio.create_task_group() as group:
        for _ in range(min(_AT_ONCE, len(documents))):
            group.start_soon(work)
    if stale:
        notify(stale_text(stale))


async def _fetch_each(
    documents: Iterator[Document], cache: DocumentCache, downloader: Downloader, stale: list[tuple[Document, Kept, str]]
) -> None:
    for document in documents:
        kept = cache.find(document.url)
        try:
            cache.give(document, await _fetch(document, kept, cache, downloader))
        except (UpstreamError, StoreError, InputError) as error:
            is_wrong = isinstance(error, InputError)  # what came; where from it does not say
            problem = f"{redact_url(document.url)} sent something else: {error}" if is_wrong else str(error)
            if kept is None:
                document.problem = problem
            else:
                stale.append((document, kept, problem))
                cache.give(document, kept)


async def _fetch(document: Document, kept: Kept | None, cache: DocumentCache, downloader: Downloader) -> Kept:
    scratch = cache.scratch(document.url)
    try:
        status, etag, last_modified = await downloader.bring(
            parse_url(document.url),
            scratch,
            conditions={} if kept is None else kept.conditions,
            largest_bytes=document.largest_bytes,
        )
        if status == 304 and kept is not None:
            return cache.renew(document.url, kept)
        if status >= 400:
            return cache.put_missing(document.url)
        await to_thread.run_sync(_check, document, scratch)
        return cache.put(document.url, scratch, etag=etag, last_modified=last_modified)
    finally:
        drop(scratch)


def _check(document: Document, path: Path) -> None:
    if document.check is not None:
        document.check(path)
