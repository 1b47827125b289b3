"""PE images, as a file on disk or as mapped into memory: one reader for both, given another view.

Parsing has no side effects and asks for the same bytes in the same order each time, so a view over a ranged download
may raise its own error for bytes that are still to come, and the parse is repeated later.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.pe.debug import DebugData, ImageProblem, parse_debug_directory
from symcache.formats.pe.header import ImageHeader, parse_data_directory, parse_image_header

if TYPE_CHECKING:
    from symcache.formats.pdb.portable import EmbeddedPdb
    from symcache.formats.pe.debug import CodeViewEntry, DebugEntry, PdbChecksum
    from symcache.formats.view import ByteView

__all__ = ["Image", "Layout", "parse_image"]


_DEBUG_DIRECTORY = 6
_DEBUG_STRIPPED = 0x0200
_PAGE_BYTES = 0x1000
_SECTOR_BYTES = 0x200
_SECTION = struct.Struct("<8xIIII16x")
# Far more than linkers write; the format allows 65,535, that is 2.6 MB of headers. See also the limits in debug.py.
_MOST_SECTIONS = 512
_HEADER_FIELDS = tuple(field.name for field in fields(ImageHeader))


class Layout(Enum):
    """How an image lies in its view: only the caller knows, it cannot be seen in the bytes."""

    DISK = "disk"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Image(ImageHeader):
    """An image's headers and its debug data.

    Attributes:
        debug: What the debug directory holds; empty if there is none.
        has_debug_directory: The header names a debug directory.
        extent_bytes: How long the file must at least be to hold its headers and sections; 0 for a mapped image.
        problems: What could not be read, in the order met; the header is sound all the same.
    """

    debug: DebugData
    has_debug_directory: bool
    extent_bytes: int
    problems: tuple[ImageProblem, ...]

    @property
    def debug_entries(self) -> tuple[DebugEntry, ...]:
        """All entries of the debug directory, in file order."""
        return self.debug.entries

    @property
    def code_views(self) -> tuple[CodeViewEntry, ...]:
        """The PDBs it names, in file order; Microsoft's debuggers ask for the last native one."""
        return self.debug.code_views

    @property
    def checksums(self) -> tuple[PdbChecksum, ...]:
        """Checksums of its portable PDB."""
        return self.debug.checksums

    @property
    def embedded(self) -> EmbeddedPdb | None:
        """The portable PDB inside the image; `read_embedded_pdb` inflates it."""
        return self.debug.embedded

    @property
    def reproducible(self) -> bool:
        """Stamps are hashes and not times."""
        return self.debug.reproducible

    @property
    def dbg_name(self) -> str | None:
        """Name of the ``.dbg`` file that its symbols were stripped into; None unless it says both."""
        return self.debug.misc_name if self.characteristics & _DEBUG_STRIPPED else None


@dataclass(frozen=True, slots=True)
class _Section:
    rva: int
    span_bytes: int
    raw_offset: int
    raw_bytes: int


def parse_image(view: ByteView, layout: Layout) -> Image:
    """Return what an image says about itself and its PDBs.

    On disk one read of up to 4 KiB brings the headers, one the debug directory, one each code view record; in memory
    nothing is asked for beyond the fields that are needed, as any page may be absent. Less than 64 KiB are read.

    Args:
        view: The file, or the image's part of an address space, numbered from its base.
        layout: Which of the two *view* is.

    Raises:
        UnknownFormat: Not an image.
        TruncatedInput: The input ends within the headers.
        MalformedInput: The headers contradict themselves.
        NotInDump: A dump does not hold the headers.
        Damage beyond the headers is not raised but found in `Image.problems`.

    Source: MicrosoftDocs/win32 pe-format.md; real files where it is silent (see `_Places.of_rva`).
    """
    if layout is Layout.DISK:
        view = _Ahead(view)
    header = parse_image_header(view)
    problems: list[ImageProblem] = []
    sections = _read_sections(view, header, problems) if layout is Layout.DISK else []
    has_directory, debug = _read_debug_data(view, header, _Places(header, sections, layout), is_sure=not problems)
    return Image(
        **{name: getattr(header, name) for name in _HEADER_FIELDS},
        debug=debug,
        has_debug_directory=has_directory,
        extent_bytes=_extent_bytes(header, sections) if layout is Layout.DISK else 0,
        problems=(*problems, *debug.problems),
    )


