"""The Windows machine this runs on: the drivers that are loaded, and the modules of processes.

What the system is asked stands in `symcache.inputs.livewindows`, which runs on Windows alone; what comes of its answers
is decided here, so that it can be tested everywhere.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from symcache.errors import InputError, MalformedInput, NotInDump, UnknownFormat
from symcache.formats.pe.image import ImageSpace, Layout, parse_image
from symcache.formats.pe.version import find_version
from symcache.identity import base_name, fold, is_kernel_or_hal, source_name
from symcache.inputs.image import image_module, loader_key, read_loaded_image
from symcache.inputs.records import Input, InputKind, Module, ProcessSummary, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from symcache.formats.pe.image import Image
    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.inputs.detect import InputOptions
    from symcache.inputs.records import Record

__all__ = [
    "LiveKernel",
    "LiveProcess",
    "LoadedImage",
    "OpenedProcess",
    "Places",
    "RunningProcess",
    "System",
    "file_path",
    "find_processes",
    "find_system",
    "read_live_kernel",
    "read_live_processes",
]

_LIVE = "--live"

_ADDRESSES = 1 << 64
_PAGE_BYTES = 0x1000
_MOST_NEAR = 5
_LONGEST_PLAIN_PATH = 259


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that Windows says is loaded."""

    path: str  # as Windows names it: below ``\\SystemRoot``, ``\\??``, ``\\Device``, or with a drive
    base: int | None  # None where Windows withholds it
    size: int  # SizeOfImage in bytes, as the loader has it
    stamp: int = 0  # of the image in memory, where Windows says it; else 0
    file: str | None = None  # what is mapped there, where that may be another file than the one of *path*


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process of this machine."""

    id: int
    name: str  # of its executable, without a path

    @property
    def label(self) -> str:
        """Name and id, as `Module.process` has them."""
        return f"{self.name} ({self.id})"


@dataclass(frozen=True, slots=True)
class Places:
    r"""How names of the kernel's become paths.

    Attributes:
        system_root: Folder of Windows, ``C:\Windows``.
        devices: Drive of each volume, ``C:``, by the name of its device, ``\Device\HarddiskVolume3``.
        is_redirected: Windows shows this 32-bit process another folder in place of ``System32``.
    """

    system_root: str
    devices: Mapping[str, str] = field(default_factory=dict)
    is_redirected: bool = False


class OpenedProcess(Protocol):
    """A process whose modules can be asked for; every method raises `OSError` for what Windows refuses."""

    executable: str | None  # path of its executable
    bits: int  # of the program: 32 or 64

    def images(self) -> Sequence[LoadedImage]:
        """Return the modules of its loader, 32-bit ones of a 64-bit Windows, too."""
        ...

    def read(self, address: int, length: int) -> bytes:
        """Return exactly *length* bytes of its memory."""
        ...

    def close(self) -> None:
        """Give the process back."""
        ...


class System(Protocol):
    """What Windows says of itself; every method raises `OSError` for what it refuses."""

    @property
    def places(self) -> Places: ...

    def details(self) -> Mapping[str, Any]:
        """Return ``version``, ``build`` and ``machine``."""
        ...

    def drivers(self) -> Sequence[LoadedImage]:
        """Return what the kernel has loaded, in its order."""
        ...

    def processes(self) -> Sequence[RunningProcess]: ...

    def open_process(self, process_id: int) -> OpenedProcess: ...

    def open_file(self, path: str) -> AbstractContextManager[ByteView]:
        """Open a file by the path that `file_path` returns."""
        ...


@dataclass(frozen=True, slots=True)
class LiveKernel:
    """The drivers that are loaded on this machine, in place of an input; see `read_live_kernel`."""

    @property
    def path(self) -> str:
        return _LIVE

    def records(self, options: InputOptions) -> Iterator[Record]:
        """Yield what `read_live_kernel` does.

        Raises:
            UnknownFormat: This machine does not run Windows.
        """
        del options  # of kernel dumps alone
        return read_live_kernel(find_system())


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """The modules of processes of this machine, *wanted* by id or name; see `read_live_processes`."""

    wanted: str

    @property
    def path(self) -> str:
        return f"--pid {self.wanted}"

    def records(self, options: InputOptions) -> Iterator[Record]:
        """Yield what `read_live_processes` does.

        Raises:
            UnknownFormat: There is no such process, or this machine does not run Windows.
            OSError: Windows does not list its processes.
        """
        del options
        return read_live_processes(self.wanted, find_system())


if sys.platform == "win32":

    def find_system() -> System:
        """Return what asks this machine."""
        from symcache.inputs.livewindows import Windows  # noqa: PLC0415 - it loads what most runs need nothing of

        return Windows()

else:

    def find_system() -> System:
        """Raise `UnknownFormat`: this machine does not run Windows."""
        raise UnknownFormat("only a Windows machine can be asked for its drivers and processes; give a dump instead")


def read_live_kernel(system: System) -> Iterator[Record]:
    """Yield the machine and its loaded drivers, kernel and HAL first, then in the kernel's order.

    A driver is known by its file. Where Windows tells the time stamp or size of what is in memory, and the file has
    another, the file was replaced since: the image in memory is the one that a debugger asks for, so its stamp and
    size make the key, or there is none.
    """
    try:
        drivers = list(system.drivers())
    except OSError as error:
        yield Input(_LIVE, InputKind.LIVE_KERNEL, system.details())
        yield Unreadable(_LIVE, f"Windows does not list its drivers: {_reason(error)}")
        return
    drivers.sort(key=_place_in_list)
    withheld = bool(drivers) and not any(driver.base for driver in drivers)
    problems = [_WITHHELD] if withheld else []
    yield Input(_LIVE, InputKind.LIVE_KERNEL, {**system.details(), "drivers": len(drivers), "problems": problems})
    files = [_find_file(driver, system) for driver in drivers]
    stated = _as_far_as_true([(driver, file) for driver, (file, _) in zip(drivers, files, strict=True)])
    for driver, (file, problem) in zip(stated, files, strict=True):
        yield _driver_module(driver, file, problem)
    if not drivers:
        yield Unreadable(_LIVE, "Windows lists no drivers")


_WITHHELD = (
    "Windows withholds the addresses of drivers from those who may not debug it: run it as administrator to have them"
)


def _place_in_list(driver: LoadedImage) -> int:
    name = base_name(driver.path)
    return 2 if not is_kernel_or_hal(name) else 1 if fold(name).startswith("hal") else 0


@dataclass(frozen=True, slots=True)
class _File:
    """An image on disk."""

    image: Image
    version: VersionInfo | None


def _find_file(loaded: LoadedImage, system: System) -> tuple[_File | None, str | None]:
    r"""Return the file of *loaded*, or why it cannot be read.

    Copies of drivers for a crash, ``dump_NAME.sys``, have no file of their own; ``NAME.sys`` lies in the same folder.
    """
    path = file_path(loaded.file or loaded.path, system.places)
    name = base_name(path)
    folder = path[: len(path) - len(name)]
    paths = [path] if source_name(name) == name else [path, folder + source_name(name)]
    problem = ""
    for each in paths:
        try:
            with system.open_file(each) as view:
                image = parse_image(view, Layout.DISK)
                return _File(image, _version_in(view)), None
        except (InputError, OSError, ValueError) as error:
            text = _reason(error) if isinstance(error, OSError) else str(error)
            problem = f"its file {each} cannot be read: {text}"
    return None, problem


def _version_in(view: ByteView) -> VersionInfo | None:
    try:
        return find_version(ImageSpace(view, Layout.DISK))
    except InputError:
        return None


def _as_far_as_true(found: Sequence[tuple[LoadedImage, _File | None]]) -> Iterator[LoadedImage]:
    """Yield the drivers without stamps, or sizes, if those that are stated are not those of images.

    Files are replaced now and then, by updates that wait for a restart, but never most of them. Some releases of
    Windows keep something else in the place of the stamp, and wine makes up the sizes.
    """
    both = [(driver, file.image) for driver, file in found if file is not None]
    stamps = [driver.stamp == image.timestamp for driver, image in both if driver.stamp]
    sizes = [_pages(driver.size) == _pages(image.size_of_image) for driver, image in both if driver.size]
    stamps_hold, sizes_hold = (2 * sum(each) > len(each) for each in (stamps, sizes))
    for driver, _ in found:
        yield replace(driver, stamp=driver.stamp * stamps_hold, size=driver.size * sizes_hold)


def _driver_module(driver: LoadedImage, file: _File | None, problem: str | None) -> Module:
    name = base_name(driver.path) or f"unknown_{driver.base or 0:x}"
    module = Module(name, driver.path, driver.base)
    key = loader_key(source_name(name), driver.stamp, driver.size)
    if file is None:
        return replace(module, image=key, problem=problem)
    if difference := _difference(file.image, driver.size, driver.stamp):
        what = "its PDB is known once the image is fetched" if key else "restart Windows, or take a dump"
        return replace(module, image=key, problem=f"{difference}; {what}")
    found = image_module(file.image, source_name(name), driver.path, driver.base)
    return replace(found, name=name, version=file.version)


def _difference(image: Image, size: int, stamp: int) -> str | None:
    """Return how the file *image* is another build than the one in memory, of *size* and *stamp*; None if it is not."""
    if stamp and stamp != image.timestamp:
        return (
            f"the file on disk is another build: its stamp is {image.timestamp:08X}, that of the loaded one {stamp:08X}"
        )
    if size and _pages(size) != _pages(image.size_of_image):
        return (
            f"the file on disk is another build: it claims {image.size_of_image:#x} bytes, the loaded one has {size:#x}"
        )
    return None


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // _PAGE_BYTES)


def find_processes(wanted: str, running: Sequence[RunningProcess]) -> list[RunningProcess]:
    """Return the processes that *wanted* means: an id in decimal digits, or a name, with or without ``.exe``.

    Raises:
        UnknownFormat: There are none; the text names those that are called nearly so.
    """
    if wanted.isascii() and wanted.isdigit():
        found = [process for process in running if process.id == int(wanted[:20])]
        if not found:
            raise UnknownFormat("no process has this id")
        return found
    names = {fold(wanted), f"{fold(wanted)}.exe"}
    found = [process for process in running if fold(process.name) in names]
    if found:
        return found
    from difflib import get_close_matches  # noqa: PLC0415 - for a mistake alone

    known = {fold(process.name): process.name for process in running}
    within = [name for name in known if fold(wanted) in name]
    near = dict.fromkeys([*within, *get_close_matches(fold(wanted), known, _MOST_NEAR)])
    hint = f"; there are {', '.join(sorted(known[name] for name in [*near][:_MOST_NEAR]))}" if near else ""
    raise UnknownFormat(f"no process is called so{hint}")


def read_live_processes(wanted: str, system: System) -> Iterator[Record]:
    """Yield each process that *wanted* means, an input of its own, and its modules in the loader's order.

    A module is known by the headers in the memory of the process, as a debugger reads them, which says, too, where
    the file on disk was replaced; where memory cannot be read, by its file. Of a process that may not be opened there
    is the executable alone.

    Raises:
        UnknownFormat: There is no such process.
    """
    for process in find_processes(wanted, system.processes()):
        yield from _read_process(process, system)


def _read_process(process: RunningProcess, system: System) -> Iterator[Record]:
    label = process.label
    details = {**system.details(), "process_id": process.id, "executable": None, "bits": None}
    with ExitStack() as closing:
        try:
            opened = system.open_process(process.id)
        except OSError as error:
            yield Input(label, InputKind.PROCESS, details)
            yield Unreadable(label, f"Windows does not let it be opened: {_refusal(error)}")
            return
        closing.callback(opened.close)
        details |= {"executable": opened.executable, "bits": opened.bits}
        yield Input(label, InputKind.PROCESS, details)
        try:
            images = opened.images()
        except OSError as error:
            reason = _refusal(error)
            if opened.executable is None:
                yield Unreadable(label, f"its modules cannot be listed: {reason}")
                return
            executable = LoadedImage(opened.executable, None, 0)
            yield replace(_process_module(executable, system, None), process=label)
            yield Unreadable(label, f"its modules cannot be listed, its executable alone was read: {reason}")
            return
        seen: set[int | None] = set()
        for image in images:
            if image.base not in seen:  # the executable is in the 32-bit list, too
                seen.add(image.base)
                yield replace(_process_module(image, system, opened.read), process=label)
        yield ProcessSummary(process.id, process.name, opened.executable, len(seen))


def _process_module(loaded: LoadedImage, system: System, read: Callable[[int, int], bytes] | None) -> Module:
    name = base_name(loaded.path) or f"unknown_{loaded.base or 0:x}"
    file, problem = _find_file(loaded, system)
    image: Image | None = None
    if read is not None and loaded.base:
        try:
            image = read_loaded_image(_Memory(read), loaded.base, loaded.size)
        except InputError as error:
            unread = f"its header in memory cannot be read ({error.problem})"
            problem = unread if problem is None else f"{unread}, and {problem}"
    if image is None:
        if file is None:
            return Module(name, loaded.path, loaded.base, problem=problem)
        if difference := _difference(file.image, loaded.size, 0):
            return Module(name, loaded.path, loaded.base, problem=difference)
        return replace(image_module(file.image, name, loaded.path, loaded.base), version=file.version)
    module = image_module(image, name, loaded.path, loaded.base)
    if file is None:
        return module
    if difference := _difference(file.image, image.size_of_image, image.timestamp):
        problem = f"{difference}; debuggers ask for the one in memory"
        return replace(module, problem=f"{problem}; {module.problem}" if module.problem else problem)
    if not (module.pdbs or module.dbg):  # the debug directory can be freed after loading, and a file still has it
        module = image_module(file.image, name, loaded.path, loaded.base)
    return replace(module, version=file.version)


class _Memory:
    """Memory of a process as a view; what cannot be read is not there."""

    size = _ADDRESSES

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise MalformedInput("an address beyond the end of memory", offset=None)
        try:
            return self._read(offset, length)
        except OSError as error:
            raise NotInDump(_reason(error), address=offset) from error


def file_path(name: str, places: Places) -> str:
    r"""Return the path that leads to what the kernel calls *name*.

    | name | path |
    |---|---|
    | ``\SystemRoot\system32\ntoskrnl.exe`` | in the folder of Windows |
    | ``\??\C:\x.sys`` | ``C:\x.sys`` |
    | ``\??\UNC\server\share\x``, ``\Device\Mup\server\share\x`` | ``\\server\share\x`` |
    | ``\Device\HarddiskVolume3\x.sys`` | by the drive of that volume; without one ``\\?\GLOBALROOT\Device\…`` |
    | ``\WINDOWS\system32\x.sys`` | on the drive of Windows |
    | ``System32\drivers\x.sys``, ``x.sys`` | in the folder of Windows, in its folder of drivers |

    Source: learn.microsoft.com, "DefineDosDeviceW", "Naming Files, Paths, and Namespaces", "File System Redirector"
    for ``Sysnative``; which of these names there are was seen in lists of drivers.
    """
    root = places.system_root.rstrip("\\")
    path = name.replace("/", "\\")
    folded = path.lower()
    if folded.startswith("\\systemroot\\"):
        path = root + path[len("\\SystemRoot") :]
    elif share := next((mark for mark in _SHARES if folded.startswith(mark)), None):
        rest = path[len(share) :]
        if rest.startswith(";"):  # the drive that the share was connected to
            rest = rest.partition("\\")[2]
        path = f"\\\\{rest}"
    elif folded.startswith("\\??\\"):
        path = path[4:] if path[5:6] == ":" else f"\\\\?\\{path[4:]}"
    elif folded.startswith("\\device\\"):
        path = _of_device(path, places.devices)
    elif path.startswith("\\") and not path.startswith("\\\\"):
        path = root[:2] + path
    elif path[1:2] != ":" and not path.startswith("\\\\"):
        path = f"{root}\\{path}" if "\\" in path else f"{root}\\System32\\drivers\\{path}"
    native = f"{root}\\system32\\".lower()
    if places.is_redirected and path.lower().startswith(native):
        path = f"{root}\\Sysnative\\{path[len(native) :]}"
    return f"\\\\?\\{path}" if len(path) > _LONGEST_PLAIN_PATH and path[1:2] == ":" else path


_SHARES = ("\\??\\unc\\", "\\device\\mup\\", "\\device\\lanmanredirector\\")


def _of_device(path: str, devices: Mapping[str, str]) -> str:
    for device, drive in devices.items():
        if path.lower().startswith(f"{device.lower()}\\"):
            return drive + path[len(device) :]
    return f"\\\\?\\GLOBALROOT{path}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _refusal(error: OSError) -> str:
    advice = "; run it as administrator (processes that Windows protects stay closed)"
    return _reason(error) + (advice if isinstance(error, PermissionError) else "")
