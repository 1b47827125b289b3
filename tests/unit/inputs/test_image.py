from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.pe import CodeViewPlan, ImagePlan, dbg_bytes, disk_bytes, memory_bytes

from symcache.errors import InputError, UnknownFormat
from symcache.formats.glance import glance_at_keys
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import BytesView, FileView
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.image import image_module, is_image, read_image, read_module
from symcache.inputs.records import Input, InputKind, Module, PdbFormat, PdbReference

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
PLAN = ImagePlan(0x4549B18E, 0x14000, code_views=(CodeViewPlan("c:\\drv\\secdrv.pdb", GUID, 3),))


def read_one(view: ByteView, path: str) -> tuple[Input, Module]:
    input_, module = read_image(view, path)
    assert isinstance(input_, Input)
    assert isinstance(module, Module)
    json.dumps(dict(input_.details))
    return input_, module


def read_plan(plan: ImagePlan, path: str = "secdrv.sys") -> Module:
    return read_one(BytesView(disk_bytes(plan)), path)[1]


def test_an_image_is_one_module_with_its_key_and_its_pdb() -> None:
    input_, module = read_one(BytesView(disk_bytes(PLAN)), "C:\\Windows\\System32\\drivers\\secdrv.sys")
    assert (input_.kind, input_.path) == (InputKind.IMAGE, "C:\\Windows\\System32\\drivers\\secdrv.sys")
    assert module == Module(
        "secdrv.sys",
        path="C:\\Windows\\System32\\drivers\\secdrv.sys",
        image=ImageKey("secdrv.sys", 0x4549B18E, 0x14000),
        pdbs=(PdbReference(PdbKey("secdrv.pdb", GUID, 3), PdbFormat.NATIVE),),
    )


def test_pdbs_stand_in_file_order_with_their_formats() -> None:
    records = (
        CodeViewPlan("a.ni.pdb", GUID, 1),
        CodeViewPlan("old.pdb", age=2, signature=5),
        CodeViewPlan("/src/b.pdb", GUID, portable=True),
    )
    module = read_plan(replace(PLAN, code_views=records, pdb_checksums=(("SHA256", b"\xab\xcd"),)))
    assert module.pdbs == (
        PdbReference(PdbKey("a.ni.pdb", GUID, 1), PdbFormat.NATIVE),
        PdbReference(Pdb2Key("old.pdb", 5, 2), PdbFormat.PDB2),
        PdbReference(PortablePdbKey("b.pdb", GUID), PdbFormat.PORTABLE, ("SHA256:abcd",)),
    )


def test_an_image_cannot_state_what_a_lock_file_alone_does() -> None:
    records = (CodeViewPlan("b.pdb", GUID, portable=True),)
    stated = (("SHA256-file", b"\xab"), ("SHA256", b"\xcd"))
    module = read_plan(replace(PLAN, code_views=records, pdb_checksums=stated))
    assert [pdb.checksums for pdb in module.pdbs] == [("SHA256:cd",)]


def test_a_portable_pdb_that_lies_inside_is_embedded() -> None:
    records = (CodeViewPlan("a.pdb", GUID, 1), CodeViewPlan("b.pdb", GUID, portable=True))
    module = read_plan(replace(PLAN, code_views=records, embedded_pdb=b"BSJB"))
    assert [pdb.format for pdb in module.pdbs] == [PdbFormat.NATIVE, PdbFormat.EMBEDDED]


@pytest.mark.parametrize(
    ("plan", "problem", "no_debug_record"),
    [
        pytest.param(replace(PLAN, code_views=()), "it has no debug directory", True, id="no-directory"),
        pytest.param(
            replace(PLAN, code_views=(), other_debug_types=(12, 13, 13)),
            "its debug directory holds VC_FEATURE, POGO only",
            True,
            id="others-only",
        ),
        pytest.param(replace(PLAN, code_views=(), embedded_pdb=b"BSJB"), "it holds one inside", False, id="embedded"),
        pytest.param(replace(PLAN, code_views=(CodeViewPlan("a.pdb", UUID(int=0)),)), "nil GUID", False, id="nil-guid"),
        pytest.param(
            replace(PLAN, code_views=(CodeViewPlan("C:\\x\\nul", GUID),)), "cannot be a file name", False, id="device"
        ),
        pytest.param(
            replace(PLAN, code_views=(CodeViewPlan("../..", GUID),)), "cannot be a file name", False, id="parent"
        ),
        pytest.param(replace(PLAN, code_views=(CodeViewPlan("", GUID),)), "a build id alone", True, id="build-id"),
    ],
)
def test_an_image_whose_pdb_is_not_known_says_why(plan: ImagePlan, problem: str, no_debug_record: bool) -> None:
    module = read_plan(plan)
    assert module.image is not None
    assert module.pdbs == ()
    assert module.problem is not None
    assert problem in module.problem
    assert module.no_debug_record == no_debug_record
    assert not (no_debug_record and module.unusable_pdb)


