from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dotnet import version_resource
from support.mutation import mutants
from support.synth.pe import ImagePlan, disk_bytes, memory_bytes, runtime_info_bytes
from support.views import CountingView, HoleyView

from symcache.errors import InputError, MalformedInput
from symcache.formats.pe.exports import find_export, find_own_name
from symcache.formats.pe.image import ImageSpace, Layout
from symcache.formats.pe.managed import (
    ManagedCode,
    RuntimeInfo,
    find_managed,
    find_runtime_facts,
    find_runtime_info,
    holds_metadata,
    read_runtime_facts,
)
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 0x1000
EXPORTS = (("Alpha", b"first"), ("Zulu", b"last"), ("alpha", b"small"), ("DotNet", b"short"))
EXPORTING = ImagePlan(0x5C8AD05F, exports=EXPORTS, own_name="mscordaccore.dll")
RTR, NGEN = b"RTR\0", b"NGE\0"
DAC, DBI = (0x65A1B2C3, 0x158000), (0x65A1B2C4, 0x12A000)
VERSION = (8, 0, 824, 36612)
INFO = RuntimeInfo(DAC, DBI)


def holding(content: bytes) -> ImagePlan:
    return ImagePlan(0x5C8AD05F, dll=False, exports=(("DotNetRuntimeInfo", content), *EXPORTS), payload_bytes=0x3000)


def on_disk(plan: ImagePlan) -> ImageSpace:
    return ImageSpace(BytesView(disk_bytes(plan)), Layout.DISK)


def in_memory(plan: ImagePlan) -> ImageSpace:
    return ImageSpace(BytesView(memory_bytes(plan)), Layout.MEMORY)


BOTH = pytest.mark.parametrize("space_of", [on_disk, in_memory])


@BOTH
@pytest.mark.parametrize(("name", "content"), EXPORTS)
def test_an_export_is_found_by_its_name(space_of: Callable[[ImagePlan], ImageSpace], name: str, content: bytes) -> None:
    space = space_of(EXPORTING)
    rva = find_export(space, name)
    assert rva is not None
    assert space.read(rva, len(content)) == content
    assert find_own_name(space) == "mscordaccore.dll"


@BOTH
@pytest.mark.parametrize("name", ["Alph", "Alphabet", "DotNetRuntimeInfo", "zulu", "", "~"])
def test_what_is_not_exported_is_not_found(space_of: Callable[[ImagePlan], ImageSpace], name: str) -> None:
    assert find_export(space_of(EXPORTING), name) is None
    assert find_export(space_of(replace(EXPORTING, exports=())), name) is None


def test_an_image_without_exports_has_no_name_of_its_own() -> None:
    assert find_own_name(on_disk(replace(EXPORTING, exports=()))) is None


@given(st.dictionaries(st.text("abcXYZ_09", min_size=1, max_size=12), st.binary(min_size=1, max_size=8), max_size=40))
def test_any_table_of_exports_reads_back(exports: dict[str, bytes]) -> None:
    space = on_disk(replace(EXPORTING, exports=tuple(exports.items()) or EXPORTS))
    for name, content in exports.items():
        rva = find_export(space, name)
        assert rva is not None
        assert space.read(rva, len(content)) == content


def test_many_exports_take_few_reads() -> None:
    exports = tuple((f"Export{number:05}", b"x") for number in range(20_000))
    view = CountingView(BytesView(memory_bytes(replace(EXPORTING, exports=exports))))
    assert find_export(ImageSpace(view, Layout.MEMORY), "Export12345") is not None
    assert len(view.reads) < 48
    assert view.read_bytes < 0x1000


def test_a_table_that_claims_names_without_end_takes_few_reads() -> None:
    data = bytearray(memory_bytes(EXPORTING))
    at = int.from_bytes(data[0x80 + 0x18 + 112 : 0x80 + 0x18 + 116], "little")
    data[at + 24 : at + 28] = b"\xff" * 4
    view = CountingView(BytesView(bytes(data)))
    with pytest.raises(InputError):
        find_export(ImageSpace(view, Layout.MEMORY), "zzz")
    assert len(view.reads) < 300


def test_an_export_without_an_address_is_damage() -> None:
    data = bytearray(memory_bytes(replace(EXPORTING, exports=(("DotNetRuntimeInfo", b"x"),))))
    at = int.from_bytes(data[0x80 + 0x18 + 112 : 0x80 + 0x18 + 116], "little")
    data[at + 20 : at + 24] = bytes(4)
    with pytest.raises(MalformedInput, match="has place 0 of 0"):
        find_export(ImageSpace(BytesView(bytes(data)), Layout.MEMORY), "DotNetRuntimeInfo")


