from __future__ import annotations

import importlib
import struct
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.parts import need
from support.shared import corpus, corpus_files, needs_corpus
from support.synth.pe import ImagePlan, disk_bytes, memory_bytes
from support.synth.version import VersionPlan, fixed_bytes, version_bytes
from support.views import CountingView, HoleyView

from symcache.errors import InputError, MalformedInput, NotInDump, UnknownFormat
from symcache.formats.pe.image import Layout
from symcache.formats.pe.version import (
    LONGEST_TEXT,
    VersionInfo,
    parse_fixed_info,
    parse_version_resource,
    read_version,
)
from symcache.formats.view import BytesView, FileView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.synth.version import Numbers

TEXTS = {
    "CompanyName": "Example Drivers Ltd",
    "FileDescription": "Filter driver",
    "FileVersion": "1.2.3.4 (lab.100713)",
    "InternalName": "filter",
    "OriginalFilename": "filter.sys",
    "ProductName": "Example Suite",
    "ProductVersion": "5.6",
}
PLAN = VersionPlan({"040904b0": TEXTS})
INFO = VersionInfo(
    company="Example Drivers Ltd",
    product="Example Suite",
    description="Filter driver",
    original_name="filter.sys",
    file_version="1.2.3.4 (lab.100713)",
    product_version="5.6",
    file_numbers=(1, 2, 3, 4),
    product_numbers=(5, 6, 7, 8),
)
RESOURCES = 0x3000  # where the resource section of such images lies in memory


def image(*versions: tuple[int | str, int, bytes], payload_bytes: int = 0x400) -> ImagePlan:
    return ImagePlan(0x5C8AD05F, versions=versions, payload_bytes=payload_bytes)


IMAGE = image((1, 0x409, version_bytes(PLAN)))


def read_disk(plan: ImagePlan) -> VersionInfo | None:
    return read_version(BytesView(disk_bytes(plan)), Layout.DISK)


def of_company(name: str) -> bytes:
    return version_bytes(VersionPlan({"040904b0": {"CompanyName": name}}))


def company_of(texts: Mapping[str, Mapping[str, str]], *translations: tuple[int, int]) -> str | None:
    info = parse_version_resource(version_bytes(VersionPlan(texts, translations)))
    assert info is not None
    return info.company


def test_a_resource_reads_back_from_disk_and_from_memory() -> None:
    assert read_disk(IMAGE) == INFO
    assert read_version(BytesView(memory_bytes(IMAGE)), Layout.MEMORY) == INFO
    small = replace(IMAGE, pe32_plus=False)
    assert read_disk(small) == INFO


def numbers() -> st.SearchStrategy[Numbers]:
    u16 = st.integers(0, 0xFFFF)
    return st.tuples(u16, u16, u16, u16)


@given(
    st.dictionaries(
        st.sampled_from(sorted(TEXTS)),
        st.text(st.characters(codec="utf-16", exclude_characters="\0"), max_size=300),
    ),
    st.none() | numbers(),
    numbers(),
    st.integers(0, 0x3F),
    st.integers(0, 0x3F),
    st.booleans(),
)
def test_any_version_reads_back(
    texts: dict[str, str], file: Numbers | None, product: Numbers, flags: int, mask: int, first: bool
) -> None:
    plan = VersionPlan(
        {"040904b0": texts}, file=file, product=product, flags=flags, mask=mask, translations_first=first
    )
    info = parse_version_resource(version_bytes(plan)) or VersionInfo()
    assert info.file_numbers == (file if file is not None and any(file) else None)
    assert info.product_numbers == (product if file is not None and any(product) else None)
    valid = flags & mask if file is not None else 0
    assert (info.is_debug, info.is_private, info.is_special) == tuple(bool(valid & bit) for bit in (1, 8, 0x20))
    for name, text in (("CompanyName", info.company), ("FileVersion", info.file_version)):
        wanted = " ".join(texts.get(name, "").split())
        assert (text or "") == wanted[:LONGEST_TEXT].rstrip()


