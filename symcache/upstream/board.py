"""Lets other processes know of the large files that this one brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import fold
from symcache.store.growing import GrowingNote

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.events import Event, Observer

__all__ = ["Board"]

_WORTH_NOTING_BYTES = 1 << 20  # what is smaller is published before anybody has looked


class Board:
    """Stands before an observer and keeps a `GrowingNote` for each large transfer.

    Args:
        observer: Gets every event.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._notes: dict[Path, GrowingNote] = {}

    def observe(self, event: Event) -> None:
        """Take note of *event* and pass it on."""
        match event:
            case TransferStarted(index, _, int(size_bytes), path) if path is not None:
                if size_bytes >= _WORTH_NOTING_BYTES:
                    self._notes[path] = GrowingNote(path, fold(index), size_bytes)
            case TransferAdvanced(path=path, whole_bytes=whole_bytes) if path in self._notes:
                self._notes[path].advance(whole_bytes)
            case TransferEnded(path=path) if path in self._notes:
                self._notes.pop(path).withdraw()
            case _:
                pass
        self._observer(event)
