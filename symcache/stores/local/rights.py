"""Shared folders: what is made in a store takes over rights and group of the folder it is made in, whatever the umask.

As git's core.sharedRepository does; on Windows, folders hand down their access lists anyway.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar

from symcache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from pathlib import Path


_OWN_FOLDER = ".symcache"
_FILE_BITS = 0o666
_FOLDER_BITS = 0o3777  # with the group handed down, and deletion kept to owners
# All users replace these files in turn, so that they cannot be kept from removal by others.
_KEPT_TOGETHER = frozenset({_OWN_FOLDER, "000Admin"})
_TOGETHER_BITS = 0o2777


_NEW_S = 2.0
_PATIENCE = 25
_PAUSE_S = 0.02

T = TypeVar("T")


def _patiently(attempt: Callable[[], T], path: str) -> T:
    """Return what *attempt* does, which is made again while *path* is refused and new.

    Another user may have made it, or what it lies in, a moment ago, and be about to give it its rights.
    """
    for _ in range(_PATIENCE):
        try:
            return attempt()
        except PermissionError:
            if not _is_new(path):
                raise
            time.sleep(_PAUSE_S)
    return attempt()


def _is_new(path: str) -> bool:
    """Return whether *path*, or the first folder above it that may be looked at, was made or changed a moment ago."""
    while path:
        with suppress(OSError):
            return time.time() - os.stat(path).st_ctime < _NEW_S  # noqa: PTH116
        above = os.path.dirname(path)  # noqa: PTH120
        if above == path:
            break
        path = above
    return False


def _await_rights(folder: str) -> None:
    """Wait a moment while *folder*, below `.symcache`, has fewer rights than the folder above it, and is new.

    Another process of this user has made it then, and is about to give it its rights, which what is made in it gets.
    """
    if _OWN_FOLDER not in folder:
        return
    for _ in range(_PATIENCE):
        with suppress(OSError):
            own, above = os.stat(folder), os.stat(os.path.dirname(folder))  # noqa: PTH116, PTH120
            if not above.st_mode & 0o777 & ~own.st_mode or time.time() - own.st_ctime > _NEW_S:
                return
        time.sleep(_PAUSE_S / 4)


def make_folders(folder: str | Path) -> None:
    """Make *folder* and those above it, unless they exist; an `OSError` if one is no folder."""
    folder = os.fspath(folder)
    _patiently(lambda: _make_folders(folder), folder)


def make_own_folders(folder: Path) -> None:
    """Make *folder*, which is a store's `.symcache` or below it, as `make_folders`; an `OSError` if a link leads there.

    What a store has for itself is swept, so that a link there would cost files elsewhere. Where the store itself lies
    is its owner's choice, though links of that name may lead to it.
    """
    for each in (folder, *folder.parents):
        if _is_link(os.fspath(each)):
            raise OSError(errno.ELOOP, "a link where a store has a folder of its own", os.fspath(each))
        if each.name == _OWN_FOLDER:
            break
    make_folders(folder)


def _is_link(path: str) -> bool:
    with suppress(OSError):
        status = os.lstat(path)
        # Windows' junctions are none to Python, and lead elsewhere all the same.
        is_reparsed = getattr(status, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)
        return stat.S_ISLNK(status.st_mode) or bool(is_reparsed)
    return False


class OwnFolder:
    """What a store has in a folder of its own, *name* below `.symcache`, to be looked through and removed.

    There is nothing in it if it is not there, or if a link is in its place or on the way to it. Where the system lets
    a folder be held, that is so whatever another user of the store puts there meanwhile.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / _OWN_FOLDER / name
        self._fd: int | None = None

    def __enter__(self) -> Self:
        if _HOLDS_FOLDERS:
            flags = os.O_RDONLY | os.O_DIRECTORY | _NO_LINK
            with suppress(OSError):
                above = os.open(self.path.parent, flags)
                try:
                    self._fd = os.open(self.path.name, flags, dir_fd=above)
                finally:
                    os.close(above)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def names(self) -> list[str]:
        """Return the names of what is in it, sorted."""
        if self._fd is not None:
            return sorted(os.listdir(self._fd))  # noqa: PTH208 - a descriptor
        with suppress(OSError):
            if not _HOLDS_FOLDERS and not _is_link(os.fspath(self.path.parent)) and not _is_link(os.fspath(self.path)):
                return sorted(os.listdir(self.path))  # noqa: PTH208 - as above
        return []

    def changed_s(self, name: str) -> float:
        """Return when *name* was changed, in seconds since 1970; an `OSError` if it is not there."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False).st_mtime

    def remove(self, name: str) -> int:
        """Remove *name*, a file or a folder with all in it; return how many files, or raise an `OSError`."""
        path = self._at(name)
        if not stat.S_ISDIR(os.stat(path, dir_fd=self._fd, follow_symlinks=False).st_mode):
            os.unlink(path, dir_fd=self._fd)
            return 1
        files = 0
        with suppress(OSError):
            files = len(os.listdir(self.path / name))  # noqa: PTH208 - they are counted, no more
        shutil.rmtree(path, ignore_errors=True, dir_fd=self._fd)
        return files

    def _at(self, name: str) -> str:
        return name if self._fd is not None else os.fspath(self.path / name)


def _make_folders(folder: str) -> None:
    try:
        os.mkdir(folder)  # noqa: PTH102 - for each file
    except FileNotFoundError:
        parent = os.path.dirname(folder)  # noqa: PTH120
        if parent == folder:
            raise
        if os.path.basename(folder) == _OWN_FOLDER:  # noqa: PTH119
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - a store takes over nothing: /tmp is open to everybody
        else:
            _make_folders(parent)
        _make_folders(folder)
    except OSError:
        if not os.path.isdir(folder):  # noqa: PTH112
            raise
    else:
        parent, name = os.path.split(folder)
        _await_rights(parent)
        take_over(folder, parent, _TOGETHER_BITS if name in _KEPT_TOGETHER else _FOLDER_BITS)


# A link would lead out of the store, and a pipe would be waited for; Windows has neither flag.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_HOLDS_FOLDERS = os.stat in os.supports_dir_fd and os.listdir in os.supports_fd
_GUARD = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def make_file(path: Path, flags: int) -> int:
    """Open *path*, made where need be, and return the descriptor; an `OSError` unless it is a plain file."""
    return _patiently(lambda: _make_file(path, flags), os.fspath(path))


def _make_file(path: Path, flags: int) -> int:
    try:
        fd = os.open(path, flags | _GUARD | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return open_plain(path, flags)
    folder = os.path.dirname(path)  # noqa: PTH120
    _await_rights(folder)
    take_over(os.fspath(path), folder, _FILE_BITS)
    return fd


def open_plain(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open *path*, which exists, and return the descriptor; an `OSError` unless it is a plain file, and no link.

    One that is to be written must have no other name, as a hard link leads out of a store just as well.
    """
    fd = _checked(os.open(path, flags & ~os.O_TRUNC | _GUARD), path)
    if flags & (os.O_WRONLY | os.O_RDWR):
        if os.fstat(fd).st_nlink > 1:
            os.close(fd)
            raise OSError(errno.EMLINK, "a file that has another name, too", os.fspath(path))
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    return fd


