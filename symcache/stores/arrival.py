"""What happens to a file between its arrival in a scratch file and its publishing: followed, expanded, verified."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, PointerNotAllowed, UpstreamRefused, WrongContent
from symcache.formats.cab.cabinet import expand, open_cabinet
from symcache.formats.view import FileView
from symcache.identity import compressed_name
from symcache.stores.base import Form, size_if_right
from symcache.stores.check import Verdict, check_file, check_view
from symcache.stores.local.atomic import as_store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["LONGEST_POINTER_BYTES", "Arrival", "Pointer", "examine", "parse_pointer", "resolve_pointer"]


LONGEST_POINTER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a pointer file says: a target, or a message that there is none.

    Attributes:
        target: Path as written; None if it is a message.
        message: Why there is no file; None if there is a target.
    """

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
    if colon and kind.upper() == "PATH":
        return Pointer(target=rest.strip())
    return Pointer(target=text)


def resolve_pointer(target: str, allow: Sequence[str], as_local: Callable[[str], Path | None]) -> Path | None:
    r"""Return the file that *target* names, if a prefix in *allow* covers it; None if none does.

    Args:
        target: Path as a pointer file writes it.
        allow: Prefixes that may be followed, as paths in the same notation; whole path parts are compared, without
            regard to letter case, and ``..`` never counts.
        as_local: Turns a share's path into one of this machine; None where it cannot be reached.
    """
    parts = _parts(target)
    if ".." in parts or "." in parts:
        return None
    for prefix in allow:
        wanted = _parts(prefix)
        if wanted and parts[: len(wanted)] == wanted:
            path = as_local(target)
            root = as_local(prefix)
            if path is None or root is None:
                return None
            # A link inside the allowed place must not lead out of it either.
            resolved = path.resolve()
            return resolved if resolved.is_relative_to(root.resolve()) else None
    return None


def _parts(path: str) -> list[str]:
    text = path.replace("\\", "/").rstrip("/").lower()
    return text.split("/")


_CABINET = b"MSCF"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is what its key names, or a pointer file that said that there is none.

    Attributes:
        plain: The file itself, in a scratch file.
        cabinet: The cabinet it came in, in another; None if it came plain.
        size_bytes: Length of the file itself.
        note: Something odd about it.
        message: Why the file is not available, as a pointer file has it; None if the file is there.
    """

    plain: Path
    cabinet: Path | None = None
    size_bytes: int = 0
    note: str | None = None
    message: str | None = None


def examine(
    scratch: Path,
    form: Form,
    key: Key,
    *,
    checksums: Sequence[str],
    origin: str,
    new_scratch: Callable[[], Path],
    follow: Callable[[str], Path | None],
    largest_bytes: int,
) -> Arrival:
    """Return what arrived in *scratch*, made plain and found right.

    Args:
        scratch: What was fetched; a pointer file is replaced by what it names.
        form: How the store holds it.
        key: What it should be.
        checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.
        origin: Where it came from, for errors.
        new_scratch: Returns the path of another scratch file.
        follow: Returns the file that a pointer's target names; None where it may not be followed.
        largest_bytes: A cabinet that expands to more is refused.

    Raises:
        WrongContent: It is not what the key names.
        UpstreamRefused: It is a pointer that may not be followed.
        StoreError: The disk does not take it.
    """
    if form is Form.PLAIN and (size := size_if_right(str(scratch), key)) is not None:
        return Arrival(scratch, size_bytes=size)
    plain, cabinet = scratch, None
    is_right = False
    try:
        if form is Form.POINTER and (message := _follow(scratch, origin, follow)) is not None:
            return Arrival(scratch, message=f"MSG: {message}")
        with FileView(scratch) as view:
            size_bytes = view.size
            # Some servers answer for the plain name with what they have, and what a pointer leads to may be either.
            is_cabinet = view.read(0, min(len(_CABINET), size_bytes)) == _CABINET
            verdict = Verdict() if is_cabinet else check_view(view, key, checksums=checksums)
        if is_cabinet:
            cabinet, plain = scratch, new_scratch()
            size_bytes = _expand(cabinet, plain, origin, largest_bytes)
            verdict = check_file(plain, key, checksums=checksums)
        is_right = verdict.is_right
    except OSError as error:
        raise as_store_error(error, scratch) from error
    finally:
        if not is_right and cabinet is not None:
            plain.unlink(missing_ok=True)
    if verdict.problem is not None:
        raise WrongContent(verdict.problem, url=origin)
    return Arrival(plain, cabinet, size_bytes, verdict.note)


def _follow(pointer: Path, origin: str, follow: Callable[[str], Path | None]) -> str | None:
    """Put the file that *pointer* names in its place; return its message if it names none."""
    with pointer.open("rb") as file:
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
        source = path.open("rb")
    except OSError as error:
        raise UpstreamRefused(f"a pointer to a file that cannot be read: {error.strerror}", url=origin) from error
    with source, pointer.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return None


def _expand(cabinet: Path, plain: Path, origin: str, largest_bytes: int) -> int:
    """Expand *cabinet* to *plain*; return the length."""
    size_bytes = 0
    try:
        with FileView(cabinet) as view, plain.open("xb") as file:
            opened = open_cabinet(view)
            # A store's cabinet holds one file, and the name that the cabinet gives it does not matter.
            for piece in expand(opened, opened.members[0], limit_bytes=largest_bytes):
                size_bytes += file.write(piece)
    except InputError as error:
        raise WrongContent(f"a cabinet that cannot be expanded: {error}", url=origin) from error
    return size_bytes
