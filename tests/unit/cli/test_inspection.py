from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.cab import SynthFolder, build_cabinet
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.pdb import NativePdbSpec, PublicSymbol, StructureLayout, make_compressed_pdb, make_pdb, make_pdb2
from support.synth.pe import dbg_bytes, disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes

from symcache.cli.inspect import _write
from symcache.errors import UsageError
from symcache.identity import ImageKey, PdbKey
from symcache.warm.inspect import DeepWish, Filed, Inspection, inspect_file

if TYPE_CHECKING:
    from collections.abc import Callable

GUID = UUID("7578144C-39C4-4683-94EF-84F01549113A")
PDB = PdbKey("a.pdb", GUID, 3)
IMAGE = ImageKey("a.dll", 0x5F000001, 0x3000)
NOTHING = DeepWish()


def put(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def cabinet(*files: tuple[str, bytes]) -> bytes:
    return build_cabinet([SynthFolder(files)])


def at(root: Path, index: str) -> Path:
    return root.joinpath(*index.split("/"))


def problems(found: Inspection) -> list[str]:
    return [text for text, _ in found.problems]


def test_a_pdb_tells_its_place_in_a_store(tmp_path: Path) -> None:
    found = inspect_file(put(tmp_path / "a.pdb", make_pdb(NativePdbSpec(GUID, 3, stripped=True))), NOTHING)
    assert (found.kind, found.index, found.details["symbols"]) == ("pdb", PDB.index, "public")
    assert found.is_healthy
    assert found.filed is None


def test_an_image_tells_its_place_and_the_pdb_it_names(tmp_path: Path) -> None:
    found = inspect_file(put(tmp_path / "a.dll", disk_bytes(plan_image(IMAGE, PDB))), NOTHING)
    assert (found.kind, found.index, found.names) == ("image", IMAGE.index, [PDB.index])
    assert found.is_healthy


TEXTS = {
    "CompanyName": "Example\x1b[31m Ltd",
    "FileDescription": "Filter",
    "FileVersion": "01.2.3.4 (lab)",
    "ProductVersion": "Spring",
}


def with_version(content: bytes | None = None) -> bytes:
    plan = VersionPlan({"040904b0": TEXTS}, flags=0x28)
    content = version_bytes(plan) if content is None else content
    return disk_bytes(replace(plan_image(replace(IMAGE, size_of_image=0x4000), PDB), versions=((1, 0x409, content),)))


def test_an_image_tells_who_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path / "a.dll", with_version())
    found = inspect_file(path, NOTHING)
    assert found.version is not None
    assert found.is_healthy
    document = found.as_json()["version"]
    assert (document["company"], document["product"], document["file_numbers"]) == (
        TEXTS["CompanyName"], None, "1.2.3.4",
    )  # fmt: skip
    _write(found)
    rows = capsys.readouterr().out
    for label, text in (
        ("company", "Example\\x1b[31m Ltd"),
        ("description", "Filter"),
        ("file version", "01.2.3.4 (lab)"),
        ("product version", "Spring (5.6.7.8)"),
        ("kind of build", "private, special"),
    ):
        assert f"\n{label:17}{text}\n" in rows
    assert "original name" not in rows


def test_a_cabinet_tells_who_made_the_image_in_it(tmp_path: Path) -> None:
    cabinet = build_cabinet([SynthFolder([("a.dll", with_version())])])
    found = inspect_file(put(tmp_path / "a.dl_", cabinet), NOTHING)
    assert found.version is not None
    assert found.version.company == TEXTS["CompanyName"]


def test_an_image_without_a_version_or_with_a_damaged_one_is_healthy(tmp_path: Path) -> None:
    plain = inspect_file(put(tmp_path / "a.dll", disk_bytes(plan_image(IMAGE, PDB))), NOTHING)
    assert plain.as_json()["version"] is None
    assert plain.is_healthy
    data = bytearray(with_version())
    entry = 0x98 + 112 + 8 * 2  # of the resources, in the data directories
    data[entry : entry + 4] = (0x7FFFFFF0).to_bytes(4, "little")
    damaged = inspect_file(put(tmp_path / "b.dll", bytes(data)), NOTHING)
    assert (damaged.version, damaged.is_healthy) == (None, True)
    (note,) = damaged.details["notes"]
    assert note.startswith("its version resource cannot be read: address 0x7fffff")


