"""What readers find: inputs, the modules in them, and what could not be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from symcache.errors import InputError, MalformedInput
from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey, fold, source_name
from symcache.sympath import redact_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from symcache.formats.dump.processes import Process
    from symcache.formats.pe.managed import ManagedCode
    from symcache.formats.pe.version import Numbers, VersionInfo
    from symcache.identity import Key

STANDARD_INPUT = "-"
"""What an input without a name is called."""


class InputKind(StrEnum):
    """What an input is, told by its content."""

    KERNEL_DUMP = "kernel-dump"
    TRIAGE_DUMP = "triage-dump"
    MINIDUMP = "minidump"
    RAW_MEMORY = "raw-memory"
    IMAGE = "image"
    FOLDER = "folder"
    PDB = "pdb"
    MANIFEST = "manifest"
    DEBUGGER_LOG = "debugger-log"
    LOCK = "lock"
    REPORT = "report"
    ETL = "etl"
    NETTRACE = "nettrace"
    DISK = "disk"
    SCAN = "scan"
    CRASH_REPORT = "crash-report"
    PROFILE = "profile"
    ARCHIVE = "archive"
    LIVE_KERNEL = "live-kernel"
    PROCESS = "process"
    BUILD = "build"  # a Windows build, of which there is no file at hand


class PdbFormat(StrEnum):
    """Which kind of PDB a reference asks for."""

    NATIVE = "native"
    PDB2 = "pdb2"
    PORTABLE = "portable"
    EMBEDDED = "embedded"


class ImageUse(StrEnum):
    """What a debugger needs an image for that its input does not hold.

    Source: observed with dbgeng 10.0.15063 on dumps of every kind; see docs/design.md.
    """

    SYMBOLS = "symbols"  # the PDB is named by the image alone: without it no symbols are loaded
    CODE = "code"  # symbols are loaded without it; disassembly and x64 stack unwinding need it
    METADATA = "metadata"  # managed debuggers read from it what the dump does not hold: metadata, a runtime's version
    DATA_ACCESS = "data-access"  # a library of a .NET runtime, without which nothing of its programs is shown
    BY_HAND = "symbols-by-hand"  # only `.reload /f NAME=BASE,SIZE,STAMP` makes the debugger look for it


@dataclass(frozen=True, slots=True)
class Input:
    """One input; the modules that follow it in a stream of records belong to it.

    One that comes again goes on where others, which lie in it, stood in between.
    """

    path: str  # as the user named it; `STANDARD_INPUT` without a name
    kind: InputKind
    details: Mapping[str, Any] = field(default_factory=dict)  # for people and for ``inspect``; fit into JSON


@dataclass(frozen=True, slots=True)
class PdbReference:
    """A PDB that a module names."""

    key: PdbKey | Pdb2Key | PortablePdbKey
    format: PdbFormat
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex``, as its image states them; a server may ask for them
    others: tuple[PdbKey | PortablePdbKey, ...] = ()  # of which one is *key* in truth, where the input leaves it open


WHOLE_FILE = "SHA256-file:"
"""Begins a checksum in lower-case hex of a whole file, uncompressed, as a lock file states it.

It stands among the checksums of portable PDBs, which images state; unlike those each of them counts, for any file.
"""


def stated_by_image(checksums: Iterable[str]) -> tuple[str, ...]:
    """Return *checksums* without those that only a lock file may state: images name algorithms as they like."""
    return tuple(each for each in checksums if not each.startswith(WHOLE_FILE))


def locked_hashes(checksums: Iterable[str]) -> tuple[str, ...]:
    """Return the SHA-256 hashes that lock files state among *checksums*."""
    return tuple(each.removeprefix(WHOLE_FILE) for each in checksums if each.startswith(WHOLE_FILE))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a lock file or a report says of a module's one file beyond its key."""

    kind: str  # ``pdb``, ``image``, ``dbg``, ``other``
    is_locked: bool = False  # by a lock file: these bytes alone will do, and what it has as missing is not looked for
    cause: str | None = None  # why it was missing or failed; None for a file that was at hand
    size_bytes: int | None = None  # uncompressed, where a lock file says it
    sha256: str | None = None  # of the uncompressed file
    origin: str | None = None  # where it had come from, free of secrets


_FORMATS: dict[type[Key], PdbFormat] = {
    PdbKey: PdbFormat.NATIVE,
    Pdb2Key: PdbFormat.PDB2,
    PortablePdbKey: PdbFormat.PORTABLE,
}


