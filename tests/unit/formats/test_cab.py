from __future__ import annotations

import hashlib
import struct
import sys
import time
import tracemalloc
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.parts import is_required, need
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.cab import CabinetDamage, Lzx, Mszip, Stored, SynthFolder, build_cabinet
from support.synth.lzx import lzx_frames
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats import cabinet as cabinets
from symcache.formats.cabinet import Cabinet, expand, open_cabinet
from symcache.formats.view import BytesView, FileView, PartView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView

MIB = 1 << 20
LINES = b"".join(b"line %d of a file that compresses well\r\n" % number for number in range(2000))
COMPRESSIONS: list[Stored | Mszip | Lzx] = [Stored(), Mszip(), Lzx(15), Lzx(21, ("aligned",), 30_000, e8_size=70_000)]


MSZIP = Mszip()


@pytest.fixture(params=["ours", "libarchive"])
def lzx_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "libarchive":
        need_libarchive()
    else:
        monkeypatch.setattr(cabinets, "has_libarchive", lambda: False)


def need_libarchive() -> None:
    """Skip the test without the package or without the library that it looks for."""
    need("libarchive")
    if not cabinets.has_libarchive():
        assert not is_required("libarchive")
        pytest.skip("this system has no libarchive")


def one_file(content: bytes = LINES, compression: Stored | Mszip | Lzx = MSZIP, **options: Any) -> bytes:
    return build_cabinet([SynthFolder([("app.pdb", content)], compression)], **options)


def open_bytes(data: bytes) -> Cabinet:
    return open_cabinet(BytesView(data))


def expand_first(view: ByteView, limit_bytes: int = 64 * MIB) -> bytes:
    cabinet = open_cabinet(view)
    return b"".join(expand(cabinet, cabinet.members[0], limit_bytes=limit_bytes))


def test_the_tables_say_what_a_cabinet_holds() -> None:
    data = build_cabinet(
        [SynthFolder([("a.pdb", b"12345"), ("b.dll", b"678")], Stored()), SynthFolder([("c.exe", LINES)], Lzx(17))]
    )
    cabinet = open_bytes(data)
    assert [(m.name, m.size, m.folder, m.folder_offset) for m in cabinet.members] == [
        ("a.pdb", 5, 0, 0),
        ("b.dll", 3, 0, 5),
        ("c.exe", len(LINES), 1, 0),
    ]
    assert [(f.compression, f.blocks) for f in cabinet.folders] == [(0, 1), (0x1103, 3)]
    assert [data[m.offset + 16 :][:5] for m in cabinet.members] == [b"a.pdb", b"b.dll", b"c.exe"]


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=repr)
@pytest.mark.parametrize("reserve", [(b"", b"", b""), (b"sig" * 9, b"f", b"blk!!")], ids=["plain", "reserve"])
@pytest.mark.parametrize("checksums", [True, False], ids=["sums", "no sums"])
@pytest.mark.usefixtures("lzx_reader")
def test_every_member_expands_to_its_bytes(
    compression: Stored | Mszip | Lzx, reserve: tuple[bytes, bytes, bytes], checksums: bool
) -> None:
    files = [("empty", b""), ("a", LINES[:33_000]), ("b", b"short"), ("c", LINES[33_000:])]
    data = build_cabinet([SynthFolder(files, compression)] * 2, reserve=reserve, checksums=checksums)
    cabinet = open_bytes(data)
    expanded = [(m.name, b"".join(expand(cabinet, m, limit_bytes=MIB))) for m in cabinet.members]
    assert expanded == files * 2


def contents() -> st.SearchStrategy[bytes]:
    """Runs and repeats, across the borders of blocks."""
    runs = st.builds(bytes.__mul__, st.binary(min_size=1, max_size=12), st.integers(1, 4000))
    return st.lists(runs | st.binary(max_size=300), max_size=6).map(b"".join)


@given(contents(), st.sampled_from([Stored(), Mszip(0), Mszip(9)]), st.booleans(), st.binary(max_size=40))
def test_whatever_is_written_is_read_back(
    content: bytes, compression: Stored | Mszip, checksums: bool, trailing: bytes
) -> None:
    data = one_file(content, compression, checksums=checksums, trailing=trailing)
    assert expand_first(BytesView(data)) == content


