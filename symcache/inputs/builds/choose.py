"""Which files of one name a Windows build has, chosen from what an index knows of that name; without disk or network.

An index has a name many times: for each update that changed the file, each architecture, and each part of Windows that
brings a file of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.winbindex import EntryKind, size_candidates
from symcache.identity import ImageKey
from symcache.inputs.records import Module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.winbindex import IndexedFile
    from symcache.inputs.builds.words import Target

_MOST_FILES = 16
_MOST_COMPONENTS = 1000
_NOT_TOLD = ""


class Architecture(StrEnum):
    """What a file was compiled for."""

    X64 = "x64"
    X86 = "x86"
    ARM64 = "arm64"

    @property
    def machine(self) -> int:
        """Its number in the header of an image."""
        return {"x64": 0x8664, "x86": 0x014C, "arm64": 0xAA64}[self.value]

    @property
    def assembly(self) -> tuple[str, ...]:
        """What the names of assemblies begin with that bring such files."""
        return {"x64": ("amd64_",), "x86": ("x86_", "wow64_"), "arm64": ("arm64_",)}[self.value]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file that the build has, and how late it came among the updates of the build; see `Target.age_of`."""

    entry: IndexedFile
    age: int


class Choice:
    """The files of one name that *target* has for *architecture*; several if several parts of Windows bring one.

    Of each part of Windows, an assembly without its version, the file of the latest update that *target* includes
    counts: an update brings what changed since the release, so that a file stands under the last update that changed
    it, or under the release. Where the index does not tell the part of any, it is the latest file of all. Several files
    of one part and one update are all wanted, as nothing tells which of them a machine has loaded.
    """

    def __init__(self, target: Target, architecture: Architecture) -> None:
        self._target = target
        self._architecture = architecture
        self._latest: dict[str, list[Chosen]] = {}  # by the part of Windows; empty where that is not told

    def add(self, entry: IndexedFile) -> None:
        """Take in what the index knows of one file."""
        if not _may_be(entry, self._architecture):
            return
        for occurrence in entry.occurrences:
            age = self._target.age_of(occurrence)
            if age is None:
                continue
            for component in occurrence.components or (_NOT_TOLD,):
                if component in self._latest or len(self._latest) < _MOST_COMPONENTS:
                    self._add(self._latest.setdefault(component, []), Chosen(entry, age))

    @property
    def files(self) -> list[Chosen]:
        """Those of the latest update first."""
        told = {component: files for component, files in self._latest.items() if component != _NOT_TOLD}
        found = [each for files in (told or self._latest).values() for each in files]
        unique = {each.entry.digest: each for each in sorted(found, key=lambda each: each.age)}
        return sorted(unique.values(), key=lambda each: -each.age)[:_MOST_FILES]

    @staticmethod
    def _add(known: list[Chosen], new: Chosen) -> None:
        """Let *known*, files of one part that came at the same time, be the latest with *new*."""
        if known and new.age > known[0].age:
            known.clear()
        is_latest = not known or new.age == known[0].age
        if is_latest and len(known) < _MOST_FILES and all(each.entry.digest != new.entry.digest for each in known):
            known.append(new)


def _may_be(entry: IndexedFile, architecture: Architecture) -> bool:
    if entry.kind is EntryKind.RAW:
        return False
    if entry.machine is not None:
        return entry.machine == architecture.machine
    components = [each for occurrence in entry.occurrences for each in occurrence.components]
    return any(each.startswith(architecture.assembly) for each in components)


def modules_of(name: str, chosen: Iterable[Chosen]) -> Iterator[Module]:
    """Yield a module for each file of *chosen*; one whose size is not known has candidates in place of its identity."""
    yield from dict.fromkeys(module for each in chosen for module in modules_of_entry(name, each.entry))


def modules_of_entry(name: str, entry: IndexedFile) -> Iterator[Module]:
    """Yield the module that *entry* is; none if it has a key that no file can have."""
    stamp = entry.timestamp
    if stamp is not None and entry.size_of_image is not None:
        key = _image_key(name, stamp, entry.size_of_image)
        if key is not None:
            yield Module(name, image=key)
        return
    keys = [] if stamp is None else [_image_key(name, stamp, size) for size in size_candidates(entry)]
    candidates = tuple(key for key in keys if key is not None)
    if candidates:
        problem = f"the index does not tell the size of the image, which is one of {len(candidates)}"
        yield Module(name, candidates=candidates, problem=problem)
    else:
        yield Module(name, problem="the index knows the file and not its identity")


def _image_key(name: str, timestamp: int, size_of_image: int) -> ImageKey | None:
    try:
        return ImageKey(name, timestamp, size_of_image)
    except MalformedInput:
        return None
