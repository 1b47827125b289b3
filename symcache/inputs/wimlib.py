"""WIM files that symcache does not expand, ESDs above all: the program wimlib-imagex takes out what is wanted.

An image is listed, and what is wanted of it extracted in one go, into a folder that goes when it was read. The program
is called without a shell, by whole paths and a number; what it may write, and how long it may take, has bounds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.events import InputAdvanced
from symcache.formats.archive.member import iter_pieces
from symcache.formats.disk.wim import NOT_READ
from symcache.formats.disk.wimlisting import ListedTree
from symcache.formats.view import FileView
from symcache.identity import check_path_part
from symcache.inputs.records import Unreadable
from symcache.inputs.scratch import KEPT_FREE_BYTES, check_room
from symcache.inputs.windowsfolder import TELLING, Reading, find_build_files, find_windows_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.events import Observer
    from symcache.formats.disk.bounded import Budget
    from symcache.formats.disk.tree import TreeEntry
    from symcache.formats.view import ByteView
    from symcache.inputs.sets import NameSet

T = TypeVar("T")

_PROGRAM = "wimlib-imagex.exe" if sys.platform == "win32" else "wimlib-imagex"
_LONGEST_LINE = 1 << 17
_LOOK_EVERY_S = 0.2
_LONGEST_SILENCE_S = 300.0  # a solid resource is expanded 64 MiB at a time, perhaps from a slow share
_LONGEST_S = 6 * 3600.0
_MORE_BYTES = 64 << 20  # than the files have: what the program says
_MOST_REFUSED = 16
_SAID_BYTES = 4096
_LONGEST_ERROR = 300


def find_program() -> str | None:
    """Return the path of wimlib-imagex; None if it lies in no folder of PATH.

    Those that are relative, and the one that the command runs in, are passed over: they hold what came with an input.
    """
    paths = (Path(folder, _PROGRAM) for folder in os.get_exec_path())
    return next((str(path) for path in paths if path.is_absolute() and shutil.which(str(path))), None)


class Extractor:
    """Takes files out of the WIM files of one input, into a folder that is there until it is closed.

    Args:
        view: The whole input.
        path: What it is called.
        names: As for `symcache.inputs.disk.read_disk`.
        observer: Is told how much was copied or taken out.
    """

    def __init__(self, view: ByteView, path: str, names: NameSet | None, observer: Observer) -> None:
        self._input = Path(view.file_path).absolute() if isinstance(view, FileView) else None
        self._path = path
        self._names = names
        self._observer = observer
        self._program = ""
        self._scratch: TemporaryDirectory[str] | None = None
        self._files: list[Path] = []  # WIM files of the input
        self._taken: dict[bytes, tuple[Path, int]] = {}  # where each content lies, and its length; by its SHA-1
        self._refused: list[str] = []  # why files of the image in hand are passed over

    def close(self) -> None:
        """Remove what was taken out."""
        if self._scratch is not None:
            self._scratch.cleanup()

    def open(self, view: ByteView, where: str) -> None:
        """Turn to the WIM file in *view*; *where* it lies in the input is empty if it is all of that.

        Raises:
            InputError: The program is not there, or there is no room for the copy that it needs of a part of an input.
        """
        program = find_program()
        if program is None:
            raise UnknownFormat(NOT_READ)
        self._program = program
        self._scratch = self._scratch or TemporaryDirectory(prefix="symcache-")
        file = None if where else self._input
        if file is None:
            file = self._folder / f"{len(self._files)}.wim"
            check_room(self._folder, view.size, f"it has {view.size} bytes, which wimlib-imagex needs a copy of")
            with file.open("xb") as copy:
                for piece in iter_pieces(view):
                    copy.write(piece)
                    self._advance(copy.tell(), view.size)
        self._files.append(file)

    def tree(self, number: int, where: str, budget: Budget) -> tuple[ListedTree, list[Unreadable]]:
        """Return the files of the image *number*, those that are wanted taken out, and those that are not for a reason.

        Raises:
            InputError: The program has failed, or was ended; there is no room.
        """
        self._refused = []
        tree = self._run("dir", number, "--detailed", take=lambda lines: ListedTree(lines, self._takes, self._lend))
        reading = Reading(self._names, self._path)
        wanted: list[TreeEntry] = []
        for windows in chain(*find_windows_folders(tree, where, budget)):  # told by names: none can be opened yet
            wanted += find_build_files(windows)
            wanted += [found[0] for found in reading.wanted(windows) if not isinstance(found, Unreadable)]
        self._extract(number, tree, [file.place for file in wanted if isinstance(file.place, bytes)])
        return tree, [Unreadable(f"{self._path}:{where}", each) for each in self._refused]

    @property
    def _folder(self) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name).resolve()

    def _advance(self, done_bytes: int, size_bytes: int) -> None:
        if size_bytes:
            self._observer(InputAdvanced(self._path, done_bytes, size_bytes))

    def _takes(self, parts: Sequence[str]) -> bool:
        """Say whether the file at this path is wanted, and can be one on any disk; note it if it cannot."""
        name = parts[-1]
        if not (self._names is None or self._names.takes(name) or name.casefold() in TELLING):
            return False
        try:
            return all(map(check_path_part, parts))
        except MalformedInput as error:
            if len(self._refused) < _MOST_REFUSED:
                self._refused.append(f"a file is passed over: {error.problem}")
            return False

    def _extract(self, number: int, tree: ListedTree, hashes: list[bytes]) -> None:
        # Of files that differ in letter case alone, a file system may have room for one.
        chosen = {
            tree.files[hash_].path.casefold(): hash_
            for hash_ in reversed(hashes)
            if hash_ in tree.files and hash_ not in self._taken
        }
        size_bytes = sum(tree.files[hash_].size for hash_ in chosen.values())
        if not chosen:
            return
        check_room(self._folder, size_bytes, f"what is wanted of image {number} has {size_bytes} bytes")
        target, paths = (self._folder / f"{name}{len(self._files)}-{number}" for name in ("image", "list"))
        files = {hash_: tree.files[hash_] for hash_ in chosen.values()}
        paths.write_bytes("".join(f"/{file.path}\n" for file in files.values()).encode())
        options = (f"@{paths}", f"--dest-dir={target}", "--no-acls", "--no-attributes", "--no-globs")
        self._run("extract", number, *options, take=partial(deque[bytes], maxlen=0), size_bytes=size_bytes)
        self._taken |= {hash_: (target / file.path, file.size) for hash_, file in files.items()}

    def _lend(self, hash_: bytes) -> ByteView:
        if hash_ not in self._taken:
            raise MalformedInput("its data is not in the WIM file, or encrypted (EFS), or has another file's name")
        path, size_bytes = self._taken[hash_]
        if path.resolve() != path:
            raise MalformedInput("a link was taken out in its place")
        view = FileView(path)
        if view.size != size_bytes:
            view.close()
            raise TruncatedInput(f"{view.size} of its {size_bytes} bytes were taken out")
        return view

    def _run(
        self, command: str, number: int, *options: str, take: Callable[[Iterator[bytes]], T], size_bytes: int = 0
    ) -> T:
        """Return what *take* makes of the lines that the program prints; it may write *size_bytes* and little more.

        Whatever ends this ends the program; if it cannot, the program's next line does, as nobody reads it.
        """
        with (
            (self._folder / "said").open("w+b") as said,
            subprocess.Popen(  # noqa: S603 - a program of PATH
                [self._program, command, str(self._files[-1]), str(number), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=self._folder,
                start_new_session=True,
            ) as process,
        ):
            watch = _Watch(process, self._folder, size_bytes, self._advance)
            try:
                watch.start()
                taken = take(watch.lines())
                process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                watch.stop()
            if watch.problem:
                raise MalformedInput(f"wimlib-imagex was ended: {watch.problem}")
            if process.returncode:
                said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID_BYTES))
                raise MalformedInput(f"wimlib-imagex: {_one_line(said.read(), process.returncode)}")
        return taken


class _Watch(threading.Thread):
    """Ends a program that writes too much, or hangs; tells how far it has come."""

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, size_bytes: int, advance: Callable[[int, int], None]
    ) -> None:
        super().__init__(name="wimlib", daemon=True)
        self.problem = ""
        self._process = process
        self._folder = folder
        self._before_bytes = _size_of(folder)
        self._size_bytes = size_bytes
        self._advance = advance
        self._lines = 0
        self._is_over = threading.Event()

    def lines(self) -> Iterator[bytes]:
        """Yield what the program prints, in pieces of a line at most."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LONGEST_LINE):
            self._lines += 1
            yield line

    def run(self) -> None:
        began_s = heard_s = time.monotonic()
        before, pause_s = (0, 0), _LOOK_EVERY_S
        while not self._is_over.wait(pause_s) and not self.problem:
            looked_s = time.monotonic()
            now = (_size_of(self._folder) - self._before_bytes, self._lines)
            if now != before:
                before, heard_s = now, looked_s
                self._advance(min(now[0], self._size_bytes), self._size_bytes)
            if now[0] > self._size_bytes + _MORE_BYTES:
                self.problem = f"it writes more than the {self._size_bytes} bytes that the files have"
            elif shutil.disk_usage(self._folder).free < KEPT_FREE_BYTES // 2:
                self.problem = "the disk of the temporary folder is full"
            elif looked_s - heard_s > _LONGEST_SILENCE_S or looked_s - began_s > _LONGEST_S:
                self.problem = f"it came to no end within {looked_s - began_s:.0f} s"
            if self.problem:
                _end(self._process)
            pause_s = max(_LOOK_EVERY_S, 10 * (time.monotonic() - looked_s))

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join()
        self._advance(self._size_bytes, self._size_bytes)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program, and what it has started."""
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _size_of(folder: Path | str) -> int:
    """Return how many bytes the files below *folder* have; what changes meanwhile may count or not."""
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                size += _size_of(entry.path) if is_folder else entry.stat(follow_symlinks=False).st_size
    return size


def _one_line(said: bytes, code: int) -> str:
    """Return the errors among what the program has *said*."""
    text = said.decode("utf-8", "replace")
    for mark in ("[ERROR]", "ERROR:", f"Exiting with error code {code}:"):
        text = text.replace(mark, "")
    text = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(text.split())[:_LONGEST_ERROR] or f"it ended with code {code}"
