"""A symbol store behind HTTP: which names to ask for, in which order, and what is remembered of its answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from symcache.errors import Forbidden, UpstreamError, UpstreamUnavailable, WrongContent
from symcache.identity import Tier, compressed_name, relative_parts
from symcache.stores.http.download import NotHere
from symcache.stores.http.imagehead import RangesRefusedError
from symcache.stores.http.urls import file_url, parse_url, redact
from symcache.stores.local.tree import Form
from symcache.stores.results import Attempt, Brought

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx

    from symcache.formats.pe.image import Image
    from symcache.identity import ImageKey, Key
    from symcache.stores.http.download import Downloader
    from symcache.stores.http.servers import Hints
    from symcache.stores.negative import Misses

__all__ = ["HttpStore"]


T = TypeVar("T")

_POINTER = "file.ptr"
_FORBIDDEN = 403
_TWO_TIER_MARK = "index2.txt"


async def _or_forbidden(answer: Awaitable[T]) -> T | NotHere:
    """Return *answer*, a 403 as one that may mean no such file: other names of the file are to be asked for, too."""
    try:
        return await answer
    except Forbidden:
        return NotHere(_FORBIDDEN)


class HttpStore:
    """One upstream.

    Args:
        url: What its store's paths are joined to.
        hints: What is known of it.
        downloader: Brings the files.
        misses: Where its "no such file" is remembered; None remembers nothing.

    Raises:
        UpstreamRefused: *url* is not one.
    """

    def __init__(self, url: str, hints: Hints, downloader: Downloader, misses: Misses | None) -> None:
        self.base = parse_url(url)
        self.name = redact(self.base)
        self.hints = hints
        self._downloader = downloader
        self._misses = misses
        self._tier = {None: None, True: Tier.TWO, False: Tier.ONE}[hints.two_tier]
        self._tier_lock = anyio.Lock()

    async def bring(
        self,
        key: Key,
        scratch: Path,
        *,
        checksums: Sequence[str] = (),
        no_plain: NotHere | None = None,
        in_passing: bool = False,
    ) -> Brought:
        """Bring *key*'s file to *scratch*, under whichever of its names the upstream has it.

        Only a definite "no such file" is remembered. With *no_plain*, its answer to `read_headers`, the plain file is
        not asked for again. With *in_passing* nobody wants the file itself.

        Raises:
            StoreError: The disk does not take it.
        """
        known = self._answer_unasked(key, in_passing=in_passing)
        if known is not None:
            return known
        attempts: list[Attempt] = []
        asked_tier = self._tier or Tier.ONE
        try:
            form = await self._ask_names(key, scratch, checksums, attempts, no_plain)
            if form is None and await self._learn_tier(attempts) is not asked_tier:
                form = await self._ask_names(key, scratch, checksums, attempts)
        except UpstreamError as error:
            return Brought(attempts=tuple(attempts), error=error, asked=True)
        if form is None and (forbidden := self._find_forbidden(key, attempts)) is not None:
            return Brought(attempts=tuple(attempts), error=forbidden, asked=True)
        if form is None and attempts:
            self.remember_miss(key, attempts[-1].answer, in_passing=in_passing)
        return Brought(form, tuple(attempts), asked=True)

    async def ask(self, key: Key) -> tuple[Form | None, str]:
        """Return in which form the upstream has *key*'s file, and its answer in words; one byte is asked for."""
        known = self._answer_unasked(key)
        if known is not None:
            return None, known.attempts[-1].answer
        answers: list[str] = []
        asked_tier = self._tier or Tier.ONE
        try:
            found = await self._ask_for_one_byte(key, answers)
            if found is None and await self._learn_tier([]) is not asked_tier:
                found = await self._ask_for_one_byte(key, answers)
        except UpstreamError as error:
            return None, ", ".join([*answers, error.problem])
        return found or (None, ", ".join(answers))

    async def read_headers(self, key: ImageKey) -> Image | Brought | NotHere | None:
        """Return the headers of *key*'s image, by ranged requests of a few KiB each.

        Returns:
            A `Brought` if there is no such image; None if the whole file has to be brought, as the upstream has no
            plain files or sends no ranges; a `NotHere` if that file can only be one of another form.
        """
        known = self._answer_unasked(key)
        if known is not None:
            return known
        if not (self.hints.plain and self.hints.ranges):
            return None
        try:
            asked_tier = self._tier or Tier.ONE
            found = await _or_forbidden(self._downloader.read_image(self.url_of(key)))
            if isinstance(found, NotHere) and await self._learn_tier([]) is not asked_tier:
                found = await _or_forbidden(self._downloader.read_image(self.url_of(key)))
        except RangesRefusedError:
            return None
        except UpstreamError as error:
            return Brought(attempts=(Attempt(self.name, error.problem),), error=error, asked=True)
        if isinstance(found, NotHere):
            if self.hints.compressed or self.hints.pointers:
                return found
            attempts = (Attempt(self.name, str(found.status)),)
            forbidden = self._find_forbidden(key, attempts)
            if forbidden is None:
                self.remember_miss(key, str(found.status), in_passing=True)
            return Brought(attempts=attempts, error=forbidden, asked=True)
        if (found.timestamp, found.size_of_image) != (key.timestamp, key.size_of_image):
            problem = f"another image: {found.timestamp:08X}{found.size_of_image:x}"
            wrong = WrongContent(problem, url=self.name)
            return Brought(attempts=(Attempt(self.name, f"200, but {problem}"),), error=wrong, asked=True)
        return found

    def remember_miss(self, key: Key, answer: str, *, in_passing: bool = False) -> None:
        """Note that the upstream has no file for *key*, which nobody wanted for itself if it was *in_passing*."""
        if self._misses is not None:
            self._misses.remember(self.name, key, answer, in_passing=in_passing)

    def forget_miss(self, key: Key) -> None:
        """Drop what was remembered of *key*: it has turned up."""
        if self._misses is not None:
            self._misses.forget(self.name, key)

    def url_of(self, key: Key, name: str | None = None) -> httpx.URL:
        """Return where *key*'s file lies at this upstream, under *name* if that is not its own."""
        parts = (*relative_parts(key, self._tier or Tier.ONE), name or key.name)
        return file_url(self.base, map(self.hints.spell, parts))

    def fields_for(self, checksums: Sequence[str]) -> Mapping[str, str]:
        """Return the fields that this upstream wants beside the usual ones.

        Source: SSQP, "SymbolChecksum": algorithm, colon, lower-case hex, several joined by semicolons.
        """
        return {"SymbolChecksum": ";".join(checksums)} if self.hints.checksum and checksums else {}

    def _answer_unasked(self, key: Key, *, in_passing: bool = True) -> Brought | None:
        refusal = self.hints.refusal(key)
        if refusal is not None:
            return Brought(attempts=(Attempt(self.name, refusal),))
        if self._misses is not None and (miss := self._misses.recall(self.name, key)) is not None:
            if miss.in_passing and not in_passing:
                self._misses.keep(replace(miss, in_passing=False))
            return Brought(attempts=(Attempt(self.name, f"{miss.answer}, remembered"),), remembered=True)
        return None

    async def _ask_names(
        self,
        key: Key,
        scratch: Path,
        checksums: Sequence[str],
        attempts: list[Attempt],
        no_plain: NotHere | None = None,
    ) -> Form | None:
        for name, form in self._names(key):
            asked = None if name == key.name else name
            if form is Form.PLAIN and no_plain is not None:
                attempts.append(Attempt(self.name, str(no_plain.status), asked))
                continue
            try:
                answer = await _or_forbidden(
                    self._downloader.download(
                        self.url_of(key, name), scratch, index=key.index, headers=self.fields_for(checksums)
                    )
                )
            except UpstreamError as error:
                attempts.append(Attempt(self.name, error.problem, asked))
                raise
            if isinstance(answer, NotHere):
                attempts.append(Attempt(self.name, str(answer.status), asked))
                continue
            attempts.append(Attempt(self.name, "200", asked))
            return form
        return None

    async def _ask_for_one_byte(self, key: Key, answers: list[str]) -> tuple[Form, str] | None:
        for name, form in self._names(key):
            try:
                async with self._downloader.client.get(self.url_of(key, name), end=1) as reply:
                    if not reply.is_miss:
                        await reply.begin()
                        size = f", {reply.size_bytes} bytes" if reply.size_bytes else ""
                        return form, f"there, {form}{size}"
                    status = reply.status
            except Forbidden:
                status = _FORBIDDEN
            answers.append(str(status) if name == key.name else f"{status} ({name})")
        return None

    def _find_forbidden(self, key: Key, attempts: Iterable[Attempt]) -> Forbidden | None:
        """Return why *attempts*, none of which brought the file, are no definite no; None if they are."""
        if self.hints.forbidden_is_missing or all(attempt.answer != str(_FORBIDDEN) for attempt in attempts):
            return None
        return Forbidden(str(_FORBIDDEN), url=redact(self.url_of(key)))

    def _names(self, key: Key) -> Iterator[tuple[str, Form]]:
        plain = (key.name, Form.PLAIN)
        compressed = (compressed_name(key.name), Form.COMPRESSED)
        order = (compressed, plain) if self.hints.compressed_first else (plain, compressed)
        wanted = {Form.PLAIN: self.hints.plain, Form.COMPRESSED: self.hints.compressed}
        yield from (pair for pair in order if wanted[pair[1]])
        if self.hints.pointers:
            yield _POINTER, Form.POINTER

    async def _learn_tier(self, attempts: list[Attempt]) -> Tier:
        """Return how many tiers the upstream has, asking it once, and only after it did not have a file.

        Raises:
            UpstreamUnavailable: It cannot be asked just now, so that it is not known either whether it has the file.
        """
        async with self._tier_lock:
            if self._tier is None:
                try:
                    is_two_tier = await self._downloader.exists(file_url(self.base, [_TWO_TIER_MARK]))
                except UpstreamUnavailable as error:
                    attempts.append(Attempt(self.name, error.problem, _TWO_TIER_MARK))
                    raise
                except UpstreamError:
                    is_two_tier = False  # a page, or a rule that hides it: no mark in any case
                self._tier = Tier.TWO if is_two_tier else Tier.ONE
        return self._tier
