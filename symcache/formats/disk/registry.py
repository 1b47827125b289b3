"""What the registry of Windows says of its build, read by dissect.regf."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.disk.bounded import ViewFile, guarded

if TYPE_CHECKING:
    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_KEY = "Microsoft\\Windows NT\\CurrentVersion"
_FIRST_11 = 22000
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class WindowsBuild:
    """Which Windows it is: ``Windows 11 Pro``, ``10.0.22621.1483``, ``22621.1.amd64fre.ni_release.220506-1250``."""

    product: str = ""
    version: str = ""
    lab: str = ""
    source: str = "SOFTWARE"


def read_windows_build(hive: ByteView, budget: Budget) -> WindowsBuild:
    r"""Return what *hive*, the file ``System32\config\SOFTWARE``, says.

    What is only in its logs, since the machine was not shut down, is not taken into account.

    Raises:
        InputError: It is no registry hive, or damaged.
        ModuleNotFoundError: dissect.regf is not installed.
    """
    with guarded("registry hive"):
        from dissect.regf import RegistryHive  # noqa: PLC0415 - of the extra

        logging.getLogger("dissect").setLevel(logging.CRITICAL)
        found: dict[str, str] = {}
        for number, value in enumerate(RegistryHive(ViewFile(hive, budget)).open(_KEY).values()):
            if number == _LONGEST:
                break
            if value.name in _WANTED and isinstance(value.value, str | int):
                found[value.name] = str(value.value).rstrip("\0")[:_LONGEST]
    build = found.get("CurrentBuild") or found.get("CurrentBuildNumber", "")
    if not build:
        raise InputError(f"the registry says no build ({_KEY})")
    product = found.get("ProductName", "")
    if build.isdigit() and int(build) >= _FIRST_11:  # where the name was left as it was
        product = product.replace("Windows 10", "Windows 11")
    # Since Windows 10 the version of the system stands in values of its own.
    version = found.get("CurrentVersion", "")
    if "CurrentMajorVersionNumber" in found:
        version = f"{found['CurrentMajorVersionNumber']}.{found.get('CurrentMinorVersionNumber', '0')}"
    parts = [version, build, found.get("UBR", "")]
    return WindowsBuild(product, ".".join(each for each in parts if each), found.get("BuildLabEx", ""))


_WANTED = frozenset(
    {
        "ProductName", "CurrentBuild", "CurrentBuildNumber", "UBR", "BuildLabEx", "CurrentVersion",
        "CurrentMajorVersionNumber", "CurrentMinorVersionNumber",
    }
)  # fmt: skip
