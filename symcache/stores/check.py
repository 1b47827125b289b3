"""Whether a file is what its key names: plain files, cabinets, and what arrives in a scratch file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, PointerNotAllowed, UpstreamRefused, WrongContent
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.markup import HEAD_BYTES, Markup, find_markup
from symcache.formats.pdb.info import Container, NativePdb, Pdb2, PortablePdb, compute_portable_checksum, parse_pdb
from symcache.formats.pe.image import Image, Layout, parse_dbg, parse_image
from symcache.formats.view import FileView
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey, compressed_name
from symcache.stores.base import Arrival, Form, size_if_right
from symcache.stores.local.atomic import drop, store_errors
from symcache.stores.local.rights import open_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.base import FileRequest
    from symcache.stores.chain import ChainSettings
    from symcache.stores.local.tree import Store


LONGEST_POINTER_BYTES = 4096
_CABINET = b"MSCF"
_LARGEST_STORED_BYTES = 8 << 30  # that a cabinet in a store expands to


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a file brought."""

    problem: str | None = None  # why it is not what the key names, in a few words
    note: str | None = None  # something odd that does not make it wrong

    @property
    def is_right(self) -> bool:
        """Whether the file may stand under the key."""
        return self.problem is None


def check_file(path: Path, key: Key, *, checksums: Sequence[str] = ()) -> Verdict:
    """Return whether the plain file at *path* is what *key* names, as `check_view`; `OSError` if it cannot be read."""
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
            is_same = (pdb.signature, pdb.age) == (key.signature, key.age)
            return Verdict() if is_same else Verdict(f"another PDB: {pdb.signature:08X}{pdb.age:x}")
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
    file = parse_dbg(view) if isinstance(key, DbgKey) else parse_image(view, Layout.DISK)
    if (file.timestamp, file.size_of_image) != (key.timestamp, key.size_of_image):
        return Verdict(f"another image: {file.timestamp:08X}{file.size_of_image:x}")
    if isinstance(file, Image) and view.size < file.extent_bytes:
        return Verdict(f"cut short: {view.size} of at least {file.extent_bytes} bytes")
    return Verdict()


