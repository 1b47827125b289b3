"""Archives: what a zip, a tar, a cabinet or a compressed file holds, found out as for a folder.

Members are expanded one at a time, small ones in memory, others into scratch files that go when they were read; those
that an archive holds as they are are read where they lie. No name in an archive becomes a path.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.formats.archive.compressed import compressed_name, expand_stream, read_compressed
from symcache.formats.archive.member import (
    BLOCK_BYTES,
    ArchiveKind,
    Member,
    PieceReader,
    ViewReader,
    find_archive,
    find_other_archive,
    iter_pieces,
)
from symcache.formats.view import BytesView, FileView
from symcache.inputs.detect import detect, is_text, kind_of
from symcache.inputs.records import Input, InputKind, Module, Remark, Unreadable, unreadable
from symcache.inputs.refusals import NO_KNOWN_KIND
from symcache.inputs.scratch import check_room
from symcache.inputs.versions import open_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from symcache.config import Inputs
    from symcache.formats.view import ByteView
    from symcache.inputs.detect import InputOptions
    from symcache.inputs.folder import Reader
    from symcache.inputs.records import Record
    from symcache.inputs.trace import LogSession

_HEAD_BYTES = 1 << 16
_IN_MEMORY_BYTES = 4 << 20
_LOOKED_AT_FREE_BYTES = 256 << 20
_ALWAYS_EXPANDED_BYTES = 1 << 30  # whatever the ratio: a few KiB of zeros are no attack
_MOST_PROBLEMS = 100
_MOST_SESSIONS = 16
_LONGEST_NAME = 400
_UNPACK = "unpack it and give what was in it"
_TEXTS = frozenset(
    {
        InputKind.MANIFEST,
        InputKind.DEBUGGER_LOG,
        InputKind.LOCK,
        InputKind.REPORT,
        InputKind.SCAN,
        InputKind.CRASH_REPORT,
        InputKind.PROFILE,
    }
)
_WITH_VERSIONS = frozenset({InputKind.KERNEL_DUMP, InputKind.TRIAGE_DUMP, InputKind.MINIDUMP, InputKind.IMAGE})
_LOOSE = frozenset({InputKind.IMAGE, InputKind.PDB})
"""What has no record of its own in an archive, as in a folder: its modules are the archive's."""


class _LimitReached(InputError):
    """What an archive expands to is more than is allowed, so that the rest of it is not read."""


def read_archive(view: ByteView, path: str, *, options: InputOptions, takes_texts: bool = True) -> Iterator[Record]:
    """Yield the archive, then what its members hold, in the order in which they stand.

    A dump, a log or another input that is more than one file's identity has its own record, called as if the archive
    were a folder (``x.zip/crash/MEMORY.DMP``); the archive's record comes again before modules of its own that follow.
    Files of other kinds are passed over. Unless it *takes_texts* so are texts, and an archive that holds nothing else:
    it is one of a folder's many files, and nobody named it. Members that are damaged give what they have; those that
    need a password, another program or more room are reported. Archives in archives are read as far down as the
    settings say; a compressed tar counts as one.
    """
    limits = options.limits
    if limits is None:
        from symcache.config import Inputs  # noqa: PLC0415 - those who have settings hand them in

        limits = Inputs()
    with ExitStack() as stack:
        walk = _Walk(path, view.size, options, limits, stack, takes_texts=takes_texts)
        yield from walk.read(view)


