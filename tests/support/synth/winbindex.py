"""Writes documents of an index of Windows builds, in the form of Winbindex: entries of every kind."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AMD64", "ARM64", "I386", "Entry", "base", "delta_fields", "document", "full_fields", "insider", "update"]

I386, AMD64, ARM64 = 0x14C, 0x8664, 0xAA64
_ASSEMBLY_OF = {I386: "wow64", AMD64: "amd64", ARM64: "arm64"}
_TOKEN = "31bf3856ad364e35"


@dataclass
class Entry:
    """One file: what is known of it, and where it occurs, as `update`, `base` and `insider` write that."""

    info: dict[str, Any] | None
    places: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def write(self) -> dict[str, Any]:
        releases: dict[str, dict[str, Any]] = {}
        for release, name, about in self.places:
            releases.setdefault(release, {})[name] = about
        entry: dict[str, Any] = {} if self.info is None else {"fileInfo": self.info}
        return entry | {"windowsVersions": releases}


def full_fields(timestamp: int, size_of_image: int, machine: int = AMD64, **more: Any) -> dict[str, Any]:
    """What is known of a file that was analysed itself; kinds with less lack some of it."""
    return {
        "size": size_of_image - 0x200,
        "md5": "0" * 32,
        "machineType": machine,
        "timestamp": timestamp,
        "virtualSize": size_of_image,
        "version": "10.0.22621.1 (WinBuild.160101.0800)",
        "signingStatus": "Signed",
        **more,
    }


def delta_fields(
    timestamp: int, size_of_image: int, machine: int = AMD64, signature_bytes: int = 0x2800
) -> dict[str, Any]:
    """What a differential tells of a file whose image has that size: not the size itself.

    The last section is one page that begins a page before the image's end, with 0x400 bytes of the file; the
    signature follows.
    """
    return {
        "size": 0x8000 + 0x400 + signature_bytes,
        "md5": "0" * 32,
        "machineType": machine,
        "timestamp": timestamp,
        "lastSectionVirtualAddress": size_of_image - 0x1000,
        "lastSectionPointerToRawData": 0x8000,
    }


def update(
    release: str,
    name: str,
    build: str,
    *,
    date: str = "2023-03-14",
    others: Iterable[str] = (),
    machine: int = AMD64,
    component: str = "microsoft-windows-os-kernel",
    language: str = "none",
) -> tuple[str, str, dict[str, Any]]:
    """Return where a file occurs: in an update, as part of one assembly."""
    assembly = f"{_ASSEMBLY_OF[machine]}_{component}_{_TOKEN}_10.0.{build}_{language}_0123456789abcdef"
    info: dict[str, Any] = {
        "releaseDate": date,
        "releaseVersion": build,
        "updateUrl": f"https://support.microsoft.com/help/{name[2:]}",
        "heading": f"{date}-{name} (OS Build {build})",
    }
    if others := list(others):
        info["otherWindowsVersions"] = others
    identity = {"name": component, "version": f"10.0.{build}", "language": "neutral", "versionScope": "nonSxS"}
    attributes = [{"name": "file", "destinationPath": "$(runtime.system32)\\"}]
    written = {assembly: {"assemblyIdentity": identity, "attributes": attributes}}
    return release, name, {"updateInfo": info, "assemblies": written}


def base(
    release: str, *, machine: int = AMD64, component: str | None = "microsoft-windows-os-kernel", language: str = "none"
) -> tuple[str, str, dict[str, Any]]:
    """Return where a file occurs: in a release as first published, with the folder of its assembly or without."""
    paths = ["Windows\\System32\\file"]
    if component is not None:
        assembly = f"{_ASSEMBLY_OF[machine]}_{component}_{_TOKEN}_10.0.22621.1_{language}_fedcba9876543210"
        paths.append(f"Windows\\WinSxS\\{assembly}\\file")
    info = {"releaseDate": "2022-09-20", "isoSha256": "0" * 64}
    return release, "BASE", {"windowsVersionInfo": info, "sourcePaths": paths}


def insider(build: str, machine: int = AMD64) -> tuple[str, str, dict[str, Any]]:
    """Return where a file occurs: in a build for insiders."""
    name = hashlib.md5(f"{build} {machine}".encode()).hexdigest()
    arch = _ASSEMBLY_OF[machine]
    assembly = f"{arch}_microsoft-windows-os-kernel_{_TOKEN}_10.0.{build}_none_0123456789abcdef"
    info = {"title": f"Windows 11 Insider Preview {build}", "build": build, "arch": arch, "created": 1700000000}
    return "builds", name, {"updateInfo": info, "assemblies": {assembly: {"attributes": []}}}


def document(entries: Iterable[Entry], *, compressed: bool = True) -> bytes:
    """Return the document of one name."""
    written = {hashlib.sha256(str(number).encode()).hexdigest(): each.write() for number, each in enumerate(entries)}
    text = json.dumps(written, separators=(",", ":")).encode()
    return gzip.compress(text, mtime=0) if compressed else text
