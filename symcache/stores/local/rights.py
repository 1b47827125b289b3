"""Shared folders: what is made in a store takes over rights and group of the folder it is made in, whatever the umask.

As git's core.sharedRepository does; on Windows, folders hand down their access lists anyway.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


_FILE_BITS = 0o666
_FOLDER_BITS = 0o3777  # with the group handed down, and deletion kept to owners


def make_folders(folder: str | Path) -> None:
    """Make *folder* and those above it, unless they exist; an `OSError` if one is no folder."""
    folder = os.fspath(folder)
    try:
        os.mkdir(folder)  # noqa: PTH102 - for each file
    except FileNotFoundError:
        parent = os.path.dirname(folder)  # noqa: PTH120
        if parent == folder:
            raise
        make_folders(parent)
        make_folders(folder)
    except OSError:
        if not os.path.isdir(folder):  # noqa: PTH112
            raise
    else:
        take_over(folder, os.path.dirname(folder), _FOLDER_BITS)  # noqa: PTH120


# A link would lead out of the store, and a pipe would be waited for; Windows has neither flag.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_GUARD = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def make_file(path: Path, flags: int) -> int:
    """Open *path*, made where need be, and return the descriptor; an `OSError` unless it is a plain file."""
    try:
        fd = os.open(path, flags | _GUARD | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return open_plain(path, flags)
    take_over(os.fspath(path), os.path.dirname(path), _FILE_BITS)  # noqa: PTH120
    return fd


def open_plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open *path*, which exists, and return the descriptor; an `OSError` unless it is a plain file, and no link."""
    return _checked(os.open(path, flags | _GUARD), path)


def open_stored(path: Path) -> BinaryIO:
    """Open a file of a store for reading; an `OSError` unless it is a plain file, or a link to one."""
    return open(_checked(os.open(path, os.O_RDONLY | _GUARD & ~_NO_LINK), path), "rb")


def _checked(fd: int, path: str | Path) -> int:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return fd


def take_over_file(path: Path, folder: Path) -> None:
    """Give the file at *path*, which is this process's own, the rights of *folder*, into which it is about to go."""
    take_over(os.fspath(path), os.fspath(folder), _FILE_BITS)


if sys.platform == "win32":

    def take_over(path: str, folder: str, bits: int) -> None:
        """Do nothing."""

else:

    def take_over(path: str, folder: str, bits: int) -> None:
        """Give *path* those of *bits*, and the group, that *folder* has, as far as this user may."""
        with suppress(OSError):
            theirs, own = os.stat(folder), os.stat(path)  # noqa: PTH116 - for each file
            if own.st_gid != theirs.st_gid:
                with suppress(OSError):  # a group that this user is not in
                    os.chown(path, -1, theirs.st_gid)
            wanted = theirs.st_mode & bits
            if stat.S_IMODE(own.st_mode) & (bits | stat.S_ISGID) != wanted:
                os.chmod(path, wanted)  # noqa: PTH101
