from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.identity import DbgKey, ImageKey, OtherKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.records import CrashStack, ImageUse, Module, PdbFormat, PdbReference, StackModule
from symcache.stores.results import Cause
from symcache.warm.plan import (
    FileKind,
    ImageChoice,
    NothingToFetch,
    Plan,
    WantedFile,
    WantedPdbOfAny,
    WantedPdbOfImage,
    kind_of,
    wants_of,
)

if TYPE_CHECKING:
    from symcache.warm.plan import Want

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
IMAGE = ImageKey("a.sys", 0x5F000000, 0x9000)
FIRST = PdbReference(PdbKey("first.pdb", GUID, 1), PdbFormat.NATIVE)
LAST = PdbReference(PdbKey("last.pdb", GUID, 0xA), PdbFormat.NATIVE)
NI = PdbReference(PdbKey("last.ni.pdb", GUID, 1), PdbFormat.NATIVE)
OLD = PdbReference(Pdb2Key("old.pdb", 0x37A8F40E, 2), PdbFormat.PDB2)
PORTABLE = PdbReference(PortablePdbKey("net.pdb", GUID), PdbFormat.PORTABLE, ("SHA256:ab",))
EMBEDDED = PdbReference(PortablePdbKey("in.pdb", GUID), PdbFormat.EMBEDDED)
DBG = DbgKey("a.dbg", 0x5F000000, 0x9000)


def file(reference: PdbReference) -> WantedFile:
    return WantedFile("a.sys", reference.key, reference.checksums)


def module(*pdbs: PdbReference, image: ImageKey | None = IMAGE, **more: object) -> Module:
    return replace(Module("a.sys", image=image, pdbs=pdbs), **more)  # type: ignore[arg-type]


EMBEDDED_IN = NothingToFetch("a.sys", FileKind.PDB, Cause.EMBEDDED, EMBEDDED.key)

CASES: dict[str, tuple[Module, dict[str, Any], list[Want]]] = {
    "its one PDB": (module(FIRST), {}, [file(FIRST)]),
    "the last of several native PDBs": (module(FIRST, LAST), {}, [file(LAST)]),
    "all of them if all are asked for": (module(FIRST, LAST), {"all_pdbs": True}, [file(FIRST), file(LAST)]),
    "a PDB 2.0": (module(OLD), {}, [file(OLD)]),
    "a portable PDB with its checksums": (module(PORTABLE), {}, [file(PORTABLE)]),
    "both PDBs of precompiled managed code": (module(FIRST, PORTABLE), {}, [file(FIRST), file(PORTABLE)]),
    "both of them whichever comes first": (module(PORTABLE, FIRST), {}, [file(FIRST), file(PORTABLE)]),
    "both native ones beside that of precompiled code": (module(NI, LAST), {}, [file(NI), file(LAST)]),
    "both kinds if all are asked for": (module(FIRST, PORTABLE), {"all_pdbs": True}, [file(FIRST), file(PORTABLE)]),
    "nothing where the PDB is embedded": (module(EMBEDDED), {}, [EMBEDDED_IN]),
    "nothing where one PDB is embedded beside a portable one": (module(PORTABLE, EMBEDDED), {}, [EMBEDDED_IN]),
    "the native PDB beside an embedded one": (module(FIRST, EMBEDDED), {}, [file(FIRST)]),
    "the embedded one is named if all are asked for": (
        module(FIRST, EMBEDDED),
        {"all_pdbs": True},
        [file(FIRST), EMBEDDED_IN],
    ),
    "the PDB of a module without an image": (module(LAST, image=None), {}, [file(LAST)]),
    "two hops where the image alone is known": (module(), {}, [WantedPdbOfImage("a.sys", IMAGE)]),
    "two hops beside a PDB that is presumed to be its own": (
        module(LAST, is_presumed=True),
        {},
        [file(LAST), WantedPdbOfImage("a.sys", IMAGE, is_presumed=True)],
    ),
    "two hops for an unloaded module with an image": (
        module(unloaded=True),
        {},
        [WantedPdbOfImage("a.sys", IMAGE)],
    ),
    "nothing where the image names no PDB": (
        module(no_debug_record=True, problem="no debug directory"),
        {},
        [NothingToFetch("a.sys", FileKind.PDB, Cause.NO_DEBUG_RECORD, IMAGE, "no debug directory")],
    ),
    "nothing where nothing is known": (
        module(image=None, problem="paged out"),
        {},
        [NothingToFetch("a.sys", FileKind.PDB, Cause.NO_IDENTITY, detail="paged out")],
    ),
    "not even a line for an unloaded module without identity": (module(image=None, unloaded=True), {}, []),
    "the .dbg file": (module(dbg=DBG), {}, [WantedFile("a.sys", DBG)]),
    "the .dbg file and the PDB": (module(FIRST, dbg=DBG), {}, [WantedFile("a.sys", DBG), file(FIRST)]),
    "the image too if images are asked for": (
        module(FIRST),
        {"images": ImageChoice.ALL},
        [WantedFile("a.sys", IMAGE), file(FIRST)],
    ),
    "the image and its PDB in two hops": (
        module(),
        {"images": ImageChoice.ALL},
        [WantedFile("a.sys", IMAGE), WantedPdbOfImage("a.sys", IMAGE)],
    ),
    "no image where none is known": (module(FIRST, image=None), {"images": ImageChoice.ALL}, [file(FIRST)]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_module_needs(case: str) -> None:
    wanting, options, wants = CASES[case]
    defaults: dict[str, Any] = {"images": ImageChoice.AUTO, "all_pdbs": False}
    assert list(wants_of(wanting, **defaults | options)) == wants


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (FIRST.key, "pdb"),
        (OLD.key, "pdb"),
        (PORTABLE.key, "pdb"),
        (IMAGE, "image"),
        (DBG, "dbg"),
        (OtherKey("libc.so", "elf-buildid-00ff"), "other"),
    ],
)
def test_a_key_tells_the_kind_of_file(key: PdbKey, kind: str) -> None:
    assert kind_of(key) == kind


