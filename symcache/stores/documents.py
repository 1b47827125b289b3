"""Documents from servers that are no symbol files: kept for this user, with what tells whether they are still current.

Each lies under a hash of its URL, beside a file of JSON that says where it is from and when its server was asked. What
a server said not to have is kept, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from symcache.inputs.records import DocumentsWanted
from symcache.stores.local.atomic import as_store_error, drop, make_private
from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.inputs.records import Document, Record

_LARGEST_NOTE_BYTES = 1 << 14
_LATEST_S = 1e11  # the year 5138
NOT_HERE = "not fetched yet; `symcache warm` fetches them"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a document."""

    url: str
    asked_s: float  # when its server last said so, in seconds since 1970
    is_missing: bool = False
    etag: str | None = None
    last_modified: str | None = None
    size_bytes: int = 0
    changed_ns: int = 0  # with the length it tells whether the file is the one that the note is about

    @property
    def date(self) -> str:
        """The day of *asked_s*."""
        return datetime.fromtimestamp(self.asked_s, UTC).date().isoformat()

    @property
    def conditions(self) -> dict[str, str]:
        """Fields of a request that is answered only if there is a newer one. Source: RFC 9110, section 13.1."""
        fields = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {} if self.is_missing else {name: value for name, value in fields.items() if value is not None}


class DocumentCache:
    """Documents on disk, in *folder*; without a network they are as good as new, whatever their age.

    *recheck_s* is how old one may be before its server is asked again; *clock_s* tells seconds since 1970.
    """

    def __init__(self, folder: Path, *, recheck_s: float, clock_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._recheck_s = recheck_s
        self._clock_s = clock_s

    def answer(self, documents: Iterable[Document], *, may_fetch: bool) -> list[Document]:
        """Answer in each of *documents* what is kept of it; return those that are to be asked for.

        Unless the network *may_fetch* them, there is none left, and what is not kept cannot be had.
        """
        left: list[Document] = []
        for document in documents:
            if not document.is_open:
                continue
            kept = self.find(document.url)
            is_current = kept is not None and 0 <= self._clock_s() - kept.asked_s < self._recheck_s
            if kept is not None and (is_current or not may_fetch):
                self.give(document, kept)
            elif may_fetch:
                left.append(document)
            else:
                document.problem = NOT_HERE
        return left

    def give(self, document: Document, kept: Kept) -> None:
        """Answer *document* by what is kept of it."""
        document.is_missing = kept.is_missing
        document.path = None if kept.is_missing else self.path_of(document.url)

    def find(self, url: str) -> Kept | None:
        """Return what is kept of the document at *url*; None if that is nothing, or not to be read."""
        with suppress(OSError, LookupError, ValueError, TypeError, RecursionError):
            with self._note_of(url).open("rb") as file:
                fields: Any = json.loads(file.read(_LARGEST_NOTE_BYTES))
            kept = Kept(
                str(fields["url"]),
                float(fields["asked_s"]),
                fields["is_missing"] is True,
                _text(fields["etag"]),
                _text(fields["last_modified"]),
                int(fields["size_bytes"]),
                int(fields["changed_ns"]),
            )
            if not 0 <= kept.asked_s < _LATEST_S:
                return None
            if kept.url != _shown(url):
                return None
            if kept.is_missing:
                return kept
            status = self.path_of(url).stat()
            return kept if (status.st_size, status.st_mtime_ns) == (kept.size_bytes, kept.changed_ns) else None
        return None

    def scratch(self, url: str) -> Path:
        """Return where a document may grow that is to be put in the place of *url*'s.

        Raises:
            StoreError: The folder cannot be made, or belongs to another user.
        """
        make_private(self._folder)
        return self.path_of(url).with_name(f"{self.path_of(url).name}.{token_hex(4)}.part")

    def put(self, url: str, scratch: Path, *, etag: str | None = None, last_modified: str | None = None) -> Kept:
        """Put *scratch* in the place of *url*'s document; raises `StoreError`."""
        try:
            status = scratch.stat()
            drop(self._note_of(url))  # between two renames it must not speak of the other file
            os.replace(scratch, self.path_of(url))  # noqa: PTH105 - of this very folder
        except OSError as error:
            raise as_store_error(error, scratch) from error
        size, changed_ns = status.st_size, status.st_mtime_ns
        return self._note(Kept(_shown(url), self._clock_s(), False, etag, last_modified, size, changed_ns), url)

    def put_missing(self, url: str) -> Kept:
        """Keep that *url*'s server has no such document; raises `StoreError`."""
        make_private(self._folder)
        kept = self._note(Kept(_shown(url), self._clock_s(), is_missing=True), url)
        drop(self.path_of(url))
        return kept

    def renew(self, url: str, kept: Kept) -> Kept:
        """Keep that *kept* is still what *url*'s server has; raises `StoreError`."""
        fields = asdict(kept) | {"asked_s": self._clock_s()}
        return self._note(Kept(**fields), url)

    def path_of(self, url: str) -> Path:
        """Return where *url*'s document lies, if it is there; nothing of the URL is in the path."""
        return self._folder / hashlib.sha256(url.encode()).hexdigest()

    def _note_of(self, url: str) -> Path:
        return self.path_of(url).with_suffix(".json")

    def _note(self, kept: Kept, url: str) -> Kept:
        path = self._note_of(url)
        scratch = path.with_name(f"{path.name}.{token_hex(4)}.part")
        try:
            scratch.write_text(json.dumps(asdict(kept)), encoding="utf-8")
            os.replace(scratch, path)  # noqa: PTH105 - of this very folder
        except OSError as error:
            drop(scratch)
            raise as_store_error(error, path) from error
        return kept


def answered(records: Iterable[Record], cache: DocumentCache) -> Iterator[Record]:
    """Yield *records*; the documents that their readers need are answered by what *cache* has, without a network."""
    for record in records:
        if isinstance(record, DocumentsWanted):
            cache.answer(record.documents, may_fetch=False)
        else:
            yield record


def stale_text(stale: Sequence[tuple[Document, Kept, str]]) -> str:
    """Return what is to be told of documents whose server could not be asked, with what was kept of them and why."""
    oldest = min(stale, key=lambda each: each[1].asked_s)[1].date
    document, _, problem = stale[0]
    what = f"the copy of {document.name}" if len(stale) == 1 else f"{len(stale)} copies of documents, the oldest"
    return f"{problem}; {what} of {oldest} is used" if len(stale) == 1 else f"{problem}; {what} of {oldest}, are used"


def _shown(url: str) -> str:
    return redact_url(url)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and value.isascii() and len(value) < 1000 else None
