"""What makes an image part of a .NET program: its own metadata, or a runtime that it is or holds."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.pe.exports import find_export
from symcache.formats.pe.image import ImageSpace
from symcache.formats.pe.version import find_version

if TYPE_CHECKING:
    from symcache.formats.pe.image import Layout
    from symcache.formats.pe.version import Numbers, VersionInfo
    from symcache.formats.view import ByteView

_COM_DESCRIPTOR = 14
_COR_HEADER = struct.Struct("<I4xII48xII")
_READY_TO_RUN = 0x00525452  # "RTR\0"
_PAGE_BYTES = 0x1000
# Of larger metadata some pages are looked for, evenly spread: the largest known, of System.Private.CoreLib, has 1,100.
_MOST_PAGES = 2048


class ManagedCode(StrEnum):
    """How an image holds the code of a .NET program."""

    IL = "il"  # code of the virtual machine; mixed assemblies (C++/CLI) have native code as well
    READY_TO_RUN = "ready-to-run"  # native code was made when it was built, and is published with it
    NGEN = "ngen"  # an image that was made on the machine it runs on, and exists nowhere else


@dataclass(frozen=True, slots=True)
class ManagedImage:
    """The metadata of an image."""

    code: ManagedCode
    metadata_rva: int
    metadata_bytes: int


def find_managed(space: ImageSpace) -> ManagedImage | None:
    """Return what an image of a .NET program says of its metadata; None for an image of none.

    Where the header of the precompiled code is not there, it is taken for NGEN's, of which nothing is published.

    Raises:
        InputError: The data directories or the header that they lead to cannot be read.

    Layout of the header, 72 bytes: its length u32, version u16 and u16, RVA and length of the metadata u32 each, 48
    bytes, RVA and length of the header of precompiled code u32 each, which begins with ``RTR`` and a NUL if it is
    ready-to-run.
    Source: ECMA-335, II.25.3.3; dotnet/runtime, corhdr.h IMAGE_COR20_HEADER and readytorun-format.md.
    """
    directory = space.find_directory(_COM_DESCRIPTOR)
    if directory is None:
        return None
    length, metadata_rva, metadata_bytes, native_rva, native_bytes = _COR_HEADER.unpack(
        space.read(directory[0], _COR_HEADER.size)
    )
    if length < _COR_HEADER.size or not metadata_rva:
        raise MalformedInput("the header of its metadata makes no sense")
    code = ManagedCode.IL
    if native_rva and native_bytes >= 4:
        try:
            (signature,) = struct.unpack("<I", space.read(native_rva, 4))
        except InputError:
            signature = 0
        code = ManagedCode.READY_TO_RUN if signature == _READY_TO_RUN else ManagedCode.NGEN
    return ManagedImage(code, metadata_rva, metadata_bytes)


def holds_metadata(space: ImageSpace, image: ManagedImage) -> bool:
    """Return whether every page of the metadata is there; of more than 2,048 pages, each of so many of them."""
    first = image.metadata_rva // _PAGE_BYTES
    count = -(-(image.metadata_rva + max(image.metadata_bytes, 1)) // _PAGE_BYTES) - first
    step = max(count // _MOST_PAGES, 1)
    try:
        for page in range(0, count, step):
            space.read(max((first + page) * _PAGE_BYTES, image.metadata_rva), 1)
        space.read(image.metadata_rva + max(image.metadata_bytes, 1) - 1, 1)
    except InputError:
        return False
    return True


_RUNTIME_INFO = "DotNetRuntimeInfo"
_INFO = struct.Struct("<18s2xI24s24s24s")
_INDEX = struct.Struct("<BII")


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What an image that holds a .NET runtime says of the libraries that belong to it: stamp and SizeOfImage of each.

    None for a library that it does not name, as builds for other systems do not by these numbers.
    """

    data_access: tuple[int, int] | None  # of mscordaccore.dll
    debugging_interface: tuple[int, int] | None  # of mscordbi.dll
    version: Numbers | None = None  # of the runtime; since the structure's second version


def find_runtime_info(space: ImageSpace) -> RuntimeInfo | None:
    """Return what the image exports as ``DotNetRuntimeInfo``; None for one that exports no such thing.

    coreclr.dll does so since .NET 6, and each program that was published with the runtime as one file.

    Raises:
        InputError: The exports, or what they lead to, cannot be read, or are something else.

    Layout: ``DotNetRuntimeInfo`` with a NUL, 18 bytes, and 2 of padding; version of the structure u32, from 1; for
    the runtime, the data access library and the debugging interface 24 bytes each: the number of bytes in use u8, then
    stamp and SizeOfImage of that image u32 each; from version 2 on the runtime's version, u32 for each of four parts.
    Source: dotnet/runtime, runtimeinfo.h; dotnet/diagnostics, RuntimeInfo.cs.
    """
    rva = find_export(space, _RUNTIME_INFO)
    if rva is None:
        return None
    signature, revision, _, data_access, debugging_interface = _INFO.unpack(space.read(rva, _INFO.size))
    if signature != _RUNTIME_INFO.encode() + b"\0" or not 0 < revision < 1 << 31:
        raise MalformedInput(f"what it exports as {_RUNTIME_INFO} is something else")
    version: Numbers | None = None
    if revision > 1:
        numbers = struct.unpack("<4I", space.read(rva + _INFO.size, 16))
        if any(numbers) and max(numbers) <= 0xFFFF:
            version = (numbers[0], numbers[1], numbers[2], numbers[3])
    return RuntimeInfo(_parse_index(data_access), _parse_index(debugging_interface), version)


def _parse_index(data: bytes) -> tuple[int, int] | None:
    length, timestamp, size_of_image = _INDEX.unpack_from(data)
    return (timestamp, size_of_image) if length >= 8 and timestamp and size_of_image else None


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What the image of a runtime says of itself, as far as it can be read."""

    machine: int  # processor, an `IMAGE_FILE_MACHINE_*` number
    version: VersionInfo | None
    info: RuntimeInfo | None
    has_unread_exports: bool = False  # it exports something that is not there, so that *info* may be missing for that


def find_runtime_facts(space: ImageSpace) -> RuntimeFacts:
    """Return what the image in *space* says of the .NET runtime that it is or holds; raises nothing."""
    info: RuntimeInfo | None = None
    version: VersionInfo | None = None
    is_unread = False
    try:
        with suppress(MalformedInput):
            info = find_runtime_info(space)
    except InputError:
        is_unread = True
    with suppress(InputError):
        version = find_version(space)
    return RuntimeFacts(space.header.machine, version, info, is_unread)


def read_runtime_facts(view: ByteView, layout: Layout) -> RuntimeFacts:
    """Return what the image in *view* says, as `find_runtime_facts`; raises what opening an `ImageSpace` raises."""
    return find_runtime_facts(ImageSpace(view, layout))