def open_stored(path: Path) -> BufferedReader:
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

    def find_group(name: str) -> int:
        """Raise `UsageError`: rights are given to groups otherwise here."""
        raise UsageError(
            f"on Windows, share the folder with {name} by its properties; what is made in it takes that over"
        )

    def share_with(root: Path, gid: int) -> tuple[int, int]:
        raise NotImplementedError

else:

    def find_group(name: str) -> int:
        """Return the number of the group called *name*, or that it is.

        Raises:
            UsageError: There is none.
        """
        import grp  # noqa: PLC0415

        try:
            return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
        except KeyError:
            raise UsageError(f"there is no group {name}; `getent group` lists them") from None

    def share_with(root: Path, gid: int) -> tuple[int, int]:
        """Let the users of a group use *root* and all in it; return how many things they can use, and how many not.

        Raises:
            OSError: *root* itself cannot be changed.
        """
        os.chown(root, -1, gid)
        root.chmod(stat.S_IMODE(root.stat().st_mode) | 0o2770)
        count = left = 0
        # By descriptors, as other users of the group may put a link in the place of a folder meanwhile.
        for _, folders, files, folder_fd in os.fwalk(root):
            theirs = os.fstat(folder_fd)
            for name, bits in [*((name, _FOLDER_BITS) for name in folders), *((name, _FILE_BITS) for name in files)]:
                with suppress(FileNotFoundError):
                    own = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                    if stat.S_ISLNK(own.st_mode):
                        continue
                    own = _take_over(name, theirs, own, bits, folder_fd)
                    is_shared = own.st_gid == gid and own.st_mode & stat.S_IWGRP
                    count, left = count + bool(is_shared), left + (not is_shared)
        return count, left

    def take_over(path: str, folder: str, bits: int) -> None:
        """Give *path* those of *bits*, and the group, that *folder* has, as far as this user may."""
        with suppress(OSError):
            _take_over(path, os.stat(folder), os.lstat(path), bits)  # noqa: PTH116 - for each file

    def _take_over(
        path: str, theirs: os.stat_result, own: os.stat_result, bits: int, dir_fd: int | None = None
    ) -> os.stat_result:
        """Give *path* what a folder like *theirs* hands down, and return what it is then; no link is followed.

        In a shared folder another user may put a link to a file of this one in the place of what was just made there.
        """
        wanted = theirs.st_mode & bits
        if own.st_gid == theirs.st_gid and stat.S_IMODE(own.st_mode) & (bits | stat.S_ISGID) == wanted:
            return own
        try:
            fd = os.open(path, os.O_RDONLY | _GUARD, dir_fd=dir_fd)
        except PermissionError:
            return own  # another user's
        try:
            own = os.fstat(fd)
            if own.st_gid != theirs.st_gid:
                with suppress(OSError):  # a group that this user is not in
                    os.fchown(fd, -1, theirs.st_gid)
            with suppress(PermissionError):
                os.fchmod(fd, wanted)
            return os.fstat(fd)
        finally:
            os.close(fd)
