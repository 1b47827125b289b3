"""What can be wrong with a store, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["Check", "Finding", "Mend", "Problem"]


class Check(Protocol):
    """Looks into a file and says why it is not what its key names."""

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return the reason in a few words, None if the file is right.

        A reason that begins with ``another`` says that the file is whole, and another one's.

        Args:
            path: The file, as the store holds it: it may be a cabinet.
            key: What it should be.
        """


class Problem(StrEnum):
    """What is wrong."""

    EMPTY = "empty"
    HTML = "html"
    DAMAGED = "damaged"  # cut short, or not a file of the kind at all
    MISFILED = "misfiled"  # whole, and the file of another key
    BAD_NAME = "bad-name"  # a folder that no key can have
    TWO_SPELLINGS = "two-spellings"  # folders that differ in letter case alone
    UNWANTED = "unwanted"  # the right file, of a kind that this store is not to hold
    STRAY = "stray"  # a file that nobody looks for: another tool's scratch, as a rule
    POINTER = "pointer"  # file.ptr and refs.ptr contradict each other
    REFERENCES = "references"  # lines of refs.ptr that cannot be read, or of transactions that are not in force
    ABSENT = "absent"  # named by a transaction, and not there
    ACCOUNT = "account"  # the admin files contradict themselves
    INTERRUPTED = "interrupted"  # a writer or a conversion died
    UNREADABLE = "unreadable"  # the disk refuses


class Mend(StrEnum):
    """What would help; `repair` does it."""

    QUARANTINE = "quarantine"  # move it away; with a key, fetch it anew
    FETCH = "fetch"  # fetch it anew
    POINTER = "rewrite-pointer"  # write file.ptr as refs.ptr has it
    MERGE = "merge"  # move all into the other spelling
    REFERENCES = "rewrite-references"  # take lines of transactions not in force off refs.ptr
    ACCOUNT = "rewrite-account"  # write admin files as references and history.txt have it
    FINISH = "finish"  # end what was interrupted
    NONE = "none"  # only a person can tell


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        path: Where, below the store's root, with ``/``.
        problem: What.
        detail: More of it, in a few words.
        mend: What would help.
        index: The key that the file should be; None where there is none.
        other: The folder to merge with, below the root.
        size_bytes: Length of the file when it was looked at.
        changed_ns: Its time of change then, in nanoseconds since 1970.
    """

    path: str
    problem: Problem
    detail: str
    mend: Mend = Mend.NONE
    index: str | None = None
    other: str | None = None
    size_bytes: int | None = None
    changed_ns: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}: {self.detail}"

    def as_json(self) -> dict[str, str | int | None]:
        """Return the fields of one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Finding:
        """Return what `as_json` made.

        Raises:
            ValueError: Something else made it.
        """
        texts = {name: fields.get(name) for name in ("path", "detail", "problem", "mend", "index", "other")}
        numbers = {name: fields.get(name) for name in ("size_bytes", "changed_ns")}
        optional = {"index", "other"}
        if not all(isinstance(text, str) or (text is None and name in optional) for name, text in texts.items()):
            raise ValueError(fields)
        if not all(number is None or type(number) is int for number in numbers.values()):
            raise ValueError(fields)
        return cls(**{**texts, **numbers, "problem": Problem(texts["problem"]), "mend": Mend(texts["mend"])})  # type: ignore[arg-type]
