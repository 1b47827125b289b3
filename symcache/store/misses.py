"""Which upstreams said "no such file" and when, so that nobody asks again too soon.

Kept in a diskcache of the user's own, never in a shared store: SQLite's journal wants one host, and diskcache unpickles
what it finds (CVE-2025-69872). `StrictDisk` takes that ability away, so a database that somebody else wrote to can at
worst hold wrong misses.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import diskcache

from symcache.errors import InputError, StoreError
from symcache.identity import fold, parse_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from symcache.identity import Key

__all__ = ["Miss", "Misses", "StrictDisk"]

_KEPT_S = 90 * 24 * 3600
_LONGEST_VALUE = 8192
_RAW = 1  # diskcache.core.MODE_RAW: the value stands in its column, as SQLite holds it


class StrictDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """A diskcache ``Disk`` of short texts that can neither pickle nor open or remove a file.

    Rows in any other form, which only somebody else can have written, read as empty.
    """

    def put(self, key: object) -> tuple[str, bool]:
        """Return the form of *key* in the database.

        Raises:
            TypeError: It is not exactly a ``str``; diskcache would pickle most other types.
        """
        if type(key) is not str:
            raise TypeError(f"a key is a str, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Return the key in a row; empty if it is not a text that `put` wrote."""
        return key if raw and type(key) is str else ""

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, str]:
        """Return size, mode, file name and column for *value*.

        Raises:
            TypeError: It is not exactly a ``str`` of at most 8 KiB, or diskcache was asked to read a file.
        """
        del key
        if read or type(value) is not str or len(value) > _LONGEST_VALUE:
            raise TypeError("a value is a short str")
        return 0, _RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: object) -> str:
        """Return the value in a row; empty if it is not a text that `store` wrote."""
        return value if mode == _RAW and filename is None and not read and type(value) is str else ""

    def filename(self, key: object = None, value: object = None) -> tuple[str, str]:
        """Refuse: no value lies in a file.

        Raises:
            TypeError: Always.
        """
        del key, value
        raise TypeError("no value lies in a file")

    def remove(self, file_path: object) -> None:
        """Do nothing: a row that names a file was not written here, and its file is not ours to remove."""


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
    """

    index: str
    upstream: str
    first_asked_s: float
    last_asked_s: float
    times: int
    answer: str


class Misses:
    """The misses remembered for this user.

    Args:
        folder: Where they are kept; made readable for the user alone.
        ttl_s: Seconds for which a miss counts; afterwards the upstream is asked again. 0 remembers nothing.
        clock_s: Seconds since 1970.

    Raises:
        StoreError: The folder cannot be made, or belongs to somebody else.
    """

    def __init__(self, folder: Path, *, ttl_s: float, clock_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        _make_private(folder)
        self._cache = _open(folder)

    def recall(self, upstream: str, key: Key) -> Miss | None:
        """Return *upstream*'s miss for *key* if it still counts."""
        miss = self._read(_row(upstream, key.folded))
        if miss is None or not 0 <= self._clock_s() - miss.last_asked_s < self._ttl_s:
            return None
        return miss

    def remember(self, upstream: str, key: Key, answer: str) -> None:
        """Note that *upstream* said no just now."""
        row = _row(upstream, key.folded)
        now_s = self._clock_s()
        known = self._read(row)
        first_s, times = (known.first_asked_s, known.times) if known is not None else (now_s, 0)
        miss = Miss(key.index, upstream, first_s, now_s, times + 1, answer[:200])
        with suppress(diskcache.Timeout, sqlite3.Error):  # a miss that is not remembered costs one request
            self._cache.set(row, json.dumps(asdict(miss)), expire=_KEPT_S)

    def forget(self, upstream: str, key: Key) -> bool:
        """Drop *upstream*'s miss for *key*; return whether there was one."""
        with suppress(diskcache.Timeout, sqlite3.Error):
            return bool(self._cache.delete(_row(upstream, key.folded)))
        return False

    def list(self) -> Iterator[Miss]:
        """Yield every miss known, expired ones too, in the order of their indexes."""
        rows: list[str] = []
        with suppress(diskcache.Timeout, sqlite3.Error):
            rows = sorted(row for row in self._cache.iterkeys() if row)
        for row in rows:
            miss = self._read(row)
            if miss is not None and row == _row(miss.upstream, fold(miss.index)):
                yield miss

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, row: str) -> Miss | None:
        try:
            text = self._cache.get(row, default="")
        except (diskcache.Timeout, sqlite3.Error):
            return None
        return _parse(text) if text else None


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
        )
        printable = miss.upstream.isprintable() and miss.answer.isprintable()
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InputError):
        return None
    return miss if printable else None


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "geteuid"):
            if folder.stat().st_uid != os.geteuid():
                raise StoreError("belongs to somebody else, so its misses cannot be trusted", path=folder)
            folder.chmod(0o700)
    except OSError as error:
        raise StoreError(error.strerror or str(error), path=folder) from error


def _open(folder: Path) -> Any:
    for left in (1, 0):
        try:
            _check_settings(folder / "cache.db")
            return diskcache.Cache(
                str(folder), timeout=2, disk=StrictDisk, eviction_policy="none", cull_limit=16, statistics=0
            )
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            raise StoreError(f"the misses cannot be kept here just now: {error}", path=folder) from error
        except (sqlite3.Error, OSError, TypeError, ValueError, AttributeError) as error:
            # Damaged, or written by somebody who meant harm; nothing in it is worth more than a few requests.
            if not left:
                raise StoreError(f"the misses cannot be kept here: {error}", path=folder) from error
            for path in folder.glob("cache.db*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    raise AssertionError


def _check_settings(database: Path) -> None:
    """Look at what diskcache will make its own attributes and pragmas of, before it does.

    Raises:
        ValueError: A setting that diskcache did not write.
        sqlite3.Error: Not a database of diskcache's.
    """
    if not database.exists():
        return
    known = {**diskcache.DEFAULT_SETTINGS, **diskcache.core.METADATA}
    with closing(sqlite3.connect(database, timeout=2)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
            return  # another process is making it just now
        rows = connection.execute("SELECT key, value FROM Settings LIMIT 100").fetchall()
    for name, value in rows:
        default = known.get(name)
        is_number = type(default) in {int, float} and type(value) in {int, float}
        if name not in known or not (is_number or value in {default, "none"}):
            raise ValueError(f"a setting {name!r} that diskcache did not write")
