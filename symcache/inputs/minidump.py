"""User-mode minidumps: every module of the process, loaded and unloaded."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput
from symcache.formats.dump.context import (
    CONTEXT_ARM,
    CONTEXT_ARM64,
    CONTEXT_ARM64_OLD,
    CONTEXT_X64,
    CONTEXT_X86,
    parse_context,
    read_stack_words,
    read_wow64_context,
)
from symcache.formats.dump.minidump import (
    CapturedMemory,
    find_module_tables,
    find_thread,
    parse_exception,
    parse_minidump,
    parse_module_entry,
    parse_process,
    parse_requesting_thread,
    parse_system_info,
    read_memory_ranges,
)
from symcache.formats.pe.debug import CodeViewEntry, parse_code_view
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import ImageKey, base_name
from symcache.inputs.crashstack import find_crash_stack
from symcache.inputs.dotnet import find_dotnet
from symcache.inputs.image import image_module, pdb_reference
from symcache.inputs.records import ImageUse, Input, InputKind, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.formats.dump.context import Context, ContextLayout
    from symcache.formats.dump.minidump import ExceptionInfo, Minidump, ModuleEntry, ModuleTable, SystemInfo, Thread
    from symcache.formats.view import ByteView
    from symcache.inputs.records import CrashStack, PdbReference, Record

_CONTEXTS = {0: CONTEXT_X86, 5: CONTEXT_ARM, 9: CONTEXT_X64, 12: CONTEXT_ARM64, 0x8003: CONTEXT_ARM64_OLD}
_PROCESSORS = {0: "x86", 5: "arm", 6: "ia64", 9: "x64", 12: "arm64", 0x8003: "arm64"}
_SYSTEMS = {
    0x8101: ("macos", "a macOS dump"),
    0x8102: ("ios", "an iOS dump"),
    0x8201: ("linux", "a Linux dump"),
    0x8202: ("solaris", "a Solaris dump"),
    0x8203: ("android", "an Android dump"),
}
_WINDOWS_PLATFORMS = range(4)
_ADDRESS_END = 1 << 64

# Processes have hundreds of modules. The limits hold for files made to be slow to read.
_MOST_MODULES = 1 << 14
_MOST_IMAGES_IN_MEMORY = 4096
_MOST_NAME_BYTES = 16 << 20


def read_minidump(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the dump, its modules in file order, the modules that had been unloaded, then a `CrashStack`.

    A module's PDB is named by its code view record, else by its image where that was captured. Its image key comes
    from the stamp and size of its entry.

    Raises:
        InputError: No module can be listed.
    """
    dump = parse_minidump(view)
    tables, errors = find_module_tables(view, dump)
    if not tables:
        raise errors[0] if errors else MalformedInput("the minidump holds no list of modules")
    system = parse_system_info(view, dump)
    memory = read_memory_ranges(view, dump)
    yield Input(path, InputKind.MINIDUMP, _details(view, dump, system, tables, memory))
    for error in errors:
        yield Unreadable(path, error.problem, error.offset)
    told = bool(errors)
    foreign = None
    if system is not None and system.platform not in _WINDOWS_PLATFORMS:
        _, foreign = _SYSTEMS.get(system.platform, ("", f"a dump of an unknown system ({system.platform:#x})"))
    modules = _Modules(view, memory, foreign, full_memory=dump.full_memory)
    left = _MOST_MODULES
    found: list[Module | Unreadable] = []
    for table in tables:
        found += [modules.module(table, offset) for offset in table.offsets()[:left]]
        if table.count > left:
            found.append(Unreadable(path, f"the dump lists more than {_MOST_MODULES} modules", table.first))
            told = True
            break
        left -= table.count
        if table.count < table.stated:
            what = "unloaded modules" if table.unloaded else "modules"
            problem = f"the dump holds {table.count} of the {table.stated} {what} that it lists"
            found.append(Unreadable(path, problem, table.first + table.count * table.entry_bytes))
            told = True
    # A runtime comes after some of the modules that it runs.
    changed = {} if foreign else find_dotnet(modules.loaded, memory, None if system is None else system.processor)
    for record in found:
        yield changed.get(record, record) if isinstance(record, Module) else record
    modules.loaded = [(changed.get(module, module), size) for module, size in modules.loaded]
    if (stack := _crash_stack(view, dump, system, memory, modules.loaded)) is not None:
        yield stack
    if not told and (dump.truncated or memory.truncated):
        yield Unreadable(path, "the dump is cut short: it does not hold all that its streams promise", view.size)


