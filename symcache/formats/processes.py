"""Processes of a kernel dump: their names, page tables and environment blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.loaderlist import read_pointer, walk_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from symcache.formats.loaderlist import ListWalk
    from symcache.formats.paging import AddressSpace
    from symcache.formats.pdbtypes import Structure

__all__ = ["KERNEL_STRUCTURES", "KernelLayout", "Process", "read_process", "walk_processes"]

KERNEL_STRUCTURES = ("_EPROCESS", "_KPROCESS")
"""What `KernelLayout.from_structures` wants from the kernel's PDB."""

_NAME_BYTES = 15
_PROCESS_ID_END = 1 << 26


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """Offsets of fields in EPROCESS, in bytes; they differ from build to build.

    Attributes:
        links: ActiveProcessLinks; UniqueProcessId lies one pointer before it.
        image_file_name: ImageFileName, 15 characters.
        peb: Peb.
        directory_table_base: DirectoryTableBase of the KPROCESS within.
        wow64_process: Wow64Process; None where 32-bit processes cannot exist or it is not known.
        guessed: Some of it was found by looking at memory and not by name.
    """

    links: int
    image_file_name: int
    peb: int
    directory_table_base: int
    wow64_process: int | None = None
    guessed: bool = False

    @classmethod
    def from_structures(cls, structures: Mapping[str, Structure]) -> KernelLayout | None:
        """Return the layout that the kernel's PDB states; None if it lacks a field.

        Args:
            structures: What `read_structures` found of `KERNEL_STRUCTURES`.
        """
        process, kernel_process = (structures.get(name) for name in KERNEL_STRUCTURES)
        if process is None or kernel_process is None:
            return None
        fields = process.fields
        wow64 = next((fields[name] for name in ("WoW64Process", "Wow64Process") if name in fields), None)
        try:
            return cls(
                links=fields["ActiveProcessLinks"],
                image_file_name=fields["ImageFileName"],
                peb=fields["Peb"],
                directory_table_base=fields["Pcb"] + kernel_process.fields["DirectoryTableBase"],
                wow64_process=wow64,
            )
        except KeyError:
            return None


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        id: Process id.
        name: File name, cut to 14 or 15 characters; empty if it cannot be read.
        directory_table_base: Root of its page tables.
        peb: Address of its environment block; 0 for processes without user memory.
        wow64_process: Address of what leads to its 32-bit environment block; 0 if it is no 32-bit process.
    """

    id: int
    name: str
    directory_table_base: int
    peb: int
    wow64_process: int

    @property
    def label(self) -> str:
        """Name and id as a report shows them."""
        return f"{self.name or 'unknown'} ({self.id})"

    def is_named(self, wanted: str) -> bool:
        """Say whether *wanted* is its id or its name, whose end the kernel may have cut off."""
        if wanted.isdecimal():
            return int(wanted) == self.id
        name, wanted = self.name.lower(), wanted.lower()
        return name == wanted or (len(name) >= 14 and wanted.startswith(name))


def walk_processes(space: AddressSpace, head: int, pointer_size: int) -> ListWalk:
    """Return the addresses of all processes' ActiveProcessLinks."""

    def has_process_id(links_va: int) -> bool:
        id_ = read_pointer(space, links_va - pointer_size, pointer_size)
        return 0 < id_ < _PROCESS_ID_END and id_ % 4 == 0

    start = space.mode.kernel_start
    return walk_list(space, head, pointer_size, lambda address: address >= start, recognises=has_process_id)


def read_process(space: AddressSpace, links_va: int, layout: KernelLayout, pointer_size: int) -> Process:
    """Return the process whose ActiveProcessLinks lie at *links_va*.

    Raises:
        NotInDump: One of its fields is not there.
    """
    base = links_va - layout.links
    wow64 = 0
    if layout.wow64_process is not None:
        wow64 = read_pointer(space, base + layout.wow64_process, pointer_size)
    return Process(
        id=read_pointer(space, links_va - pointer_size, pointer_size),
        name=_read_name(space, base + layout.image_file_name),
        directory_table_base=read_pointer(space, base + layout.directory_table_base, pointer_size),
        peb=read_pointer(space, base + layout.peb, pointer_size),
        wow64_process=wow64,
    )


def _read_name(space: AddressSpace, address: int) -> str:
    try:
        raw = space.read(address, _NAME_BYTES).partition(b"\0")[0]
    except InputError:
        return ""
    return "".join(char for char in raw.decode("latin-1") if char.isprintable())
