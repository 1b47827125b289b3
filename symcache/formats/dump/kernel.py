"""The kernel of a dump: its debugger data block and page tables, and its lists of loaded and unloaded modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, UnknownFormat
from symcache.formats.dump.header import Machine
from symcache.formats.dump.paging import ARM64, PAE, X64, X64_LA57, X86, AddressSpace, PageTables
from symcache.formats.view import parse_uint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.paging import PagingMode
    from symcache.formats.view import ByteView


KERNEL_PDBS = frozenset(["ntoskrnl.pdb", "ntkrnlmp.pdb", "ntkrnlpa.pdb", "ntkrpamp.pdb", "ntkrla57.pdb"])
"""What kernels name their PDBs."""

_MOST_ENTRIES = 10_000
_LONGEST_NAME_BYTES = 0x2000
_LARGEST_IMAGE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class LoaderLayout:
    """Offsets of a loader entry's fields, in bytes."""

    pointer_size: int
    base: int
    size_of_image: int
    full_name: int
    base_name: int
    stamp: int  # TimeDateStamp; kernel entries have one since Windows 10 only


# Source: public symbols of Windows 10 (15063 x86, 19041 x64) and XP to 10 for the user's; volatility's types.
KLDR32 = LoaderLayout(pointer_size=4, base=0x18, size_of_image=0x20, full_name=0x24, base_name=0x2C, stamp=0x58)
KLDR64 = LoaderLayout(pointer_size=8, base=0x30, size_of_image=0x40, full_name=0x48, base_name=0x58, stamp=0x9C)
LDR32 = LoaderLayout(pointer_size=4, base=0x18, size_of_image=0x20, full_name=0x24, base_name=0x2C, stamp=0x44)
LDR64 = LoaderLayout(pointer_size=8, base=0x30, size_of_image=0x40, full_name=0x48, base_name=0x58, stamp=0x80)


@dataclass(frozen=True, slots=True)
class LoaderEntry:
    """One entry of a loader list."""

    va: int
    base: int
    size_of_image: int  # bytes of address space it takes
    full_name: str | None  # path; None if its page is not there
    base_name: str | None  # file name; None if its page is not there
    name_problem: str | None  # why a name is not known
    problem: str | None  # why this cannot be an image's entry; None for a sound one


@dataclass(frozen=True, slots=True)
class ListWalk:
    """Where the entries of a list lie, as far as they could be reached."""

    entries: tuple[int, ...]  # addresses of the links, in list order without the head
    complete: bool  # every link was followed from head to head
    problem: str | None  # what broke the walk; None if it is *complete*


def read_pointer(space: ByteView, address: int, pointer_size: int) -> int:
    """Return the pointer at *address*; raise `NotInDump` if its bytes are not there."""
    return int.from_bytes(space.read(address, pointer_size), "little")


def walk_list(
    space: ByteView,
    head: int,
    pointer_size: int,
    accepts: Callable[[int], bool],
    *,
    recognises: Callable[[int], bool] | None = None,
    most: int = _MOST_ENTRIES,
) -> ListWalk:
    """Follow a doubly linked list both ways and join what each way reaches.

    Forward links are enough for a sound list. Where one cannot be read, leads to an address that cannot be an entry,
    or closes a circle, the list is walked backwards as well; entries that only this walk finds are inserted where it
    found them.

    Args:
        space: The address space the list lies in.
        head: Address of the list's head.
        pointer_size: In bytes.
        accepts: Says whether an address can be that of an entry.
        recognises: Says whether what lies there is an entry, for one that does not point back; None to go by links.
        most: How many entries are read at most.

    Layout: LIST_ENTRY {Flink, Blink}; each points to the next entry's LIST_ENTRY.
    """
    links = _Links(space, pointer_size, accepts, recognises)
    forward, problem = links.follow(head, 0, most)
    if problem is None:
        return ListWalk(tuple(forward), complete=True, problem=None)
    backward, _ = links.follow(head, 1, most)
    return ListWalk(tuple(_join(forward, backward[::-1])[:most]), complete=False, problem=problem)


