"""The reader of a Windows build: its documents of the index, and the modules that they say the build has."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from symcache.errors import InputError, MalformedInput
from symcache.formats.view import FileView
from symcache.formats.winbindex import INSIDER, check_document, read_index, read_names
from symcache.identity import base_name, check_path_part
from symcache.inputs.builds.choose import Architecture, Choice, modules_of
from symcache.inputs.builds.words import Build, known_updates, parse_words, resolve
from symcache.inputs.records import Document, DocumentsWanted, Input, InputKind, Remark, Unreadable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.config import BuildSettings
    from symcache.formats.winbindex import IndexedFile, Occurrence
    from symcache.inputs.builds.words import KnownUpdate, Target
    from symcache.inputs.detect import InputOptions
    from symcache.inputs.records import Record
    from symcache.inputs.sets import NameSet

KERNEL = "ntoskrnl.exe"
"""The file that every update changes, so that its document tells which updates there are."""

NAMES = "filenames.json"
_SET = "kernel"
_FOLDER = "by_filename_compressed/"
_LARGEST_DOCUMENT_BYTES = 64 << 20
_DOCUMENTS_AT_ONCE = 512
_MOST_NAMES = 5000
_MOST_NAMED = 5
_IMAGE = re.compile(r"[^\\/]+\.(?:exe|dll|sys|efi|drv|ocx|cpl|acm|ax|scr|tsp|winmd)")


@dataclass(frozen=True, slots=True)
class Index:
    """Where documents are, for one architecture.

    Attributes:
        settings: URLs, and perhaps a folder.
        architecture: Documents of ARM64 are elsewhere.
        folder: Of documents that were downloaded; takes the place of that of *settings*, and of the network.
        is_insider: Those of Insider builds, which are of x64 and ARM64.
    """

    settings: BuildSettings
    architecture: Architecture
    folder: Path | None = None
    is_insider: bool = False

    def documents(self, names: Iterable[str]) -> Generator[DocumentsWanted, None, list[Document]]:
        """Ask for what the index has of the files of these *names*, and return that."""
        documents = [self._document(name) for name in names]
        wanted = [each for each in documents if each.is_open]
        for at in range(0, len(wanted), _DOCUMENTS_AT_ONCE):
            yield DocumentsWanted(wanted[at : at + _DOCUMENTS_AT_ONCE])
        return documents

    def list_names(self) -> Generator[DocumentsWanted, None, Document]:
        """Ask for the list of all names that the index has."""
        folder, url = self._folder, self._url
        place, found, _ = url.partition(_FOLDER)
        if folder is not None:
            path = folder / NAMES
            document = Document(NAMES, "", path=path if path.is_file() else None, is_missing=not path.is_file())
        elif not found:
            document = Document(NAMES, "", is_missing=True)
        else:
            document = Document(NAMES, place + NAMES, _LARGEST_DOCUMENT_BYTES, check=_check)
            yield DocumentsWanted([document])
        return document

    @property
    def name(self) -> str:
        """What users call it."""
        return f"the index of {'Insider ' if self.is_insider else ''}builds"

    @property
    def missing_text(self) -> str:
        """Say of a document where it is not."""
        if self._folder is None:
            return "its server has none"
        return f"it is not in {self._folder}" if self._folder.is_dir() else f"there is no folder {self._folder}"

    @property
    def _folder(self) -> Path | None:
        folder = self.folder or self.settings.folder
        if folder is None:
            return None
        if self.is_insider:
            return folder / "insider"
        return folder / "arm64" if self.architecture is Architecture.ARM64 else folder

    @property
    def _url(self) -> str:
        if self.is_insider:
            return self.settings.insider_url
        return self.settings.arm64_url if self.architecture is Architecture.ARM64 else self.settings.url

    def _document(self, name: str) -> Document:
        check_path_part(name)
        if self._folder is None:
            spelt = {"NAME": quote(name, safe=""), "SHARD": shard_of(name)}
            url = re.sub("NAME|SHARD", lambda match: spelt[match[0]], self._url)
            return Document(name, url, _LARGEST_DOCUMENT_BYTES, check=_check)
        folders = (self._folder, self._folder / shard_of(name)) if self.is_insider else (self._folder,)
        paths = [folder / f"{name}{suffix}" for folder in folders for suffix in (".json.gz", ".json")]
        path = next((path for path in paths if path.is_file()), None)
        return Document(name, "", path=path, is_missing=path is None)


def shard_of(name: str) -> str:
    """Return the folder in which the Insider index has the document of *name*: two digits of a hash by D. J. Bernstein.

    Source: the page of Winbindex, and where its repository has ``ntoskrnl.exe`` (``f0``) and ``appid.sys`` (``00``).
    """
    code = 5381
    for letter in name:
        code = (code * 33 + ord(letter)) & 0xFFFFFFFF
    return f"{code & 0xFF:02x}"


def _check(path: Path) -> None:
    with FileView(path) as view:
        check_document(view)


@dataclass(frozen=True, slots=True)
class BuildSource:
    """A Windows build as an input, a `ModuleSource`: the files that it has of the sets that are wanted.

    Attributes:
        build: ``22621.1483``, ``10.0.22621.1483``, ``22621`` (the latest update), ``KB5023706`` or ``11 22H2``.
        architecture: ``x64``, ``x86`` or ``arm64``.
        index: A folder of documents, in place of the network.
    """

    build: str
    architecture: str = Architecture.X64
    index: Path | None = field(default=None)

    @property
    def path(self) -> str:
        return f"{self.build} {self.architecture}"

    def records(self, options: InputOptions) -> Iterator[Record]:
        """Yield the build, its modules and what could not be told of it.

        Raises:
            InputError: *build* is none that the index has.
        """
        words, architecture = parse_words(self.build), _architecture(self.architecture)
        index = Index(options.builds, architecture, self.index)
        known = yield from find_updates(index)
        theirs: Sequence[KnownUpdate] = ()
        trouble = ""
        if isinstance(words, Build) and not any(each.build == words for each in known):
            # What is not published for everybody may be in the index of Insider builds.
            insider = Index(options.builds, architecture, self.index, is_insider=True)
            try:
                theirs = (yield from find_updates(insider, may_be_missing=True)) if words.revision is not None else []
            except InputError as error:
                trouble = f"; {error.problem}"
            if any(each.build == words for each in theirs):
                index, known = insider, theirs
        try:
            target = resolve(words, known)
        except InputError as error:
            raise InputError(f"{error.problem}{trouble}") from error
        yield Input(self.path, InputKind.BUILD, _details(target, architecture))
        names = options.names(_SET)
        assert names is not None
        yield from self._modules(index, target, names)

    def _modules(self, index: Index, target: Target, names: NameSet) -> Iterator[Record]:
        wanted = yield from _wanted_names(index, names, self.path)
        documents = yield from index.documents(wanted)
        found = 0
        unanswered = [each for each in documents if each.problem is not None]
        for document in documents:
            if document.path is None:
                continue
            choice = Choice(target, index.architecture)
            try:
                for entry in read_document(document.path):
                    choice.add(entry)
            except (InputError, OSError) as error:
                problem = error.problem if isinstance(error, InputError) else error.strerror or str(error)
                yield Unreadable(f"{document.name} in the index of builds", problem, getattr(error, "offset", None))
            modules = list(modules_of(document.name, choice.files))
            found += bool(modules)
            yield from modules
        if unanswered:
            yield Unreadable(self.path, _unanswered_text(unanswered, len(documents)))
        if not found and not unanswered:
            raise InputError(f"the index has none of the {len(documents)} names of {names.label} for it")
        shown = str(target.build or target.update.release)
        yield Remark(
            f"{shown} {index.architecture}: the index has {found} of the {len(documents)} names of {names.label}"
        )


def _architecture(text: str) -> Architecture:
    try:
        return Architecture(text)
    except ValueError as error:
        choice = ", ".join(Architecture)
        raise MalformedInput(f"{text[:40]!r} is no architecture; there are {choice}") from error


def _details(target: Target, architecture: Architecture) -> dict[str, str]:
    update = target.update
    told = {
        "build": None if target.build is None else str(target.build),
        "release": update.shown_release,
        "update": None if update.release == INSIDER else update.update,
        "date": update.date,
        "architecture": architecture.value,
    }
    return {name: value for name, value in told.items() if value is not None}


def find_updates(
    index: Index, *, may_be_missing: bool = False
) -> Generator[DocumentsWanted, None, Sequence[KnownUpdate]]:
    """Ask for the document of the kernel, and return which updates it tells of.

    Raises:
        InputError: It is not to be had, or damaged; that there is none is an answer where it *may_be_missing*.
    """
    (document,) = yield from index.documents([KERNEL])
    if document.path is None:
        if may_be_missing and document.problem is None:
            return []
        problem = document.problem or index.missing_text
        raise MalformedInput(f"which builds there are says {KERNEL} in {index.name}: {problem}")
    try:
        return known_updates(_occurrences(read_document(document.path)))
    except InputError as error:
        raise MalformedInput(f"{KERNEL} in {index.name}: {error.problem}", offset=error.offset) from error


def _occurrences(entries: Iterable[IndexedFile]) -> Iterator[Occurrence]:
    for entry in entries:
        yield from entry.occurrences


def read_document(path: Path) -> Iterator[IndexedFile]:
    """Yield the entries of a document on disk; raises as `read_index`, and `OSError`."""
    with FileView(path) as view:
        yield from read_index(view)


def _wanted_names(index: Index, names: NameSet, build: str) -> Generator[Record, None, list[str]]:
    """Return the names of files that a set has: those that it lists, and those of the index that fit its patterns."""
    wanted: dict[str, None] = {name: None for name in names.names if _IMAGE.fullmatch(name)}
    if names.globs:
        document = yield from index.list_names()
        if document.path is None:
            why = document.problem or "the index has no list of names"
            if not wanted:
                raise InputError(f"{names.label} has patterns and no names, and what fits them cannot be told: {why}")
            yield Remark(f"{build}: the patterns of {names.label} were passed over, {why}")
        else:
            try:
                with FileView(document.path) as view:
                    for name in map(str.lower, read_names(view)):
                        if len(wanted) <= _MOST_NAMES and _IMAGE.fullmatch(name) and names.takes(name):
                            wanted[name] = None
            except (InputError, OSError) as error:
                problem = error.problem if isinstance(error, InputError) else error.strerror or str(error)
                yield Unreadable(f"{NAMES} of the index of builds", problem, getattr(error, "offset", None))
    if len(wanted) > _MOST_NAMES:
        problem = f"{names.label} has more than {_MOST_NAMES} names in the index: take a smaller set"
        raise MalformedInput(problem)
    return [name for name in wanted if _is_fit(name)]


def _is_fit(name: str) -> bool:
    try:
        check_path_part(name)
    except MalformedInput:
        return False
    return base_name(name) == name


def _unanswered_text(unanswered: Sequence[Document], total: int) -> str:
    names = ", ".join(each.name for each in unanswered[:_MOST_NAMED])
    more = f" and {len(unanswered) - _MOST_NAMED} more" if unanswered[_MOST_NAMED:] else ""
    return f"{len(unanswered)} of {total} documents of the index are not here ({names}{more}): {unanswered[0].problem}"
