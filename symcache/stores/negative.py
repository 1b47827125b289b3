"""The negative cache: which servers answered "no such file" and when, so that they are not asked again too soon."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, StoreError
from symcache.identity import ImageKey, fold, parse_index, published_keys
from symcache.stores.base import FileRequest, LookUp, Probed
from symcache.stores.disk import held_in
from symcache.stores.links import ImageLinks, StoreLinks
from symcache.stores.memory import Memory
from symcache.stores.results import Attempt, Hint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from symcache.identity import Key
    from symcache.stores.base import SymbolStore
    from symcache.stores.source import SymbolSource


_KEPT_S = 90 * 24 * 3600
_MOST_UNKNOWN_KEYS = 4096
_MOST_INPUTS = 8
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Wanted:
    """For what runs wanted a file that is missing. Names are cut and printable: they come from hostile input."""

    module: str | None = None  # name of the module that needs it
    maker: str | None = None  # who made that, as its version resource says
    hint: Hint | None = None
    inputs: tuple[str, ...] = ()  # base names of the last inputs, the latest first
    count: int = 0  # how many inputs wanted it, as far as these names tell them apart

    def after(self, known: Wanted | None) -> Wanted:
        """Return what is known when this comes after *known*."""
        if known is None:
            known = Wanted()
        new = tuple(dict.fromkeys(map(_tame, reversed(self.inputs))))
        fresh = sum(name not in known.inputs for name in new)
        older = tuple(name for name in known.inputs if name not in new)
        return Wanted(
            module=_tame(self.module) if self.module else known.module,
            maker=_tame(self.maker) if self.maker else known.maker,
            hint=self.hint or known.hint,
            # What has been seen before stays in its place, so that a run again writes nothing.
            inputs=(*new, *older)[:_MOST_INPUTS] if fresh else known.inputs,
            count=known.count + fresh,
        )


def _tame(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:_LONGEST_NAME])


@dataclass(frozen=True, slots=True)
class Miss:
    """One upstream's "no" for one key; times are in seconds since 1970, UTC."""

    index: str
    upstream: str  # free of credentials
    first_asked_s: float
    last_asked_s: float
    times: int
    answer: str  # ``404``, ``410``, ``MSG: …``
    in_passing: bool = False  # the file was requested only for what it names: an image, for its PDB
    wanted: Wanted | None = None  # None if no run with inputs asked for it