class _Walk:
    """Reads one archive and those within it, and keeps count of what that takes."""

    def __init__(
        self,
        path: str,
        packed_bytes: int,
        options: InputOptions,
        limits: Inputs,
        stack: ExitStack,
        *,
        takes_texts: bool,
    ) -> None:
        self._path = path
        self._options = options
        self._limits = limits
        self._takes_texts = takes_texts
        self._scratch = _Scratch(limits.largest_member_bytes, stack)
        self._most_bytes = min(
            limits.largest_expanded_bytes, max(_ALWAYS_EXPANDED_BYTES, limits.highest_ratio * packed_bytes)
        )
        self._expanded_bytes = 0
        self._members = 0
        self._problems = 0
        self._yielded = False
        self._input = Input(path, InputKind.ARCHIVE)
        self._is_own = False  # whether the archive's own record is the last one
        self._sessions: list[LogSession] | None = None  # event logs of the archive that is open, yielded at its end
        self._refused: tuple[str, str] | None = None  # the first file that is known to be something else, and what

    def read(self, view: ByteView) -> Iterator[Record]:
        kind = find_archive(view.read(0, min(view.size, BLOCK_BYTES)))
        if kind is None:
            raise UnknownFormat("not an archive that is read", offset=0)
        self._input = Input(self._path, InputKind.ARCHIVE, {"format": str(kind)})
        yield from self._own()
        try:
            yield from self._open(view, kind, self._path, 1)
        except _LimitReached as error:
            yield Unreadable(self._path, error.problem)
            return
        if self._problems > _MOST_PROBLEMS:
            left_out = self._problems - _MOST_PROBLEMS
            yield Unreadable(self._path, f"{left_out} more of its files could not be read")
        elif self._takes_texts and not self._yielded and not self._problems:
            yield Unreadable(self._path, self._empty())

    def _empty(self) -> str:
        """Return why nothing came of the archive: the first file that is known to be something else, if one is."""
        if not self._members:
            return "it holds no files"
        if self._refused is not None:
            return f"nothing in it is read; {self._refused[0]}: {self._refused[1]}"
        return "nothing in it is read: no dump, image, PDB or other input"

    def _spend(self, count: int) -> None:
        self._expanded_bytes += count
        if self._expanded_bytes > self._most_bytes:
            raise _LimitReached(
                f"it expands to more than {self._most_bytes} bytes, so that the rest was not read; if it is no attack, "
                f"{_UNPACK}, or raise inputs.largest_expanded_bytes or inputs.highest_ratio in the config file"
            )

    def _own(self) -> Iterator[Record]:
        """Yield the archive's record unless it is the last one."""
        if not self._is_own:
            self._is_own = True
            yield self._input

    def _problem(self, path: str, problem: str, offset: int | None = None) -> Iterator[Record]:
        self._problems += 1
        if self._problems <= _MOST_PROBLEMS:
            yield Unreadable(path, problem, offset)

    def _open(self, view: ByteView, kind: ArchiveKind, path: str, level: int) -> Iterator[Record]:
        """Yield what the archive in *view* holds."""
        members: Iterator[Member]
        match kind:
            case ArchiveKind.ZIP:
                from symcache.formats.archive.zip import read_zip  # noqa: PLC0415 - one format each

                members = read_zip(view, self._spend)
            case ArchiveKind.CABINET:
                from symcache.formats.archive.cab import read_cabinet  # noqa: PLC0415

                members = read_cabinet(view, self._spend)
            case ArchiveKind.TAR:
                from symcache.formats.archive.tar import read_tar  # noqa: PLC0415

                members = read_tar(ViewReader(view), self._spend)
            case _:
                yield from self._compressed(read_compressed(view, kind, path, self._spend), path, level)
                return
        around, self._sessions = self._sessions, []
        limit: _LimitReached | None = None
        try:
            yield from self._each(members, path, level)
        except _LimitReached as error:
            limit = error
        sessions, self._sessions = self._sessions, around
        for session in sessions:
            self._is_own, self._yielded = False, True
            # A .diagsession is called by its own name, not by that of one of its logs.
            yield from session.records(session.paths[0] if len(session.paths) == 1 else path)
        if limit is not None:
            raise limit

    def _each(self, members: Iterator[Member], path: str, level: int) -> Iterator[Record]:
        try:
            for member in members:
                self._count()
                yield from self._member(member, f"{path}/{_shown(member.name)}", level)
        except _LimitReached:
            raise
        except (InputError, OSError) as error:
            item = unreadable(path, error)
            yield from self._problem(path, item.problem, item.offset)

    def _count(self) -> None:
        self._members += 1
        if self._members > self._limits.most_members:
            raise _LimitReached(
                f"it holds more than {self._limits.most_members} files; the rest was not read. Raise "
                "inputs.most_members in the config file to read them"
            )

    def _compressed(self, member: Member, path: str, level: int) -> Iterator[Record]:
        """Yield what a compressed file holds: a tar is read as it comes, with what it holds called as in the file."""
        self._count()
        content = _Content(member)
        if find_archive(content.head[:BLOCK_BYTES]) is ArchiveKind.TAR:
            yield from self._stream_of_tar(content, path, level)
        else:
            yield from self._content(content, f"{path}/{_shown(member.name)}", level)

    def _stream_of_tar(self, content: _Content, path: str, level: int) -> Iterator[Record]:
        from symcache.formats.archive.tar import read_tar  # noqa: PLC0415

        # What was taken out of the compressed file is counted there.
        yield from self._each(read_tar(PieceReader(content.raising_pieces()), _nothing), path, level)

    def _member(self, member: Member, path: str, level: int) -> Iterator[Record]:
        if member.problem is not None:
            yield from self._problem(path, member.problem, member.at)
        elif member.size is not None and member.size > self._limits.largest_member_bytes:
            yield from self._problem(
                path,
                f"it has {member.size} bytes, more than inputs.largest_member_bytes allows; {_UNPACK}",
                member.at,
            )
        elif member.size != 0:
            yield from self._content(_Content(member), path, level)

    def _content(self, content: _Content, path: str, level: int) -> Iterator[Record]:
        """Yield what a file in an archive holds, if it is of a kind that is read."""
        head = content.head
        archive = find_archive(head[:BLOCK_BYTES])
        if archive is not None:
            yield from self._nested(content, archive, path, level)
        elif other := find_other_archive(head):
            yield from self._problem(path, other)
        elif not head:
            if content.error is not None:
                yield from self._problem(path, content.error.problem, content.error.offset)
        elif kind_of(head[:BLOCK_BYTES]) is not None:
            yield from self._read(content, path)
        elif is_text(head):
            if self._takes_texts and not head.lstrip().startswith(b"<?xml"):  # of which a package has a great many
                yield from self._read(content, path)
        else:
            try:
                detect(_Beginning(content))
            except TruncatedInput:
                pass  # its own reader will say
            except InputError as error:
                self._refuse(path, error)
                return
            yield from self._read(content, path)

    def _nested(self, content: _Content, kind: ArchiveKind, path: str, level: int) -> Iterator[Record]:
        if level >= self._limits.deepest:
            problem = (
                f"archives in archives are read {level} deep; {_UNPACK}, or raise inputs.deepest in the config file"
            )
            yield from self._problem(path, problem)
        elif kind.is_stream:
            pieces = expand_stream(kind, content.raising_pieces(), self._spend)
            name = compressed_name(kind, path, content.head)
            yield from self._compressed(Member(name, None, lambda: pieces), path, level + 1)
        elif kind is ArchiveKind.TAR and content.member.view is None:
            yield from self._stream_of_tar(content, path, level + 1)
        else:
            try:
                with self._scratch.lend(content) as view:
                    yield from self._open(view, kind, path, level + 1)
            except _LimitReached:
                raise
            except (InputError, OSError) as error:
                yield from self._problem(path, unreadable(path, error).problem)
                return
            if content.error is not None:
                yield from self._problem(path, content.error.problem, content.error.offset)

    def _read(self, content: _Content, path: str) -> Iterator[Record]:
        """Yield what the reader of a file yields; where it could not be expanded to its end, that it could not."""
        try:
            with self._scratch.lend(content) as view:
                kind = detect(view)
                if kind not in _TEXTS or self._takes_texts:
                    yield from self._records(view, kind, path)
        except _LimitReached:
            raise
        except UnknownFormat as error:
            self._refuse(path, error)
        except (InputError, OSError) as error:
            item = unreadable(path, content.error or error)
            yield from self._problem(path, item.problem, item.offset)
            return
        if content.error is not None:
            yield from self._problem(path, content.error.problem, content.error.offset)

    def _refuse(self, path: str, error: InputError) -> None:
        if self._refused is None and not error.problem.startswith(NO_KNOWN_KIND):
            self._refused = path, error.problem

    def _add_log(self, view: ByteView, path: str) -> bool:
        """Read an event log together with others of its session, to be yielded at the archive's end; say if it is."""
        from symcache.inputs.trace import LogSession  # noqa: PLC0415 - few archives hold one

        if self._sessions is None:  # of a compressed tar, whose end is nobody's
            return False
        session = next((each for each in self._sessions if each.fits(view)), None)
        if session is None:
            if len(self._sessions) == _MOST_SESSIONS:
                return False
            session = LogSession(self._options)
            session.add(view, path)
            self._sessions.append(session)
        else:
            session.add(view, path)
        return True

    def _reader(self, kind: InputKind) -> Reader:
        if kind is InputKind.IMAGE:
            from symcache.inputs.image import read_module  # noqa: PLC0415 - as in a folder

            return read_module
        return self._options.reader(kind)

    def _records(self, view: ByteView, kind: InputKind, path: str) -> Iterator[Record]:
        if kind is InputKind.DEBUGGER_LOG:
            # What a log may yield is bounded. One that identifies nothing is any text.
            records = list(self._options.reader(kind)(view, path))
            if any(isinstance(each, Module) and (each.image or each.pdbs or each.dbg) for each in records):
                self._yielded, self._is_own = True, False
                yield from records
            return
        if kind is InputKind.ETL and self._add_log(view, path):
            return
        # Nobody can read them again: what is asked of missing files' modules later is found out now.
        find_version = open_versions(view) if kind in _WITH_VERSIONS else None
        for record in self._reader(kind)(view, path):
            if isinstance(record, Remark):
                yield record
                continue
            if isinstance(record, Input):
                if kind in _LOOSE:
                    continue
                self._is_own = False
            elif kind in _LOOSE:
                yield from self._own()
            self._yielded = True
            if find_version is not None and isinstance(record, Module) and record.process is None:
                yield replace(record, version=find_version(record))
            else:
                yield record