def test_keys_that_differ_in_letter_case_are_one_want() -> None:
    plan = Plan()
    first = WantedFile("a.sys", PdbKey("Fltmgr.pdb", GUID, 1))
    assert plan.add([first, WantedFile("b.sys", PdbKey("FLTMGR.PDB", GUID, 1))]) == [first]
    assert plan.wants == (first,)


def test_the_pdb_of_an_image_and_the_image_are_two_wants() -> None:
    plan = Plan(images=ImageChoice.ALL)
    plan.add_module(module())
    plan.add_module(module())
    assert plan.wants == (WantedFile("a.sys", IMAGE), WantedPdbOfImage("a.sys", IMAGE))


def test_modules_without_identity_are_told_apart_by_name() -> None:
    plan = Plan()
    for name in ("a.sys", "A.SYS", "b.sys"):
        plan.add_module(Module(name, problem="paged out"))
    assert [want.module for want in plan.wants] == ["a.sys", "b.sys"]


@given(st.lists(st.sampled_from([case[0] for case in CASES.values()])), st.sampled_from(ImageChoice), st.booleans())
def test_a_plan_wants_nothing_twice(modules: list[Module], images: ImageChoice, all_pdbs: bool) -> None:
    plan = Plan(images=images, all_pdbs=all_pdbs)
    for wanting in modules:
        plan.add_module(wanting)
    wants = plan.wants
    assert len(set(wants)) == len(wants)
    assert plan.add(wants) == []
    for wanting in modules:
        plan.add_module(wanting)
    assert plan.wants == wants


def test_a_pdb_that_is_embedded_in_one_image_and_asked_for_by_another_is_a_file_to_fetch() -> None:
    guid = UUID(int=7)
    key = PortablePdbKey("app.pdb", guid)
    embedding = Module("a.dll", pdbs=(PdbReference(key, PdbFormat.EMBEDDED),))
    asking = Module("b.dll", pdbs=(PdbReference(key, PdbFormat.PORTABLE),))
    for modules in ([embedding, asking], [asking, embedding]):
        plan = Plan()
        for module in modules:
            plan.add_module(module)
        assert plan.wants == (WantedFile("b.dll", key),)


@pytest.mark.parametrize("presumed_first", [True, False])
def test_what_is_presumed_of_an_image_gives_way_to_what_is_wanted_of_it(presumed_first: bool) -> None:
    plan = Plan()
    for presumed in (presumed_first, not presumed_first):
        plan.add_module(module(LAST, is_presumed=True) if presumed else module())
    assert set(plan.wants) == {file(LAST), WantedPdbOfImage("a.sys", IMAGE)}
    assert len(plan) == 2


@pytest.mark.parametrize("read_first", [True, False])
def test_an_image_that_was_read_and_names_nothing_is_not_asked_for_its_pdb(read_first: bool) -> None:
    read, named = module(no_debug_record=True), module()
    plan = Plan()
    for each in (read, named) if read_first else (named, read):
        plan.add_module(each)
    assert plan.wants == (NothingToFetch("a.sys", FileKind.PDB, Cause.NO_DEBUG_RECORD, IMAGE),)