@pytest.mark.parametrize("bit", [1, 8, 0x20])
def test_a_flag_counts_only_if_the_mask_has_it(bit: int) -> None:
    info = parse_fixed_info(fixed_bytes((1, 0, 0, 0), (1, 0, 0, 0), flags=bit, mask=bit))
    assert info is not None
    assert (info.is_debug, info.is_private, info.is_special) == (bit == 1, bit == 8, bit == 0x20)
    info = parse_fixed_info(fixed_bytes((1, 0, 0, 0), (1, 0, 0, 0), flags=bit, mask=0x3F & ~bit))
    assert info is not None
    assert (info.is_debug, info.is_private, info.is_special) == (False, False, False)


def test_numbers_without_a_signature_or_an_end_are_none() -> None:
    data = fixed_bytes((1, 2, 3, 4), (5, 6, 7, 8))
    assert parse_fixed_info(data[:-1]) is None
    assert parse_fixed_info(b"\0" + data[1:]) is None


def test_a_version_in_json_is_written_as_people_write_it() -> None:
    document = replace(INFO, is_private=True).as_json()
    assert list(document) == [field.name for field in fields(VersionInfo)]
    assert (document["file_numbers"], document["product_numbers"]) == ("1.2.3.4", "5.6.7.8")
    assert (document["company"], document["is_private"], document["is_debug"]) == ("Example Drivers Ltd", True, False)


# Languages.

GERMAN, ENGLISH, FRENCH = ({"CompanyName": name} for name in ("German", "English", "French"))


@pytest.mark.parametrize(
    ("texts", "translations", "company"),
    [
        pytest.param(
            {"040704b0": GERMAN, "040904b0": ENGLISH}, [(0x407, 0x4B0), (0x409, 0x4B0)], "English", id="english"
        ),
        pytest.param({"040904b0": ENGLISH, "040704b0": GERMAN}, [(0x407, 0x4B0)], "German", id="translated-one"),
        pytest.param({"040704b0": GERMAN, "040904b0": ENGLISH}, [], "English", id="no-translation"),
        pytest.param({"040704b0": GERMAN, "040c04b0": FRENCH}, [], "German", id="none-is-english"),
        pytest.param({"040704b0": GERMAN}, [(0x409, 0x4B0)], "German", id="translation-of-another"),
        pytest.param({"000004E4": FRENCH}, [(0x0, 0x4E4)], "French", id="neutral-in-an-odd-code-page"),
        pytest.param({"nothing": FRENCH}, [(0x409, 0x4B0)], "French", id="no-language"),
    ],
)
def test_texts_come_from_the_language_that_is_asked_for_first(
    texts: Mapping[str, Mapping[str, str]], translations: list[tuple[int, int]], company: str
) -> None:
    assert company_of(texts, *translations) == company


def test_a_text_that_one_language_lacks_comes_from_the_next() -> None:
    texts = {"040904b0": {"CompanyName": " \t", "ProductName": "Suite"}, "040704b0": GERMAN}
    assert company_of(texts, (0x409, 0x4B0)) == "German"


def test_names_of_texts_have_any_letter_case_and_texts_any_blanks() -> None:
    assert company_of({"040904B0": {"COMPANYNAME": " Two\r\n lines\t"}}) == "Two lines"


# What compilers of resources do.


