"""A kernel session of Windows Server 2008 to rehearse with: the modules' images, their PDBs, and a dump of the machine.

Names and builds are those of a real session, whose secdrv.pdb has never been published. All other identities are made
up here, so that no file of a rehearsal can stand in for one of Microsoft's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING
from uuid import UUID

from symcache.identity import ImageKey, PdbKey
from symcache.synth.kerneldump import DumpKind, DumpPlan, write_dump
from symcache.synth.kernelmemory import DriverPlan, KernelPlan, build_machine
from symcache.synth.pagetables import Paging
from symcache.synth.pdb import NativePdbSpec, PublicSymbol, make_pdb
from symcache.synth.pe import CodeViewPlan, ImagePlan, disk_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["SESSION", "SessionModule", "make_published", "write_inputs"]

_X86 = 0x14C
_PAGE = 0x1000
_MANUALLY_INITIATED_CRASH = 0xE2
_SERVER = 3
_LINKED = 0x47918A00  # January 2008
_CRASHED = 0x1C8872C_5E0F4000  # FILETIME, March 2008
_UPTIME = 3_600 * 10_000_000
_SECONDARY_BYTES = 0x10000


@dataclass(frozen=True, slots=True)
class SessionModule:
    r"""One module of the session.

    Attributes:
        path: Where the loader found it (``\\SystemRoot\\system32\\hal.dll``).
        timestamp: Stamp of the image.
        pdb: Identity of the PDB that the image names.
        code_bytes: Length of the image's code.
        symbols_bytes: Length of what makes the PDB large.
        is_published: Whether a server has image and PDB.
        is_paged_out: Only the image's headers were in memory at the crash, and there is no copy of the file: its PDB
            cannot be named without asking for the image.
    """

    path: str
    timestamp: int
    pdb: PdbKey
    code_bytes: int
    symbols_bytes: int
    is_published: bool = True
    is_paged_out: bool = False

    @property
    def image(self) -> ImageKey:
        """Identity of the image."""
        return ImageKey(PureWindowsPath(self.path).name, self.timestamp, self._size_of_image)

    @property
    def image_plan(self) -> ImagePlan:
        """What the image holds."""
        record = CodeViewPlan(self.pdb.name, self.pdb.guid, self.pdb.age)
        return ImagePlan(
            self.timestamp,
            self._size_of_image,
            machine=_X86,
            pe32_plus=False,
            code_views=(record,),
            payload_bytes=self.code_bytes,
        )

    @property
    def _size_of_image(self) -> int:
        """One page of headers, the code, and one page of debug data, in bytes."""
        return -(-self.code_bytes // _PAGE) * _PAGE + 2 * _PAGE

    def make_image(self) -> bytes:
        """Return the image as a file."""
        return disk_bytes(self.image_plan)

    def make_pdb(self) -> bytes:
        """Return the PDB, with public symbols alone, as they are published."""
        entry = PublicSymbol(f"_{self.pdb.name.partition('.')[0]}Entry@8", 0x40, function=True)
        return make_pdb(
            NativePdbSpec(
                self.pdb.guid,
                self.pdb.age,
                timestamp=self.timestamp,
                stripped=True,
                machine=_X86,
                publics=(entry,),
                payload_bytes=self.symbols_bytes,
            )
        )


def _module(
    path: str, pdb: str, code_bytes: int, symbols_bytes: int, age: int = 1, *, is_paged_out: bool = False
) -> SessionModule:
    digest = hashlib.sha256(f"symcache session {pdb}".encode()).digest()
    key = PdbKey(pdb, UUID(bytes=digest[:16]), age)
    return SessionModule(path, _LINKED + digest[16], key, code_bytes, symbols_bytes, is_paged_out=is_paged_out)


SESSION = (
    _module("\\SystemRoot\\system32\\ntkrnlpa.exe", "ntkrpamp.pdb", 1_800_000, 4_200_000, 2),
    _module("\\SystemRoot\\system32\\hal.dll", "halmacpi.pdb", 190_000, 760_000),
    _module("\\SystemRoot\\system32\\kdcom.dll", "kdcom.pdb", 14_000, 50_000),
    _module("\\SystemRoot\\System32\\drivers\\tcpip.sys", "tcpip.pdb", 600_000, 1_900_000, is_paged_out=True),
    _module("\\SystemRoot\\system32\\drivers\\peauth.sys", "PEAuth.pdb", 500_000, 1_100_000),
    SessionModule(
        "\\SystemRoot\\System32\\Drivers\\secdrv.SYS",
        0x45080528,
        PdbKey("secdrv.pdb", UUID("7578144C-39C4-4683-94EF-84F01549113A"), 3),
        20_000,
        40_000,
        is_published=False,
    ),
    _module("\\SystemRoot\\System32\\drivers\\tcpipreg.sys", "tcpipreg.pdb", 28_000, 90_000),
)
"""The modules in the order of the loader's list, the kernel first."""


def make_published(modules: Iterable[SessionModule] = SESSION) -> dict[str, bytes]:
    """Return the files that a public server has of *modules*, images and PDBs, by index."""
    files = {}
    for module in modules:
        if module.is_published:
            files[module.image.index] = module.make_image()
            files[module.pdb.index] = module.make_pdb()
    return files


def write_inputs(folder: Path, modules: Iterable[SessionModule] = SESSION) -> tuple[Path, Path]:
    """Write what someone has after the crash into *folder*; return the folder of images and the dump."""
    modules = tuple(modules)
    images = folder / "drivers"
    images.mkdir(parents=True)
    for module in modules:
        if not module.is_paged_out:
            (images / module.image.name).write_bytes(module.make_image())
    dump = folder / "MEMORY.DMP"
    _write_dump(dump, modules)
    return images, dump


def _write_dump(path: Path, modules: tuple[SessionModule, ...]) -> None:
    """Write a kernel memory dump of a machine with PAE that was told to crash."""
    drivers = tuple(DriverPlan(module.path, module.image_plan) for module in modules)
    machine = build_machine(
        KernelPlan(drivers, Paging.PAE, build=6001, build_lab="6001.18000.x86fre.longhorn_rtm.080118-1840")
    )
    for module, base in zip(modules, machine.bases, strict=True):
        if module.is_paged_out:
            for address in range(base + _PAGE, base + module.image.size_of_image, _PAGE):
                machine.kernel.page_out(address)
    plan = DumpPlan(
        DumpKind.SUMMARY,
        bugcheck=(_MANUALLY_INITIATED_CRASH, 0, 0, 0, 0),
        product_type=_SERVER,
        system_time=_CRASHED,
        uptime=_UPTIME,
        secondary_bytes=_SECONDARY_BYTES,
    )
    with path.open("xb") as file:
        write_dump(file, machine, plan)