def test_a_copy_whose_listed_name_is_too_long_for_a_file_goes_by_its_originals() -> None:
    original = ImageKey("s" * 247 + ".sys", 1, 0x1000)
    listed = Module(f"hiber_{original.name}", image=original)
    assert listed.listed_image == original
    plan = Plan(images=ImageChoice.ALL)
    plan.add_module(listed)
    assert [want.key for want in plan.wants if isinstance(want, WantedFile)] == [original]


@pytest.mark.parametrize(
    ("name", "is_typed"),
    [
        ("win32k-full_1.0.sys", True),
        ("a;.shell calc;b.sys", False),
        ("-a.sys", False),
        ("a b.sys", False),
        ("a=b,c.sys", False),
        ("@$extin.sys", False),
        ("`a`.sys", False),
        ("a\u037e.sys", False),
    ],
)
def test_no_name_from_a_dump_puts_a_second_command_into_the_one_to_type(name: str, is_typed: bool) -> None:
    want = WantedFile(name, ImageKey(name, 0x5F, 0x1000), use=ImageUse.BY_HAND, base=0xFFFF800000000000)
    assert want.reload == (f".reload /f {name}=ffff800000000000,1000,0`0000005f" if is_typed else None)


# What is on a crash's stack.


def on_stack(*modules: Module) -> CrashStack:
    return CrashStack(tuple(StackModule(each, 1) for each in modules))


def named(name: str, **more: object) -> Module:
    key = PdbKey(f"{name}.pdb", UUID(int=sum(name.encode())), 1)
    return replace(Module(f"{name}.sys", pdbs=(PdbReference(key, PdbFormat.NATIVE),)), **more)  # type: ignore[arg-type]


def order(plan: Plan) -> list[str]:
    return [want.module for want in plan.wants]


MODULES = {name: named(name) for name in "abcdef"}


def test_what_is_on_the_stack_comes_first_and_the_rest_stays_as_it_came() -> None:
    plan = Plan()
    for each in MODULES.values():
        plan.add_module(each)
    plan.add_stack(on_stack(MODULES["e"], MODULES["b"]))
    assert order(plan) == ["e.sys", "b.sys", "a.sys", "c.sys", "d.sys", "f.sys"]
    assert [plan.is_on_stack(want) for want in plan.wants] == [True, True, False, False, False, False]


def test_what_a_crash_service_had_no_symbols_of_comes_behind_the_stack_and_before_the_rest() -> None:
    plan = Plan()
    modules = [named("a"), named("b", is_missed=True), named("c"), named("d"), named("e", is_missed=True)]
    for each in modules:
        plan.add_module(each)
    assert order(plan) == ["b.sys", "e.sys", "a.sys", "c.sys", "d.sys"]
    plan.add_stack(on_stack(modules[3], modules[4]))
    assert order(plan) == ["d.sys", "e.sys", "b.sys", "a.sys", "c.sys"]
    assert [plan.is_on_stack(want) for want in plan.wants] == [True, True, False, False, False]


def test_what_the_image_of_a_missed_module_names_is_missed_too() -> None:
    plan = Plan()
    plan.add_module(named("a"))
    plan.add_module(Module("a.sys", image=IMAGE, is_missed=True))
    hop, _ = plan.wants
    assert isinstance(hop, WantedPdbOfImage)
    plan.add_files_of(module(FIRST), hop)
    assert [want.key.name for want in plan.wants if isinstance(want, WantedFile)] == ["first.pdb", "a.pdb"]


def test_the_faulting_modules_of_several_crashes_come_before_what_lies_deeper_in_any() -> None:
    plan = Plan()
    for each in MODULES.values():
        plan.add_module(each)
    plan.add_stack(on_stack(MODULES["e"], MODULES["b"]))
    plan.add_stack(on_stack(MODULES["d"], MODULES["e"], MODULES["c"]))
    assert order(plan) == ["d.sys", "e.sys", "b.sys", "c.sys", "a.sys", "f.sys"]


def test_image_and_pdb_of_a_module_on_the_stack_stay_together() -> None:
    plan = Plan(images=ImageChoice.ALL)
    plan.add_module(MODULES["a"])
    plan.add_module(module(FIRST))
    plan.add_module(module(image=ImageKey("b.sys", 1, 2)))
    plan.add_stack(on_stack(module(image=ImageKey("b.sys", 1, 2)), module(FIRST)))
    second = ImageKey("b.sys", 1, 2)
    assert plan.wants == (
        WantedFile("a.sys", second),
        WantedPdbOfImage("a.sys", second),
        WantedFile("a.sys", IMAGE),
        file(FIRST),
        *(want for want in wants_of(MODULES["a"], images=ImageChoice.ALL, all_pdbs=False)),
    )


