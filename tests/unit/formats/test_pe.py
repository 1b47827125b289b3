from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.pe import CodeViewPlan, ImagePlan, dbg_bytes, disk_bytes, memory_bytes
from support.views import CountingView, HoleyView, NotFetched, RangedView

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.pe.debug import Nb10, Rsds
from symcache.formats.pe.image import Image, Layout, machine_name, parse_dbg, parse_image, parse_image_header
from symcache.formats.view import BytesView, FileView

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
PLAN = ImagePlan(0x5C8AD05F, code_views=(CodeViewPlan("C:\\build\\driver.pdb", GUID, 3),))
RICH = replace(
    PLAN,
    code_views=(
        CodeViewPlan("a.ni.pdb", GUID, 1),
        CodeViewPlan("old.pdb", age=2, signature=0x3E4A21B7),
        CodeViewPlan("b.pdb", GUID, portable=True, timestamp=0xC3923201, padded_bytes=284),
    ),
    pdb_checksums=(("SHA256", bytes(range(32))), ("SHA384", bytes(48))),
    embedded_pdb=b"BSJB" + bytes(5000),
    reproducible=True,
    dbg_name="obj\\driver.dbg",
    other_debug_types=(13, 99),
    payload_bytes=30_000,
)


def parse_disk(data: bytes) -> Image:
    return parse_image(BytesView(data), Layout.DISK)


def plans() -> st.SearchStrategy[ImagePlan]:
    """Any image that the writer can write."""
    u32 = st.integers(0, 2**32 - 1)
    paths = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
    records = st.one_of(
        st.builds(CodeViewPlan, paths, st.uuids(), u32, portable=st.booleans(), timestamp=u32),
        st.builds(CodeViewPlan, paths, age=u32, signature=u32, timestamp=u32, padded_bytes=st.integers(0, 300)),
    )
    return st.builds(
        ImagePlan,
        timestamp=u32,
        size_of_image=u32,
        machine=st.integers(0, 2**16 - 1),
        pe32_plus=st.booleans(),
        checksum=u32,
        dll=st.booleans(),
        code_views=st.lists(records, max_size=5).map(tuple),
        pdb_checksums=st.lists(st.tuples(st.sampled_from(["SHA256", "SHA1"]), st.binary(min_size=1)), max_size=2).map(
            tuple
        ),
        embedded_pdb=st.none() | st.binary(max_size=500),
        reproducible=st.booleans(),
        payload_bytes=st.integers(0, 9000),
    )


@given(plans())
def test_an_image_reads_back_as_planned_from_disk_and_from_memory(plan: ImagePlan) -> None:
    disk, memory = disk_bytes(plan), memory_bytes(plan)
    for data, layout in [(disk, Layout.DISK), (memory, Layout.MEMORY)]:
        image = parse_image(BytesView(data), layout)
        assert image.problems == ()
        assert (image.timestamp, image.size_of_image) == (plan.timestamp, plan.size_of_image)
        assert (image.machine, image.checksum) == (plan.machine, plan.checksum)
        assert image.bits == (64 if plan.pe32_plus else 32)
        assert bool(image.characteristics & 0x2000) == plan.dll
        assert [as_planned(entry.record, entry.timestamp, entry.portable) for entry in image.code_views] == [
            as_planned_record(record) for record in plan.code_views
        ]
        assert tuple((sum_.algorithm, sum_.digest) for sum_ in image.checksums) == plan.pdb_checksums
        assert image.reproducible == plan.reproducible
        if plan.embedded_pdb is None:
            assert image.embedded is None
        else:
            assert image.embedded is not None
            assert inflate_embedded(data, image) == plan.embedded_pdb
            assert image.embedded.size_bytes == len(plan.embedded_pdb)
    assert parse_disk(disk).extent_bytes == len(disk)


def inflate_embedded(data: bytes, image: Image) -> bytes:
    assert image.embedded is not None
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pdb = inflater.decompress(data[image.embedded.offset : image.embedded.offset + image.embedded.compressed_bytes])
    assert inflater.eof
    return pdb


def as_planned(record: Rsds | Nb10, timestamp: int, portable: bool) -> tuple[object, ...]:
    if isinstance(record, Rsds):
        return (record.guid, record.age, record.path, timestamp, portable)
    return (record.signature, record.age, record.path, timestamp, portable)


def as_planned_record(plan: CodeViewPlan) -> tuple[object, ...]:
    return (plan.signature if plan.guid is None else plan.guid, plan.age, plan.path, plan.timestamp, plan.portable)


