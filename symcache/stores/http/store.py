"""A symbol store behind HTTP: which names to ask for, in which order, and what the answers mean."""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import anyio

from symcache.errors import Forbidden, OtherBuild, UpstreamError, UpstreamUnavailable
from symcache.identity import POINTER, OtherKey, Tier, compressed_name, parse_runtime_library, relative_parts
from symcache.inputs.records import stated_by_image
from symcache.stores.base import FileRequest, Form, LookUp, Probed
from symcache.stores.http.download import Answer
from symcache.stores.http.imagehead import RangesRefusedError
from symcache.stores.http.urls import file_url, parse_url, redact
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import httpx

    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import ImageKey, Key
    from symcache.stores.http.download import Downloader
    from symcache.stores.http.servers import Hints

__all__ = ["HttpStore"]


T = TypeVar("T")

_FORBIDDEN = 403
_TWO_TIER_MARK = "index2.txt"


async def _or_forbidden(answer: Awaitable[Answer]) -> Answer:
    """Return *answer*, a 403 as one that may mean no such file: other names of the file are to be asked for, too."""
    try:
        return await answer
    except Forbidden:
        return Answer(_FORBIDDEN)


class HttpStore:
    """One symbol server; implements `SymbolStore`.

    Args:
        url: What its store's paths are joined to.
        hints: What is known of it.
        downloader: Fetches the files.

    Raises:
        UpstreamRefused: *url* is not one.
    """

    local = None
    is_on_disk = False
    is_server = True
    takes_uploads = False

    def __init__(self, url: str, hints: Hints, downloader: Downloader) -> None:
        self.base = parse_url(url)
        self.name = redact(self.base)
        self.hints = hints
        self._downloader = downloader
        self._tier = {None: None, True: Tier.TWO, False: Tier.ONE}[hints.two_tier]
        self._is_tier_sure = hints.two_tier is not None
        self._tier_lock = anyio.Lock()

    def find(self, key: Key) -> None:
        """Return None: nothing of the server is on disk."""

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:  # noqa: ARG002 - of the protocol
        """Yield nothing: nothing of the server is on disk."""
        return iter(())

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Fetch the file to *scratch*, under whichever of its names the server has it.

        Raises:
            StoreError: The disk does not take it.
        """
        if (refusal := self.hints.refusal(request.key)) is not None:
            return LookUp((Attempt(self.name, refusal),))
        attempts: list[Attempt] = []
        form: Form | None = None
        try:
            async with aclosing(self._tiers(attempts)) as tiers:
                async for tier in tiers:
                    form = await self._ask_names(request, tier, scratch, attempts)
                    if form is not None:
                        self._prove(tier)
                        break
                    request = replace(request, plain_answer=None)
        except UpstreamError as error:
            return LookUp(tuple(attempts), error=error, is_asked=True)
        forbidden = self._find_forbidden(request.key, attempts) if form is None else None
        return LookUp(tuple(attempts), form, error=forbidden, is_asked=True)

    async def read_headers(self, key: ImageKey) -> LookUp:
        """Return the headers of *key*'s image, by ranged requests of a few KiB each.

        The whole file has to be fetched if the server has no plain files or sends no ranges.
        """
        if (refusal := self.hints.refusal(key)) is not None:
            return LookUp((Attempt(self.name, refusal),))
        if not (self.hints.plain and self.hints.ranges):
            return LookUp(instead=FileRequest(key, in_passing=True))
        answer = Answer(404)
        try:
            async with aclosing(self._tiers([])) as tiers:
                async for tier in tiers:
                    answer = await _or_forbidden(self._downloader.read_image(self.url_of(key, tier=tier)))
                    if not answer.is_absent:
                        self._prove(tier)
                        break
        except RangesRefusedError:
            return LookUp(instead=FileRequest(key, in_passing=True))
        except UpstreamError as error:
            return LookUp((Attempt(self.name, error.problem),), error=error, is_asked=True)
        image = answer.image
        if image is None:
            if self.hints.compressed or self.hints.pointers:
                return LookUp(instead=FileRequest(key, plain_answer=str(answer.status), in_passing=True))
            attempts = (Attempt(self.name, str(answer.status)),)
            return LookUp(attempts, error=self._find_forbidden(key, attempts), is_asked=True)
        is_own = (image.timestamp, image.size_of_image) == (key.timestamp, key.size_of_image)
        if not is_own and parse_runtime_library(key.name) is None:
            problem = f"another image: {image.timestamp:08X}{image.size_of_image:x}"
            wrong = OtherBuild(problem, url=self.name)
            return LookUp((Attempt(self.name, f"200, but {problem}"),), error=wrong, is_asked=True)
        return LookUp((Attempt(self.name, "206"),), image=image, is_asked=True)

    async def read_version(self, key: ImageKey) -> VersionInfo | None:
        """Return what *key*'s image says of its origin; None if it is not there, or cannot be had in parts."""
        return await self._read_in_parts(key, self._downloader.read_version)

    async def read_runtime(self, key: ImageKey) -> RuntimeFacts | None:
        """Return what *key*'s image says of the .NET runtime that it is or holds; None as `read_version`."""
        return await self._read_in_parts(key, self._downloader.read_runtime)

    async def _read_in_parts(self, key: ImageKey, read: Callable[[httpx.URL], Awaitable[T | None]]) -> T | None:
        if self.hints.refusal(key) is not None or not (self.hints.plain and self.hints.ranges):
            return None
        with suppress(RangesRefusedError, UpstreamError):
            return await read(self.url_of(key, tier=self._tier or Tier.ONE))
        return None

    async def probe(self, key: Key) -> Probed:
        """Return what the server says of *key*'s file; one byte is requested."""
        if (refusal := self.hints.refusal(key)) is not None:
            return Probed(None, refusal)
        answers: list[str] = []
        found: Probed | None = None
        try:
            async with aclosing(self._tiers([])) as tiers:
                async for tier in tiers:
                    found = await self._ask_for_one_byte(key, tier, answers)
                    if found is not None:
                        break
        except UpstreamError as error:
            return Probed(None, ", ".join([*answers, error.problem]), is_no_answer=True)
        return found or Probed(None, ", ".join(answers))

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Do nothing; see `symcache.stores.negative`."""

    def forget_absent(self, key: Key) -> None:
        """Do nothing; see `symcache.stores.negative`."""

    def url_of(self, key: Key, name: str | None = None, *, tier: Tier | None = None) -> httpx.URL:
        """Return where *key*'s file lies at this upstream, under *name* if that is not its own.

        *tier* is that of its tree; None for what is known so far.
        """
        parts = (*relative_parts(key, tier or self._tier or Tier.ONE), name or key.name)
        return file_url(self.base, map(self.hints.spell, parts))

    def fields_for(self, checksums: Sequence[str]) -> Mapping[str, str]:
        """Return the fields that this upstream wants beside the usual ones.

        Source: SSQP, "SymbolChecksum": algorithm, colon, lower-case hex, several joined by semicolons.
        """
        stated = stated_by_image(checksums)
        return {"SymbolChecksum": ";".join(stated)} if self.hints.checksum and stated else {}

    async def _ask_names(self, request: FileRequest, tier: Tier, scratch: Path, attempts: list[Attempt]) -> Form | None:
        key, fields = request.key, self.fields_for(request.checksums)
        for name, form in self._names(key):
            asked = None if name == key.name else name
            if form is Form.PLAIN and request.plain_answer is not None:
                attempts.append(Attempt(self.name, request.plain_answer, asked))
                continue
            try:
                answer = await _or_forbidden(
                    self._downloader.download(
                        self.url_of(key, name, tier=tier),
                        scratch,
                        index=key.index,
                        headers=fields,
                        says_its_length=form is not Form.PLAIN or not isinstance(key, OtherKey),
                    )
                )
            except UpstreamError as error:
                attempts.append(Attempt(self.name, error.problem, asked))
                raise
            if answer.is_absent:
                attempts.append(Attempt(self.name, str(answer.status), asked))
                continue
            attempts.append(Attempt(self.name, "200", asked))
            return form
        return None

    async def _ask_for_one_byte(self, key: Key, tier: Tier, answers: list[str]) -> Probed | None:
        for name, form in self._names(key):
            try:
                async with self._downloader.client.get(self.url_of(key, name, tier=tier), end=1) as reply:
                    if not reply.is_miss:
                        await reply.begin()
                        size = f", {reply.size_bytes} bytes" if reply.size_bytes else ""
                        return Probed(form, f"there, {form}{size}", reply.size_bytes)
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
            yield POINTER, Form.POINTER

    async def _tiers(self, attempts: list[Attempt]) -> AsyncGenerator[Tier, None]:
        """Yield the trees in which the upstream may have a file, for who goes on until it is found.

        A definite no of the mark says that there is one tier. Anything else may be a mistake of the moment, as a 200
        that is empty looks like the mark: until a file was found in either tree, both are asked, since only then a file
        is known to be missing.

        Raises:
            UpstreamUnavailable: As `_learn_tier`.
        """
        first = self._tier or Tier.ONE
        yield first
        learned = await self._learn_tier(attempts)
        if learned is not first or not self._is_tier_sure:
            yield Tier.TWO if first is Tier.ONE else Tier.ONE

    def _prove(self, tier: Tier) -> None:
        """Note that the upstream has a file in that tree."""
        if not self._is_tier_sure and (self._tier is not None or tier is Tier.TWO):
            self._tier, self._is_tier_sure = tier, True

    async def _learn_tier(self, attempts: list[Attempt]) -> Tier:
        """Return how many tiers the upstream has, asking it once, and only after it did not have a file.

        Raises:
            UpstreamUnavailable: It cannot be asked now, so it is not known whether it has the file.
        """
        async with self._tier_lock:
            if self._tier is None:
                try:
                    is_two_tier = await self._downloader.exists(file_url(self.base, [_TWO_TIER_MARK]))
                    self._is_tier_sure = not is_two_tier
                except UpstreamUnavailable as error:
                    attempts.append(Attempt(self.name, error.problem, _TWO_TIER_MARK))
                    raise
                except UpstreamError as error:
                    is_two_tier = False  # a page, or a rule that hides it: no mark in any case
                    self._is_tier_sure = isinstance(error, Forbidden) and self.hints.forbidden_is_missing
                self._tier = Tier.TWO if is_two_tier else Tier.ONE
        return self._tier
