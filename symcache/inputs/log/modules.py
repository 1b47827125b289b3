"""What a transcript says of modules, line by line, put together.

A line tells one thing: a row of ``lm`` an address, a question to the symbol server a key, ``DBGHELP: x - no symbols
loaded`` that the questions before it were about ``x``. One transcript may hold several sessions, so that facts which
contradict what is known of a name begin another module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from symcache.errors import MalformedInput
from symcache.identity import DbgKey, ImageKey, OtherKey, PdbKey, PortablePdbKey, base_name, fold, parse_id
from symcache.inputs.records import ImageUse, Module, reference_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import Key
    from symcache.inputs.records import PdbReference

UNREADABLE_STAMP = 0xFFFFFFFE
"""What dbgeng takes for the stamp of an image whose headers it cannot read; no server has a file of that key.

Source: observed with dbgeng 10.0.15063 on dumps that lack headers of modules.
"""
UNREADABLE_HEADERS = "the debugger could not read its headers (stamp FFFFFFFE), so that nothing identifies it"

# What is kept stays below some 100 MiB; the largest real transcripts name a few thousand files.
_MOST_FACTS = 50_000
# Requests about one module before the line that names it.
_MOST_PENDING = 64
# Modules of one name, from sessions in one transcript, that new facts are compared with.
_MOST_NAMESAKES = 8
# Whatever the files of kernel and HAL are called, debuggers call the modules nt and hal and try all of these names.
# Source: transcripts of dbgeng 10.0.15063, which asks for six kernels and twelve HALs.
_FAMILIES = (
    ("nt", re.compile(r"ntoskrnl\.exe|ntkr\w{1,8}\.exe|xboxkrnl\w{0,4}\.exe")),
    ("hal", re.compile(r"hal\w{0,12}\.dll")),
)
_NO_IDENTITY = "the log does not show what identifies it"
_NO_KEY = "the log does not show its key"


@dataclass(slots=True)
class Sighting:
    """A module as far as the lines so far tell."""

    name: str  # the debugger's, without an extension
    base: int | None = None
    size: int | None = None  # SizeOfImage, in bytes
    timestamp: int | None = None
    image_name: str | None = None
    path: str | None = None  # of its image
    unloaded: bool = False
    pdbs: dict[str, PdbReference] = field(default_factory=dict)  # asked for or loaded, by folded index
    dbg: DbgKey | None = None  # that was asked for
    pdb_name: str | None = None  # of a PDB that the transcript names without its key
    image_is_lacking: bool = False  # the debugger asked for the image and did not get it
    version: VersionInfo | None = None  # what `lmv` prints of the version resource
    reason: str | None = None  # why the transcript does not show what identifies it, where that is known

    def agrees_with(self, other: Sighting) -> bool:
        """Nothing in *other* contradicts this one."""
        for mine, theirs in zip(self._marks(), other._marks(), strict=True):
            if mine is not None and theirs is not None and mine != theirs:
                return False
        if len(self.pdbs) + len(other.pdbs) > _MOST_PENDING:
            return False
        names = {fold(reference.key.name) for reference in self.pdbs.values()}
        return all(index in self.pdbs or fold(other.pdbs[index].key.name) not in names for index in other.pdbs)

    def _marks(self) -> tuple[int | str | None, ...]:
        return self.base, self.size, self.timestamp, self.image_name and _family(self.image_name)

    def add(self, other: Sighting) -> None:
        """Take over what *other* knows and this one does not."""
        for name in ("base", "size", "timestamp", "image_name", "path", "dbg", "pdb_name", "version", "reason"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(other, name))
        self.image_is_lacking |= other.image_is_lacking
        self.pdbs.update(other.pdbs)

    def add_key(self, key: Key) -> None:
        """Take over what *key* says of the module."""
        if isinstance(key, DbgKey):
            self.dbg = key
        elif isinstance(key, ImageKey):
            self.image_name, self.timestamp, self.size = key.name, key.timestamp, key.size_of_image
        elif (reference := reference_to(key)) is not None:
            self.pdbs[key.folded] = reference

    def records(self) -> Iterator[Module]:
        """Yield it as a module.

        A ``.dbg`` file that was asked for beside an image whose PDB is not known is a record of its own: the image,
        once it is there, may name a PDB after all.
        """
        image = None
        if self.image_name and self.timestamp and self.size:
            image = ImageKey(self.image_name, self.timestamp, self.size)
        elif self.pdb_name is not None and not self.pdbs and self.base is None:
            yield Module(self.pdb_name, problem=f"the log does not show its key; it is the PDB of {self.name}")
            return
        apart = self.dbg if image is not None and not self.pdbs else None
        use = None
        if image is not None and self.image_is_lacking:
            use = ImageUse.CODE if self.pdbs else ImageUse.SYMBOLS
        yield Module(
            self.image_name or (self.name if self.dbg is None else self.dbg.name),
            path=self.path,
            base=self.base,
            unloaded=self.unloaded,
            image=image,
            pdbs=tuple(self.pdbs.values()),
            dbg=None if apart is not None else self.dbg,
            problem=self._problem(image),
            needs_image=use,
            version=self.version,
        )
        if apart is not None:
            yield Module(apart.name, dbg=apart)

    def _problem(self, image: ImageKey | None) -> str | None:
        if self.pdbs:
            return None
        if image is not None:
            return "the log does not show the key of its PDB; its image names it"
        if self.dbg is not None:
            return None
        if self.pdb_name is not None:
            return f"the log does not show the key of its PDB, {self.pdb_name}"
        return self.reason or _NO_IDENTITY


class LogModules:
    """Collects what lines say and yields the modules in the order they came up in, each once."""

    def __init__(self) -> None:
        self._sightings: list[Sighting] = []
        self._by_name: dict[tuple[str, bool], list[Sighting]] = {}
        self._pending: dict[str, Key] = {}
        self._pending_pdb_name: str | None = None
        self._loose: dict[str, Key] = {}
        self._found: set[str] = set()
        self._asked: set[str] = set()
        self._mentions: dict[str, tuple[str, str]] = {}
        self.overflowed = False  # the transcript names more than is kept

    def see(self, fact: Sighting) -> None:
        """Add *fact* to the module that it is about."""
        namesakes = self._by_name.get((fold(fact.name), fact.unloaded), [])
        for known in reversed(namesakes):
            if known.agrees_with(fact):
                known.add(fact)
                return
        if self._has_room():
            self._sightings.append(fact)
            self._by_name[fold(fact.name), fact.unloaded] = [*namesakes, fact][-_MOST_NAMESAKES:]

    def ask(self, key: Key) -> None:
        """Note that *key* was asked for, or its file used."""
        if key.folded not in self._pending and len(self._pending) >= _MOST_PENDING:
            self.spot(self._pending.pop(next(iter(self._pending))))
        self._pending[key.folded] = key
        if _is_image(key) and key.folded not in self._asked and self._has_room():
            self._asked.add(key.folded)

    def spot(self, key: Key) -> None:
        """Note that a line of another kind shows *key*."""
        if key.folded not in self._pending and key.folded not in self._loose and self._has_room():
            self._loose[key.folded] = key

    def find(self, key: Key) -> None:
        """Note that the file of *key* was there."""
        if self._has_room():
            self._found.add(key.folded)

    def find_by_name(self, name: str) -> None:
        """Note that a file called *name* was there; the transcript need not show its key."""
        for key in self._pending.values():
            if fold(key.name) == fold(name):
                self.find(key)

    def load(self, name: str, more: Iterable[Key] = ()) -> None:
        """Note that what was asked for since the last load, and *more*, was for the module *name*."""
        fact = Sighting(name)
        image = self._pick_image(name)
        for key in (*self._pending.values(), *more):
            if not _is_image(key) or key == image:
                fact.add_key(key)
        fact.image_is_lacking = image is not None and self._is_lacking(image)
        if not fact.pdbs:
            fact.pdb_name = self._pending_pdb_name
        for index, key in list(self._pending.items()):
            # An image goes if it is that one or another name that a debugger tries for it.
            if not _is_image(key) or (
                image is not None and _build(key) == _build(image) and _family(key.name) == _family(image.name)
            ):
                del self._pending[index]
        self.settle()
        self.see(fact)

    def settle(self) -> None:
        """Note that what was asked for so far has nothing to do with what comes next."""
        for index in list(self._pending):
            self.spot(self._pending.pop(index))
        if self._pending_pdb_name is not None:
            self.mention(self._pending_pdb_name, _NO_KEY)
            self._pending_pdb_name = None

    def copied(self, name: str) -> None:
        """Note that a file was fetched; the transcript need not show its key."""
        names = {fold(key.name) for key in self._pending.values()}
        if fold(name) not in names and fold(name).endswith(".pdb"):
            self._pending_pdb_name = name

    def mention(self, name: str, problem: str = _NO_IDENTITY) -> None:
        """Note a file that the transcript names without its key."""
        if fold(name) not in self._mentions and self._has_room():
            self._mentions[fold(name)] = (name, problem)

    def modules(self) -> Iterator[Module]:
        """Yield what was found; call it once, at the end."""
        self.settle()
        self._place_loose_images()
        self._place_mentions()
        yield from dict.fromkeys(self._all_modules())

    def _all_modules(self) -> Iterator[Module]:
        claimed: set[str] = set()
        for sighting in self._sightings:
            claimed.update(sighting.pdbs)
            if sighting.dbg is not None:
                claimed.add(sighting.dbg.folded)
            yield from sighting.records()
        for index, key in self._loose.items():
            if index not in claimed:
                lone = Sighting(key.name)
                lone.add_key(key)
                lone.image_is_lacking = self._is_lacking(key)
                yield from lone.records()
        for name, problem in self._mentions.values():
            yield Module(name, problem=problem)

    def _is_lacking(self, key: Key) -> bool:
        return key.folded in self._asked and key.folded not in self._found

    def _place_loose_images(self) -> None:
        """Give modules the images that were asked for apart from them; drop guesses at a name that is known."""
        # By family, too: a transcript may name thousands of modules and images of one build.
        homes: dict[tuple[int, int], dict[str, Sighting]] = {}
        for each in self._sightings:
            if each.timestamp is not None and each.size is not None:
                family = _family(each.image_name or each.name)
                homes.setdefault((each.timestamp, each.size), {}).setdefault(family, each)
        lacking = {(fold(each.name), each.size): each for each in self._sightings if each.timestamp is None}
        images = [key for key in self._loose.values() if _is_image(key)]
        known = {(_build(key), _family(key.name)) for key in images if key.folded in self._found}
        for key in images:
            build, family = _build(key), _family(key.name)
            home = lacking.get((_stem(key.name), build[1]))
            if home is not None and home.timestamp is None and build not in homes:
                home.add_key(key)
                homes[build] = {family: home}
            home = homes.get(build, {}).get(family)
            if home is not None:
                home.image_is_lacking |= self._is_lacking(key) and fold(home.image_name or "") == fold(key.name)
            elif (build, family) not in known or key.folded in self._found:
                if family == "nt":
                    known.add((build, "nt"))  # one kernel has one name in a store
                continue
            del self._loose[key.folded]

    def _place_mentions(self) -> None:
        """Give modules the file names that they are mentioned by; drop mentions of files whose key is known."""
        by_name: dict[str, list[Sighting]] = {}
        known = {fold(key.name) for key in self._loose.values()}
        for sighting in self._sightings:
            by_name.setdefault(fold(sighting.name), []).append(sighting)
            known.update(fold(reference.key.name) for reference in sighting.pdbs.values())
            known.update(fold(name) for name in (sighting.image_name, sighting.pdb_name) if name)
        for folded, (name, problem) in list(self._mentions.items()):
            namesakes = None if folded.endswith(".pdb") else by_name.get(_stem(name))
            for sighting in namesakes or ():
                sighting.image_name = sighting.image_name or name
                sighting.reason = sighting.reason or problem
            if namesakes is not None:
                namesakes.clear()  # they have both now, and thousands of files may be named like them
            is_known = folded in known or f"{_stem(name)}.pdb" in known
            if namesakes is not None or is_known or (_family(name) == "nt" and "nt" in by_name):
                del self._mentions[folded]

    def _pick_image(self, name: str) -> Key | None:
        """Return which image among the pending ones is that of the module *name*."""
        images = [key for key in self._pending.values() if _is_image(key)]
        found = [key for key in images if key.folded in self._found]
        named = [key for key in images if _stem(key.name) == fold(name)]
        family = [key for key in images if _family(key.name) == fold(name)]
        listed = [key for key in family if fold(key.name) in self._mentions]
        for candidates in ([key for key in found if key in named], named, [key for key in found if key in family]):
            if candidates:
                return candidates[-1]
        for candidates in (listed, family):
            if candidates:
                return candidates[0]
        return found[-1] if found else images[0] if len(images) == 1 else None

    def _has_room(self) -> bool:
        held = sum(map(len, (self._sightings, self._loose, self._mentions, self._found, self._asked)))
        self.overflowed |= held >= _MOST_FACTS
        return not self.overflowed


def sighting_of(name: str, *keys: Key | None, **facts: Any) -> Sighting:
    """Return what *keys* and *facts*, fields of `Sighting`, say of the module whose image is the file *name*."""
    found = Sighting(name.rpartition(".")[0] or name, image_name=name, **facts)
    for key in keys:
        if key is not None:
            found.add_key(key)
    return found


@lru_cache(maxsize=1024)  # lines are looked at alone and with their neighbours
def key_of(name: str, id_: str) -> Key | None:
    """Return the key of a file that a transcript names; None if that is no key or identifies nothing.

    A nil GUID, a stamp of zero and the mark of unreadable headers identify nothing, though debuggers ask for them.
    """
    try:
        key = parse_id(base_name(name.strip()), id_)
    except MalformedInput:
        return None
    match key:
        case PdbKey(guid=guid) | PortablePdbKey(guid=guid):
            return key if guid.int else None
        case ImageKey(timestamp=stamp, size_of_image=size):
            return key if stamp not in {0, UNREADABLE_STAMP} and size else None
        case OtherKey():
            return None
    return key


def _is_image(key: Key) -> bool:
    return type(key) is ImageKey


def _build(key: Key) -> tuple[int, int]:
    """Return what tells one build of an image from another, whatever its name."""
    assert isinstance(key, ImageKey)
    return (key.timestamp, key.size_of_image)


def _stem(name: str) -> str:
    """Return what debuggers call the module of the file *name*, unless that is taken."""
    return fold(name).rpartition(".")[0] or fold(name)


def _family(name: str) -> str:
    """Return the module that debuggers try several names for and *name* is one of; any other name itself, folded."""
    folded = fold(name)
    return next((family for family, names in _FAMILIES if folded == family or names.fullmatch(folded)), folded)
