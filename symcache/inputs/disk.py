"""Disks as inputs: images of them, volumes, WIM files, discs with WIM files, folders of Windows that are mounted."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.disk.bounded import Budget, CountedView, guarded
from symcache.formats.disk.kinds import DiskFormat, find_disk_format, name_file_system
from symcache.formats.view import FileView
from symcache.identity import base_name, check_path_part
from symcache.inputs.records import Input, InputKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.disk.bootentry import BootEntry
    from symcache.formats.disk.partitions import Partition
    from symcache.formats.disk.tree import FileTree
    from symcache.formats.disk.wim import WimFile, WimImage
    from symcache.formats.view import ByteView
    from symcache.inputs.detect import InputOptions
    from symcache.inputs.records import Record
    from symcache.inputs.sets import NameSet
    from symcache.inputs.wimlib import Extractor
    from symcache.inputs.windowsfolder import WindowsFolder

NEEDS_EXTRA = "it needs an extra: pip install 'symcache[disk]'"
"""What is said of a disk where the readers of others are not installed."""

_HEAD_BYTES = 8192
_WIM_FOLDER = "sources"
_BOOT = "boot.wim"
_WIMS = ("install.wim", "install.esd", "install.swm", _BOOT)
_READ = frozenset({"NTFS", "FAT32", "FAT16", "FAT12"})
_LOCKED = {
    "BitLocker": "the volume is encrypted by BitLocker; unlock it (manage-bde -unlock) and give the mounted folder, or"
    " give an image that was made of it unlocked",
    "LUKS": "the volume is encrypted by LUKS; open it (cryptsetup open) and give the device that this makes",
}


def read_disk(
    view: ByteView,
    path: str,
    *,
    names: NameSet | None = None,
    wim_image: str | None = None,
    options: InputOptions | None = None,
) -> Iterator[Record]:
    """Yield the disk and the modules of every Windows on it: by default what the sets *names* take, else all.

    A file of several names is read once, and so is one of several images of a WIM file. What cannot be read is told,
    file by file, and the rest goes on.

    Args:
        view: The whole image.
        path: Where it lies; parents and further parts are opened beside it, by name.
        names: Which files are wanted; None for all below the folders of Windows.
        wim_image: Number or name of the one image of a WIM file that is wanted; None for all.
        options: Whether programs may be run, and who is told how far they are; None to run none.

    Raises:
        InputError: It is damaged, encrypted, or without a Windows; or an extra is missing.
    """
    from symcache.inputs.windowsfolder import Reading  # noqa: PLC0415 - few runs meet a disk

    with ExitStack() as stack:

        def open_extractor(options: InputOptions) -> Extractor:
            from symcache.inputs.wimlib import Extractor  # noqa: PLC0415 - few disks need one

            return stack.enter_context(closing(Extractor(view, path, names, options.observer)))

        opens = None if options is None or not options.runs_programs else partial(open_extractor, options)
        disk = stack.enter_context(_opened(view, path, wim_image, opens))
        is_extracted = disk.extractor is not None
        reading = Reading(names, path, with_versions=is_extracted)
        modules: Iterable[Record] = (each for windows in disk.windows for each in reading.modules(windows))
        if is_extracted:
            # Read at once: who takes the records may stop at any, and the scratch folder has to have gone by then.
            modules = list(modules)
            stack.close()
        yield Input(path, InputKind.DISK, disk.details(view.size) | _sets_of(names))
        yield from disk.unreadable
        yield from modules


@contextmanager
def lend_windows(view: ByteView, path: str) -> Iterator[list[WindowsFolder]]:
    """Lend every Windows on the disk that *view* is and *path* names, and that can be read without a program.

    Raises:
        InputError: As `read_disk` does.
    """
    with _opened(view, path, None) as disk:
        yield disk.windows


@contextmanager
def _opened(
    view: ByteView, path: str, wim_image: str | None, open_extractor: Callable[[], Extractor] | None = None
) -> Iterator[_Disk]:
    budget = Budget(view.size)
    with _Neighbours(view, budget) as neighbours:
        disk = _Disk(path, budget, neighbours, wim_image, open_extractor)
        try:
            disk.open(CountedView(view, budget))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "dissect":
                raise
            raise UnknownFormat(f"an image of a disk ({disk.format}); {NEEDS_EXTRA}") from None
        except TruncatedInput as error:
            problem = f"an image of a disk ({disk.format}) that is cut short or damaged: {error.problem}"
            raise TruncatedInput(problem, offset=error.offset) from error
        if not disk.windows:
            disk.take_old()
        yield disk


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """One image of a WIM file, or of those on a disc, in place of all of them: its number, or its name."""

    path: str
    image: str

    def records(self, options: InputOptions) -> Iterator[Record]:
        """Yield what `read_disk` does.

        Raises:
            InputError: As there; or it is no WIM file, and no disc.
        """
        with FileView(self.path) as view:
            if find_disk_format(view) not in {DiskFormat.WIM, DiskFormat.ISO}:
                raise UnknownFormat("no WIM file and no disc with one, of which an image could be chosen (--wim-image)")
            yield from read_disk(view, self.path, names=options.disk_names(), wim_image=self.image, options=options)


def read_windows_folder(path: str, folder: Path, *, names: NameSet) -> Iterator[Record]:
    """Yield the folder of Windows that `find_mounted_windows` found at *path*, and the modules that *names* take."""
    from symcache.inputs.windowsfolder import Reading, mounted_windows  # noqa: PLC0415

    windows = mounted_windows(folder)
    yield Input(path, InputKind.DISK, {"format": "folder", "windows": [windows.as_json()]} | _sets_of(names))
    yield from Reading(names, path).modules(windows)


def _sets_of(names: NameSet | None) -> dict[str, Any]:
    return {} if names is None else {"sets": names.label}


class _Neighbours:
    """Files beside an image that is a file itself, opened by name; given back at the end of a ``with`` block."""

    def __init__(self, view: ByteView, budget: Budget) -> None:
        # Not the folder of what reports call it: standard input and members of archives lie in none of the user's.
        self._folder = Path(view.file_path).parent if isinstance(view, FileView) else None
        self._open: dict[str, FileView] = {}
        self._budget = budget

    def __call__(self, name: str) -> ByteView:
        if self._folder is None:
            raise MalformedInput("what was given is no file of a folder; unpack it, or give it by its path")
        name = check_path_part(base_name(name))
        if name not in self._open:
            self._open[name] = FileView(self._folder / name)
            self._budget.grow(self._open[name].size)
        return CountedView(self._open[name], self._budget)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._open.values():
            view.close()


@dataclass(slots=True)
class _Disk:
    """What one image of a disk turns out to hold."""

    path: str
    budget: Budget
    neighbours: _Neighbours
    wim_image: str | None
    open_extractor: Callable[[], Extractor] | None  # None if no program may be run
    extractor: Extractor | None = None  # once it was needed
    format: DiskFormat | None = None
    size_bytes: int = 0
    windows: list[WindowsFolder] = field(default_factory=list)
    old: list[WindowsFolder] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    _problems: list[str] = field(default_factory=list)

    def open(self, view: ByteView) -> None:
        """Find every Windows on the disk."""
        self.format = find_disk_format(view)
        if self.format is None:
            raise UnknownFormat("no image of a disk")
        self.size_bytes = view.size
        if self.format is DiskFormat.WIM:
            self._open_wim(view, "")
        elif self.format is DiskFormat.ISO:
            self._open_disc(view)
        else:
            self._open_disk(view, self.format)

    def _open_disk(self, view: ByteView, format_: DiskFormat) -> None:
        from symcache.formats.disk.bootentry import find_boot_entry  # noqa: PLC0415
        from symcache.formats.disk.containers import open_container  # noqa: PLC0415
        from symcache.formats.disk.ntfs import part_of  # noqa: PLC0415
        from symcache.formats.disk.partitions import find_partitions  # noqa: PLC0415

        container = open_container(view, format_, self.budget, self.neighbours)
        disk = container.disk
        self.size_bytes = disk.size
        self.notes += container.notes
        head = disk.read(0, min(disk.size, _HEAD_BYTES))
        file_system = name_file_system(head)
        if file_system is not None:
            self._open_volume(disk, file_system, "the volume", {})
            return
        entries: list[BootEntry] = []
        places: dict[str, Partition] = {}
        for partition in find_partitions(disk, self.budget):
            where = f"partition {partition.number}"
            places[where] = partition
            said: dict[str, Any] = {"partition": partition.number, "size_bytes": partition.size}
            try:
                volume = part_of(disk, partition.offset, partition.size)
                file_system = name_file_system(volume.read(0, min(volume.size, _HEAD_BYTES)))
                tree = self._open_volume(volume, file_system, where, said)
                if tree is not None and (entry := find_boot_entry(tree, self.budget)) is not None:
                    entries.append(entry)
            except InputError as error:
                self.volumes.append(said | {"problem": error.problem})
                self._problems.append(f"{where}: {error.problem}")
                self.unreadable.append(Unreadable(f"{self.path}:{where}", error.problem, error.offset))
        self._put_started_first(entries, places)

    def _put_started_first(self, entries: list[BootEntry], places: dict[str, Partition]) -> None:
        """Bring the Windows that the machine starts to the front; without an entry partitions have their order."""
        for number, windows in enumerate(self.windows):
            for entry in entries:
                place = places.get(windows.where)  # that of an image of a WIM file is none
                if place is not None and windows.path.casefold() == entry.root.casefold() and entry.is_on(place):
                    del self.windows[number]
                    self.windows.insert(0, replace(windows, is_started=True))
                    return

    def _open_volume(
        self, volume: ByteView, file_system: str | None, where: str, said: dict[str, Any]
    ) -> FileTree | None:
        """Find every Windows of a volume; return its files, None if they are not read."""
        said["file_system"] = file_system
        if file_system not in _READ:
            unread = "no file system that is known" if file_system is None else f"{file_system}, which is not read"
            problem = _LOCKED.get(file_system or "", unread)
            self.volumes.append(said)
            self._problems.append(f"{where}: {problem}")
            if file_system in _LOCKED:
                self.notes.append(f"{where}: {problem}")
            return None
        from symcache.formats.disk.fat import FatVolume  # noqa: PLC0415
        from symcache.formats.disk.ntfs import NtfsVolume  # noqa: PLC0415

        with guarded(f"{file_system} volume"):
            tree = NtfsVolume(volume, self.budget) if file_system == "NTFS" else FatVolume(volume)
            with suppress(InputError):  # said where its root is listed
                self._find_wims(tree, f"{where}, ")
            self._find_windows(tree, where)
        self.volumes.append(said)
        return tree

    def _find_windows(self, tree: FileTree, where: str) -> None:
        from symcache.inputs.windowsfolder import find_windows_folders  # noqa: PLC0415

        found, old = find_windows_folders(tree, where, self.budget)
        self.windows += found
        self.old += old
        if not found and not old:
            self._problems.append(f"{where}: no folder of Windows")

    def _open_disc(self, view: ByteView) -> None:
        """Find the WIM files of a disc: what it installs, and what it starts where that cannot be read."""
        from symcache.formats.disk.optical import open_disc  # noqa: PLC0415

        with guarded("optical disc"):
            disc = open_disc(view)
        if not self._find_wims(disc, ""):
            self._find_windows(disc, "the disc")

    def _find_wims(self, tree: FileTree, place: str) -> bool:
        """Find the WIM files of a medium that installs Windows; tell whether it has any."""
        from symcache.formats.disk.tree import find  # noqa: PLC0415

        folder = find(tree, _WIM_FOLDER)
        if folder is None or not folder.is_folder:
            return False
        files = {each.name.casefold(): each for each in tree.entries(folder) if each.name.casefold() in _WIMS}
        for name in _WIMS:
            if name not in files or (name == _BOOT and self.windows):
                continue
            where = f"{place}{_WIM_FOLDER}/{files[name].name}"
            try:
                self._open_wim(tree.open(files[name]), where)
            except InputError as error:
                self._problems.append(f"{where}: {error.problem}")
                self.unreadable.append(Unreadable(f"{self.path}:{where}", error.problem, error.offset))
        return bool(files)

    def _open_wim(self, view: ByteView, where: str) -> None:
        from symcache.formats.disk.wim import NOT_READ, WimFile  # noqa: PLC0415

        with guarded("WIM file"):
            wim = WimFile(view, self.budget)
            images = wim.images
        chosen = [each for each in images if self.wim_image in {None, str(each.number), each.name}]
        if not chosen:
            raise MalformedInput(f"it has no image {self.wim_image!r}; it has {_names_of(wim)}")
        if wim.needs_program:
            if self.open_extractor is None:
                raise UnknownFormat(NOT_READ)
            self.extractor = self.extractor or self.open_extractor()
            self.extractor.open(view, where)
        for image in chosen:
            place = f"{where}, image {image.number}".lstrip(", ")
            self.images.append(
                {"number": image.number, "name": image.name, "build": image.build} | ({"file": where} if where else {})
            )
            try:
                with guarded("WIM image"):
                    self._find_windows(self._files_of(wim, image, place), place)
            except InputError as error:
                self._problems.append(f"{place}: {error.problem}")
                self.unreadable.append(Unreadable(f"{self.path}:{place}", error.problem, error.offset))

    def _files_of(self, wim: WimFile, image: WimImage, place: str) -> FileTree:
        if self.extractor is None or not wim.needs_program:
            return wim.tree(image)
        tree, passed_over = self.extractor.tree(image.number, place, self.budget)
        self.unreadable += passed_over
        return tree

    def take_old(self) -> None:
        """Be content with what an upgrade left behind.

        Raises:
            MalformedInput: Not even that is there; the text says what is.
        """
        if not self.old:
            said = "; ".join(self._problems[:8]) or "it has no partitions"
            if not self.unreadable and not any(advice in said for advice in _LOCKED.values()):
                said += "; mount it and give the folder, if other files of it are wanted"
            raise MalformedInput(f"an image of a disk ({self.format}), and no Windows was found on it: {said}")
        self.windows, self.old = self.old, []

    def details(self, size_bytes: int) -> dict[str, Any]:
        """Return what is to be said of it, as fields of one JSON object."""
        passed_over = [f"{each.path} ({each.where})" for each in self.old]
        more = {"volumes": self.volumes, "images": self.images, "notes": self.notes, "passed_over": passed_over}
        return {
            "format": str(self.format),
            "size_bytes": size_bytes,
            "disk_bytes": self.size_bytes,
            "windows": [each.as_json() for each in self.windows],
            **{name: value for name, value in more.items() if value},
        }


def _names_of(wim: WimFile) -> str:
    return ", ".join(f"{each.number} ({each.name})" if each.name else str(each.number) for each in wim.images[:32])
