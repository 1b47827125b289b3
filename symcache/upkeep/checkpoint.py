"""How far a verification has come, kept in the store, so that the next one goes on from there."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.stores.local.atomic import OWN_FOLDER, store_errors
from symcache.stores.local.rights import make_file, make_own_folders, open_stored
from symcache.upkeep.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from symcache.stores.local.tree import Store

_CHECKPOINT_KEYS = 64
_CHECKPOINT_BYTES = 256 << 20
_SCHEMA = "symcache.checkpoint/1"
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification has come."""

    at: str = ""  # the last folder checked, below the root; empty at the start
    keys: int = 0
    size_bytes: int = 0  # bytes of their files
    problems: int = 0


class Checkpoint:
    """The checkpoint file of one store, one JSON object a line; what follows the last complete progress is dropped.

    It starts over unless it is to *resume* and was written for the same *scope*, which names what is checked. One that
    does not *keep* anything is for a store that is only read.
    """

    def __init__(self, path: Path, *, resume: bool, scope: str = "", keeps: bool = True) -> None:
        self._head = {"schema": _SCHEMA, "scope": scope}
        self._path = path
        self.progress = Progress()
        self.problems: tuple[Problem, ...] = ()
        self._recorded = Progress()
        self._file: BinaryIO | None = None
        if not keeps:
            return
        with store_errors(self._path):
            make_own_folders(self._path.parent)
            end = self._read() if resume else 0
            self._recorded = self.progress
            self._file = open(make_file(self._path, os.O_RDWR), "r+b")  # noqa: PTH123, SIM115 - a descriptor, kept
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._write(self._head)

    def record(self, problem: Problem) -> None:
        self._write({"finding": problem.as_json()})

    def advance_in_time(self, progress: Progress) -> None:
        """Do what `advance` does where that was long ago, by keys or by bytes."""
        before = self._recorded
        is_due = progress.keys - before.keys >= _CHECKPOINT_KEYS
        if is_due or progress.size_bytes - before.size_bytes >= _CHECKPOINT_BYTES:
            self.advance(progress)

    def advance(self, progress: Progress) -> None:
        """Record that a later run may continue after *progress*."""
        self._recorded = progress
        numbers = {"keys": progress.keys, "bytes": progress.size_bytes, "findings": progress.problems}
        self._write({"progress": {"at": progress.at, **numbers}})
        if self._file is not None:
            self._file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file; remove it if the verification is *finished*."""
        if self._file is None:
            return
        self._file.close()
        if finished:
            self._path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            return
        with store_errors(self._path):
            self._file.write(json.dumps(line).encode() + b"\n")

    def _read(self) -> int:
        """Read the file up to its last complete progress; return where that ends, in bytes."""
        end = 0
        problems: list[Problem] = []
        try:
            with open_stored(self._path) as file:
                if json.loads(file.readline(_LONGEST_LINE)) != self._head:
                    return 0
                while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                    fields = json.loads(line)
                    if "finding" in fields:
                        problems.append(Problem.from_json(fields["finding"]))
                    else:
                        at, *numbers = (fields["progress"][name] for name in ("at", "keys", "bytes", "findings"))
                        self.progress = Progress(str(at), *map(int, numbers))
                        self.problems = tuple(problems)
                        end = file.tell()
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            pass  # no file, or damaged from here on
        return end


def checkpoint_of(store: Store) -> Path:
    """Return where *store* has its checkpoint file."""
    return store.root / OWN_FOLDER / "verify.jsonl"