def test_every_part_of_a_debug_directory_is_found() -> None:
    image = parse_disk(disk_bytes(RICH))
    assert [entry.type_name for entry in image.debug_entries] == [
        *["CODEVIEW"] * 3, "PDB_CHECKSUM", "PDB_CHECKSUM", "MISC", "REPRO", "EMBEDDED_PDB", "POGO", "99",
    ]  # fmt: skip
    assert [entry.record.path for entry in image.code_views] == ["a.ni.pdb", "old.pdb", "b.pdb"]
    assert [entry.portable for entry in image.code_views] == [False, False, True]
    assert image.code_views[2].timestamp == 0xC3923201
    assert image.dbg_name == "obj\\driver.dbg"
    assert image.problems == ()


def test_a_misc_entry_names_no_dbg_file_unless_symbols_were_stripped() -> None:
    data = bytearray(disk_bytes(replace(PLAN, dbg_name="driver.exe")))
    characteristics = 0x80 + 0x16
    data[characteristics + 1] &= ~0x02
    assert parse_disk(bytes(data)).dbg_name is None


def test_on_disk_a_few_small_reads_suffice() -> None:
    view = CountingView(BytesView(disk_bytes(replace(PLAN, payload_bytes=5_000_000))))
    assert parse_image(view, Layout.DISK).code_views
    assert len(view.reads) == 3
    assert view.read_bytes < 4096 + 512


def test_in_memory_only_the_fields_needed_are_read() -> None:
    view = CountingView(BytesView(memory_bytes(PLAN)))
    assert parse_image(view, Layout.MEMORY).code_views
    assert view.reads[:3] == [(0, 64), (0x80, 24), (0x98, 68)]
    assert view.read_bytes < 300


def test_an_image_cut_behind_its_headers_keeps_its_key() -> None:
    data = disk_bytes(PLAN)
    for length in range(0x400, len(data), 16):
        image = parse_disk(data[:length])
        assert (image.timestamp, image.size_of_image) == (0x5C8AD05F, 0x3000)
        assert image.code_views or image.problems
        assert image.extent_bytes == len(data)


def test_a_header_cut_anywhere_is_an_input_error() -> None:
    data = disk_bytes(PLAN)
    for length in range(0x80 + 24 + 68):
        with pytest.raises(InputError):
            parse_disk(data[:length])


@pytest.mark.parametrize("page", [1, 2])
def test_a_page_missing_from_a_dump_costs_what_lies_on_it_alone(page: int) -> None:
    view = HoleyView(BytesView(memory_bytes(PLAN)), lambda at: at // 0x1000 == page)
    image = parse_image(view, Layout.MEMORY)
    assert image.timestamp == 0x5C8AD05F
    assert (len(image.code_views), len(image.problems)) == ((1, 0) if page == 1 else (0, 1))


def test_headers_missing_from_a_dump_are_an_error() -> None:
    view = HoleyView(BytesView(memory_bytes(PLAN)), lambda at: at >= 0x80 + 24 + 60)
    with pytest.raises(NotInDump):
        parse_image(view, Layout.MEMORY)


def test_a_dump_with_the_first_256_bytes_gives_the_key() -> None:
    view = HoleyView(BytesView(memory_bytes(PLAN)), lambda at: at >= 0x100)
    assert parse_image_header(view).timestamp == 0x5C8AD05F
    image = parse_image(view, Layout.MEMORY)
    assert image.size_of_image == 0x3000
    assert [problem.text for problem in image.problems] == ["data directories: not in the dump"]


def test_padding_on_a_missing_page_does_not_hide_the_name_before_it() -> None:
    record = CodeViewPlan("a.pdb", GUID, padded_bytes=0x200)
    plan = replace(PLAN, code_views=(record,))
    start = 0x2000 + 28
    view = HoleyView(BytesView(memory_bytes(plan)), lambda at: at >= start + 40)
    assert [entry.record.path for entry in parse_image(view, Layout.MEMORY).code_views] == ["a.pdb"]
    nearer = HoleyView(BytesView(memory_bytes(plan)), lambda at: at >= start + 26)
    image = parse_image(nearer, Layout.MEMORY)
    assert (len(image.code_views), len(image.problems)) == (0, 1)


def test_a_parse_over_a_download_may_be_repeated_until_all_is_there() -> None:
    data = disk_bytes(RICH)
    view = RangedView(BytesView(data))
    image = None
    while image is None:
        try:
            image = parse_image(view, Layout.DISK)
        except NotFetched as missing:
            view.fetch(missing)
    assert image == parse_disk(data)


def test_data_that_is_not_mapped_is_found_on_disk_only() -> None:
    data = memory_bytes(PLAN)
    at = 0x2000 + 20
    image = parse_image(BytesView(data[:at] + bytes(4) + data[at + 4 :]), Layout.MEMORY)
    assert image.code_views == ()
    assert [problem.text for problem in image.problems] == [
        "CODEVIEW debug data: it is in the file only, not in memory"
    ]


def patched(data: bytes, at: int, value: int, length: int = 4) -> bytes:
    return data[:at] + value.to_bytes(length, "little") + data[at + length :]


E_LFANEW, SECTIONS, OPTIONAL = 0x3C, 0x86, 0x98


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        pytest.param(b"", UnknownFormat, "does not begin with MZ", id="empty"),
        pytest.param(b"text", UnknownFormat, "does not begin with MZ", id="text"),
        pytest.param(b"MZ", TruncatedInput, "within its DOS header", id="two-bytes"),
        pytest.param(b"MZ".ljust(0x40, b"\0"), UnknownFormat, "a DOS program", id="e_lfanew-0"),
        pytest.param(patched(b"MZ".ljust(0x40, b"\0"), 0x3C, 0x9999), UnknownFormat, "a DOS program", id="dos"),
        pytest.param(patched(disk_bytes(PLAN), E_LFANEW, 0x7FFFFFF0), TruncatedInput, "past the end", id="past-end"),
        pytest.param(patched(disk_bytes(PLAN), 0x80, 0x454E), UnknownFormat, "16-bit NE", id="ne"),
        pytest.param(patched(disk_bytes(PLAN), 0x80, 0x454C), UnknownFormat, "LE driver", id="le"),
        pytest.param(patched(disk_bytes(PLAN), OPTIONAL, 0x107, 2), MalformedInput, "magic 0x107", id="rom"),
    ],
)
def test_what_is_no_image_gets_a_reason(data: bytes, kind: type[InputError], reason: str) -> None:
    with pytest.raises(kind, match=reason) as caught:
        parse_disk(data)
    assert "\n" not in str(caught.value)


