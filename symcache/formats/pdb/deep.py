"""Streams, symbols and types of a PDB, read with pdbparse, and checks of its block lists.

The one module that knows pdbparse, which is optional: no wheels, not for Python 3.12 and later.
"""

from __future__ import annotations

import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from symcache.errors import InputError, MalformedInput, UnknownFormat, UsageError
from symcache.formats.pdb.msf import MSF_MAGIC, Msf
from symcache.formats.view import FileView

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_HOW_TO_INSTALL = (
    "pdbparse is not installed; deep checks need it: pip install 'symcache[pdbparse]' (Python 3.11 and a C compiler)"
)
_INFO, _TYPES, _DEBUG = 1, 2, 3
_PUBLIC_SYMBOL = 0x110E
_STRUCTURES = frozenset({0x1504, 0x1505})
_FORWARD = 0x80
# pdbparse joins the directory block by block, which takes time by the square of its length.
_DIRECTORY_LIMIT_BYTES = 4 << 20
_STREAM_LIMIT_BYTES = 64 << 20
_PAGES_AT_A_TIME = 64
_MOST_STREAMS = 1 << 16
_MOST_PROBLEMS = 20
_HEAD_BYTES = 28


@dataclass(frozen=True, slots=True)
class DeepIdentity:
    """Identity of a PDB as pdbparse reads it."""

    guid: UUID
    info_age: int  # age in the information stream
    dbi_age: int | None  # age in the debug information stream; None without one
    machine: int | None  # COFF machine number; None without debug information
    flags: int | None  # flags of the debug information; None without it


@dataclass(frozen=True, slots=True)
class DeepSymbol:
    """A public symbol."""

    name: str  # as the linker spells it
    segment: int  # number of its section, from 1
    offset: int  # offset in its section, in bytes


def available() -> bool:
    """Return whether pdbparse is installed; it is not imported for that."""
    return find_spec("pdbparse") is not None


def check_available() -> None:
    """Raise `UsageError`, which says how to get it, unless pdbparse is installed."""
    if not available():
        raise UsageError(_HOW_TO_INSTALL)


