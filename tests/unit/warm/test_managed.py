"""Dumps of .NET programs: the libraries and images that managed debuggers need."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.answers import status
from support.dotnet import library_bytes, runtime_plan, version_resource
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes, runtime_info_bytes

from symcache.config import Config, load_config
from symcache.formats.pe.version import VersionInfo
from symcache.identity import ImageKey, PdbKey, PortablePdbKey
from symcache.inputs.records import ImageUse, Input, InputKind, Module, PdbFormat, PdbReference, Runtime, RuntimeKind
from symcache.reports.advice import group_by_cause
from symcache.reports.html import html_lines
from symcache.reports.readiness import managed_lines
from symcache.reports.text import report_lines
from symcache.stores.results import Hint
from symcache.stores.source import SymbolSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.report import FailOn
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.warm.report import Report

X64, ARM64 = 0x8664, 0xAA64
V8, V48, V2 = (8, 0, 824, 36612), (4, 8, 4341, 0), (2, 0, 50727, 9151)
STAMP = (0x5F7E6161, 0xAEE000)
CORECLR, CLR, MSCORWKS = (ImageKey(name, *STAMP) for name in ("coreclr.dll", "clr.dll", "mscorwks.dll"))
LONG = ImageKey("mscordaccore_amd64_amd64_8.0.824.36612.dll", *STAMP)
SHORT = ImageKey("mscordaccore.dll", *STAMP)
DBI = ImageKey("mscordbi.dll", *STAMP)
GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
BASE = 0x7FF6_0000_0000
DAC_BYTES = library_bytes("mscordaccore.dll", V8)
DBI_BYTES = library_bytes("mscordbi.dll", V8)

# No symbols, so that the report is of libraries and images alone.
CORE = Module(
    "coreclr.dll", image=CORECLR, base=BASE, no_debug_record=True,
    runtime=Runtime(RuntimeKind.CORE, X64, V8), version=VersionInfo(file_numbers=V8),
)  # fmt: skip
UNKNOWN = replace(CORE, runtime=None, version=None, needs_image=ImageUse.METADATA)


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Config:
    upstream.files = {LONG.index: DAC_BYTES, DBI.index: DBI_BYTES}
    config = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")
    return replace(config, misses=replace(config.misses, folder=tmp_path / "misses"))


async def run(
    config: Config, records: Sequence[Any], images: ImageChoice = ImageChoice.AUTO, *, is_check: bool = False
) -> Report:
    async with SymbolSource(config) as source:
        with LocalRun(source, Plan(images=images)) as local:
            warmer = Warmer(source, local)
            return await (warmer.check if is_check else warmer.warm)(records)


def ends(report: Report) -> dict[str, str]:
    """Return how the libraries and images ended, by name."""
    symbols = [symbol for symbol in report.symbols if symbol.index is not None and symbol.kind.value == "image"]
    assert len({symbol.index for symbol in symbols}) == len(symbols)
    return {str(symbol.index).partition("/")[0]: symbol.cause or symbol.state.value for symbol in symbols}


def managed(report: Report) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report.as_json().get("managed", [])
    return found


def size_of_image(content: bytes) -> int:
    at = int.from_bytes(content[0x3C:0x40], "little") + 0x18 + 56
    return int.from_bytes(content[at : at + 4], "little")


def asked(upstream: Upstream) -> list[str]:
    return [request.path.strip("/") for request in upstream.requests]


async def test_the_libraries_of_a_runtime_are_fetched_and_stand_under_every_name(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    report = await run(config, [CORE])
    assert ends(report) == {LONG.name: "fetched", "mscordbi.dll": "fetched"}
    assert {symbol.use for symbol in report.symbols if symbol.is_at_hand} == {ImageUse.DATA_ACCESS}
    for key in (LONG, SHORT):
        assert (tmp_path / "sym" / key.index).read_bytes() == DAC_BYTES
    assert report.exit_code() == 0
    assert managed(report) == [
        {
            "runtime": "coreclr.dll",
            "version": "8.0.824.36612",
            "ready": True,
            "hosts": ["amd64"],
            "lacks": [],
            "without_metadata": [],
        }
    ]
    assert list(managed_lines(report)) == ["managed debugging (coreclr.dll 8.0.824.36612): ready"]
    count = len(upstream.requests)
    for again in (await run(config, [CORE]), await run(config, [CORE], is_check=True)):
        assert ends(again) == {LONG.name: "present", "mscordbi.dll": "present"}
    assert len(upstream.requests) == count


async def test_libraries_stand_under_their_own_keys_too_which_runtimes_state(config: Config, tmp_path: Path) -> None:
    await run(config, [CORE])
    own = ImageKey("mscordaccore.dll", 0x1234, size_of_image(DAC_BYTES))
    assert (tmp_path / "sym" / own.index).read_bytes() == DAC_BYTES
    interface = ImageKey("mscordbi.dll", 0x1234, size_of_image(DBI_BYTES))
    assert (tmp_path / "sym" / interface.index).read_bytes() == DBI_BYTES
    folders = {path.parent.name for path in (tmp_path / "sym").glob("mscord*/*/*")}
    assert folders == {LONG.id, own.id, interface.id}


async def test_a_library_that_is_published_under_its_short_name_alone_is_not_missing(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.files = {SHORT.index: DAC_BYTES, DBI.index: DBI_BYTES}
    report = await run(config, [CORE])
    assert ends(report) == {LONG.name: "fetched", "mscordbi.dll": "fetched"}
    assert next(symbol.as_json()["note"] for symbol in report.symbols if symbol.index == LONG.index) == (
        "published as mscordaccore.dll"
    )
    for key in (LONG, SHORT):
        assert (tmp_path / "sym" / key.index).read_bytes() == DAC_BYTES


async def test_the_short_name_may_be_another_build_which_is_not_filed_under_the_long_one(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.files = {SHORT.index: library_bytes("mscordaccore.dll", (8, 0, 724, 31311)), DBI.index: DBI_BYTES}
    report = await run(config, [CORE])
    assert ends(report) == {LONG.name: "wrong-content", "mscordbi.dll": "fetched"}
    assert not (tmp_path / "sym" / LONG.index).exists()
    (library,) = (symbol for symbol in report.symbols if symbol.index == LONG.index)
    assert library.reason is not None
    assert "version 8.0.724.31311, not 8.0.824.36612" in library.reason
    assert not managed(report)[0]["ready"]


@pytest.mark.parametrize("has_long", [True, False])
async def test_what_the_store_has_under_one_name_is_filed_under_the_other_without_a_request(
    config: Config, upstream: Upstream, tmp_path: Path, has_long: bool
) -> None:
    await run(config, [CORE])
    there, lost = (LONG, SHORT) if has_long else (SHORT, LONG)
    (tmp_path / "sym" / lost.index).unlink()
    checked = await run(config, [CORE], is_check=True)
    # dbgeng asks by the long name alone.
    assert ends(checked)[LONG.name] == ("present" if has_long else "not-cached")
    upstream.requests.clear()
    assert ends(await run(config, [CORE]))[LONG.name] == "present"
    assert (tmp_path / "sym" / lost.index).read_bytes() == (tmp_path / "sym" / there.index).read_bytes()
    assert asked(upstream) == []


async def test_a_runtime_of_which_only_the_image_says_the_build_takes_two_hops(
    config: Config, upstream: Upstream
) -> None:
    upstream.files[CORECLR.index] = disk_bytes(runtime_plan(*STAMP, "coreclr.dll", V8))
    report = await run(config, [UNKNOWN])
    assert ends(report) == {"coreclr.dll": "fetched", LONG.name: "fetched", "mscordbi.dll": "fetched"}
    assert ends(await run(config, [UNKNOWN], is_check=True)) == {
        "coreclr.dll": "present",
        LONG.name: "present",
        "mscordbi.dll": "present",
    }


async def test_the_build_is_read_in_ranges_where_the_image_is_not_wanted(config: Config, upstream: Upstream) -> None:
    image = disk_bytes(runtime_plan(*STAMP, "coreclr.dll", V8, payload_bytes=500_000))
    upstream.files[CORECLR.index] = image
    report = await run(config, [replace(UNKNOWN, needs_image=None)])
    assert ends(report) == {LONG.name: "fetched", "mscordbi.dll": "fetched"}
    ranges = [request.headers.get("range") for request in upstream.asked(CORECLR.index)]
    assert ranges
    assert all(ranges)


async def test_a_runtime_whose_image_is_published_nowhere_is_tried_by_short_names(
    config: Config, upstream: Upstream
) -> None:
    upstream.files[SHORT.index] = DAC_BYTES
    for records in ([UNKNOWN], [replace(UNKNOWN, needs_image=None)]):
        report = await run(config, records)
        found = ends(report)
        assert found.pop("coreclr.dll") in {"not-published", "image-not-published", "remembered-miss"}
        assert set(found) == {"mscordaccore.dll", "mscordbi.dll"}
        assert managed(report)[0]["ready"]
        assert report.exit_code() == 3


async def test_nothing_is_known_of_an_old_runtime_without_its_image(config: Config) -> None:
    module = Module("mscorwks.dll", image=MSCORWKS, base=BASE, no_debug_record=True, needs_image=ImageUse.METADATA)
    for is_check in (False, True):
        report = await run(config, [module], is_check=is_check)
        assert managed(report) == [
            {
                "runtime": "mscorwks.dll",
                "version": None,
                "ready": False,
                "hosts": [],
                "lacks": ["mscorwks.dll, which says what its libraries are called"],
                "without_metadata": ["mscorwks.dll"],
            }
        ]


async def test_a_server_that_is_down_leaves_the_libraries_failed(config: Config, upstream: Upstream) -> None:
    upstream.always("*", status(403))
    report = await run(config, [UNKNOWN])
    assert report.exit_code() == 1
    assert not managed(report)[0]["ready"]


async def test_the_net_framework_has_sos_as_well(config: Config, upstream: Upstream) -> None:
    names = ("mscordacwks_amd64_amd64_4.8.4341.00.dll", "sos_amd64_amd64_4.8.4341.00.dll", "mscordbi.dll")
    upstream.files = {
        ImageKey(name, *STAMP).index: library_bytes(f"{name.partition('_')[0].partition('.')[0]}.dll", V48)
        for name in names
    }
    module = replace(CORE, name="clr.dll", image=CLR, runtime=None, version=VersionInfo(file_numbers=V48))
    module = replace(module, runtime=Runtime(RuntimeKind.FRAMEWORK, X64, V48))
    assert ends(await run(config, [module])) == dict.fromkeys(names, "fetched")
    del upstream.files[ImageKey(names[1], *STAMP).index]
    report = await run(replace(config, store=config.store), [replace(module, image=replace(CLR, timestamp=1))])
    assert set(ends(report).values()) == {"not-published"}


async def test_any_host_makes_managed_debugging_ready(config: Config, upstream: Upstream) -> None:
    cross = ImageKey("mscordaccore_amd64_arm64_8.0.824.36612.dll", *STAMP)
    upstream.files = {cross.index: DAC_BYTES}
    report = await run(config, [replace(CORE, runtime=Runtime(RuntimeKind.CORE, ARM64, V8))])
    (line,) = managed_lines(report)
    assert line.endswith(": ready, without mscordaccore_arm64_arm64_8.0.824.36612.dll, mscordbi.dll")


async def test_an_x86_runtime_takes_the_x86_debugger(config: Config, upstream: Upstream) -> None:
    key = ImageKey("mscordaccore_x86_x86_8.0.824.36612.dll", *STAMP)
    upstream.files = {key.index: library_bytes("mscordaccore.dll", V8, machine=0x14C), DBI.index: DBI_BYTES}
    report = await run(config, [replace(CORE, runtime=Runtime(RuntimeKind.CORE, 0x14C, V8))])
    assert list(managed_lines(report)) == ["managed debugging (coreclr.dll 8.0.824.36612): ready in a debugger for x86"]


PROGRAM = ImageKey("app.exe", 0x1111, 0x9000)
OWN_DAC, OWN_DBI = ImageKey("mscordaccore.dll", 0x65A1B2C3, 0x158000), ImageKey("mscordbi.dll", 0x65A1B2C4, 0x12A000)


def program(info: bytes | None) -> bytes:
    exports = () if info is None else (("DotNetRuntimeInfo", info), ("z", b"1"))
    return disk_bytes(ImagePlan(PROGRAM.timestamp, PROGRAM.size_of_image, dll=False, exports=exports))


INFO = runtime_info_bytes((OWN_DAC.timestamp, OWN_DAC.size_of_image), (OWN_DBI.timestamp, OWN_DBI.size_of_image), V8)
PRESUMED = Module(
    "app.exe", image=PROGRAM, base=BASE, no_debug_record=True,
    runtime=Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True), needs_image=ImageUse.CODE,
)  # fmt: skip


async def test_the_libraries_of_a_single_file_are_fetched_by_their_own_keys(config: Config, upstream: Upstream) -> None:
    own = {"timestamp": OWN_DAC.timestamp, "size_of_image": OWN_DAC.size_of_image}
    upstream.files = {PROGRAM.index: program(INFO), OWN_DAC.index: library_bytes("mscordaccore.dll", V8, **own)}
    report = await run(config, [PRESUMED])
    assert ends(report) == {"app.exe": "fetched", "mscordaccore.dll": "fetched", "mscordbi.dll": "not-published"}
    assert managed(report)[0] | {"lacks": []} == {
        "runtime": "app.exe", "version": None, "ready": True, "hosts": [], "lacks": [], "without_metadata": [],
    }  # fmt: skip


@pytest.mark.parametrize("info", [None, b"DotNetRuntimeInfo is another thing here" + bytes(80)])
async def test_a_program_that_holds_no_runtime_needs_no_library(
    config: Config, upstream: Upstream, info: bytes | None
) -> None:
    upstream.files = {PROGRAM.index: program(info)}
    for is_check in (False, True):
        report = await run(config, [PRESUMED], is_check=is_check)
        assert set(ends(report)) == {"app.exe"}
        assert managed(report) == []


async def test_nothing_is_said_of_a_program_that_may_hold_a_runtime_and_is_published_nowhere(
    config: Config, upstream: Upstream
) -> None:
    upstream.files = {}
    for is_check in (True, False):
        report = await run(config, [PRESUMED], is_check=is_check)
        assert set(ends(report)) == {"app.exe"}
        assert managed(report) == []


@pytest.mark.parametrize(
    ("images", "base", "is_wanted"),
    [
        (ImageChoice.AUTO, BASE, True),
        (ImageChoice.AUTO, None, False),
        (ImageChoice.ALL, None, True),
        (ImageChoice.NONE, BASE, False),
    ],
)
async def test_libraries_are_wanted_for_what_runs_or_where_all_images_are(
    config: Config, upstream: Upstream, images: ImageChoice, base: int | None, is_wanted: bool
) -> None:
    upstream.files[CORECLR.index] = disk_bytes(runtime_plan(*STAMP, "coreclr.dll", V8))
    report = await run(config, [replace(CORE, base=base)], images)
    assert (LONG.name in ends(report)) == is_wanted
    assert report.images_left_out == (2 if images is ImageChoice.NONE else 0)


async def test_what_no_debugger_opens_needs_no_library(config: Config, upstream: Upstream) -> None:
    upstream.files[CORECLR.index] = disk_bytes(runtime_plan(*STAMP, "coreclr.dll", V8))
    report = await run(config, [replace(CORE, no_debugger=True)])
    assert LONG.name not in ends(report)
    assert managed(report) == []


def private_build(config: Config, upstream: Upstream, numbers: Any = V8) -> Module:
    """Publish a runtime and its library as they are, under their own keys; return the module of it."""
    del config
    own = ImageKey("mscordaccore.dll", 0x1234, size_of_image(DAC_BYTES))
    info = runtime_info_bytes((own.timestamp, own.size_of_image), None)
    image = runtime_plan(*STAMP, "coreclr.dll", V8, exports=(("DotNetRuntimeInfo", info),))
    upstream.files = {CORECLR.index: disk_bytes(image), own.index: library_bytes("mscordaccore.dll", numbers)}
    return CORE


async def test_a_library_that_was_published_as_it_is_is_found_by_what_the_runtime_states(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    module = private_build(config, upstream)
    for each in (replace(module, needs_image=ImageUse.CODE), replace(UNKNOWN, needs_image=ImageUse.METADATA)):
        report = await run(config, [each])
        assert ends(report)[LONG.name] in {"fetched", "present"}
        assert managed(report)[0]["lacks"] == ["mscordbi.dll"]
        for key in (LONG, SHORT):
            path = tmp_path / "sym" / key.index
            assert path.read_bytes() == DAC_BYTES
            path.unlink()


async def test_what_the_dump_has_of_the_runtime_leads_there_without_its_image(
    config: Config, upstream: Upstream
) -> None:
    module = private_build(config, upstream)
    del upstream.files[CORECLR.index]
    runtime = Runtime(RuntimeKind.CORE, X64, V8, data_access=(0x1234, size_of_image(DAC_BYTES)))
    assert ends(await run(config, [replace(module, runtime=runtime)]))[LONG.name] == "fetched"


async def test_a_library_of_another_build_is_not_filed_for_the_runtime(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    module = private_build(config, upstream, (8, 0, 1, 1))
    report = await run(config, [replace(module, needs_image=ImageUse.CODE)])
    assert ends(report)[LONG.name] == "not-published"
    assert not (tmp_path / "sym" / LONG.index).exists()


async def test_a_missing_library_counts_as_a_missing_image(config: Config, upstream: Upstream) -> None:
    fail_on: set[FailOn] = {FailOn.IMAGES}
    assert (await run(config, [CORE])).exit_code(fail_on=fail_on) == 0
    upstream.files = {}
    other = replace(CORE, image=replace(CORECLR, timestamp=1))
    assert (await run(config, [other])).exit_code(fail_on=fail_on) == 3


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (VersionInfo(file_numbers=V8), Hint.RUNTIME),
        (VersionInfo(file_numbers=V8, company="Microsoft Corporation"), Hint.RUNTIME),
        (VersionInfo(file_numbers=(42, 42, 42, 42), company="Microsoft Corporation"), Hint.PRIVATE_RUNTIME),
        (VersionInfo(file_numbers=V8, company="Example Linux"), Hint.PRIVATE_RUNTIME),
    ],
)
async def test_advice_for_a_missing_library_depends_on_who_built_the_runtime(
    config: Config, upstream: Upstream, version: VersionInfo, hint: Hint
) -> None:
    upstream.files = {}
    module = replace(CORE, version=version, runtime=Runtime(RuntimeKind.CORE, X64, version.file_numbers))
    report = await run(config, [Input("a.dmp", InputKind.MINIDUMP), module])
    groups = group_by_cause(symbol for symbol in report.symbols if symbol.use is ImageUse.DATA_ACCESS)
    assert [group.hint for group in groups] == [hint]
    text = "\n".join(report_lines(report))
    assert "not ready; it lacks mscordaccore_amd64_amd64_" in text
    assert "no managed debugging without it" in text
    assert ".cordll -lp FOLDER" in text
    assert "managed debugging (coreclr.dll" in "\n".join(html_lines(report))


async def test_who_built_a_runtime_is_read_from_its_image_at_hand(config: Config, upstream: Upstream) -> None:
    versions = version_resource("coreclr.dll", V8, company="Example Linux")
    upstream.files = {CORECLR.index: disk_bytes(runtime_plan(*STAMP, "coreclr.dll", None, versions=versions))}
    report = await run(config, [Input("a.dmp", InputKind.MINIDUMP), replace(CORE, needs_image=ImageUse.CODE)])
    groups = group_by_cause(symbol for symbol in report.symbols if symbol.use is ImageUse.DATA_ACCESS)
    assert [group.hint for group in groups] == [Hint.PRIVATE_RUNTIME]


# The PDBs of managed modules.

LIBRARY = ImageKey("lib.dll", 0x2222, 0x9000)
TAKEN_FOR_NATIVE = PdbKey("lib.pdb", GUID, 1)
PORTABLE = PortablePdbKey("lib.pdb", GUID)
NI = PdbKey("lib.ni.pdb", UUID(int=7), 1)
LISTED = Module(
    "lib.dll", image=LIBRARY, base=BASE, pdbs=(PdbReference(TAKEN_FOR_NATIVE, PdbFormat.NATIVE),),
    needs_image=ImageUse.CODE, is_presumed=True,
)  # fmt: skip


def library(*views: CodeViewPlan) -> bytes:
    plan = ImagePlan(LIBRARY.timestamp, LIBRARY.size_of_image, code_views=views, metadata=b"BSJB", precompiled=b"RTR\0")
    return disk_bytes(plan)


async def test_a_pdb_that_was_taken_for_a_native_one_is_wanted_as_what_the_image_says(
    config: Config, upstream: Upstream
) -> None:
    upstream.files = {
        LIBRARY.index: library(CodeViewPlan(NI.name, NI.guid), CodeViewPlan("lib.pdb", GUID, portable=True)),
        PORTABLE.index: make_portable_pdb(GUID, 1)[0],
        NI.index: make_pdb(NativePdbSpec(NI.guid, 1)),
    }
    wanted = {LIBRARY.index: "fetched", PORTABLE.index: "fetched", NI.index: "fetched"}
    report = await run(config, [LISTED])
    assert {symbol.index: symbol.cause or symbol.state.value for symbol in report.symbols} == wanted
    report = await run(config, [LISTED], is_check=True)
    assert {symbol.index: symbol.state.value for symbol in report.symbols} == dict.fromkeys(wanted, "present")


async def test_a_conversion_of_a_portable_pdb_is_kept_where_somebody_publishes_it(
    config: Config, upstream: Upstream
) -> None:
    upstream.files = {
        LIBRARY.index: library(CodeViewPlan("lib.pdb", GUID, portable=True)),
        TAKEN_FOR_NATIVE.index: make_pdb(NativePdbSpec(GUID, 1)),
    }
    report = await run(config, [LISTED])
    assert {symbol.index: symbol.cause or symbol.state.value for symbol in report.symbols} == {
        LIBRARY.index: "fetched",
        TAKEN_FOR_NATIVE.index: "fetched",
        PORTABLE.index: "not-published",
    }


async def test_without_the_image_the_pdb_of_the_entry_is_all_there_is(config: Config, upstream: Upstream) -> None:
    upstream.files = {TAKEN_FOR_NATIVE.index: make_pdb(NativePdbSpec(GUID, 1))}
    report = await run(config, [LISTED])
    assert {symbol.index: symbol.cause or symbol.state.value for symbol in report.symbols} == {
        LIBRARY.index: "not-published",
        TAKEN_FOR_NATIVE.index: "fetched",
    }


async def test_metadata_that_is_not_at_hand_is_told(config: Config, upstream: Upstream) -> None:
    lib = replace(LISTED, needs_image=ImageUse.METADATA, is_presumed=False)
    report = await run(config, [CORE, lib])
    assert managed(report)[0]["without_metadata"] == ["lib.dll"]
    assert list(managed_lines(report))[1] == "managed debugging (coreclr.dll 8.0.824.36612): no metadata of lib.dll"
    assert "1 for managed metadata" in "\n".join(report_lines(report))
    assert all(symbol.keeps == () for symbol in report.symbols)


def test_the_version_resource_of_a_runtime_is_that_of_its_plan() -> None:
    ((name, language, content),) = version_resource("coreclr.dll", V8)
    assert (name, language) == (1, 0x409)
    assert "coreclr.dll".encode("utf-16-le") in content
