"""What a trace says of modules, whatever it is written in: each module once, with what several events say of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from symcache.errors import MalformedInput
from symcache.formats.pe.version import VersionInfo, one_line
from symcache.formats.trace.events import (
    FILE_VERSION_TEXTS,
    CodeViewMark,
    FileVersion,
    ImageInfo,
    ManagedModule,
    MappedPe,
    MethodAt,
    NamedPdb,
    NoPdb,
    PdbIdentity,
    ProcessNamed,
    ThreadOf,
    TraceModule,
)
from symcache.formats.trace.hits import PAGE_BITS
from symcache.identity import PdbKey, PortablePdbKey, base_name, fold, source_name
from symcache.inputs.image import loader_key
from symcache.inputs.records import Module, PdbFormat, PdbReference, ProcessSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.trace.events import TraceEvent
    from symcache.formats.trace.hits import Hits
    from symcache.inputs.records import ProcessSelection, Record

# A busy machine's trace has some twenty thousand.
MOST_IMAGES = 1 << 17
_MOST_MANAGED = 1 << 16
_MOST_PROCESSES = 1 << 16
_MOST_THREADS = 1 << 18
_MOST_METHODS = 1 << 19
_KERNEL = 0
_UNMERGED = (
    "the trace has its name and size alone; merge it on the machine that it is from, with `xperf -merge IN.etl OUT.etl`"
    " or by ending it with `wpr -stop OUT.etl`"
)
_NOT_FOUND = "merging found no PDB of it: its file was not on the machine that merged, or names none"
_NAMES_NO_PDB = "merging found that it names no PDB"


@dataclass(slots=True, eq=False)
class _Image:
    """What is known of the image at one base of one process."""

    process: int
    base: int
    size: int = 0
    timestamp: int = 0
    checksum: int = 0
    name: str = ""  # by its version resource
    path: str = ""
    pdb: NamedPdb | None = None
    il_pdb: NamedPdb | None = None
    marks: tuple[bool, ...] = ()
    names_no_pdb: bool = False
    was_merged: bool = False  # merging has read its headers


_Item: TypeAlias = _Image | ManagedModule | MappedPe
_Identity: TypeAlias = tuple[object, ...]


def _file_of(image: _Image) -> _Identity:
    return fold(image.path), image.size, image.checksum


def _identity(item: _Item) -> _Identity:
    """Return what *item* is, wherever it lies."""
    if not isinstance(item, _Image):
        return item[2:]
    pdbs = tuple(None if pdb is None else pdb[2:] for pdb in (item.pdb, item.il_pdb))
    return item.name or item.path, item.timestamp, item.size, pdbs, item.marks, item.names_no_pdb


class _Space:
    """What lies at the addresses of one process."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, _Item]] = []
        self._starts: list[int] = []

    def add(self, start: int, size: int, item: _Item) -> None:
        if size > 0:
            self._ranges.append((start, start + size, item))

    def sort(self) -> None:
        self._ranges.sort(key=lambda each: each[0])
        self._starts = [start for start, _, _ in self._ranges]

    def find(self, page: int) -> _Item | None:
        """Return the last that begins before the end of *page* and reaches into it."""
        first = page << PAGE_BITS
        at = bisect_right(self._starts, first + (1 << PAGE_BITS) - 1) - 1
        return self._ranges[at][2] if at >= 0 and first < self._ranges[at][1] else None


