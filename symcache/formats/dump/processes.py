"""The processes of a kernel dump, and where a kernel of a given build keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.kernel import read_pointer, walk_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.dump.kernel import DebuggerData, ListWalk
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.pdb.types import Structure

KERNEL_STRUCTURES = ("_EPROCESS", "_KPROCESS")
"""What `KernelLayout.from_structures` wants from the kernel's PDB."""

_NAME_BYTES = 15
_PROCESS_ID_END = 1 << 26


@dataclass(frozen=True, slots=True)
class KernelLayout:
    """Offsets of fields in EPROCESS, in bytes; they differ from build to build."""

    links: int  # ActiveProcessLinks; UniqueProcessId lies one pointer before it
    image_file_name: int
    peb: int
    directory_table_base: int  # DirectoryTableBase of the KPROCESS within
    wow64_process: int | None = None  # Wow64Process; None where 32-bit processes cannot exist or it is not known
    guessed: bool = False  # some of it was found by looking at memory and not by name

    @classmethod
    def from_structures(cls, structures: Mapping[str, Structure]) -> KernelLayout | None:
        """Return the layout that the kernel's PDB states (`KERNEL_STRUCTURES`); None if it lacks a field."""
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
    """One process."""

    id: int
    name: str  # file name, cut to 14 or 15 characters; empty if it cannot be read
    directory_table_base: int  # root of its page tables
    peb: int  # address of its environment block; 0 for processes without user memory
    wow64_process: int  # address of what leads to its 32-bit environment block; 0 if it is no 32-bit process

    @property
    def label(self) -> str:
        """Name and id as a report shows them."""
        return f"{self.name or 'unknown'} ({self.id})"

    def is_named(self, wanted: str) -> bool:
        """Return whether *wanted* is its id or its name, whose end the kernel may have cut off."""
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
    """Return the process whose ActiveProcessLinks lie at *links_va*; raise `NotInDump` if a field is not there."""
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


_SYSTEM_ID = 4
_FIRST_NAME = b"System\0"
_SEARCHED_BYTES = 0x800
_PROBED_PROCESSES = 24
_PROCESS_OBJECT = 3

# Source: volatility's types, made from public symbols: XP SP2, 7 SP1 and 10 (15063) for x86; 7 SP1, 8.1 and 10 (19041)
# for x64. Neighbouring builds share these; each is tried on the dump's memory before it is used.
_KNOWN: dict[int, tuple[KernelLayout, ...]] = {
    4: (
        KernelLayout(links=0x88, image_file_name=0x174, peb=0x1B0, directory_table_base=0x18),
        KernelLayout(links=0xB8, image_file_name=0x16C, peb=0x1A8, directory_table_base=0x18),
        KernelLayout(links=0xB8, image_file_name=0x17C, peb=0x14C, directory_table_base=0x18),
    ),
    8: (
        KernelLayout(links=0x188, image_file_name=0x2E0, peb=0x338, directory_table_base=0x28, wow64_process=0x320),
        KernelLayout(links=0x2E8, image_file_name=0x438, peb=0x3E8, directory_table_base=0x28, wow64_process=0x418),
        KernelLayout(links=0x448, image_file_name=0x5A8, peb=0x550, directory_table_base=0x28, wow64_process=0x580),
    ),
}
_DIRECTORY_TABLE_BASE = {4: 0x18, 8: 0x28}


def find_kernel_layout(
    space: AddressSpace, walk: ListWalk, pointer_size: int, block: DebuggerData | None, anchor: int
) -> KernelLayout | None:
    """Return the layout that fits this dump's memory; None if none does.

    The first process is ``System`` with id 4, its page tables map the kernel, and other processes have environment
    blocks that lead to sound loader lists: what fits all of that is taken. Known layouts come first, then what the
    kernel's debugger data says and looking does.
    *anchor* is an address that every process's page tables map.
    """
    if not walk.entries:
        return None
    prober = _Prober(space, walk.entries[:_PROBED_PROCESSES], pointer_size, anchor)
    system = prober.find_system()
    if system is None:
        return next((layout for layout in _KNOWN[pointer_size] if prober.fits_any(layout)), None)
    for layout in _KNOWN[pointer_size]:
        if prober.fits_system(system, layout) and (
            prober.fits_others(layout) if block is None or not block.peb_offset else block.peb_offset == layout.peb
        ):
            return layout
    return prober.search(system, block)


