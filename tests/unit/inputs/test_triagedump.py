from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from support.kernels import expected, found, kernel_plan
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.kernelmemory import MachineMemory, build_machine
from support.synth.pagetables import Paging
from support.synth.triagedump import TriagePlan, triage_bytes

from symcache.errors import InputError, TruncatedInput
from symcache.formats.view import BytesView, FileView
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import ImageUse, Input, InputKind, Module, ProcessSelection, Unreadable

if TYPE_CHECKING:
    from symcache.inputs.records import Record

WIDTHS = [Paging.X64, Paging.ARM64, Paging.X86, Paging.PAE]


@cache
def machine(paging: Paging = Paging.X64) -> MachineMemory:
    return build_machine(kernel_plan(paging))


def read(dump: bytes) -> list[Record]:
    return list(read_kernel_dump(BytesView(dump), "mini.dmp", user=ProcessSelection()))


def modules(records: list[Record]) -> list[Module]:
    return [record for record in records if isinstance(record, Module)]


@pytest.mark.parametrize("paging", WIDTHS)
def test_drivers_have_an_image_key_and_a_problem(paging: Paging) -> None:
    source = machine(paging)
    records = read(triage_bytes(source))
    assert isinstance(records[0], Input)
    assert records[0].kind is InputKind.TRIAGE_DUMP
    assert records[0].details["build_lab"] == source.plan.build_lab
    loaded = [module for module in modules(records) if not module.unloaded]
    assert [found(module) for module in loaded] == [(*expected(each)[:2], ()) for each in source.plan.drivers]
    assert [module.base for module in loaded] == source.bases
    assert {module.needs_image for module in loaded} == {ImageUse.SYMBOLS}
    assert all(module.problem is not None and "PDB" in module.problem for module in loaded)
    assert [module.name for module in modules(records) if module.unloaded] == ["dam.sys", "dump_storpor"]


@pytest.mark.parametrize("paging", WIDTHS)
def test_a_stamp_of_zero_is_no_identity(paging: Paging) -> None:
    records = read(triage_bytes(machine(paging), TriagePlan(without_header=frozenset([1, 3]))))
    for index in (1, 3):
        module = modules(records)[index]
        assert (module.image, module.pdbs) == (None, ())
        assert module.problem is not None
        assert "time stamp is 0" in module.problem


def test_pieces_of_an_image_give_its_pdb() -> None:
    records = read(triage_bytes(machine(), TriagePlan(with_image=frozenset([1, 2]), without_header=frozenset([2]))))
    assert [found(module) for module in modules(records)[1:3]] == [
        expected(each) for each in machine().plan.drivers[1:3]
    ]
    assert {module.needs_image for module in modules(records)[1:3]} == {ImageUse.CODE}


def test_a_few_bytes_of_a_header_give_no_more_than_the_list() -> None:
    records = read(triage_bytes(machine(), TriagePlan(header_bytes_only=frozenset([1]))))
    assert found(modules(records)[1]) == (*expected(machine().plan.drivers[1])[:2], ())


def test_a_cut_dump_gives_the_names_that_are_left() -> None:
    dump = triage_bytes(machine())
    at = dump.index("secdrv".encode("utf-16-le"))
    records = read(dump[:at])
    loaded = [module for module in modules(records) if not module.unloaded]
    assert [module.name for module in loaded[:3]] == ["ntoskrnl.exe", "hal.dll", "FLTMGR.SYS"]
    assert all(module.name.startswith("unknown_") and module.image is None for module in loaded[3:])
    assert any(isinstance(record, Unreadable) and "cut short" in record.problem for record in records)


@pytest.mark.parametrize(("at", "value"), [(0x38, 0x400000), (0x38, 0xFFFFF80000400001), (0x48, 0)])
def test_a_damaged_entry_makes_no_key(at: int, value: int) -> None:
    dump = bytearray(triage_bytes(machine()))
    entry = int.from_bytes(dump[0x2030:0x2034], "little") + 2 * 0x90
    dump[entry + at : entry + at + 8] = value.to_bytes(8, "little")
    module = modules(read(bytes(dump)))[2]
    assert (module.name, module.image) == ("FLTMGR.SYS", None)
    assert "damaged" in str(module.problem)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("kernel-triage"))
def test_real_triage_dumps_match_what_other_tools_say(name: str) -> None:
    facts = truth()[name]
    with FileView(corpus / name) as view:
        records = list(read_kernel_dump(view, name))
    (dump, *rest) = records
    assert isinstance(dump, Input)
    assert dump.details["build"] == facts["build"]
    assert dump.details["build_lab"] == facts["build_lab"]
    assert dump.details["processors"] == facts["processors"]
    assert dump.details["bugcheck_code"] == facts["bugcheck"].lower()
    assert dump.details["bugcheck_parameters"] == facts["bugcheck_args"]
    assert dump.details["data_blocks"] == facts["data_blocks"]
    assert dump.details["size_of_dump"] == facts["size_of_dump"]
    assert dump.details["attributes"] is None
    assert not [record for record in rest if isinstance(record, Unreadable)]
    loaded = [module for module in modules(records) if not module.unloaded]
    assert [(module.name, module.path, f"{module.base:x}", module.image and module.image.id) for module in loaded] == [
        (each["name"], each["path"], each["base"], each["image_key"]) for each in facts["modules"]
    ]
    unloaded = [module for module in modules(records) if module.unloaded]
    assert [(module.name, f"{module.base:x}", module.image) for module in unloaded] == [
        (each["name"], each["base"], None) for each in facts["unloaded_modules"]
    ]


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("kernel-triage-bad"))
def test_real_cut_triage_dumps_are_said_to_be_cut(name: str) -> None:
    with FileView(corpus / name) as view:
        try:
            problems = [record.problem for record in read_kernel_dump(view, name) if isinstance(record, Unreadable)]
        except TruncatedInput as error:
            problems = [str(error)]
    assert any("cut short" in problem or "ends before" in problem for problem in problems)


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE])
def test_damage_never_gives_another_error(paging: Paging) -> None:
    seed = triage_bytes(machine(paging), TriagePlan(with_image=frozenset([1])))
    for dump in mutants(seed, 500, rng_seed=paging.pointer_size, hot=0x3000):
        try:
            read(dump)
        except InputError:
            continue