def reference_to(key: Key) -> PdbReference | None:
    """Return a reference to the PDB that *key* names; None for a key of another kind of file."""
    format_ = _FORMATS.get(type(key))
    return None if format_ is None else PdbReference(key, format_)  # type: ignore[arg-type]  # of these kinds alone


class RuntimeKind(StrEnum):
    """Which .NET runtime a module is; what its libraries for debuggers are called depends on it."""

    CORE = "core"  # coreclr.dll: .NET Core, .NET 5 and later
    FRAMEWORK = "framework"  # clr.dll: .NET Framework 4
    FRAMEWORK_2 = "framework-2"  # mscorwks.dll: .NET Framework 2.0 to 3.5
    SINGLE_FILE = "single-file"  # a program that holds .NET 6 or later itself


@dataclass(frozen=True, slots=True)
class Runtime:
    """A .NET runtime that a module is, or holds, as far as the input tells which build it is."""

    kind: RuntimeKind
    machine: int | None = None  # processor, an `IMAGE_FILE_MACHINE_*` number
    version: Numbers | None = None  # of its file
    flavor: str = ""  # ``.dbg`` or ``.chk`` for a build with debugging code
    data_access: tuple[int, int] | None = None  # stamp and SizeOfImage of its mscordaccore.dll, where it states them
    debugging_interface: tuple[int, int] | None = None  # the same of its mscordbi.dll
    is_presumed: bool = False  # the program may hold a runtime; the input does not tell

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object; those behind the version only where they are known."""
        version = None if self.version is None else ".".join(map(str, self.version))
        libraries = {"data_access": self.data_access, "debugging_interface": self.debugging_interface}
        told = {"machine": self.machine, "flavor": self.flavor or None} | {
            name: None if own is None else {"timestamp": own[0], "size_of_image": own[1]}
            for name, own in libraries.items()
        }
        return {"kind": self.kind, "version": version} | {name: each for name, each in told.items() if each is not None}


@dataclass(frozen=True, slots=True)
class Module:
    """One module of an input and what names its files."""

    name: str  # without a path, in the letter case of the input
    path: str | None = None  # where the input says it lies: below ``\SystemRoot``, or a file's path
    base: int | None = None  # address it is loaded at; None outside dumps and logs
    unloaded: bool = False  # it had been when the dump was written
    image: ImageKey | None = None
    pdbs: tuple[PdbReference, ...] = ()  # in file order; Microsoft's debuggers ask for the last native one
    dbg: Key | None = None  # of a separate ``.dbg``, or any other file that is wanted as such (a line of a manifest)
    candidates: tuple[ImageKey, ...] = ()  # what *image* may be, where only that is known; the likely ones first
    problem: str | None = None  # why *image* or *pdbs* is not known, in one line
    process: str | None = None  # name and id of its process (``lsass.exe (664)``); None for the kernel's and elsewhere
    no_debug_record: bool = False  # the image was read to its end and names no PDB at all
    unusable_pdb: bool = False  # the image names a PDB by a name or GUID that no file in a store can have
    is_foreign: bool = False  # it belongs to a system that has no PDBs
    is_missed: bool = False  # who wrote the input looked for its symbols and had none
    no_debugger: bool = False  # no debugger opens its input, but a program that shows profiles or crash reports
    is_presumed: bool = False  # that *pdbs* belong to *image* is only guessed from where they stand
    needs_image: ImageUse | None = None  # what a debugger asks for the image itself for
    recorded: Recorded | None = None  # of a lock file or a report, each file of which is a module of its own
    version: VersionInfo | None = (
        None  # who made it, where the input says so beside the image; `read_versions` reads more
    )
    hits: int | None = None  # how many samples and frames of stacks of a trace point into it, where that was asked for
    managed: ManagedCode | None = None  # how it holds code of a .NET program; None, too, where the input does not tell
    runtime: Runtime | None = None  # of .NET, that it is or holds

    @property
    def key(self) -> Key | None:
        """Of the one file that a line of a list, a lock file or a report is about."""
        return self.pdbs[0].key if self.pdbs else self.dbg or self.image

    @property
    def listed_image(self) -> ImageKey | None:
        """Identity of the image under the name that the input lists, by which a debugger asks for it."""
        image = self.image
        if image is None or fold(self.name) == fold(image.name) or fold(source_name(self.name)) != fold(image.name):
            return image
        try:
            return ImageKey(self.name, image.timestamp, image.size_of_image)
        except MalformedInput:  # the prefix makes it too long
            return image


@dataclass(frozen=True, slots=True)
class ProcessSummary:
    """A process of a dump; its modules come before it."""

    id: int
    name: str  # of the file, cut to 14 or 15 characters by the kernel
    image: str | None  # path of its executable; None if its loader's list is not there
    modules: int  # how many its loaders list, 32-bit ones too

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An input, or one file of a folder, that could not be read; the rest goes on."""

    path: str  # as the user named it, or the file below a folder
    problem: str  # in one line
    offset: int | None = None  # where in the file, in bytes; None if no single place is wrong

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object."""
        return asdict(self)


def unreadable(path: str, error: InputError | OSError) -> Unreadable:
    """Return the record of an input that *error* kept from being read."""
    if isinstance(error, InputError):
        return Unreadable(path, error.problem, error.offset)
    return Unreadable(redact_words(path), error.strerror or str(error))  # a URL, perhaps, meant for an option


@dataclass(frozen=True, slots=True)
class ProcessSelection:
    """Processes whose modules are wanted: those *wanted* by name (``lsass.exe``) or id (``664``), else all.

    *if_complete* takes them only from a dump that claims to hold all memory, and says nothing of what it lacks. Of
    traces, only the *hot* modules that samples and stacks point into most are wanted, most first; None for all.
    """

    wanted: tuple[str, ...] = ()
    if_complete: bool = False
    hot: int | None = None

    def takes(self, process: Process) -> bool:
        """Say whether the process was asked for."""
        return not self.wanted or any(process.is_named(name) for name in self.wanted)


OF_COMPLETE_DUMPS = ProcessSelection(if_complete=True)
"""All processes of dumps that hold their memory, none of others: what is taken where nothing is chosen."""


@dataclass(slots=True)
class KernelPdbWanted:
    """The reader of a machine's memory could do with the kernel's PDB, which says where the kernel keeps its lists.

    A consumer that has it, the file that *kernel*'s own module names, sets *pdb* before taking the next record.
    Without an answer the memory is searched.
    """

    kernel: Module
    pdb: Path | None = None


@dataclass(slots=True)
class Document:
    """A file on a server that is no symbol file, and that a reader has to see.

    Who gets it sets *path*, what lies on the disk in its place; or *is_missing*, as its server has no such file; or
    *problem*, why it could not be had, in one line.
    """

    name: str  # what errors call it
    url: str  # where it is
    largest_bytes: int = 0  # a longer one is refused
    check: Callable[[Path], None] | None = None  # raises `InputError` for a file that is not what was asked for
    path: Path | None = None
    is_missing: bool = False
    problem: str | None = None

    @property
    def is_open(self) -> bool:
        """Nothing is known of it yet."""
        return self.path is None and not self.is_missing and self.problem is None


@dataclass(slots=True)
class DocumentsWanted:
    """The reader needs *documents* to go on; a consumer answers in each of them before taking the next record."""

    documents: Sequence[Document]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that the user may want to know of an input, in one line."""

    text: str