def test_pieces_are_blocks_and_blocks_are_read_one_at_a_time() -> None:
    view = CountingView(BytesView(one_file()))
    cabinet = open_cabinet(view)
    reads_of_tables = len(view.reads)
    pieces = expand(cabinet, cabinet.members[0], limit_bytes=MIB)
    assert len(view.reads) == reads_of_tables
    assert next(pieces) == LINES[:32768]
    assert len(view.reads) == reads_of_tables + 2


def test_names_are_information_and_may_be_anything() -> None:
    names = ["..\\..\\evil.pdb", "C:\\x", "Jürgen.pdb", "a" * 255]
    cabinet = open_bytes(build_cabinet([SynthFolder([(name, b"x") for name in names])]))
    assert [m.name for m in cabinet.members] == names


def test_a_name_without_the_flag_of_unicode_is_latin() -> None:
    data = one_file(b"x").replace(b"app.pdb", b"\xe4pp.pdb")
    assert open_bytes(data).members[0].name == "äpp.pdb"


def test_a_name_that_is_not_the_unicode_it_says_is_still_shown() -> None:
    data = build_cabinet([SynthFolder([("äpp.pdb", b"x")])]).replace("ä".encode(), b"\xe4\xe4")
    assert open_bytes(data).members[0].name == "\ufffd\ufffdpp.pdb"


def test_bytes_behind_the_cabinet_are_left_alone() -> None:
    assert expand_first(BytesView(one_file(trailing=b"signature" * 100))) == LINES


def test_a_reserve_may_be_left_out_of_the_checksum() -> None:
    reserve = b"\1\2\3\4"
    damage = CabinetDamage(checksum_xor=int.from_bytes(reserve, "little"))
    assert expand_first(BytesView(one_file(reserve=(b"", b"", reserve), damage=damage))) == LINES


def test_mszip_blocks_may_be_short_and_still_refer_to_what_was_before() -> None:
    first, second = LINES[:700], LINES[:700]
    blocks = b""
    for chunk, before in ((first, b""), (second, first)):
        packer = zlib.compressobj(9, wbits=-15, zdict=before)
        packed = b"CK" + packer.compress(chunk) + packer.flush()
        blocks += struct.pack("<IHH", 0, len(packed), len(chunk)) + packed
    sound = one_file(b"x" * 1400, Mszip(), damage=CabinetDamage(block_count=2))
    at = open_bytes(sound).folders[0].data_offset
    data = sound[:8] + struct.pack("<I", at + len(blocks)) + sound[12:at] + blocks
    assert expand_first(BytesView(data)) == first + second


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"SZDD\x88\xf0\x27\x33A\0" + bytes(50), "SZDD"),
        (b"KWAJ\x88\xf0\x27\xd1" + bytes(50), "KWAJ"),
        (b"<!DOCTYPE html><html>Not Found</html>", "not a cabinet"),
        (b"MS", "not a cabinet"),
    ],
)
def test_what_is_not_a_cabinet_is_refused_by_name(data: bytes, problem: str) -> None:
    with pytest.raises(UnknownFormat, match=problem) as caught:
        open_bytes(data)
    assert caught.value.offset == 0


def test_an_empty_input_is_truncated() -> None:
    with pytest.raises(TruncatedInput, match="empty"):
        open_bytes(b"")


@pytest.mark.parametrize("cut", [4, 20, 35, 36, 50, 64, 80, -1])
def test_a_cut_cabinet_is_truncated(cut: int) -> None:
    with pytest.raises(TruncatedInput):
        open_bytes(one_file()[:cut])


def patched(at: int, value: bytes) -> bytes:
    data = one_file()
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "kind", "problem", "offset"),
    [
        (patched(24, b"\4\1"), UnknownFormat, r"version 1\.4", 24),
        (one_file(damage=CabinetDamage(flags=1)), UnknownFormat, "set of several", 30),
        (one_file(damage=CabinetDamage(flags=2)), UnknownFormat, "set of several", 30),
        (one_file(damage=CabinetDamage(file_folder=0xFFFD)), UnknownFormat, "another", 52),
        (one_file(damage=CabinetDamage(file_folder=0xFFFF)), UnknownFormat, "another", 52),
        (one_file(damage=CabinetDamage(file_folder=1)), MalformedInput, "folder 1 of 1", 52),
        (patched(26, b"\0\0"), MalformedInput, "without a folder", 26),
        (patched(28, b"\0\0"), MalformedInput, "no file", 28),
        (patched(36, b"\xff\xff\xff\xff"), MalformedInput, "outside", 36),
        (patched(16, b"\xff\xff\xff\x7f"), TruncatedInput, "ends within", 0x7FFFFFFF),
        (patched(60, b"n" * 400), MalformedInput, "not terminated", 60),
    ],
)
def test_damaged_tables_are_refused_with_their_place(
    data: bytes, kind: type[InputError], problem: str, offset: int
) -> None:
    with pytest.raises(kind, match=problem) as caught:
        open_bytes(data)
    assert caught.value.offset == offset


