"""What can be wrong with a store, and what repairs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        """Return what `as_json` made; a `ValueError` says that *fields* has another shape."""
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