class PassedOver(Remark):
    """That a file of a folder is not read which would be if it were an input of its own."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StackModule:
    """A module that the stack of a crash points into."""

    module: Module
    words: int  # how many words of the stack do (frames of a crash report); 0 if only what else a crash names does

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object."""
        return {"name": self.module.name, "words": self.words}


@dataclass(frozen=True, slots=True)
class CrashStack:
    """What a crash is about, as a first guess: modules that words of the crashing thread's stack point into.

    Nothing is unwound, so that some of them may be left over from calls that had returned. The record comes after the
    modules of its dump, and not at all where the dump does not hold registers and stack.
    """

    modules: tuple[StackModule, ...]  # that of the faulting instruction first, then from the top of the stack
    thread: str | None = None  # whose stack it is, where the dump has several threads


@dataclass(frozen=True, slots=True)
class PdbFolder:
    """A folder beside an input whose PDBs may exist nowhere else, as those that were made of native images of .NET."""

    path: Path


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The last record of inputs that are narrowed to sets of modules, if that left modules out."""

    sets: str  # as the user names them
    modules: int  # how many were left out


Record: TypeAlias = (
    Input
    | Module
    | ProcessSummary
    | CrashStack
    | KernelPdbWanted
    | DocumentsWanted
    | PdbFolder
    | Narrowed
    | Remark
    | Unreadable
)