@dataclass(frozen=True, slots=True)
class _Links:
    space: ByteView
    width: int
    accepts: Callable[[int], bool]
    recognises: Callable[[int], bool] | None

    def read(self, address: int, which: int) -> int:
        return read_pointer(self.space, address + which * self.width, self.width)

    def follow(self, head: int, which: int, most: int) -> tuple[list[int], str | None]:
        """Return the entries from *head* on, forward (0) or backward (1), and what ended the walk too early."""
        found: list[int] = []
        seen = {head}
        at = head
        mismatch: str | None = None
        while True:
            try:
                following = self.read(at, which)
            except InputError as error:
                return found, f"the link at {at:#x} cannot be read: {error.problem}"
            if following == head:
                return found, mismatch
            if following in seen:
                return found, f"the link at {at:#x} leads back to {following:#x}"
            if following % self.width or not self.accepts(following):
                return found, f"the link at {at:#x} leads to {following:#x}, which cannot be an entry"
            if len(found) >= most:
                return found, f"it has more than {most} entries"
            try:
                back = self.read(following, 1 - which)
            except InputError as error:
                return found, f"the entry at {following:#x} cannot be read: {error.problem}"
            if back != at:
                mismatch = mismatch or f"the entry at {following:#x} does not point back to {at:#x}"
                if not self._belongs(following, which):
                    return found, mismatch
            found.append(following)
            seen.add(following)
            at = following

    def _belongs(self, entry: int, which: int) -> bool:
        """Return whether *entry* is one: the entry after it points back to it, or it is recognised."""
        try:
            following = self.read(entry, which)
            if self.accepts(following) and self.read(following, 1 - which) == entry:
                return True
            return self.recognises is not None and self.recognises(entry)
        except InputError:
            return False


def _join(forward: list[int], backward: list[int]) -> list[int]:
    """Insert entries that only *backward* has after the entry that they follow there, or at the end."""
    known = set(forward)
    followers: dict[int | None, list[int]] = {}
    previous: int | None = None
    for entry in backward:
        if entry in known:
            previous = entry
        else:
            followers.setdefault(previous, []).append(entry)
    joined = []
    for entry in forward:
        joined.append(entry)
        joined.extend(followers.pop(entry, ()))
    for rest in followers.values():
        joined.extend(rest)
    return joined


def read_entry(space: ByteView, va: int, layout: LoaderLayout, *, kernel_start: int = 0) -> LoaderEntry:
    """Return the loader entry at *va*; what cannot be an image's entry has a problem.

    Raises:
        NotInDump: Base and size are not there; names that are not are only noted.

    Source: KLDR_DATA_TABLE_ENTRY and LDR_DATA_TABLE_ENTRY in public symbols.
    """
    raw = space.read(va, layout.full_name)
    base = parse_uint(raw, layout.base, layout.pointer_size)
    size = parse_uint(raw, layout.size_of_image, 4)
    names: list[str | None] = []
    name_problem = None
    for offset in (layout.full_name, layout.base_name):
        try:
            names.append(read_unicode_string(space, va + offset, layout.pointer_size) or None)
        except InputError as error:
            names.append(None)
            name_problem = name_problem or error.problem
    full_name, base_name = names
    problem = find_place_problem(base, size, kernel_start)
    return LoaderEntry(va, base, size, full_name, base_name, name_problem, problem)


def find_place_problem(base: int, size: int, kernel_start: int) -> str | None:
    """Return why no image can lie at *base* and take *size* bytes; None if one can."""
    if not base or base % 0x1000 or base < kernel_start:
        return f"no image can be loaded at {base:#x}"
    if not 0 < size < _LARGEST_IMAGE_BYTES:
        return f"no image has {size:#x} bytes"
    return None