@dataclass(slots=True)
class TraceContents:
    """What the events of a trace say, put together; they are taken in their order in the trace."""

    is_merged: bool = False
    is_full: bool = False
    _images: dict[tuple[int, int], _Image] = field(default_factory=dict)
    _replaced: list[_Image] = field(default_factory=list)  # another one was loaded at the same base
    _managed: dict[ManagedModule, None] = field(default_factory=dict)
    _mapped: dict[MappedPe, None] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _threads: dict[int, int] = field(default_factory=dict)
    _versions: dict[tuple[str, int, int], VersionInfo] = field(default_factory=dict)
    _methods: dict[tuple[int, int], MethodAt] = field(default_factory=dict)
    _stamps: dict[_Identity, int] = field(default_factory=dict)  # of files, by what rundowns say of them
    _hits: Hits | None = None

    def take(self, event: TraceEvent) -> None:
        """Take one event in."""
        if isinstance(event, NamedPdb):
            self.is_merged = True
            self._take_pdb(event)
        elif isinstance(event, ImageInfo):
            self.is_merged = True
            self._take_info(event)
        elif isinstance(event, TraceModule):
            self._take_image(event)
        elif isinstance(event, CodeViewMark):
            image = self._images.get((event.process, event.base))
            if image is not None and len(image.marks) < 2:
                image.marks += (event.is_portable,)
        elif isinstance(event, FileVersion):
            self._take_version(event)
        elif isinstance(event, ManagedModule):
            if len(self._managed) < _MOST_MANAGED:
                self._managed.setdefault(event)
        elif isinstance(event, MethodAt):
            if event.size and len(self._methods) < _MOST_METHODS:
                self._methods[event.process, event.start] = event
        elif isinstance(event, ProcessNamed):
            if event.name and (event.process in self._names or len(self._names) < _MOST_PROCESSES):
                self._names[event.process] = event.name
        elif isinstance(event, ThreadOf):
            if event.thread in self._threads or len(self._threads) < _MOST_THREADS:
                self._threads[event.thread] = event.process
        elif isinstance(event, MappedPe):
            if len(self._mapped) < _MOST_MANAGED:
                self._mapped.setdefault(event)
        else:
            self._take_no_pdb(event)

    def add_hits(self, hits: Hits | None) -> None:
        """Take in what samples and stacks of a part of the trace point into."""
        if hits is None:
            return
        if self._hits is None:
            self._hits = hits
        else:
            self._hits.merge(hits)

    def _image_at(self, process: int, base: int) -> _Image | None:
        image = self._images.get((process, base))
        if image is None:
            if len(self._images) + len(self._replaced) >= MOST_IMAGES:
                self.is_full = True
                return None
            image = self._images[process, base] = _Image(process, base)
        return image

    def _another_at(self, image: _Image) -> _Image | None:
        """Return a new image in the place of *image*, which stays known."""
        self._replaced.append(image)
        del self._images[image.process, image.base]
        return self._image_at(image.process, image.base)

    def _take_info(self, event: ImageInfo) -> None:
        image = self._image_at(event.process, event.base)
        if image is not None and image.was_merged:
            if (image.name, image.size, image.timestamp) == (event.name, event.size, event.timestamp):
                return
            image = self._another_at(image)
        if image is None:
            return
        image.was_merged = True
        image.name, image.size = event.name, event.size or image.size
        image.timestamp = event.timestamp or image.timestamp

    def _take_image(self, event: TraceModule) -> None:
        image = self._image_at(event.process, event.base)
        if image is not None and image.path and fold(image.path) != fold(event.path):
            is_other = base_name(fold(image.path)) != base_name(fold(event.path)) or image.size != event.size
            image = self._another_at(image) if is_other else image
        if image is not None:
            image.path = event.path
            image.size = image.size or event.size
            image.timestamp = image.timestamp or event.timestamp
            image.checksum = event.checksum
            if event.timestamp and len(self._stamps) < MOST_IMAGES:
                self._stamps[_file_of(image)] = event.timestamp

    def _take_pdb(self, event: NamedPdb) -> None:
        image = self._image_at(event.process, event.base)
        if image is None:
            return
        known = image.il_pdb if event.is_il else image.pdb
        if known is not None and known != event:
            image = self._another_at(image)
            if image is None:
                return
        if event.is_il:
            image.il_pdb = event
        else:
            image.pdb = event

    def _take_no_pdb(self, event: NoPdb) -> None:
        image = self._image_at(event.process, event.base)
        if image is not None:
            image.names_no_pdb = True

    def _take_version(self, event: FileVersion) -> None:
        if len(self._versions) >= MOST_IMAGES:
            return
        version = _version_of(event.texts)
        if version is not None and event.texts:
            self._versions[event.texts[0], event.timestamp, event.size] = version

    def missed(self, selection: ProcessSelection | None) -> list[str]:
        """Return those processes of *selection* that are not in the trace."""
        if selection is None:
            return []
        processes = {process: self._name_of(process) for process in self._processes()}
        return [
            wanted
            for wanted in selection.wanted
            if not any(_is_named(wanted, process, name) for process, name in processes.items())
        ]

    def modules(self, selection: ProcessSelection | None) -> Iterator[Record]:
        """Yield the modules of the kernel and of the processes asked for, each once, and a summary of each process."""
        seen: set[_Identity] = set()
        named: set[str] = set()  # PDBs
        for process, items in self._by_process().items():
            if not self._is_wanted(process, selection):
                continue
            label = self._label(process)
            for item in items:
                identity = _identity(item)
                if identity in seen:
                    continue
                seen.add(identity)
                for module in self._modules_of(item):
                    indexes = {pdb.key.folded for pdb in module.pdbs}
                    # Events of .NET name what merging has found in images, too, and paths differ.
                    if isinstance(item, ManagedModule) and indexes and indexes <= named:
                        continue
                    named |= indexes
                    yield replace(module, process=label)
            if label is not None:
                count = len({(item.base if isinstance(item, _Image | MappedPe) else item.module) for item in items})
                yield ProcessSummary(process, self._name_of(process), self._executable(process, items), count)

    def hot_modules(self, most: int, selection: ProcessSelection | None) -> Iterator[Module]:
        """Yield the *most* modules that samples and stacks point into most, most first."""
        wanted: Counter[Module] = Counter()
        examples: dict[Module, _Item] = {}
        for item, count in self._count_hits().items():
            if self._is_wanted(item.process, selection):
                identity = replace(next(self._modules_of(item)), base=None)
                wanted[identity] += count
                examples.setdefault(identity, item)
        for identity, count in wanted.most_common(most):
            item = examples[identity]
            for module in self._modules_of(item):
                yield replace(module, process=self._label(item.process), hits=count)

    def _count_hits(self) -> Counter[_Item]:
        counts: Counter[_Item] = Counter()
        if self._hits is None:
            return counts
        self._hits.resolve_keys()
        spaces = self._spaces()
        nothing = _Space()
        kernel = spaces.get(_KERNEL, nothing)
        pages = chain(
            ((self._threads.get(thread, _KERNEL), page, count) for (thread, page), count in self._hits.samples.items()),
            ((process, page, count) for (process, page), count in self._hits.frames.items()),
        )
        for process, page, count in pages:
            item = spaces.get(process, nothing).find(page) or kernel.find(page)
            if item is not None:
                counts[item] += count
        return counts

    def _spaces(self) -> dict[int, _Space]:
        """Return what lies where in each process: images, and methods of .NET that were compiled when needed."""
        spaces: dict[int, _Space] = {}
        for image in self._images.values():
            spaces.setdefault(image.process, _Space()).add(image.base, image.size, image)
        for mapped in self._mapped:
            spaces.setdefault(mapped.process, _Space()).add(mapped.base, mapped.size, mapped)
        managed = {(module.process, module.module): module for module in self._managed}
        for (process, start), method in self._methods.items():
            module = managed.get((process, method.module))
            if module is not None:
                spaces.setdefault(process, _Space()).add(start, method.size, module)
        for space in spaces.values():
            space.sort()
        return spaces

    def _is_wanted(self, process: int, selection: ProcessSelection | None) -> bool:
        if process == _KERNEL:
            return True
        if selection is None:
            return False
        name = self._name_of(process)
        return not selection.wanted or any(_is_named(wanted, process, name) for wanted in selection.wanted)

    def _by_process(self) -> dict[int, list[_Item]]:
        """Return what each process has, the kernel first, then in the order in which processes come up."""
        found: dict[int, list[_Item]] = {_KERNEL: []}
        items: Iterator[_Item] = chain(self._images.values(), self._replaced, self._mapped, self._managed)
        for each in items:
            if not self._is_idle_copy(each):
                found.setdefault(each.process, []).append(each)
        return found

    def _is_idle_copy(self, item: _Item) -> bool:
        """Say whether *item* is the copy of a driver for crashes, whose code never runs in a trace.

        No file has its name, so that merging finds none.
        """
        if not isinstance(item, _Image) or item.was_merged or not self.is_merged or item.pdb is not None:
            return False
        name = base_name(item.path)
        return source_name(name) != name

    def _processes(self) -> set[int]:
        return {*self._by_process(), *self._names}

    def _name_of(self, process: int) -> str:
        return self._names.get(process, "")

    def _label(self, process: int) -> str | None:
        return None if process == _KERNEL else f"{self._name_of(process) or 'process'} ({process})"

    def _executable(self, process: int, images: list[_Item]) -> str | None:
        name = fold(self._name_of(process))
        paths = (image.path for image in images if isinstance(image, _Image | MappedPe))
        return next((path for path in paths if name and fold(base_name(path)) == name), None)

    def _modules_of(self, item: _Item) -> Iterator[Module]:
        if isinstance(item, ManagedModule):
            yield from _managed_modules(item)
        elif isinstance(item, MappedPe):
            yield _mapped_module(item)
        else:
            yield from self._image_modules(item)

    def _image_modules(self, image: _Image) -> Iterator[Module]:
        """Yield the module of an image, and that of the IL that a native one was made from."""
        pdb_name = base_name(image.pdb.path) if image.pdb is not None else ""
        name = image.name or base_name(image.path) or pdb_name or f"{image.base:#x}"
        timestamp = image.timestamp or self._stamps.get(_file_of(image), 0)
        key = loader_key(name, timestamp, image.size)
        module = Module(
            name,
            image.path or None,
            image.base,
            image=key,
            no_debugger=True,
            version=self._versions.get((image.name, image.timestamp, image.size))
            or self._versions.get((image.name, 0, image.size)),
        )
        portable_il = image.il_pdb is not None and image.marks[:1] == (True,)
        portable = image.il_pdb is None and True in image.marks
        if image.pdb is not None:
            identity = PdbIdentity(image.pdb.guid, image.pdb.age, image.pdb.path)
            yield _with_pdb(module, identity, portable=portable)
        elif image.il_pdb is None:
            yield self._without_pdb(module, image)
        if image.il_pdb is not None:
            identity = PdbIdentity(image.il_pdb.guid, image.il_pdb.age, image.il_pdb.path)
            is_known = len(image.marks) > 0
            yield _with_pdb(module, identity, portable=portable_il if is_known else None)

    def _without_pdb(self, module: Module, image: _Image) -> Module:
        if image.names_no_pdb:
            return replace(module, no_debug_record=True, problem=_NAMES_NO_PDB)
        if module.image is not None:
            return module
        return replace(module, problem=_NOT_FOUND if self.is_merged else _UNMERGED)


