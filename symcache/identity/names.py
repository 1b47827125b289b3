"""Which file names may become part of a path in a store."""

from __future__ import annotations

import re

from symcache.errors import MalformedInput

_LONGEST_BYTES = 255
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # Unicode's categories Cc and Cs
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-]")  # nearly all names there are
_FORBIDDEN = frozenset('/\\:*?"<>|')
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
_ADMIN = frozenset(
    ["000admin", "pingme.txt", "index2.txt", "file.ptr", "refs.ptr", "wantsptr.txt", "msfz0", ".symcache"]
)


def base_name(path: str) -> str:
    r"""Return what follows the last ``\`` or ``/``, whichever system wrote *path*.

    Source: SSQP_Key_Conventions.md; code view records hold Windows and Unix paths alike.
    """
    return path.replace("\\", "/").rpartition("/")[2]


def check_path_part(part: str) -> str:
    """Return *part* if every file system accepts it as the name of one file, in the folder that it is used in.

    Raises:
        MalformedInput: Empty, ``.`` or ``..``, a separator, a drive or stream mark, a wildcard, a control
            character, a trailing dot or blank, a device name, or more than 255 bytes of UTF-8.
    """
    if problem := _find_problem(part):
        raise MalformedInput(f"{printable(part)!r} cannot be a file name: {problem}")
    return part


def check_name(name: str) -> str:
    """Return *name* if it can be the name of a symbol file in a store.

    Raises:
        MalformedInput: As `check_path_part`, and for names that a store reserves (``000Admin``, ``file.ptr``).
    """
    check_path_part(name)
    if fold(name) in _ADMIN:
        raise MalformedInput(f"{name!r} cannot be a symbol's name: a store keeps that name for itself")
    return name


def fold(name: str) -> str:
    """Return *name* in the letter case in which debuggers compare names."""
    return name.lower()


def printable(text: str) -> str:
    """Return *text* cut to a length that fits an error line."""
    return text if len(text) <= 80 else text[:77] + "..."


def _find_problem(part: str) -> str | None:
    if _PLAIN.fullmatch(part) and fold(part.partition(".")[0]) not in _DEVICES:
        return None
    if not part:
        return "it is empty"
    if part in {".", ".."}:
        return "it names a folder"
    # The number of characters first: an input may give 64 KiB, and what follows looks at each.
    if len(part) > _LONGEST_BYTES:
        return f"it is longer than {_LONGEST_BYTES} bytes"
    if _CONTROL.search(part):
        return "it has a control character"
    if bad := _FORBIDDEN.intersection(part):
        return f"it has {min(bad)!r}"
    if part[-1] in ". ":
        return "it ends in a dot or blank"
    if fold(part.partition(".")[0].rstrip(" ")) in _DEVICES:
        return "Windows treats it as a device"
    if len(part.encode()) > _LONGEST_BYTES:
        return f"it is longer than {_LONGEST_BYTES} bytes"
    return None
