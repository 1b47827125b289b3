"""Runtimes of .NET among modules: which libraries debuggers ask for, by the rules of dotnet/diagnostics."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.dotnet import runtime_plan, version_resource
from support.kernels import kernel_plan
from support.mutation import mutants
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import DriverPlan, ProcessPlan, build_machine
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pagetables import Paging
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes, memory_bytes, runtime_info_bytes
from support.synth.version import fixed_bytes

from symcache.formats.pe.managed import ManagedCode, RuntimeFacts, RuntimeInfo
from symcache.formats.pe.version import VersionInfo
from symcache.formats.view import BytesView
from symcache.identity import ImageKey, filed_keys
from symcache.inputs.detect import read_input
from symcache.inputs.image import read_module
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.minidump import read_minidump
from symcache.inputs.records import (
    ImageUse,
    Input,
    Module,
    PdbFormat,
    ProcessSelection,
    Runtime,
    RuntimeKind,
    Unreadable,
)
from symcache.inputs.runtimes import is_build_known, library_keys, runtime_of, with_facts, with_version

if TYPE_CHECKING:
    from support.synth.version import Numbers

X86, X64, ARM, ARM64 = 0x14C, 0x8664, 0x1C4, 0xAA64
CORE, FRAMEWORK, FRAMEWORK_2 = RuntimeKind.CORE, RuntimeKind.FRAMEWORK, RuntimeKind.FRAMEWORK_2
IMAGE = ImageKey("runtime.dll", 0x5F7E6161, 0xAEE000)
V8, V48, V2 = (8, 0, 824, 36612), (4, 8, 4341, 0), (2, 0, 50727, 9151)
GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")

# What PEFileKeyGenerator.cs yields for KeyTypeFlags.ClrKeys, and SOS of the .NET Framework under its short name.
TABLE: dict[str, tuple[RuntimeKind, int, Numbers, str, set[str]]] = {
    ".NET 8 on x64": (CORE, X64, V8, "", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_amd64_amd64_8.0.824.36612.dll",
    }),
    ".NET 8 on x86": (CORE, X86, V8, "", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_x86_x86_8.0.824.36612.dll",
    }),
    ".NET 8 on ARM64": (CORE, ARM64, V8, "", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_arm64_arm64_8.0.824.36612.dll",
        "mscordaccore_amd64_arm64_8.0.824.36612.dll",
    }),
    ".NET Core 3.1 on ARM": (CORE, ARM, (4, 700, 22, 51303), "", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_arm_arm_4.700.22.51303.dll",
        "mscordaccore_x86_arm_4.700.22.51303.dll",
    }),
    "a checked .NET": (CORE, X64, V8, ".chk", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_amd64_amd64_8.0.824.36612.chk.dll",
    }),
    "a debugging .NET": (CORE, X64, V8, ".dbg", {
        "mscordaccore.dll", "mscordbi.dll", "mscordaccore_amd64_amd64_8.0.824.36612.dbg.dll",
    }),
    ".NET Framework 4.8 on x64": (FRAMEWORK, X64, V48, "", {
        "mscordacwks.dll", "mscordbi.dll", "sos.dll", "mscordacwks_amd64_amd64_4.8.4341.00.dll",
        "sos_amd64_amd64_4.8.4341.00.dll",
    }),
    ".NET Framework 4.8.1 on ARM64": (FRAMEWORK, ARM64, (4, 8, 9032, 7), "", {
        "mscordacwks.dll", "mscordbi.dll", "sos.dll",
        "mscordacwks_arm64_arm64_4.8.9032.07.dll", "mscordacwks_amd64_arm64_4.8.9032.07.dll",
        "sos_arm64_arm64_4.8.9032.07.dll", "sos_amd64_arm64_4.8.9032.07.dll",
    }),
    ".NET Framework 2 on x86": (FRAMEWORK_2, X86, V2, "", {
        "mscordacwks.dll", "sos.dll", "mscordacwks_x86_x86_2.0.50727.9151.dll", "sos_x86_x86_2.0.50727.9151.dll",
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_debuggers_ask_for_these_libraries(case: str) -> None:
    kind, machine, version, flavor, names = TABLE[case]
    runtime = Runtime(kind, machine, version, flavor)
    assert is_build_known(runtime)
    keys = [each for key in library_keys(IMAGE, runtime) for each in filed_keys(key)]
    assert {key.name for key in keys} == names
    assert len(keys) == len(names)
    assert {key.id for key in keys} == {IMAGE.id}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (CORE, ["mscordaccore.dll", "mscordbi.dll"]),
        (FRAMEWORK, ["mscordacwks.dll", "sos.dll", "mscordbi.dll"]),
        (FRAMEWORK_2, []),
    ],
)
@pytest.mark.parametrize("known", [{}, {"machine": X64}, {"version": V8}, {"machine": 0x200, "version": V8}])
def test_short_names_are_all_there_is_of_an_unknown_build(
    kind: RuntimeKind, names: list[str], known: dict[str, Any]
) -> None:
    keys = library_keys(IMAGE, replace(Runtime(kind), **known))
    assert [key.name for key in keys if "_" not in key.name] == names


@pytest.mark.parametrize(
    ("flags", "flavor"), [((False, False), ""), ((True, False), ".chk"), ((True, True), ".dbg"), ((False, True), "")]
)
def test_flags_of_the_version_tell_debugging_builds(flags: tuple[bool, bool], flavor: str) -> None:
    version = VersionInfo(file_numbers=V8, is_debug=flags[0], is_special=flags[1])
    assert with_version(Runtime(CORE), version) == Runtime(CORE, version=V8, flavor=flavor)
    assert with_version(Runtime(CORE), VersionInfo(company="Microsoft")) == Runtime(CORE)


def test_the_libraries_of_a_single_file_have_keys_of_their_own() -> None:
    facts = RuntimeFacts(X64, VersionInfo(file_numbers=(1, 0, 0, 0)), RuntimeInfo((1, 0x1000), (2, 0x2000), V8))
    runtime = with_facts(Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True), facts)
    assert runtime is not None
    assert runtime.version == V8
    assert [key.index for key in library_keys(IMAGE, runtime)] == [
        "mscordaccore.dll/000000011000/mscordaccore.dll",
        "mscordbi.dll/000000022000/mscordbi.dll",
    ]
    assert with_facts(Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True), RuntimeFacts(X64, None, None)) is None


def test_a_runtime_without_a_version_resource_is_of_the_build_that_it_exports() -> None:
    facts = RuntimeFacts(X64, None, RuntimeInfo(None, None, V8))
    assert with_facts(Runtime(CORE), facts) == Runtime(CORE, X64, V8)
    named = RuntimeFacts(X64, VersionInfo(file_numbers=V48), RuntimeInfo(None, None, V8))
    assert with_facts(Runtime(CORE), named) == Runtime(CORE, X64, V48)


def test_a_runtime_is_told_by_its_name_and_not_in_dumps_of_other_systems() -> None:
    assert runtime_of(Module("CoreCLR.dll")) == Runtime(CORE)
    assert runtime_of(Module("libcoreclr.so")) is None
    assert runtime_of(Module("coreclr.dll", is_foreign=True)) is None


# Minidumps.

BASE = 0x7FF6_0000_0000


def entry(
    name: str, number: int, image: ImagePlan | None = None, *, version: Numbers | None = None, size: int = 0x9000
) -> MinidumpModule:
    timestamp = 0x5F7E6161 if image is None else image.timestamp
    fixed = b"" if version is None else fixed_bytes(version, version)
    record = rsds_record(GUID, 1, f"{name.rpartition('.')[0]}.pdb")
    return MinidumpModule(f"C:\\net\\{name}", BASE + number * 0x10_0000, size, timestamp, record, version=fixed)


def modules_of(plan: MinidumpPlan) -> dict[str, Module]:
    records = read_minidump(BytesView(build_minidump(plan)), "a.dmp")
    return {record.name: record for record in records if isinstance(record, Module)}


def captured(*images: tuple[int, ImagePlan]) -> list[tuple[int, bytes]]:
    return [(BASE + number * 0x10_0000, memory_bytes(image)) for number, image in images]


@pytest.mark.parametrize(("processor", "machine"), [(9, X64), (0, X86), (12, ARM64), (5, ARM)])
def test_the_list_of_modules_says_which_build_a_runtime_is(processor: int, machine: int) -> None:
    plan = MinidumpPlan([entry("app.exe", 0), entry("coreclr.dll", 1, version=V8)], processor=processor)
    assert modules_of(plan)["coreclr.dll"].runtime == Runtime(CORE, machine, V8)


@pytest.mark.parametrize(("processor", "machine"), [(9, X86), (12, None)])
def test_a_32_bit_program_of_a_64_bit_system_has_another_machine(processor: int, machine: int | None) -> None:
    modules = [entry("app.exe", 0), entry("wow64.dll", 1), entry("clr.dll", 2, version=V48)]
    assert modules_of(MinidumpPlan(modules, processor=processor))["clr.dll"].runtime == Runtime(FRAMEWORK, machine, V48)


def test_the_machine_of_an_emulated_program_is_open() -> None:
    modules = [entry("app.exe", 0), entry("xtajit64.dll", 1), entry("clr.dll", 2, version=V48)]
    assert modules_of(MinidumpPlan(modules, processor=12))["clr.dll"].runtime == Runtime(FRAMEWORK, None, V48)


def test_a_runtime_in_memory_says_what_the_list_of_modules_does_not() -> None:
    image = runtime_plan(0x5F7E6161, 0x9000, "coreclr.dll", V8, machine=X86)
    plan = MinidumpPlan([entry("coreclr.dll", 1)], memory=captured((1, image)))
    assert modules_of(plan)["coreclr.dll"].runtime == Runtime(CORE, X86, V8)


def test_another_image_at_its_place_says_nothing() -> None:
    image = runtime_plan(0x11111111, 0x9000, "coreclr.dll", V8, machine=X86)
    plan = MinidumpPlan([entry("coreclr.dll", 1)], memory=captured((1, image)))
    assert modules_of(plan)["coreclr.dll"].runtime == Runtime(CORE, X64)


def single_file(**more: Any) -> ImagePlan:
    info = runtime_info_bytes((1, 0x1000), (2, 0x2000), V8)
    return ImagePlan(0x5F7E6161, 0x9000, dll=False, exports=(("DotNetRuntimeInfo", info),), **more)


def test_a_program_in_memory_says_whether_it_holds_a_runtime() -> None:
    held = MinidumpPlan([entry("app.exe", 1)], memory=captured((1, single_file())))
    runtime = Runtime(RuntimeKind.SINGLE_FILE, X64, V8, data_access=(1, 0x1000), debugging_interface=(2, 0x2000))
    assert modules_of(held)["app.exe"].runtime == runtime
    native = MinidumpPlan([entry("app.exe", 1)], memory=captured((1, ImagePlan(0x5F7E6161, 0x9000, dll=False))))
    assert modules_of(native)["app.exe"].runtime is None


def test_a_program_whose_exports_are_not_captured_may_hold_one() -> None:
    whole = memory_bytes(single_file())
    plan = MinidumpPlan([entry("app.exe", 1)], memory=[(BASE + 0x10_0000, whole[:0x1000])])
    for each in (plan, MinidumpPlan([entry("app.exe", 1)])):
        runtime = modules_of(each)["app.exe"].runtime
        assert runtime is not None
        assert runtime.is_presumed
    with_runtime = MinidumpPlan([entry("app.exe", 1), entry("coreclr.dll", 2, version=V8)])
    assert modules_of(with_runtime)["app.exe"].runtime is None


def managed(**more: Any) -> ImagePlan:
    views = (CodeViewPlan("lib.ni.pdb", GUID), CodeViewPlan("lib.pdb", GUID, portable=True))
    plan = ImagePlan(0x5F7E6161, 0x9000, code_views=views, metadata=b"BSJB" + bytes(0x1800), precompiled=b"RTR\0")
    return replace(plan, **more)


def test_an_image_in_memory_says_that_the_pdb_of_its_entry_is_a_portable_one() -> None:
    image = managed(code_views=(CodeViewPlan("lib.pdb", GUID, portable=True),), precompiled=None)
    modules = [entry("coreclr.dll", 0, version=V8), entry("lib.dll", 1, image)]
    module = modules_of(MinidumpPlan(modules, memory=captured((1, image))))["lib.dll"]
    assert [pdb.format for pdb in module.pdbs] == [PdbFormat.PORTABLE]
    assert module.managed is ManagedCode.IL
    assert not module.is_presumed


def test_an_image_of_precompiled_code_names_both_of_its_pdbs() -> None:
    modules = [entry("coreclr.dll", 0, version=V8), entry("lib.dll", 1, managed())]
    module = modules_of(MinidumpPlan(modules, memory=captured((1, managed()))))["lib.dll"]
    assert [(pdb.key.name, pdb.format) for pdb in module.pdbs] == [
        ("lib.ni.pdb", PdbFormat.NATIVE),
        ("lib.pdb", PdbFormat.PORTABLE),
    ]
    assert module.managed is ManagedCode.READY_TO_RUN


def test_without_the_image_it_is_open_which_kind_of_pdb_its_entry_names() -> None:
    modules = [entry("coreclr.dll", 0, version=V8), entry("lib.dll", 1)]
    assert modules_of(MinidumpPlan(modules))["lib.dll"].is_presumed
    assert not modules_of(MinidumpPlan([entry("app.exe", 0), entry("lib.dll", 1)]))["lib.dll"].is_presumed


@pytest.mark.parametrize(
    ("image", "held", "use"),
    [
        (managed(), 99, None),
        (managed(), -1, ImageUse.METADATA),
        (managed(precompiled=b"NGE\0"), -1, None),
    ],
    ids=["all of it is there", "a page of its metadata is not", "nobody publishes it"],
)
def test_an_image_is_needed_for_metadata_that_a_full_dump_lacks(
    image: ImagePlan, held: int, use: ImageUse | None
) -> None:
    content = memory_bytes(image)
    pages = [content[at : at + 0x1000] for at in range(0, len(content), 0x1000)][:held]
    runtime = runtime_plan(0x5F7E6161, 0x9000, "coreclr.dll", V8)
    memory = [(BASE, memory_bytes(runtime)), (BASE + 0x10_0000, b"".join(pages))]
    modules = [entry("coreclr.dll", 0, version=V8), entry("lib.dll", 1, image)]
    found = modules_of(MinidumpPlan(modules, flags=2, memory64=memory))
    assert found["lib.dll"].needs_image is use


def test_a_runtime_whose_build_a_full_dump_does_not_hold_is_needed_as_a_file() -> None:
    runtime = runtime_plan(0x5F7E6161, 0x9000, "coreclr.dll", None, code_views=(CodeViewPlan("coreclr.pdb", GUID),))
    plan = MinidumpPlan([entry("coreclr.dll", 1)], flags=2, memory64=captured((1, runtime)))
    module = modules_of(plan)["coreclr.dll"]
    assert (module.runtime, module.needs_image) == (Runtime(CORE, X64), ImageUse.METADATA)


# Kernel dumps.


def user_modules(*images: tuple[str, ImagePlan], lost: tuple[str, int] | None = None) -> dict[str, Module]:
    """Return the modules of a process with *images* by name; *lost* is one, and a page of it that is not there."""
    libraries = tuple(
        DriverPlan(f"C:\\net\\{name}", image, BASE + 0x10_0000 * at) for at, (name, image) in enumerate(images)
    )
    plan = kernel_plan(Paging.X64)
    process = ProcessPlan(2000, images[0][0], libraries)
    machine = build_machine(replace(plan, processes=(*plan.processes, process)))
    if lost is not None:
        at = [name for name, _ in images].index(lost[0])
        machine.spaces[2000].page_out(BASE + 0x10_0000 * at + 0x1000 * lost[1])
    view = BytesView(dump_bytes(machine, DumpPlan(DumpKind.FULL)))
    records = read_kernel_dump(view, "a.dmp", user=ProcessSelection(("2000",)))
    return {record.name: record for record in records if isinstance(record, Module) and record.process}


CORECLR = runtime_plan(0x5F7E6162, 0x9000, "coreclr.dll", V8, code_views=(CodeViewPlan("coreclr.pdb", GUID),))
APP = ImagePlan(0x5F7E6163, 0x9000, dll=False, code_views=(CodeViewPlan("app.pdb", GUID),))


def test_processes_of_a_kernel_dump_say_which_build_their_runtime_is() -> None:
    found = user_modules(("app.exe", APP), ("coreclr.dll", CORECLR), ("lib.dll", managed()))
    assert found["coreclr.dll"].runtime == Runtime(CORE, X64, V8)
    assert found["coreclr.dll"].needs_image is None
    assert found["lib.dll"].managed is ManagedCode.READY_TO_RUN
    assert found["lib.dll"].needs_image is None
    assert found["app.exe"].runtime is None


def test_metadata_and_versions_that_were_paged_out_need_the_image() -> None:
    images = (("app.exe", APP), ("coreclr.dll", CORECLR), ("lib.dll", managed()))
    lib = user_modules(*images, lost=("lib.dll", 4))["lib.dll"]
    assert (lib.managed, lib.needs_image) == (ManagedCode.READY_TO_RUN, ImageUse.METADATA)
    coreclr = user_modules(*images, lost=("coreclr.dll", 3))["coreclr.dll"]
    assert (coreclr.runtime, coreclr.needs_image) == (Runtime(CORE, X64), ImageUse.METADATA)


def test_a_program_of_a_process_may_hold_the_runtime() -> None:
    view = (CodeViewPlan("app.pdb", GUID),)
    found = user_modules(("app.exe", single_file(code_views=view)))
    assert found["app.exe"].runtime is not None
    assert found["app.exe"].runtime.debugging_interface == (2, 0x2000)
    paged_out = user_modules(("app.exe", single_file(code_views=view)), lost=("app.exe", 3))
    assert paged_out["app.exe"].runtime == Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True)


def test_a_managed_program_of_the_framework_comes_before_its_runtime() -> None:
    app = managed(dll=False, code_views=(CodeViewPlan("app.pdb", GUID),), precompiled=None)
    clr = replace(CORECLR, versions=version_resource("clr.dll", V48))
    found = user_modules(("app.exe", app), ("clr.dll", clr), lost=("app.exe", 4))
    assert (found["app.exe"].managed, found["app.exe"].needs_image) == (ManagedCode.IL, ImageUse.METADATA)
    assert found["clr.dll"].runtime == Runtime(FRAMEWORK, X64, V48)


LOG = """\
0:000> lmvm coreclr
Browse full module list
start             end                 module name
00007ffb`21bc0000 00007ffb`220a9000   coreclr    (deferred)
    Image path: C:\\Program Files\\dotnet\\shared\\Microsoft.NETCore.App\\8.0.8\\coreclr.dll
    Image name: coreclr.dll
    Timestamp:        Tue Jul 16 17:05:30 2024 (6696B7AA)
    CheckSum:         004DC3B9
    ImageSize:        004E9000
    File version:     8.0.824.36612
    Product version:  8.0.824.36612
