"""A PDB as an input: what it is, and the key under which a store files it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symcache.errors import MalformedInput
from symcache.formats.pdb.info import Container, NativePdb, Pdb2, SymbolKind, parse_pdb
from symcache.formats.pe.image import machine_name
from symcache.identity import Pdb2Key, PdbKey, PortablePdbKey, base_name
from symcache.inputs.records import STANDARD_INPUT, Input, InputKind, Module, PdbFormat, PdbReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.pdb.info import PdbIdentity
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

_INCREMENTAL, _CONFLICTING = 0x1, 0x4


def read_pdb(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the PDB and, as its one module, the key it is filed under.

    Raises:
        InputError: It is not a PDB, is cut short or contradicts itself.
    """
    identity = parse_pdb(view)
    yield Input(path, InputKind.PDB, _details(identity))
    name = base_name(path)
    try:
        reference = pdb_reference_of(identity, name)
    except MalformedInput as error:
        yield Module(name, path, problem=error.problem)
    else:
        yield Module(name, path, pdbs=(reference,))


def pdb_reference_of(identity: PdbIdentity, name: str) -> PdbReference:
    """Return what an image would have to name to get this PDB, filed under the base name *name*.

    Raises:
        MalformedInput: The GUID is nil, or *name* cannot be that of a file in a store.
    """
    if name == STANDARD_INPUT:
        raise MalformedInput("a PDB on standard input has no name to be filed under")
    if isinstance(identity, Pdb2):
        return PdbReference(Pdb2Key(name, identity.signature, identity.age), PdbFormat.PDB2)
    if not identity.guid.int:
        raise MalformedInput("its GUID is nil, which identifies nothing")
    if isinstance(identity, NativePdb):
        return PdbReference(PdbKey(name, identity.guid, identity.age), PdbFormat.NATIVE)
    return PdbReference(PortablePdbKey(name, identity.guid), PdbFormat.PORTABLE)


def _details(identity: PdbIdentity) -> dict[str, Any]:
    """Return the facts about a PDB that ``inspect`` shows; values fit into JSON."""
    if isinstance(identity, NativePdb):
        return _native_details(identity)
    if isinstance(identity, Pdb2):
        return {
            "format": PdbFormat.PDB2.value,
            "signature": f"{identity.signature:08X}",
            "age": identity.age,
            "version": identity.version,
            "block_size": identity.block_size,
            "streams": identity.stream_count,
            "notes": [],
        }
    return {
        "format": PdbFormat.PORTABLE.value,
        "guid": str(identity.guid),
        "stamp": f"{identity.stamp:08X}",
        "metadata_version": identity.metadata_version,
        "notes": [],
    }


def _native_details(identity: NativePdb) -> dict[str, Any]:
    return {
        "format": PdbFormat.NATIVE.value,
        "container": identity.container.value,
        "guid": str(identity.guid),
        "age": identity.age,
        "info_age": identity.info_age,
        "dbi_age": identity.dbi_age,
        "signature": f"{identity.signature:08X}",
        "version": identity.version,
        "machine": None if identity.machine is None else machine_name(identity.machine),
        "symbols": None if identity.symbols is None else identity.symbols.value,
        "block_size": identity.block_size,
        "streams": identity.stream_count,
        "notes": list(_notes(identity)),
    }


def _notes(identity: NativePdb) -> Iterator[str]:
    if identity.unread is not None:
        yield f"the age of the information stream stands in for that of the debug information ({identity.unread})"
    if identity.dbi_age is not None and identity.dbi_age != identity.info_age:
        yield (
            f"information stream has age {identity.info_age}, debug information has age {identity.dbi_age}; "
            "the latter counts (edited after linking, as source indexing does)"
        )
    if identity.symbols is SymbolKind.TYPE_ONLY:
        yield "no debug information about an image: a compiler's type server, filed without an age"
    if identity.mini:
        yield "made by /DEBUG:FASTLINK: most symbols stay in object files on the machine that linked it"
    if identity.container is Container.MSFZ:
        yield "MSFZ container: debuggers before 2024 cannot read it"
    if identity.flags is not None and identity.flags & _INCREMENTAL:
        yield "linked incrementally"
    if identity.flags is not None and identity.flags & _CONFLICTING:
        yield "made with conflicting types"
