"""What is remembered from run to run, in a diskcache of the user's own, never in a shared store.

SQLite's journal wants one host, and diskcache unpickles what it finds (CVE-2025-69872). `StrictDisk` takes that away:
a database that another program wrote to can at worst hold wrong answers.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import diskcache

from symcache.errors import StoreError
from symcache.stores.local.atomic import make_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self


_LONGEST_VALUE = 64 * 1024
_LARGEST_BYTES = 256 << 20  # half a million misses
_RAW = 1  # diskcache.core.MODE_RAW: the value stands in its column, as SQLite holds it


class StrictDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """A diskcache ``Disk`` of short texts that can neither pickle nor open or remove a file.

    Rows in any other form, which another program must have written, read as empty.
    """

    def put(self, key: object) -> tuple[str, bool]:
        """Return the form of *key* in the database; a `TypeError` unless it is exactly a ``str``.

        diskcache would pickle most other types.
        """
        if type(key) is not str:
            raise TypeError(f"a key is a str, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """Return the key in a row; empty if it is not a text that `put` wrote."""
        return key if raw and type(key) is str else ""

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, str]:
        """Return size, mode, file name and column for *value*, which is exactly a ``str`` of at most 64 KiB."""
        del key
        if read or type(value) is not str or len(value) > _LONGEST_VALUE:
            raise TypeError("a value is a short str")
        return 0, _RAW, None, value

    def fetch(self, mode: object, filename: object, value: object, read: object) -> str:
        """Return the value in a row; empty if it is not a text that `store` wrote."""
        return value if mode == _RAW and filename is None and not read and type(value) is str else ""

    def filename(self, key: object = None, value: object = None) -> tuple[str, str]:
        del key, value
        raise TypeError("no value lies in a file")

    def remove(self, file_path: object) -> None:
        """Do nothing: a row that names a file was not written here, and its file is not ours to remove."""


class _OneConnection(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """A cache that has one connection for all threads, for who lets them in one at a time.

    diskcache opens one for each thread, and that of a thread that has ended cannot be closed.
    """

    _only: sqlite3.Connection | None = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        try:
            super().__init__(*args, **settings)
        except BaseException:
            self.close()
            raise

    @property
    def _con(self) -> sqlite3.Connection:
        if self._only is None:
            path = os.path.join(self.directory, diskcache.core.DBNAME)  # noqa: PTH118 - a text, as diskcache keeps it
            self._only = sqlite3.connect(path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            # Enough with a write-ahead log: what a power cut takes away is asked for again.
            self._only.execute("PRAGMA synchronous = NORMAL")
        return self._only

    def close(self) -> None:
        if self._only is not None:
            self._only.close()
            self._only = None


class Memory:
    """Short texts by name, kept for this user alone; a text that cannot be read or written is as good as absent.

    The database takes 256 MiB; then the oldest texts go.

    Raises:
        StoreError: The folder cannot be made, or belongs to another user.
    """

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        self._one_at_a_time = threading.Lock()
        self._cache: Any = _open(folder)

    def get(self, name: str) -> str | None:
        with self._one_at_a_time, suppress(diskcache.Timeout, sqlite3.Error):
            return self._cache.get(name, default="") or None
        return None

    def set(self, name: str, text: str, *, kept_s: float | None = None) -> None:
        """Keep *text* under *name*, for *kept_s* seconds if that is given."""
        with self._one_at_a_time, suppress(diskcache.Timeout, sqlite3.Error, TypeError):
            self._cache.set(name, text, expire=kept_s)

    def delete(self, name: str) -> bool:
        """Drop the text kept under *name*; return whether there was one."""
        # Most names are not there, and a look costs a hundredth of a write.
        with self._one_at_a_time, suppress(diskcache.Timeout, sqlite3.Error):
            return name in self._cache and bool(self._cache.delete(name))
        return False

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield every name with its text, sorted by name; a query brings a thousand of them."""
        name = ""
        while rows := self._rows_after(name):
            for name, text in rows:
                if text:
                    yield name, text

    def _rows_after(self, name: str) -> list[tuple[str, str]]:
        # As diskcache's own iteration has it, which fetches keys alone; the index on its keys gives the order.
        query = (
            "SELECT key, mode, filename, value FROM Cache WHERE key > ? AND typeof(key) = 'text' AND raw = 1"
            " AND (expire_time IS NULL OR expire_time > ?) ORDER BY key LIMIT 1000"
        )
        with self._one_at_a_time, suppress(diskcache.Timeout, sqlite3.Error):
            rows = self._cache._sql(query, (name, time.time())).fetchall()  # noqa: SLF001 - the database is ours
            return [(key, self._cache.disk.fetch(mode, file, value, False)) for key, mode, file, value in rows]
        return []

    def close(self) -> None:
        """Close the database; safe to call twice."""
        with self._one_at_a_time:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(folder: Path) -> Any:
    for left in (1, 0):
        try:
            _check_settings(folder / "cache.db")
            return _OneConnection(
                str(folder),
                timeout=2,
                disk=StrictDisk,
                # Who may ask a server for names chooses how many there are.
                eviction_policy="least-recently-stored",
                size_limit=_LARGEST_BYTES,
                cull_limit=16,
                statistics=0,
            )
        except (sqlite3.OperationalError, diskcache.Timeout) as error:
            raise StoreError(f"the cache database is busy: {error}", path=folder) from error
        except (sqlite3.Error, OSError, TypeError, ValueError, AttributeError) as error:
            # Damaged or tampered with; nothing in it is worth more than a few requests.
            if not left:
                raise StoreError(f"the cache database cannot be used: {error}", path=folder) from error
            for path in folder.glob("cache.db*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    raise AssertionError


def _check_settings(database: Path) -> None:
    """Look at what diskcache will make its own attributes and pragmas of, before it does; an error says it did not."""
    if not database.exists():
        return
    known = {**diskcache.DEFAULT_SETTINGS, **diskcache.core.METADATA}
    with closing(sqlite3.connect(database, timeout=2)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
            return  # another process is creating it
        rows = connection.execute("SELECT key, value FROM Settings LIMIT 100").fetchall()
    for name, value in rows:
        default = known.get(name)
        is_number = type(default) in {int, float} and type(value) in {int, float}
        if name not in known or not (is_number or value in {default, "none"}):
            raise ValueError(f"a setting {name!r} that diskcache did not write")