def _with_pdb(module: Module, pdb: PdbIdentity, *, portable: bool | None) -> Module:
    """Return *module* with its PDB, whose kind is not known if *portable* is None: then either key will do."""
    try:
        return replace(module, pdbs=(_reference(pdb, portable=portable),))
    except MalformedInput as error:
        return replace(module, unusable_pdb=True, problem=error.problem)


def _reference(pdb: PdbIdentity, *, portable: bool | None) -> PdbReference:
    """Return what *pdb* asks for.

    Raises:
        MalformedInput: Its name is no file's in a store, or its GUID is nil.
    """
    guid, name = UUID(bytes_le=pdb.guid), base_name(pdb.path)
    if not guid.int:
        raise MalformedInput("the GUID of its PDB is nil, which identifies nothing")
    if portable:
        return PdbReference(PortablePdbKey(name, guid), PdbFormat.PORTABLE)
    native = PdbKey(name, guid, pdb.age)
    others = (PortablePdbKey(name, guid),) if portable is None else ()
    return PdbReference(native, PdbFormat.NATIVE, others=others)


def _managed_modules(event: ManagedModule) -> Iterator[Module]:
    """Yield the module of the IL, and that of the native image if it has a PDB."""
    path = event.il_path or event.native_path
    name = base_name(path)
    pdb = event.il_pdb or event.native_pdb
    name = name or ("" if pdb is None else base_name(pdb.path)) or "module of .NET"
    module = Module(name, path or None)
    if event.il_pdb is not None:
        yield _with_pdb(module, event.il_pdb, portable=None)
    if event.native_pdb is not None:
        native = replace(module, name=base_name(event.native_path) or name, path=event.native_path or path or None)
        yield _with_pdb(native, event.native_pdb, portable=False)
    if event.il_pdb is None and event.native_pdb is None:
        problem = "the events of .NET name no PDB of it: it is dynamic, was built without, or its runtime is before 4.5"
        yield replace(module, no_debug_record=True, problem=problem)


