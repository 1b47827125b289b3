"""The states of a folder that a power cut may leave: system calls of a real process, recorded and played back.

The disk is as weak as POSIX lets it be. Bytes that were not flushed may be there, be zeros, end early or be missing. Of
the changes of names that were not flushed with their folder, any may be there and any be missing, in whatever order
they were made; a rename is one change. An inode lives as long as a name leads to it.
Source: POSIX, fsync, "Rationale"; Pillai et al., "All File Systems Are Not Created Equal" (persistence properties).
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["Data", "Names", "Recording", "Tree", "record", "tracing", "write_tree"]

_PATIENCE_S = 300
_PROJECT = Path(__file__).resolve().parents[2]
_CALLS = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,ioctl,write,pwrite64,writev,lseek,sendfile,copy_file_range,truncate,"
    "ftruncate,fallocate,fsync,fdatasync,sync,syncfs,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,"
    "unlinkat,rmdir,mkdir,mkdirat,clone,clone3,fork,vfork"
)
_LONGEST_BYTES = 1 << 26
_DONE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?: .*)?")
_BEGUN = re.compile(r"(\d+) +(.*?) ?<unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')

Tree: TypeAlias = "dict[str, bytes | None]"
"""What lies in a folder, by path below it, folders before what is in them; None for a folder."""


class Data(StrEnum):
    """What becomes of bytes that were not flushed."""

    ALL = "all"
    NONE = "none"
    ZEROS = "zeros"  # the length reached the disk, the bytes did not
    CUT = "cut"  # half of the last piece came
    MIXED = "mixed"  # one of these for each file


class Names(StrEnum):
    """What becomes of changes of names that were not flushed with their folder."""

    ALL = "all"
    NONE = "none"
    ORDERED = "ordered"  # those until some instant, as a journal keeps them
    ANY = "any"
    ALL_BUT_ONE = "all but one"
    ONE = "one"


@dataclass(eq=False, slots=True)
class _Inode:
    """A file or a folder.

    Attributes:
        is_folder: Whether it is a folder.
        first: Of a file, its bytes before anything was recorded.
        now: Of a file, its bytes as the process sees them.
        names: Of a folder, what the process sees in it.
        changes: Of a file: number, offset, and bytes; without bytes, the offset is the new length.
        flushes: Number of each flush, and the number of the first change that it may not have brought to the disk.
    """

    is_folder: bool
    first: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    names: dict[str, _Inode] = field(default_factory=dict)
    changes: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    flushes: list[tuple[int, int]] = field(default_factory=list)

    def flushed_until(self, cut: int) -> int:
        return max((until for number, until in self.flushes if number < cut), default=0)


_Entry: TypeAlias = "tuple[_Inode, str, _Inode | None]"
"""A folder, a name in it, and what that leads to from now on; None for nothing."""


@dataclass(slots=True)
class _Open:
    """An open file: what it is, None outside the folder; its path; where it writes."""

    inode: _Inode | None
    path: str
    at: int = 0
    appends: bool = False


class Recording:
    """What one process did to the folder *root*, whose files it had not opened before.

    Attributes:
        cuts: How many instants there are: before the first change or flush, and after each.
        flushes: How many there were, of files and folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root.resolve())
        self._first: dict[_Inode, dict[str, _Inode]] = {}
        self._top = self._read(root, {})
        self._renamings: list[tuple[int, tuple[_Entry, ...]]] = []
        self._files: dict[int, _Open] = {}
        self._next = 0
        self.flushes = 0

    @property
    def cuts(self) -> int:
        return self._next + 1

    def play(self, trace: str) -> None:
        """Take in what strace wrote.

        Raises:
            AssertionError: The process did something that is not known here.
        """
        lines = _whole_lines(trace)
        own = _threads(lines)
        began = [self._next] * len(lines)
        for number, (pid, call, arguments, result, since) in enumerate(lines):
            began[number] = self._next
            if pid in own and result >= 0:
                self._take(call, arguments, result, began[since])

    def state(self, cut: int, names: Names, data: Data, chance: random.Random) -> Tree:
        """Return what may be there after a power cut at instant *cut*, from 0; *chance* decides what is left open."""
        entries = {folder: dict(first) for folder, first in self._first.items()}
        pending = [each for each in self._renamings if each[0] < cut and not self._is_flushed(each, cut)]
        lost = {number for number, _ in _lost(pending, names, chance, self._last_flushed(cut))}
        for number, changed in self._renamings:
            if number < cut and number not in lost:
                for folder, name, inode in changed:
                    found = entries.setdefault(folder, {})
                    found.pop(name, None)
                    if inode is not None:
                        found[name] = inode
        tree: Tree = {}
        left = [("", self._top)]
        while left:
            path, folder = left.pop()
            for name, inode in entries.get(folder, {}).items():
                below = f"{path}{name}"
                tree[below] = None if inode.is_folder else _content(inode, cut, data, chance)
                if inode.is_folder:
                    left.append((f"{below}/", inode))
        return tree

    def _is_flushed(self, renaming: tuple[int, tuple[_Entry, ...]], cut: int) -> bool:
        number, changed = renaming
        return any(number < folder.flushed_until(cut) for folder, _, _ in changed)

    def _last_flushed(self, cut: int) -> int:
        return max((each[0] for each in self._renamings if each[0] < cut and self._is_flushed(each, cut)), default=-1)

    def _read(self, path: Path, known: dict[int, _Inode]) -> _Inode:
        assert not path.is_symlink(), path
        if not path.is_dir():
            status = path.stat()
            if status.st_ino not in known:
                content = path.read_bytes()
                known[status.st_ino] = _Inode(False, content, bytearray(content))
            return known[status.st_ino]
        folder = _Inode(True)
        folder.names = {each.name: self._read(each, known) for each in sorted(path.iterdir())}
        self._first[folder] = dict(folder.names)
        return folder

    def _take(self, call: str, arguments: str, result: int, since: int) -> None:
        texts = [bytes.fromhex(each.replace("\\x", "")) for each in _TEXT.findall(arguments)]
        plain = [each.strip() for each in _TEXT.sub("T", arguments).split(",")]
        match call:
            case "open" | "openat" | "creat":
                self._open(self._path(plain, texts[0]), arguments if call != "creat" else "O_CREAT|O_TRUNC", result)
            case "close":
                self._files.pop(int(plain[0]), None)
            case "dup" | "dup2" | "dup3":
                self._copy_descriptor(int(plain[0]), result)
            case "fcntl" if "DUPFD" in plain[1]:
                self._copy_descriptor(int(plain[0]), result)
            case "lseek":
                if (file := self._files.get(int(plain[0]))) is not None:
                    file.at = result
            case "write" | "writev":
                self._write(int(plain[0]), b"".join(texts)[:result])
            case "pwrite64":
                self._write(int(plain[0]), texts[0][:result], at=int(plain[-1]))
            case "sendfile" | "copy_file_range":
                self._send(call, plain, result)
            case "ioctl" if "FICLONE" in plain[1] or "BTRFS_IOC_CLONE" in plain[1]:
                self._write(int(plain[0]), self._bytes_of(self._files[int(plain[2])]), at=0)
            case "ftruncate" | "truncate":
                self._truncate(call, plain, texts)
            case "fallocate":
                file = self._files.get(int(plain[0]))
                assert file is None or file.inode is None, "a file of the folder is allocated"
            case "fsync" | "fdatasync":
                self._flush(self._files[int(plain[0])].inode, since)
            case "rename" | "renameat" | "renameat2":
                self._rename(*self._two_paths(plain, texts))
            case "link" | "linkat":
                source, target = self._two_paths(plain, texts)
                self._enter((*self._place(target), self._find(source)) if self._is_inside(target) else None)
            case "mkdir" | "mkdirat":
                path = self._path(plain, texts[0])
                self._enter((*self._place(path), _Inode(True)) if self._is_inside(path) else None)
            case "unlink" | "unlinkat" | "rmdir":
                path = self._path(plain, texts[0])
                self._enter((*self._place(path), None) if self._is_inside(path) else None)
            case "symlink" | "symlinkat" | "sync" | "syncfs":
                raise AssertionError(f"{call} is not known here")
            case _:
                pass

    def _open(self, path: str, flags: str, descriptor: int) -> None:
        inode = None
        if self._is_inside(path):
            inode = self._find(path)
            if inode is None:
                inode = _Inode(False)
                self._enter((*self._place(path), inode))
            elif "O_TRUNC" in flags and inode.now:
                self._change(inode, 0, None)
        self._files[descriptor] = _Open(inode, path, appends="O_APPEND" in flags)

    def _copy_descriptor(self, descriptor: int, copy: int) -> None:
        if descriptor in self._files:
            self._files[copy] = self._files[descriptor]

    def _write(self, descriptor: int, content: bytes, at: int | None = None) -> None:
        file = self._files.get(descriptor)
        if file is None or file.inode is None or not content:
            return
        start = at if at is not None else len(file.inode.now) if file.appends else file.at
        self._change(file.inode, start, content)
        if at is None:
            file.at = start + len(content)

    def _send(self, call: str, plain: Sequence[str], count: int) -> None:
        target, source, offset = (0, 1, 2) if call == "sendfile" else (2, 0, 1)
        reading, found = self._files[int(plain[source])], re.match(r"\[(\d+)\]", plain[offset])
        at = reading.at if found is None else int(found[1])
        reading.at += count if found is None else 0
        self._write(int(plain[target]), self._bytes_of(reading)[at : at + count])

    def _bytes_of(self, file: _Open) -> bytes:
        return Path(file.path).read_bytes() if file.inode is None else bytes(file.inode.now)

    def _truncate(self, call: str, plain: Sequence[str], texts: Sequence[bytes]) -> None:
        if call == "truncate":
            path = os.fsdecode(texts[0])
            inode = self._find(path) if self._is_inside(path) else None
        else:
            file = self._files.get(int(plain[0]))
            inode = None if file is None else file.inode
        if inode is not None:
            self._change(inode, int(plain[1]), None)

    def _change(self, inode: _Inode, at: int, content: bytes | None) -> None:
        inode.changes.append((self._next, at, content))
        _apply(inode.now, at, content)
        self._next += 1

    def _flush(self, inode: _Inode | None, since: int) -> None:
        if inode is not None:
            inode.flushes.append((self._next, since))
            self._next += 1
            self.flushes += 1

    def _rename(self, source: str, target: str) -> None:
        if not self._is_inside(source) and not self._is_inside(target):
            return
        assert self._is_inside(source), f"{source} comes from outside"
        inode = self._find(source)
        leaves: _Entry = (*self._place(source), None)
        self._enter(leaves, (*self._place(target), inode) if self._is_inside(target) else None)

    def _enter(self, *changed: _Entry | None) -> None:
        entries = tuple(each for each in changed if each is not None)
        for folder, name, inode in entries:
            folder.names.pop(name, None)
            if inode is not None:
                folder.names[name] = inode
        if entries:
            self._renamings.append((self._next, entries))
            self._next += 1

    def _path(self, plain: Sequence[str], text: bytes, folder: str | None = None) -> str:
        path, folder = Path(os.fsdecode(text)), plain[0] if folder is None else folder
        assert path.is_absolute() or folder.isdecimal(), f"{path} is relative to the working directory"
        return os.path.normpath(path if path.is_absolute() else Path(self._files[int(folder)].path) / path)

    def _two_paths(self, plain: Sequence[str], texts: Sequence[bytes]) -> tuple[str, str]:
        second = plain[2] if plain[1] == "T" and len(plain) > 2 else "T"
        return self._path(plain, texts[0]), self._path(plain, texts[1], second)

    def _is_inside(self, path: str) -> bool:
        return path.startswith(f"{self._root}/") or path == self._root

    def _find(self, path: str) -> _Inode | None:
        found: _Inode | None = self._top
        for part in path[len(self._root) :].split("/"):
            if part and found is not None:
                found = found.names.get(part)
        return found

    def _place(self, path: str) -> tuple[_Inode, str]:
        parent, name = os.path.split(path)
        folder = self._find(parent)
        assert folder is not None, f"{parent} is not known"
        return folder, name


