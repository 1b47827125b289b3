"""What a folder lies on: its file system, and whether other machines share it."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afpfs", "9p", "virtiofs", "vboxsf", "drvfs", "fuse.sshfs"}
)
_OWN_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=posix", "nobrl"})


@dataclass(frozen=True, slots=True)
class Mount:
    """The file system that a folder lies on."""

    kind: str  # ``ext4``, ``nfs4``, ``NTFS``; empty if the system does not tell
    options: tuple[str, ...] = ()  # as it is mounted
    is_network: bool = False  # other machines may use it, too

    @property
    def has_own_locks(self) -> bool:
        """Locks exclude processes of this machine alone (nfs(5), mount.cifs(8))."""
        return any(option in _OWN_LOCKS for option in self.options)


def find_mount(folder: Path) -> Mount:
    """Return what *folder*, which exists, lies on.

    Source: proc(5), ``/proc/[pid]/mountinfo``; Win32 ``GetVolumeInformationW`` and ``GetDriveTypeW``.
    """
    if sys.platform == "win32":
        return _find_volume(folder)
    best, found = "", Mount("")
    with suppress(OSError, ValueError):
        path = str(folder.resolve())
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
            left, _, right = line.partition(" - ")
            place = left.split()[4].replace("\\040", " ")
            options = left.split()[5].split(",")
            kind, _, more = right.split(" ", 2)
            is_above = place in ("/", path) or path.startswith(f"{place}/")
            if is_above and len(place) >= len(best):
                best = place
                found = Mount(kind, (*options, *more.split(",")), kind in _NETWORK)
    return found


if sys.platform == "win32":

    def _find_volume(folder: Path) -> Mount:
        import ctypes  # noqa: PLC0415

        remote = 4  # DRIVE_REMOTE
        root = ctypes.create_unicode_buffer(1024)
        kind = ctypes.create_unicode_buffer(256)
        kernel32 = ctypes.windll.kernel32
        if not kernel32.GetVolumePathNameW(str(folder), root, len(root)):
            return Mount("")
        kernel32.GetVolumeInformationW(root, None, 0, None, None, None, kind, len(kind))
        return Mount(kind.value, (), kernel32.GetDriveTypeW(root) == remote)
