from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants

from symcache.formats.view import BytesView
from symcache.identity import DbgKey, ImageKey, OtherKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.manifest import looks_like_manifest, manifest_lines, read_manifest
from symcache.inputs.records import Input, InputKind, Module, PdbFormat, PdbReference, Unreadable

if TYPE_CHECKING:
    from symcache.inputs.records import Record

HAL_PDB = PdbKey("halmacpi.pdb", UUID("D762CB61-2143-42FC-AE6E-B9BC098AB557"), 1)
HAL_DLL = ImageKey("hal.dll", 0x559F3A8F, 0x5E000)
NTDLL = ImageKey("ntdll.dll", 0x41E648E0, 0x7D000)
HAL_LINE = "halmacpi.pdb,D762CB61214342FCAE6EB9BC098AB5571,1"
DLL_LINE = "hal.dll,559f3a8f5e000,1"
NTDLL_LINE = "ntdll.dll,41e648e07d000,2"
HAL_REFERENCE = PdbReference(HAL_PDB, PdbFormat.NATIVE)
HAL = Module("hal.dll", image=HAL_DLL, pdbs=(HAL_REFERENCE,))
HAL_PDB_ALONE = Module("halmacpi.pdb", pdbs=(HAL_REFERENCE,))


def read(data: bytes | str) -> list[Record]:
    first, *rest = read_manifest(BytesView(data.encode() if isinstance(data, str) else data), "list")
    assert first == Input("list", InputKind.MANIFEST)
    return rest


def image_alone(key: ImageKey) -> Module:
    return Module(key.name, image=key, problem="the list names the image alone, not its PDB")


def keep_modules(records: list[Record]) -> list[Module]:
    modules = [record for record in records if isinstance(record, Module)]
    assert len(modules) == len(records)
    return modules


def keys(records: list[Record]) -> list[object]:
    return [module.pdbs[0].key if module.pdbs else module.image or module.dbg for module in keep_modules(records)]


def test_an_image_belongs_to_the_pdb_before_it_even_if_their_names_differ() -> None:
    assert read(f"{HAL_LINE}\n{DLL_LINE}\n{NTDLL_LINE}\n") == [HAL, image_alone(NTDLL)]


@pytest.mark.parametrize("begin", ["", "- ", "* ", "\u2022 ", "12. ", "3) "])
@pytest.mark.parametrize("between", ["/", " ", ",", "\t", " \t "])
def test_a_list_out_of_a_letter_or_a_spreadsheet_names_the_same_files(begin: str, between: str) -> None:
    assert read(f"{begin}halmacpi.pdb{between}{HAL_PDB.id}\n") == [HAL_PDB_ALONE]
    assert read(f"halmacpi.pdb\t{HAL_PDB.id}\t1\nhal.dll\t{HAL_DLL.id}\t1") == [HAL]


@pytest.mark.parametrize(
    ("pdb", "image", "is_presumed"),
    [
        ("ntdll.pdb", "NTDLL.dll", False),
        ("wntdll.pdb", "ntdll.dll", False),
        ("ntkrnlmp.pdb", "ntoskrnl.exe", False),
        ("halmacpi.pdb", "hal.dll", False),
        ("ntdll.pdb", "ntoskrnl.exe", True),
        ("ClassLibrary1.pdb", "dummylib.dll", True),
        ("noend", "x", True),
    ],
)
def test_a_pair_of_different_names_is_only_presumed(pdb: str, image: str, is_presumed: bool) -> None:
    (module,) = read(f"{pdb},D762CB61214342FCAE6EB9BC098AB5571,1\n{image},559f3a8f5e000,1\n")
    assert isinstance(module, Module)
    assert (module.image is not None, len(module.pdbs), module.is_presumed) == (True, 1, is_presumed)


@pytest.mark.parametrize(
    ("lines", "modules"),
    [
        pytest.param([HAL_LINE], [HAL_PDB_ALONE], id="a PDB alone"),
        pytest.param([HAL_LINE, HAL_LINE, DLL_LINE], [HAL_PDB_ALONE, HAL], id="two PDBs and an image"),
        pytest.param([HAL_LINE, NTDLL_LINE], [HAL_PDB_ALONE, image_alone(NTDLL)], id="an image of type 2 after a PDB"),
        pytest.param([DLL_LINE, HAL_LINE], [image_alone(HAL_DLL), HAL_PDB_ALONE], id="an image before a PDB"),
        pytest.param([HAL_LINE, DLL_LINE, DLL_LINE], [HAL, image_alone(HAL_DLL)], id="one PDB and two images"),
        pytest.param([HAL_LINE, "; a comment", "", DLL_LINE], [HAL], id="a comment between"),
        pytest.param([HAL_LINE[:-2], DLL_LINE[:-2]], [HAL_PDB_ALONE, image_alone(HAL_DLL)], id="no types"),
    ],
)
def test_lines_are_paired_only_if_both_are_of_type_1_and_adjacent(lines: list[str], modules: list[Module]) -> None:
    assert read("\n".join(lines)) == modules


