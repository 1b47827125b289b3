"""A dry run: what a run would fetch, from where, and how much that is; nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from symcache.identity import published_keys
from symcache.warm.plan import WantedFile, kind_of
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.stores.source import SymbolSource
    from symcache.warm.local import OpenWant
    from symcache.warm.report import Report

_NOT_ASKED = "not asked"
_NO_SERVER = "no server to ask"


@dataclass(frozen=True, slots=True)
class Expected:
    """A file that a run would look for on the network, and what the servers say of it."""

    want: WantedFile
    server: str | None = None  # the one that would be fetched from, free of secrets; None if none says that it has it
    size_bytes: int | None = None  # as it is transferred: of the cabinet, if the server has one; None if it is not told
    answer: str = _NOT_ASKED  # of the last one that was asked, or could not be, in a few words
    is_no_answer: bool = False  # one that may have it could not be asked

    def as_json(self) -> dict[str, Any]:
        """Return its fields in ``symcache.plan/1``."""
        return {
            "index": self.want.key.index,
            "kind": kind_of(self.want.key),
            "module": self.want.module,
            "server": self.server,
            "bytes": self.size_bytes,
            "answer": self.answer,
        }


@dataclass(frozen=True, slots=True)
class Share:
    """What one server would be asked for."""

    server: str
    files: int
    size_bytes: int  # of those whose length it tells
    untold: int  # files whose length it does not tell


@dataclass(frozen=True, slots=True)
class DryRun:
    """A run as it would be.

    Attributes:
        at_hand: What needs no network: present files, and those with nothing to ask for.
        files: What it would look for on the network.
        unnamed: Modules whose image has to be read first to know which PDB they want.
    """

    at_hand: Report
    files: Sequence[Expected]
    unnamed: int

    def shares(self) -> list[Share]:
        """Return what each server would be asked for, the one with most bytes first."""
        names = dict.fromkeys(each.server for each in self.files if each.server is not None)
        shares = [self._share_of(name) for name in names]
        return sorted(shares, key=lambda share: (-share.size_bytes, -share.files))

    def _share_of(self, name: str) -> Share:
        sizes = [each.size_bytes for each in self.files if each.server == name]
        told = [size for size in sizes if size is not None]
        return Share(name, len(sizes), sum(told), len(sizes) - len(told))

    @property
    def not_asked(self) -> int:
        """How many files there was no time to ask for."""
        return sum(each.answer == _NOT_ASKED for each in self.files)

    @property
    def nowhere(self) -> int:
        """How many files no server says that it has: all lack them, refuse, or do not answer."""
        return sum(each.server is None for each in self.files) - self.not_asked

    @property
    def unanswered(self) -> list[str]:
        """Why servers could not be asked for files that no other has: one text for each of them."""
        return [each.answer for each in self.files if each.server is None and each.is_no_answer]

    @property
    def has_no_server(self) -> bool:
        """The symbol path names no server that could be asked."""
        return any(each.answer == _NO_SERVER for each in self.files)

    def exit_code(self, *, allow_empty: bool = False) -> int:
        """Return 4 if an input could not be read, as the run itself would, else 0."""
        report = self.at_hand
        is_empty = report.is_empty and not allow_empty
        lacks_stack = report.lacks_stack and not (self.files or self.unnamed)
        return 4 if report.unreadable or is_empty or lacks_stack else 0

    def as_json(self) -> dict[str, Any]:
        """Return the document ``symcache.plan/1``."""
        report, shares = self.at_hand, self.shares()
        counts = report.count()
        return {
            "schema": "symcache.plan/1",
            "symbol_path": report.symbol_path,
            "store": None if report.store is None else str(report.store),
            "seconds": round(report.seconds, 3),
            "summary": {
                "wanted": len(report.symbols) + len(self.files) + self.unnamed,
                "present": counts[State.PRESENT],
                "missing": counts[State.MISSING],
                "failed": counts[State.FAILED],
                "to_fetch": len(self.files),
                "unnamed": self.unnamed,
                "nowhere": self.nowhere,
                "unanswered": len(self.unanswered),
                "not_asked": self.not_asked,
                "bytes": sum(share.size_bytes for share in shares),
            },
            "servers": [
                {"server": each.server, "files": each.files, "bytes": each.size_bytes, "untold": each.untold}
                for each in shares
            ],
            "files": [each.as_json() for each in self.files],
            **({"modules_left_out": report.narrowed.modules} if report.narrowed else {}),
            "inputs": [{"path": each.path, "kind": each.kind} for each in report.inputs],
            "unreadable": [item.as_json() for item in report.unreadable],
        }


async def ask_servers(source: SymbolSource, wants: Sequence[OpenWant], *, within_s: float) -> list[Expected]:
    """Return what the servers of *source*, which is entered, say of *wants*, as far as they do so within *within_s*.

    One byte of each file is requested, as many at once as connections are allowed: every server that has files answers
    that, and tells the length of the whole, where HEAD is refused by some. PDBs that only their images name are left
    out.
    """
    found = [Expected(want) for want in wants if isinstance(want, WantedFile)]
    turns = iter(range(len(found)))

    async def work() -> None:
        for turn in turns:
            found[turn] = await _ask(source, found[turn])

    with anyio.move_on_after(within_s):
        async with anyio.create_task_group() as group:
            for _ in range(min(source.max_connections, len(found))):
                group.start_soon(work)
    return found


async def _ask(source: SymbolSource, expected: Expected) -> Expected:
    answer, is_no_answer = _NO_SERVER, False
    for key in (name for each in expected.want.keys for name in published_keys(each)):
        for chain in source.chains:
            for place in chain.stores:
                if place.is_on_disk:  # has been looked at
                    continue
                probed = await place.probe(key)
                if probed.form is not None:
                    return Expected(expected.want, place.name, probed.size_bytes, probed.answer)
                if probed.is_no_answer or not is_no_answer:
                    answer, is_no_answer = probed.answer, probed.is_no_answer
    return Expected(expected.want, answer=answer, is_no_answer=is_no_answer)
