"""A machine's memory in forms without a crash dump's header: the same modules as from the dump, and what is damaged."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import Target
from support.kernels import PAGINGS, driver, expected, found, kernel_pdb, kernel_plan
from support.parts import need
from support.synth.kerneldump import DumpPlan, dump_bytes
from support.synth.kernelmemory import KERNEL_SYMBOLS, build_machine
from support.synth.memoryimages import (
    avml_bytes,
    elf_bytes,
    lime_bytes,
    qemu_note,
    raw_bytes,
    virtualbox_notes,
    vmware_files,
    write_raw,
)
from support.synth.pagetables import Paging
from support.views import CountingView

from symcache.errors import InputError, UnknownFormat
from symcache.formats.memory import search
from symcache.formats.view import BytesView, FileView
from symcache.inputs.detect import InputOptions, detect, read_input
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.rawmemory import read_raw_memory
from symcache.inputs.records import (
    Input,
    InputKind,
    KernelPdbWanted,
    Module,
    ProcessSelection,
    ProcessSummary,
    Remark,
    Unreadable,
)
from symcache.inputs.versions import read_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from support.synth.kernelmemory import MachineMemory

    from symcache.inputs.records import Record

ALL = ProcessSelection()


@cache
def machine(paging: Paging = Paging.X64, *, debugger_data: bool = True, build: int | None = None) -> MachineMemory:
    plan = kernel_plan(paging, build=build)
    return build_machine(replace(plan, searchable=True, debugger_data=debugger_data))


def read(data: bytes, pdb: Path | None = None) -> list[Record]:
    return take(read_raw_memory(BytesView(data), "a.raw", user=ALL), pdb)


def take(records: Iterable[Record], pdb: Path | None = None) -> list[Record]:
    taken = []
    for record in records:
        if isinstance(record, KernelPdbWanted):
            record.pdb = pdb
        taken.append(record)
    return taken


def what_counts(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if isinstance(record, Module | ProcessSummary)]


def of_dump(source: MachineMemory, pdb: Path | None = None) -> list[Record]:
    view = BytesView(dump_bytes(source, DumpPlan()))
    return what_counts(take(read_kernel_dump(view, "a.dmp", user=ALL), pdb))


def problems(records: Iterable[Record]) -> list[str]:
    return [record.problem for record in records if isinstance(record, Unreadable)]


def names(records: Iterable[Record]) -> list[str]:
    return [record.name for record in records if isinstance(record, Module) and record.process is None]


def details(records: list[Record]) -> dict[str, object]:
    first = records[0]
    assert isinstance(first, Input)
    assert first.kind is InputKind.RAW_MEMORY
    return dict(first.details)


FORMS: dict[str, Callable[[MachineMemory], bytes]] = {
    "raw": raw_bytes,
    "lime": lime_bytes,
    "elf": elf_bytes,
    "elf of QEMU": lambda source: elf_bytes(source, qemu_note(source.kernel.root | 0x2)),
    "elf of VirtualBox": lambda source: elf_bytes(source, virtualbox_notes(source.kernel.root)),
    "elf, 32 bit": lambda source: elf_bytes(source, qemu_note(source.kernel.root), bits=32),
    "elf, many headers": lambda source: elf_bytes(source, many=True),
}


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_modules_and_processes_of_the_dump(paging: Paging, form: str) -> None:
    source = machine(paging)
    data = FORMS[form](source)
    assert detect(BytesView(data)) is InputKind.RAW_MEMORY
    records = read(data)
    assert what_counts(records) == of_dump(source)
    assert problems(records) == []
    assert len(names(records)) >= 7


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE])
def test_avml_gives_the_same(paging: Paging) -> None:
    need("cramjam")
    source = machine(paging)
    records = read(avml_bytes(source))
    assert what_counts(records) == of_dump(source)
    assert problems(records) == []


@pytest.mark.parametrize("given_file", ["vmem", "vmss", "vmsn", "VMEM"])
def test_both_files_of_vmware_lead_to_the_other(given_file: str, tmp_path: Path) -> None:
    source = machine()
    memory, state = vmware_files(source)
    suffix = given_file if given_file.lower() == "vmem" else "vmem"
    (tmp_path / f"Machine.{suffix}").write_bytes(memory)
    (tmp_path / f"Machine.{'vmsn' if given_file == 'vmsn' else 'vmss'}").write_bytes(state)
    records = take(read_input(tmp_path / f"Machine.{given_file}", InputOptions(ALL)))
    assert what_counts(records) == of_dump(source)
    assert details(records)["form"] == "vmware"
    assert problems(records) == []


def test_a_file_opened_beside_another_is_closed_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    with FileView(tmp_path / "a") as view:
        other = view.open_other(tmp_path / "b")
        assert other.read(0, 1) == b"x"
    with pytest.raises(OSError, match="descriptor"):
        other.read(0, 1)


def test_a_saved_state_without_its_memory_says_what_is_missing(tmp_path: Path) -> None:
    _, state = vmware_files(machine())
    (tmp_path / "Machine.vmss").write_bytes(state)
    (unreadable,) = read_input(tmp_path / "Machine.vmss")
    assert isinstance(unreadable, Unreadable)
    assert "put the .vmem of the same name there" in unreadable.problem
    (unreadable,) = read_input(("Machine.vmss", state))  # a name alone leads to no file
    assert isinstance(unreadable, Unreadable)


def test_a_vmem_alone_is_flat(tmp_path: Path) -> None:
    source = machine()
    (tmp_path / "Machine.vmem").write_bytes(raw_bytes(source))
    records = take(read_input(tmp_path / "Machine.vmem", InputOptions(ALL)))
    assert what_counts(records) == of_dump(source)
    assert details(records)["form"] == "raw"


def test_a_damaged_state_leaves_a_flat_vmem(tmp_path: Path) -> None:
    source = machine()
    (tmp_path / "Machine.vmem").write_bytes(raw_bytes(source))
    (tmp_path / "Machine.vmss").write_bytes(vmware_files(source)[1][:200])
    records = take(read_input(tmp_path / "Machine.vmem", InputOptions(ALL)))
    assert what_counts(records) == of_dump(source)
    assert [problem for problem in problems(records) if "its saved state cannot be read" in problem]


def test_in_a_folder_a_snapshot_without_memory_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.vmsn").write_bytes(vmware_files(machine())[1])
    (folder,) = read_input(tmp_path)
    assert isinstance(folder, Input)


def test_a_folder_gives_what_its_memory_images_hold(tmp_path: Path) -> None:
    source = machine()
    (tmp_path / "a.lime").write_bytes(lime_bytes(source))
    memory, state = vmware_files(source)
    (tmp_path / "b.vmss").write_bytes(state)
    (tmp_path / "b.vmem").write_bytes(memory)
    records = take(read_input(tmp_path, InputOptions(None)))
    kernel = [module for module in of_dump(source) if isinstance(module, Module) and module.process is None]
    assert [record for record in records if isinstance(record, Module)] == kernel * 2
    assert problems(records) == []


@pytest.mark.parametrize("paging", PAGINGS)
def test_a_kernel_in_large_pages_is_found(paging: Paging) -> None:
    source = build_machine(replace(kernel_plan(paging), searchable=True, large_kernel=True))
    assert what_counts(read(raw_bytes(source))) == of_dump(source)


def test_the_kernel_for_five_levels_of_page_tables_has_a_name_of_its_own() -> None:
    plan = kernel_plan(Paging.LA57)
    nt = replace(plan.drivers[0], image=driver("nt", "ntkrla57.pdb", Paging.LA57, size=0x100000).image)
    source = build_machine(replace(plan, drivers=(nt, *plan.drivers[1:]), searchable=True))
    assert what_counts(read(raw_bytes(source))) == of_dump(source)


@pytest.mark.parametrize("paging", PAGINGS)
def test_without_debugger_data_the_lists_are_found_in_the_kernels_image(paging: Paging) -> None:
    source = machine(paging, debugger_data=False)
    records = read(raw_bytes(source))
    assert what_counts(records) == of_dump(source)
    assert details(records)["list_found_in"] == "the kernel's image"


@pytest.mark.parametrize("paging", PAGINGS)
def test_the_kernels_pdb_says_where_its_lists_and_what_was_unloaded_are(paging: Paging, tmp_path: Path) -> None:
    source = machine(paging, debugger_data=False)
    pdb = tmp_path / "nt.pdb"
    pdb.write_bytes(kernel_pdb(source))
    records = read(raw_bytes(source), pdb)
    assert what_counts(records) == of_dump(machine(paging), pdb)
    assert [record.name for record in records if isinstance(record, Module) and record.unloaded]


def damaged(source: MachineMemory, *writes: tuple[int, bytes]) -> bytes:
    """Return a raw image in which other bytes lie at some addresses of the kernel."""
    data = bytearray(raw_bytes(source))
    for address, new in writes:
        physical = source.kernel.translate(address)
        assert physical is not None
        data[physical : physical + len(new)] = new
    return bytes(data)


def without_back_links(source: MachineMemory) -> bytes:
    """Return an image whose list of modules cannot be told from its links alone: both ends are torn."""
    back = (0x1234567).to_bytes(8, "little")
    return damaged(source, (source.entries[0] + 8, back), (source.entries[-1], back))


def test_with_the_pdb_a_torn_list_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    source = machine(debugger_data=False)
    pdb = tmp_path / "nt.pdb"
    pdb.write_bytes(kernel_pdb(source))
    records = read(without_back_links(source), pdb)
    assert names(records)[:6] == [driver.name for driver in source.plan.drivers][:6]
    assert any("the list of modules is damaged" in problem for problem in problems(records))


@pytest.mark.parametrize("debugger_data", [True, False])
@pytest.mark.parametrize("symbols", [(), ("PsActiveProcessHead",), tuple(KERNEL_SYMBOLS)])
def test_without_lists_images_are_searched_for(debugger_data: bool, symbols: tuple[str, ...], tmp_path: Path) -> None:
    source = machine(debugger_data=debugger_data)
    gone = bytes(8)
    data = damaged(source, (source.loaded_modules_va, gone * 2), *((entry, gone * 2) for entry in source.entries))
    pdb = tmp_path / "nt.pdb"
    pdb.write_bytes(kernel_pdb(source, symbols=symbols))
    records = read(data, pdb)
    (problem,) = [problem for problem in problems(records) if "images were searched for" in problem]
    assert ("nt's PDB is not there" in problem) == ("PsLoadedModuleList" not in symbols)
    keys = {pdb.key.index for record in records if isinstance(record, Module) for pdb in record.pdbs}
    mapped = [driver for driver in source.plan.drivers if not driver.in_session]
    assert {index for driver in mapped for index in expected(driver)[2]} <= keys
    assert names(records)[0] == "ntoskrnl.exe"
    assert {"hal", "fltMgr", "secdrv"} <= set(names(records))
    nt, *others = (record for record in records if isinstance(record, Module) and record.process is None)
    assert found(nt) == expected(source.plan.drivers[0])
    assert {module.image for module in others} == {None}


def test_a_looped_list_is_reported_and_not_followed_for_ever() -> None:
    source = machine()
    loop = source.entries[2].to_bytes(8, "little")
    records = read(damaged(source, (source.entries[4], loop)))
    assert names(records)[:7] == [driver.name for driver in source.plan.drivers]
    assert any("leads back to" in problem for problem in problems(records))


def test_of_a_list_that_is_torn_at_both_ends_the_rest_is_found_by_its_images(tmp_path: Path) -> None:
    source = machine()
    torn = (0x1234567).to_bytes(8, "little")
    ends = [(source.entries[1], torn), (source.entries[5] + 8, torn)]
    records = read(damaged(source, *ends))
    assert {"ntoskrnl.exe", "hal.dll", "dump_stornvme.sys", "win32k.sys", "fltMgr", "secdrv"} <= set(names(records))
    keys = {pdb.key.index for record in records if isinstance(record, Module) for pdb in record.pdbs}
    assert {index for driver in source.plan.drivers for index in expected(driver)[2]} <= keys
    assert any("images that are not in the list were found" in problem for problem in problems(records))


def test_a_torn_page_costs_what_lies_in_it() -> None:
    source = machine()
    physical = source.kernel.translate(source.bases[3])
    assert physical is not None
    data = bytearray(raw_bytes(source))
    data[physical : physical + 0x1000] = bytes(0x1000)
    records = read(bytes(data))
    assert names(records)[:7] == [driver.name for driver in source.plan.drivers]
    module = next(record for record in records if isinstance(record, Module) and record.name == "secdrv.sys")
    assert module.problem is not None
    assert not module.pdbs


def test_registers_that_lead_elsewhere_are_passed_over() -> None:
    source = machine()
    process = source.spaces[664].root
    records: list[Record] = []
    for wrong in (0, 0x123000, 0xFFFFFFFFFFFFF000, source.kernel.translate(source.bases[0]) or 0):
        records = read(elf_bytes(source, qemu_note(wrong) + qemu_note(process, 0xFFFFF80000000000)))
        assert what_counts(records)[:7] == of_dump(source)[:7]
    assert details(records)["found_by"] == "a processor's registers"
    assert details(records)["directory_table_base"] == f"{process:#x}"


def test_the_start_block_of_processors_gives_root_and_kernel() -> None:
    plan = replace(kernel_plan(), searchable=True, low_stub=True)
    source = build_machine(plan)
    for space in source.spaces.values():  # tables that do not map themselves
        source.physical.write(space.root + 0x1ED * 8, bytes(8))
    records = read(raw_bytes(source))
    assert details(records)["found_by"] == "the start block of its processors"
    assert names(records)[:7] == [driver.name for driver in plan.drivers]


def test_without_page_tables_the_kernel_is_found_by_its_record() -> None:
    source = build_machine(replace(kernel_plan(), large_kernel=True))  # in which nothing leads to the tables
    records = read(raw_bytes(source))
    (nt,) = what_counts(records)
    assert isinstance(nt, Module)
    assert found(nt) == expected(source.plan.drivers[0])
    assert nt.base is None
    assert problems(records) == [
        "no page tables of Windows were found: only the kernel was, by its code view record",
    ]


@pytest.mark.parametrize("large", [True, False])
def test_the_record_alone_names_the_pdb_where_the_header_is_gone(large: bool) -> None:
    source = build_machine(replace(kernel_plan(), large_kernel=large))
    (nt,) = what_counts(read(damaged(source, (source.bases[0], bytes(0x400)))))
    assert isinstance(nt, Module)
    assert nt.image is None
    assert found(nt)[2] == expected(source.plan.drivers[0])[2]


def test_a_kernel_that_is_not_found_leaves_the_images(tmp_path: Path) -> None:
    source = machine()
    records = read(damaged(source, (source.bases[0], bytes(0x400))))
    assert details(records)["kernel_base"] is None
    assert any("nor the kernel's image" in problem for problem in problems(records))
    assert {"hal", "fltMgr", "secdrv"} <= set(names(records))
    assert not any(isinstance(record, KernelPdbWanted) for record in records)


@pytest.mark.parametrize("form", ["raw", "lime", "elf"])
def test_a_cut_image_gives_what_is_there_and_says_so(form: str) -> None:
    source = machine()
    data = FORMS[form](source)
    records = read(data[:-0x9000])
    assert names(records)[:7] == [driver.name for driver in source.plan.drivers]
    assert form == "raw" or any("cut short" in problem for problem in problems(records))
    assert form == "raw" or details(records)["cut_short"] is True


def test_old_windows_says_no_build_and_its_loader_entries_have_no_stamps() -> None:
    source = machine(build=7601)
    records = read(raw_bytes(source))
    assert details(records)["build"] is None
    assert details(records)["version"] == "6.1"
    assert what_counts(records) == of_dump(source)


def test_details_say_which_windows_it_is_and_how_it_was_found() -> None:
    said = details(read(raw_bytes(machine())))
    assert said["machine"] == "x64"
    assert said["build"] == 19041
    assert said["version"] == "10.0.19041"
    assert said["product"] == "workstation"
    assert said["system_root"] == "C:\\WINDOWS"
    assert said["uptime_s"] == 3600
    assert said["time"] == "2021-02-21T01:38:22.987765+00:00"
    assert said["found_by"] == "page tables that map themselves"
    assert said["list_found_in"] == "the kernel's debugger data"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bytes(2 << 20), "nothing but zeros"),
        (bytes(0x1000) + b"\x5a" * (2 << 20), "no Windows was found in 2 MiB"),
        (bytes(0x1000) + b"Linux version 6.1.0 (x@y)".ljust(2 << 20, b"\1"), "of Linux"),
        (bytes(0x1000) + b"Darwin Kernel Version 23".ljust(2 << 20, b"\1"), "of macOS"),
    ],
    ids=["zeros", "something", "Linux", "macOS"],
)
def test_memory_without_windows_is_told_as_that(data: bytes, says: str) -> None:
    assert detect(BytesView(data)) is InputKind.RAW_MEMORY
    with pytest.raises(UnknownFormat, match=says):
        read(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bytes(5000), "begins with zeros"),
        (bytes((2 << 20) + 1), "begins with zeros"),
        (bytes(510) + b"\x55\xaa" + bytes(2 << 20), "begins with zeros"),
        (bytes(512) + b"EFI PART".ljust(2 << 20, b"\0"), "begins with zeros"),
        (b"\x5a\xa5\x01" * (1 << 20), "of no known kind"),
        (b"\x7fELF\2\1\1".ljust(100, b"\0"), "no core dump"),
        (b"\x7fVirtualBox SavedState V2.0\n", "dumpvmcore"),
        (b"\x14\x20\x28\x01", "LiveKd"),
        (b"QEVM\0\0\0\3", "dump-guest-memory"),
        (b"LibvirtQemudSave", "--memory-only"),
        (b"hibr", "convert it to a Windows crash dump"),
        (b"HIBR", "convert it to a Windows crash dump"),
        (b"wake", "convert it to a Windows crash dump"),
        (b"RSTR", "convert it to a Windows crash dump"),
    ],
)
def test_what_is_no_memory_image_is_refused_with_advice(data: bytes, says: str) -> None:
    with pytest.raises(UnknownFormat, match=says):
        detect(BytesView(data))


@pytest.mark.parametrize("vector", [b"\x53\xff\x00\xf0", bytes(4)], ids=["firmware", "UEFI"])
def test_a_raw_image_in_an_archive_is_known_by_its_whole_length(vector: bytes) -> None:
    data = vector * 256 + b"\x5a\xa5\x01\x02" * 15_104 + raw_bytes(machine())[61_440:]
    wanted = [record.image for record in read_input(("vm.raw", data)) if isinstance(record, Module)]
    assert wanted
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vm.raw", data)
    for packed in (zipped.getvalue(), gzip.compress(data)):
        records = read_input(("case", packed))
        assert [record.image for record in records if isinstance(record, Module)] == wanted


def test_memory_that_begins_with_many_zeros_is_no_text(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "case.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vm.raw", raw_bytes(machine()))
    assert any(isinstance(record, Module) for record in read_input(tmp_path))  # texts in archives of folders are not


def test_a_long_search_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_TOLD_BYTES", 4 << 20)
    foreign = b"\x53\xff\x00\xf0" * (10 << 18)
    *remarks, last = read_input(("vm.raw", foreign))
    assert [each.text for each in remarks if isinstance(each, Remark)] == [
        f"vm.raw: no page tables of Windows in {searched} MiB so far; the search goes on" for searched in (4, 8)
    ]
    assert isinstance(last, Unreadable)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vm.raw", foreign)
    (found,) = (each for each in read_input(("case.zip", packed.getvalue())) if isinstance(each, Unreadable))
    assert "no Windows was found" in found.problem


def test_versions_are_read_from_memory(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(raw_bytes(machine()))
    modules = [record for record in read_input(tmp_path / "a.raw") if isinstance(record, Module)]
    assert read_versions(tmp_path / "a.raw", modules) == {}  # these drivers say nothing, and are found


def test_a_large_page_outside_of_the_image_is_not_walked_through() -> None:
    source = build_machine(replace(kernel_plan(), searchable=True))
    source.kernel.map_large(0xFFFFF80040000000, 30)
    data = damaged(source, (source.bases[0], bytes(0x400)))  # so that all that is mapped is searched
    assert source.kernel.translate(0xFFFFF80040000000) == 1 << 30
    target = Target("large page", read, lambda: [data], (), most_calls=(150_000, 0), most_bytes=(64 << 20, 0))
    assert target.measure(data).calls > 0


def test_of_a_large_image_little_is_read(tmp_path: Path) -> None:
    source = build_machine(replace(kernel_plan(), searchable=True, first_pfn=0x1A0))
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        write_raw(file, source, size=4 << 30)
    with FileView(path) as file:
        view = CountingView(file)
        records = take(read_raw_memory(view, "large.raw", user=ALL))
    assert what_counts(records) == of_dump(source)
    assert view.read_bytes < 16 << 20


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="holes cannot be told from zeros here")
def test_holes_of_a_sparse_image_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.raw"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with FileView(path) as view, pytest.raises(UnknownFormat, match="nothing but zeros"):
        take(read_raw_memory(view, "empty.raw"))


@given(st.data())
def test_a_damaged_image_raises_nothing_but_input_errors(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["lime", "elf of QEMU", "raw", "elf, 32 bit"]))
    paging = data.draw(st.sampled_from([Paging.X64, Paging.PAE, Paging.ARM64]))
    image = bytearray(_seed(form, paging))
    for _ in range(data.draw(st.integers(1, 8))):
        near = data.draw(st.sampled_from([0x200, 0x4000, len(image)]))
        at = data.draw(st.integers(0, min(near, len(image)) - 1))
        new = data.draw(st.binary(min_size=1, max_size=16))
        image[at : at + len(new)] = new
    end = data.draw(st.sampled_from([len(image), len(image) // 2, 0x300]))
    with suppress(InputError):
        records = read(bytes(image[:end]))
        assert isinstance(records[0], Input)


@cache
def _seed(form: str, paging: Paging) -> bytes:
    return FORMS[form](machine(paging))


def test_a_raw_image_from_a_pipe_is_read(tmp_path: Path) -> None:
    source = machine()
    records = take(read_input("-", InputOptions(ALL), stdin=io.BytesIO(lime_bytes(source))))
    assert what_counts(records) == of_dump(source)