class Misses:
    """The misses remembered for this user, in *folder*, see `Memory`.

    A miss counts for *ttl_s* seconds; afterwards the upstream is asked again. 0 remembers nothing.

    Raises:
        StoreError: The folder cannot be made, or belongs to another user.
    """

    def __init__(self, folder: Path, *, ttl_s: float, clock_s: Callable[[], float] = time.time) -> None:
        self._memory = Memory(folder)
        self.ttl_s = ttl_s
        self._clock_s = clock_s

    def recall(self, upstream: str, key: Key) -> Miss | None:
        """Return *upstream*'s miss for *key* if it still counts."""
        miss = self.find(upstream, key)
        return miss if miss is not None and self.counts(miss) else None

    def find(self, upstream: str, key: Key) -> Miss | None:
        """Return *upstream*'s miss for *key*, even if it does not count any more."""
        text = self._memory.get(_row(upstream, key.folded))
        return _parse(text) if text else None

    def counts(self, miss: Miss) -> bool:
        """Whether *miss* is recent enough to be believed."""
        return 0 <= self._clock_s() - miss.last_asked_s < self.ttl_s

    def until(self, miss: Miss) -> str:
        """Return until when *miss* counts, in words: `` until 2026-11-30 20:57 UTC``; empty if that is far off."""
        try:
            end = datetime.fromtimestamp(miss.last_asked_s + self.ttl_s, UTC)
        except (ValueError, OverflowError, OSError):
            return ""
        return f" until {end:%Y-%m-%d %H:%M} UTC"

    def remember(self, upstream: str, key: Key, answer: str, *, in_passing: bool = False) -> None:
        """Note that *upstream* has no such file now; one that was wanted itself before stays so."""
        now_s = self._clock_s()
        known = self.find(upstream, key)
        first_s, times = (known.first_asked_s, known.times) if known is not None else (now_s, 0)
        in_passing = in_passing and (known is None or known.in_passing)
        wanted = None if known is None else known.wanted
        self.keep(Miss(key.index, upstream, first_s, now_s, times + 1, answer[:200], in_passing, wanted))

    def note_wanted(self, upstream: str, key: Key, wanted: Wanted) -> None:
        """Note with *upstream*'s miss for *key*, if there is one, for what the file was wanted now."""
        miss = self.find(upstream, key)
        if miss is not None and (grown := wanted.after(miss.wanted)) != (miss.wanted or Wanted()):
            self.keep(replace(miss, wanted=grown))

    def keep(self, miss: Miss) -> None:
        """Let *miss* stand as it is, times and all; one with a time long ago is known and does not count."""
        self._memory.set(_row(miss.upstream, fold(miss.index)), json.dumps(asdict(miss)), kept_s=_KEPT_S)

    def forget(self, upstream: str, key: Key) -> bool:
        """Drop *upstream*'s miss for *key*; return whether there was one."""
        return self._memory.delete(_row(upstream, key.folded))

    def list(self) -> Iterator[Miss]:
        """Yield every miss known, those that do not count any more too, in the order of their indexes."""
        for row, text in self._memory.items():
            miss = _parse(text)
            if miss is not None and row == _row(miss.upstream, fold(miss.index)):
                yield miss

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NegativeCache:
    """Any store, with its definite "no such file" answers remembered in *misses*; implements `SymbolStore`."""

    def __init__(self, store: SymbolStore, misses: Misses) -> None:
        self._store = store
        self._misses = misses
        # Keys that were looked up here and are not remembered, so that there is nothing to forget.
        self._unknown: set[str] = set()
        self.name = store.name
        self.local = store.local
        self.is_on_disk = store.is_on_disk
        self.is_server = store.is_server
        self.takes_uploads = store.takes_uploads
        self.find = store.find
        self.holding = store.holding

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """See `SymbolStore`; a store that lacked the file not long ago is not asked."""
        known = self._recall(request)
        return self._noted(request, await self._store.fetch(request, scratch)) if known is None else known

    async def read_headers(self, key: ImageKey) -> LookUp:
        """See `SymbolStore`; a store that lacked the image not long ago is not asked."""
        request = FileRequest(key, in_passing=True)
        known = self._recall(request)
        return self._noted(request, await self._store.read_headers(key)) if known is None else known

    async def probe(self, key: Key) -> Probed:
        known = self._recall(FileRequest(key, in_passing=True))
        return await self._store.probe(key) if known is None else Probed(None, known.attempts[-1].answer)

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        self._unknown.discard(request.key.folded)
        self._misses.remember(self.name, request.key, answer, in_passing=request.in_passing)

    def forget_absent(self, key: Key) -> None:
        if key.folded in self._unknown:
            self._unknown.discard(key.folded)
        else:
            self._misses.forget(self.name, key)

    def _noted(self, request: FileRequest, answer: LookUp) -> LookUp:
        if answer.is_absent and answer.is_asked and answer.attempts:
            self.remember_absent(request, answer.attempts[-1].answer)
        return answer

    def _recall(self, request: FileRequest) -> LookUp | None:
        miss = self._misses.find(self.name, request.key)
        if miss is None:
            if len(self._unknown) >= _MOST_UNKNOWN_KEYS:
                self._unknown.clear()
            self._unknown.add(request.key.folded)
            return None
        if not self._misses.counts(miss):
            return None
        if miss.in_passing and not request.in_passing:
            self._misses.keep(replace(miss, in_passing=False))
        answer = f"{miss.answer}, remembered{self._misses.until(miss)}"
        return LookUp((Attempt(self.name, answer),), is_remembered=True)


def _row(upstream: str, folded_index: str) -> str:
    return f"{folded_index}\n{upstream}"