def test_a_bad_line_is_reported_and_parts_what_stands_round_it() -> None:
    records = read(f"{HAL_LINE}\r\nno, such line\r\n{DLL_LINE}\r\n")
    assert records[0] == HAL_PDB_ALONE
    bad = records[1]
    assert isinstance(bad, Unreadable)
    assert bad.problem.startswith("line 2: ")
    assert (bad.path, bad.offset) == ("list", len(HAL_LINE) + 2)
    assert records[2] == image_alone(HAL_DLL)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("x.pdb/D762CB61214342FCAE6EB9BC098AB557a/x.pdb", PdbKey("x.pdb", HAL_PDB.guid, 10)),
        (r"x.pdb\D762CB61214342FCAE6EB9BC098AB5571\x.pd_", PdbKey("x.pdb", HAL_PDB.guid, 1)),
        ("x.pdb/D762CB61214342FCAE6EB9BC098AB557ffffffff", PortablePdbKey("x.pdb", HAL_PDB.guid)),
        ("x.pdb 37A8F40E2", Pdb2Key("x.pdb", 0x37A8F40E, 2)),
        ("my prog.exe 41e648e07d000", ImageKey("my prog.exe", 0x41E648E0, 0x7D000)),
        ("\ta,b.dll,41e648e07d000,1 ", ImageKey("a,b.dll", 0x41E648E0, 0x7D000)),
        ("a,b.dll 41e648e07d000", ImageKey("a,b.dll", 0x41E648E0, 0x7D000)),
        ("a.dll , 41e648e07d000 , 2", ImageKey("a.dll", 0x41E648E0, 0x7D000)),
        ("acpi.dbg/37cdb03962040/acpi.dbg", DbgKey("acpi.dbg", 0x37CDB039, 0x62040)),
        ("_.debug/elf-buildid-sym-0123456789abcdef/_.debug", OtherKey("_.debug", "elf-buildid-sym-0123456789abcdef")),
        ("a.cs sha1-0123456789abcdef", OtherKey("a.cs", "sha1-0123456789abcdef")),
    ],
)
def test_an_index_may_be_written_in_every_usual_way(line: str, key: object) -> None:
    assert keys(read(line)) == [key]


@pytest.mark.parametrize(
    "line",
    [
        "hello world",
        "hello",
        "hello,world,1",
        "x.dll,1",
        "../x.dll/41e648e07d000/../x.dll",
        "x.dll/41e648e07d000/y.dll",
        "file.ptr/41e648e07d000/file.ptr",
        "con.dll 41e648e07d000",
        "x\0.dll 41e648e07d000",
        "x.dll,41e648e07d000,1,1,1",
        ",41e648e07d000,1",
        ",",
    ],
)
def test_a_line_that_names_no_file_is_unreadable(line: str) -> None:
    (record,) = read(line)
    assert isinstance(record, Unreadable)
    assert record.problem.startswith("line 1: ")
    assert record.offset == 0


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be-bom", "cp1252"], ids=lambda name: name
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_list_reads_the_same_in_every_encoding(encoding: str, end: str) -> None:
    text = end.join([HAL_LINE, DLL_LINE, "# é", "é.dll 41e648e07d000", "bad line"])
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    *good, bad = read(data)
    assert good == [HAL, image_alone(ImageKey("é.dll", 0x41E648E0, 0x7D000))]
    assert isinstance(bad, Unreadable)
    assert bad.problem.startswith("line 5: ")
    raw = "bad line".encode("utf-16-be" if "be" in encoding else "utf-16-le" if "16" in encoding else "ascii")
    assert bad.offset == data.index(raw)


