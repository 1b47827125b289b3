from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.fat import build_fat

from symcache.errors import InputError, MalformedInput
from symcache.formats.disk.bounded import Budget, CountedView
from symcache.formats.disk.fat import FatVolume
from symcache.formats.disk.kinds import name_file_system
from symcache.formats.disk.tree import find
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.tree import TreeEntry

TREE: dict[str, Any] = {
    "SHORT.TXT": b"short",
    "A long name with blanks.sys": random.Random(1).randbytes(20_000),
    "empty.bin": b"",
    "Windows": {
        "System32": {"ntoskrnl.exe": b"MZ" + bytes(3000), "drivers": {f"driver {n}.sys": b"x" for n in range(40)}}
    },
}


def opened(data: bytes) -> FatVolume:
    return FatVolume(CountedView(BytesView(data), Budget(len(data))))


def walk(volume: FatVolume, folder: TreeEntry, path: str = "", depth: int = 6) -> Iterator[tuple[str, bytes]]:
    for entry in volume.entries(folder):
        if not entry.is_folder:
            view = volume.open(entry)
            yield path + entry.name, view.read(0, view.size)
        elif depth:
            yield from walk(volume, entry, f"{path}{entry.name}/", depth - 1)


def flat(tree: dict[str, Any], path: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, value in tree.items():
        found |= {path + name: value} if isinstance(value, bytes) else flat(value, f"{path}{name}/")
    return found


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_the_files_of_a_volume_read_as_they_were_written(bits: int) -> None:
    data = build_fat(TREE, bits)
    assert name_file_system(data[:4096]) == f"FAT{bits}"
    volume = opened(data)
    assert dict(walk(volume, volume.root)) == flat(TREE)


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_any_piece_of_a_file_can_be_read(bits: int) -> None:
    volume = opened(build_fat(TREE, bits))
    entry = find(volume, "a long name with blanks.sys")
    assert entry is not None
    view = volume.open(entry)
    for start, length in ((19_000, 1000), (0, 1), (511, 2), (5000, 700), (20_000, 0)):
        assert view.read(start, length) == TREE["A long name with blanks.sys"][start : start + length]
    with pytest.raises(InputError):
        view.read(19_999, 2)


@pytest.mark.parametrize(("at", "value"), [(11, b"\x03\0"), (13, b"\x03"), (13, b"\0"), (16, b"\0")])
def test_a_damaged_first_sector_is_refused(at: int, value: bytes) -> None:
    data = bytearray(build_fat({}))
    data[at : at + len(value)] = value
    with pytest.raises(MalformedInput, match="FAT with sectors of"):
        opened(bytes(data))


def test_a_folder_whose_clusters_lead_in_a_circle_ends() -> None:
    data = bytearray(build_fat({f"a name of file {number}": b"" for number in range(60)}))
    table = 4 * 512
    first = int.from_bytes(data[44:48], "little")
    data[table + 4 * first : table + 4 * first + 4] = first.to_bytes(4, "little")
    volume = opened(bytes(data))
    assert len(list(volume.entries(volume.root))) < (2 << 20) // 32


@given(st.data())
def test_damage_raises_nothing_but_input_errors(data: st.DataObject) -> None:
    sound = data.draw(st.sampled_from(_SOUND))
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 100), st.integers(2048, 60_000)))
        value = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x01", b"\x10"]))
        damaged[at : at + len(value)] = value
    try:
        volume = opened(bytes(damaged))
        for entry in volume.entries(volume.root):
            if entry.is_folder:
                list(volume.entries(entry))
            else:
                view = volume.open(entry)
                view.read(0, min(view.size, 2000))
    except InputError:
        pass


_SOUND = [build_fat({"a.sys": bytes(3000), "Windows": {"a file.txt": b"x"}}, bits) for bits in (12, 16, 32)]
