from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synth.pagetables import Paging, PhysicalPages, VirtualMemory

from symcache.errors import Absence, NotInDump
from symcache.formats.dump import paging as formats
from symcache.formats.dump.paging import AddressSpace, PageTables

MODES: dict[Paging, formats.PagingMode] = {
    Paging.X86: formats.X86,
    Paging.PAE: formats.PAE,
    Paging.X64: formats.X64,
    Paging.LA57: formats.X64_LA57,
    Paging.ARM64: formats.ARM64,
}
LARGE = [
    pytest.param(Paging.X86, 22, id="x86 4 MiB"),
    pytest.param(Paging.PAE, 21, id="PAE 2 MiB"),
    pytest.param(Paging.X64, 21, id="x64 2 MiB"),
    pytest.param(Paging.X64, 30, id="x64 1 GiB"),
    pytest.param(Paging.LA57, 30, id="LA57 1 GiB"),
    pytest.param(Paging.ARM64, 21, id="ARM64 2 MiB"),
    pytest.param(Paging.ARM64, 30, id="ARM64 1 GiB"),
]


class Pages:
    """Physical memory that counts what is read of it."""

    def __init__(self, physical: PhysicalPages) -> None:
        self.physical = physical
        self.reads = 0
        self.size = 1 << 52

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        data = b""
        while len(data) < length:
            pfn, within = divmod(offset + len(data), 0x1000)
            if pfn not in self.physical.pages:
                raise NotInDump("not here", address=offset + len(data))
            data += self.physical.pages[pfn][within : within + length - len(data)]
        return data


def space_of(virtual: VirtualMemory) -> AddressSpace:
    return AddressSpace(PageTables(Pages(virtual.physical)), MODES[virtual.paging], virtual.root)


def address_in(paging: Paging, number: int) -> int:
    return paging.kernel_start | number & (0x7FFFFFFF if paging.pointer_size == 4 else 0x7FFFFFFFFFFF)


@pytest.mark.parametrize("paging", Paging)
@settings(max_examples=25)
@given(
    numbers=st.sets(st.integers(0, (1 << 35) - 1), min_size=1, max_size=6), data=st.binary(min_size=1, max_size=9000)
)
def test_what_is_written_through_page_tables_reads_back(paging: Paging, numbers: set[int], data: bytes) -> None:
    virtual = VirtualMemory(PhysicalPages(gap_every=2), paging)
    for number in numbers:
        at = address_in(paging, number << 12)
        if at + len(data) <= MODES[paging].space_size:
            virtual.write(at, data)
            assert space_of(virtual).read(at, len(data)) == data


@pytest.mark.parametrize(("paging", "shift"), LARGE)
def test_large_pages_are_read(paging: Paging, shift: int) -> None:
    virtual = VirtualMemory(PhysicalPages(0x123), paging)
    at = address_in(paging, 3 << shift)
    virtual.map_large(at, shift)
    far = (1 << shift) - 0x800
    virtual.write(at + 5, b"near")
    virtual.write(at + far, b"far")
    space = space_of(virtual)
    assert space.read(at + 5, 4) == b"near"
    assert space.read(at + far, 3) == b"far"


def test_a_large_page_above_4_gib_is_found_on_x86() -> None:
    physical = PhysicalPages()
    virtual = VirtualMemory(physical, Paging.X86)
    physical.skip_to(0x340000)
    virtual.map_large(0x80000000, 22)
    virtual.write(0x80000010, b"above")
    assert space_of(virtual).read(0x80000010, 5) == b"above"


@pytest.mark.parametrize("paging", Paging)
def test_transition_and_prototype_entries_lead_to_the_page(paging: Paging) -> None:
    virtual = VirtualMemory(PhysicalPages(), paging)
    at, shared, prototype = (address_in(paging, number << 12) for number in (1, 2, 3))
    prototype = 0xFFFFE00000001008 if paging is Paging.LA57 else prototype + 8
    virtual.write(at, b"on its way")
    virtual.write(shared, b"in common")
    virtual.put_in_transition(at)
    virtual.share(shared, prototype, virtual)
    assert space_of(virtual).read(at, 10) == b"on its way"
    assert space_of(virtual).read(shared, 9) == b"in common"
    virtual.put_in_transition(prototype)
    assert space_of(virtual).read(shared, 9) == b"in common"