def test_one_bad_record_does_not_hide_the_next() -> None:
    records = (CodeViewPlan("a.pdb", UUID(int=0)), CodeViewPlan("b.pdb", GUID))
    module = read_plan(replace(PLAN, code_views=records))
    assert [pdb.key.name for pdb in module.pdbs] == ["b.pdb"]
    assert module.problem == "its code view record has a nil GUID, which identifies nothing"


def test_a_stripped_image_names_its_dbg_file() -> None:
    module = read_plan(replace(PLAN, code_views=(), dbg_name="dll\\secdrv.dbg"))
    assert module.dbg == DbgKey("secdrv.dbg", 0x4549B18E, 0x14000)
    assert module.problem == "the image names no PDB; its symbols are in secdrv.dbg"
    assert not module.no_debug_record


def test_a_dbg_name_that_is_no_file_name_is_a_problem() -> None:
    module = read_plan(replace(PLAN, dbg_name="a:b"))
    assert (module.dbg, len(module.pdbs)) == (None, 1)
    assert module.problem == "'a:b' cannot be a file name: it has ':'"


@pytest.mark.parametrize(
    ("path", "problem"), [("-", "standard input does not tell"), ("/x/secdrv.sys.", "ends in a dot")]
)
def test_an_image_without_a_usable_name_keeps_its_pdb(path: str, problem: str) -> None:
    module = read_plan(PLAN, path)
    assert (module.image, len(module.pdbs)) == (None, 1)
    assert module.problem is not None
    assert problem in module.problem


def test_details_tell_a_file_that_was_cut_short() -> None:
    data = disk_bytes(replace(PLAN, reproducible=True))
    input_, module = read_one(BytesView(data[:-1]), "secdrv.sys")
    assert input_.details["problems"] == [
        f"the file is cut short: it has {len(data) - 1} of at least {len(data)} bytes"
    ]
    assert input_.details["timestamp"] == "4549B18E"
    assert input_.details["machine"] == "x64"
    assert input_.details["debug"] == ["CODEVIEW", "REPRO"]
    assert input_.details["code_views"][0]["path"] == "c:\\drv\\secdrv.pdb"
    assert module.problem is None


def test_a_dbg_file_is_a_module_without_an_image() -> None:
    plan = replace(PLAN, code_views=(CodeViewPlan("old.pdb", age=2, signature=5),))
    input_, module = read_one(BytesView(dbg_bytes(plan)), "symbols/sys/secdrv.dbg")
    assert input_.details["type"] == "DBG"
    assert (module.image, module.dbg) == (None, DbgKey("secdrv.dbg", 0x4549B18E, 0x14000))
    assert module.pdbs == (PdbReference(Pdb2Key("old.pdb", 5, 2), PdbFormat.PDB2),)
    assert module.problem is None


def test_a_dbg_file_on_standard_input_has_no_key() -> None:
    _, module = read_one(BytesView(dbg_bytes(PLAN)), "-")
    assert (module.dbg, len(module.pdbs)) == (None, 1)
    assert module.problem is not None


def test_an_image_in_memory_is_the_same_module_at_its_base() -> None:
    image = parse_image(BytesView(memory_bytes(PLAN)), Layout.MEMORY)
    module = image_module(image, "secdrv.sys", "\\SystemRoot\\secdrv.sys", 0xFFFFF80212C00000)
    on_disk = read_plan(PLAN)
    assert module == replace(on_disk, path="\\SystemRoot\\secdrv.sys", base=0xFFFFF80212C00000)


def test_nothing_is_yielded_for_what_is_no_image() -> None:
    with pytest.raises(UnknownFormat):
        next(read_image(BytesView(b"text"), "a.dll"))