class StoredCheck:
    """Says why a file is not what its key names; a cabinet is expanded into a scratch file of *store* first.

    *look* looks into a plain file and returns why it is not right.
    """

    def __init__(
        self, store: Store, look: Callable[[Path, Key], str | None] = lambda path, key: check_file(path, key).problem
    ) -> None:
        self._store = store
        self._look = look

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return what the look brought; `OSError` if the file cannot be read, `StoreError` if the store not written."""
        with open_stored(path) as file:
            is_cabinet = file.read(len(_CABINET)) == _CABINET
        if not is_cabinet:
            return self._look(path, key)
        scratch = self._store.scratch()
        try:
            _expand(path, scratch, _LARGEST_STORED_BYTES)
            return self._look(scratch, key)
        except InputError as error:
            return f"a damaged cabinet: {error}"
        finally:
            drop(scratch)


def _expand(cabinet: Path, plain: Path, largest_bytes: int) -> int:
    """Expand *cabinet*'s one file, whatever name it has there, to *plain*; return the length."""
    with FileView(cabinet) as view, plain.open("xb") as file:
        opened = open_cabinet(view)
        return sum(file.write(piece) for piece in expand(opened, opened.members[0], limit_bytes=largest_bytes))


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer file says: a target, as written, or a message that there is none."""

    target: str | None = None
    message: str | None = None


def parse_pointer(data: bytes) -> Pointer:
    """Return what a pointer file says: ``PATH:target``, ``MSG:text``, or the bare target.

    Raises:
        MalformedInput: It is empty, too long, or not one line of text.

    Source: symstore /p writes the bare path; servers answer ``PATH:`` or ``MSG:`` (perfview, dotnet/symstore).
    """
    if len(data) > LONGEST_POINTER_BYTES:
        raise MalformedInput("pointer file is too long")
    try:
        text = data.decode("utf-8-sig").strip("\0 \t\r\n")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace").strip("\0 \t\r\n")
    if not text or not text.isprintable():
        raise MalformedInput("pointer file does not hold one line of text")
    kind, colon, rest = text.partition(":")
    if colon and kind.upper() == "MSG":
        return Pointer(message=rest.strip())
    return Pointer(target=rest.strip() if colon and kind.upper() == "PATH" else text)


def resolve_pointer(target: str, allow: Sequence[str], as_local: Callable[[str], Path | None]) -> Path | None:
    r"""Return the file that *target* names, if a prefix in *allow* covers it; None if none does.

    Both are paths in the same notation; whole path parts are compared, without regard to letter case, and ``..`` never
    counts. *as_local* turns a share's path into one of this machine; None where it cannot be reached.
    """
    parts = _parts(target)
    if ".." in parts or "." in parts:
        return None
    for prefix in allow:
        wanted = _parts(prefix)
        if wanted and parts[: len(wanted)] == wanted:
            path, root = as_local(target), as_local(prefix)
            if path is None or root is None:
                return None
            # A link inside the allowed place must not lead out of it either.
            resolved = path.resolve()
            return resolved if resolved.is_relative_to(root.resolve()) else None
    return None


def _parts(path: str) -> list[str]:
    return path.replace("\\", "/").rstrip("/").lower().split("/")


def examine(
    scratch: Path,
    form: Form,
    request: FileRequest,
    origin: str,
    new_scratch: Callable[[], Path],
    settings: ChainSettings,
) -> Arrival:
    """Return what arrived in *scratch* in the given form, made plain and found right.

    A pointer file is replaced by what it names, a cabinet is expanded to the path that *new_scratch* returns. *origin*
    is for errors.

    Raises:
        WrongContent: It is not what the key names, or a cabinet of too much.
        UpstreamRefused: It is a pointer that may not be followed.
        StoreError: The disk does not take it.
    """
    if form is Form.PLAIN and (size := size_if_right(str(scratch), request.key)) is not None:
        return Arrival(scratch, size_bytes=size)
    plain, cabinet = scratch, None
    verdict = Verdict("not looked at")
    with store_errors(scratch):
        try:
            if form is Form.POINTER and (message := _follow(scratch, origin, settings.follow)) is not None:
                return Arrival(scratch, message=f"MSG: {message}")
            with FileView(scratch) as view:
                size_bytes = view.size
                # Some servers answer for the plain name with what they have, and a pointer leads to either.
                if view.read(0, min(len(_CABINET), size_bytes)) == _CABINET:
                    cabinet, plain = scratch, new_scratch()
                else:
                    verdict = check_view(view, request.key, checksums=request.checksums)
            if cabinet is not None:
                try:
                    size_bytes = _expand(cabinet, plain, settings.largest_bytes)
                except InputError as error:
                    raise WrongContent(f"a cabinet that cannot be expanded: {error}", url=origin) from error
                verdict = check_file(plain, request.key, checksums=request.checksums)
        finally:
            if cabinet is not None and not verdict.is_right:
                drop(plain)
    if verdict.problem is not None:
        raise WrongContent(verdict.problem, url=origin)
    return Arrival(plain, cabinet, size_bytes, verdict.note)


def _follow(pointer: Path, origin: str, follow: Callable[[str], Path | None]) -> str | None:
    """Put the file that *pointer* names in its place; return its message if it names none."""
    with open_stored(pointer) as file:
        data = file.read(LONGEST_POINTER_BYTES + 1)
    try:
        said = parse_pointer(data)
    except InputError as error:
        raise WrongContent(str(error), url=origin) from error
    if said.target is None:
        return said.message
    path = follow(said.target)
    if path is None:
        raise PointerNotAllowed("a pointer to a place that pointers.allow does not name", url=origin)
    if not path.is_file():
        # Where a whole folder was compressed after the pointers into it were written; symsrv looks there, too.
        path = path.with_name(compressed_name(path.name))
    if not path.is_file():
        raise UpstreamRefused("a pointer to a file that is not there", url=origin)
    try:
        source = open_stored(path)
    except OSError as error:
        raise UpstreamRefused(f"a pointer to a file that cannot be read: {error.strerror}", url=origin) from error
    with source, pointer.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return None