@pytest.mark.parametrize("paging", Paging)
def test_a_prototype_entry_leads_to_no_second_one(paging: Paging) -> None:
    virtual = VirtualMemory(PhysicalPages(), paging)
    at, first, second = (address_in(paging, number << 12) for number in (1, 2, 3))
    if paging is Paging.LA57:
        first, second = 0xFFFFE00000001000, 0xFFFFE00000002000
    virtual.write(at, b"page")
    virtual.share(at, first, virtual)
    virtual.share(first, second, virtual)
    with pytest.raises(NotInDump) as caught:
        space_of(virtual).read(at, 4)
    assert caught.value.absence is Absence.NOT_MAPPED


@pytest.mark.parametrize("paging", Paging)
def test_why_a_page_is_not_there_is_told_apart(paging: Paging) -> None:
    physical = PhysicalPages()
    virtual = VirtualMemory(physical, paging)
    paged_out, left_out, never = (address_in(paging, number << 12) for number in (1, 2, 3))
    virtual.map(paged_out)
    pfn = virtual.map(left_out)
    virtual.page_out(paged_out)
    space = space_of(virtual)
    with pytest.raises(NotInDump, match="paged out") as caught:
        space.read(paged_out + 4, 4)
    assert (caught.value.absence, caught.value.address) == (Absence.NOT_MAPPED, paged_out + 4)
    with pytest.raises(NotInDump, match="no page is mapped") as caught:
        space.read(never, 4)
    assert caught.value.absence is Absence.NOT_MAPPED
    del physical.pages[pfn]
    with pytest.raises(NotInDump) as caught:
        space.read(left_out - 0x1000 + 0x1010, 4)
    assert (caught.value.absence, caught.value.address) == (Absence.NOT_IN_DUMP, left_out + 0x10)


def test_a_missing_page_table_is_not_an_unmapped_page() -> None:
    physical = PhysicalPages()
    virtual = VirtualMemory(physical, Paging.X64)
    at = address_in(Paging.X64, 0x1000)
    virtual.map(at)
    for pfn in sorted(physical.pages)[2:5]:
        kept = physical.pages.pop(pfn)
        with pytest.raises(NotInDump, match="page table") as caught:
            space_of(virtual).read(at, 1)
        assert (caught.value.absence, caught.value.address) == (Absence.NOT_IN_DUMP, at)
        physical.pages[pfn] = kept


@pytest.mark.parametrize("address", [1 << 47, 0xFFFF7FFFFFFFFFFF, 0x8000000000000000])
def test_addresses_that_no_pointer_holds_are_not_mapped(address: int) -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X64)
    with pytest.raises(NotInDump, match="no pointer"):
        space_of(virtual).read(address, 1)


def test_reading_past_the_last_address_is_not_mapped() -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X86)
    virtual.write(0xFFFFF000, bytes(0x1000))
    with pytest.raises(NotInDump):
        space_of(virtual).read(0xFFFFFFF0, 0x20)


def test_page_tables_are_read_once() -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X64)
    at = address_in(Paging.X64, 0)
    virtual.write(at, bytes(0x10000))
    pages = Pages(virtual.physical)
    space = AddressSpace(PageTables(pages), formats.X64, virtual.root)
    for _ in range(10):
        for page in range(16):
            space.read(at + page * 0x1000, 1)
    assert pages.reads == 4 + 160


def test_kept_page_tables_are_bounded() -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X64)
    for index in range(2200):
        virtual.map(address_in(Paging.X64, index << 21))
    tables = PageTables(Pages(virtual.physical))
    space = AddressSpace(tables, formats.X64, virtual.root)
    for index in range(2200):
        space.read(address_in(Paging.X64, index << 21), 1)
    assert sum(map(len, tables._kept.values())) <= 2 << 20