def test_the_pdb_that_an_image_on_the_stack_turns_out_to_name_is_on_the_stack() -> None:
    plan = Plan()
    plan.add_module(MODULES["a"])
    plan.add_module(module())
    plan.add_stack(on_stack(module()))
    (hop,) = (want for want in plan.wants if isinstance(want, WantedPdbOfImage))
    (pdb,) = plan.add_files_of(module(FIRST), hop)
    assert plan.is_on_stack(pdb)
    assert order(plan)[-1] == "a.sys"
    other = Plan()
    other.add_module(module())
    assert not other.is_on_stack(other.add_files_of(module(FIRST), hop)[0])


def test_a_plan_of_the_stack_alone_wants_nothing_else() -> None:
    plan = Plan(stack_only=True, images=ImageChoice.NONE)
    for each in (*MODULES.values(), named("left-out", image=IMAGE, needs_image=ImageUse.CODE)):
        plan.add_module(each)
    assert plan.wants == ()
    assert plan.left_out == 0
    plan.add_stack(on_stack(MODULES["e"], Module("bare.sys", problem="paged out")))
    assert order(plan) == ["e.sys", "bare.sys"]
    assert len(plan) == 2


@given(
    st.lists(st.sampled_from([case[0] for case in CASES.values()])),
    st.lists(st.sampled_from([case[0] for case in CASES.values()])),
    st.sampled_from(ImageChoice),
)
def test_a_stack_changes_the_order_of_wants_and_nothing_else(
    modules: list[Module], stack: list[Module], images: ImageChoice
) -> None:
    plain, sorted_, alone = Plan(images=images), Plan(images=images), Plan(images=images, stack_only=True)
    for wanting in [*modules, *stack]:
        plain.add_module(wanting)
        sorted_.add_module(wanting)
    sorted_.add_stack(on_stack(*stack))
    alone.add_stack(on_stack(*stack))
    assert set(sorted_.wants) == set(plain.wants)
    assert len(sorted_.wants) == len(plain.wants)
    marks = [sorted_.is_on_stack(want) for want in sorted_.wants]
    assert marks == sorted(marks, reverse=True)
    assert all(map(alone.is_on_stack, alone.wants))


CANDIDATES = (IMAGE, replace(IMAGE, size_of_image=0x8000))


@pytest.mark.parametrize("images", list(ImageChoice))
def test_of_an_image_that_is_one_of_several_the_pdb_is_wanted_once(images: ImageChoice) -> None:
    plan = Plan(images=images)
    for _ in range(2):
        plan.add_module(module(image=None, candidates=CANDIDATES, problem="its size is not known"))
    is_wanted = images is ImageChoice.ALL
    want = WantedPdbOfAny("a.sys", CANDIDATES, is_wanted)
    assert plan.wants == (want,)
    named = plan.add_files_of(module(FIRST, image=CANDIDATES[1]), want)
    image = [WantedFile("a.sys", CANDIDATES[1])] if is_wanted else []
    assert named == [*image, file(FIRST)]


def test_images_that_may_be_others_are_wants_of_their_own() -> None:
    plan = Plan()
    for candidates in (CANDIDATES, CANDIDATES[:1]):
        plan.add_module(module(image=None, candidates=candidates))
    assert len(plan.wants) == 2


EITHER = Module(
    "Lib.dll",
    pdbs=(PdbReference(PdbKey("Lib.pdb", GUID, 1), PdbFormat.NATIVE, others=(PortablePdbKey("Lib.pdb", GUID),)),),
)
AS_NATIVE = Module("Lib.dll", pdbs=(PdbReference(PdbKey("Lib.pdb", GUID, 1), PdbFormat.NATIVE),))
AS_PORTABLE = Module("Lib.dll", pdbs=(PdbReference(PortablePdbKey("Lib.pdb", GUID), PdbFormat.PORTABLE),))


def test_a_pdb_that_may_have_either_key_is_one_want() -> None:
    plan = Plan()
    for _ in range(2):
        plan.add_module(EITHER)
    (want,) = plan.wants
    assert isinstance(want, WantedFile)
    assert want.keys == (PdbKey("Lib.pdb", GUID, 1), PortablePdbKey("Lib.pdb", GUID))


@pytest.mark.parametrize("told", [AS_NATIVE, AS_PORTABLE], ids=["native", "portable"])
@pytest.mark.parametrize("open_first", [True, False])
def test_who_knows_the_key_settles_it_for_who_does_not(told: Module, open_first: bool) -> None:
    plan = Plan()
    for each in (EITHER, told) if open_first else (told, EITHER):
        plan.add_module(each)
    (want,) = plan.wants
    assert isinstance(want, WantedFile)
    assert want.keys == (told.pdbs[0].key,)
