"""The forms of memory images: what each says lies where, and what is damaged."""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kernels import kernel_plan
from support.parts import need
from support.synth.kernelmemory import build_machine
from support.synth.memoryimages import (
    avml_bytes,
    elf_bytes,
    lime_bytes,
    memory_runs,
    qemu_note,
    virtualbox_notes,
    vmware_files,
    vmware_state,
)

from symcache.errors import Absence, InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.memory.elfcore import is_elf_core, read_elf_core
from symcache.formats.memory.kinds import VMWARE_MAGICS, looks_like_raw_memory
from symcache.formats.memory.lime import AvmlMemory, read_lime_ranges
from symcache.formats.memory.ranges import MOST_RANGES, MemoryRange, RangedMemory
from symcache.formats.memory.vmware import read_vmware_ranges
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from symcache.formats.memory.ranges import MachineMemory

MACHINE = build_machine(kernel_plan())
RUNS = memory_runs(MACHINE)


def assert_holds_the_machine(memory: MachineMemory) -> None:
    for start, data in RUNS:
        assert memory.read(start, len(data)) == data
    assert memory.byte_count == sum(len(data) for _, data in RUNS)
    assert memory.range_count == len(RUNS)
    assert memory.size == RUNS[-1][0] + len(RUNS[-1][1])
    seen = bytearray()
    address = 0
    while (place := memory.find_bytes(address)) is not None:
        start, length = place
        assert start >= address
        seen += memory.read(start, length)
        address = start + length
    assert seen == b"".join(data for _, data in RUNS)
    for missing in (0, RUNS[0][0] - 1, RUNS[0][0] + len(RUNS[0][1]), memory.size):
        with pytest.raises(NotInDump) as caught:
            memory.read(missing, 1)
        assert caught.value.absence is Absence.NOT_IN_DUMP
        assert caught.value.address == missing


def test_lime_reads_back() -> None:
    view = BytesView(lime_bytes(MACHINE))
    lime = read_lime_ranges(view)
    assert lime.problem is None
    assert_holds_the_machine(RangedMemory(view, lime.ranges))


@pytest.mark.parametrize("compress", [False, True], ids=["literals", "compressed"])
def test_avml_reads_back(compress: bool) -> None:
    need("cramjam")
    from cramjam import snappy  # noqa: PLC0415 - of an extra

    view = BytesView(avml_bytes(MACHINE, (lambda data: bytes(snappy.compress_raw(data))) if compress else None))
    memory = AvmlMemory(view)
    assert memory.problem is None
    assert_holds_the_machine(memory)


def test_avml_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from symcache.formats.memory import lime  # noqa: PLC0415 - its cache is cleared

    lime._load_snappy.cache_clear()
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(UnknownFormat, match=r'install "symcache\[avml\]"'):
        AvmlMemory(BytesView(avml_bytes(MACHINE)))
    lime._load_snappy.cache_clear()


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("many", [False, True])
def test_elf_cores_read_back(bits: int, many: bool) -> None:
    view = BytesView(elf_bytes(MACHINE, qemu_note(0x1AD000, 0xFFFFF80000001000), bits=bits, many=many))
    core = read_elf_core(view)
    assert (core.writer, core.bits, core.problem) == ("QEMU", bits, None)
    assert [(each.root, each.interrupts) for each in core.registers] == [(0x1AD000, 0xFFFFF80000001000)]
    assert_holds_the_machine(RangedMemory(view, core.ranges))


def test_virtualbox_says_its_registers_too() -> None:
    core = read_elf_core(BytesView(elf_bytes(MACHINE, virtualbox_notes(0x1AD002))))
    assert core.writer == "VirtualBox"
    assert [each.root for each in core.registers] == [0x1AD002]


def test_a_core_without_notes_is_read() -> None:
    core = read_elf_core(BytesView(elf_bytes(MACHINE)))
    assert (core.writer, core.registers) == ("unknown", ())


