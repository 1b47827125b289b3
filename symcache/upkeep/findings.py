"""How far a verification has come, so that it can go on after it was interrupted: one JSON object a line, appended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from symcache.stores.local.atomic import as_store_error
from symcache.stores.local.staging import OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["Check", "Checkpoint", "Finding", "Mend", "Problem", "Progress"]


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


_SCHEMA = "symcache.checkpoint/1"
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification has come.

    Attributes:
        at: The last folder looked into, below the root; empty at the start.
        keys: Keys looked into.
        size_bytes: Bytes of their files.
        findings: Things found wrong.
    """

    at: str = ""
    keys: int = 0
    size_bytes: int = 0
    findings: int = 0

    def as_json(self) -> dict[str, str | int]:
        """Return the fields of one JSON object."""
        return {"at": self.at, "keys": self.keys, "bytes": self.size_bytes, "findings": self.findings}


class Checkpoint:
    """The checkpoint file of one store; what follows its last whole record of progress is forgotten.

    Args:
        store: The store.
        resume: Whether to go on from what is there; else it is started anew.
        scope: What is looked for; one of another scope is not gone on from.

    Raises:
        StoreError: It cannot be read or written.
    """

    def __init__(self, store: Store, *, resume: bool, scope: str = "") -> None:
        self._head = {"schema": _SCHEMA, "scope": scope}
        self._path = store.root / OWN_FOLDER / "verify.jsonl"
        self.progress = Progress()
        self.findings: tuple[Finding, ...] = ()
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

    def record(self, finding: Finding) -> None:
        """Note *finding*."""
        self._write({"finding": finding.as_json()})

    def advance(self, progress: Progress) -> None:
        """Note that a later run may go on behind *progress*."""
        self._write({"progress": progress.as_json()})
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
        """Take in what is there; return up to where, in bytes."""
        end = 0
        findings: list[Finding] = []
        try:
            with self._path.open("rb") as file:
                if json.loads(file.readline(_LONGEST_LINE)) != self._head:
                    return 0
                while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
                    fields = json.loads(line)
                    if "finding" in fields:
                        findings.append(Finding.from_json(fields["finding"]))
                    else:
                        at, *numbers = (fields["progress"][name] for name in ("at", "keys", "bytes", "findings"))
                        self.progress = Progress(str(at), *map(int, numbers))
                        self.findings = tuple(findings)
                        end = file.tell()
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass  # nothing, or not ours from here on
        return end
