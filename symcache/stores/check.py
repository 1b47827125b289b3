"""Whether a file is what its key names: plain files, and cabinets as stores hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.cab.cabinet import expand, open_cabinet
from symcache.formats.markup import HEAD_BYTES, Markup, find_markup
from symcache.formats.pdb.info import Container, NativePdb, Pdb2, PortablePdb, compute_portable_checksum, parse_pdb
from symcache.formats.pe.image import Layout, parse_dbg, parse_image
from symcache.formats.view import FileView
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.stores.base import size_if_right

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["StoredCheck", "Verdict", "check_file", "check_view"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a file brought.

    Attributes:
        problem: Why it is not what the key names, in a few words; None if it is.
        note: Something odd that does not make it wrong.
    """

    problem: str | None = None
    note: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the file may stand under the key."""
        return self.problem is None


def check_file(path: Path, key: Key, *, checksums: Sequence[str] = ()) -> Verdict:
    """Return whether the plain file at *path* is what *key* names; see `check_view`.

    Raises:
        OSError: The file cannot be read.
    """
    if size_if_right(str(path), key) is not None:
        return Verdict()
    with FileView(path) as view:
        return check_view(view, key, checksums=checksums)


def check_view(view: ByteView, key: Key, *, checksums: Sequence[str] = ()) -> Verdict:
    """Return whether *view* holds the plain file that *key* names, whole.

    PDBs must have the GUID and the age of the debug information (the age of the information stream is a second
    chance, and noted), portable PDBs the GUID and, where the image states any, one of *checksums*
    (``ALGORITHM:hex``), images the stamp and SizeOfImage. A file that ends before what its headers promise is refused.

    Source: see the formats; accepting the information stream's age is ours, for PDBs whose debug information was
    rewritten alone.
    """
    if not view.size:
        return Verdict("empty")
    try:
        if isinstance(key, PdbKey | Pdb2Key | PortablePdbKey):
            return _check_pdb(view, key, checksums)
        if isinstance(key, ImageKey):
            return _check_image(view, key)
    except InputError as error:
        return Verdict(str(error))
    markup = find_markup(view.read(0, min(view.size, HEAD_BYTES)))
    if markup in {Markup.HTML, Markup.XML}:
        return Verdict(markup)
    return Verdict(note="this kind of id cannot be verified")


def _check_pdb(view: ByteView, key: PdbKey | Pdb2Key | PortablePdbKey, checksums: Sequence[str]) -> Verdict:
    pdb = parse_pdb(view)
    match key, pdb:
        case PdbKey(), NativePdb():
            return _compare_native(key, pdb)
        case Pdb2Key(), Pdb2():
            if (pdb.signature, pdb.age) != (key.signature, key.age):
                return Verdict(f"another PDB: {pdb.signature:08X}{pdb.age:x}")
            return Verdict()
        case PortablePdbKey(), PortablePdb():
            if pdb.guid != key.guid:
                return Verdict(f"another PDB: {pdb.guid.hex.upper()}")
            return _compare_checksums(view, pdb, checksums)
        case _:
            return Verdict(f"a {_KINDS[type(pdb)]}, not a {_WANTED[type(key)]}")


_KINDS = {NativePdb: "PDB 7", Pdb2: "PDB 2.0", PortablePdb: "portable PDB"}
_WANTED = {PdbKey: "PDB 7", Pdb2Key: "PDB 2.0", PortablePdbKey: "portable PDB"}


def _compare_native(key: PdbKey, pdb: NativePdb) -> Verdict:
    if pdb.container is Container.MSFZ:
        return Verdict("an MSFZ container, which debuggers do not look for under this name")
    if pdb.guid != key.guid:
        return Verdict(f"another PDB: {pdb.guid.hex.upper()}")
    if pdb.age == key.age:
        return Verdict()
    if pdb.info_age == key.age:
        return Verdict(note=f"age {key.age} is that of the information stream; the debug information has {pdb.dbi_age}")
    return Verdict(f"another age: {pdb.age}, not {key.age}")


def _compare_checksums(view: ByteView, pdb: PortablePdb, checksums: Sequence[str]) -> Verdict:
    unknown = True
    for stated in checksums:
        algorithm, _, digest = stated.partition(":")
        try:
            computed = compute_portable_checksum(view, algorithm, id_offset=pdb.id_offset)
        except InputError:
            continue  # an algorithm of the future says nothing for or against the file
        if computed == digest.lower():
            return Verdict()
        unknown = False
    return Verdict() if unknown else Verdict("another PDB: its checksum is not the one the image states")


def _check_image(view: ByteView, key: ImageKey) -> Verdict:
    if isinstance(key, DbgKey):
        dbg = parse_dbg(view)
        found = (dbg.timestamp, dbg.size_of_image)
        extent_bytes = 0
    else:
        image = parse_image(view, Layout.DISK)
        found = (image.timestamp, image.size_of_image)
        extent_bytes = image.extent_bytes
    if found != (key.timestamp, key.size_of_image):
        return Verdict(f"another image: {found[0]:08X}{found[1]:x}")
    if view.size < extent_bytes:
        return Verdict(f"cut short: {view.size} of at least {extent_bytes} bytes")
    return Verdict()


class StoredCheck:
    """Says why a file is not what its key names; a cabinet is expanded into a scratch file first.

    Args:
        store: Whose scratch files it uses.
        look: Looks into a plain file and returns why it is not right, None if it is.
        largest_bytes: The most that a cabinet may expand to.
    """

    def __init__(
        self,
        store: Store,
        look: Callable[[Path, Key], str | None] = lambda path, key: check_file(path, key).problem,
        *,
        largest_bytes: int = 8 << 30,
    ) -> None:
        self._store = store
        self._look = look
        self._largest_bytes = largest_bytes

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return what the look at the file brought.

        Raises:
            OSError: The file cannot be read.
            StoreError: The store cannot be written.
        """
        with path.open("rb") as file:
            is_cabinet = file.read(4) == b"MSCF"
        return self._check_cabinet(path, key) if is_cabinet else self._look(path, key)

    def _check_cabinet(self, path: Path, key: Key) -> str | None:
        scratch = self._store.scratch()
        try:
            with FileView(path) as view, scratch.open("wb") as plain:
                cabinet = open_cabinet(view)
                plain.writelines(expand(cabinet, cabinet.members[0], limit_bytes=self._largest_bytes))
            return self._look(scratch, key)
        except InputError as error:
            return f"a damaged cabinet: {error}"
        finally:
            scratch.unlink(missing_ok=True)