@pytest.mark.parametrize("magic", VMWARE_MAGICS)
def test_vmwares_states_read_back(magic: bytes) -> None:
    regions = [(0x100000, 0xC0000, 0x40000), (0, 0, 0xC0000)]
    ranges = read_vmware_ranges(BytesView(vmware_state(regions, magic=magic)))
    assert ranges == (MemoryRange(1 << 32, 1 << 30, 3 << 30), MemoryRange(0, 3 << 30, 0))
    assert read_vmware_ranges(BytesView(vmware_state([], magic=magic))) == ()


def test_vmwares_memory_is_where_the_state_says() -> None:
    memory, state = vmware_files(MACHINE)
    assert_holds_the_machine(RangedMemory(BytesView(memory), read_vmware_ranges(BytesView(state))))


# Ranges.


def test_of_ranges_that_overlap_the_first_counts() -> None:
    view = BytesView(bytes(range(64)))
    memory = RangedMemory(view, [MemoryRange(20, 20, 40), MemoryRange(0, 30, 0), MemoryRange(4, 8, 50)])
    assert memory.read(0, 40) == bytes([*range(30), *range(50, 60)])
    assert (memory.range_count, memory.byte_count, memory.size) == (2, 40, 40)


def test_what_is_past_the_files_end_is_missing_and_counted() -> None:
    memory = RangedMemory(BytesView(bytes(100)), [MemoryRange(0, 50, 80), MemoryRange(100, 10, 200)])
    assert memory.missing_bytes == 40
    assert memory.read(0, 20) == bytes(20)
    for address in (10, 105):
        with pytest.raises(NotInDump) as caught:
            memory.read(address, 12 if address == 10 else 1)
        assert caught.value.absence is Absence.TRUNCATED
    assert memory.find_bytes(0) == (0, 20)
    assert memory.find_bytes(20) is None


@pytest.mark.parametrize(
    "ranges",
    [
        [MemoryRange(1 << 52, 1, 0)],
        [MemoryRange(1, 1 << 60, 0)],
        [MemoryRange(index * 2, 1, 0) for index in range(MOST_RANGES + 1)],
    ],
    ids=["beyond memory", "huge", "many"],
)
def test_ranges_that_cannot_be_are_refused(ranges: list[MemoryRange]) -> None:
    with pytest.raises(MalformedInput):
        RangedMemory(BytesView(b""), ranges)


# What is damaged.


def header(magic: bytes, version: int, first: int, last: int) -> bytes:
    return struct.pack("<4sIQQ8x", magic, version, first, last)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (header(b"EMiL", 1, 0, 9)[:20], TruncatedInput),
        (header(b"EMiL", 2, 0, 9), UnknownFormat),
        (header(b"EMiL", 1, 9, 0), MalformedInput),
        (header(b"EMiL", 1, 0, (1 << 64) - 1), MalformedInput),
        (header(b"xMiL", 1, 0, 9), MalformedInput),
    ],
)
def test_a_first_lime_header_that_cannot_be_is_refused(data: bytes, error: type[InputError]) -> None:
    with pytest.raises(error):
        read_lime_ranges(BytesView(data))


def test_lime_ranges_before_the_damage_count() -> None:
    good = header(b"EMiL", 1, 0, 9) + bytes(10)
    lime = read_lime_ranges(BytesView(good + header(b"EMiL", 1, 20, 10)))
    assert lime.ranges == (MemoryRange(0, 10, 32),)
    assert lime.problem_offset == len(good)
    # A size beyond the file ends it: what is missing, its reader tells.
    lime = read_lime_ranges(BytesView(good + header(b"EMiL", 1, 0x1000, 0xFFFFFF)))
    assert [each.size for each in lime.ranges] == [10, 0xFFF000]


