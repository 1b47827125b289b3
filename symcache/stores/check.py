"""Whether a file is what its key names: plain files, cabinets, and what arrives in a scratch file."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import (
    CutShort,
    InputError,
    MalformedInput,
    OtherBuild,
    OtherBytes,
    PointerNotAllowed,
    TruncatedInput,
    UpstreamRefused,
    WrongContent,
)
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.glance import HEAD_BYTES as LENGTH_HEAD_BYTES
from symcache.formats.glance import limit_of
from symcache.formats.markup import HEAD_BYTES, Markup, find_markup
from symcache.formats.pdb.info import Container, NativePdb, Pdb2, PortablePdb, compute_portable_checksum, parse_pdb
from symcache.formats.pe.exports import find_own_name
from symcache.formats.pe.image import Image, ImageSpace, Layout, machine_name, parse_dbg, parse_image
from symcache.formats.pe.version import dotted, find_version
from symcache.formats.view import FileView
from symcache.identity import (
    DbgKey,
    ImageKey,
    OtherKey,
    Pdb2Key,
    PdbKey,
    PortablePdbKey,
    compressed_name,
    parse_runtime_library,
    printable,
)
from symcache.inputs.records import locked_hashes
from symcache.stores.base import Arrival, Form, size_if_right
from symcache.stores.local.atomic import drop, store_errors
from symcache.stores.local.rights import open_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.identity import Key, RuntimeLibrary
    from symcache.stores.base import FileRequest
    from symcache.stores.chain import ChainSettings
    from symcache.stores.local.tree import Store


_LONGEST_POINTER_BYTES = 4096
_CABINET = b"MSCF"
_HASHED_BYTES = 1 << 20
_LARGEST_STORED_BYTES = 8 << 30  # that a cabinet in a store expands to


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a file brought."""

    problem: str | None = None  # why it is not what the key names, in a few words
    note: str | None = None  # something odd that does not make it wrong
    error: type[WrongContent] = WrongContent  # what to raise for it where it came from an upstream

    @property
    def is_right(self) -> bool:
        """Whether the file may stand under the key."""
        return self.problem is None


def check_file(path: Path, key: Key, *, checksums: Sequence[str] = ()) -> Verdict:
    """Return whether the plain file at *path* is what *key* names, as `check_view`; `OSError` if it cannot be read."""
    if size_if_right(str(path), key) is not None and not locked_hashes(checksums):
        return Verdict()
    with FileView(path) as view:
        return check_view(view, key, checksums=checksums)


def check_view(view: ByteView, key: Key, *, checksums: Sequence[str] = ()) -> Verdict:
    """Return whether *view* holds the plain file that *key* names, whole, with the bytes that a lock file states.

    Of a file that a lock file states, *checksums* have the hash; a file that is the key's and differs is another
    publication of the same build: the PDB with its private symbols, or stripped of them.
    """
    verdict = _check_identity(view, key, checksums)  # which passes over what only a lock file states
    wanted = locked_hashes(checksums)
    if not verdict.is_right or not wanted:
        return verdict
    _, found = hash_view(view)
    others = [each for each in wanted if each != found]
    if not others:
        return verdict
    return Verdict(f"other bytes: its SHA-256 is {found}, locked is {' and '.join(others)}", error=OtherBytes)


def hash_view(view: ByteView) -> tuple[int, str]:
    """Return length in bytes and SHA-256, in lower-case hex, of what *view* shows."""
    return hash_pieces(view.read(at, min(_HASHED_BYTES, view.size - at)) for at in range(0, view.size, _HASHED_BYTES))


def hash_pieces(pieces: Iterable[bytes]) -> tuple[int, str]:
    """Return length in bytes and SHA-256, in lower-case hex, of a file that comes in *pieces*."""
    import hashlib  # noqa: PLC0415 - slow to import, and for lock files alone

    size_bytes, digest = 0, hashlib.sha256()
    for piece in pieces:
        size_bytes += len(piece)
        digest.update(piece)
    return size_bytes, digest.hexdigest()


def hash_plain(path: Path, form: Form = Form.PLAIN) -> tuple[int, str]:
    """Return length and SHA-256 of a file that is stored in *form*; of what a cabinet expands to.

    Raises:
        InputError: A cabinet that cannot be expanded.
        OSError: The file cannot be read.
    """
    with FileView(path) as view:
        if form is Form.COMPRESSED and view.read(0, min(len(_CABINET), view.size)) == _CABINET:
            opened = open_cabinet(view)
            return hash_pieces(expand(opened, opened.members[0], limit_bytes=_LARGEST_STORED_BYTES))
        return hash_view(view)


