"""What verification reports: problems, their kinds, what would repair them, and a checkpoint file to resume from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.stores.local.atomic import OWN_FOLDER, as_store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


Check: TypeAlias = "Callable[[Path, Key], str | None]"
"""Returns what is wrong with the file of a key, in a few words, or None. The file may be a cabinet.

A text that begins with ``another`` says that the file is complete and belongs to another key.
"""


class ProblemKind(StrEnum):
    """What is wrong."""

    EMPTY = "empty"
    HTML = "html"
    DAMAGED = "damaged"  # cut short, or not a file of the kind at all
    MISFILED = "misfiled"  # complete, and the file of another key
    BAD_NAME = "bad-name"  # a folder name that is not valid for a key
    TWO_SPELLINGS = "two-spellings"  # folders that differ in letter case only
    UNWANTED = "unwanted"  # the right file, of a kind that this store must not hold
    STRAY = "stray"  # not a symbol file: as a rule another tool's scratch file
    POINTER = "pointer"  # file.ptr and refs.ptr contradict each other
    REFERENCES = "references"  # refs.ptr has invalid lines, or lines of transactions that are not in force
    ABSENT = "absent"  # a transaction lists it, and it is not there
    ACCOUNT = "account"  # the files of 000Admin contradict each other
    INTERRUPTED = "interrupted"  # a transaction or a conversion did not end
    UNREADABLE = "unreadable"  # the operating system cannot read it


class RepairAction(StrEnum):
    """What `repair` does about a problem."""

    QUARANTINE = "quarantine"  # move the file away; if its key is known, fetch it again
    FETCH = "fetch"
    POINTER = "rewrite-pointer"  # write file.ptr from refs.ptr
    MERGE = "merge"  # move everything into the folder of the other spelling
    REFERENCES = "rewrite-references"  # remove lines of transactions that are not in force from refs.ptr
    ACCOUNT = "rewrite-account"  # write files of 000Admin from refs.ptr files and history.txt
    FINISH = "finish"  # finish what was interrupted
    NONE = "none"  # needs a person


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a store."""

    path: str  # where, below the store's root, with ``/``
    kind: ProblemKind
    detail: str
    action: RepairAction = RepairAction.NONE  # what would repair it
    index: str | None = None  # the key that the file should be; None if there is none
    other: str | None = None  # the folder to merge with, below the root
    size_bytes: int | None = None  # length of the file when it was checked
    changed_ns: int | None = None  # time of its last change then, in nanoseconds since 1970

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.detail}"

    def as_json(self) -> dict[str, str | int | None]:
        names = {"kind": "problem", "action": "mend"}
        return {names.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Problem:
        """Return what `as_json` made.

        Raises:
            ValueError: *fields* has another shape.
        """
        match fields:
            case {
                "path": str(path),
                "problem": str(kind),
                "detail": str(detail),
                "mend": str(action),
                "index": None | str() as index,
                "other": None | str() as other,
                "size_bytes": None | int() as size_bytes,
                "changed_ns": None | int() as changed_ns,
            }:
                return cls(path, ProblemKind(kind), detail, RepairAction(action), index, other, size_bytes, changed_ns)
        raise ValueError(fields)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification has come."""

    at: str = ""  # the last folder checked, below the root; empty at the start
    keys: int = 0
    size_bytes: int = 0  # bytes of their files
    problems: int = 0


_SCHEMA = "symcache.checkpoint/1"
_LONGEST_LINE = 1 << 16


class Checkpoint:
    """The checkpoint file of one store, one JSON object a line; what follows the last complete progress is dropped.

    It starts over unless it is to *resume* and was written for the same *scope*, which names what is checked.
    """

    def __init__(self, store: Store, *, resume: bool, scope: str = "") -> None:
        self._head = {"schema": _SCHEMA, "scope": scope}
        self._path = store.root / OWN_FOLDER / "verify.jsonl"
        self.progress = Progress()
        self.problems: tuple[Problem, ...] = ()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            end = self._read() if resume else 0
            self._file: BinaryIO = self._path.open("r+b" if end else "wb")
            if end:
                self._file.truncate(end)
                self._file.seek(end)
            else:
                self._write(self._head)
        except OSError as error:
            raise as_store_error(error, self._path) from error

    def record(self, problem: Problem) -> None:
        """Record *problem*."""
        self._write({"finding": problem.as_json()})

    def advance(self, progress: Progress) -> None:
        """Record that a later run may continue after *progress*."""
        numbers = {"keys": progress.keys, "bytes": progress.size_bytes, "findings": progress.problems}
        self._write({"progress": {"at": progress.at, **numbers}})
        self._file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file; remove it if the verification is *finished*."""
        self._file.close()
        if finished:
            self._path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, object]) -> None:
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise as_store_error(error, self._path) from error

    def _read(self) -> int:
        """Read the file up to its last complete progress; return where that ends, in bytes."""
        end = 0
        problems: list[Problem] = []
        try:
            with self._path.open("rb") as file:
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
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # no file, or damaged from here on
        return end