def test_blocks_behind_the_size_that_a_cabinet_gives_are_not_read() -> None:
    with pytest.raises(TruncatedInput):
        expand_first(BytesView(one_file(damage=CabinetDamage(cabinet_bytes=99))))


BLOCK_AT = 44 + 16 + len(b"app.pdb\0")


@pytest.mark.parametrize(
    ("options", "kind", "problem", "offset"),
    [
        ({"damage": CabinetDamage(type_field=0x1202)}, UnknownFormat, "Quantum", 42),
        ({"damage": CabinetDamage(type_field=7)}, UnknownFormat, "unknown way, 7", 42),
        ({"damage": CabinetDamage(type_field=0x0E03)}, MalformedInput, r"2\^14", 42),
        ({"damage": CabinetDamage(type_field=0x1603)}, MalformedInput, r"2\^22", 42),
        ({"damage": CabinetDamage(block_bytes=0)}, UnknownFormat, "another cabinet", BLOCK_AT + 6),
        ({"damage": CabinetDamage(block_bytes=32769)}, MalformedInput, "too large", BLOCK_AT + 4),
        ({"damage": CabinetDamage(block_bytes=32767)}, MalformedInput, "promises", BLOCK_AT),
        ({"damage": CabinetDamage(checksum_xor=1)}, MalformedInput, "checksum", BLOCK_AT),
        ({"damage": CabinetDamage(block_count=1)}, MalformedInput, "cannot hold", 44),
        ({"damage": CabinetDamage(file_bytes=len(LINES) + 1)}, MalformedInput, "1 bytes before", 44),
        ({"damage": CabinetDamage(file_bytes=0xFFFFFFFF)}, MalformedInput, "cannot hold", 44),
        ({"compression": Stored(), "damage": CabinetDamage(type_field=1)}, MalformedInput, "CK", BLOCK_AT),
        ({"damage": CabinetDamage(type_field=0)}, MalformedInput, "stored block", BLOCK_AT),
        ({"compression": Lzx(), "damage": CabinetDamage(block_bytes=9)}, MalformedInput, "short", BLOCK_AT + 6),
    ],
)
@pytest.mark.usefixtures("lzx_reader")
def test_damaged_blocks_are_refused_with_their_place(
    options: dict[str, Any], kind: type[InputError], problem: str, offset: int
) -> None:
    with pytest.raises(kind, match=problem) as caught:
        expand_first(BytesView(one_file(**options)), limit_bytes=1 << 40)
    assert caught.value.offset == offset


def test_a_limit_is_held_before_anything_is_expanded() -> None:
    view = CountingView(BytesView(one_file()))
    cabinet = open_cabinet(view)
    reads = len(view.reads)
    with pytest.raises(InputError, match="more than the limit"):
        expand(cabinet, cabinet.members[0], limit_bytes=len(LINES) - 1)
    assert len(view.reads) == reads
    assert expand_first(view, limit_bytes=len(LINES)) == LINES


def test_what_lies_before_a_file_counts_against_the_limit() -> None:
    cabinet = open_bytes(build_cabinet([SynthFolder([("big", LINES), ("small", b"x")])]))
    with pytest.raises(InputError, match="more than the limit"):
        expand(cabinet, cabinet.members[1], limit_bytes=len(LINES))


def peak_of_expanding(view: ByteView) -> tuple[int, str]:
    """Return the most memory in bytes that expanding took, and the MD5 of what came or the problem."""
    digest = hashlib.md5()
    tracemalloc.start()
    try:
        cabinet = open_cabinet(view)
        for piece in expand(cabinet, cabinet.members[0], limit_bytes=1 << 30):
            digest.update(piece)
        result = digest.hexdigest()
    except InputError as error:
        result = error.problem
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, result


