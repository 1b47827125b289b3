"""Dumps for real debuggers, each with the files that are published for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import NAMESPACE_DNS, uuid5

from support.dotnet import library_bytes, runtime_plan
from support.kernels import driver, library
from support.synth.contexts import context_bytes
from support.synth.kerneldump import DumpKind, DumpPlan, write_dump
from support.synth.kernelmemory import KernelPlan, ProcessPlan, build_machine
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pagetables import Paging
from support.synth.pdb import NativePdbSpec, PublicSymbol, make_pdb
from support.synth.pe import CodeViewPlan, disk_bytes, memory_bytes
from support.synth.triagedump import TriagePlan, triage_bytes
from support.synth.version import fixed_bytes
from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from support.synth.kernelmemory import DriverPlan, MachineMemory
    from support.synth.version import Numbers

__all__ = ["DEBUGGEES", "DOTNET", "Debuggee", "published_files"]

_PAGE = 0x1000
_ENTRY = PublicSymbol("Entry", 0x40, function=True)
_SECONDARY_BYTES = 0x10000
_STACK = 0x10_0000
_LSASS = 664


@dataclass(frozen=True, slots=True)
class Debuggee:
    """A dump, and what is known of it.

    Attributes:
        dump: The file.
        published: What servers have for it, by index.
        bare: Modules, as the engine names them, that get no symbols: nothing is published, or nothing can be asked for.
        by_hand: Modules that get symbols after the command that the report gives.
        code: Where the engine can show code only by an image that is not in the dump.
        process: Address of an EPROCESS whose modules are looked at, too; 0 for none.
        users: Modules of that process, as the engine names them.
    """

    dump: Path
    published: Mapping[str, bytes]
    bare: frozenset[str] = frozenset()
    by_hand: frozenset[str] = frozenset()
    code: tuple[str, ...] = ()
    process: int = 0
    users: frozenset[str] = frozenset()


def published_files(drivers: Iterable[DriverPlan], names: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Return images and PDBs of *drivers* by index; *names* says which are published under another name."""
    files = {}
    for each in drivers:
        name = (names or {}).get(each.name, each.name)
        assert each.image.size_of_image is not None
        files[ImageKey(name, each.image.timestamp, each.image.size_of_image).index] = disk_bytes(each.image)
        for view in each.image.code_views:
            assert view.guid is not None
            key = PdbKey(str(view.path), view.guid, view.age)
            spec = NativePdbSpec(key.guid, key.age, machine=each.image.machine, stripped=True, publics=(_ENTRY,))
            files[key.index] = make_pdb(spec)
    return files


def _machine(paging: Paging, build: int) -> MachineMemory:
    """Return a machine with one driver of every kind that matters."""
    wide = paging.pointer_size == 8
    nt = driver("ntoskrnl.exe", "ntkrnlmp.pdb" if wide else "ntkrpamp.pdb", paging, size=0x100000)
    copy = replace(driver("stor.sys", "stor.pdb", paging), base_name="dump_stor.sys")
    drivers = (
        replace(nt, path="\\SystemRoot\\system32\\ntoskrnl.exe"),
        driver("hal.dll", "hal.pdb" if wide else "halmacpi.pdb", paging),
        driver("whole.sys", "whole.pdb", paging),
        driver("paged.sys", "paged.pdb", paging),
        driver("headless.sys", "headless.pdb", paging),
        replace(copy, path="\\SystemRoot\\System32\\Drivers\\dump_stor.sys"),
        driver("nodebug.sys", None, paging),
        driver("secdrv.sys", "secdrv.pdb", paging),
    )
    process = ProcessPlan(
        _LSASS,
        "lsass.exe",
        (
            library("lsass.exe", "lsass.pdb", wide=wide),
            library("ntdll.dll", "ntdll.pdb", wide=wide),
            library("pageduser.dll", "pageduser.pdb", wide=wide),
        ),
    )
    processes = (process,) if paging is Paging.X64 else ()
    return build_machine(KernelPlan(drivers, paging, build=build, processes=processes))


def _published(machine: MachineMemory) -> dict[str, bytes]:
    wide = machine.pointer_size == 8
    names = {
        "ntoskrnl.exe": "ntkrnlmp.exe" if wide else "ntkrpamp.exe",
        "hal.dll": "hal.dll" if wide else "halmacpi.dll",
        "dump_stor.sys": "stor.sys",
    }
    drivers = [each for each in machine.plan.drivers if each.name != "secdrv.sys"]
    users = [module for process in machine.plan.processes for module in process.modules]
    return published_files([*drivers, *users], names)


