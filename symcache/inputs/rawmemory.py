"""Memory of a machine without a crash dump's header: raw images, LiME, AVML, ELF cores, VMware's snapshots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, UnknownFormat
from symcache.formats.dump.header import PRODUCTS, Machine
from symcache.formats.dump.kernel import make_kernel_space
from symcache.formats.dump.paging import ARM64, X64, X64_LA57
from symcache.formats.filetime import TICKS_PER_S, iso_time
from symcache.formats.memory.elfcore import read_elf_core
from symcache.formats.memory.kinds import AVML_MAGIC, ELF_MAGIC, LIME_MAGIC, VMWARE_MAGICS
from symcache.formats.memory.lime import AvmlMemory, read_lime_ranges
from symcache.formats.memory.ranges import MemoryRange, RangedMemory
from symcache.formats.memory.search import RootSearch, find_traces
from symcache.formats.memory.variables import KERNEL_VARIABLES, KernelVariables, debugger_data_of, find_kernel_variables
from symcache.formats.memory.vmware import read_vmware_ranges
from symcache.formats.pdb.publics import read_public_addresses
from symcache.formats.pe.debug import Rsds, parse_code_view
from symcache.formats.pe.image import machine_name
from symcache.formats.view import FileView
from symcache.identity import PdbKey, base_name
from symcache.inputs.image import image_module
from symcache.inputs.kernelmodules import list_kernel_modules, module_memory, read_build_lab
from symcache.inputs.kernelsearch import (
    KERNEL_NAME,
    MOST_PAGES_SEARCHED,
    find_images,
    find_kernel,
    read_kernel_image,
    read_kernel_module,
)
from symcache.inputs.records import (
    Input,
    InputKind,
    KernelPdbWanted,
    Module,
    PdbFormat,
    PdbReference,
    Remark,
    Unreadable,
)
from symcache.inputs.usermodules import DumpProcesses, read_kernel_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.dump.kernel import DebuggerData, KernelSpace
    from symcache.formats.memory.elfcore import Registers
    from symcache.formats.memory.ranges import MachineMemory
    from symcache.formats.memory.search import Root, Traces
    from symcache.formats.view import ByteView
    from symcache.inputs.records import ProcessSelection, Record

_PAGE = 0x1000
_LOW_BYTES = 3 << 30  # above it VMware, as other machines, leaves a hole for devices
_LARGEST_KERNEL_BYTES = 32 << 20
_FIRST_OF_10 = 10240
_MOST_ROOTS = 4
_MOST_IMAGES = 4096
_MACHINES = {X64: Machine.X64, X64_LA57: Machine.X64, ARM64: Machine.ARM64}


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """A machine's memory in a file, and what the form of the file says of it."""

    form: str
    type: str  # for people
    memory: MachineMemory
    missing_bytes: int = 0  # promised and not there
    registers: tuple[Registers, ...] = ()
    problems: tuple[tuple[str, int | None], ...] = ()  # what is wrong with the file, and where


def open_memory_image(view: ByteView) -> MemoryImage:
    """Return the memory that *view* holds; a file of VMware's is opened with the one beside it.

    Raises:
        UnknownFormat: A library is missing, or VMware's file that belongs to it.
        InputError: It is damaged beyond use.
    """
    view = getattr(view, "file", view)  # of a walk through a folder
    head = view.read(0, min(view.size, 64))
    if head.startswith(LIME_MAGIC):
        lime = read_lime_ranges(view)
        problems = () if lime.problem is None else ((lime.problem, lime.problem_offset),)
        return _image("lime", "memory image (LiME)", RangedMemory(view, lime.ranges), problems=problems)
    if head.startswith(AVML_MAGIC):
        avml = AvmlMemory(view)
        problems = () if avml.problem is None else ((avml.problem, avml.problem_offset),)
        return MemoryImage("avml", "memory image (AVML)", avml, problems=problems)
    if head.startswith(ELF_MAGIC):
        core = read_elf_core(view)
        by = "a hypervisor" if core.writer == "unknown" else core.writer
        problems = () if core.problem is None else ((core.problem, None),)
        memory = RangedMemory(view, core.ranges)
        image = _image("elf", f"memory image (ELF core by {by})", memory, problems=problems)
        return replace(image, registers=core.registers)
    if head.startswith(VMWARE_MAGICS):
        return _open_vmware(view)
    state = _beside(view, (".vmss", ".vmsn")) if _suffix(view) == ".vmem" else None
    if state is not None:
        with FileView(state) as metadata:
            return _vmware_image(view, metadata)
    problems = ()
    if _suffix(view) == ".vmem" and view.size > _LOW_BYTES:
        text = (
            "neither its .vmss nor its .vmsn lies beside it, which say where its memory above 3 GiB lies: what is"
            " there may not be found"
        )
        problems = ((text, None),)
    return _image("raw", "raw memory image", RangedMemory(view, [MemoryRange(0, view.size, 0)]), problems=problems)