def _whole_lines(trace: str) -> list[tuple[str, str, str, int, int]]:
    """Return the calls in the order of their ends: process, name, arguments, result, and where in the list it began."""
    lines: list[tuple[str, str, str, int, int]] = []
    begun: dict[str, tuple[str, int]] = {}
    for raw in trace.splitlines():
        line, since = raw, len(lines)
        if match := _BEGUN.fullmatch(line):
            begun[match[1]] = (match[2], since)
            if not match[2].startswith("close("):
                continue
            # Another thread may get the same number before the call ends.
            line = f"{match[1]} {match[2]}) = 0"
        elif match := _RESUMED.fullmatch(line):
            head, since = begun.pop(match[1])
            if head.startswith("close("):
                continue
            line = f"{match[1]} {head}{match[2]}"
        if match := _DONE.fullmatch(line):
            lines.append((match[1], match[2], match[3], int(match[4]), since))
    return lines


def _threads(lines: Sequence[tuple[str, str, str, int, int]]) -> set[str]:
    """Return the first process and its threads, which share its descriptors."""
    own = {lines[0][0]}
    for pid, call, arguments, result, _ in lines:
        if call.startswith("clone") and "CLONE_THREAD" in arguments and pid in own:
            own.add(str(result))
    return own


def _lost(
    pending: list[tuple[int, tuple[_Entry, ...]]], names: Names, chance: random.Random, last_flushed: int
) -> list[tuple[int, tuple[_Entry, ...]]]:
    if not pending:
        return []
    match names:
        case Names.ALL:
            return []
        case Names.NONE:
            return pending
        case Names.ORDERED:
            later = [each for each in pending if each[0] > last_flushed]
            return later[chance.randrange(len(later) + 1) :]
        case Names.ANY:
            return [each for each in pending if chance.random() < 0.5]
        case Names.ALL_BUT_ONE:
            return [chance.choice(pending)]
        case Names.ONE:
            kept = chance.choice(pending)
            return [each for each in pending if each is not kept]