def _kernel(paging: Paging, build: int, kind: DumpKind) -> Callable[[Path], Debuggee]:
    def make(folder: Path) -> Debuggee:
        machine = _machine(paging, build)
        at = {each.name: base for each, base in zip(machine.plan.drivers, machine.bases, strict=True)}
        for address in range(at["paged.sys"] + _PAGE, at["paged.sys"] + 0x9000, _PAGE):
            machine.kernel.page_out(address)
        machine.kernel.page_out(at["headless.sys"])
        # Without a PCR in the dump the engine switches to a process on x64 alone.
        has_users = kind in {DumpKind.FULL, DumpKind.BITMAP_FULL} and paging is Paging.X64
        if has_users:
            base = _user_base(machine, "pageduser.dll")
            for address in range(base + _PAGE, base + 0x8000, _PAGE):
                machine.spaces[_LSASS].page_out(address)
        dump = folder / "MEMORY.DMP"
        with dump.open("xb") as file:
            write_dump(file, machine, DumpPlan(kind, secondary_bytes=_SECONDARY_BYTES))
        has_stamps = build >= 10240
        return Debuggee(
            dump,
            _published(machine),
            bare=frozenset({"nodebug", "secdrv"} | (set() if has_stamps else {"headless"})),
            by_hand=frozenset({"headless"} if has_stamps else ()),
            process=_eprocess(machine) if has_users else 0,
            users=frozenset({"lsass", "ntdll", "pageduser"} if has_users else ()),
        )

    return make


def _user_base(machine: MachineMemory, name: str) -> int:
    """Return where a library of lsass.exe is mapped."""
    (process,) = machine.plan.processes
    wanted = next(memory_bytes(module.image) for module in process.modules if module.name == name)
    space = machine.spaces[_LSASS]
    start = 0x7FFA00000000 if machine.pointer_size == 8 else 0x10000000
    for base in range(start, start + 0x100000, 0x10000):
        physical = space.translate(base)
        if physical is not None and machine.physical.read(physical, 0x400) == wanted[:0x400]:
            return base
    raise LookupError(name)


def _eprocess(machine: MachineMemory) -> int:
    """Return the address of lsass.exe's EPROCESS, whose directory base is that of its address space."""
    width = machine.pointer_size
    at = 0x28 if width == 8 else 0x18
    root = machine.spaces[_LSASS].root
    for address in range(machine.pool_va & -0x10000, machine.pool_va, 8):
        physical = machine.kernel.translate(address + at)
        if physical is not None and physical % _PAGE <= _PAGE - width:
            value = int.from_bytes(machine.physical.read(physical, width), "little")
            if value == root and machine.physical.read(physical - at, 1) == b"\x03":
                return address
    raise LookupError("lsass.exe")


def _triage(paging: Paging) -> Callable[[Path], Debuggee]:
    def make(folder: Path) -> Debuggee:
        machine = _machine(paging, 19041)
        stampless = [each.name for each in machine.plan.drivers].index("headless.sys")
        plan = TriagePlan(without_header=frozenset({stampless}), wide_addresses=True)
        dump = folder / "Mini.dmp"
        dump.write_bytes(triage_bytes(machine, plan))
        return Debuggee(
            dump,
            _published(machine),
            bare=frozenset({"nodebug", "secdrv", "headless"}),
            code=("whole+0x1000", "dump_stor+0x1000", "nt+0x1000"),
        )

    return make


def _minidump(paging: Paging, *, full: bool) -> Callable[[Path], Debuggee]:
    def make(folder: Path) -> Debuggee:
        plans = {
            name: driver(name, f"{name.partition('.')[0]}.pdb", paging, size=0x4000)
            for name in ("app.exe", "recorded.dll", "unrecorded.dll", "headers.dll", "private.dll")
        }
        modules, memory = [], [(_STACK, bytes(_PAGE))]
        for number, (name, each) in enumerate(plans.items()):
            base = (0x7FF6_0000_0000 if paging is Paging.X64 else 0x1000_0000) + number * 0x10_0000
            (view,) = each.image.code_views
            assert view.guid is not None
            record = None if name == "unrecorded.dll" else rsds_record(view.guid, view.age, str(view.path))
            modules.append(MinidumpModule(f"C:\\app\\{name}", base, 0x4000, each.image.timestamp, record))
            content = memory_bytes(each.image).ljust(0x4000, b"\0")
            if full:
                memory.append((base, content[:_PAGE] if name == "headers.dll" else content))
        processor = 9 if paging is Paging.X64 else 0
        thread = (_STACK, context_bytes(processor, modules[0].base_va + 0x1010, _STACK + 0x800))
        plan = MinidumpPlan(modules, flags=2 if full else 0, process=(1, 1), thread=thread, processor=processor)
        plan = replace(plan, memory64=memory) if full else replace(plan, memory=memory)
        dump = folder / "app.dmp"
        dump.write_bytes(build_minidump(plan))
        published = published_files(each for name, each in plans.items() if name != "private.dll")
        code = () if full else ("app+0x1000", "recorded+0x1000", "unrecorded+0x1000")
        return Debuggee(dump, published, bare=frozenset({"private"}), code=code)

    return make