@pytest.mark.parametrize(
    ("start", "expected"),
    [(b"MZ\x90\0", True), (b"DI\0\0", True), (b"DI\0\x80", True), (b"DIR ", False), (b"DI", False), (b"", False)],
)
def test_images_and_dbg_files_are_told_by_their_first_bytes(start: bytes, expected: bool) -> None:
    assert is_image(start) == expected


PLANS = {
    "plain": PLAN,
    "PE32": replace(PLAN, pe32_plus=False),
    "others": replace(PLAN, reproducible=True, other_debug_types=(12, 13, 20)),
    "portable": replace(PLAN, code_views=(CodeViewPlan("b.pdb", GUID, portable=True),), embedded_pdb=b"BSJB"),
    "checksum": replace(PLAN, pdb_checksums=(("SHA256", b"\xab"),)),
    "two": replace(PLAN, code_views=(CodeViewPlan("a.pdb", GUID, 1), CodeViewPlan("b.pdb", GUID, 2))),
    "PDB 2.0": replace(PLAN, code_views=(CodeViewPlan("old.pdb", age=2, signature=5),)),
    "nil": replace(PLAN, code_views=(CodeViewPlan("a.pdb", UUID(int=0)),)),
    "unusable": replace(PLAN, code_views=(CodeViewPlan("../..", GUID),)),
    "build id": replace(PLAN, code_views=(CodeViewPlan("", GUID),)),
    "stripped": replace(PLAN, dbg_name="dll\\secdrv.dbg"),
    "nothing": replace(PLAN, code_views=()),
}


AT_A_GLANCE = [PLANS[name] for name in ("plain", "PE32", "others", "nil", "unusable", "build id")]


def same(data: bytes, path: str) -> bool:
    """Tell whether both ways to read an image agree, an error included; and whether it was told at a glance."""
    try:
        expected: object = [record for record in read_image(BytesView(data), path) if isinstance(record, Module)]
    except InputError as error:
        expected = str(error)
    try:
        found: object = [*read_module(BytesView(data), path)]
    except InputError as error:
        found = str(error)
    assert found == expected
    return glance_at_keys(BytesView(data)) is not None


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("path", ["drivers/secdrv.sys", "-", "a/nul"])
def test_an_image_read_for_its_keys_alone_is_the_same_module(plan: ImagePlan, path: str) -> None:
    assert same(disk_bytes(plan), path) is (plan in AT_A_GLANCE)


def test_a_damaged_image_read_for_its_keys_alone_is_the_same_module() -> None:
    told = [same(data, "secdrv.sys") for plan in AT_A_GLANCE for data in mutants(disk_bytes(plan), 200, hot=1024)]
    assert any(told)
    assert not all(told)


@needs_corpus
@pytest.mark.parametrize("name", [*corpus_files("pe"), *corpus_files("pe-bad")])
def test_real_images_get_the_keys_that_debuggers_ask_for(name: str) -> None:
    facts = truth()[name]
    with FileView(corpus / name) as view:
        if "error" in facts:
            with pytest.raises(InputError):
                list(read_image(view, name))
            with pytest.raises(InputError):
                read_module(view, name)
            return
        _, module = read_one(view, name)
        assert read_module(view, name) == (module,)
    assert module.image is not None
    assert module.image.id == facts["image_key"]
    told = facts.get("codeview", [])
    assert [(pdb.key.name, pdb.key.id) for pdb in module.pdbs] == [(pdb["pdb_name"], pdb["pdb_key"]) for pdb in told]
    assert [pdb.format for pdb in module.pdbs] == [expected_format(facts, pdb) for pdb in told]
    assert (module.problem is None) == bool(told)
    checksums = tuple(f"{told['algorithm']}:{told['hash']}" for told in facts.get("pdb_checksums", []))
    assert all(pdb.checksums == checksums for pdb in module.pdbs)


def expected_format(facts: dict[str, object], pdb: dict[str, object]) -> PdbFormat:
    if pdb["format"] == "NB10":
        return PdbFormat.PDB2
    if not pdb["portable"]:
        return PdbFormat.NATIVE
    return PdbFormat.EMBEDDED if "embedded_pdb" in facts else PdbFormat.PORTABLE