def _parse(text: str) -> Miss | None:
    with suppress(ValueError, RecursionError):
        return parse_miss(json.loads(text))
    return None


def parse_miss(fields: Any) -> Miss | None:
    """Return the miss that *fields*, read from JSON, state by the names of its attributes, trusting nothing in them."""
    try:
        miss = Miss(
            index=parse_index(fields["index"]).index,
            upstream=fields["upstream"],
            first_asked_s=float(fields["first_asked_s"]),
            last_asked_s=float(fields["last_asked_s"]),
            times=int(fields["times"]),
            answer=fields["answer"],
            in_passing=fields.get("in_passing") is True,
            wanted=_parse_wanted(fields.get("wanted")),
        )
        printable = miss.upstream.isprintable() and miss.answer.isprintable()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, InputError):
        return None
    return miss if printable else None


def _parse_wanted(fields: Any) -> Wanted | None:
    """Return what *fields* say, trusting nothing in them; None if they are not what was written here."""
    with suppress(ValueError, KeyError, TypeError):
        module, maker, hint, inputs = (fields[name] for name in ("module", "maker", "hint", "inputs"))
        if all(type(text) is str for text in (module or "", maker or "", hint or "", *inputs)):
            return Wanted(
                module=None if module is None else _tame(module),
                maker=None if maker is None else _tame(maker),
                hint=None if hint is None else Hint(hint),
                inputs=tuple(map(_tame, list(inputs)[:_MOST_INPUTS])),
                count=int(fields["count"]),
            )
    return None


class MissingFiles:
    """What is missing: every server of a symbol path said that it lacks it, and no place on disk has it.

    The source need not have been entered.
    """

    def __init__(self, source: SymbolSource) -> None:
        self._source = source
        places = (store for chain in source.chains for store in chain.stores if store.is_on_disk)
        self._disk = tuple(dict.fromkeys(places))

    def denied(self) -> Iterator[tuple[Miss, ...]]:
        """Yield all misses of each file that every server which is asked for its kind denied, in the order of indexes.

        Left out are images that were only asked for the PDB that they name, and this is known. Nothing is looked for
        on disk, so that a hundred thousand take seconds; see `drop_held`.
        """
        if self._source.misses is None:
            return
        memory: Memory | None = None
        with suppress(StoreError):  # a warm run says so; here the stores' own notes have to do
            memory = Memory(self._source.config.misses.folder / "images")
        with ImageLinks(memory, [StoreLinks(store.root) for store in self._source.stores]) as links:
            for _, group in groupby(self._source.misses.list(), key=lambda miss: fold(miss.index)):
                rows = tuple(group)
                key = parse_index(rows[0].index)
                asked = {server.name for server in self._source.servers if server.hints.refusal(key) is None}
                is_denied = bool(asked) and asked.issubset(miss.upstream for miss in rows)
                if is_denied and not (all(miss.in_passing for miss in rows) and _is_read(key, links)):
                    yield rows

    def images_that_name(self, indexes: Collection[str]) -> dict[str, ImageKey]:
        """Return an image for each of the folded *indexes* of PDBs that a store knows one to name, by that index."""
        found: dict[str, ImageKey] = {}
        for store in self._source.stores if indexes else ():
            for image, links in StoreLinks(store.root).list():
                found.update((link.key.folded, image) for link in links if link.key.folded in indexes)
        return found

    def is_held(self, key: Key) -> bool:
        """Return whether any place on disk has *key*'s file, of an image under any of its names."""
        for place in self._disk:
            with suppress(StoreError):  # passed over, as by a walk of the symbol path
                if any(place.find(name) is not None for name in published_keys(key)):
                    return True
        return False

    def drop_held(self, keys: Sequence[Key]) -> list[Key]:
        """Return those of *keys* that are not held, in one go."""
        held: set[str] = set()
        for place in self._disk:
            with suppress(StoreError):
                held |= held_in(place, keys)
        return [key for key in keys if key.folded not in held]


def _is_read(key: Key, links: ImageLinks) -> bool:
    return isinstance(key, ImageKey) and any(links.recall(name) is not None for name in published_keys(key))