@dataclass(frozen=True, slots=True)
class _Prober:
    _space: AddressSpace
    _probed: tuple[int, ...]  # links of the first processes
    _width: int
    _anchor: int

    def find_system(self) -> int | None:
        """Return the links of the process with id 4, which is the first but in damaged lists."""
        for links in self._probed:
            try:
                if read_pointer(self._space, links - self._width, self._width) == _SYSTEM_ID:
                    return links
            except InputError:
                continue
        return None

    def fits_any(self, layout: KernelLayout) -> bool:
        """Return whether *layout* makes sense of some process, and its page tables are there."""
        for links in self._probed:
            try:
                process = read_process(self._space, links, layout, self._width)
            except InputError:
                continue
            sound = process.name and process.id % 4 == 0 and self._judge_peb(links, layout) is not False
            if sound and self._maps_kernel(process.directory_table_base):
                return True
        return False

    def fits_system(self, system: int, layout: KernelLayout) -> bool:
        base = system - layout.links
        try:
            if self._space.read(base + layout.image_file_name, len(_FIRST_NAME)) != _FIRST_NAME:
                return False
            return self._maps_kernel(read_pointer(self._space, base + layout.directory_table_base, self._width))
        except InputError:
            return False

    def _maps_kernel(self, root: int) -> bool:
        """Return whether page tables at *root* map the anchor to where the dump's own do.

        Where the kernel has a root of its own this says nothing; it is enough that the tables are there.
        """
        if not root & self._space.mode.root_mask:
            return False
        try:
            if self._space.mode.two_roots:
                return self._space.with_root(root).has_root
            return self._space.with_root(root).translate(self._anchor) == self._space.translate(self._anchor)
        except InputError:
            return False

    def fits_others(self, layout: KernelLayout) -> bool:
        """Return whether some process's environment block is where *layout* has it; also if no process has one."""
        judged = [self._judge_peb(links, layout) for links in self._probed]
        return True in judged or False not in judged

    def _judge_peb(self, links: int, layout: KernelLayout) -> bool | None:
        """Return whether a sound environment block is found; None if it is not in the dump."""
        base = links - layout.links
        try:
            root = read_pointer(self._space, base + layout.directory_table_base, self._width)
            peb = read_pointer(self._space, base + layout.peb, self._width)
        except InputError:
            return None
        if peb == 0:
            return None
        if peb % 0x1000 or peb >= self._space.mode.kernel_start:
            return False
        return _leads_to_loader_list(self._space.with_root(root), peb, self._width)

    def search(self, system: int, block: DebuggerData | None) -> KernelLayout | None:
        name = self._search_name(system)
        if name is None:
            return None
        dtb_offset = _DIRECTORY_TABLE_BASE[self._width]
        if block is not None and block.directory_table_base_offset:
            dtb_offset = block.directory_table_base_offset
        for links in self._search_links(system, dtb_offset):
            layout = KernelLayout(links, links + name, 0, dtb_offset, guessed=True)
            peb = block.peb_offset if block is not None and block.peb_offset else self._search_peb(system, layout)
            if peb is not None:
                # From Windows 8 on, Wow64Process follows Peb at this distance.
                return replace(layout, peb=peb, wow64_process=peb + 0x30 if self._width == 8 else None)
        return None

    def _search_name(self, links: int) -> int | None:
        """Return the offset of the name ``System`` from the links."""
        for start in range(0, _SEARCHED_BYTES, 8):
            try:
                piece = self._space.read(links + start, 8 + len(_FIRST_NAME))
            except InputError:
                return None
            at = piece.find(_FIRST_NAME)
            if 0 <= at < 8:
                return start + at
        return None

    def _search_links(self, links: int, dtb_offset: int) -> Iterator[int]:
        """Yield offsets of the links whose process would have page tables of the kernel; likely ones first."""
        unlikely = []
        for offset in range(dtb_offset + self._width, _SEARCHED_BYTES, self._width):
            try:
                root = read_pointer(self._space, links - offset + dtb_offset, self._width)
                kind = self._space.read(links - offset, 1)[0] & 0x7F
            except InputError:
                break
            if self._maps_kernel(root):
                if kind == _PROCESS_OBJECT:
                    yield offset
                else:
                    unlikely.append(offset)
        yield from unlikely

    def _search_peb(self, system: int, layout: KernelLayout) -> int | None:
        for links in self._probed:
            base = links - layout.links
            try:
                root = read_pointer(self._space, base + layout.directory_table_base, self._width)
            except InputError:
                continue
            if links == system or not self._maps_kernel(root):
                continue
            user = self._space.with_root(root)
            for offset in range(layout.links, layout.links + _SEARCHED_BYTES, self._width):
                try:
                    peb = read_pointer(self._space, base + offset, self._width)
                except InputError:
                    break
                likely = peb and peb % 0x1000 == 0 and peb < self._space.mode.kernel_start
                if likely and _leads_to_loader_list(user, peb, self._width):
                    return offset
        return None


def _leads_to_loader_list(space: AddressSpace, peb: int, width: int) -> bool | None:
    """Return whether *peb* is an environment block with a sound loader list; None if its pages are not there.

    Source: PEB.Ldr at 0x18 (0xC), PEB_LDR_DATA.InLoadOrderModuleList at 0x10 (0xC), in public symbols.
    """
    try:
        loader = read_pointer(space, peb + 3 * width, width)
        if not loader:
            return None
        head = loader + (0x10 if width == 8 else 0x0C)
        first = read_pointer(space, head, width)
        return read_pointer(space, first + width, width) == head
    except InputError:
        return None