"""


def test_a_debuggers_log_says_which_build_a_runtime_is() -> None:
    (module,) = (each for each in read_input(("a.log", LOG.encode())) if isinstance(each, Module))
    assert module.image == ImageKey("coreclr.dll", 0x6696B7AA, 0x4E9000)
    assert runtime_of(module) == Runtime(CORE, version=V8)
    assert module.base is not None


def test_images_as_files_say_it_themselves() -> None:
    content = disk_bytes(runtime_plan(0x5F7E6161, 0x9000, "coreclr.dll", V8, machine=ARM64))
    (module,) = read_module(BytesView(content), "x/coreclr.dll")
    assert module.runtime == Runtime(CORE, ARM64, V8)
    assert module.needs_image is None
    (program,) = (each for each in read_input(("app.exe", disk_bytes(single_file()))) if isinstance(each, Module))
    assert program.runtime is not None
    assert program.runtime.data_access == (1, 0x1000)


@pytest.mark.parametrize("name", ["app.exe", "coreclr.dll"])
def test_a_damaged_program_or_runtime_is_read_like_any_image(name: str) -> None:
    for data in mutants(disk_bytes(single_file(versions=version_resource(name, V8))), 300):
        for record in read_input((name, data)):
            assert isinstance(record, Input | Module | Unreadable)