def test_a_line_without_end_is_reported_with_its_place_and_not_kept() -> None:
    class Counted(BytesView):
        longest = 0

        def read(self, offset: int, length: int) -> bytes:
            self.longest = max(self.longest, length)
            return super().read(offset, length)

    view = Counted(b"a" * 300_000 + b"\n" + NTDLL_LINE.encode() + b"\nbad")
    _, long, good, bad = read_manifest(view, "list")
    assert long == Unreadable("list", "line 1: it is longer than 4096 characters", 0)
    assert good == image_alone(NTDLL)
    assert isinstance(bad, Unreadable)
    assert bad.problem.startswith("line 3: ")
    assert bad.offset == 300_001 + len(NTDLL_LINE) + 1
    assert view.longest <= 1 << 16


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (HAL_LINE, True),
        (f"; wanted\n\n{NTDLL_LINE}\noops\n", True),
        ("# nothing wanted yet\n", True),
        ("", False),
        ("\n\n", False),
        ("Dear reader,\nthis is prose.\n" + NTDLL_LINE, False),
        ("SYMSRV:  x.pdb from https://h: 1 bytes\n", False),
        ("\0" * 5000, False),
    ],
)
def test_a_list_is_told_by_its_lines(text: str, is_one: bool) -> None:
    assert looks_like_manifest(BytesView(text.encode())) is is_one


def test_modules_are_written_as_symchk_writes_them() -> None:
    dbg = Module("acpi.sys", dbg=DbgKey("acpi.dbg", 0x37CDB039, 0x62040))
    embedded = Module(
        "m.dll", image=NTDLL, pdbs=(PdbReference(PortablePdbKey("m.pdb", HAL_PDB.guid), PdbFormat.EMBEDDED),)
    )
    unknown = Module("x.sys", problem="nothing is known of it")
    assert list(manifest_lines([HAL, image_alone(NTDLL), HAL_PDB_ALONE, dbg, embedded, unknown])) == [
        HAL_LINE, DLL_LINE, NTDLL_LINE, HAL_LINE, "acpi.dbg,37cdb03962040,2", NTDLL_LINE,
    ]  # fmt: skip


_NAMES = st.text(st.sampled_from("abcXYZ019._-,+ é"), min_size=1, max_size=12).map(lambda stem: f"n{stem}x.dll")
_IMAGES = st.builds(ImageKey, _NAMES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
_PDBS = st.one_of(
    st.builds(PdbKey, _NAMES.map(lambda name: name[:-3] + "pdb"), st.uuids(), st.integers(0, 2**32 - 2)),
    st.builds(
        Pdb2Key, _NAMES.map(lambda name: name[:-3] + "pdb"), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
    ),
)
_FORMATS = {PdbKey: PdbFormat.NATIVE, Pdb2Key: PdbFormat.PDB2}


@given(st.lists(st.tuples(st.none() | _IMAGES, st.none() | _PDBS).filter(any), max_size=8))
def test_a_written_list_reads_back_as_the_same_modules(
    pairs: list[tuple[ImageKey | None, PdbKey | Pdb2Key | None]],
) -> None:
    modules = []
    for image, pdb in pairs:
        pdbs = (PdbReference(pdb, _FORMATS[type(pdb)]),) if pdb else ()
        if image and not pdbs:
            modules.append(image_alone(image))
        elif image:
            modules.append(Module(image.name, image=image, pdbs=pdbs))
        else:
            assert pdb is not None
            modules.append(Module(pdb.name, pdbs=pdbs))
    read_back = keep_modules(read("".join(f"{line}\n" for line in manifest_lines(modules))))
    assert [replace(module, is_presumed=False) for module in read_back] == modules


def damaged(count: int) -> None:
    seed = "\r\n".join([HAL_LINE, DLL_LINE, NTDLL_LINE, "; é", "x.pdb/37A8F40E2/x.pdb"] * 3)
    for encoding in ("utf-8", "utf-16"):
        for data in mutants(seed.encode(encoding), count // 2):
            for record in read_manifest(BytesView(data), "list"):
                assert not isinstance(record, Unreadable) or 0 <= (record.offset or 0) < len(data)
            looks_like_manifest(BytesView(data))


def test_a_damaged_list_yields_records_and_no_error() -> None:
    damaged(1_000)


@pytest.mark.slow
def test_many_damaged_lists_yield_records_and_no_error() -> None:
    damaged(100_000)


def test_lines_are_written_one_by_one() -> None:
    file = io.StringIO()
    file.writelines(f"{line}\n" for line in manifest_lines(HAL for _ in range(3)))
    assert file.getvalue() == f"{HAL_LINE}\n{DLL_LINE}\n" * 3