def _read_debug_data(view: ByteView, header: ImageHeader, places: _Places, *, is_sure: bool) -> tuple[bool, DebugData]:
    """Return whether the header names a debug directory, and what it holds.

    One that lies in no section is none (corkami's foldedhdr.exe; pefile and dbghelp see it so, too), if *is_sure*: all
    sections are known.
    """
    try:
        directory = parse_data_directory(view, header, _DEBUG_DIRECTORY)
    except InputError as error:
        return False, DebugData(problems=(ImageProblem(f"data directories: {error.problem}", error.offset),))
    if directory is None:
        return False, DebugData()
    rva, size_bytes = directory
    try:
        offset = places.of_rva(rva)
    except InputError as error:
        if is_sure and isinstance(error, MalformedInput):
            return False, DebugData()
        return True, DebugData(problems=(ImageProblem(f"debug directory: {error.problem}", error.offset),))
    return True, parse_debug_directory(view, offset, size_bytes, places.of_data)


class _Ahead:
    """A view whose first bytes are read at once, so that small reads of headers cost one call."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self.size = view.size
        self._start = view.read(0, min(self.size, _PAGE_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        if 0 <= offset <= offset + length <= len(self._start):
            return self._start[offset : offset + length]
        return self._view.read(offset, length)


def _read_sections(view: ByteView, header: ImageHeader, problems: list[ImageProblem]) -> list[_Section]:
    """Return what can be read of the section table; a table that is cut short or too long is a problem."""
    start = header.section_table_offset
    fitting = max(0, view.size - start) // _SECTION.size
    count = min(header.section_count, _MOST_SECTIONS, fitting)
    if count < header.section_count:
        text = (
            f"only {_MOST_SECTIONS} of {header.section_count} sections are read"
            if count == _MOST_SECTIONS
            else f"the file ends within its section table, after {count} of {header.section_count} sections"
        )
        problems.append(ImageProblem(text, start + count * _SECTION.size))
    if not count:
        return []
    # A low alignment maps the file as it is; otherwise the loader reads whole sectors.
    mask = ~(_SECTOR_BYTES - 1) if header.section_alignment >= _PAGE_BYTES else ~0
    return [
        _Section(rva, max(virtual_bytes, raw_bytes), raw_offset & mask, raw_bytes)
        for virtual_bytes, rva, raw_bytes, raw_offset in _SECTION.iter_unpack(view.read(start, count * _SECTION.size))
    ]


def _extent_bytes(header: ImageHeader, sections: list[_Section]) -> int:
    ends = [section.raw_offset + section.raw_bytes for section in sections if section.raw_offset and section.raw_bytes]
    table_end = header.section_table_offset + _SECTION.size * header.section_count
    return max([table_end, *ends])


class _Places:
    """Where addresses of an image lie in its view."""

    def __init__(self, header: ImageHeader, sections: list[_Section], layout: Layout) -> None:
        self._headers_end = header.size_of_headers
        self._sections = sections
        self._mapped = layout is Layout.MEMORY

    def of_rva(self, rva: int) -> int:
        """Return the offset of *rva*: itself in memory, through the sections on disk.

        Some images keep their debug directory in front of all sections, where file and memory agree.

        Raises:
            MalformedInput: No section holds it.
            TruncatedInput: It lies in a part of a section that only memory has.
        """
        if self._mapped:
            return rva
        for section in self._sections:
            into = rva - section.rva
            if 0 <= into < section.span_bytes:
                if into >= section.raw_bytes:
                    raise TruncatedInput(f"address {rva:#x} lies in a section's part without file data")
                return section.raw_offset + into
        if rva < self._headers_end:
            return rva
        raise MalformedInput(f"address {rva:#x} lies in no section")

    def of_data(self, entry: DebugEntry) -> int:
        """Return the offset of a debug directory entry's data.

        Raises:
            InputError: It is not mapped, or lies nowhere in the file.
        """
        if self._mapped:
            if not entry.rva:
                raise MalformedInput("it is in the file only, not in memory")
            return entry.rva
        return entry.file_offset or self.of_rva(entry.rva)
