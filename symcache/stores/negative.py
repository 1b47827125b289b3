"""The negative cache: which servers answered "no such file" and when, so that they are not asked again too soon."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.identity import fold, parse_index
from symcache.stores.base import FileRequest, LookUp
from symcache.stores.memory import Memory
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from symcache.identity import ImageKey, Key
    from symcache.stores.base import Form, Stored, SymbolStore
    from symcache.stores.local.tree import Store

__all__ = ["Miss", "Misses", "NegativeCache"]


_KEPT_S = 90 * 24 * 3600
_MOST_UNKNOWN_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Miss:
    """One upstream's "no" for one key.

    Attributes:
        index: The key, written out.
        upstream: Who said so, free of credentials.
        first_asked_s: When it first did; seconds since 1970, UTC.
        last_asked_s: When it last did.
        times: How often it did.
        answer: What it said: ``404``, ``410``, ``MSG: …``.
        in_passing: The file was requested only for what it names: an image, for its PDB.
    """

    index: str
    upstream: str
    first_asked_s: float
    last_asked_s: float
    times: int
    answer: str
    in_passing: bool = False


class Misses:
    """The misses remembered for this user.

    Args:
        folder: Where they are kept; see `Memory`.
        ttl_s: Seconds for which a miss counts; afterwards the upstream is asked again. 0 remembers nothing.
        clock_s: Seconds since 1970.

    Raises:
        StoreError: The folder cannot be made, or belongs to another user.
    """

    def __init__(self, folder: Path, *, ttl_s: float, clock_s: Callable[[], float] = time.time) -> None:
        self._memory = Memory(folder)
        self._ttl_s = ttl_s
        self._clock_s = clock_s

    def recall(self, upstream: str, key: Key) -> Miss | None:
        """Return *upstream*'s miss for *key* if it still counts."""
        miss = self.find(upstream, key)
        return miss if miss is not None and self.counts(miss) else None

    def find(self, upstream: str, key: Key) -> Miss | None:
        """Return *upstream*'s miss for *key*, even if it does not count any more."""
        return self._read(_row(upstream, key.folded))

    def counts(self, miss: Miss) -> bool:
        """Whether *miss* is recent enough to be believed."""
        return 0 <= self._clock_s() - miss.last_asked_s < self._ttl_s

    def remember(self, upstream: str, key: Key, answer: str, *, in_passing: bool = False) -> None:
        """Note that *upstream* has no such file now; one that was wanted itself before stays so."""
        row = _row(upstream, key.folded)
        now_s = self._clock_s()
        known = self._read(row)
        first_s, times = (known.first_asked_s, known.times) if known is not None else (now_s, 0)
        in_passing = in_passing and (known is None or known.in_passing)
        miss = Miss(key.index, upstream, first_s, now_s, times + 1, answer[:200], in_passing)
        self._memory.set(row, json.dumps(asdict(miss)), kept_s=_KEPT_S)

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, row: str) -> Miss | None:
        text = self._memory.get(row)
        return _parse(text) if text else None


class NegativeCache:
    """Any store, with its definite "no such file" answers remembered; implements `SymbolStore`.

    Args:
        store: What is asked if nothing is remembered.
        misses: Where answers are kept.
    """

    def __init__(self, store: SymbolStore, misses: Misses) -> None:
        self._store = store
        self._misses = misses
        # Keys that were looked up here and are not remembered, so that there is nothing to forget.
        self._unknown: set[str] = set()

    @property
    def name(self) -> str:
        """See `SymbolStore`."""
        return self._store.name

    @property
    def local(self) -> Store | None:
        """See `SymbolStore`."""
        return self._store.local

    @property
    def is_on_disk(self) -> bool:
        """See `SymbolStore`."""
        return self._store.is_on_disk

    def find(self, key: Key) -> Stored | None:
        """See `SymbolStore`."""
        return self._store.find(key)

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """See `SymbolStore`."""
        return self._store.holding(keys)

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """See `SymbolStore`; a store that lacked the file not long ago is not asked."""
        known = self._recall(request)
        if known is not None:
            return known
        looked_up = await self._store.fetch(request, scratch)
        if looked_up.is_absent and looked_up.is_asked and looked_up.attempts:
            self.remember_absent(request, looked_up.attempts[-1].answer)
        return looked_up

    async def read_headers(self, key: ImageKey) -> LookUp:
        """See `SymbolStore`; a store that lacked the image not long ago is not asked."""
        request = FileRequest(key, in_passing=True)
        known = self._recall(request)
        if known is not None:
            return known
        answer = await self._store.read_headers(key)
        if answer.is_absent and answer.is_asked:
            self.remember_absent(request, answer.attempts[-1].answer)
        return answer

    async def probe(self, key: Key) -> tuple[Form | None, str]:
        """See `SymbolStore`."""
        known = self._recall(FileRequest(key, in_passing=True))
        return await self._store.probe(key) if known is None else (None, known.attempts[-1].answer)

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """See `SymbolStore`."""
        self._unknown.discard(request.key.folded)
        self._misses.remember(self.name, request.key, answer, in_passing=request.in_passing)

    def forget_absent(self, key: Key) -> None:
        """See `SymbolStore`."""
        if key.folded in self._unknown:
            self._unknown.discard(key.folded)
        else:
            self._misses.forget(self.name, key)

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
        return LookUp((Attempt(self.name, f"{miss.answer}, remembered"),), is_remembered=True)


def _row(upstream: str, folded_index: str) -> str:
    return f"{folded_index}\n{upstream}"


def _parse(text: str) -> Miss | None:
    """Return the miss that *text* holds, trusting nothing in it."""
    try:
        fields = json.loads(text)
        miss = Miss(
            index=parse_index(fields["index"]).index,
            upstream=fields["upstream"],
            first_asked_s=float(fields["first_asked_s"]),
            last_asked_s=float(fields["last_asked_s"]),
            times=int(fields["times"]),
            answer=fields["answer"],
            in_passing=fields.get("in_passing") is True,
        )
        printable = miss.upstream.isprintable() and miss.answer.isprintable()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InputError):
        return None
    return miss if printable else None
