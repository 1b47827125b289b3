from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parts import need
from support.synth.ntfs import CLUSTER, RECORD, NtfsFile, NtfsPlan, Way, build_ntfs

from symcache.errors import InputError, MalformedInput
from symcache.formats.disk.bounded import Budget, CountedView
from symcache.formats.disk.ntfs import NtfsVolume
from symcache.formats.disk.tree import find
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.tree import TreeEntry

LINES = b"".join(b"line %d of a text that repeats\n" % (number % 40) for number in range(2500))
HOLED = LINES[:3000] + bytes(9000) + LINES[3000:7000] + bytes(5000)
NOISE = random.Random(1).randbytes(20000)

FILES = {
    "a/resident": NtfsFile(LINES[:300], Way.RESIDENT),
    "a/run": NtfsFile(LINES, Way.RUN),
    "a/pieces": NtfsFile(LINES[:20001], Way.PIECES),
    "a/extended": NtfsFile(LINES[:9000], Way.EXTENDED),
    "a/sparse": NtfsFile(HOLED, Way.SPARSE),
    "b/unwritten": NtfsFile(HOLED, Way.UNWRITTEN),
    "b/lznt1": NtfsFile(LINES + bytes(40000) + NOISE + LINES, Way.LZNT1),
    "b/xpress4k": NtfsFile(LINES, Way.OVERLAY, algorithm=0),
    "b/xpress8k": NtfsFile(LINES, Way.OVERLAY, algorithm=2),
    "b/xpress16k": NtfsFile(LINES + NOISE, Way.OVERLAY, algorithm=3),
    "b/lzx": NtfsFile(LINES, Way.OVERLAY, algorithm=1),
    "b/empty": NtfsFile(b"", Way.OVERLAY),
}


def volume(files: dict[str, NtfsFile], **more: object) -> NtfsVolume:
    return opened(build_ntfs(NtfsPlan(files, **more)))  # type: ignore[arg-type]  # fields of the plan


def opened(data: bytes) -> NtfsVolume:
    budget = Budget(len(data))
    return NtfsVolume(CountedView(BytesView(data), budget), budget)


def content(tree: NtfsVolume, path: str) -> bytes:
    entry = find(tree, *path.split("/"))
    assert entry is not None
    view = tree.open(entry)
    return view.read(0, view.size)


def walk(tree: NtfsVolume, folder: TreeEntry, path: str = "") -> Iterator[str]:
    for entry in tree.entries(folder):
        if entry.is_folder:
            yield from walk(tree, entry, f"{path}{entry.name}/")
        else:
            yield path + entry.name


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("path", FILES)
def test_a_file_reads_as_it_was_written(path: str, in_blocks: bool) -> None:
    tree = volume({path: FILES[path]}, in_blocks=in_blocks)
    assert content(tree, path) == FILES[path].data


def test_any_piece_of_a_file_can_be_read() -> None:
    tree = volume(FILES, in_blocks=True)
    chosen = random.Random(2)
    for path, file in FILES.items():
        entry = find(tree, *path.split("/"))
        assert entry is not None
        view = tree.open(entry)
        for _ in range(12):
            start = chosen.randint(0, len(file.data))
            length = chosen.randint(0, min(9000, len(file.data) - start))
            assert view.read(start, length) == file.data[start : start + length]


def test_a_file_is_found_whatever_the_letter_case() -> None:
    tree = volume({"Windows/System32/NTOSKRNL.EXE": NtfsFile(b"MZ", Way.RESIDENT)})
    assert find(tree, "windows", "SYSTEM32", "ntoskrnl.exe") is not None
    assert find(tree, "windows", "ntoskrnl.exe") is None
    assert find(tree, "windows", "system32", "ntoskrnl.exe", "more") is None


def test_names_of_eight_characters_and_names_that_are_gone_are_passed_over() -> None:
    names = {f"a long name {number}": NtfsFile(b"x", Way.RESIDENT) for number in range(120)}
    tree = volume(names, in_blocks=True, dos_names=True, stale_names=("gone.sys",))
    assert sorted(walk(tree, tree.root)) == sorted(names)


def test_links_to_one_file_have_one_place() -> None:
    tree = volume({"a/x.sys": NtfsFile(LINES, links=("b/x.sys", "b/y.sys"))})
    places = [find(tree, *path) for path in (("a", "x.sys"), ("b", "x.sys"), ("b", "y.sys"))]
    assert len({each.place for each in places if each}) == 1
    assert content(tree, "b/y.sys") == LINES


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (NtfsFile(LINES, Way.ENCRYPTED), "encrypted by its user's key"),
        (NtfsFile(b"", Way.CLOUD), "in the cloud"),
        (NtfsFile(LINES, Way.OVERLAY, provider=1), "lies in a WIM file elsewhere"),
        (NtfsFile(LINES, Way.OVERLAY, provider=7), "provider 7 with algorithm 0 is not known"),
    ],
)
def test_data_that_is_not_there_is_told(file: NtfsFile, problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        content(volume({"x": file}), "x")


def test_what_a_compressed_file_holds_is_expanded_only_where_it_is_read() -> None:
    data = build_ntfs(NtfsPlan({"x": NtfsFile(LINES * 20, Way.OVERLAY)}))
    budget = Budget(0)
    tree = NtfsVolume(CountedView(BytesView(data), budget), budget)
    entry = find(tree, "x")
    assert entry is not None
    view = tree.open(entry)
    before = budget.left_bytes
    assert view.read(4096 * 100 + 7, 60) == (LINES * 20)[4096 * 100 + 7 :][:60]
    assert before - budget.left_bytes < 3 * 4096


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (3, b"EXFAT   ", "no NTFS volume"),
        (0x0B, b"\0\0", "sectors of 0 bytes"),
        (0x0D, b"\x03", "3 to a cluster"),
        (0x40, b"\x80", "records of "),
        (0x30, b"\xff" * 16, "master file table of NTFS cannot be read"),
    ],
)
def test_a_damaged_first_sector_is_refused(at: int, value: bytes, problem: str) -> None:
    data = bytearray(build_ntfs(NtfsPlan({})))
    data[at : at + len(value)] = value
    with pytest.raises(InputError, match=problem):
        opened(bytes(data))


