"""What a Windows machine whose memory is dumped is to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.synth.pagetables import Paging

if TYPE_CHECKING:
    from symcache.synth.pe import ImagePlan

__all__ = ["DriverPlan", "EprocessPlan", "KernelPlan", "ProcessPlan", "UnloadedPlan"]


@dataclass(frozen=True, slots=True)
class DriverPlan:
    r"""A module: a driver, or a library of a process.

    Attributes:
        path: Full path (``\\SystemRoot\\system32\\hal.dll``).
        image: What the image holds.
        base: Where it is loaded; None for the next free place.
        base_name: Name in the loader's entry; None takes it from *path*.
        in_session: Mapped in the address spaces of sessions only.
        loader_size: Size that the loader states; None for the image's.
    """

    path: str
    image: ImagePlan
    base: int | None = None
    base_name: str | None = None
    in_session: bool = False
    loader_size: int | None = None

    @property
    def name(self) -> str:
        """Base name."""
        return self.base_name or self.path.replace("/", "\\").rpartition("\\")[2]


@dataclass(frozen=True, slots=True)
class UnloadedPlan:
    """A driver that had been unloaded."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """A process.

    Attributes:
        id: Process id.
        name: File name; cut to 14 characters in memory.
        modules: What its loader lists; without any it has no environment block.
        modules32: What its 32-bit loader lists; a 32-bit process on a 64-bit machine has some.
    """

    id: int
    name: str
    modules: tuple[DriverPlan, ...] = ()
    modules32: tuple[DriverPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class EprocessPlan:
    """Offsets in EPROCESS."""

    links: int
    image_file_name: int
    peb: int
    wow64_process: int
    size: int


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """A machine.

    Attributes:
        drivers: Modules in list order; the kernel is the first.
        paging: Its page tables, and with them the processor.
        build: Windows build number; from 10240 on loader entries have time stamps.
        unloaded: Drivers that had been unloaded, oldest first.
        processes: Beside ``System``, which is always there.
        large_kernel: Map the kernel with large pages.
        debugger_data: Write the kernel's debugger data block.
        eprocess: Offsets in EPROCESS; None for those of the build.
        build_lab: Text of NtBuildLab.
        first_pfn: Where its physical pages begin.
        gap_every: Leave a hole in physical memory after that many pages; 0 for none.
    """

    drivers: tuple[DriverPlan, ...]
    paging: Paging = Paging.X64
    build: int = 19041
    unloaded: tuple[UnloadedPlan, ...] = ()
    processes: tuple[ProcessPlan, ...] = ()
    large_kernel: bool = False
    debugger_data: bool = True
    eprocess: EprocessPlan | None = None
    build_lab: str = "19041.1.amd64fre.vb_release.191206-1406"
    first_pfn: int = 0x100
    gap_every: int = 0
