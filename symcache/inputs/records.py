"""What readers find: inputs, the modules in them, and what could not be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from symcache.errors import MalformedInput
from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey, fold, source_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from symcache.formats.dump.processes import Process
    from symcache.identity import Key

STANDARD_INPUT = "-"
"""What an input without a name is called."""


class InputKind(StrEnum):
    """What an input is, told by its content."""

    KERNEL_DUMP = "kernel-dump"
    TRIAGE_DUMP = "triage-dump"
    MINIDUMP = "minidump"
    IMAGE = "image"
    FOLDER = "folder"
    PDB = "pdb"
    MANIFEST = "manifest"
    DEBUGGER_LOG = "debugger-log"


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
    BY_HAND = "symbols-by-hand"  # only `.reload /f NAME=BASE,SIZE,STAMP` makes the debugger look for it


@dataclass(frozen=True, slots=True)
class Input:
    """One input; the modules that follow it in a stream of records belong to it."""

    path: str  # as the user named it; `STANDARD_INPUT` without a name
    kind: InputKind
    details: Mapping[str, Any] = field(default_factory=dict)  # for people and for ``inspect``; fit into JSON


@dataclass(frozen=True, slots=True)
class PdbReference:
    """A PDB that a module names."""

    key: PdbKey | Pdb2Key | PortablePdbKey
    format: PdbFormat
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex``, as its image states them; a server may ask for them


_FORMATS: dict[type[Key], PdbFormat] = {
    PdbKey: PdbFormat.NATIVE,
    Pdb2Key: PdbFormat.PDB2,
    PortablePdbKey: PdbFormat.PORTABLE,
}


def reference_to(key: Key) -> PdbReference | None:
    """Return a reference to the PDB that *key* names; None for a key of another kind of file."""
    format_ = _FORMATS.get(type(key))
    return None if format_ is None else PdbReference(key, format_)  # type: ignore[arg-type]  # of these kinds alone


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
    problem: str | None = None  # why *image* or *pdbs* is not known, in one line
    process: str | None = None  # name and id of its process (``lsass.exe (664)``); None for the kernel's and elsewhere
    no_debug_record: bool = False  # the image was read to its end and names no PDB at all
    unusable_pdb: bool = False  # the image names a PDB by a name or GUID that no file in a store can have
    is_foreign: bool = False  # it belongs to a system that has no PDBs
    is_presumed: bool = False  # that *pdbs* belong to *image* is only guessed from where they stand
    needs_image: ImageUse | None = None  # what a debugger asks for the image itself for

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


@dataclass(frozen=True, slots=True)
class ProcessSelection:
    """Processes whose modules are wanted: those *wanted* by name (``lsass.exe``) or id (``664``), else all.

    *if_complete* takes them only from a dump that claims to hold all memory, and says nothing of what it lacks.
    """

    wanted: tuple[str, ...] = ()
    if_complete: bool = False

    def takes(self, process: Process) -> bool:
        """Say whether the process was asked for."""
        return not self.wanted or any(process.is_named(name) for name in self.wanted)


OF_COMPLETE_DUMPS = ProcessSelection(if_complete=True)
"""All processes of dumps that hold their memory, none of others: what is taken where nothing is chosen."""


@dataclass(slots=True)
class KernelPdbWanted:
    """The reader of a kernel dump could do with the kernel's PDB, which says where the kernel keeps its processes.

    A consumer that has it, the file that *kernel*'s own module names, sets *pdb* before taking the next record.
    Without an answer the dump's memory is searched.
    """

    kernel: Module
    pdb: Path | None = None


Record: TypeAlias = Input | Module | ProcessSummary | KernelPdbWanted | Unreadable
