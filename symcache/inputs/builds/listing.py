"""What an index of Windows builds knows of a release, an update or a file, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput
from symcache.inputs.builds.choose import modules_of_entry
from symcache.inputs.builds.source import find_updates, read_document
from symcache.inputs.builds.words import Build, ByRelease, names_of, parse_build, parse_words, resolve

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from symcache.formats.winbindex import IndexedFile
    from symcache.inputs.builds.source import Index
    from symcache.inputs.builds.words import KnownUpdate
    from symcache.inputs.records import DocumentsWanted, Module

_MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One file of a name, and the builds that brought it, the first one first."""

    kind: str
    version: str | None
    module: Module
    builds: tuple[Build, ...]
    releases: tuple[str, ...]  # in which it was as they were first published

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object."""
        image = self.module.image
        return {
            "index": None if image is None else image.index,
            "candidates": len(self.module.candidates),
            "kind": self.kind,
            "file_version": self.version,
            "builds": list(map(str, self.builds)),
            "releases": list(self.releases),
        }


def list_updates(index: Index, words: str | None) -> Generator[DocumentsWanted, None, Sequence[KnownUpdate]]:
    """Return what the index knows of the build, update or release that *words* mean; of all releases if it is None.

    Of a release, and of a build number alone, all updates.

    Raises:
        InputError: It is not in the index, or that is not to be had.
    """
    known = yield from find_updates(index)
    if words is None:
        return known
    meant = parse_words(words)
    if isinstance(meant, ByRelease):
        names = names_of(meant, {each.release for each in known})
        found = [each for each in known if each.release in names]
    elif isinstance(meant, Build) and meant.revision is None:
        found = [each for each in known if each.number == meant.number]
    else:
        found = [] if isinstance(meant, Build) else [each for each in known if each.update == meant.name]
    return found or [resolve(meant, known).update]


def list_files(index: Index, name: str) -> Generator[DocumentsWanted, None, Sequence[KnownFile]]:
    """Return what the index knows of the files called *name*, of its architecture alone, oldest build first.

    Raises:
        InputError: The index has no such file, none of that architecture, or its document is not to be had or damaged.
    """
    (document,) = yield from index.documents([name])
    if document.path is None:
        raise MalformedInput(f"{name} is not in the index of builds: {document.problem or 'it has no such file'}")
    found: list[KnownFile] = []
    total = 0
    try:
        for entry in read_document(document.path):
            total += 1
            if entry.machine == index.architecture.machine and len(found) < _MOST_FILES:
                found += [_known_file(entry, module) for module in modules_of_entry(name, entry)]
    except InputError as error:
        raise MalformedInput(f"{name} in the index of builds: {error.problem}", offset=error.offset) from error
    if not found:
        raise InputError(f"{name} is in the index of builds, but none of its {total} files is of {index.architecture}")
    return sorted(found, key=lambda each: (each.builds[:1] or (Build(0),), each.version or ""))


def _known_file(entry: IndexedFile, module: Module) -> KnownFile:
    builds = {build for each in entry.occurrences if (build := parse_build(each.build)) is not None}
    releases = dict.fromkeys(each.release for each in entry.occurrences if parse_build(each.build) is None)
    return KnownFile(entry.kind, entry.version, module, tuple(sorted(builds)), tuple(releases))
