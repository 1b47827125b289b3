"""Cabinets of any number of files, each folder expanded once from its beginning to its end."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.archive.member import Member, PieceReader
from symcache.formats.cabinet import expand, open_cabinet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.archive.member import Spend
    from symcache.formats.cabinet import Cabinet, CabinetMember
    from symcache.formats.view import ByteView


def read_cabinet(view: ByteView, spend: Spend) -> Iterator[Member]:
    """Yield the files of a cabinet, folder by folder, in the order in which they are compressed.

    Raises as `open_cabinet`. A folder that is damaged gives what stands before that; its other files say so.
    """
    cabinet = open_cabinet(view)
    folders: dict[int, list[CabinetMember]] = {}
    for member in cabinet.members:
        folders.setdefault(member.folder, []).append(member)
    for members in folders.values():
        yield from _read_folder(cabinet, sorted(members, key=attrgetter("folder_offset", "size")), spend)


def _read_folder(cabinet: Cabinet, members: list[CabinetMember], spend: Spend) -> Iterator[Member]:
    end = max(each.folder_offset + each.size for each in members)
    try:
        pieces = expand(cabinet, replace(members[-1], folder_offset=0, size=end), limit_bytes=end)
    except InputError as error:
        for each in members:
            yield Member(each.name, each.size, lambda: iter(()), each.offset, error.problem)
        return
    source = PieceReader(_counted(pieces, spend))
    for each in members:
        if each.folder_offset < source.at:
            problem = "it overlaps another file of the cabinet"
            yield Member(each.name, each.size, lambda: iter(()), each.offset, problem)
            continue
        yield Member(each.name, each.size, _Reader(source, each).pieces, each.offset)


class _Reader:
    """The content of one file; what stands before it is expanded when it is read."""

    def __init__(self, source: PieceReader, member: CabinetMember) -> None:
        self._source = source
        self._member = member

    def pieces(self) -> Iterator[bytes]:
        member = self._member
        if self._source.at > member.folder_offset:
            raise MalformedInput("it overlaps another file of the cabinet", offset=member.offset)
        self._source.skip(member.folder_offset - self._source.at)
        left = member.size
        while left:
            piece = self._source.take_some(left)
            if not piece:
                raise MalformedInput("the cabinet is damaged before its end", offset=member.offset)
            left -= len(piece)
            yield piece


def _counted(pieces: Iterator[bytes], spend: Spend) -> Iterator[bytes]:
    for piece in pieces:
        spend(len(piece))
        yield piece