def test_a_block_that_inflates_to_far_more_than_it_says_takes_no_memory() -> None:
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"CK" + packer.compress(bytes(24 * MIB)) + packer.flush()
    sound = one_file(bytes(32768), Stored(), checksums=False)
    data = sound[:BLOCK_AT] + struct.pack("<IHH", 0, len(bomb), 32768) + bomb
    data = data[:8] + struct.pack("<I", len(data)) + data[12:42] + b"\1\0" + data[44:]
    peak, problem = peak_of_expanding(BytesView(data))
    assert "promises" in problem
    assert peak < MIB


def test_memory_does_not_grow_with_the_file() -> None:
    content = bytes(20 * MIB)
    peak, digest = peak_of_expanding(BytesView(one_file(content, checksums=False)))
    assert digest == hashlib.md5(content).hexdigest()
    assert peak < MIB


def read_all(data: bytes, limit_bytes: int = MIB) -> None:
    try:
        cabinet = open_bytes(data)
    except InputError:
        return
    for member in cabinet.members[:4]:
        size = 0
        try:
            for piece in expand(cabinet, member, limit_bytes=limit_bytes):
                assert 0 < len(piece) <= 32768
                size += len(piece)
                assert size <= member.size
        except InputError:
            continue
        assert size == member.size


def seeds() -> list[bytes]:
    """Small cabinets; most without checksums, which would hide all that lies behind them from damage."""
    text = LINES[:3000] + bytes(200) + b"\xe8\1\0\0\0" * 40 + LINES[:1000]
    return [
        one_file(text[:200], Stored(), checksums=False, reserve=(b"h", b"f", b"b")),
        one_file(text, Mszip()),
        one_file(text, Mszip(), checksums=False),
        one_file(text, Lzx(15, ("verbatim",), 3000), checksums=False),
        one_file(text, Lzx(21, ("aligned", "verbatim"), 2000, 5000), checksums=False),
        one_file(text[:1500], Lzx(17, ("verbatim", "stored", "aligned"), 501), checksums=False),
    ]


def damaged(count: int, *, rng_seed: int) -> Iterator[bytes]:
    """Yield *count* damaged copies of each seed; every second one states its right size."""
    for number, seed in enumerate(seeds()):
        for turn, mutant in enumerate(mutants(seed, count, rng_seed=rng_seed + number, hot=120)):
            yield mutant if turn % 2 else mutant[:8] + struct.pack("<I", len(mutant)) + mutant[12:]


@pytest.mark.usefixtures("lzx_reader")
def test_damaged_cabinets_give_bytes_or_input_errors() -> None:
    for mutant in damaged(170, rng_seed=0):
        read_all(mutant)


@pytest.mark.slow
@pytest.mark.usefixtures("lzx_reader")
def test_many_damaged_cabinets_give_bytes_or_input_errors() -> None:
    slowest_s = 0.0
    for mutant in damaged(17_000, rng_seed=1000):
        started_s = time.process_time()
        read_all(mutant)
        slowest_s = max(slowest_s, time.process_time() - started_s)
    assert slowest_s < 1


@pytest.mark.slow
def test_damaged_cabinets_take_little_memory() -> None:
    for mutant in damaged(500, rng_seed=2000):
        assert peak_of_expanding(BytesView(mutant))[0] < 16 * MIB


@given(st.binary(max_size=300).map(b"MSCF\0\0\0\0".__add__) | st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_all(data)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("cab"))
@pytest.mark.usefixtures("lzx_reader")
def test_real_cabinets_expand_to_what_independent_tools_make_of_them(name: str) -> None:
    facts = truth()[name]
    expected = {c["name"].encode("utf-8", "surrogateescape"): c for c in facts["content"]}
    with FileView(corpus / name) as view:
        # One has text before the cabinet, which a symbol store has no use for; 6 is where the cabinet begins.
        at = 6 if "not-cab-at-start" in facts.get("note", "") else 0
        cabinet = open_cabinet(PartView(view, at, view.size - at))
        assert len(cabinet.members) == len(expected)
        for member in cabinet.members:
            plain = member.name.replace("\\", "/")
            fact = expected.get(plain.encode()) or expected[plain.encode("latin-1")]
            digest = hashlib.md5() if "md5" in fact else hashlib.sha256()
            if member.name == "qtm.txt":
                with pytest.raises(UnknownFormat, match="Quantum"):
                    expand(cabinet, member, limit_bytes=MIB)
                continue
            for piece in expand(cabinet, member, limit_bytes=16 * MIB):
                digest.update(piece)
            assert member.size == fact["size"]
            assert digest.hexdigest() == fact.get("sha256", fact.get("md5"))