def test_the_smallest_driver_of_97_bytes_has_a_key() -> None:
    data = bytearray(97)
    data[0:2] = b"MZ"
    struct.pack_into("<4sHHIIIHH", data, 4, b"PE\0\0", 0x14C, 1, 0x11223344, 0, 0, 4, 0x102)
    struct.pack_into("<H", data, 28, 0x10B)
    data[0x3C:0x40] = (4).to_bytes(4, "little")  # the section alignment of the same header
    struct.pack_into("<II", data, 28 + 56, 0x2E, 0x2C)
    image = parse_disk(bytes(data))
    assert (image.timestamp, image.size_of_image, image.has_debug_directory) == (0x11223344, 0x2E, False)
    assert (image.code_views, image.problems) == ((), ())


def test_a_file_cut_within_its_data_directories_keeps_its_key() -> None:
    image = parse_disk(disk_bytes(PLAN)[: OPTIONAL + 110])
    assert image.size_of_image == 0x3000
    assert [problem.text for problem in image.problems] == [
        "the file ends within its section table, after 0 of 2 sections",
        "data directories: the file ends within its optional header",
    ]


def test_an_image_with_fewer_than_seven_directories_has_no_debug_directory() -> None:
    image = parse_disk(patched(disk_bytes(PLAN), OPTIONAL + 108, 6))
    assert (image.has_debug_directory, image.problems) == (False, ())


def test_the_most_sections_the_format_allows_cost_no_more() -> None:
    data = patched(disk_bytes(RICH), SECTIONS, 0xFFFF, 2)
    view = CountingView(BytesView(data + bytes(3_000_000)))
    image = parse_image(view, Layout.DISK)
    assert len(image.code_views) == 3
    assert "of 65535 sections" in image.problems[0].text
    assert view.read_bytes < 0x10000


def test_whatever_a_directory_claims_less_than_64_kib_are_read() -> None:
    entries = tuple(CodeViewPlan("x" * 4000, GUID, padded_bytes=0xFFF0) for _ in range(70))
    view = CountingView(BytesView(patched(disk_bytes(replace(PLAN, code_views=entries)), SECTIONS, 0xFFFF, 2)))
    image = parse_image(view, Layout.DISK)
    assert [problem.text for problem in image.problems][1] == "debug directory claims 70 entries, 32 are read"
    assert len(image.code_views) == 8
    assert view.read_bytes < 0x10000


def test_a_debug_directory_in_front_of_all_sections_is_found_there() -> None:
    data = disk_bytes(PLAN)
    directory = OPTIONAL + 112 + 48
    data = patched(data, directory, 0x3C0)
    data = data[:0x3C0] + data[0x800 : 0x800 + 28] + data[0x3DC:]
    assert [entry.record.path for entry in parse_disk(data).code_views] == ["C:\\build\\driver.pdb"]


