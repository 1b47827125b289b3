"""Machines whose memory tests dump, and what a reader must find in those dumps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from support.synth.kernelmemory import DriverPlan, KernelPlan, ProcessPlan, UnloadedPlan
from support.synth.pagetables import Paging
from support.synth.pe import CodeViewPlan, ImagePlan
from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from symcache.inputs.records import Module

__all__ = ["PAGINGS", "driver", "expected", "found", "kernel_plan", "library"]

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