@needs_corpus
def test_text_before_a_cabinet_is_refused() -> None:
    with FileView(corpus / "cab/mspack_search_basic.cab") as view, pytest.raises(UnknownFormat, match="not a cabinet"):
        open_cabinet(view)


ERRORS = {
    "not-cab": (UnknownFormat,),
    "multi-part": (UnknownFormat,),
    "truncated": (TruncatedInput,),
    "corrupt": (MalformedInput, TruncatedInput),
    # What the tools call bad data is also what is refused here by its name: Quantum, a version that never was.
    "bad-data": (MalformedInput, TruncatedInput, UnknownFormat),
}


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("cab-bad"))
@pytest.mark.usefixtures("lzx_reader")
def test_real_damaged_cabinets_are_refused(name: str) -> None:
    with FileView(corpus / name) as view, pytest.raises(ERRORS[truth()[name]["error"]]) as caught:
        expand_first(view, limit_bytes=1 << 33)
    assert caught.value.offset is not None
    assert "\n" not in str(caught.value)


@needs_corpus
@pytest.mark.usefixtures("lzx_reader")
def test_a_real_cabinet_of_a_large_file_takes_no_more_than_its_window() -> None:
    name = "cab/mspack_large-files-cab.cab"
    with FileView(corpus / name) as view:
        peak, digest = peak_of_expanding(view)
    assert digest == truth()[name]["content"][0]["md5"]
    assert peak < 8 * MIB  # window of 2 MiB, once more while it moves, tables, one block


def lzx_cabinet(content: bytes, **options: Any) -> Cabinet:
    return open_bytes(one_file(content, Lzx(16, ("verbatim", "aligned", "stored"), 20_001, 90_000), **options))


@pytest.fixture
def from_libarchive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what libarchive expanded."""
    need_libarchive()
    lengths: list[int] = []

    def expand_lzx(*arguments: Any) -> Iterator[bytes]:
        for piece in fast(*arguments):
            lengths.append(len(piece))
            yield piece

    fast = cabinets.expand_lzx_fast
    monkeypatch.setattr(cabinets, "expand_lzx_fast", expand_lzx)
    return lengths


def test_libarchive_expands_what_has_checksums(from_libarchive: list[int]) -> None:
    cabinet = lzx_cabinet(LINES)
    assert b"".join(expand(cabinet, cabinet.members[0], limit_bytes=MIB)) == LINES
    assert sum(from_libarchive) == len(LINES)


def test_libarchive_gets_no_block_without_a_checksum(from_libarchive: list[int]) -> None:
    cabinet = lzx_cabinet(LINES, checksums=False)
    assert b"".join(expand(cabinet, cabinet.members[0], limit_bytes=MIB)) == LINES
    assert from_libarchive == []


def test_where_libarchive_gives_up_our_decoder_goes_on(
    from_libarchive: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_block(compression: int, size_bytes: int, blocks: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
        return whole(compression, size_bytes, islice(blocks, 1))

    whole = cabinets.expand_lzx_fast
    monkeypatch.setattr(cabinets, "expand_lzx_fast", one_block)
    cabinet = open_bytes(build_cabinet([SynthFolder([("a", LINES[:700]), ("b", LINES[700:])], Lzx(15))]))
    assert b"".join(expand(cabinet, cabinet.members[1], limit_bytes=MIB)) == LINES[700:]
    assert sum(from_libarchive) <= 32768


def test_a_read_that_is_interrupted_below_libarchive_stays_interrupted() -> None:
    def interrupt(_: int) -> tuple[bytes, int]:
        raise KeyboardInterrupt

    need_libarchive()
    with pytest.raises(KeyboardInterrupt):
        list(cabinets.expand_lzx_fast(0x0F03, 10, map(interrupt, range(1))))


def test_damage_that_a_checksum_covers_is_refused_or_gives_as_many_bytes() -> None:
    need_libarchive()
    content = LINES[:3000] + bytes(200) + LINES[:1000]
    (frame,) = lzx_frames(content, window_bits=15, kinds=("verbatim", "aligned", "stored"), block_bytes=900)
    for mutant in mutants(frame, 300, rng_seed=3, hot=120):
        pieces = cabinets.expand_lzx_fast(0x0F03, len(content), [(mutant, len(content))])
        assert sum(map(len, pieces)) <= len(content)


def test_without_the_library_nothing_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libarchive", None)
    cabinets._libarchive.cache_clear()
    assert not cabinets.has_libarchive()
    cabinets._libarchive.cache_clear()
