"""Machines whose memory tests dump, and what a reader must find in those dumps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from support.synth.kernelmemory import (
    KERNEL_SYMBOLS,
    DriverPlan,
    KernelPlan,
    ProcessPlan,
    UnloadedPlan,
    build_machine,
    eprocess_of,
)
from support.synth.pagetables import Paging
from support.synth.pdb import NativePdbSpec, PublicSymbol, StructureLayout, make_pdb
from support.synth.pe import CodeViewPlan, ImagePlan
from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.synth.kernelmemory import MachineMemory
    from symcache.inputs.records import Module

__all__ = ["PAGINGS", "crashing_machine", "driver", "expected", "found", "kernel_pdb", "kernel_plan", "library", "pack"]

PAGINGS = tuple(Paging)
_MACHINES = {Paging.X86: 0x14C, Paging.PAE: 0x14C, Paging.X64: 0x8664, Paging.LA57: 0x8664, Paging.ARM64: 0xAA64}
_KERNEL_BYTES = 0x100000


def driver(
    name: str, pdb: str | None, paging: Paging = Paging.X64, *, size: int = 0x9000, **more: object
) -> DriverPlan:
    """Return a driver whose stamp and GUID come from its name."""
    plan = DriverPlan(f"\\SystemRoot\\system32\\drivers\\{name}", _image(name, pdb, paging, size))
    return replace(plan, **more)  # type: ignore[arg-type]


def library(name: str, pdb: str, *, wide: bool = True, size: int = 0x8000, base: int | None = None) -> DriverPlan:
    """Return a library of a process."""
    paging = Paging.X64 if wide else Paging.X86
    folder = "System32" if wide else "SysWOW64"
    return DriverPlan(f"C:\\Windows\\{folder}\\{name}", _image(folder + name, pdb, paging, size), base=base)


def _image(name: str, pdb: str | None, paging: Paging, size: int) -> ImagePlan:
    seed = sum(byte << index % 23 for index, byte in enumerate(name.encode()))
    views = () if pdb is None else (CodeViewPlan(pdb, UUID(int=seed * 0x1_0001_0001_0001_0001), age=seed % 5 + 1),)
    return ImagePlan(
        0x80000000 | seed,
        size,
        machine=_MACHINES[paging],
        pe32_plus=paging.pointer_size == 8,
        checksum=seed & 0xFFFF,
        code_views=views,
    )


def kernel_plan(paging: Paging = Paging.X64, *, extra: int = 0, build: int | None = None) -> KernelPlan:
    """Return a machine with everything that can be in its memory."""
    wide = paging.pointer_size == 8
    nt = driver("ntoskrnl.exe", "ntkrnlmp.pdb" if wide else "ntkrpamp.pdb", paging, size=_KERNEL_BYTES)
    drivers = [
        replace(nt, path="\\SystemRoot\\system32\\ntoskrnl.exe"),
        driver("hal.dll", "hal.pdb" if wide else "halmacpi.pdb", paging),
        driver("FLTMGR.SYS", "fltMgr.pdb", paging, size=0x12000),
        driver("secdrv.sys", "secdrv.pdb", paging),
        driver("stornvme.sys", "stornvme.pdb", paging),
        replace(driver("stornvme.sys", "stornvme.pdb", paging), base_name="dump_stornvme.sys"),
        driver("win32k.sys", "win32k.pdb", paging, in_session=True),
        *(driver(f"extra{index}.sys", f"extra{index}.pdb", paging) for index in range(extra)),
    ]
    drivers[5] = replace(drivers[5], path="\\SystemRoot\\System32\\Drivers\\dump_stornvme.sys")
    program = library("OldProgram32.exe", "OldProgram32.pdb", wide=False, base=0x400000)
    processes = (
        ProcessPlan(88, "Registry"),
        ProcessPlan(532, "csrss.exe", (library("csrss.exe", "csrss.pdb", wide=wide),)),
        ProcessPlan(
            664,
            "lsass.exe",
            (library("lsass.exe", "lsass.pdb", wide=wide), library("ntdll.dll", "ntdll.pdb", wide=wide)),
        ),
        ProcessPlan(
            4120,
            "OldProgram32.exe",
            (program, library("ntdll.dll", "ntdll.pdb", wide=wide)),
            (
                program,
                library("ntdll.dll", "wntdll.pdb", wide=False),
                library("kernel32.dll", "wkernel32.pdb", wide=False),
            )
            if wide
            else (),
        ),
    )
    start = paging.kernel_start | 0x7000000
    return KernelPlan(
        tuple(drivers),
        paging,
        build=build if build is not None else 19041,
        unloaded=(
            UnloadedPlan("dam.sys", start, start + 0x1C000),
            UnloadedPlan("dump_storport", start, start + 0x9000),
        ),
        processes=processes,
        gap_every=11,
    )


def expected(plan: DriverPlan, name: str | None = None) -> tuple[str, str | None, tuple[str, ...]]:
    """Return name, image index and PDB indexes that a reader must give a module."""
    source = plan.name.removeprefix("dump_")
    key = ImageKey(source, plan.image.timestamp, plan.image.size_of_image or 0)
    pdbs = tuple(
        PdbKey(str(view.path), view.guid, view.age).index for view in plan.image.code_views if view.guid is not None
    )
    return name or plan.name, key.index, pdbs


def found(module: Module) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the same of a module that was read."""
    image = None if module.image is None else module.image.index
    return module.name, image, tuple(pdb.key.index for pdb in module.pdbs)