class _Content:
    """The bytes of one member, of which the beginning is at hand."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.error: InputError | None = None  # what ended it early
        parts: list[bytes] = []
        self._pieces = iter(()) if member.view is not None else member.pieces()
        if member.view is not None:
            parts.append(member.view.read(0, min(member.view.size, _HEAD_BYTES)))
        held = sum(map(len, parts))
        try:
            while member.view is None and held < _HEAD_BYTES and (piece := next(self._pieces, None)) is not None:
                parts.append(piece)
                held += len(piece)
        except _LimitReached:
            raise
        except InputError as error:
            self.error, self._pieces = error, iter(())
        self._held = b"".join(parts)
        self.head = self._held[:_HEAD_BYTES]

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, once; an early end is noted as *error*."""
        if self.member.view is not None:
            yield from iter_pieces(self.member.view)
            return
        yield self._held
        try:
            yield from self._pieces
        except _LimitReached:
            raise
        except InputError as error:
            self.error = error

    def raising_pieces(self) -> Iterator[bytes]:
        """Yield all of it, once; raise where it ends early."""
        if self.member.view is not None:
            return iter_pieces(self.member.view)
        return chain([self._held], self._pieces, _raise(self))


class _Beginning:
    """What is at hand of a member, with the length of the whole, by which some kinds are told.

    A length that is not known counts as that of a memory image.
    """

    def __init__(self, content: _Content) -> None:
        self._view = BytesView(content.head)
        whole = _HEAD_BYTES << 10 if content.member.size is None else content.member.size
        self.size = max(self._view.size, whole) if self._view.size == _HEAD_BYTES else self._view.size

    def read(self, offset: int, length: int) -> bytes:
        return self._view.read(offset, length)


