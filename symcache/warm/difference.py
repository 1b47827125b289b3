"""What is different between two sets of modules or files, by what identifies their builds: from values alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.formats.pe.version import dotted
from symcache.identity import DbgKey, ImageKey, PortablePdbKey, fold
from symcache.inputs.records import Module
from symcache.warm.plan import ImageChoice, NothingToFetch, WantedFile, wants_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.identity import Key


class Change(StrEnum):
    """What became of a module or file; in the order in which it is told."""

    CHANGED = "changed"  # another build, or the same build's file with other bytes
    CAME = "came"
    WENT = "went"
    LOST = "lost"  # at hand before, not after
    FOUND = "found"  # the other way round
    UNCLEAR = "unclear"  # nothing is known of both that could be compared


@dataclass(slots=True)
class Known:
    """What one side knows of a module, or of all files of one name; it may be there in several builds.

    Attributes:
        name: As the side spells it.
        builds: By kind (``image``, ``pdb``, ``other``), what identifies each build, as it is shown.
        hashes: SHA-256 by folded index, where a lock file has it.
        at_hand: By folded index, whether it was at hand, where a lock file or a report says so.
        versions: File versions, where the side knows any; they are shown, and not compared.
    """

    name: str
    builds: dict[str, dict[str, str]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    at_hand: dict[str, bool] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)

    def add(self, key: Key) -> None:
        """Take in one more build."""
        if isinstance(key, ImageKey) and not isinstance(key, DbgKey):
            self.builds.setdefault("image", {})[fold(key.id)] = key.id  # published under several names
        else:
            kind = "pdb" if _is_pdb(key) else "other"
            self.builds.setdefault(kind, {})[key.folded] = f"{key.name} {key.id}"

    def as_json(self) -> dict[str, Any]:
        """Return it as one side of a difference in ``symcache.diff/1``."""
        fields: dict[str, Any] = {kind: sorted(builds.values()) for kind, builds in sorted(self.builds.items())}
        if self.hashes:
            fields["sha256"] = sorted(self.hashes.values())
        if self.at_hand:
            fields["at_hand"] = all(self.at_hand.values())
        if self.versions:
            fields["versions"] = sorted(self.versions)
        return fields


def _is_pdb(key: Key) -> bool:
    return not isinstance(key, ImageKey) and fold(key.name).endswith(".pdb")


class Side:
    """One of two sets: modules by name, or with *by_file* files by name, as in stores, which know no modules.

    Letter case does not count, and neither does where a module was loaded, nor what had been unloaded. *held_alone*
    leaves out what a lock file or a report has as missing, as a store would.
    """

    def __init__(self, *, by_file: bool = False, held_alone: bool = False) -> None:
        self.by_file = by_file
        self._held_alone = held_alone
        self._known: dict[str, Known] = {}

    @property
    def known(self) -> Mapping[str, Known]:
        """What is known, by folded name."""
        pdbs = [pdb for each in self._known.values() if not self._is_pdb(each) for pdb in each.builds.get("pdb", {})]
        named = frozenset(() if self.by_file else pdbs)
        # A PDB that lies beside its image is no module of its own.
        return {
            name: each
            for name, each in self._known.items()
            if not (self._is_pdb(each) and each.builds["pdb"].keys() <= named)
        }

    def _is_pdb(self, known: Known) -> bool:
        return known.builds.keys() == {"pdb"} and all(
            pdb.startswith(f"{fold(known.name)}/") for pdb in known.builds["pdb"]
        )

    def add_key(self, key: Key) -> None:
        """Take in a file of a store."""
        self._of(key.name).add(key)

    def add(self, module: Module) -> None:
        """Take in *module*: its image, and of its PDBs the one that a debugger asks for."""
        recorded = module.recorded
        if module.unloaded or (self._held_alone and recorded is not None and recorded.cause is not None):
            return
        keys = list(_keys(module))
        if not self.by_file:
            known = self._of(module.name)  # also one of which nothing is known
            if module.version is not None and module.version.file_numbers is not None:
                known.versions.add(dotted(module.version.file_numbers))
        for key in keys:
            known = self._of(key.name if self.by_file else module.name)
            known.add(key)
            if recorded is not None:
                known.at_hand[key.folded] = recorded.cause is None
                if recorded.sha256 is not None:
                    known.hashes[key.folded] = recorded.sha256

    def _of(self, name: str) -> Known:
        return self._known.setdefault(fold(name), Known(name))


def _keys(module: Module) -> Iterator[Key]:
    if module.image is not None:
        yield module.image
    if module.dbg is not None:
        yield module.dbg
    unsaid = Module(module.name, pdbs=module.pdbs)
    wants = wants_of(unsaid, images=ImageChoice.NONE, all_pdbs=False)
    keys = [want.key for want in wants if isinstance(want, WantedFile | NothingToFetch) and want.key is not None]
    # Of precompiled managed code the one that native debuggers ask for, as an input may name no other.
    native = [key for key in keys if not isinstance(key, PortablePdbKey)]
    yield from (native or keys)[-1:]


@dataclass(frozen=True, slots=True)
class Difference:
    """One name that is not the same on both sides; None where a side does not have it."""

    change: Change
    before: Known | None
    after: Known | None

    @property
    def name(self) -> str:
        """As the newer side that has it spells it."""
        known = self.after or self.before
        assert known is not None
        return known.name

    def as_json(self) -> dict[str, Any]:
        """Return the fields of ``symcache.diff/1``."""
        before, after = (None if each is None else each.as_json() for each in (self.before, self.after))
        return {"name": self.name, "change": self.change, "before": before, "after": after}

    def said(self) -> tuple[str, str]:
        """Return in words what identifies the builds before and after; of both, what differs alone."""
        return _said(self.before, self.after), _said(self.after, self.before)


def _said(known: Known | None, other: Known | None) -> str:
    if known is None:
        return ""
    said: list[str] = []
    for kind, builds in sorted(known.builds.items()):
        others = {} if other is None else other.builds.get(kind, {})
        said += [f"{kind} {text}" for folded, text in sorted(builds.items()) if folded not in others]
    if not said and other is not None:
        said += [f"SHA-256 {digest}" for index, digest in known.hashes.items() if other.hashes.get(index) != digest]
    return ", ".join([*sorted(known.versions), *said] if said else said)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs, in the order of `Change` and then of names, and how many names are the same."""

    differences: tuple[Difference, ...]
    same: int

    def count(self) -> dict[str, int]:
        """Return how many names there are of each change, and how many are the same."""
        counts = {change.value: sum(each.change is change for each in self.differences) for change in Change}
        return {**counts, "same": self.same}


def compare(before: Side, after: Side) -> Comparison:
    """Return what is different in *after*; both sides go by modules, or both by files."""
    old, new = before.known, after.known
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        change = _compare(old.get(name), new.get(name))
        if change is not None:
            found.append(Difference(change, old.get(name), new.get(name)))
    order = list(Change)
    found.sort(key=lambda each: order.index(each.change))  # stable, so that names stay sorted
    return Comparison(tuple(found), len(old.keys() | new.keys()) - len(found))


def _compare(before: Known | None, after: Known | None) -> Change | None:
    if before is None or after is None:
        return Change.CAME if before is None else Change.WENT
    both = before.builds.keys() & after.builds.keys()
    if any(before.builds[kind].keys() != after.builds[kind].keys() for kind in both):
        return Change.CHANGED
    if any(before.hashes[index] != after.hashes[index] for index in before.hashes.keys() & after.hashes.keys()):
        return Change.CHANGED
    if not both and (before.builds or after.builds):
        return Change.UNCLEAR
    told = sorted(before.at_hand.keys() & after.at_hand.keys())
    if any(before.at_hand[index] and not after.at_hand[index] for index in told):
        return Change.LOST
    return Change.FOUND if any(before.at_hand[index] != after.at_hand[index] for index in told) else None