def is_vmware_state(view: ByteView) -> bool:
    """Tell whether *view* is a saved state of VMware, which says how the memory beside it is laid out."""
    return view.read(0, min(view.size, 4)) in VMWARE_MAGICS


def has_state_beside(view: ByteView) -> bool:
    """Tell whether beside the file of *view* lies one of the same stem that says how VMware's memory is laid out."""
    state = _beside(view, (".vmss", ".vmsn"))
    if state is None:
        return False
    with FileView(state) as metadata:
        return is_vmware_state(metadata)


def _image(
    form: str, type_: str, memory: RangedMemory, *, problems: tuple[tuple[str, int | None], ...] = ()
) -> MemoryImage:
    return MemoryImage(form, type_, memory, memory.missing_bytes, problems=problems)


def _open_vmware(state: ByteView) -> MemoryImage:
    memory_path = _beside(state, (".vmem",))
    if memory_path is None or not isinstance(state, FileView):
        raise UnknownFormat(
            "a saved state of a VMware machine, whose memory is not beside it: put the .vmem of the same name there"
            " (out of an archive, unpack both), or convert the state with vmss2core -W",
            offset=0,
        )
    return _vmware_image(state.open_other(memory_path), state)


def _vmware_image(memory: ByteView, state: ByteView) -> MemoryImage:
    problems: tuple[tuple[str, int | None], ...] = ()
    ranges: tuple[MemoryRange, ...] = ()
    try:
        ranges = read_vmware_ranges(state)
    except InputError as error:
        problems = ((f"its saved state cannot be read, so that its memory is taken as flat: {error}", None),)
    ranges = ranges or (MemoryRange(0, memory.size, 0),)
    return _image("vmware", "memory image (VMware)", RangedMemory(memory, ranges), problems=problems)


def _is_state_alone(view: ByteView) -> bool:
    """Tell whether a walk through a folder met a saved state of VMware without memory, as many snapshots are."""
    file = getattr(view, "file", None)
    return file is not None and is_vmware_state(file) and _beside(file, (".vmem",)) is None


def _suffix(view: ByteView) -> str:
    return Path(view.file_path).suffix.lower() if isinstance(view, FileView) else ""


def _beside(view: ByteView, suffixes: tuple[str, ...]) -> Path | None:
    """Return the file of the same stem beside that of *view* that has one of *suffixes*; only files have neighbours."""
    if not isinstance(view, FileView):
        return None
    for suffix in suffixes:
        for each in (suffix, suffix.upper()):
            neighbour = Path(view.file_path).with_suffix(each)
            if neighbour.is_file():
                return neighbour
    return None


def read_raw_memory(view: ByteView, path: str, *, user: ProcessSelection | None = None) -> Iterator[Record]:
    """Yield the image, the kernel's modules in list order, those unloaded, and those of the processes asked for.

    The page tables are found by searching, then the kernel, then, with its PDB, its lists: a `KernelPdbWanted` asks for
    that. Without it the lists are looked for in the kernel's own image; without lists what begins like an image in the
    kernel's half and names a PDB is taken for a module. A snapshot of a running machine is never quite consistent: what
    is broken is reported, and the rest is read. In a folder, a saved state without memory is passed over.

    Raises:
        UnknownFormat: No Windows is found in it.
        InputError: No memory of it can be read.
    """
    if _is_state_alone(view):
        return
    image = open_memory_image(view)
    search = RootSearch(image.memory, image.registers)
    windows: _Windows | None = None
    for found in _find_windows(image.memory, search):
        if isinstance(found, _Windows):
            windows = found
        else:
            yield Remark(f"{path}: no page tables of Windows in {found >> 20:,} MiB so far; the search goes on")
    details = _image_details(image, view.size)
    if windows is None:
        traces = find_traces(image.memory)
        nt = _find_stray_kernel(image.memory, traces)
        if nt is None:
            raise _no_windows(image, search, traces)
        yield Input(path, InputKind.RAW_MEMORY, details)
        yield nt
        yield Unreadable(path, "no page tables of Windows were found: only the kernel was, by its code view record")
    else:
        held = windows.find_variables()
        details |= _windows_details(windows, held)
        yield Input(path, InputKind.RAW_MEMORY, details)
        yield from _read_windows(image, windows, held, path, user)
    for problem, offset in image.problems:
        yield Unreadable(path, problem, offset)
    if image.missing_bytes:
        text = f"the image is cut short: {image.missing_bytes} of {image.memory.byte_count} bytes of memory are missing"
        yield Unreadable(path, text, view.size)