def test_arm64_processes_share_the_kernel_without_mapping_it() -> None:
    physical = PhysicalPages()
    kernel = VirtualMemory(physical, Paging.ARM64)
    process = VirtualMemory(physical, Paging.ARM64, kernel)
    at, session = address_in(Paging.ARM64, 0x5000), 0xFFFFFDCA00000000
    kernel.write(at, b"kernel")
    process.write(0x10000, b"user")
    process.write(session, b"session")
    space = space_of(kernel).with_root(process.root)
    assert [space.read(at, 6), space.read(0x10000, 4), space.read(session, 7)] == [b"kernel", b"user", b"session"]
    with pytest.raises(NotInDump):
        space_of(kernel).read(session, 7)


def test_the_page_tables_of_a_page_are_read_once() -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X64)
    at = address_in(Paging.X64, 0x3000)
    virtual.write(at, bytes(range(256)))
    pages = Pages(virtual.physical)
    tables = PageTables(pages)
    space = AddressSpace(tables, MODES[Paging.X64], virtual.root)
    space.read(at, 1)
    tables.memory = Pages(PhysicalPages())
    assert [space.translate(at + within)[1] for within in (0, 1, 0xFFF)] == [0x1000, 0xFFF, 1]
    assert space.translate(at + 8)[0] == virtual.translate(at + 8)


@pytest.mark.parametrize("paging", Paging)
def test_a_search_reads_each_page_table_once(paging: Paging) -> None:
    virtual = VirtualMemory(PhysicalPages(), paging)
    at = address_in(paging, 0x40000000)
    for page in range(at, at + 64 * 0x1000, 0x1000):
        virtual.map(page)
    pages = Pages(virtual.physical)
    space = AddressSpace(PageTables(pages), MODES[paging], virtual.root)
    assert len(list(space.mapped_pages(at, 1000))) == 64
    assert pages.reads == len(paging.value.levels)


@pytest.mark.parametrize("paging", Paging)
def test_mapped_pages_are_listed_upwards(paging: Paging) -> None:
    virtual = VirtualMemory(PhysicalPages(), paging)
    top = (1 << (32 if paging.pointer_size == 4 else 64)) - 0x1000
    pages = sorted([*(address_in(paging, number << 12) for number in (0, 1, 0x1FF, 0x200, 0x5123)), top])
    if paging is not Paging.ARM64:  # its two roots index both halves alike
        virtual.map(0x70000000)
    for page in pages:
        virtual.map(page)
    space = space_of(virtual)
    assert list(space.mapped_pages(pages[3], 1000)) == [(page, space.translate(page)[0]) for page in pages[3:]]
    assert list(space.mapped_pages(pages[0], 0)) == []
    if paging is not Paging.ARM64:
        assert [page for page, _ in space.mapped_pages(0, 1000)] == [0x70000000, *pages]


def test_page_tables_that_map_themselves_do_not_hold_up_the_search() -> None:
    virtual = VirtualMemory(PhysicalPages(), Paging.X64)
    at = address_in(Paging.X64, 0x3000)
    virtual.map(at)
    virtual.physical.write(virtual.root + 0x1ED * 8, (virtual.root | 0x63).to_bytes(8, "little"))
    assert [page for page, _ in space_of(virtual).mapped_pages(0, 1000)] == [at]


@pytest.mark.parametrize(("paging", "shift"), LARGE)
def test_a_large_page_is_listed_as_small_ones(paging: Paging, shift: int) -> None:
    virtual = VirtualMemory(PhysicalPages(), paging)
    at = address_in(paging, 3 << shift)
    virtual.map_large(at, shift)
    space = space_of(virtual)
    listed = list(space.mapped_pages(at + 0x3000, 10))
    assert [page for page, _ in listed] == list(range(at + 0x3000, at + (1 << shift), 0x1000))
    assert listed[5] == (at + 0x8000, space.translate(at + 0x8000)[0])
