"""PDBs: identity in every format, and how much information for a debugger they hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from struct import unpack, unpack_from
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.pdb.msf import MSF_MAGIC, MSFZ_MAGIC, Msf, Msfz, StreamView
from symcache.formats.view import BytesView, PartView, parse_uint

if TYPE_CHECKING:
    from symcache.formats.pdb.msf import StreamContainer
    from symcache.formats.view import ByteView

_PDB2_MAGIC = b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0"

_NUMBERS_AT = 0x3C


@dataclass(frozen=True, slots=True)
class Pdb2:
    """Identity of a PDB 2.0."""

    signature: int  # time stamp, 32 bits; with *age* what an `NB10` record names
    age: int  # times the PDB was written
    version: int  # version of the information stream, a date in decimal digits (19970604)
    block_size: int  # bytes in a page
    stream_count: int


def parse_pdb2(view: ByteView) -> Pdb2:
    """Return the identity of a PDB 2.0 whose magic was seen.

    Raises:
        TruncatedInput: The file is shorter than its header says.
        MalformedInput: A page size, a page number or the root stream contradicts itself.

    Layout: magic (44), page size u32 at 0x2C, free map u16, page count u16 at 0x32, root size u32 at 0x34, then
    the numbers of the root's pages u16 each at 0x3C. Root: stream count u16, reserved u16, {size u32, reserved u32}
    each, then the page numbers u16 of each stream. Stream 1: version, signature, age, u32 each.
    Source: the notes on format 2.00 beside microsoft-pdb; checked with no file of Microsoft's linker.
    """
    if view.size < _NUMBERS_AT:
        raise TruncatedInput("the header of a PDB 2.0 ends early", offset=view.size)
    page_size, _, page_count, root_size = unpack_from("<IHHI", view.read(0, _NUMBERS_AT), 0x2C)
    if not (512 <= page_size <= 0x10000 and page_size.bit_count() == 1):
        raise MalformedInput(f"a page size of {page_size} bytes is not a power of two from 512", offset=0x2C)
    if page_count * page_size > view.size:
        raise TruncatedInput(
            f"{page_count} pages of {page_size} bytes are promised, the file has {view.size} bytes", offset=view.size
        )
    root_pages = -(-root_size // page_size)
    if _NUMBERS_AT + 2 * root_pages > page_size:
        raise MalformedInput(f"a root stream of {root_size} bytes cannot be", offset=0x34)

    def view_pages(size: int, numbers: ByteView, name: str) -> StreamView:
        return StreamView(view, size, numbers, block_size=page_size, block_count=page_count, width=2, name=name)

    root = view_pages(root_size, PartView(view, _NUMBERS_AT, 2 * root_pages), "the root stream")
    (stream_count,) = unpack("<H", root.read(0, 2))
    if stream_count < 2:
        raise MalformedInput("a PDB 2.0 without an information stream")
    first_size, _, info_size, _ = unpack("<4I", root.read(4, 16))
    if info_size == 0xFFFFFFFF or info_size < 12:
        raise MalformedInput("the information stream is too short for an identity")
    first_pages = 0 if first_size == 0xFFFFFFFF else -(-first_size // page_size)
    # Twelve bytes lie in the first page of the stream, whatever its length.
    numbers = BytesView(root.read(4 + 8 * stream_count + 2 * first_pages, 2))
    version, signature, age = unpack("<3I", view_pages(12, numbers, "stream 1").read(0, 12))
    return Pdb2(signature, age, version, page_size, stream_count)


_PORTABLE_MAGIC = b"BSJB"

_ID_BYTES = 20
_ROOT_LIMIT_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


@dataclass(frozen=True, slots=True)
class PortablePdb:
    """Identity of a portable PDB."""

    guid: UUID  # first 16 bytes of the 20-byte id
    stamp: int  # last 4 bytes of the id; equals the time stamp of the image's code view entry
    metadata_version: str  # version text of the metadata root, `PDB v1.0`
    id_offset: int  # where the id lies in the file, in bytes
    extent_bytes: int  # how long the file is at least: where the last of its streams ends


def parse_portable(view: ByteView) -> PortablePdb:
    """Return the identity of a portable PDB; reads at most 4 KiB and the id.

    Raises:
        UnknownFormat: The magic is another, or it is the metadata of an assembly, without ``#Pdb``.
        TruncatedInput: The file ends within its root or before its ``#Pdb`` stream.
        MalformedInput: The root contradicts itself.

    Layout: ``BSJB``, major u16, minor u16, reserved u32, length of the version text u32 (padded to 4), the text, flags
    u16, stream count u16, then per stream: offset u32, size u32, NUL-terminated name padded to 4.
    Stream ``#Pdb``: id (20), entry point u32, referenced tables u64.
    Source: ECMA-335 II.24.2.1; dotnet/runtime, PortablePdb-Metadata.md.
    """
    root = view.read(0, min(view.size, _ROOT_LIMIT_BYTES))
    if root[:4] != _PORTABLE_MAGIC:
        raise UnknownFormat("not a portable PDB", offset=0)
    (text_bytes,) = unpack_from("<I", _need(root, 0, 16), 12)
    if text_bytes > 256:
        raise MalformedInput(f"a metadata version of {text_bytes} bytes cannot be", offset=12)
    _, stream_count = unpack_from("<HH", _need(root, 16 + text_bytes, 4))
    version = root[16 : 16 + text_bytes].partition(b"\0")[0].decode("utf-8", "replace")
    at = 20 + text_bytes
    extent_bytes = 0
    id_stream: tuple[int, int] | None = None
    for _ in range(stream_count):
        offset, size = unpack_from("<II", _need(root, at, 8))
        name, nul, _ = root[at + 8 : at + 40].partition(b"\0")
        if not nul:
            _need(root, at + 8, 32)
            raise MalformedInput("the name of a metadata stream is not terminated", offset=at + 8)
        extent_bytes = max(extent_bytes, offset + size)
        if name == b"#Pdb":
            id_stream = id_stream or (offset, size)
        at += 8 + (len(name) + 4) // 4 * 4
    if id_stream is None:
        raise UnknownFormat("metadata without a #Pdb stream: not a PDB", offset=0)
    return _read_id(view, *id_stream, version, extent_bytes)


def compute_portable_checksum(view: ByteView, algorithm: str, *, id_offset: int) -> str:
    """Return the checksum of a portable PDB, in lower-case hex, as an image's PDB checksum entry states it.

    The file is read in pieces of 1 MiB; its 20-byte id is hashed as zeros, since it is made from the checksum.

    Raises:
        UnknownFormat: An algorithm that an image calls otherwise than ``SHA256``, ``SHA384``, ``SHA512``, ``SHA1``.
        TruncatedInput: The file became shorter.

    Source: dotnet/runtime PE-COFF.md, "PDB Checksum Debug Directory Entry"; dotnet/symstore, checksum validation.
    """
    name = _HASHES.get(algorithm.upper().replace("-", ""))
    if name is None:
        raise UnknownFormat(f"PDB checksums by {algorithm[:40]!r} are not known")
    digest = hashlib.new(name, usedforsecurity=False)
    end = id_offset + _ID_BYTES
    for start, stop in ((0, id_offset), (end, view.size)):
        for at in range(start, stop, _CHUNK_BYTES):
            digest.update(view.read(at, min(_CHUNK_BYTES, stop - at)))
        if stop == id_offset:
            digest.update(bytes(_ID_BYTES))
    return digest.hexdigest()


def _read_id(view: ByteView, offset: int, size: int, version: str, extent_bytes: int) -> PortablePdb:
    if size < _ID_BYTES:
        raise MalformedInput("the #Pdb stream is too short for an id", offset=offset)
    if offset + size > view.size:
        raise TruncatedInput("the file ends before its #Pdb stream", offset=view.size)
    id_ = view.read(offset, _ID_BYTES)
    return PortablePdb(UUID(bytes_le=id_[:16]), int.from_bytes(id_[16:], "little"), version, offset, extent_bytes)


def _need(root: bytes, at: int, length: int) -> bytes:
    if at + length <= len(root):
        return root[at : at + length]
    if len(root) == _ROOT_LIMIT_BYTES:
        raise MalformedInput(f"the metadata root does not end within {_ROOT_LIMIT_BYTES} bytes", offset=at)
    raise TruncatedInput("the metadata root ends early", offset=len(root))


_INFO, _DBI = 1, 3
_INFO_BYTES, _DBI_BYTES = 28, 64
_LAST_VERSION_WITHOUT_GUID = 19990604
_STRIPPED = 0x2
_NO_STREAM = 0xFFFF
_FIRST_MODULES_BYTES = 448
_MODULES_LIMIT_BYTES = 32 << 10
_FEATURES_LIMIT_BYTES = 64
_MINI = 0x494E494D
_VC110 = 20091201

_OTHERS = (
    (b"MZ", "an executable image"),
    (b"MSCF", "a cabinet; it must be expanded first"),
    (b"PAGE", "a kernel dump"),
    (b"MDMP", "a minidump"),
    (b"\x1f\x8b", "gzip data; it must be expanded first"),
    (b"\x28\xb5\x2f\xfd", "zstd data; it must be expanded first"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x7fELF", "an ELF file"),
)


class Container(StrEnum):
    """The outer layer of a native PDB."""

    MSF = "msf"
    MSFZ = "msfz"


class SymbolKind(StrEnum):
    """How much information a native PDB holds.

    ``private``: every module's own symbols. ``public``: names and types, as Microsoft publishes them. ``type-only``:
    types of a compiler's type server, nothing about an image.
    """

    PRIVATE = "private"
    PUBLIC = "public"
    TYPE_ONLY = "type-only"


@dataclass(frozen=True, slots=True)
class NativePdb:
    """Identity of a PDB 7."""

    guid: UUID
    info_age: int  # age in the information stream; source indexing and other edits raise it alone
    # Age in the debug information stream, the one that an image's code view record holds; None without one.
    dbi_age: int | None
    signature: int  # time stamp of the information stream, 32 bits
    version: int  # version of the information stream, a date in decimal digits (20000404)
    machine: int | None  # COFF machine number; None without debug information. Managed compilers write 0xC0EE
    # Flags of the debug information: 1 linked incrementally, 2 private symbols stripped, 4 conflicting types.
    flags: int | None
    mini: bool  # made by `/DEBUG:FASTLINK`: the symbols stay in the object files
    symbols: SymbolKind | None  # how much it holds; None where that could not be read
    container: Container
    block_size: int | None  # bytes in a block; None for MSFZ
    stream_count: int  # streams, nil ones counted
    unread: str | None = None  # why the debug information could not be read though it is there; None otherwise

    @property
    def age(self) -> int:
        """The age that names the file in a store: that of the debug information, 0 if there is none.

        Where the debug information is there but cannot be read (MSFZ), the age of the information stream stands in.

        Source: observed; pdbstr raises the information stream's age alone, and the linker copies the other one into
        the image. symstore files a PDB without debug information without an age.
        """
        if self.unread is not None:
            return self.info_age
        return self.dbi_age or 0


PdbIdentity: TypeAlias = NativePdb | Pdb2 | PortablePdb


def looks_like_pdb(head: bytes) -> bool:
    """Return whether a file that begins with *head* is a PDB of any format; 44 bytes are enough."""
    return head.startswith((MSF_MAGIC, MSFZ_MAGIC, _PDB2_MAGIC, _PORTABLE_MAGIC))


def parse_pdb(view: ByteView) -> PdbIdentity:
    """Return the identity of a PDB of any format.

    A few reads of at most 4 KiB each suffice, however large the file is, but for MSFZ, which is read by chunks.

    Raises:
        UnknownFormat: Not a PDB; the text says what it looks like. Or MSFZ in a compression that cannot be read here.
        TruncatedInput: The file is shorter than it says.
        MalformedInput: The file contradicts itself.
    """
    head = view.read(0, min(view.size, 512))
    if head.startswith(_PORTABLE_MAGIC):
        return parse_portable(view)
    if head.startswith(_PDB2_MAGIC):
        return parse_pdb2(view)
    return _parse_native(open_container(view, head))


def open_container(view: ByteView, head: bytes = b"") -> StreamContainer:
    """Return the streams of a native PDB; *head* may be its first 512 bytes where they were read already.

    Raises:
        UnknownFormat: Not a native PDB; the text says what it looks like.
        TruncatedInput: The file is shorter than it says.
        MalformedInput: The file contradicts itself.
    """
    head = head or view.read(0, min(view.size, 512))
    if head.startswith(MSF_MAGIC):
        return Msf(view, head)
    if head.startswith(MSFZ_MAGIC):
        return Msfz(view)
    raise _refuse(head)


def _parse_native(container: StreamContainer) -> NativePdb:
    """Return the identity of a native PDB.

    Stream 1: version u32, signature u32, age u32, GUID (16, mixed-endian), then the map of named streams and feature
    codes. Stream 3: -1, version u32, age u32, ... length of the module list u32 at 24, flags u16 at 56, machine u16
    at 58; the module list follows at 64.
    Source: LLVM's "The PDB Info Stream" and "The PDB DBI Stream"; microsoft-pdb, pdb.h for the versions.
    """
    info = container.stream(_INFO)
    if info.size < 12:
        raise MalformedInput("the information stream is missing or too short for an identity")
    version, signature, info_age = unpack("<3I", info.read(0, 12))
    if version <= _LAST_VERSION_WITHOUT_GUID or info.size < _INFO_BYTES:
        raise MalformedInput(f"the information stream (version {version}) holds no GUID")
    dbi_age, machine, flags, symbols, unread = _read_dbi(container)
    return NativePdb(
        guid=UUID(bytes_le=info.read(12, 16)),
        info_age=info_age,
        dbi_age=dbi_age,
        signature=signature,
        version=version,
        machine=machine,
        flags=flags,
        mini=_is_mini(info),
        symbols=symbols,
        container=Container.MSF if isinstance(container, Msf) else Container.MSFZ,
        block_size=container.block_size if isinstance(container, Msf) else None,
        stream_count=container.stream_count,
        unread=unread,
    )


def _read_dbi(
    container: StreamContainer,
) -> tuple[int | None, int | None, int | None, SymbolKind | None, str | None]:
    """Return age, machine, flags, kind of symbols, and why nothing of it could be read."""
    dbi = container.stream(_DBI)
    if dbi.size == 0:
        return None, None, None, SymbolKind.TYPE_ONLY, None
    if dbi.size < _DBI_BYTES:
        raise MalformedInput(f"the debug information stream ends within its header ({dbi.size} bytes)")
    try:
        head = dbi.read(0, _DBI_BYTES)
    except UnknownFormat as error:  # compressed in a way that cannot be read; the information stream was not
        return None, None, None, None, error.problem
    if head[:4] != b"\xff\xff\xff\xff":
        raise MalformedInput("the debug information stream has a header of an unknown version")
    age, modules_bytes, flags, machine = unpack_from("<8xI12xI28xHH", head)
    stripped = bool(flags & _STRIPPED) or not _has_module_stream(dbi, modules_bytes)
    return age, machine, flags, SymbolKind.PUBLIC if stripped else SymbolKind.PRIVATE, None


def _has_module_stream(dbi: ByteView, modules_bytes: int) -> bool:
    """Return whether one of the first modules has symbols of its own; more than 32 KiB are not looked at.

    Module entry: 64 bytes, among them its stream u16 at 34 (0xFFFF: none), then two NUL-terminated names, padded to 4.
    """
    available = min(modules_bytes, dbi.size - _DBI_BYTES)
    try:
        # The first module has symbols nearly always, and lies in a block that was read already.
        return any(
            _lists_stream(dbi.read(_DBI_BYTES, min(available, limit)))
            for limit in (_FIRST_MODULES_BYTES, _MODULES_LIMIT_BYTES)
        )
    except UnknownFormat:
        return False


def _lists_stream(modules: bytes) -> bool:
    at = 0
    while at + 64 <= len(modules):
        if unpack_from("<H", modules, at + 34)[0] != _NO_STREAM:
            return True
        first = modules.find(b"\0", at + 64)
        second = modules.find(b"\0", first + 1)
        if first < 0 or second < 0:
            break
        at = (second + 4) // 4 * 4
    return False


def _is_mini(info: ByteView) -> bool:
    """Return whether the feature codes say so; not where they cannot be read, as identity does not hang on them.

    Behind the GUID: length of the names of streams u32, the names, entry count u32, capacity u32, two bit sets {word
    count u32, words}, entries of 8 bytes; then feature codes u32 until the end, or until the one for Visual C++ 2012,
    which stands alone.
    Source: LLVM's "The PDB Info Stream", "The PDB Serialized Hash Table Format".
    """

    def number(at: int) -> int:
        return parse_uint(info.read(at, 4), 0, 4)

    try:
        at = _INFO_BYTES
        at += 4 + number(at)
        entries = number(at)
        at += 8
        for _ in range(2):
            at += 4 + 4 * number(at)
        at += 8 * entries
        count = max(0, min(info.size - at, _FEATURES_LIMIT_BYTES)) // 4
        codes = unpack(f"<{count}I", info.read(at, 4 * count))
    except InputError:
        return False
    return _MINI in takewhile(lambda code: code != _VC110, codes)


def _refuse(head: bytes) -> InputError:
    """Return why a file that begins with *head* is not a PDB."""
    if not head:
        return TruncatedInput("the file is empty", offset=0)
    if any(magic.startswith(head) for magic in (MSF_MAGIC, MSFZ_MAGIC, _PDB2_MAGIC, _PORTABLE_MAGIC)):
        return TruncatedInput("the file ends within the magic of a PDB", offset=len(head))
    return UnknownFormat(f"not a PDB: it looks like {_guess(head)}", offset=0)


def _guess(head: bytes) -> str:
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        return "an HTML or XML page" if b"html" in text.lower() else "an XML file"
    if not any(head):
        return "nothing but zero bytes"
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in head):
        return f"text: {head[:40].decode('utf-8', 'replace').splitlines()[0]!r}"
    return "no format that is known"