DEBUGGEES: dict[str, Callable[[Path], Debuggee]] = {
    "x64 complete": _kernel(Paging.X64, 19041, DumpKind.FULL),
    "x64 complete, bitmap": _kernel(Paging.X64, 19041, DumpKind.BITMAP_FULL),
    "x64 kernel": _kernel(Paging.X64, 19041, DumpKind.BITMAP_KERNEL),
    "x64 summary": _kernel(Paging.X64, 7601, DumpKind.SUMMARY),
    "x86 complete": _kernel(Paging.X86, 2600, DumpKind.FULL),
    "PAE complete": _kernel(Paging.PAE, 7601, DumpKind.FULL),
    "PAE kernel": _kernel(Paging.PAE, 19041, DumpKind.BITMAP_KERNEL),
    "ARM64 complete": _kernel(Paging.ARM64, 19041, DumpKind.FULL),
    "x64 triage": _triage(Paging.X64),
    "x86 triage": _triage(Paging.PAE),
    "ARM64 triage": _triage(Paging.ARM64),
    "minidump": _minidump(Paging.X64, full=False),
    "minidump with full memory": _minidump(Paging.X64, full=True),
    "x86 minidump": _minidump(Paging.X86, full=False),
}


_RUNTIME = (0x5F7E6161, 0xAEE000)


def _dotnet(name: str, numbers: Numbers, processor: int, *libraries: str) -> Callable[[Path], Debuggee]:
    """Return what makes a minidump of a .NET program whose list of modules has the runtime's version, and no memory."""

    def make(folder: Path) -> Debuggee:
        base = 0x1000_0000 if processor == _X86 else 0x7FF6_0000_0000
        guid = uuid5(NAMESPACE_DNS, name)
        pdb = PdbKey(f"{name.rpartition('.')[0]}.pdb", guid, 1)
        modules = [
            MinidumpModule("C:\\app\\app.exe", base, 0x4000, 0x5AB38077),
            MinidumpModule(
                f"C:\\dotnet\\{name}", base + 0x100_0000, _RUNTIME[1], _RUNTIME[0],
                rsds_record(pdb.guid, pdb.age, pdb.name), version=fixed_bytes(numbers, numbers),
            ),
        ]  # fmt: skip
        thread = (_STACK, context_bytes(processor, base + 0x1010, _STACK + 0x800))
        memory = [(_STACK, bytes(_PAGE))]
        plan = MinidumpPlan(modules, memory=memory, process=(1, 1), thread=thread, processor=processor)
        dump = folder / "dotnet.dmp"
        dump.write_bytes(build_minidump(plan))
        machine = _MACHINES[processor]
        runtime = replace(
            runtime_plan(*_RUNTIME, name, numbers, machine=machine), code_views=(CodeViewPlan(pdb.name, guid),)
        )
        published = {
            ImageKey(name, *_RUNTIME).index: disk_bytes(runtime),
            pdb.index: make_pdb(NativePdbSpec(pdb.guid, pdb.age, machine=machine, stripped=True, publics=(_ENTRY,))),
        }
        for file in libraries:
            host, own_name = machine, file.partition("_")[0].partition(".")[0]
            if "_amd64_arm64_" in file:
                host = _MACHINES[_X64]
            published[ImageKey(file, *_RUNTIME).index] = library_bytes(f"{own_name}.dll", numbers, machine=host)
        return Debuggee(dump, published, bare=frozenset({"app"}))

    return make


_X86, _X64 = 0, 9
_MACHINES = {_X86: 0x14C, _X64: 0x8664, 12: 0xAA64}
DOTNET: dict[str, Callable[[Path], Debuggee]] = {
    ".NET Framework 4": _dotnet(
        "clr.dll", (4, 8, 4341, 0), 9,
        "mscordacwks_amd64_amd64_4.8.4341.00.dll", "mscordbi.dll", "sos_amd64_amd64_4.8.4341.00.dll",
    ),
    ".NET Framework 2": _dotnet(
        "mscorwks.dll", (2, 0, 50727, 9151), 9,
        "mscordacwks_amd64_amd64_2.0.50727.9151.dll", "sos_amd64_amd64_2.0.50727.9151.dll",
    ),
    ".NET 8": _dotnet(
        "coreclr.dll", (8, 0, 824, 36612), 9, "mscordaccore_amd64_amd64_8.0.824.36612.dll", "mscordbi.dll"
    ),
    ".NET 8, published under short names alone": _dotnet(
        "coreclr.dll", (8, 0, 824, 36612), 9, "mscordaccore.dll", "mscordbi.dll"
    ),
    "ARM64 .NET 8": _dotnet(
        "coreclr.dll", (8, 0, 824, 36612), 12,
        "mscordaccore_arm64_arm64_8.0.824.36612.dll", "mscordaccore_amd64_arm64_8.0.824.36612.dll", "mscordbi.dll",
    ),
    "x86 .NET Framework 4": _dotnet(
        "clr.dll", (4, 8, 4341, 0), 0,
        "mscordacwks_x86_x86_4.8.4341.00.dll", "mscordbi.dll", "sos_x86_x86_4.8.4341.00.dll",
    ),
}  # fmt: skip