def test_lime_of_endless_headers_ends() -> None:
    one = header(b"EMiL", 1, 0, 0) + b"x"
    lime = read_lime_ranges(BytesView(one * (MOST_RANGES + 2)))
    assert len(lime.ranges) == MOST_RANGES
    assert lime.problem is not None


@pytest.mark.parametrize("cut", [40, 100, 0x9000])
def test_avml_before_the_damage_counts(cut: int) -> None:
    need("cramjam")
    whole = avml_bytes(MACHINE)
    memory = AvmlMemory(BytesView(whole[: len(whole) - cut]))
    assert memory.problem is not None
    start, data = RUNS[0]
    assert memory.read(start, len(data)) == data
    with pytest.raises(NotInDump) as caught:
        memory.read(RUNS[-1][0] + len(RUNS[-1][1]) - 1, 1)
    assert caught.value.absence is Absence.TRUNCATED


def chunk(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


@pytest.mark.parametrize(
    "stream",
    [
        chunk(0, b""),
        chunk(0, bytes(4) + b"\xff\xff\xff\xff\x0f"),
        chunk(0, bytes(4) + b"\xff\xff\x7f"),
        chunk(1, bytes(4)),
        chunk(1, bytes(3)),
        chunk(1, bytes(4 + 0x1001)),
        chunk(2, b"x"),
        chunk(0x7F, b"x"),
        b"\0\xff\xff\xff",
    ],
)
def test_avml_pieces_that_cannot_be_are_refused(stream: bytes) -> None:
    need("cramjam")
    with pytest.raises(InputError):
        AvmlMemory(BytesView(header(b"AVML", 2, 0, 0xFFF) + stream))


def test_an_avml_piece_that_does_not_expand_is_missing() -> None:
    need("cramjam")
    memory = AvmlMemory(
        BytesView(header(b"AVML", 2, 0, 0xFFF) + chunk(0, bytes(4) + b"\x80\x20\xff\xff\xff") + bytes(8))
    )
    with pytest.raises(NotInDump):
        memory.read(0, 1)


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (0x20, b"\xff" * 8),  # the table lies past the end
        (0x36, b"\1\0"),  # entries of one byte
        (0x38, b"\xfe\xff"),  # more entries than there are
        (0x38, b"\1\0"),  # the note alone
        (0x10, b"\2\0"),  # a program
        (5, b"\2"),  # big-endian
    ],
)
def test_a_core_whose_headers_cannot_be_is_refused(at: int, new: bytes) -> None:
    data = bytearray(elf_bytes(MACHINE))
    data[at : at + len(new)] = new
    with pytest.raises(InputError):
        read_elf_core(BytesView(bytes(data)))
    with pytest.raises(InputError):
        read_elf_core(BytesView(bytes(data[:40])))


def test_a_core_of_a_process_is_told_as_that() -> None:
    data = bytearray(elf_bytes(MACHINE))
    for number in range(1, len(RUNS) + 1):  # it has virtual addresses alone
        struct.pack_into("<Q", data, 64 + 56 * number + 24, 0)
    with pytest.raises(UnknownFormat, match="one process"):
        read_elf_core(BytesView(bytes(data)))


def test_a_core_with_more_headers_than_memory_has_ranges_is_refused() -> None:
    data = bytearray(elf_bytes(MACHINE, many=True))
    section = struct.unpack_from("<Q", data, 0x28)[0]
    struct.pack_into("<I", data, section + 44, 0xFFFFFFFF)
    with pytest.raises(MalformedInput, match="4294967295 program headers"):
        read_elf_core(BytesView(bytes(data)))


def test_notes_that_end_early_leave_the_memory() -> None:
    note = bytearray(qemu_note(0x1AD000))
    note[4:8] = b"\xff\xff\xff\xff"
    core = read_elf_core(BytesView(elf_bytes(MACHINE, bytes(note))))
    assert len(core.ranges) == len(RUNS)
    data = bytearray(elf_bytes(MACHINE, qemu_note(0)))
    struct.pack_into("<Q", data, 64 + 8, 1 << 40)  # the offset of the notes
    core = read_elf_core(BytesView(bytes(data)))
    assert core.problem is not None
    assert len(core.ranges) == len(RUNS)