def test_a_dbg_file_tells_its_place_and_the_pdb_it_names(tmp_path: Path) -> None:
    found = inspect_file(put(tmp_path / "a.dbg", dbg_bytes(plan_image(IMAGE, PDB))), NOTHING)
    assert (found.index, found.names) == ("a.dbg/5F0000013000/a.dbg", [PDB.index])


def test_a_pdb_2_and_a_new_container_are_told(tmp_path: Path) -> None:
    assert inspect_file(put(tmp_path / "a.pdb", make_pdb2(0x12345678, 10)), NOTHING).index == "a.pdb/12345678a/a.pdb"
    found = inspect_file(put(tmp_path / "b.pdb", make_compressed_pdb(NativePdbSpec(GUID))), NOTHING)
    assert found.details["container"] == "msfz"
    assert "MSFZ container: debuggers before 2024 cannot read it" in found.details["notes"]


def test_a_kernel_dump_tells_its_crash_and_counts_its_modules(tmp_path: Path) -> None:
    machine = build_machine(kernel_plan())
    found = inspect_file(put(tmp_path / "m.dmp", dump_bytes(machine, DumpPlan())), NOTHING)
    assert (found.kind, found.details["bugcheck_name"]) == ("kernel-dump", "MANUALLY_INITIATED_CRASH")
    assert (found.modules, found.identified, found.unloaded) == (16, 14, 2)
    assert "lsass.exe" in [process.name for process in found.processes]
    assert found.details["fuller_dumps"] == []
    assert found.is_healthy
    assert found.index is None


@pytest.mark.parametrize(("kind", "count"), [(DumpKind.BITMAP_KERNEL, 1), (DumpKind.HEADER, 1), (DumpKind.FULL, 0)])
def test_a_kernel_dump_tells_which_dump_would_hold_more(tmp_path: Path, kind: DumpKind, count: int) -> None:
    dump = dump_bytes(build_machine(kernel_plan()), DumpPlan(kind))
    found = inspect_file(put(tmp_path / "m.dmp", dump), NOTHING)
    lines = found.details["fuller_dumps"]
    assert len(lines) == count
    assert all("CrashDumpEnabled 1" in line and "page file" in line for line in lines)


def test_a_dump_that_is_cut_short_is_not_healthy(tmp_path: Path) -> None:
    data = dump_bytes(build_machine(kernel_plan()), DumpPlan())
    found = inspect_file(put(tmp_path / "m.dmp", data[:-5000]), NOTHING)
    assert found.details["cut_short"] is True
    assert "cut short" in problems(found)[-1]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"<html>", "a web page"),
        (bytes(5000), "begins with zeros"),
        (make_pdb(NativePdbSpec(GUID))[:9000], "the file has 9000 bytes"),
        (disk_bytes(plan_image(IMAGE))[:1400], "cut short"),
        (b"MSCF" + bytes(100), "cabinet"),
    ],
    ids=["empty", "page", "zeros", "cut pdb", "cut image", "cabinet"],
)
def test_what_is_damaged_is_said_in_one_line(data: bytes, says: str, tmp_path: Path) -> None:
    found = inspect_file(put(tmp_path / "a.bin", data), NOTHING)
    assert not found.is_healthy
    assert says in problems(found)[0]


def test_a_damaged_pdb_is_still_known_as_one(tmp_path: Path) -> None:
    assert inspect_file(put(tmp_path / "a.pdb", make_pdb(NativePdbSpec(GUID))[:9000]), NOTHING).kind == "pdb"


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    (problem,) = problems(inspect_file(str(tmp_path / "none"), NOTHING))
    assert problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert problems(inspect_file(str(tmp_path / "pipe"), NOTHING)) == ["not a regular file"]