def _load() -> Any:
    """Return the parts of pdbparse that are used, and what its parser raises, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # construct 2.9 imports a module that is on its way out
        try:
            parts = {name: import_module(f"pdbparse.{name}") for name in ("dbi", "gdata", "info", "tpi")}
            return SimpleNamespace(
                **parts, PDB7=import_module("pdbparse").PDB7, error=import_module("construct").ConstructError
            )
        except ImportError as error:
            raise UsageError(_HOW_TO_INSTALL) from error


class DeepPdb:
    """A native PDB opened with pdbparse; use it in a ``with`` statement.

    Only what was found to work on real files is called, behind checks of our own, because pdbparse trusts the sizes
    that a file states: never a stream's ``load()`` for types or debug information, never ``tpi.Type.parse``, which
    opens a debugger on damaged records.

    Raises:
        UsageError: pdbparse is not installed; the text says how to get it.
        OSError: The file cannot be opened.
        UnknownFormat: Not an MSF 7 file, or one with a directory larger than 4 MiB.
        InputError: The file is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self._library = _load()
        with FileView(path) as view:
            _check_before_pdbparse(view)
        self._file = Path(path).open("rb")  # noqa: SIM115  # closed by close(); what pdbparse opens itself never is
        try:
            with self._translated():
                self._pdb: Any = self._library.PDB7(self._file, fast_load=True)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Give the file back; safe to call twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream_sizes(self) -> list[int]:
        """Return the length of each stream in bytes; a nil stream counts as empty."""
        return [stream.size for stream in self._pdb.streams]

    def identity(self) -> DeepIdentity:
        """Return GUID and ages; raise `InputError` where the streams that hold them are damaged."""
        with self._translated():
            # The names behind the GUID are left away: they are parsed letter by letter, however many there are.
            head = self._library.info.Info.parse(self._read(_INFO, first_bytes=_HEAD_BYTES) + bytes(4))
            parts = head.GUID
            guid = UUID(bytes_le=struct.pack("<IHH", parts.Data1, parts.Data2, parts.Data3) + parts.Data4)
            header = self._debug_header()
            if header is None:
                return DeepIdentity(guid, head.Age, None, None, None)
            return DeepIdentity(guid, head.Age, header.age, int(header.Machine), header.flags)

    def public_symbols(self, limit: int) -> list[DeepSymbol]:
        """Return the first *limit* public symbols, in file order; raise `InputError` at a damaged record."""
        found: list[DeepSymbol] = []
        with self._translated():
            header = self._debug_header()
            if header is None or not 0 <= header.symrecStream < len(self._pdb.streams):
                return found
            for record in _split_records(self._read(header.symrecStream)):
                if len(found) >= limit:
                    break
                if int.from_bytes(record[:2], "little") != _PUBLIC_SYMBOL:
                    continue
                symbol = self._library.gdata.gsym.parse(record).data
                found.append(DeepSymbol(str(symbol.name), symbol.segment, symbol.offset))
        return found

    def structure_names(self, limit: int) -> list[str]:
        """Return the names of the first *limit* structures and classes that are defined, in file order.

        Raises `InputError` where the type stream is damaged.
        """
        found: list[str] = []
        with self._translated():
            data = self._read(_TYPES)
            if not data:
                return found
            (header_bytes,) = struct.unpack_from("<I", data, 4)
            for record in _split_records(data[header_bytes:]):
                if len(found) >= limit:
                    break
                leaf, properties = int.from_bytes(record[:2], "little"), int.from_bytes(record[4:6], "little")
                if leaf not in _STRUCTURES or properties & _FORWARD:
                    continue
                # Not Type.parse, which is a construct.Debugger.
                name = self._library.tpi.Type.subcon.parse(record).type_info.value.name_or_val
                # Behind a size of 0x8000 and more the name lies one deeper.
                found.append(name if isinstance(name, str) else str(name.name))
        return found

    def find_block_problems(self) -> Iterator[str]:
        """Yield what is wrong with the block lists, one line each."""
        count = self._pdb.num_file_pages
        owners = bytearray(count)  # 1: some stream has it
        for page in self._pdb.root_stream.pages:
            if page < count:
                owners[page] = 1
        for stream in self._pdb.streams:
            for page in stream.pages:
                if page >= count:
                    yield f"stream {stream.index} uses block {page} of {count}"
                elif page == 0:
                    yield f"stream {stream.index} uses the superblock"
                elif owners[page]:
                    yield f"stream {stream.index} uses block {page}, which another stream or the directory has"
                else:
                    owners[page] = 1

    def _debug_header(self) -> Any | None:
        header = self._library.dbi.DBIHeader
        data = self._read(_DEBUG, first_bytes=header.sizeof())
        return header.parse(data) if data else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn whatever pdbparse and construct raise on damaged bytes into an `InputError`."""
        try:
            yield
        except InputError:
            raise
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            struct.error,
            self._library.error,
        ) as error:
            raise MalformedInput(f"pdbparse cannot read it: {type(error).__name__}: {str(error)[:200]}") from error

    def _read(self, number: int, *, first_bytes: int | None = None) -> bytes:
        stream = self._pdb.streams[number]
        size = stream.size if first_bytes is None else min(first_bytes, stream.size)
        if size > _STREAM_LIMIT_BYTES:
            raise MalformedInput(f"stream {number} has {stream.size} bytes, more than are read in a deep check")
        pages = stream.pages[: -(-size // self._pdb.page_size)]
        parts = (pages[at : at + _PAGES_AT_A_TIME] for at in range(0, len(pages), _PAGES_AT_A_TIME))
        data: bytes = b"".join(self._pdb.read(part) for part in parts)[:size]
        return data


def check_identity(path: Path | str, guid: UUID, info_age: int, dbi_age: int | None) -> list[str]:
    """Return what pdbparse reads otherwise than it was read before; empty if both agree.

    Raises:
        UsageError, OSError, InputError: As `DeepPdb`.
    """
    with DeepPdb(path) as pdb:
        found = pdb.identity()
    pairs = (("GUID", guid, found.guid), ("info age", info_age, found.info_age), ("DBI age", dbi_age, found.dbi_age))
    return [f"{name} is {ours}, pdbparse reads {theirs}" for name, ours, theirs in pairs if ours != theirs]


def check_blocks(path: Path | str) -> list[str]:
    """Return at most 20 faults of the block lists of a PDB: numbers out of range, blocks that two streams share.

    Raises:
        UsageError, OSError, InputError: As `DeepPdb`.
    """
    with DeepPdb(path) as pdb:
        return list(islice(pdb.find_block_problems(), _MOST_PROBLEMS))


def _check_before_pdbparse(view: FileView) -> None:
    """Refuse what pdbparse would trust: it allocates by the sizes and counts that a file states."""
    if view.read(0, min(view.size, len(MSF_MAGIC))) != MSF_MAGIC:
        raise UnknownFormat("not an MSF 7 file; pdbparse is asked about no other", offset=0)
    msf = Msf(view)
    if msf.block_count * msf.block_size != view.size:
        raise MalformedInput(
            f"the file has {view.size} bytes, {msf.block_count} blocks of {msf.block_size} bytes have "
            f"{msf.block_count * msf.block_size}"
        )
    if msf.directory_size > _DIRECTORY_LIMIT_BYTES:
        raise UnknownFormat(f"a stream directory of {msf.directory_size} bytes is more than is read in a deep check")
    if msf.stream_count <= _DEBUG:
        raise MalformedInput(f"{msf.stream_count} streams are too few for a PDB")
    if msf.stream_count > _MOST_STREAMS:
        raise MalformedInput(f"{msf.stream_count} streams are more than the 16 bits of a stream number can name")
    if 4 + 4 * msf.stream_count + 4 * msf.count_all_blocks() > msf.directory_size:
        raise MalformedInput("the stream directory ends before the block numbers of its streams")


def _split_records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        if end > len(data):
            raise MalformedInput("the last record leaves its stream")
        yield data[at + 2 : end]
        at = end