@pytest.mark.parametrize("rva", [0x7FFFFFFF, 0x2200])
def test_a_directory_that_lies_in_no_section_is_none(rva: int) -> None:
    image = parse_disk(patched(disk_bytes(PLAN), OPTIONAL + 112 + 48, rva))
    assert (image.code_views, image.has_debug_directory, image.problems) == ((), False, ())


def test_a_directory_that_lies_nowhere_is_a_problem_if_not_all_sections_are_known() -> None:
    data = disk_bytes(PLAN)[: OPTIONAL + 240 + 40]
    image = parse_disk(patched(data, OPTIONAL + 112 + 48, 0x7FFFFFFF))
    assert (image.code_views, image.has_debug_directory) == ((), True)
    assert any(problem.text.startswith("debug directory") for problem in image.problems)


RDATA = OPTIONAL + 240 + 40


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(RDATA + 8, 0, id="no-virtual-size"),
        pytest.param(RDATA + 20, 0x9FF, id="offset-within-a-sector"),
        pytest.param(0x800 + 24, 0, id="entry-without-file-offset"),
    ],
)
def test_what_the_loader_takes_is_taken(at: int, value: int) -> None:
    image = parse_disk(patched(disk_bytes(PLAN), at, value))
    assert [entry.record.path for entry in image.code_views] == ["C:\\build\\driver.pdb"]


def test_a_directory_in_memory_that_the_file_does_not_hold_is_a_problem() -> None:
    data = patched(disk_bytes(PLAN), RDATA + 8, 0x1000)
    image = parse_disk(patched(data, OPTIONAL + 112 + 48, 0x2400))
    assert [problem.text for problem in image.problems] == [
        "debug directory: address 0x2400 lies in a section's part without file data"
    ]


def test_a_section_without_data_does_not_count_for_the_extent() -> None:
    data = disk_bytes(PLAN)
    without = patched(patched(data, RDATA + 20, 0), RDATA + 16, 0x900000)
    assert parse_disk(without).extent_bytes == 0x800


def test_a_pdb_2_is_never_portable() -> None:
    record = CodeViewPlan("old.pdb", signature=5, portable=True)
    assert [entry.portable for entry in parse_disk(disk_bytes(replace(PLAN, code_views=(record,)))).code_views] == [
        False
    ]


def test_a_misc_name_may_be_utf_16() -> None:
    name = "größe.dbg"
    data = disk_bytes(replace(PLAN, code_views=(), dbg_name=name.encode("utf-16-le").decode("latin-1")))
    assert parse_disk(patched(data, 0x800 + 28 + 8, 1, 1)).dbg_name == name


def test_a_header_further_than_the_loader_looks_is_not_read() -> None:
    class Vast(BytesView):
        size = 1 << 40

        def read(self, offset: int, length: int) -> bytes:
            assert offset < 0x1000
            return super().read(offset, length) if length <= 0x40 else bytes(length)

    data = patched(disk_bytes(PLAN), E_LFANEW, 0x10000000)
    with pytest.raises(TruncatedInput, match="past the end"):
        parse_image(Vast(data), Layout.MEMORY)


def test_sectors_count_only_where_the_loader_maps_by_section() -> None:
    # Drivers of old lie in memory as in the file, at any multiple of 0x20: their offsets must not be rounded down.
    data = bytearray(disk_bytes(PLAN))
    struct.pack_into("<I", data, OPTIONAL + 32, 0x20)
    table = OPTIONAL + 240
    block = bytes(data[0x800:0xA00])
    data[0x820:] = block
    for section in (table, table + 40):
        struct.pack_into("<IIII", data, section + 8, 0x200, 0x820, 0x200, 0x820)
    struct.pack_into("<I", data, OPTIONAL + 112 + 48, 0x820)
    struct.pack_into("<I", data, 0x820 + 24, 0x83C)
    assert [entry.record.path for entry in parse_disk(bytes(data)).code_views] == ["C:\\build\\driver.pdb"]


def test_a_dbg_file_has_the_stamp_and_size_of_its_image() -> None:
    record = CodeViewPlan("old.pdb", age=2, signature=0x3E4A21B7)
    file = parse_dbg(BytesView(dbg_bytes(ImagePlan(0x37CDB039, 0x62040, 0x14C, code_views=(record,)))))
    assert (file.timestamp, file.size_of_image, machine_name(file.machine)) == (0x37CDB039, 0x62040, "x86")
    assert [entry.record for entry in file.debug.code_views] == [Nb10(0x3E4A21B7, 2, "old.pdb")]
    assert file.debug.problems == ()


