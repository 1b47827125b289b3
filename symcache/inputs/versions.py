"""Who made the modules of an input that was read before: their version resources, read when somebody asks for them.

A scan does not read them: they lie elsewhere than what identifies an image, so that each would cost a few more reads.
"""

from __future__ import annotations

import stat
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError
from symcache.formats.pe.image import ImageSpace, Layout
from symcache.formats.pe.version import find_version
from symcache.formats.view import FileView, PartView
from symcache.inputs.detect import detect
from symcache.inputs.mounted import find_mounted_windows
from symcache.inputs.records import STANDARD_INPUT, InputKind, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.inputs.detect import InputSource
    from symcache.inputs.windowsfolder import WindowsFolder

    _Spaces: TypeAlias = Callable[[Module], Iterator[ImageSpace]]

# Each costs less than 112 KiB, whatever it claims; what is missing are tens.
_MOST_IMAGES = 4096
_ADDRESSES = 1 << 32  # of an image
_PAGE_BYTES = 0x1000


def read_versions(source: InputSource, modules: Iterable[Module]) -> dict[Module, VersionInfo]:
    """Return what is known of the origin of *modules*, which came from *source*; those that say nothing are left out.

    What an input says of a module beside its image is returned as it is if it names a company or product; else the
    image itself is asked, in the file of that path, or in the memory that a dump holds at its base, if that is still
    the same image. Drivers often have their resources where Windows drops or pages them out. Standard input, pipes and
    file objects cannot be read again, and the dumps of a folder are not told from each other.

    Whatever is wrong with the input, nothing is raised. At most 4,096 images are read, in the order of *modules*.
    """
    found: dict[Module, VersionInfo] = {}
    unknown: dict[Module, None] = {}
    for module in modules:
        version = module.version
        if version is not None:
            found[module] = version
        if version is None or not (version.company or version.product):
            unknown[module] = None
    if isinstance(source, str | Path) and str(source) != STANDARD_INPUT and unknown:
        with suppress(InputError, OSError, ValueError):  # it is not there any more; a path with a NUL
            found.update(_read(Path(source), islice(unknown, _MOST_IMAGES)))
    return found


def open_versions(view: ByteView) -> Callable[[Module], VersionInfo | None]:
    """Return what tells who made a module of the input in *view*, by the same rules, as long as *view* is there.

    For inputs that cannot be read again. None is told of what follows 4,096 images, or cannot be read.
    """
    try:
        spaces = _spaces(view, detect(view))
    except InputError:
        spaces = None
    left = _MOST_IMAGES if spaces is not None else 0

    def find(module: Module) -> VersionInfo | None:
        nonlocal left
        version = module.version
        if spaces is None or left <= 0 or (version is not None and (version.company or version.product)):
            return version
        left -= 1
        return _read_module(module, spaces) or version

    return find


def _read(path: Path, modules: Iterable[Module]) -> Iterator[tuple[Module, VersionInfo]]:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        rest = []
        for module in modules:
            if (file := _file_below(path, module)) is not None:
                yield from _read_file(file, [module])
            else:
                rest.append(module)
        if rest and (folder := find_mounted_windows(path)) is not None:
            from symcache.inputs.windowsfolder import mounted_windows  # noqa: PLC0415 - few runs meet one

            yield from _read_all(rest, partial(_on_disk, [mounted_windows(folder)]))
    elif stat.S_ISREG(mode):
        yield from _read_file(path, modules)


def _file_below(folder: Path, module: Module) -> Path | None:
    """Return the file of a folder that *module* is; a path out of a dump never leads to a file."""
    if module.base is not None or module.path is None:
        return None
    path = PurePath(module.path)
    return Path(path) if path.is_relative_to(folder) and ".." not in path.parts else None


def _read_file(path: Path, modules: Iterable[Module]) -> Iterator[tuple[Module, VersionInfo]]:
    try:
        with FileView(path) as view:
            kind = detect(view)
            if kind is InputKind.DISK:
                from symcache.inputs.disk import lend_windows  # noqa: PLC0415 - few runs meet a disk

                with lend_windows(view, str(path)) as windows:
                    yield from _read_all(modules, partial(_on_disk, windows))
            elif (spaces := _spaces(view, kind)) is not None:
                yield from _read_all(modules, spaces)
    except (InputError, OSError):
        return


def _read_all(modules: Iterable[Module], spaces: _Spaces) -> Iterator[tuple[Module, VersionInfo]]:
    for module in modules:
        version = _read_module(module, spaces)
        if version is not None:
            yield module, version


def _on_disk(windows: Sequence[WindowsFolder], module: Module) -> Iterator[ImageSpace]:
    """Yield the file of *module* of each Windows on a disk; where a file lies is part of what was read of it."""
    from symcache.inputs.windowsfolder import lend_file  # noqa: PLC0415 - few runs meet a disk

    for each in windows:
        with lend_file(each, module.path or "") as file:
            if file is not None:
                yield ImageSpace(file, Layout.DISK)


def _read_module(module: Module, spaces: _Spaces) -> VersionInfo | None:
    try:
        for space in spaces(module):
            if _is_same(module, space):
                return find_version(space)
    except InputError:
        pass
    return None


def _is_same(module: Module, space: ImageSpace) -> bool:
    image, header = module.image, space.header
    if image is None:
        return True
    # A loader counts whole pages, the headers of drivers of Windows XP and before do not.
    pages, header_pages = (-(-size // _PAGE_BYTES) for size in (image.size_of_image, header.size_of_image))
    return (image.timestamp, pages) == (header.timestamp, header_pages)


def _spaces(view: ByteView, kind: InputKind) -> _Spaces | None:
    """Return what yields the images that a module of the input may be; None if the input holds none."""
    if kind is InputKind.IMAGE:
        return lambda _: iter([ImageSpace(view, Layout.DISK)])
    if kind is InputKind.MINIDUMP:
        from symcache.formats.dump.minidump import parse_minidump, read_memory_ranges  # noqa: PLC0415 - one kind each

        captured = read_memory_ranges(view, parse_minidump(view))
        return lambda module: _mapped(module, [captured])
    if kind in {InputKind.KERNEL_DUMP, InputKind.TRIAGE_DUMP, InputKind.RAW_MEMORY}:
        if kind is InputKind.RAW_MEMORY:
            from symcache.inputs.rawmemory import open_module_memory  # noqa: PLC0415
        else:
            from symcache.inputs.kerneldump import open_module_memory  # noqa: PLC0415

        memory_of = open_module_memory(view)
        return lambda module: _mapped(module, memory_of(module))
    return None


def _mapped(module: Module, memories: Iterable[ByteView]) -> Iterator[ImageSpace]:
    """Yield the images at the base of *module* in each of *memories*."""
    base = module.base
    if base is None or module.unloaded:
        return
    for memory in memories:
        try:
            yield ImageSpace(PartView(memory, base, min(_ADDRESSES, memory.size - base)), Layout.MEMORY)
        except InputError:
            continue