def _raise(content: _Content) -> Iterator[bytes]:
    if content.error is not None:
        raise content.error
    yield from ()


class _Scratch:
    """Where members lie while they are read."""

    def __init__(self, largest_bytes: int, stack: ExitStack) -> None:
        self._largest_bytes = largest_bytes
        self._stack = stack
        self._folder: Path | None = None
        self._made = 0

    @contextmanager
    def lend(self, content: _Content) -> Iterator[ByteView]:
        """Lend the whole of *content*: where it lies, in memory if it is small, else in a scratch file.

        Raises:
            InputError: It is larger than is allowed, or than the disk has room for.
            OSError: It cannot be written.
        """
        if content.member.view is not None:
            yield content.member.view
            return
        small, pieces, held = [], content.pieces(), 0
        while held <= _IN_MEMORY_BYTES and (piece := next(pieces, None)) is not None:
            small.append(piece)
            held += len(piece)
        if held <= _IN_MEMORY_BYTES:
            yield BytesView(b"".join(small))
            return
        folder = self._open_folder()
        self._check_room(folder, content.member.size or held)
        self._made += 1
        file = folder / str(self._made)
        try:
            with file.open("xb") as scratch:
                self._write(scratch, chain(small, pieces), folder)
            small.clear()
            with FileView(file) as view:
                yield view
        finally:
            file.unlink(missing_ok=True)

    def _write(self, file: BinaryIO, pieces: Iterator[bytes], folder: Path) -> None:
        """Write *pieces*, leaving holes for zeros, of which memory has a great many."""
        written = looked_at = 0
        for piece in pieces:
            written += len(piece)
            if written > self._largest_bytes:
                raise UnknownFormat(
                    f"it has more than the {self._largest_bytes} bytes that inputs.largest_member_bytes allows"
                )
            if written - looked_at >= _LOOKED_AT_FREE_BYTES:
                looked_at = written
                self._check_room(folder, 0)
            if piece.strip(b"\0"):
                file.write(piece)
            else:
                file.seek(len(piece), 1)
        file.truncate(written)

    def _check_room(self, folder: Path, size_bytes: int) -> None:
        check_room(folder, size_bytes, f"it has {size_bytes} bytes or more", f", or {_UNPACK}")

    def _open_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="symcache-")))
        return self._folder


def _shown(name: str) -> str:
    r"""Return how a member is called: its parts, without ``..``, drives' separators and what a terminal would obey."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    shown = "/".join(parts)
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in shown)
    return shown[-_LONGEST_NAME:] or "?"


def _nothing(_count: int) -> None:
    pass