def _mapped_module(event: MappedPe) -> Module:
    """Return the module of a PE image; those of the universal format are of .NET, whatever system they ran on."""
    name = base_name(event.path) or f"{event.base:#x}"
    module = Module(name, event.path or None, event.base, no_debugger=True)
    if event.pdb is None:
        return replace(module, problem="the trace does not say which PDB it has")
    return _with_pdb(module, event.pdb, portable=None)


def _version_of(texts: tuple[str, ...]) -> VersionInfo | None:
    values = {name: one_line(text) for name, text in zip(FILE_VERSION_TEXTS, texts, strict=False)}
    if not any(values.values()):
        return None
    return VersionInfo(
        company=values.get("company"),
        product=values.get("product"),
        description=values.get("description"),
        original_name=values.get("original_name"),
        file_version=values.get("file_version"),
        product_version=values.get("product_version"),
        file_numbers=_numbers(values.get("binary_version")),
    )


def _numbers(text: str | None) -> tuple[int, int, int, int] | None:
    parts = (text or "").split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) <= 5 for part in parts):
        return None
    first, second, third, fourth = (int(part) & 0xFFFF for part in parts)
    return (first, second, third, fourth) if any((first, second, third, fourth)) else None


def _is_named(wanted: str, process: int, name: str) -> bool:
    if wanted.isdecimal():
        return int(wanted) == process
    return bool(name) and fold(name) == fold(wanted)
