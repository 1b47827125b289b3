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
from symcache.synth.kerneldump import Crash, Driver, make_kernel_dump
from symcache.synth.pdb import make_pdb
from symcache.synth.pe import make_image

if TYPE_CHECKING:
    from pathlib import Path

_LINKED = 0x47918A00  # January 2008
_CRASH = Crash(
    build=6001,
    build_lab="6001.18000.x86fre.longhorn_rtm.080118-1840",
    bugcheck=0xE2,  # MANUALLY_INITIATED_CRASH
    product_type=3,  # a server
    time=0x1C8872C_5E0F4000,  # March 2008
    uptime=3_600 * 10_000_000,
)


@dataclass(frozen=True, slots=True)
class SessionModule:
    """One module of the session; one that is paged out had only its headers in memory, and nobody has a copy of it."""

    path: str  # where the loader found it
    timestamp: int
    pdb: PdbKey
    code_bytes: int
    symbols_bytes: int  # what makes the PDB large
    is_published: bool = True  # image and PDB
    is_paged_out: bool = False

    @property
    def image(self) -> ImageKey:
        """Identity of the image."""
        return ImageKey(PureWindowsPath(self.path).name, self.timestamp, len(self.make_image()))

    def make_image(self) -> bytes:
        """Return the image, in a file and in memory."""
        return make_image(self.pdb, self.timestamp, self.code_bytes)

    def make_pdb(self) -> bytes:
        """Return the PDB, with public symbols alone, as they are published."""
        entry = f"_{self.pdb.name.partition('.')[0]}Entry@8"
        return make_pdb(self.pdb, self.timestamp, symbol=entry, offset=0x40, payload_bytes=self.symbols_bytes)


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


def make_published() -> dict[str, bytes]:
    """Return the files that a public server has of the session, images and PDBs, by index."""
    files = {}
    for module in SESSION:
        if module.is_published:
            files[module.image.index] = module.make_image()
            files[module.pdb.index] = module.make_pdb()
    return files


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write what someone has after the crash into *folder*; return the folder of images and the dump."""
    images = folder / "drivers"
    images.mkdir(parents=True)
    for module in SESSION:
        if not module.is_paged_out:
            (images / module.image.name).write_bytes(module.make_image())
    dump = folder / "MEMORY.DMP"
    drivers = [Driver(module.path, module.make_image(), module.is_paged_out) for module in SESSION]
    with dump.open("xb") as file:
        file.write(make_kernel_dump(drivers, _CRASH))
    return images, dump