def open_module_memory(view: ByteView) -> Callable[[Module], Iterator[ByteView]]:
    """Return what yields the memory that a module of the image may lie in, by address, likeliest first.

    Raises:
        InputError: No Windows is found in it.
    """
    image = open_memory_image(view)
    search = RootSearch(image.memory, image.registers)
    windows = next((each for each in _find_windows(image.memory, search) if isinstance(each, _Windows)), None)
    if windows is None:
        raise _no_windows(image, search, None)
    return module_memory(windows.kernel_space(windows.find_variables(), None), image.memory.byte_count // _PAGE)


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows as it was found in memory."""

    root: Root
    nt: Module | None  # None if the kernel's image is not found
    nt_size: int = 0

    @property
    def build(self) -> int:
        """Build as far as it matters for the layout of its lists; 0 before Windows 10."""
        shared = self.root.shared
        return shared.build or (_FIRST_OF_10 if shared.major == 10 else 0)

    def find_variables(self) -> KernelVariables:
        """Return what the kernel's image says of its lists."""
        if self.nt is None or self.nt.base is None:
            return KernelVariables(None, 0, 0)
        return find_kernel_variables(self.root.space, self.nt.base, self.nt_size)

    def kernel_space(self, held: KernelVariables, named: DebuggerData | None) -> KernelSpace:
        """Return the kernel's lists where the PDB has them, *named*, else where its debugger data or its image does."""
        blocks = [block for block in (named, held.debugger_data) if block is not None]
        modules = [block.loaded_modules_va for block in blocks] + [held.loaded_modules_va]
        processes = [block.active_processes_va for block in blocks] + [held.active_processes_va]
        process_head = next((head for head in processes if head), 0)
        return make_kernel_space(self.root.space, modules, process_head, held.debugger_data or named)


def _find_windows(memory: MachineMemory, search: RootSearch) -> Iterator[_Windows | int]:
    """Yield Windows, by the first root under which its kernel is found, else by the first root; nothing without one.

    Before it comes now and then how many bytes were searched.
    """
    without_kernel: _Windows | None = None
    most_pages = MOST_PAGES_SEARCHED
    roots = 0
    for root in search.roots():
        if root is None:
            yield search.searched_bytes
            continue
        roots += 1
        nt = find_kernel(root.space, memory, root.pointers, most_pages=most_pages)
        if nt is None or nt.base is None:
            without_kernel = without_kernel or _Windows(root, None)
            most_pages //= 4  # other roots map much the same
        else:
            image = read_kernel_image(root.space, nt.base)
            if image is not None and image.machine == _MACHINES.get(root.space.mode, Machine.X86):
                yield _Windows(root, nt, image.size_of_image)
                return
        if roots == _MOST_ROOTS:
            break
    if without_kernel is not None:
        yield without_kernel


def _read_windows(
    image: MemoryImage, windows: _Windows, held: KernelVariables, path: str, user: ProcessSelection | None
) -> Iterator[Record]:
    page_count = image.memory.byte_count // _PAGE
    layout = named = None
    if windows.nt is not None and windows.nt.base is not None:
        yield (request := KernelPdbWanted(windows.nt))
        if request.pdb is not None:
            layout = read_kernel_layout(request.pdb)
            named = _read_variables(request.pdb, windows.nt.base)
    kernel = windows.kernel_space(held, named)
    processes = DumpProcesses(kernel, layout, page_count)
    listed: set[int | None] = set()
    is_damaged = False
    if kernel.list_found:
        sessions = cache(lambda: tuple(processes.session_spaces()))
        for record in list_kernel_modules(kernel, windows.build, path, sessions, []):
            if isinstance(record, Module) and not record.unloaded:
                listed.add(record.base)
            is_damaged |= isinstance(record, Unreadable)
            yield record
    if is_damaged or not listed:
        yield from _scan_for_modules(image.memory, windows, listed, path, has_pdb=named is not None)
    if user is not None:
        for record in processes.modules(user, path):
            if not (isinstance(record, Unreadable) and user.if_complete):
                yield record


def _read_variables(pdb: Path, base: int) -> DebuggerData | None:
    """Return where the kernel's PDB has its lists; None if it does not say, or cannot be read."""
    try:
        with FileView(pdb) as view:
            addresses = read_public_addresses(view, KERNEL_VARIABLES)
    except (InputError, OSError):
        return None
    return debugger_data_of(base, addresses) if "PsLoadedModuleList" in addresses else None


def _scan_for_modules(
    memory: MachineMemory, windows: _Windows, listed: set[int | None], path: str, *, has_pdb: bool
) -> Iterator[Record]:
    """Yield the images in the kernel's half that name a PDB and are not *listed*, the kernel first, then why."""
    nt = windows.nt
    if nt is not None and nt.base not in listed:
        yield nt
    known = listed | {None if nt is None else nt.base}
    count = 0
    for base, found in islice(find_images(windows.root.space, memory), _MOST_IMAGES):
        module = image_module(found, KERNEL_NAME, None, base)
        native = [pdb.key for pdb in module.pdbs if isinstance(pdb.key, PdbKey)]
        if native and base not in known:
            count += 1
            name = native[-1].name.rpartition(".")[0] or native[-1].name
            yield replace(module, name=name, image=None, problem="no list of modules says what its file is called")
    if not listed:
        why = "no list of modules was found"
        if nt is None:
            why += ", nor the kernel's image"
        elif has_pdb:
            why += " where nt's PDB says that it is"
        else:
            why += ", and nt's PDB is not there"
        yield Unreadable(path, f"{why}: images were searched for; names come from their PDBs")
    elif count:
        yield Unreadable(path, f"{count} images that are not in the list were found; their names come from their PDBs")


def _find_stray_kernel(memory: MachineMemory, traces: Traces) -> Module | None:
    """Return the kernel by a code view record that names its PDB, with its image if that lies in one piece with it."""
    for at in traces.kernel_records:
        for page in range(at & -_PAGE, max(at - _LARGEST_KERNEL_BYTES, 0), -_PAGE):
            try:
                begins = memory.read(page, 2) == b"MZ"
            except InputError:
                break
            module = read_kernel_module(memory, page) if begins else None
            if module is not None:
                return replace(module, base=None)
        try:
            record = parse_code_view(memory.read(at, 24 + 13))
        except InputError:
            continue
        if isinstance(record, Rsds) and record.guid.int:
            key = PdbKey(base_name(record.path), record.guid, record.age)
            problem = "its image header was not found"
            return Module(KERNEL_NAME, pdbs=(PdbReference(key, PdbFormat.NATIVE),), problem=problem)
    return None


def _no_windows(image: MemoryImage, search: RootSearch, traces: Traces | None) -> InputError:
    """Return why nothing can be had of the image."""
    if traces is not None and traces.foreign is not None:
        advice = "use volatility, or the crash utility" if traces.foreign == "Linux" else "use volatility"
        return UnknownFormat(f"a {image.type} of {traces.foreign}, which has no PDBs: {advice}")
    if not search.searched_bytes:
        return UnknownFormat(f"a {image.type} that holds nothing but zeros, or a file that was never written")
    searched = f"{search.searched_bytes / (1 << 20):,.0f} MiB"
    return UnknownFormat(
        f"no Windows was found in {searched} of this {image.type}: neither page tables nor its kernel. A page file, a"
        " disk, memory of another system, or a snapshot that is damaged or encrypted"
    )


def _image_details(image: MemoryImage, size_bytes: int) -> dict[str, Any]:
    return {
        "type": image.type,
        "form": image.form,
        "size_bytes": size_bytes,
        "physical_memory_bytes": image.memory.byte_count,
        "ranges": image.memory.range_count,
        "cut_short": bool(image.missing_bytes),
        "problems": [],
    }


def _windows_details(windows: _Windows, held: KernelVariables) -> dict[str, Any]:
    """Return what is known of the system; the list of modules is found with the PDB, too, once that is there."""
    root, shared = windows.root, windows.root.shared
    found_by = "the kernel's debugger data" if held.debugger_data is not None else "the kernel's image"
    wide = root.space.size > 1 << 32
    return {
        "bits": 64 if wide else 32,
        "machine": machine_name(_MACHINES.get(root.space.mode, Machine.X86)),
        "build": shared.build or None,
        "version": f"{shared.major}.{shared.minor}" + (f".{shared.build}" if shared.build else ""),
        "build_lab": read_build_lab(root.space, held.debugger_data),
        "product": PRODUCTS.get(shared.product_type),
        "system_root": shared.system_root,
        "time": iso_time(shared.system_time),
        "uptime_s": shared.uptime / TICKS_PER_S,
        "paging": root.space.mode.name,
        "directory_table_base": f"{root.space.root:#x}",
        "found_by": root.found_by,
        "kernel_base": None if windows.nt is None or windows.nt.base is None else f"{windows.nt.base:#x}",
        "list_found_in": found_by if held.loaded_modules_va or held.debugger_data is not None else None,
    }
