"""When each key was last used, kept by the store itself: file systems no longer tell, or tell what a backup did.

A line a use goes to ``.symcache/access/recent``. When that has grown it is renamed, so that no process appends to it
any more, and folded into ``summary``, a line a key. A lost or torn line costs a file pruned earlier than need be.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import fold
from symcache.stores.local.atomic import OWN_FOLDER, flush, flush_folders, put_in_place, store_errors
from symcache.stores.local.rights import OwnFolder, make_file, make_own_folders, open_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


_LINE = re.compile(rb"([0-9]{1,11}) ([^\n]{1,1200})")
_AT_MOST_EVERY_S = 60.0
_RECENTLY_TOUCHED_KEYS = 4096
_PENDING_KEYS = 256
_PENDING_S = 5.0
_FOLDING = ".folding"


class AccessLog:
    """When the keys of one store were last used, by any process; times are in seconds since 1970.

    Note each use with `touch`, or with `touch_later` where many come at once. Neither fails or waits for anybody; a
    store that cannot be written keeps no record. The appended file may grow to *recent_bytes*; *summary_keys* keys are
    remembered, the most recently used ones.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock_s: Callable[[], float] = time.time,
        recent_bytes: int = 1 << 20,
        summary_keys: int = 1_000_000,
    ) -> None:
        self._store = store
        self._folder = store.root / OWN_FOLDER / "access"
        self._clock_s = clock_s
        self._recent_bytes = recent_bytes
        self._summary_keys = summary_keys
        self._touched: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._pending_since_s = 0.0
        self._lock = threading.Lock()

    def touch(self, key: Key) -> None:
        """Note that *key* is used now; once a minute is enough."""
        self.touch_later(key)
        self.flush()

    def touch_later(self, key: Key) -> None:
        """Note that *key* is used now, to be written with others: by the hundred, after seconds, or by `flush`.

        May be called from any thread.
        """
        folded, now_s = key.folded, self._clock_s()
        with self._lock:
            if 0 <= now_s - self._touched.get(folded, -_AT_MOST_EVERY_S) < _AT_MOST_EVERY_S:
                return
            if len(self._touched) >= _RECENTLY_TOUCHED_KEYS:
                self._touched.clear()
            self._touched[folded] = now_s
            if not self._pending:
                self._pending_since_s = now_s
            self._pending[folded] = now_s
            is_due = len(self._pending) >= _PENDING_KEYS or not 0 <= now_s - self._pending_since_s < _PENDING_S
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Write what was noted; what cannot be written is forgotten."""
        with self._lock:
            pending, self._pending = self._pending, {}
        if not pending:
            return
        lines = b"".join(_lines(pending))
        recent = self._folder / "recent"
        with suppress(OSError, StoreError):
            make_own_folders(self._folder)
            size = _append(recent, lines)
            if size > self._recent_bytes:
                self.compact()

    def last_used_by_key(self) -> dict[str, float]:
        """Return when each key was last used, by the key's folded index.

        A time in the future, from a clock that was wrong, counts as now, so that it keeps no file for ever.
        """
        used: dict[str, float] = {}
        now_s = self._clock_s()
        for path in self._files():
            for folded, at_s in _read(path):
                used[folded] = max(used.get(folded, 0.0), min(at_s, now_s))
        return used

    def compact(self) -> None:
        """Fold what was appended into the summary, unless another process does; `StoreError` if that fails."""
        from secrets import token_hex  # noqa: PLC0415 - one run in many comes here

        lock = self._store.lock("access log")
        if not lock.try_acquire():
            return
        try:
            with store_errors(self._folder):
                make_own_folders(self._folder)
                with suppress(FileNotFoundError):
                    (self._folder / "recent").replace(self._folder / f"{token_hex(6)}{_FOLDING}")
                with OwnFolder(self._store.root, self._folder.name) as own:
                    folding = [name for name in own.names() if name.endswith(_FOLDING)]
                    used = self.last_used_by_key()
                    if len(used) > self._summary_keys:
                        newest = sorted(used.items(), key=lambda item: item[1], reverse=True)
                        used = dict(newest[: self._summary_keys])
                    scratch = self._store.scratch()
                    with scratch.open("wb") as file:
                        file.writelines(_lines(used))
                    # Before the lines that it holds are removed.
                    flush(scratch)
                    put_in_place(scratch, lambda: self._folder / "summary", self._store.root)
                    flush_folders([self._folder], self._store.root)
                    for name in folding:
                        own.remove(name)
        finally:
            lock.release()

    def _files(self) -> Iterator[Path]:
        # Against the direction in which lines move, so that a line that moves during the reading is seen at least once.
        yield self._folder / "recent"
        yield from sorted(self._folder.glob(f"*{_FOLDING}"))
        yield self._folder / "summary"


def _lines(used: dict[str, float]) -> Iterator[bytes]:
    return (b"%d %s\n" % (at_s, folded.encode()) for folded, at_s in used.items())


def _append(path: Path, lines: bytes) -> int:
    with open(make_file(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor
        file.write(lines)
        return file.tell()


def _read(path: Path) -> Iterator[tuple[str, float]]:
    try:
        with open_stored(path) as file:
            while line := file.readline(4096):
                match = _LINE.fullmatch(line.rstrip(b"\n"))
                if match is not None:
                    with suppress(UnicodeDecodeError):
                        yield fold(match[2].decode()), float(match[1])
    except OSError:
        return