class _Modules:
    """Turns entries of one dump into modules."""

    def __init__(self, view: ByteView, memory: CapturedMemory, foreign: str | None, *, full_memory: bool) -> None:
        self._view = view
        self._memory = memory
        self._foreign = foreign
        self._full_memory = full_memory
        self._images_left = _MOST_IMAGES_IN_MEMORY
        self._name_bytes_left = _MOST_NAME_BYTES
        self.loaded: list[tuple[Module, int]] = []  # so far, with their sizes in bytes

    def module(self, table: ModuleTable, offset: int) -> Module:
        module, size_of_image = self._read(table, offset)
        if not table.unloaded:
            self.loaded.append((module, size_of_image))
        return module

    def _read(self, table: ModuleTable, offset: int) -> tuple[Module, int]:
        entry = parse_module_entry(self._view, table, offset, longest_name_bytes=self._name_bytes_left)
        self._name_bytes_left -= 2 * len(entry.path or "")
        # Debuggers call a module without a name after its address, too.
        name = base_name(entry.path or "") or f"image{entry.base_va:08x}"
        known = Module(name, path=entry.path, base=entry.base_va, unloaded=table.unloaded, version=entry.version)
        if self._foreign is not None:
            module = replace(known, problem=f"no PDBs here: {self._foreign}", is_foreign=True)
            return module, entry.size_of_image
        image, problem = _image_key(name, entry)
        reference, record_problem = _named_pdb(entry)
        captured: Module | None = None
        if not table.unloaded and (reference is None or self._full_memory):
            captured = self._captured_image(name, entry)
        if reference is not None:
            known = replace(known, pdbs=(reference,))
        else:
            if captured is not None and image is None and captured.image is not None:
                image, problem = captured.image, None
            problem = problem or record_problem
            if captured is not None and (captured.pdbs or captured.no_debug_record):
                known = replace(known, pdbs=captured.pdbs, no_debug_record=captured.no_debug_record)
            elif image is not None:
                problem = problem or "the dump holds no code view record of it; its image names the PDB"
        use: ImageUse | None = None
        # A debugger reads images in memory only of a dump that claims to hold all of it, and there only where it finds
        # header and debug directory.
        is_read = self._full_memory and captured is not None and (captured.pdbs or captured.no_debug_record)
        if image is not None and not table.unloaded and not is_read:
            use = ImageUse.CODE if known.pdbs or known.no_debug_record else ImageUse.SYMBOLS
        return replace(known, image=image, problem=problem, needs_image=use), entry.size_of_image

    def _captured_image(self, name: str, entry: ModuleEntry) -> Module | None:
        """Return what the image itself says, if the dump holds its headers and they are those of the entry."""
        if not self._images_left or entry.base_va + entry.size_of_image > self._memory.size:
            return None
        self._images_left -= 1
        try:
            image = parse_image(PartView(self._memory, entry.base_va, entry.size_of_image), Layout.MEMORY)
        except InputError:
            return None
        # An entry without a stamp does not say which image it is, but how large.
        is_same = image.timestamp == entry.timestamp if entry.timestamp else image.size_of_image == entry.size_of_image
        return image_module(image, name) if is_same else None


def _crash_stack(
    view: ByteView,
    dump: Minidump,
    system: SystemInfo | None,
    memory: CapturedMemory,
    loaded: list[tuple[Module, int]],
) -> CrashStack | None:
    """Return what the crash is about; None if the dump holds neither registers nor where an exception was raised.

    A 64-bit thread that runs 32-bit code has a stack for each; what crashed is on that of the program, the 32-bit one.
    """
    exception = parse_exception(view, dump)
    thread, whose = _crashed_thread(view, dump, exception)
    layout = None if system is None else _CONTEXTS.get(system.processor)
    instructions = [] if exception is None else [exception.address]
    words: list[int] = []
    if layout is not None:
        places = [place.context for place in (exception, thread) if place is not None]
        context = next(filter(None, (_context(view, place, layout) for place in places)), None)
        wow64 = read_wow64_context(memory, thread.teb) if layout is CONTEXT_X64 and thread is not None else None
        for registers, kind in ((wow64, CONTEXT_X86), (context, layout)):
            if registers is not None:
                instructions += [registers.instruction, registers.link]
                words += _stack_words(view, memory, thread, registers, kind)
    return find_crash_stack(instructions, words, loaded, whose)