@pytest.mark.parametrize("text_length", ["characters", "bytes", "zero"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("root_length", [None, 0x5C, 0xFFFF])
@pytest.mark.parametrize("fixed_length", [None, 0, 26, 0x1234])
def test_odd_lengths_and_missing_padding_are_seen_through(
    text_length: str, padded: bool, root_length: int | None, fixed_length: int | None
) -> None:
    plan = replace(PLAN, text_length=text_length, padded=padded, root_length=root_length, fixed_length=fixed_length)
    assert parse_version_resource(version_bytes(plan)) == INFO


@pytest.mark.parametrize("block_length", ["without text", "short"])
@pytest.mark.parametrize("text_length", ["characters", "bytes"])
def test_a_block_that_leaves_out_a_part_of_its_text_is_read_to_the_end_of_that(
    block_length: str, text_length: str
) -> None:
    assert parse_version_resource(version_bytes(replace(PLAN, block_length=block_length, text_length=text_length))) == (
        INFO
    )


def test_texts_without_a_nul_end_with_their_blocks() -> None:
    assert parse_version_resource(version_bytes(replace(PLAN, terminated=False))) == INFO


def test_numbers_alone_are_a_version_and_nothing_is_none() -> None:
    info = parse_version_resource(version_bytes(replace(PLAN, texts={}, translations=None)))
    assert info == VersionInfo(file_numbers=(1, 2, 3, 4), product_numbers=(5, 6, 7, 8))
    assert parse_version_resource(version_bytes(replace(PLAN, texts={}, file=None))) is None
    zeros = replace(PLAN, texts={}, file=(0, 0, 0, 0), product=(0, 0, 0, 0))
    assert parse_version_resource(version_bytes(zeros)) is None


def test_a_long_text_is_cut() -> None:
    assert company_of({"040904b0": {"CompanyName": "x" * 9000}}) == "x" * LONGEST_TEXT


# Several resources, and none.


@pytest.mark.parametrize(
    ("versions", "company"),
    [
        pytest.param([("VS_VERSION", 0x409, "named"), (1, 0x409, "id")], "id", id="by-id-before-by-name"),
        pytest.param([("VS_VERSION", 0x409, "named")], "named", id="by-name"),
        pytest.param([(5, 0x407, "other")], "other", id="another-id"),
        pytest.param([(1, 0x407, "german"), (1, 0x409, "english")], "english", id="english"),
        pytest.param([(1, 0x407, "german"), (1, 0, "neutral")], "neutral", id="neutral"),
        pytest.param([(1, 0x40C, "french"), (1, 0x407, "german")], "french", id="file-order"),
        pytest.param([(1, 0x409, ""), (1, 0x407, "german")], "german", id="that-says-something"),
    ],
)
def test_of_several_resources_one_is_taken(versions: list[tuple[int | str, int, str]], company: str) -> None:
    plan = image(*((name, language, of_company(text) if text else b"\0" * 8) for name, language, text in versions))
    info = read_disk(plan)
    assert info is not None
    assert info.company == company


def test_an_image_without_a_version_has_none() -> None:
    assert read_disk(image()) is None
    data = bytearray(disk_bytes(IMAGE))
    types = data.index(struct.pack("<I", 16), 0x800)
    data[types] = 17
    assert read_version(BytesView(bytes(data)), Layout.DISK) is None


def test_what_is_no_image_is_an_input_error() -> None:
    with pytest.raises(UnknownFormat):
        read_version(BytesView(b"text"), Layout.DISK)


# What is not there.


def test_a_page_missing_before_the_resource_is_an_error_and_one_behind_it_is_none() -> None:
    view = BytesView(memory_bytes(IMAGE))
    with pytest.raises(NotInDump):
        read_version(HoleyView(view, lambda at: at >= RESOURCES), Layout.MEMORY)
    assert read_version(HoleyView(view, lambda at: at // 0x1000 in (1, 2)), Layout.MEMORY) == INFO


@pytest.mark.parametrize("pages", [1, 2, 3, 4])
def test_of_a_resource_on_four_pages_those_before_the_gap_count(pages: int) -> None:
    texts = {"CompanyName": "Example Drivers Ltd"}
    for name, text in (("ProductName", "Suite"), ("FileDescription", "Filter"), ("OriginalFilename", "filter.sys")):
        texts |= {f"{name[:4]}{number:03}": "x" * 20 for number in range(65)}
        texts[name] = text
    data = memory_bytes(image((1, 0x409, version_bytes(VersionPlan({"040904b0": texts})))))
    assert len(data) == RESOURCES + 0x4000
    info = read_version(HoleyView(BytesView(data), lambda at: at >= RESOURCES + pages * 0x1000), Layout.MEMORY)
    assert info is not None
    found = [info.company, info.product, info.description, info.original_name]
    assert found == ["Example Drivers Ltd", "Suite", "Filter", "filter.sys"][:pages] + [None] * (4 - pages)


def test_a_resource_cut_anywhere_gives_whole_texts_or_none() -> None:
    data = version_bytes(PLAN)
    found = set()
    for length in range(len(data)):
        info = parse_version_resource(data[:length]) or VersionInfo()
        for field in fields(info):
            assert getattr(info, field.name) in (None, False, getattr(INFO, field.name))
        found.add(info)
    assert len(found) == 8  # nothing, the numbers, and one text more each; the last is there with the translations


def test_a_file_cut_within_the_resource_gives_what_it_holds() -> None:
    data = disk_bytes(IMAGE)
    end = data.index("Filter driver".encode("utf-16-le"))
    info = read_version(BytesView(data[:end]), Layout.DISK)
    assert info is not None
    assert (info.company, info.description) == ("Example Drivers Ltd", None)


# What it costs.


def test_a_version_on_disk_costs_a_few_small_reads() -> None:
    view = CountingView(BytesView(disk_bytes(replace(IMAGE, payload_bytes=5_000_000))))
    assert read_version(view, Layout.DISK) == INFO
    assert len(view.reads) == 9
    assert view.read_bytes < 4096 + 1500


def test_a_version_in_memory_touches_headers_and_resources_alone() -> None:
    view = CountingView(BytesView(memory_bytes(IMAGE)))
    assert read_version(view, Layout.MEMORY) == INFO
    assert {at // 0x1000 for at, _ in view.reads} == {0, RESOURCES >> 12}
    assert view.read_bytes < 1500


def test_whatever_an_image_claims_less_than_112_kib_are_read() -> None:
    versions = tuple((name, language, b"\0" * 0xFFFF) for name in (1, 2) for language in range(20))
    view = CountingView(BytesView(disk_bytes(image(*versions))))
    assert read_version(view, Layout.DISK) is None
    assert view.read_bytes < 112 << 10
    assert len(view.reads) < 100
    holes = HoleyView(BytesView(memory_bytes(image(*versions))), lambda at: at > RESOURCES + 0x1000)
    view = CountingView(holes)
    with pytest.raises(InputError):
        read_version(view, Layout.MEMORY)
    assert len(view.reads) < 100


def test_tables_that_lead_to_themselves_end() -> None:
    data = bytearray(disk_bytes(IMAGE))
    start = data.index(struct.pack("<IIHHHH", 0, 0, 4, 0, 0, 3), 0x800)
    for at in range(start + 16, start + 40, 8):
        struct.pack_into("<II", data, at, 16, 1 << 31)
    assert read_version(BytesView(bytes(data)), Layout.DISK) is None


def read_all(data: bytes) -> None:
    """Read *data* in every way there is; only input errors may come of it."""
    for layout in Layout:
        view = CountingView(BytesView(data))
        with suppress(InputError):
            read_version(view, layout)
        assert view.read_bytes < 0x40000
    parse_version_resource(data)
    parse_fixed_info(data)


def resources_first(data: bytes) -> bytes:
    """Return the content of *data* from the resource on, so that damage falls into it."""
    return data[data.index("VS_VERSION_INFO".encode("utf-16-le")) - 6 :]


def test_damaged_versions_are_read_or_refused(record_property: Any) -> None:
    texts = {"040704b0": TEXTS, "040904b0": TEXTS}
    whole = disk_bytes(image((1, 0x409, version_bytes(replace(PLAN, texts=texts))), ("X", 7, b"\0" * 40)))
    start = whole.index(struct.pack("<IIHHHH", 0, 0, 4, 0, 0, 3), 0x800)
    damaged = [whole[:start] + mutant for mutant in mutants(whole[start:], 1500, hot=0x100)]
    damaged += mutants(resources_first(whole), 1500, hot=0x400)
    measure(damaged, read_all).check(record_property)


@pytest.mark.slow
def test_many_damaged_versions_are_read_or_refused(record_property: Any) -> None:
    for seed, plan in enumerate([PLAN, replace(PLAN, padded=False), replace(PLAN, block_length="short")]):
        for data in (disk_bytes(image((1, 0x409, version_bytes(plan)))), version_bytes(plan)):
            measure(mutants(data, 20_000, rng_seed=seed), read_all).check(record_property)


@pytest.mark.parametrize(
    "filling",
    [
        pytest.param(b"\0" * 0xFFFF, id="zeros"),
        pytest.param(b"\x08\0\xff\xff\1\0A\0\0\0\1\0" * 5461, id="blocks-whose-text-never-ends"),
        pytest.param(b"\x0c\0\xff\x7f\1\0A\0\0\0\1\0" * 5461, id="whole-blocks"),
        pytest.param(b"x\0\0y" * 16383, id="zeros-between-characters"),
        pytest.param(("\x26\0\0" + "StringFileInfo\0").encode("utf-16-le") * 1800, id="containers"),
    ],
)
def test_hostile_resources_cost_little(filling: bytes, record_property: Any) -> None:
    def table(*children: bytes) -> bytes:
        strings = struct.pack("<HHH", 0xFFFF, 0, 1) + "StringFileInfo\0".encode("utf-16-le")
        return strings + struct.pack("<HHH", 0xFFFF, 0, 1) + "040904b0\0".encode("utf-16-le") + b"".join(children)

    root = struct.pack("<HHH", 0xFFFF, 0, 0) + "VS_VERSION_INFO\0".encode("utf-16-le") + bytes(2)
    resources = [(root + table(filling))[:0xFFFF], (root + filling)[:0xFFFF], filling[:0xFFFF]]
    measure(resources, parse_version_resource).check(record_property)


@given(st.binary(max_size=400).map(version_bytes(PLAN)[:0x5C].__add__) | st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_all(data)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pe"))
def test_real_versions_are_read_as_pefile_reads_them(name: str) -> None:
    pefile: Any = importlib.import_module(need("pefile"))
    with FileView(corpus / name) as view:
        try:
            info = read_version(view, Layout.DISK)
        except MalformedInput:
            assert name.endswith("corkami_foldedhdr.exe")  # its directory lies in no section
            return
    told = pefile.PE(str(corpus / name), fast_load=True)
    told.parse_data_directories(directories=[pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_RESOURCE"]])
    blocks = [block for resource in getattr(told, "FileInfo", []) for block in resource]
    tables = [table for block in blocks for table in getattr(block, "StringTable", [])]
    if not tables:
        assert info is None
        return
    assert info is not None
    texts = {key.decode(): value.decode() for key, value in tables[0].entries.items()}
    found = {
        "CompanyName": info.company, "ProductName": info.product, "FileDescription": info.description,
        "OriginalFilename": info.original_name, "FileVersion": info.file_version,
        "ProductVersion": info.product_version,
    }  # fmt: skip
    assert {key: value or "" for key, value in found.items()} == {
        key: " ".join(texts.get(key, "").split()) for key in found
    }
    fixed = told.VS_FIXEDFILEINFO[0]
    wanted = (fixed.FileVersionMS >> 16, fixed.FileVersionMS & 0xFFFF, fixed.FileVersionLS >> 16,
              fixed.FileVersionLS & 0xFFFF)  # fmt: skip
    assert (info.file_numbers or (0, 0, 0, 0)) == wanted
    assert info.is_private == bool(fixed.FileFlags & fixed.FileFlagsMask & 8)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pe-bad"))
def test_real_damaged_images_give_a_version_or_a_reason(name: str) -> None:
    read_all((corpus / name).read_bytes())
