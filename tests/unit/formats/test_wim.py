from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parts import need
from support.synth.ntfs import lznt1, stored_lzx, xpress
from support.synth.wim import WimPlan, build_wim

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.disk.bounded import Budget, CountedView
from symcache.formats.disk.compression import expand_lznt1, expand_lzx, expand_xpress
from symcache.formats.disk.tree import find
from symcache.formats.disk.wim import WimFile, WimImage
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.tree import FileTree, TreeEntry

LINES = b"".join(b"line %d of a text that repeats\n" % (number % 60) for number in range(4000))
TREE = {
    "Windows": {"System32": {"a.dll": LINES, "b.dll": LINES[:100], "empty.dll": b""}, "x.exe": LINES[5:40000]},
    "again.dll": LINES,
}


def opened(data: bytes) -> WimFile:
    budget = Budget(len(data))
    return WimFile(CountedView(BytesView(data), budget), budget)


def walk(tree: FileTree, folder: TreeEntry, path: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in tree.entries(folder):
        if entry.is_folder:
            yield from walk(tree, entry, f"{path}{entry.name}/")
        else:
            view = tree.open(entry)
            yield path + entry.name, view.read(0, view.size)


def flat(tree: dict[str, Any], path: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, value in tree.items():
        found |= {path + name: value} if isinstance(value, bytes) else flat(value, f"{path}{name}/")
    return found


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("compression", ["none", "xpress", "lzx"])
def test_the_files_of_an_image_read_as_they_were_written(compression: str, apart: bool) -> None:
    wim = opened(build_wim(WimPlan({"One": TREE, "Two": {"y.sys": b"MZ"}}, compression, streams_apart=apart)))
    first, second = wim.images
    assert first == WimImage(1, "One", "10.0.22621.1483")
    tree = wim.tree(first)
    assert dict(walk(tree, tree.root)) == flat(TREE)
    assert [name for name, _ in walk(wim.tree(second), wim.tree(second).root)] == ["y.sys"]


def test_the_same_content_has_one_place() -> None:
    wim = opened(build_wim(WimPlan({"One": TREE})))
    tree = wim.tree(wim.images[0])
    found = [find(tree, "windows", "SYSTEM32", "a.dll"), find(tree, "again.dll")]
    assert len({each.place for each in found if each}) == 1


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (0, b"WLPWM\0\0\0", "made for pipes"),
        (16, b"\x02\0\0\x10", "compressed in an unknown way"),
        (20, b"\x01\0\0\0", "chunks of 1 bytes"),
        (42, b"\x03", "part 1 of 3 of a split WIM file: join them"),
        (0x2C, b"\xff\xff\xff\xff", "4294967295 images"),
    ],
)
def test_what_is_not_read_is_told_with_what_converts_it(at: int, value: bytes, problem: str) -> None:
    data = bytearray(build_wim(WimPlan({"One": TREE}, "xpress")))
    data[at : at + len(value)] = value
    with pytest.raises((UnknownFormat, MalformedInput), match=problem):
        opened(bytes(data))


@pytest.mark.parametrize(("at", "value"), [(12, b"\x00\x0e\0\0"), (16, b"\x02\0\x08\0")], ids=["solid", "LZMS"])
def test_of_an_esd_the_images_are_told(at: int, value: bytes) -> None:
    data = bytearray(build_wim(WimPlan({"One": TREE})))
    data[at : at + len(value)] = value
    wim = opened(bytes(data))
    assert wim.needs_program
    assert wim.images == [WimImage(1, "One", "10.0.22621.1483")]
    with pytest.raises(UnknownFormat, match=r"LZMS \(an ESD\), which is not read: convert it \(wimlib-imagex export"):
        wim.tree(wim.images[0])


def test_an_encrypted_esd_is_told() -> None:
    data = bytearray(build_wim(WimPlan({"One": TREE})))
    data[12:16] = b"\x00\x0e\0\0"
    # As wimlib's check for such files has it; of the same length as what it replaces.
    encrypted = bytes(data).replace('<IMAGE INDEX="1">'.encode("utf-16-le"), "<ESD><ENCRYPTED/>".encode("utf-16-le"))
    with pytest.raises(UnknownFormat, match="an encrypted ESD"):
        opened(encrypted)