@pytest.mark.parametrize(("data", "kind"), [(b"DI", TruncatedInput), (b"MZ", UnknownFormat), (b"", UnknownFormat)])
def test_a_dbg_file_without_header_is_an_input_error(data: bytes, kind: type[InputError]) -> None:
    with pytest.raises(kind):
        parse_dbg(BytesView(data))


def test_a_machine_without_a_name_is_its_number() -> None:
    assert machine_name(0xAA64) == "ARM64"
    assert machine_name(0x1234) == "machine 0x1234"


def read_all(data: bytes) -> None:
    """Read *data* in every way there is, within 64 KiB; only input errors may come of it."""
    for layout in Layout:
        view = CountingView(BytesView(data))
        try:
            parse_image(view, layout)
            assert view.read_bytes < 0x18000
        except InputError:
            pass
    with suppress(InputError):
        parse_dbg(BytesView(data))


def test_damaged_images_are_read_or_refused() -> None:
    for data in mutants(disk_bytes(RICH), 700, hot=0x300):
        read_all(data)
    for data in mutants(dbg_bytes(RICH), 300, hot=0x300):
        read_all(data)


@pytest.mark.slow
def test_many_damaged_images_are_read_or_refused() -> None:
    for seed, data in enumerate([disk_bytes(RICH), memory_bytes(PLAN), dbg_bytes(RICH), disk_bytes(PLAN)]):
        for mutant in mutants(data, 25_000, rng_seed=seed, hot=0x300):
            read_all(mutant)


@given(st.binary(max_size=400).map(b"MZ".__add__) | st.binary(max_size=400).map(b"DI".__add__) | st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_all(data)


def corpus_image(name: str) -> tuple[Image, dict[str, Any], Path]:
    path = corpus / name
    with FileView(path) as view:
        counting = CountingView(view)
        image = parse_image(counting, Layout.DISK)
        assert len(counting.reads) <= 7
        assert counting.read_bytes < 8192
    return image, truth()[name], path


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pe"))
def test_real_images_are_read_as_independent_tools_read_them(name: str) -> None:
    image, facts, path = corpus_image(name)
    assert f"{image.timestamp:08X}{image.size_of_image:x}" == facts["image_key"]
    assert image.machine == int(facts["machine"], 16)
    assert image.reproducible == facts["reproducible"]
    assert [entry.type for entry in image.debug_entries] == facts["debug_types"]
    assert [as_told(entry.record, entry.portable, entry.timestamp) for entry in image.code_views] == [
        (told["pdb_path"], told["age"], told.get("guid") or told["signature"], told.get("portable", False),
         told.get("entry_timestamp", facts["timestamp"]))
        for told in facts["codeview"]
    ]  # fmt: skip
    assert [(checksum.algorithm, checksum.digest.hex()) for checksum in image.checksums] == [
        (told["algorithm"], told["hash"]) for told in facts.get("pdb_checksums", [])
    ]
    assert (image.embedded is not None) == ("embedded_pdb" in facts)
    assert image.extent_bytes <= path.stat().st_size


def as_told(record: Rsds | Nb10, portable: bool, timestamp: int) -> tuple[object, ...]:
    identity = record.guid.hex.upper() if isinstance(record, Rsds) else f"{record.signature:08X}"
    return (record.path, record.age, identity, portable, f"{timestamp:08X}")


@needs_corpus
@pytest.mark.parametrize("name", [name for name in corpus_files("pe") if "embedded_pdb" in truth()[name]])
def test_real_embedded_pdbs_inflate_to_what_other_tools_inflate(name: str) -> None:
    image, facts, path = corpus_image(name)
    assert image.embedded is not None
    pdb = inflate_embedded(path.read_bytes(), image)
    assert len(pdb) == image.embedded.size_bytes == facts["embedded_pdb"]["uncompressed_size"]
    assert hashlib.sha256(pdb).hexdigest() == facts["embedded_pdb"]["sha256"]


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pe-bad"))
def test_real_damaged_images_give_their_key_or_a_reason(name: str) -> None:
    facts = truth()[name]
    if "image_key" in facts:
        image, _, path = corpus_image(name)
        assert f"{image.timestamp:08X}{image.size_of_image:x}" == facts["image_key"]
        assert (image.code_views, len(image.problems)) == ((), 1)
        assert image.extent_bytes > path.stat().st_size
        return
    kinds = {"truncated": TruncatedInput, "not-pe": UnknownFormat}
    with FileView(corpus / name) as view, pytest.raises(kinds[facts["error"]]):
        parse_image(view, Layout.DISK)