INFOS: dict[str, tuple[bytes, RuntimeInfo]] = {
    "of .NET 6": (runtime_info_bytes(DAC, DBI), INFO),
    "with a version, since .NET 8": (runtime_info_bytes(DAC, DBI, VERSION), RuntimeInfo(DAC, DBI, VERSION)),
    "without the libraries": (runtime_info_bytes(None, None), RuntimeInfo(None, None)),
    "with the library for data access alone": (runtime_info_bytes(DAC, None), RuntimeInfo(DAC, None)),
    "with indexes of more bytes": (
        runtime_info_bytes(DAC, DBI).replace(b"\x08", b"\x14"),
        INFO,
    ),
    "with a version of zeros": (runtime_info_bytes(DAC, DBI, (0, 0, 0, 0)), INFO),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", INFOS)
def test_a_program_names_the_libraries_of_the_runtime_that_it_holds(
    space_of: Callable[[ImagePlan], ImageSpace], name: str
) -> None:
    content, info = INFOS[name]
    assert find_runtime_info(space_of(holding(content))) == info


@pytest.mark.parametrize(
    "content",
    [b"DotNetRuntimeInfX\0".ljust(96, b"\0"), bytes(200), b"DotNetRuntimeInfo\0\0\0" + bytes(76)],
    ids=["another text", "zeros", "version 0"],
)
def test_another_export_of_that_name_is_told_from_it(content: bytes) -> None:
    with pytest.raises(MalformedInput, match="something else"):
        find_runtime_info(on_disk(holding(content)))
    facts = find_runtime_facts(on_disk(holding(content)))
    assert (facts.info, facts.has_unread_exports) == (None, False)


def test_an_image_of_no_runtime_says_so() -> None:
    assert find_runtime_info(on_disk(EXPORTING)) is None
    assert find_runtime_facts(on_disk(replace(EXPORTING, exports=()))).info is None


def test_exports_that_the_dump_lacks_leave_the_question_open() -> None:
    data = memory_bytes(holding(runtime_info_bytes(DAC, DBI)))
    for first in (PAGE, 0x5000):
        space = ImageSpace(HoleyView(BytesView(data), first.__le__), Layout.MEMORY)
        assert find_runtime_facts(space).has_unread_exports
    assert not find_runtime_facts(in_memory(holding(runtime_info_bytes(DAC, DBI)))).has_unread_exports


def test_a_runtime_says_which_build_it_is() -> None:
    plan = replace(EXPORTING, machine=0xAA64, versions=version_resource("coreclr.dll", VERSION))
    facts = read_runtime_facts(BytesView(disk_bytes(plan)), Layout.DISK)
    assert facts.machine == 0xAA64
    assert facts.version is not None
    assert facts.version.file_numbers == VERSION


KINDS = {
    "code of the virtual machine": (None, ManagedCode.IL),
    "ready-to-run": (RTR, ManagedCode.READY_TO_RUN),
    "made on its machine": (NGEN, ManagedCode.NGEN),
}


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_managed_code_is_told_by_its_header(space_of: Callable[[ImagePlan], ImageSpace], kind: str) -> None:
    precompiled, code = KINDS[kind]
    plan = ImagePlan(0x5C8AD05F, metadata=b"BSJB" + bytes(0x3000), precompiled=precompiled)
    space = space_of(plan)
    image = find_managed(space)
    assert image is not None
    assert image.code is code
    assert space.read(image.metadata_rva, 4) == b"BSJB"
    assert holds_metadata(space, image)


def test_an_image_of_native_code_has_no_metadata() -> None:
    assert find_managed(on_disk(EXPORTING)) is None


@pytest.mark.parametrize("lost", range(5))
def test_a_page_of_the_metadata_that_is_not_there_is_missed(lost: int) -> None:
    plan = ImagePlan(0x5C8AD05F, metadata=b"BSJB" + bytes(0x3FF0))
    data = memory_bytes(plan)
    start = len(data) - 5 * PAGE
    gap = range(start + lost * PAGE, start + (lost + 1) * PAGE)
    space = ImageSpace(HoleyView(BytesView(data), lambda at: at in gap), Layout.MEMORY)
    if not lost:
        with pytest.raises(InputError):  # the header is on this page
            find_managed(space)
        return
    image = find_managed(space)
    assert image is not None
    assert not holds_metadata(space, image)


def test_metadata_that_claims_to_be_endless_takes_few_reads() -> None:
    data = bytearray(memory_bytes(ImagePlan(0x5C8AD05F, metadata=b"BSJB" + bytes(0x3000))))
    at = data.index(b"BSJB") - 88
    data[at + 12 : at + 16] = b"\xff" * 4
    view = CountingView(BytesView(bytes(data).ljust(1 << 22, b"\0")))
    space = ImageSpace(view, Layout.MEMORY)
    image = find_managed(space)
    assert image is not None
    assert not holds_metadata(space, image)
    assert len(view.reads) < 4200


def test_precompiled_code_whose_header_is_not_there_is_taken_for_what_nobody_publishes() -> None:
    data = bytearray(memory_bytes(ImagePlan(0x5C8AD05F, metadata=b"BSJB", precompiled=RTR)))
    at = data.index(b"BSJB") - 88
    data[at + 64 : at + 68] = (0x7F000000).to_bytes(4, "little")
    image = find_managed(ImageSpace(BytesView(bytes(data)), Layout.MEMORY))
    assert image is not None
    assert image.code is ManagedCode.NGEN


SEEDS = (
    disk_bytes(holding(runtime_info_bytes(DAC, DBI, VERSION))),
    disk_bytes(ImagePlan(1, metadata=b"BSJB" + bytes(64), precompiled=RTR, payload_bytes=16)),
    disk_bytes(replace(EXPORTING, versions=version_resource("mscordaccore.dll", VERSION))),
)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("seed", SEEDS, ids=["program", "managed", "library"])
def test_damage_is_never_anything_but_bad_input(seed: bytes, layout: Layout) -> None:
    for data in mutants(seed, 400):
        view = CountingView(BytesView(data))
        try:
            space = ImageSpace(view, layout)
            find_runtime_facts(space)
            find_own_name(space)
            image = find_managed(space)
            assert image is None or holds_metadata(space, image) in {True, False}
        except InputError:
            pass
        assert len(view.reads) < 6000
