"""Separate ``.dbg`` files: debug data that was stripped from an image into a file of its own."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import TruncatedInput, UnknownFormat
from symcache.formats.pe.debug import DebugData, parse_debug_directory

if TYPE_CHECKING:
    from symcache.formats.pe.debug import DebugEntry
    from symcache.formats.view import ByteView

__all__ = ["DbgFile", "parse_dbg"]


_HEADER = struct.Struct("<2sHHHIIIIIIIIII")
_SECTION_BYTES = 40


@dataclass(frozen=True, slots=True)
class DbgFile:
    """What a ``.dbg`` file says about the image it belongs to.

    Attributes:
        machine: Processor, an ``IMAGE_FILE_MACHINE_*`` number.
        timestamp: TimeDateStamp of the image, 32 bits.
        characteristics: Flags of the image's file header.
        size_of_image: Bytes of address space the mapped image takes.
        checksum: CheckSum of the image.
        debug: What its debug directory holds; often an ``NB10`` record that names a PDB.
    """

    machine: int
    timestamp: int
    characteristics: int
    size_of_image: int
    checksum: int
    debug: DebugData


def parse_dbg(view: ByteView) -> DbgFile:
    """Return what a ``.dbg`` file holds; damage behind its header is found in ``debug.problems``.

    Raises:
        UnknownFormat: It does not begin with ``DI``.
        TruncatedInput: It ends within its header, 48 bytes.

    Layout: ``DI``, flags u16, machine u16, characteristics u16, then u32 each: stamp, checksum, image base, size of
    image, number of sections, length of exported names, length of the debug directory, section alignment, two
    reserved. The sections (40 bytes each), the exported names and the debug directory follow.
    Source: Windows SDK winnt.h, IMAGE_SEPARATE_DEBUG_HEADER.
    """
    header = view.read(0, min(_HEADER.size, view.size))
    if header[:2] != b"DI":
        raise UnknownFormat("not a .dbg file: it does not begin with DI", offset=0)
    if len(header) < _HEADER.size:
        raise TruncatedInput(f"the file ends within its .dbg header, after {len(header)} bytes", offset=len(header))
    fields = _HEADER.unpack(header)
    _, _, machine, characteristics, timestamp, checksum, _, size_of_image, sections, names_bytes, directory_bytes = (
        fields[:11]
    )
    directory = _HEADER.size + _SECTION_BYTES * sections + names_bytes
    debug = parse_debug_directory(view, directory, directory_bytes, _file_offset) if directory_bytes else DebugData()
    return DbgFile(
        machine=machine,
        timestamp=timestamp,
        characteristics=characteristics,
        size_of_image=size_of_image,
        checksum=checksum,
        debug=debug,
    )


def _file_offset(entry: DebugEntry) -> int:
    return entry.file_offset
