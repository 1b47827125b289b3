"""Folders of Windows in whatever has files: where they are, which build they are, and what of them is wanted."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, TruncatedInput
from symcache.formats.disk.bounded import Budget
from symcache.formats.disk.registry import WindowsBuild, read_windows_build
from symcache.formats.disk.tree import TreeEntry, find
from symcache.formats.pe.image import Layout
from symcache.formats.pe.version import dotted, read_version
from symcache.formats.view import BegunView, FileView
from symcache.inputs.image import is_image, read_module
from symcache.inputs.records import Unreadable

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from pathlib import Path

    from symcache.formats.disk.tree import FileTree
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Module
    from symcache.inputs.sets import NameSet

DEFAULT_SETS = ("kernel", "drivers")
"""What is wanted of a disk where no set is chosen: what a kernel debugger needs."""

_KERNELS = ("ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe")
TELLING = frozenset({"software", *_KERNELS})
"""Names, in lower case, of files that a folder of Windows is told by, or that say which build it is."""
_HIVE = ("System32", "config", "SOFTWARE")
_KERNEL = ("System32", _KERNELS[0])
_MOST_FOLDERS = 256
_SORTED_AT_ONCE = 4096
_DEEPEST = 32
_OLD = "windows.old"


@dataclass(frozen=True, slots=True)
class WindowsFolder:
    r"""A folder of Windows: *path* is that of the folder in *tree*, ``\\Windows``; *where* names the tree."""

    tree: FileTree
    folder: TreeEntry
    path: str
    where: str = ""
    build: WindowsBuild | None = None
    is_started: bool = False  # by the boot manager, if nobody chooses another one

    def as_json(self) -> dict[str, Any]:
        """Return what is to be said of it, as fields of one JSON object."""
        build = self.build or WindowsBuild(source="")
        said = {
            "path": self.path,
            "where": self.where,
            "product": build.product,
            "build": build.version,
            "build_lab": build.lab,
            "build_source": build.source,
            "is_started": self.is_started,
        }
        return {name: fact for name, fact in said.items() if fact}


def find_windows_folders(tree: FileTree, where: str, budget: Budget) -> tuple[list[WindowsFolder], list[WindowsFolder]]:
    r"""Return the folders of Windows at the root of *tree*, and those that an upgrade left in ``Windows.old``.

    One is told by its System32 with a kernel or with drivers. ``\\Windows`` comes first.

    Raises:
        InputError: There are none, perhaps since the root or a folder in it cannot be listed.
    """
    found: list[WindowsFolder] = []
    old: list[WindowsFolder] = []
    problem: InputError | None = None
    folders: list[TreeEntry] = []
    try:
        for entry in islice(tree.entries(tree.root), _MOST_FOLDERS * 16):
            if entry.is_folder:
                folders.append(entry)  # noqa: PERF401 - up to where the root is damaged
    except InputError as error:
        problem = error
    folders.sort(key=lambda each: (each.name.casefold() not in {"windows", "winnt"}, each.name.casefold()))
    for folder in folders[:_MOST_FOLDERS]:
        try:
            if folder.name.casefold() == _OLD:
                inner = find(tree, "Windows", start=folder)
                if inner is not None and _is_windows(tree, inner):
                    old.append(WindowsFolder(tree, inner, f"\\{folder.name}\\{inner.name}", where))
            elif _is_windows(tree, folder):
                build = _find_build(tree, folder, budget)
                found.append(WindowsFolder(tree, folder, f"\\{folder.name}", where, build))
        except InputError as error:
            problem = problem or error
    if problem is not None and not found and not old:
        raise problem
    return found, old


def mounted_windows(folder: Path) -> WindowsFolder:
    """Return the folder of Windows at *folder* of this system."""
    tree = _MountedTree(folder.parent)
    entry = TreeEntry(folder.name, True, str(folder))
    return WindowsFolder(tree, entry, f"\\{folder.name}", "", _find_build(tree, entry, Budget(1 << 40)))


def _is_windows(tree: FileTree, folder: TreeEntry) -> bool:
    system = find(tree, "System32", start=folder)
    if system is None or not system.is_folder:
        return False
    return any(
        each.name.casefold() == "drivers" if each.is_folder else each.name.casefold() in _KERNELS
        for each in tree.entries(system)
    )


def _find_build(tree: FileTree, folder: TreeEntry, budget: Budget) -> WindowsBuild | None:
    """Return what the registry says, else the version of the kernel; None where both cannot be had."""
    try:
        hive = find(tree, *_HIVE, start=folder)
        if hive is not None:
            with _opened(tree, hive) as view:
                return read_windows_build(view, budget)
    except (InputError, OSError, ModuleNotFoundError):
        pass  # the running Windows keeps it to itself
    try:
        kernel = find(tree, *_KERNEL, start=folder)
        if kernel is None:
            return None
        with _opened(tree, kernel) as view:
            version = read_version(view, Layout.DISK)
    except (InputError, OSError):
        return None
    if version is None or version.file_numbers is None:
        return None
    return WindowsBuild("", dotted(version.file_numbers), version.file_version or "", _KERNELS[0])


def find_build_files(windows: WindowsFolder) -> Iterator[TreeEntry]:
    """Yield the files that say which build *windows* is."""
    for path in (_HIVE, _KERNEL):
        if (file := find(windows.tree, *path, start=windows.folder)) is not None:
            yield file


@contextmanager
def _opened(tree: FileTree, file: TreeEntry) -> Iterator[ByteView]:
    """Lend the content of *file*; that of a mounted folder is given back."""
    view = tree.open(file)
    try:
        yield view
    finally:
        if isinstance(view, FileView):
            view.close()


@contextmanager
def lend_file(windows: WindowsFolder, path: str) -> Iterator[ByteView | None]:
    """Lend the file at *path*, as a module has it, if it lies in *windows*, else None.

    Raises:
        InputError: The folders that lead there cannot be listed, or its data cannot be had.
    """
    start = f"{windows.path}\\".casefold()
    file = None
    if path.casefold().startswith(start):
        file = find(windows.tree, *path[len(start) :].split("\\"), start=windows.folder)
    if file is None or file.is_folder:
        yield None
    else:
        with _opened(windows.tree, file) as view:
            yield view


class Reading:
    """What one run over an input has read already: a file of several names, or of several images, is read once.

    Files that cannot be asked later who made them are asked at once if it reads *with_versions*.
    """

    def __init__(self, names: NameSet | None, path: str, *, with_versions: bool = False) -> None:
        self._names = names
        self._path = path
        self._with_versions = with_versions
        self._done: set[tuple[Hashable, str]] = set()

    def modules(self, windows: WindowsFolder) -> Iterator[Module | Unreadable]:
        """Yield what is wanted of *windows*."""
        for found in self.wanted(windows):
            if isinstance(found, Unreadable):
                yield found
            else:
                yield from self._read(windows.tree, *found)

    def wanted(self, windows: WindowsFolder) -> Iterator[tuple[TreeEntry, str] | Unreadable]:
        """Yield the files to be opened, with their paths: of System32 and what belongs to it; of all, if all is wanted.

        What cannot be listed is told. A file is yielded once, also of several images.
        """
        tree, top = windows.tree, windows.folder
        prefix = windows.path
        if self._names is None or "*" in self._names.globs:
            for name in ("System32", "SysWOW64"):
                if (folder := find(tree, name, start=top)) is not None:
                    yield from self._folder(tree, folder, f"{prefix}\\{folder.name}", _DEEPEST)
            yield from self._folder(tree, top, prefix, _DEEPEST)
            return
        system = find(tree, "System32", start=top)
        if system is not None:
            yield from self._folder(tree, system, f"{prefix}\\{system.name}", 0)
            for name, depth in (("drivers", 1), ("DriverStore", 3)):
                # Drivers are loaded from where they were installed from, since Windows 10.
                folder = self._tried(tree, name, system)
                if folder is not None:
                    yield from self._folder(tree, folder, f"{prefix}\\{system.name}\\{folder.name}", depth)
        yield from self._folder(tree, top, prefix, 0)
        wow = self._tried(tree, "SysWOW64", top)
        if wow is not None:
            yield from self._folder(tree, wow, f"{prefix}\\{wow.name}", 0)

    def _tried(self, tree: FileTree, name: str, start: TreeEntry) -> TreeEntry | None:
        try:
            return find(tree, name, start=start)
        except InputError:  # told where the same folder is read
            return None

    def _folder(
        self, tree: FileTree, folder: TreeEntry, path: str, depth: int
    ) -> Iterator[tuple[TreeEntry, str] | Unreadable]:
        """Yield what *folder* has, and those below it, *depth* deep; by name, within each 4,096 as they come."""
        seen = ((id(tree), folder.place), "\\")
        if not folder.is_folder or (depth and seen in self._done):
            return
        if depth:
            self._done.add(seen)
        entries = self._listed(tree, folder, path)
        while piece := list(islice(entries, _SORTED_AT_ONCE)):
            piece.sort(key=lambda each: "" if isinstance(each, Unreadable) else each.name.casefold())
            for each in piece:
                if isinstance(each, Unreadable):
                    yield each
                elif each.is_folder:
                    if depth:
                        yield from self._folder(tree, each, f"{path}\\{each.name}", depth - 1)
                elif self._is_new(tree, each):
                    yield each, f"{path}\\{each.name}"

    def _listed(self, tree: FileTree, folder: TreeEntry, path: str) -> Iterator[TreeEntry | Unreadable]:
        """Yield folders and the files that are wanted; what cannot be listed is said at the end."""
        try:
            for entry in tree.entries(folder):
                if entry.is_folder or self._names is None or self._names.takes(entry.name):
                    yield entry
        except InputError as error:
            yield self._unreadable(path, error)

    def _is_new(self, tree: FileTree, file: TreeEntry) -> bool:
        # A hash is that of the content, wherever that is; all else is a place in one tree.
        place = file.place if isinstance(file.place, bytes) else (id(tree), file.place)
        key = (place, file.name.casefold())
        if key in self._done:
            return False
        self._done.add(key)
        return True

    def _read(self, tree: FileTree, file: TreeEntry, path: str) -> Iterator[Module | Unreadable]:
        try:
            with _opened(tree, file) as opened:
                view = _begun(opened)
                found = list(read_module(view, path)) if is_image(view.start[:4]) else []
                if found and self._with_versions:
                    with suppress(InputError):  # then nobody knows
                        version = read_version(view, Layout.DISK)
                        found = [replace(each, version=version) for each in found]
        except (InputError, OSError) as error:
            yield self._unreadable(path, error)
        else:
            yield from found

    def _unreadable(self, path: str, error: InputError | OSError) -> Unreadable:
        if isinstance(error, InputError):
            return Unreadable(f"{self._path}:{path}", error.problem, error.offset)
        return Unreadable(f"{self._path}:{path}", error.strerror or str(error))


def _begun(file: ByteView) -> BegunView:
    """Return *file* with its first page, no more of which is read than it has."""
    try:
        return BegunView(file)
    except TruncatedInput as error:
        raise TruncatedInput("its data lies behind the end of the disk, whose image is cut short") from error


class _MountedTree:
    """A folder of this system as a tree; links are followed to files only."""

    def __init__(self, path: Path) -> None:
        self.root = TreeEntry("", True, str(path))

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        import os  # noqa: PLC0415

        assert isinstance(folder.place, str)
        try:
            with os.scandir(folder.place) as entries:
                found = sorted(entries, key=attrgetter("name"))
        except OSError as error:
            raise _refused(error) from error
        for entry in found:
            is_folder = entry.is_dir(follow_symlinks=False)
            with suppress(OSError):  # a link that leads to itself
                if is_folder or entry.is_file():
                    yield TreeEntry(entry.name, is_folder, entry.path)

    def open(self, file: TreeEntry) -> ByteView:
        assert isinstance(file.place, str)
        try:
            return FileView(file.place)
        except OSError as error:
            raise _refused(error) from error


def _refused(error: OSError) -> InputError:
    return InputError(error.strerror or str(error))
