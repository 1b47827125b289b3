"""How far a verification has come, so that it can go on after it was interrupted: one JSON object a line, appended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.store.findings import Finding
from symcache.store.place import as_store_error
from symcache.store.staging import OWN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from symcache.store.tree import Store

__all__ = ["Checkpoint", "Progress"]

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
