r"""Pointer files: a ``file.ptr`` says where a file is instead of being it.

Its text comes from a store or a server and may name any file of this machine or network, so it is followed only into
places that the configuration names, and by nobody else's wish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["LONGEST_POINTER_BYTES", "Pointer", "parse_pointer", "resolve_pointer"]

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