def test_the_copy_serves_where_the_master_file_table_is_gone() -> None:
    data = bytearray(build_ntfs(NtfsPlan({"x": NtfsFile(LINES)})))
    data[0x30:0x38] = (2).to_bytes(8, "little")  # where there is nothing
    assert content(opened(bytes(data)), "x") == LINES


def test_a_block_that_was_written_in_part_is_told_at_the_end() -> None:
    names = {f"a long name {number}": NtfsFile(b"x", Way.RESIDENT) for number in range(120)}
    data = bytearray(build_ntfs(NtfsPlan(names, in_blocks=True)))
    torn = data.rindex(b"INDX")
    data[torn + 1022] ^= 1
    tree = opened(bytes(data))
    found: list[str] = []
    with pytest.raises(MalformedInput, match="in part only: INDX was written in part only"):
        found.extend(entry.name for entry in tree.entries(tree.root))
    found = []
    try:
        for entry in tree.entries(tree.root):
            found.append(entry.name)
    except MalformedInput:
        pass
    assert 20 < len(found) < 120


def test_a_record_that_belongs_to_another_file_by_now_is_not_taken_for_it() -> None:
    data = bytearray(build_ntfs(NtfsPlan({"x": NtfsFile(LINES)})))
    data[4 * CLUSTER + 24 * RECORD + 0x10] += 1
    with pytest.raises(MalformedInput, match="belongs to another file by now"):
        content(opened(bytes(data)), "x")


def test_a_size_that_the_clusters_cannot_hold_is_refused() -> None:
    data = build_ntfs(NtfsPlan({"x": NtfsFile(LINES)}))
    size = len(LINES).to_bytes(8, "little")
    assert data.count(size * 2) == 1
    with pytest.raises(MalformedInput, match="bytes are said to lie in"):
        content(opened(data.replace(size * 2, (1 << 60).to_bytes(8, "little") * 2)), "x")


def test_a_list_of_attributes_that_leads_in_a_circle_ends() -> None:
    """The records that a list names are never asked for lists of their own."""
    data = bytearray(build_ntfs(NtfsPlan({"x": NtfsFile(LINES[:4000], Way.EXTENDED)})))
    first = 4 * CLUSTER + 24 * RECORD
    for number in range(1, 5):  # each extension becomes what it extends
        data[first + number * RECORD : first + (number + 1) * RECORD] = data[first : first + RECORD]
    with pytest.raises(InputError):
        content(opened(bytes(data)), "x")


def test_dissect_reads_the_same_of_what_tests_write() -> None:
    """What our writer and reader agree on is NTFS: an independent reader finds the same."""
    need("dissect")
    ntfs = pytest.importorskip("dissect.ntfs")
    files = {path: file for path, file in FILES.items() if file.way not in {Way.OVERLAY, Way.UNWRITTEN}}
    oracle = ntfs.NTFS(io.BytesIO(build_ntfs(NtfsPlan(files, in_blocks=True))))
    for path, file in files.items():
        assert oracle.mft.get(path).open().read(len(file.data)) == file.data, path


@given(st.data())
def test_damage_raises_nothing_but_input_errors(data: st.DataObject) -> None:
    damaged = bytearray(_SOUND)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 0x50), st.integers(4 * CLUSTER, len(damaged) - 8)))
        value = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x01", b"\x80", bytes(8)]))
        damaged[at : at + len(value)] = value
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    try:
        tree = opened(bytes(damaged[:cut]))
        for entry in tree.entries(tree.root):
            if entry.is_folder:
                for inner in tree.entries(entry):
                    _read_all(tree, inner)
            _read_all(tree, entry)
    except InputError:
        pass


def _read_all(tree: NtfsVolume, entry: TreeEntry) -> None:
    try:
        view = tree.open(entry)
        view.read(0, min(view.size, 5000))
        view.read(max(0, view.size - 100), min(view.size, 100))
    except InputError:
        pass


_SOUND = build_ntfs(
    NtfsPlan(
        {path: NtfsFile(file.data[:6000], file.way, (), file.algorithm) for path, file in FILES.items()}, in_blocks=True
    )
)