def read_unicode_string(space: ByteView, address: int, pointer_size: int) -> str:
    """Return the text of the UNICODE_STRING at *address*; raise `NotInDump` if a part of it is not there.

    Layout: length in bytes u16, room in bytes u16, pointer (aligned).
    """
    header = space.read(address, 2 * pointer_size)
    length = min(parse_uint(header, 0, 2) & ~1, _LONGEST_NAME_BYTES)
    buffer = parse_uint(header, pointer_size, pointer_size)
    if not length:
        return ""
    return space.read(buffer, length).decode("utf-16-le", "replace").partition("\0")[0]


_SLOTS = 50
_NAME_UNITS = 12


@dataclass(frozen=True, slots=True)
class UnloadedDriver:
    """A driver that is no longer there; nothing in it identifies a file."""

    name: str | None  # file name, in triage dumps cut to 12 characters; None if its page is not there
    start: int  # address it was loaded at
    end: int  # address after its last byte


def parse_unloaded_drivers(view: ByteView, offset: int, pointer_size: int) -> Iterator[UnloadedDriver]:
    """Yield the unloaded drivers of a triage dump, in file order; raise `TruncatedInput` if it ends within their list.

    Layout: count u32 in a slot of a pointer's size; entries {UNICODE_STRING, WCHAR[12], start, end}, 0x38 bytes in 64
    bit dumps and 0x28 in others. The name's length counts bytes; its pointer means nothing here.
    Source: rizin and Ghidra; real dumps of builds 19041 and 22000.
    """
    count = parse_uint(view.read(offset, 4), 0, 4)
    string_size = 2 * pointer_size
    size = string_size + 2 * _NAME_UNITS + 2 * pointer_size
    for index in range(min(count, _SLOTS)):
        raw = view.read(offset + pointer_size + index * size, size)
        length = min(parse_uint(raw, 0, 2), 2 * _NAME_UNITS)
        text = raw[string_size : string_size + length].decode("utf-16-le", "replace").partition("\0")[0]
        start, end = (parse_uint(raw, size - left * pointer_size, pointer_size) for left in (2, 1))
        if text or start:
            yield UnloadedDriver(text or None, start, end)


def read_unloaded_drivers(space: ByteView, block: DebuggerData, pointer_size: int) -> Iterator[UnloadedDriver]:
    """Yield the unloaded drivers that the kernel's memory holds, oldest first; none if their array is not there.

    Layout: array of 50 slots {UNICODE_STRING, start, end, time u64}, 0x28 bytes with 64 bit and 0x18 with 32; a ring
    whose next slot MmLastUnloadedDriver counts.
    Source: volatility3's unloadedmodules.
    """
    if not block.unloaded_drivers_va:
        return
    size = 4 * pointer_size + 8
    try:
        array = _find_array(space, block.unloaded_drivers_va, pointer_size)
    except InputError:
        return
    if array is None:
        return
    try:
        first = read_pointer(space, block.last_unloaded_driver_va, 4) % _SLOTS
    except InputError:
        first = 0
    for slot in range(_SLOTS):
        at = array + (first + slot) % _SLOTS * size
        try:
            raw = space.read(at, size)
        except InputError:
            continue
        start, end = (parse_uint(raw, number * pointer_size, pointer_size) for number in (2, 3))
        if start:
            yield UnloadedDriver(_name(space, at, pointer_size), start, end)


def _find_array(space: ByteView, address: int, pointer_size: int) -> int | None:
    """Return where the array begins: where the variable at *address* points, or *address* itself.

    Windows gives the variable's address; tools that make dumps of other memory give the array's.
    """
    kernel_half = 1 << (8 * pointer_size - 1)
    array = read_pointer(space, address, pointer_size)
    if array >= kernel_half:
        return array
    first = space.read(address, 2 * pointer_size)
    length, room = parse_uint(first, 0, 2), parse_uint(first, 2, 2)
    buffer = parse_uint(first, pointer_size, pointer_size)
    return address if 0 < length <= room and buffer >= kernel_half else None


