"""Which Windows a machine starts, from the store of its boot manager, a registry hive read by dissect.regf.

Source: Microsoft's BCD reference (BcdBootMgrObject_DefaultObject, BcdLibraryDevice_ApplicationDevice,
BcdOSLoaderDevice_OSDevice, BcdOSLoaderString_SystemRoot). How a device is written is not documented: that it holds the
GUID of its partition, or where that begins, is what stores show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.disk.bounded import ViewFile, guarded
from symcache.formats.disk.tree import find

if TYPE_CHECKING:
    from symcache.formats.disk.bounded import Budget
    from symcache.formats.disk.partitions import Partition
    from symcache.formats.disk.tree import FileTree

_PLACES = (("EFI", "Microsoft", "Boot", "BCD"), ("Boot", "BCD"))
_BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_DEFAULT, _DEVICE, _ROOT = "23000003", "21000001", "22000002"


@dataclass(frozen=True, slots=True)
class BootEntry:
    r"""The entry that is started if nobody chooses: the device as it is written, and ``\Windows``."""

    device: bytes
    root: str

    def is_on(self, partition: Partition) -> bool:
        """Tell whether the device is *partition*."""
        if partition.guid is not None:
            return partition.guid.bytes_le in self.device
        return partition.offset.to_bytes(8, "little") in self.device


def find_boot_entry(tree: FileTree, budget: Budget) -> BootEntry | None:
    """Return what the boot manager's store on *tree* starts; None if there is none, or it cannot be read."""
    try:
        for place in _PLACES:
            file = find(tree, *place)
            if file is not None and not file.is_folder:
                return _read(ViewFile(tree.open(file), budget))
    except (InputError, ModuleNotFoundError):
        return None
    return None


def _read(file: ViewFile) -> BootEntry:
    with guarded("boot manager's store"):
        from dissect.regf import RegistryHive  # noqa: PLC0415 - of the extra

        hive = RegistryHive(file)
        chosen = str(hive.open(f"Objects\\{_BOOT_MANAGER}\\Elements\\{_DEFAULT}").value("Element").value)
        elements = f"Objects\\{chosen.rstrip(chr(0))}\\Elements"
        device = hive.open(f"{elements}\\{_DEVICE}").value("Element").value
        root = hive.open(f"{elements}\\{_ROOT}").value("Element").value
        return BootEntry(bytes(device), str(root).rstrip("\0"))