def _check_identity(view: ByteView, key: Key, checksums: Sequence[str]) -> Verdict:
    """Return whether *view* holds the plain file that *key* names, whole.

    PDBs must have the GUID and the age of the debug information (the age of the information stream is a second
    chance, and noted), portable PDBs the GUID and, where the image states any, one of *checksums*
    (``ALGORITHM:hex``), images the stamp and SizeOfImage; libraries of a .NET runtime: see `_compare_library`. A file
    that ends before what its headers promise is refused, and so is a PDB with a part of a block behind it.

    Source: see the formats; for the last, LLVM's ``PDBFile::parseFileHeaders``, which refuses it as well. Accepting the
    information stream's age is ours, for PDBs whose debug information was rewritten alone.
    """
    if not view.size:
        return Verdict("empty", error=CutShort)
    try:
        if isinstance(key, PdbKey | Pdb2Key | PortablePdbKey):
            return _check_pdb(view, key, checksums)
        if isinstance(key, ImageKey):
            return _check_image(view, key)
    except TruncatedInput as error:
        return Verdict(str(error), error=CutShort)
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
            if pdb.block_size and view.size % pdb.block_size:
                return Verdict(f"damaged: {view.size} bytes are no whole number of blocks of {pdb.block_size}")
            return _compare_native(key, pdb)
        case Pdb2Key(), Pdb2():
            is_same = (pdb.signature, pdb.age) == (key.signature, key.age)
            return Verdict() if is_same else Verdict(f"another PDB: {pdb.signature:08X}{pdb.age:x}", error=OtherBuild)
        case PortablePdbKey(), PortablePdb():
            if pdb.guid != key.guid:
                return Verdict(f"another PDB: {pdb.guid.hex.upper()}", error=OtherBuild)
            if view.size < pdb.extent_bytes:
                return Verdict(f"cut short: {view.size} of at least {pdb.extent_bytes} bytes", error=CutShort)
            return _compare_checksums(view, pdb, checksums)
        case _:
            return Verdict(f"a {_KINDS[type(pdb)]}, not a {_WANTED[type(key)]}")


_KINDS = {NativePdb: "PDB 7", Pdb2: "PDB 2.0", PortablePdb: "portable PDB"}
_WANTED = {PdbKey: "PDB 7", Pdb2Key: "PDB 2.0", PortablePdbKey: "portable PDB"}


def _compare_native(key: PdbKey, pdb: NativePdb) -> Verdict:
    if pdb.container is Container.MSFZ:
        return Verdict("an MSFZ container, which debuggers do not look for under this name")
    if pdb.guid != key.guid:
        return Verdict(f"another PDB: {pdb.guid.hex.upper()}", error=OtherBuild)
    if pdb.age == key.age:
        return Verdict()
    if pdb.info_age == key.age:
        return Verdict(note=f"age {key.age} is that of the information stream; the debug information has {pdb.dbi_age}")
    return Verdict(f"another age: {pdb.age}, not {key.age}", error=OtherBuild)


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
    if unknown:
        return Verdict()
    return Verdict("another PDB: its checksum is not the one the image states", error=OtherBuild)


def _check_image(view: ByteView, key: ImageKey) -> Verdict:
    file = parse_dbg(view) if isinstance(key, DbgKey) else parse_image(view, Layout.DISK)
    is_own = (file.timestamp, file.size_of_image) == (key.timestamp, key.size_of_image)
    library = parse_runtime_library(key.name) if isinstance(file, Image) else None
    if not is_own and library is None:
        return Verdict(f"another image: {file.timestamp:08X}{file.size_of_image:x}", error=OtherBuild)
    if isinstance(file, Image) and view.size < file.extent_bytes:
        return Verdict(f"cut short: {view.size} of at least {file.extent_bytes} bytes", error=CutShort)
    if isinstance(file, Image) and library is not None and not (is_own and library.host is None):
        return _compare_library(view, file, library)
    return Verdict()


_HOST_MACHINES = {"amd64": {0x8664}, "x86": {0x14C}, "arm": {0x1C4}, "arm64": {0xAA64, 0xA641, 0xA64E}}
_DLL = 0x2000


