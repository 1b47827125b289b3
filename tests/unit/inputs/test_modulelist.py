"""What ``scan --json`` writes, read again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pe import disk_bytes, plan_image
from support.synth.reports import ReportedModule, stackwalk_report

from symcache.cli.app import root
from symcache.errors import InputError
from symcache.formats.pe.managed import ManagedCode
from symcache.formats.pe.version import VersionInfo
from symcache.formats.view import BytesView
from symcache.identity import ImageKey, PdbKey, PortablePdbKey
from symcache.inputs.detect import detect, read_input
from symcache.inputs.modulelist import read_module_list
from symcache.inputs.records import Input, InputKind, Module, Record, Runtime, RuntimeKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

GUID = UUID(int=0x1234)


def modules(records: Sequence[Record]) -> list[Module]:
    return [record for record in records if isinstance(record, Module)]


def scan(*paths: Path) -> bytes:
    result = CliRunner().invoke(root, ["scan", "--json", *map(str, paths)])
    return result.stdout.encode()


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    image, dump, listed = tmp_path / "a.dll", tmp_path / "m.dmp", tmp_path / "list.txt"
    image.write_bytes(disk_bytes(plan_image(ImageKey("a.dll", 0x5F000000, 0x8000), PdbKey("a.pdb", GUID, 1))))
    record = rsds_record(GUID, 2, "m.pdb")
    entry = MinidumpModule(r"C:\m.dll", 0x10000, 0x8000, 0x5F000000, code_view=record)
    dump.write_bytes(build_minidump(MinidumpPlan([entry])))
    listed.write_text(
        "b.dbg/5F0000008000/b.dbg\nc.pdb/00000000000000000000000000001234FFFFFFFF/c.pdb\n", encoding="utf-8"
    )
    return [image, dump, listed]


def test_a_scan_gives_the_modules_that_were_scanned(inputs: list[Path]) -> None:
    data = scan(*inputs)
    assert detect(BytesView(data)) is InputKind.SCAN
    head, *rest = read_input(("scan.json", data))
    assert head == Input("scan.json", InputKind.SCAN)
    scanned = [module for path in inputs for module in modules(list(read_input(str(path))))]
    known = [
        (each.name, each.path, each.base, each.image, each.pdbs, each.dbg, each.problem, each.needs_image)
        for each in scanned
    ]
    assert [
        (each.name, each.path, each.base, each.image, each.pdbs, each.dbg, each.problem, each.needs_image)
        for each in modules(rest)
    ] == known
    assert len(rest) == len(known) == 4


def test_a_scan_that_is_cut_gives_what_it_has_and_says_so(inputs: list[Path]) -> None:
    data = scan(*inputs)
    records = list(read_input(("scan.json", data[: data.rindex(b'"c.pdb"')])))
    assert len(modules(records)) == 3
    assert [record.problem for record in records if isinstance(record, Unreadable)] == [
        "its list 'modules' is damaged or cut short, so that not all of it was read"
    ]


A_PDB = "a.pdb/000000000000000000000000000012341/a.pdb"


def document(**changes: Any) -> bytes:
    module = {"name": "a.dll", "pdbs": [{"index": "a.pdb/000000000000000000000000000012341/a.pdb"}], **changes}
    return json.dumps({"schema": "symcache.modules/1", "modules": [module], "inputs": [{"kind": "image"}]}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"name": None}, id="no name"),
        pytest.param({"pdbs": None}, id="no PDBs"),
        pytest.param({"pdbs": [{"index": "../x/y"}]}, id="a path that leads out"),
        pytest.param({"pdbs": [{"index": "a.dll/5F0000008000/a.dll"}]}, id="an image for a PDB"),
        pytest.param({"pdbs": [1]}, id="a number for a PDB"),
        pytest.param({"pdbs": [{"index": A_PDB, "others": 1}]}, id="a number for what a PDB may be"),
        pytest.param({"pdbs": [{"index": A_PDB, "others": ["a.dll/5F0000008000/a.dll"]}]}, id="an image for that"),
        pytest.param({"image": {"index": "a.dbg/5F0000008000/a.dbg"}}, id="a .dbg file for an image"),
        pytest.param({"dbg": {"index": "a.dll/5F0000008000/a.dll"}}, id="an image for a .dbg file"),
        pytest.param({"base": "zz"}, id="a base of letters"),
        pytest.param({"candidates": None}, id="no list of candidates"),
        pytest.param({"candidates": ["a.dbg/5F0000008000/a.dbg"]}, id="a .dbg file for a candidate"),
        pytest.param({"candidates": [1]}, id="a number for a candidate"),
    ],
)
def test_an_entry_that_names_no_file_is_said(changes: dict[str, Any]) -> None:
    head, problem = read_input(("x.json", document(**changes)))
    assert isinstance(head, Input)
    assert isinstance(problem, Unreadable)
    assert problem.problem.startswith("modules, number 1: ")


RUNTIME = Runtime(RuntimeKind.SINGLE_FILE, 0xAA64, (8, 0, 1, 2), ".chk", data_access=(1, 2), debugging_interface=(3, 4))
VERSION = VersionInfo("ACME", file_version="1.2 (x)", file_numbers=(1, 2, 3, 4), is_private=True)


def test_what_a_scan_says_of_runtimes_versions_and_images_of_unknown_size_is_read_again() -> None:
    candidates = ["a.dll/5F0000008000/a.dll", "a.dll/5F0000009000/a.dll"]
    data = document(runtime=RUNTIME.as_json(), managed="ready-to-run", version=VERSION.as_json(), candidates=candidates)
    (module,) = modules(list(read_input(("x.json", data))))
    assert (module.runtime, module.managed, module.version) == (RUNTIME, ManagedCode.READY_TO_RUN, VERSION)
    assert [each.index for each in module.candidates] == candidates


def test_a_scan_of_a_crash_report_says_what_the_report_does(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    missed = ReportedModule(r"C:\app\lib.dll", "lib.pdb", GUID, 1, 0x5F000000, 0x8000, missing=True)
    found = ReportedModule(r"C:\app\app.exe", "app.pdb", GUID, 2, 0x5F000000, 0x9000, missing=False)
    path.write_text(json.dumps(stackwalk_report([found, missed])), encoding="utf-8")
    again = modules(list(read_input(("scan.json", scan(path)))))
    assert [(each.name, each.is_missed, each.no_debugger) for each in again] == [
        ("app.exe", False, True),
        ("lib.dll", True, True),
    ]


def test_what_a_pdb_may_be_in_truth_is_read_again() -> None:
    index, other = PdbKey("a.pdb", GUID, 1).index, PortablePdbKey("a.pdb", GUID)
    (module,) = modules(list(read_input(("x.json", document(pdbs=[{"index": index, "others": [other.index]}])))))
    assert module.pdbs[0].others == (other,)


@pytest.mark.parametrize("value", [None, 1, [], "x", {}, {"kind": 1}, {"kind": []}, {"kind": "jvm"}])
def test_what_is_no_runtime_is_passed_over(value: object) -> None:
    (module,) = modules(list(read_input(("x.json", document(runtime=value, managed=value, version=value)))))
    assert (module.runtime, module.managed) == (None, None)


def test_what_only_a_lock_file_may_say_is_passed_over() -> None:
    index = "a.pdb/00000000000000000000000000001234FFFFFFFF/a.pdb"
    stated = ["SHA256:" + "a" * 64, "SHA256-file:" + "b" * 64]
    data = document(pdbs=[{"index": index, "format": "portable", "checksums": stated}], needs_image=["x"])
    (module,) = modules(list(read_input(("x.json", data))))
    assert module.pdbs[0].checksums == ("SHA256:" + "a" * 64,)


def read(data: bytes) -> list[Record]:
    return list(read_module_list(BytesView(data), "x.json"))


def read_or_refuse(data: bytes) -> None:
    try:
        read(data)
    except InputError:
        return


def test_hostile_scans_cost_little(record_property: Callable[[str, object], None]) -> None:
    good = json.loads(document())
    good["modules"] *= 20_000
    bad = json.loads(document(pdbs=[1]))
    bad["modules"] *= 20_000
    measure([json.dumps(good).encode(), json.dumps(bad).encode()], read).check(record_property)


FIELDS = ["candidates", "runtime", "managed", "version"]


def test_damage_ends_in_records_or_input_errors() -> None:
    for data in mutants(document(image={"index": "a.dll/5F0000008000/a.dll"}, base="0x10", dbg=None), 300):
        read_or_refuse(data)


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "name", "pdbs", "image", "dbg", "base", "path", "needs_image"]),
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["index", "format", "checksums"]), inner),
        ),
    )
)
def test_any_entry_is_read_or_said(changes: dict[str, Any]) -> None:
    read_or_refuse(document(**changes))