def _crashed_thread(
    view: ByteView, dump: Minidump, exception: ExceptionInfo | None
) -> tuple[Thread | None, str | None]:
    """Return the thread that raised the exception, else the one that asked for the dump, else the first; and which."""
    if exception is not None:
        return find_thread(view, dump, exception.thread), f"{exception.thread}, which raised the exception"
    asking = parse_requesting_thread(view, dump)
    if asking is not None and (thread := find_thread(view, dump, asking)) is not None:
        return thread, f"{thread.id}, which asked for the dump"
    first = find_thread(view, dump, None)
    return first, None if first is None else f"{first.id}, the first"


def _context(view: ByteView, place: tuple[int, int], layout: ContextLayout) -> Context | None:
    size, offset = place
    if size < layout.size_bytes or offset + size > view.size:
        return None
    return parse_context(view.read(offset, layout.size_bytes), layout)


def _stack_words(
    view: ByteView, memory: CapturedMemory, thread: Thread | None, registers: Context, layout: ContextLayout
) -> Sequence[int]:
    """Return the words of a stack, up to its end where the list of threads says that.

    A stack that is in no list of memory is where the list of threads has it.
    """
    start, size, offset = (0, 0, 0) if thread is None else thread.stack
    if not start <= registers.stack < start + size:
        return read_stack_words(memory, registers.stack, layout)
    words = read_stack_words(memory, registers.stack, layout, end=start + size)
    own = CapturedMemory(view, iter([(start, size, offset)]))
    return words or read_stack_words(own, registers.stack, layout, end=start + size)


def _image_key(name: str, entry: ModuleEntry) -> tuple[ImageKey | None, str | None]:
    """Return the key of an entry's image, or why it has none."""
    if entry.path is None:
        return None, entry.problem
    if entry.timestamp == 0:
        return None, "its entry in the dump has no time stamp"
    if entry.size_of_image == 0 or entry.base_va + entry.size_of_image > _ADDRESS_END:
        return None, f"its entry in the dump states {entry.size_of_image:#x} bytes at {entry.base_va:#x}"
    try:
        return ImageKey(name, entry.timestamp, entry.size_of_image), None
    except MalformedInput as error:
        return None, error.problem


def _named_pdb(entry: ModuleEntry) -> tuple[PdbReference | None, str | None]:
    """Return the PDB that an entry's code view record names, or why it names none; (None, None) without a record."""
    if entry.code_view is None:
        return None, entry.problem
    try:
        # Breakpad's writers leave out the NUL.
        record = parse_code_view(entry.code_view, at=entry.code_view_at, needs_nul=False)
        if record is None:
            return None, "its code view record is of an unknown kind"
        # Whether the PDB is a portable one stands beside the record in the image, not in it.
        return pdb_reference(CodeViewEntry(record, timestamp=0, portable=False)), None
    except InputError as error:
        return None, str(error)


def _details(
    view: ByteView, dump: Minidump, system: SystemInfo | None, tables: list[ModuleTable], memory: CapturedMemory
) -> dict[str, Any]:
    exception = parse_exception(view, dump)
    process = parse_process(view, dump)
    cut = dump.truncated or memory.truncated or any(table.count < table.stated for table in tables)
    details: dict[str, Any] = {
        "time": _time(dump.timestamp),
        "flags": f"{dump.flags:#x}",
        "full_memory": dump.full_memory,
        "truncated": cut,
        "module_count": sum(table.count for table in tables if not table.unloaded),
        "unloaded_count": sum(table.count for table in tables if table.unloaded),
    }
    if system is not None:
        windows = system.platform in _WINDOWS_PLATFORMS
        details["os"] = "windows" if windows else _SYSTEMS.get(system.platform, (f"{system.platform:#x}",))[0]
        details["cpu"] = _PROCESSORS.get(system.processor, f"{system.processor:#x}")
        details["version"] = f"{system.major}.{system.minor}.{system.build}"
        details["build"] = system.build
    if exception is not None:
        details["exception"] = {"code": f"{exception.code:#010x}", "address": f"{exception.address:#x}"}
    if process is not None:
        details["process_id"] = process.id
        details["process_started"] = _time(process.started or 0)
    return details


def _time(seconds: int) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