# Volatility wants these of a kernel's PDB, with or without members.
_OF_VOLATILITY = (
    "_ETHREAD",
    "_KTHREAD",
    "_ERESOURCE",
    "_EX_FAST_REF",
    "_TOKEN",
    "_OBJECT_HEADER",
    "_FILE_OBJECT",
    "_DEVICE_OBJECT",
    "_CM_KEY_BODY",
    "_CMHIVE",
    "_CM_KEY_NODE",
    "_CM_KEY_VALUE",
    "_HMAP_ENTRY",
    "_MMVAD_SHORT",
    "_MMVAD",
    "_KSYSTEM_TIME",
    "_KMUTANT",
    "_DRIVER_OBJECT",
    "_OBJECT_SYMBOLIC_LINK",
    "_CONTROL_AREA",
    "_SHARED_CACHE_MAP",
    "_VACB",
    "_POOL_TRACKER_BIG_PAGES",
    "_IMAGE_DOS_HEADER",
    "_KTIMER",
    "_LDR_DATA_TABLE_ENTRY",
    "_POOL_HEADER",
)
_USHORT, _ULONG, _POINTER = 0x21, 0x22, 0x603  # simple types


def kernel_pdb(machine: MachineMemory, *, symbols: Iterable[str] = KERNEL_SYMBOLS, structures: bool = True) -> bytes:
    """Return the PDB of the machine's kernel, with the layouts that readers of 64-bit machines look for."""
    plan, width = machine.plan, machine.pointer_size
    (view,) = plan.drivers[0].image.code_views
    assert view.guid is not None
    offsets = eprocess_of(plan)
    layouts = {
        "_EPROCESS": StructureLayout(
            offsets.size,
            {
                "Pcb": 0,
                "UniqueProcessId": offsets.links - width,
                "ActiveProcessLinks": offsets.links,
                "Peb": offsets.peb,
                "ImageFileName": offsets.image_file_name,
                **({"WoW64Process": offsets.wow64_process} if offsets.wow64_process else {}),
            },
            {"Pcb": "_KPROCESS", "ActiveProcessLinks": "_LIST_ENTRY"},
        ),
        "_KPROCESS": StructureLayout(0x100, {"DirectoryTableBase": 0x28 if width == 8 else 0x18}),
        "_LIST_ENTRY": StructureLayout(
            16, {"Flink": 0, "Blink": 8}, {"Flink": "*_LIST_ENTRY", "Blink": "*_LIST_ENTRY"}
        ),
        "_UNICODE_STRING": StructureLayout(
            16,
            {"Length": 0, "MaximumLength": 2, "Buffer": 8},
            {"Length": _USHORT, "MaximumLength": _USHORT, "Buffer": "*_WORD"},
        ),
        "_WORD": StructureLayout(2, {"Value": 0}, {"Value": _USHORT}),
        "_KLDR_DATA_TABLE_ENTRY": StructureLayout(
            0xA0,
            {"InLoadOrderLinks": 0, "DllBase": 0x30, "SizeOfImage": 0x40, "FullDllName": 0x48, "BaseDllName": 0x58},
            {
                "InLoadOrderLinks": "_LIST_ENTRY",
                "DllBase": _POINTER,
                "SizeOfImage": _ULONG,
                "FullDllName": "_UNICODE_STRING",
                "BaseDllName": "_UNICODE_STRING",
            },
        ),
        **{name: StructureLayout(8, {"Reserved": 0}) for name in _OF_VOLATILITY},
    }
    mark = "" if width == 8 else "_"
    publics = tuple(PublicSymbol(mark + name, KERNEL_SYMBOLS[name] - 0x1000) for name in symbols)
    return make_pdb(
        NativePdbSpec(
            view.guid,
            view.age,
            machine=_MACHINES[plan.paging],
            structures=layouts if structures else {},
            publics=publics,
        )
    )


def pack(width: int, words: Iterable[int]) -> bytes:
    """Return *words* of *width* bytes as they lie in memory."""
    return b"".join(word.to_bytes(width, "little") for word in words)


def crashing_machine(paging: Paging = Paging.X64, *, pages: int = 1) -> tuple[MachineMemory, int, list[int]]:
    """Return a machine with `kernel_plan`, the stack pointer of its crash, and the words of the stack from there on.

    They point into nt, secdrv.sys, nt, FLTMGR.SYS and secdrv.sys, at the header of hal.dll, and where a driver was
    before it was unloaded; what was on the stack before points into stornvme.sys. It has *pages* pages.
    """
    machine = build_machine(kernel_plan(paging))
    nt, _, fltmgr, secdrv, stornvme, *_ = (base + 0x2345 for base in machine.bases)
    unloaded = machine.plan.unloaded[0].start + 0x2000
    words = [0, nt, machine.bases[1], unloaded, secdrv, 7, nt, fltmgr, secdrv]
    at = machine.pool(pages * 0x1000, 0x1000)
    machine.kernel.write(at, bytes(pages * 0x1000))
    machine.kernel.write(at, pack(machine.pointer_size, [stornvme, *words]))
    return machine, at + machine.pointer_size, words