def state_with(**changes: int) -> bytes:
    data = bytearray(vmware_state([(0, 0, 1)]))
    for name, value in changes.items():
        at = data.index(name.encode()) + len(name) + (4 if name.startswith("region") and name != "regionsCount" else 0)
        struct.pack_into("<I", data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    "state",
    [
        b"\xd2\xbe\xd2\xbe",
        b"nothing at all",
        vmware_state([(0, 0, 1)])[:150],
        vmware_state([(0, 0, 1)])[:-20],
        vmware_state([(0, 0, 1)]).replace(b"memory", b"Memory"),
        vmware_state([(0, 0, 1)]).replace(b"regionPPN", b"regionXXX"),
        b"\xd2\xbe\xd2\xbe" + struct.pack("<II", 8, 0xFFFFFFFF),
        state_with(regionsCount=0xFFFFFFFF),
        state_with(regionsCount=7),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(state: bytes) -> None:
    with pytest.raises(InputError):
        read_vmware_ranges(BytesView(state))


def test_a_state_of_endless_tags_ends() -> None:
    state = bytearray(vmware_state([]))
    at = int.from_bytes(state[12 + 80 + 64 : 12 + 80 + 72], "little")
    with pytest.raises(InputError):
        read_vmware_ranges(BytesView(bytes(state[:at]) + b"\x40\0" + bytes(4) + b"\0\1x" * 400_000))


@pytest.mark.parametrize(
    ("start", "size", "is_raw"),
    [
        (struct.pack("<I", 0xF000FF53) * 16, (1 << 20) + 7, True),
        (struct.pack("<I", 0xF000FF53) * 12, 1 << 20, True),
        (struct.pack("<I", 0xF000FF53) * 11, 1 << 20, False),
        (struct.pack("<I", 0xF000FF53) * 16, 1 << 19, False),
        (b"", 1 << 20, True),
        (b"", (1 << 20) + 1, False),
        (bytes(63) + b"x", 1 << 20, False),
    ],
)
def test_a_raw_image_is_told_by_vectors_or_zeros(start: bytes, size: int, is_raw: bool) -> None:
    assert looks_like_raw_memory(start.ljust(0x10000, b"\0"), size) is is_raw


def test_only_little_endian_cores_are_cores() -> None:
    head = elf_bytes(MACHINE)[:64]
    assert is_elf_core(head)
    assert not any(is_elf_core(head[:length]) for length in range(18))


@given(st.data())
def test_damaged_forms_raise_nothing_but_input_errors(data: st.DataObject) -> None:
    name, read = data.draw(st.sampled_from(READERS))
    image = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(image), 0x400) - 1))
        new = data.draw(st.binary(min_size=1, max_size=8))
        image[at : at + len(new)] = new
    with suppress(InputError):
        read(BytesView(bytes(image)[: data.draw(st.integers(0, len(image)))]))


def _read_elf(view: Any) -> None:
    memory = RangedMemory(view, read_elf_core(view).ranges)
    assert memory.find_bytes(0) is None or memory.byte_count


def _read_lime(view: Any) -> None:
    RangedMemory(view, read_lime_ranges(view).ranges).find_bytes(0)


def _read_avml(view: Any) -> None:
    memory = AvmlMemory(view)
    place = memory.find_bytes(0)
    if place is not None:
        memory.read(*place)


READERS = [("elf", _read_elf), ("lime", _read_lime), ("vmware", read_vmware_ranges), ("avml", _read_avml)]
SEEDS = {
    "elf": elf_bytes(MACHINE, qemu_note(1), many=True),
    "lime": lime_bytes(MACHINE),
    "vmware": vmware_files(MACHINE)[1],
    "avml": avml_bytes(MACHINE),
}