def _name(space: ByteView, address: int, pointer_size: int) -> str | None:
    try:
        return read_unicode_string(space, address, pointer_size) or None
    except InputError:
        return None


DEBUGGER_DATA_SIZE = 0x2B0
_TAG = b"KDBG"


@dataclass(frozen=True, slots=True)
class DebuggerData:
    """Addresses of the kernel's variables and offsets within its structures; 0 where the block is too short."""

    kernel_base_va: int  # where the kernel's image is loaded
    loaded_modules_va: int  # head of PsLoadedModuleList
    active_processes_va: int  # head of PsActiveProcessHead
    unloaded_drivers_va: int  # address of the variable MmUnloadedDrivers
    last_unloaded_driver_va: int  # address of the variable MmLastUnloadedDriver
    build_lab_va: int  # address of the text NtBuildLab
    peb_offset: int  # of Peb in EPROCESS, in bytes
    directory_table_base_offset: int  # of DirectoryTableBase in EPROCESS, in bytes


def parse_debugger_data(data: bytes, *, pointer_size: int) -> DebuggerData | None:
    """Return the block from its first `DEBUGGER_DATA_SIZE` bytes, or fewer if there are not as many.

    None if it does not have its tag, as where Windows keeps it encoded. Its pointers have 8 bytes, sign-extended where
    those of the machine have 4.

    Layout: LIST_ENTRY64, ``KDBG`` at 0x10, size u32 at 0x14, then u64 pointers and u16 offsets.
    Source: rekall and kdmp-parser-rs; the tag and the offsets below were seen in dumps of builds 19041 and 22000.
    """
    if data[0x10:0x14] != _TAG:
        return None
    size = parse_uint(data, 0x14, 4)
    data = data[: max(size, 0x18)]

    def pointer(offset: int) -> int:
        return parse_uint(data, offset, pointer_size) if offset + 8 <= len(data) else 0

    def half(offset: int) -> int:
        return parse_uint(data, offset, 2) if offset + 2 <= len(data) else 0

    return DebuggerData(
        kernel_base_va=pointer(0x18),
        loaded_modules_va=pointer(0x48),
        active_processes_va=pointer(0x50),
        unloaded_drivers_va=pointer(0x220),
        last_unloaded_driver_va=pointer(0x228),
        build_lab_va=pointer(0x208),
        peb_offset=half(0x2AA),
        directory_table_base_offset=half(0x2AE),
    )


def read_debugger_data(space: ByteView, address: int, *, pointer_size: int) -> DebuggerData | None:
    """Return the block at *address*; None if it is not there or has no tag."""
    if not address:
        return None
    for length in (DEBUGGER_DATA_SIZE, 0x238, 0x58):
        try:
            return parse_debugger_data(space.read(address, length), pointer_size=pointer_size)
        except InputError:
            continue
    return None


_UNREADABLE, _IMPLAUSIBLE, _POSSIBLE, _SOUND = range(4)


@dataclass(frozen=True, slots=True)
class KernelSpace:
    """The kernel's part of a dump's virtual memory."""

    space: AddressSpace  # its address space, in the mode that fits best
    spaces: tuple[AddressSpace, ...]  # the same in every mode that was tried; more than one only if none is sure
    pointer_size: int
    loaded_modules_va: int  # head of the list of loaded modules
    active_processes_va: int  # head of the list of processes; 0 if it is not known
    debugger_data: DebuggerData | None  # the kernel's debugger data; None if it is not there or encoded
    list_found: bool  # the head of the list can be read and looks like one
    list_problem: str | None  # why the list cannot be read; None if *list_found*

    @property
    def layout(self) -> LoaderLayout:
        """Layout of the kernel's loader entries."""
        return KLDR64 if self.pointer_size == 8 else KLDR32