def _compare_library(view: ByteView, image: Image, library: RuntimeLibrary) -> Verdict:
    """Return whether *image* may stand under the key of a .NET runtime as that *library* of it.

    Its own stamp and size are others than the runtime's, so its own words count: what it exports or its version
    resource calls it, and, as far as the name states them, for which processor and of which build it is. A build's
    libraries have the version of their runtime. The short name states neither; a library is then also right by its own
    stamp and size, under which it is published for programs that hold their runtime.
    Source: dotnet/diagnostics, PEFileKeyGenerator.cs, for the names and keys; the rule is ours.
    """
    if not image.characteristics & _DLL:
        return Verdict(f"no library, as {library.name} is", error=OtherBuild)
    space = ImageSpace(view, Layout.DISK)
    version: VersionInfo | None = None
    names: set[str] = set()
    with suppress(InputError):
        version = find_version(space)
    with suppress(InputError):
        names.add(find_own_name(space) or "")
    if version is not None:
        names.add(version.original_name or "")
    known = sorted(names - {""})
    if not any(_is_named(name, library) for name in known):
        called = f"called {printable(known[0])!r} by itself" if known else "called nothing by itself"
        return Verdict(f"{called}, not {library.short_name}", error=OtherBuild)
    if library.host is None or library.version is None:
        return Verdict()
    if image.machine not in _HOST_MACHINES[library.host]:
        return Verdict(f"for {machine_name(image.machine)}, not {library.host}", error=OtherBuild)
    numbers = None if version is None else version.file_numbers
    if numbers != library.version:
        found = "without a version" if numbers is None else f"version {dotted(numbers)}"
        return Verdict(f"{found}, not {dotted(library.version)}", error=OtherBuild)
    return Verdict()


def _is_named(name: str, library: RuntimeLibrary) -> bool:
    found = parse_runtime_library(name)
    return found is not None and found.base == library.base


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
        try:
            with self.plain(path, key) as plain:
                return self._look(plain, key)
        except InputError as error:
            return f"a damaged cabinet: {error}"

    @contextmanager
    def plain(self, path: Path, key: Key) -> Iterator[Path]:
        """Lend the plain file for *key*: *path* itself, or what it expands to; `InputError` for a damaged cabinet."""
        with open_stored(path) as file:
            is_cabinet = file.read(len(_CABINET)) == _CABINET
        if not is_cabinet:
            yield path
            return
        scratch = self._store.scratch()
        try:
            _expand(path, scratch, key, _LARGEST_STORED_BYTES)
            yield scratch
        finally:
            drop(scratch)


def _expand(cabinet: Path, plain: Path, key: Key, largest_bytes: int) -> int:
    """Expand *cabinet*'s one file, whatever name it has there, to *plain*; return the length.

    An `InputError` says that it is damaged, or longer than its own beginning says; an `OSError` that there is no room.
    """
    with FileView(cabinet) as view, plain.open("xb") as file:
        opened = open_cabinet(view)
        member = opened.members[0]
        head = b""
        for piece in expand(opened, member, limit_bytes=largest_bytes):
            if len(head) < LENGTH_HEAD_BYTES:
                head += piece[: LENGTH_HEAD_BYTES - len(head)]
                is_told = len(head) == LENGTH_HEAD_BYTES and not isinstance(key, OtherKey)
                if is_told and member.size > limit_of(head):
                    raise MalformedInput(f"{member.size} bytes, longer than it says it is", offset=member.offset)
                if member.size > shutil.disk_usage(plain.parent).free + file.tell():
                    raise OSError(errno.ENOSPC, "no room for it", str(plain))
            file.write(piece)
        return file.tell()


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
    if len(data) > _LONGEST_POINTER_BYTES:
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
    is_plain = form is Form.PLAIN and not locked_hashes(request.checksums)
    if is_plain and (size := size_if_right(str(scratch), request.key)) is not None:
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
                    size_bytes = _expand(cabinet, plain, request.key, settings.largest_bytes)
                except InputError as error:
                    raise WrongContent(f"a cabinet that cannot be expanded: {error}", url=origin) from error
                verdict = check_file(plain, request.key, checksums=request.checksums)
        finally:
            if cabinet is not None and not verdict.is_right:
                drop(plain)
    if verdict.problem is not None:
        raise verdict.error(verdict.problem, url=origin)
    return Arrival(plain, cabinet, size_bytes, verdict.note)


def _follow(pointer: Path, origin: str, follow: Callable[[str], Path | None]) -> str | None:
    """Put the file that *pointer* names in its place; return its message if it names none."""
    with open_stored(pointer) as file:
        data = file.read(_LONGEST_POINTER_BYTES + 1)
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
