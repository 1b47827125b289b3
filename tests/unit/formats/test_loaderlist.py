from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcache.errors import NotInDump
from symcache.formats.dump.kernel import KLDR64, read_entry, read_unicode_string, walk_list

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = 0x1000
STEP = 0x100


class Memory:
    """Bytes at a few addresses; all others are not there."""

    size = 1 << 64

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def put(self, address: int, data: bytes) -> None:
        self.bytes.update(enumerate(data, address))

    def read(self, offset: int, length: int) -> bytes:
        try:
            return bytes(self.bytes[at] for at in range(offset, offset + length))
        except KeyError as error:
            raise NotInDump("not here", address=error.args[0]) from None


def ring(count: int) -> tuple[Memory, list[int]]:
    memory = Memory()
    entries = [HEAD + STEP * (index + 1) for index in range(count)]
    nodes = [HEAD, *entries]
    for index, at in enumerate(nodes):
        memory.put(at, nodes[(index + 1) % len(nodes)].to_bytes(8, "little"))
        memory.put(at + 8, nodes[index - 1].to_bytes(8, "little"))
    return memory, entries


def anything(address: int) -> bool:
    return address >= HEAD


def test_a_sound_list_is_walked_to_its_end() -> None:
    memory, entries = ring(20)
    walk = walk_list(memory, HEAD, 8, anything)
    assert walk.entries == tuple(entries)
    assert walk.complete
    assert walk.problem is None


def test_an_empty_list_is_complete() -> None:
    memory, _ = ring(0)
    assert walk_list(memory, HEAD, 8, anything).complete


def break_at(memory: Memory, entries: list[int], index: int) -> None:
    memory.put(entries[index], bytes(8))


def lead_back(memory: Memory, entries: list[int], index: int) -> None:
    memory.put(entries[index], entries[0].to_bytes(8, "little"))


def skip(memory: Memory, entries: list[int], index: int) -> None:
    memory.put(entries[index], entries[index + 3].to_bytes(8, "little"))


def misalign(memory: Memory, entries: list[int], index: int) -> None:
    memory.put(entries[index], (entries[index + 1] + 3).to_bytes(8, "little"))


@pytest.mark.parametrize("damage", [break_at, lead_back, skip, misalign])
@pytest.mark.parametrize("index", [1, 5, 15])
def test_one_broken_link_loses_nothing(damage: Callable[[Memory, list[int], int], None], index: int) -> None:
    memory, entries = ring(20)
    damage(memory, entries, index)
    walk = walk_list(memory, HEAD, 8, anything)
    assert walk.entries == tuple(entries)
    assert not walk.complete
    assert walk.problem is not None


def test_one_broken_back_link_loses_nothing() -> None:
    memory, entries = ring(20)
    memory.put(entries[7] + 8, bytes(8))
    walk = walk_list(memory, HEAD, 8, anything)
    assert walk.entries == tuple(entries)
    assert walk.problem is not None


def test_an_entry_whose_page_is_gone_loses_itself_alone() -> None:
    memory, entries = ring(20)
    for at in range(entries[9], entries[9] + 16):
        del memory.bytes[at]
    walk = walk_list(memory, HEAD, 8, anything)
    assert walk.entries == (*entries[:9], *entries[10:])
    assert "cannot be read" in str(walk.problem)


def test_a_list_without_end_is_cut() -> None:
    class Endless:
        size = 1 << 64
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            return (offset + 16 if offset % 16 == 0 else offset - 24).to_bytes(length, "little")

    endless = Endless()
    walk = walk_list(endless, HEAD, 8, lambda _: True, most=100)
    assert len(walk.entries) <= 100
    assert "more than 100" in str(walk.problem)
    assert endless.reads < 1000


@settings(max_examples=60)
@given(st.data())
def test_any_damage_ends_and_gives_no_entry_twice(data: st.DataObject) -> None:
    memory, entries = ring(12)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.sampled_from([HEAD, *entries])) + data.draw(st.sampled_from([0, 8]))
        memory.put(at, data.draw(st.sampled_from([0, 1, HEAD, *entries, 0x2000])).to_bytes(8, "little"))
    walk = walk_list(memory, HEAD, 8, anything)
    assert len(set(walk.entries)) == len(walk.entries)
    assert HEAD not in walk.entries
    assert walk.complete == (walk.problem is None)


def entry_memory() -> Memory:
    memory = Memory()
    memory.put(0x5000, bytes(0xA0))
    memory.put(0x5030, (0xFFFFF80000400000).to_bytes(8, "little"))
    memory.put(0x5040, (0x9000).to_bytes(4, "little"))
    for at, text in ((0x5048, "\\SystemRoot\\a.sys"), (0x5058, "a.sys")):
        raw = text.encode("utf-16-le")
        memory.put(at, len(raw).to_bytes(2, "little") * 2)
        memory.put(at + 8, (at * 16).to_bytes(8, "little"))
        memory.put(at * 16, raw)
    return memory


def test_an_entry_reads_back() -> None:
    entry = read_entry(entry_memory(), 0x5000, KLDR64)
    assert (entry.base, entry.size_of_image) == (0xFFFFF80000400000, 0x9000)
    assert (entry.full_name, entry.base_name) == ("\\SystemRoot\\a.sys", "a.sys")
    assert entry.problem is None


@pytest.mark.parametrize(
    ("at", "value"),
    [(0x5030, 0), (0x5030, 0xFFFFF80000400010), (0x5030, 0x400000), (0x5040, 0), (0x5040, 0x40000000)],
)
def test_an_entry_that_cannot_be_an_images_has_a_problem(at: int, value: int) -> None:
    memory = entry_memory()
    memory.put(at, value.to_bytes(8, "little"))
    assert read_entry(memory, 0x5000, KLDR64, kernel_start=1 << 63).problem is not None


def test_a_name_that_is_not_there_is_told_and_the_other_is_kept() -> None:
    memory = entry_memory()
    memory.put(0x5050, bytes(8))
    entry = read_entry(memory, 0x5000, KLDR64)
    assert (entry.full_name, entry.base_name, entry.name_problem) == (None, "a.sys", "not here")


def test_an_entry_whose_end_is_on_a_missing_page_keeps_its_base() -> None:
    memory = entry_memory()
    for at in range(0x5048, 0x50A0):
        del memory.bytes[at]
    entry = read_entry(memory, 0x5000, KLDR64)
    assert (entry.base, entry.full_name, entry.base_name, entry.name_problem) == (
        0xFFFFF80000400000,
        None,
        None,
        "not here",
    )


def test_an_odd_length_of_a_string_is_rounded_down() -> None:
    memory = Memory()
    memory.put(0, b"\x05\0\x08\0\x10\0\0\0a\0b\0")
    memory.put(0x10, b"a\0b\0c\0")
    assert read_unicode_string(memory, 0, 4) == "ab"