def open_kernel_space(memory: ByteView, header: DumpHeader) -> KernelSpace:
    """Return the kernel's address space in physical *memory*; raise `UnknownFormat` for a machine of another kind.

    No header says everything: PAE may be marked wrongly and 5-level tables are not marked at all. Each mode the
    machine can have is tried, and the one that leads to a sound list of modules is taken.
    """
    pointer_size = 8 if header.is_64bit else 4
    tables = PageTables(memory)
    best = None
    spaces = []
    for mode in _possible_modes(header):
        space = AddressSpace(tables, mode, header.directory_table_base)
        spaces.append(space)
        block = read_debugger_data(space, header.debugger_data_va, pointer_size=pointer_size)
        heads = [header.loaded_modules_va]
        if block is not None and block.loaded_modules_va not in {0, *heads}:
            heads.append(block.loaded_modules_va)
        for head in heads:
            points = _judge_head(space, head, pointer_size)
            if best is None or points > best[0]:
                best = points, space, head, block
        if best is not None and best[0] == _SOUND:
            break
    assert best is not None
    points, space, head, block = best
    return KernelSpace(
        space=space,
        spaces=(space,) if points == _SOUND else tuple(spaces),
        pointer_size=pointer_size,
        loaded_modules_va=head,
        active_processes_va=header.active_processes_va or (block.active_processes_va if block is not None else 0),
        debugger_data=block,
        list_found=points >= _POSSIBLE,
        list_problem=None if points >= _POSSIBLE else _head_problem(space, head, pointer_size),
    )


def make_kernel_space(
    space: AddressSpace, module_heads: Iterable[int], process_head: int, block: DebuggerData | None
) -> KernelSpace:
    """Return the kernel's part of *space*, with the best of *module_heads*, where the list of modules may begin."""
    pointer_size = 8 if space.size > 1 << 32 else 4
    points, head = _UNREADABLE, 0
    for each in module_heads:
        judged = _judge_head(space, each, pointer_size)
        if judged > points or not head:
            points, head = judged, each
    return KernelSpace(
        space=space,
        spaces=(space,),
        pointer_size=pointer_size,
        loaded_modules_va=head,
        active_processes_va=process_head,
        debugger_data=block,
        list_found=points >= _POSSIBLE,
        list_problem=None if points >= _POSSIBLE else _head_problem(space, head, pointer_size),
    )


def _possible_modes(header: DumpHeader) -> tuple[PagingMode, ...]:
    machine = header.machine
    if machine in {Machine.ARM, Machine.IA64}:
        name = Machine(machine).name
        raise UnknownFormat(
            f"the dump is of an {name} machine, whose page tables are not read here",
            offset=0x30 if header.is_64bit else 0x20,
        )
    if not header.is_64bit:
        return (PAE, X86) if header.pae_enabled else (X86, PAE)
    if machine == Machine.ARM64:
        return (ARM64,)
    if machine == Machine.X64:
        return (X64, X64_LA57)
    return (X64, X64_LA57, ARM64)


def _judge_head(space: AddressSpace, head: int, pointer_size: int) -> int:
    """Return how much the memory at *head* looks like the head of a list."""
    if head < space.mode.kernel_start or head % pointer_size:
        return _UNREADABLE
    try:
        links = [read_pointer(space, head + offset, pointer_size) for offset in (0, pointer_size)]
    except InputError:
        return _UNREADABLE
    if links[0] < space.mode.kernel_start or links[0] % pointer_size or links[0] == head:
        return _IMPLAUSIBLE
    for link, back in zip(links, (pointer_size, 0), strict=True):
        try:
            if read_pointer(space, link + back, pointer_size) == head:
                return _SOUND
        except InputError:
            continue
    return _POSSIBLE


def _head_problem(space: AddressSpace, head: int, pointer_size: int) -> str:
    if not head:
        return "the header does not say where the list of modules is"
    try:
        space.read(head, 2 * pointer_size)
    except InputError as error:
        return f"the head of the list of modules at {head:#x} cannot be read: {error.problem}"
    return f"there is no list of modules at {head:#x}"