def test_without_its_document_an_image_has_a_number() -> None:
    data = build_wim(WimPlan({"One": TREE})).replace("<IMAGE".encode("utf-16-le"), "<OTHER".encode("utf-16-le"))
    assert opened(data).images == [WimImage(1)]


@pytest.mark.parametrize(
    ("compression", "chunk"),
    [("xpress", 4096), ("xpress", 32768), ("xpress", 65536), ("lzx", 32768), ("lzx", 65536), ("lzx", 1 << 21)],
)
def test_what_wimlib_compresses_is_expanded(compression: str, chunk: int, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    files = {
        "lines": LINES[:70_000],
        "code": Path(need("wimlib")).read_bytes()[:100_000] + b"\xe8\x10\0\0\0code" * 3000,
        "noise": random.Random(3).randbytes(40_000),
        "zeros": bytes(70_000),
        "tiny": b"x",
    }
    for name, data in files.items():
        (source / name).write_bytes(data)
    command = [need("wimlib"), "capture", "files", "x.wim", f"--compress={compression}", f"--chunk-size={chunk}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    wim = opened((tmp_path / "x.wim").read_bytes())
    tree = wim.tree(wim.images[0])
    assert dict(walk(tree, tree.root)) == files


@given(st.lists(st.sampled_from([b"abc", b"line of text ", bytes(300), b"\xff", b"xyz" * 90])).map(b"".join))
def test_compressed_pieces_expand_to_what_they_were(data: bytes) -> None:
    data = (data or b"x")[:32768]
    assert expand_xpress(xpress(data), len(data)) == data
    assert expand_lznt1(lznt1(data), len(data)) == data
    assert expand_lzx(stored_lzx(data), len(data)) == data
    assert expand_lznt1(lznt1(data), len(data) + 5000) == data + bytes(5000)


@given(st.binary(max_size=600), st.binary(max_size=40), st.integers(0, 40_000))
def test_no_piece_expands_to_more_or_less_than_was_asked_for(noise: bytes, patch: bytes, size: int) -> None:
    packed = bytearray(xpress(LINES[:5000]))
    packed[256 : 256 + len(patch)] = patch
    for expand, data in (
        (expand_xpress, bytes(packed)),
        (expand_xpress, b"\x99" * 256 + noise),
        (expand_lznt1, noise),
        (expand_lzx, noise),
    ):
        try:
            assert len(expand(data, size)) == size
        except MalformedInput:
            continue


@given(st.data())
def test_damage_raises_nothing_but_input_errors(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(_SOUND)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 208), st.integers(208, len(damaged) - 8)))
        value = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x01", bytes(8)]))
        damaged[at : at + len(value)] = value
    cut = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    try:
        wim = opened(bytes(damaged[:cut]))
        for image in wim.images:
            tree = wim.tree(image)
            for entry in tree.entries(tree.root):
                if entry.is_folder:
                    list(tree.entries(entry))
                else:
                    view = tree.open(entry)
                    view.read(0, min(view.size, 1000))
    except InputError:
        pass


_SOUND = [
    build_wim(WimPlan({"One": {"a": {"b.dll": LINES[:9000]}, "c.dll": LINES}}, each)) for each in ("none", "xpress")
]


def test_a_folder_that_holds_itself_is_no_end_of_memory() -> None:
    """What a folder holds is looked up where its entry says, and a walk goes so deep and no deeper."""
    data = bytearray(build_wim(WimPlan({"One": {"a": {"b": b""}}})))
    at = data.rindex("a".encode("utf-16-le").ljust(10, b"\0")) - 102
    root_at = 208 + 8
    data[at + 16 : at + 24] = data[root_at + 16 : root_at + 24]
    tree = opened(bytes(data)).tree(WimImage(1))
    path, entry = [], tree.root
    for _ in range(40):
        entry = next(iter(tree.entries(entry)))
        path.append(entry.name)
    assert path == ["a"] * 40
