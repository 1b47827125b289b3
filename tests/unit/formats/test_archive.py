"""Members of archives: what is told of them, what is counted, and what tells an archive."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shared import corpus, corpus_files, needs_corpus
from support.synth.cab import Mszip, SynthFolder, build_cabinet
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.archive.cab import read_cabinet
from symcache.formats.archive.compressed import compressed_name, expand_stream
from symcache.formats.archive.member import (
    ArchiveKind,
    PieceReader,
    ViewReader,
    find_archive,
    find_other_archive,
    iter_pieces,
    parse_octal,
)
from symcache.formats.archive.tar import read_tar
from symcache.formats.archive.zip import read_zip
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.formats.archive.member import Member, Spend

NOISE = random.Random(3).randbytes(200_000)
FILES = {"a": NOISE[:100_000], "b/c": NOISE[100_000:], "d": b""}


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def cabbed() -> bytes:
    return build_cabinet([SynthFolder(list(FILES.items()), Mszip())])


READERS: dict[str, Callable[[Spend], Iterator[Member]]] = {
    "zip": lambda spend: read_zip(BytesView(zipped()), spend),
    "tar": lambda spend: read_tar(ViewReader(BytesView(tarred())), spend),
    "tar in pieces": lambda spend: read_tar(PieceReader(iter_pieces(BytesView(tarred()))), spend),
    "cabinet": lambda spend: read_cabinet(BytesView(cabbed()), spend),
}


@pytest.mark.parametrize("open_", READERS.values(), ids=READERS)
def test_members_are_told_by_name_length_and_content(open_: Callable[[Spend], Iterator[Member]]) -> None:
    found = {member.name: (member.size, b"".join(member.pieces())) for member in open_(lambda _: None)}
    assert found == {name: (len(content), content) for name, content in FILES.items()}


@pytest.mark.parametrize("open_", READERS.values(), ids=READERS)
def test_what_is_expanded_is_counted_and_can_be_ended(open_: Callable[[Spend], Iterator[Member]]) -> None:
    counts: list[int] = []
    for member in open_(counts.append):
        for piece in member.pieces():
            assert len(piece) <= 1 << 16
    assert sum(counts) == len(NOISE)

    def refuse(_count: int) -> None:
        raise InputError("enough")

    members = open_(refuse)
    first = next(members)
    with pytest.raises(InputError, match="enough"):
        list(first.pieces())


def test_members_that_are_passed_over_cost_nothing_where_they_stand_apart() -> None:
    view = CountingView(BytesView(tarred()))
    assert [member.name for member in read_tar(ViewReader(view), lambda _: None)] == list(FILES)
    assert view.read_bytes < 10_000
    view = CountingView(BytesView(zipped()))
    assert [member.name for member in read_zip(view, lambda _: None)] == list(FILES)
    assert view.read_bytes < 70_000  # the end of a zip may have a comment of 64 KiB


def test_a_zip_compressed_with_xz_is_read() -> None:
    content = b"content " * 1000
    packed = lzma.compress(content)
    sizes = zlib.crc32(content), len(packed), len(content)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 63, 0, 95, 0, 0, *sizes, 1, 0) + b"x" + packed
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 63, 63, 0, 95, 0, 0, *sizes, 1, 0, 0, 0, 0, 0, 0) + b"x"
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)
    (member,) = read_zip(BytesView(local + entry + end), lambda _: None)
    assert b"".join(member.pieces()) == content


@pytest.mark.parametrize("method", [1, 6, 97, 98, 1234])
def test_a_method_that_is_not_read_is_said(method: int) -> None:
    data = bytearray(zipped())
    at = data.find(b"PK\1\2")
    struct.pack_into("<H", data, at + 10, method)
    first, *_ = read_zip(BytesView(bytes(data)), lambda _: None)
    assert first.problem is not None
    assert "is not read: unpack it" in first.problem


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0000644\0", 0o644),
        (b"    17 \0", 0o17),
        (b"\x80" + bytes(10) + b"\1", 1),
        (b"9999999\0", None),
        (b"\0" * 8, None),
        (b"-000001\0", None),
    ],
)
def test_numbers_of_a_tar_are_octal_or_binary(text: bytes, number: int | None) -> None:
    assert parse_octal(text) == number


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        (ArchiveKind.GZIP, "a/b.dmp.gz", "b.dmp"),
        (ArchiveKind.GZIP, r"a\b.TGZ", "b.tar"),
        (ArchiveKind.XZ, "b.txz", "b.tar"),
        (ArchiveKind.BZIP2, "b.dmp.bz2", "b.dmp"),
        (ArchiveKind.ZSTD, "b.dmp.zst", "b.dmp"),
        (ArchiveKind.GZIP, "-", "-"),
        (ArchiveKind.GZIP, ".gz", ".gz"),
    ],
)
def test_the_name_of_what_is_compressed_is_that_of_the_file_without_its_suffix(
    kind: ArchiveKind, path: str, name: str
) -> None:
    assert compressed_name(kind, path, b"") == name


def test_a_stream_that_ends_early_or_is_damaged_gives_what_stands_before() -> None:
    packed = gzip.compress(NOISE)
    for data, error in ((packed[:-100], TruncatedInput), (packed[:-8] + bytes(8), MalformedInput)):
        pieces = expand_stream(ArchiveKind.GZIP, iter_pieces(BytesView(data)), lambda _: None)
        found: list[bytes] = []
        with pytest.raises(error):
            found.extend(pieces)
        assert len(b"".join(found)) > 190_000
        assert NOISE.startswith(b"".join(found))


@needs_corpus
@pytest.mark.parametrize("folder", ["pe", "pdb", "pdb-portable", "user-minidump", "kernel-triage", "logs"])
def test_no_other_file_is_taken_for_an_archive(folder: str) -> None:
    for name in corpus_files(folder):
        head = (corpus / name).read_bytes()[:512]
        assert (find_archive(head), find_other_archive(head)) == (None, None), name


@given(st.binary(max_size=600))
def test_any_head_is_told_or_not(head: bytes) -> None:
    assert find_archive(head) is None or isinstance(find_archive(head), ArchiveKind)


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(1, 20), max_size=8))
def test_pieces_are_read_in_any_portions(pieces: Sequence[bytes], portions: Sequence[int]) -> None:
    whole = b"".join(pieces)
    reader = PieceReader(iter(pieces))
    places = [0]
    for portion in portions:
        assert reader.take(portion) == whole[places[-1] : places[-1] + portion]
        places.append(min(len(whole), places[-1] + portion))
        assert reader.at == places[-1]
    assert all(one <= two for one, two in pairwise(places))
    reader.skip(len(whole) - reader.at)
    with pytest.raises(TruncatedInput):
        reader.skip(1)