def test_of_very_many_problems_the_first_are_kept(tmp_path: Path) -> None:
    good = f"{PDB.index}\n" * 40
    found = inspect_file(put(tmp_path / "list", (good + "no index at all\n" * 250).encode()), NOTHING)
    assert (len(found.problems), found.more_problems, found.modules) == (100, 150, 40)


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "cabinet"])
def test_a_file_in_its_place_is_filed_right(compressed: bool, tmp_path: Path) -> None:
    data = make_pdb(NativePdbSpec(GUID, 3))
    path = at(tmp_path, PDB.index)
    if compressed:
        path, data = path.with_name("a.pd_"), cabinet(("whatever.pdb", data))
    found = inspect_file(put(path, data), NOTHING)
    assert found.filed == Filed(PDB.index)
    assert found.index == PDB.index
    assert found.is_healthy


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (replace(PDB, age=4), "another age: 3, not 4"),
        (replace(PDB, guid=UUID(int=1)), f"another PDB: {GUID.hex.upper()}"),
        (ImageKey("a.dll", 1, 2), "not a PE image"),
    ],
    ids=["age", "GUID", "kind"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "cabinet"])
def test_a_file_in_the_place_of_another_is_misfiled(
    key: PdbKey | ImageKey, says: str, compressed: bool, tmp_path: Path
) -> None:
    data = make_pdb(NativePdbSpec(GUID, 3))
    path = at(tmp_path, key.index)
    if compressed:
        path, data = path.with_name(key.name[:-1] + "_"), cabinet(("a.pdb", data))
    found = inspect_file(put(path, data), NOTHING)
    assert found.filed is not None
    assert found.filed.index == key.index
    assert found.filed.problem is not None
    assert says in found.filed.problem
    assert not found.is_healthy


def test_a_new_container_belongs_one_folder_deeper(tmp_path: Path) -> None:
    data = make_compressed_pdb(NativePdbSpec(GUID, 3))
    folder = at(tmp_path, PDB.index).parent
    assert inspect_file(put(folder / "msfz0" / "a.pdb", data), NOTHING).filed == Filed(PDB.index)
    wrong = inspect_file(put(folder / "a.pdb", data), NOTHING).filed
    assert wrong is not None
    assert "MSFZ" in str(wrong.problem)
    other = at(tmp_path, replace(PDB, age=9).index).parent / "msfz0" / "a.pdb"
    assert not inspect_file(put(other, data), NOTHING).is_healthy


def test_folders_that_only_look_like_a_store_are_none(tmp_path: Path) -> None:
    data = make_pdb(NativePdbSpec(GUID))
    assert inspect_file(put(tmp_path / "a.pdb" / "build" / "a.pdb", data), NOTHING).filed is None


def test_a_cabinet_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    data = cabinet(("a.dll", disk_bytes(plan_image(IMAGE, PDB))))
    found = inspect_file(put(tmp_path / "a.dl_", data), NOTHING)
    assert (found.kind, found.index, found.cabinet and found.cabinet[0]) == ("image", IMAGE.index, "a.dll")


@pytest.mark.parametrize("name", ["..\\..\\a.pdb", "/etc/a.pdb", "con", "", "a:b", "..", "x\x1b.pdb"])
def test_the_name_in_a_cabinet_chooses_no_place(name: str, tmp_path: Path) -> None:
    data = cabinet((name, make_pdb(NativePdbSpec(GUID))))
    found = inspect_file(put(tmp_path / "in" / "a.pd_", data), NOTHING)
    assert found.kind == "pdb"
    assert found.is_healthy
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.pd_"]


def test_a_cabinet_that_would_fill_the_disk_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.pd_", cabinet(("a.pdb", bytes(100_000))))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=50_000))
    assert problems(inspect_file(path, NOTHING)) == ["expands to 100000 bytes, more than the limit of 50000"]