def _content(inode: _Inode, cut: int, data: Data, chance: random.Random) -> bytes:
    content, flushed = bytearray(inode.first), inode.flushed_until(cut)
    done = [each for each in inode.changes if each[0] < cut]
    if data is Data.MIXED:
        data = chance.choice([Data.ALL, Data.NONE, Data.ZEROS, Data.CUT])
    for number, at, written in done:
        if number < flushed or data is Data.ALL:
            _apply(content, at, written)
        elif data is Data.ZEROS:
            _apply(content, at, None if written is None else bytes(len(written)))
        elif data is Data.CUT:
            is_last = number == done[-1][0]
            _apply(content, at, written[: len(written) // 2] if is_last and written is not None else written)
    return bytes(content)


def _apply(content: bytearray, at: int, written: bytes | None) -> None:
    end = at if written is None else at + len(written)
    content.extend(bytes(max(0, end - len(content))))
    if written is None:
        del content[at:]
    else:
        content[at:end] = written


def tracing(trace: Path, *options: str) -> list[str]:
    """Return a command that runs the one that follows it, and writes its system calls to *trace*."""
    return ["strace", *options, "-f", "-o", str(trace), "-xx", "-s", str(_LONGEST_BYTES), "-e", f"trace={_CALLS}"]


def record(root: Path, command: Sequence[str], trace: Path) -> Recording:
    """Run *command*, whose paths are absolute, to its end, and return what it did to *root*; as `Recording`.

    Args:
        root: The folder.
        command: Its status does not count.
        trace: Where strace may write.
    """
    recording = Recording(root)
    subprocess.run(
        [*tracing(trace), *command],
        env={**os.environ, "PYTHONPATH": str(_PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_PATIENCE_S,
    )
    recording.play(trace.read_text(encoding="ascii"))
    return recording


def write_tree(tree: Tree, folder: Path) -> None:
    """Make *folder* with what lies in *tree*, files last changed in 1970."""
    folder.mkdir()
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
            os.utime(folder / path, (0, 0))