def test_a_cabinet_of_several_files_is_none_of_a_store(tmp_path: Path) -> None:
    pdb = make_pdb(NativePdbSpec(GUID))
    found = inspect_file(put(tmp_path / "x.cab", cabinet(("a.pdb", pdb), ("b.pdb", pdb))), NOTHING)
    assert problems(found) == ["the cabinet holds 2 files; debuggers expect one"]


SPEC = NativePdbSpec(
    GUID,
    structures={"_POINT": StructureLayout(16, {"x": 0, "y": 8}), "_LIST": StructureLayout(8, {"next": 0})},
    publics=(PublicSymbol("_main", 0x40, function=True), PublicSymbol("_data", 0x10, 2)),
)


def test_a_deep_look_lists_streams_symbols_and_types(tmp_path: Path) -> None:
    pytest.importorskip("pdbparse", reason="pdbparse is not installed")
    found = inspect_file(put(tmp_path / "a.pdb", make_pdb(SPEC)), DeepWish(streams=True, publics=5, types=1))
    assert found.deep["streams"][2] > 56
    assert {(each["name"], each["segment"], each["offset"]) for each in found.deep["publics"]} == {
        ("_main", 1, 0x40),
        ("_data", 2, 0x10),
    }
    assert len(found.deep["types"]) == 1
    assert inspect_file(str(tmp_path / "a.pdb"), DeepWish(publics=1)).deep.keys() == {"publics"}


def test_without_pdbparse_a_deep_look_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    path = put(tmp_path / "a.pdb", make_pdb(SPEC))
    monkeypatch.setattr("symcache.formats.pdb.deep.import_module", absent)
    with pytest.raises(UsageError, match=r"pip install 'symcache\[pdbparse\]'"):
        inspect_file(path, DeepWish(streams=True))
    assert inspect_file(path, NOTHING).is_healthy


@pytest.mark.parametrize(
    "make",
    [lambda: disk_bytes(plan_image(IMAGE)), lambda: make_pdb2(1, 1), lambda: make_compressed_pdb(SPEC)],
    ids=["image", "PDB 2.0", "MSFZ"],
)
def test_a_deep_look_at_anything_but_a_pdb_7_is_wrong_usage(make: Callable[[], bytes], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only a PDB 7"):
        inspect_file(put(tmp_path / "a.bin", make()), DeepWish(streams=True))


@needs_corpus
@pytest.mark.parametrize("name", [*corpus_files("pdb"), *corpus_files("pdb-portable")])
def test_real_pdbs_have_the_index_that_other_tools_find(name: str) -> None:
    found = inspect_file(str(corpus / name), NOTHING)
    base = Path(name).name
    assert found.index == f"{base}/{truth()[name]['pdb_key']}/{base}"
    assert found.is_healthy


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pe"))
def test_real_images_have_the_index_that_other_tools_find(name: str) -> None:
    found = inspect_file(str(corpus / name), NOTHING)
    base = Path(name).name
    assert found.index == f"{base}/{truth()[name]['image_key']}/{base}"


@needs_corpus
@pytest.mark.parametrize("name", [name for name in corpus_files("cab") if "contained" in truth()[name]])
def test_real_cabinets_tell_what_they_hold(name: str) -> None:
    contained = truth()[name]["contained"]
    found = inspect_file(str(corpus / name), NOTHING)
    assert found.index is not None
    assert found.index.split("/")[1] in {contained.get("pdb_key"), contained.get("image_key")}


@needs_corpus
@pytest.mark.parametrize(
    "name",
    [*corpus_files("pdb-bad"), *corpus_files("pe-bad"), *corpus_files("cab-bad"), *corpus_files("kernel-triage-bad")],
)
def test_damaged_files_are_never_healthy(name: str) -> None:
    found = inspect_file(str(corpus / name), NOTHING)
    assert not found.is_healthy
    assert found.as_json()["problems"]
