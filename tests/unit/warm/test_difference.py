"""What counts as a difference between two sets of modules."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.formats.pe.version import VersionInfo
from symcache.identity import ImageKey, Key, PdbKey
from symcache.inputs.records import Module, PdbFormat, PdbReference, Recorded, reference_to
from symcache.reports.difference import difference_lines
from symcache.warm.difference import Change, Comparison, Side, compare

SHA = "1" * 64


def image(name: str, number: int = 1) -> ImageKey:
    return ImageKey(name, 0x5F000000 + number, 0x9000)


def pdb(name: str, number: int = 1) -> PdbKey:
    return PdbKey(name, UUID(int=number), 1)


def reference(name: str, number: int = 1) -> PdbReference:
    found = reference_to(pdb(name, number))
    assert found is not None
    return found


def module(name: str, number: int = 1, *, base: int | None = None, unloaded: bool = False) -> Module:
    return Module(name, base=base, image=image(name, number), pdbs=(reference("x.pdb", number),), unloaded=unloaded)


def recorded(key: Key, *, cause: str | None = None, sha256: str | None = None) -> Module:
    said = Recorded("pdb", cause=cause, sha256=sha256)
    found = reference_to(key)
    return Module("m.sys", pdbs=(found,), recorded=said) if found else Module("m.sys", dbg=key, recorded=said)


def side(*modules: Module, by_file: bool = False, held_alone: bool = False) -> Side:
    made = Side(by_file=by_file, held_alone=held_alone)
    for each in modules:
        made.add(each)
    return made


def changes(before: Side, after: Side) -> list[tuple[str, Change]]:
    return [(each.name, each.change) for each in compare(before, after).differences]


SAME = {
    "other addresses, another letter case": (module("A.sys", base=1), module("a.SYS", base=2)),
    "the image alone on one side": (module("a.sys"), Module("a.sys", image=image("a.sys"))),
    "the PDB alone on one side": (module("a.sys"), Module("a.sys", pdbs=(reference("X.pdb"),))),
    "an image under the name it is published by": (
        Module("dump_a.sys", image=image("a.sys")), Module("dump_a.sys", image=image("dump_a.sys")),
    ),
    "nothing known of either": (Module("a.sys", problem="paged out"), Module("a.sys", problem="paged out")),
    "the PDB that debuggers do not ask for": (
        Module("a.dll", pdbs=(reference("a.ni.pdb", 2), reference("a.pdb"))),
        Module("a.dll", pdbs=(reference("a.pdb"),)),
    ),
    "a whole image of a lock file": (Module("m.sys", image=image("m.sys")), recorded(image("m.sys"), sha256=SHA)),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), SAME.values(), ids=SAME)
def test_what_is_the_same(before: Module, after: Module) -> None:
    for one, other in ((before, after), (after, before)):
        assert compare(side(one), side(other)) == Comparison((), 1)


DIFFERENT = {
    "another build": (module("a.sys", 1), module("A.sys", 2), Change.CHANGED),
    "another PDB of the same image": (
        Module("a.sys", image=image("a.sys"), pdbs=(reference("x.pdb", 1),)),
        Module("a.sys", image=image("a.sys"), pdbs=(reference("x.pdb", 2),)), Change.CHANGED,
    ),
    "nothing in common": (
        Module("a.sys", image=image("a.sys")), Module("a.sys", pdbs=(reference("a.pdb"),)), Change.UNCLEAR,
    ),
    "known on one side alone": (module("a.sys"), Module("a.sys", problem="paged out"), Change.UNCLEAR),
    "other bytes": (recorded(pdb("m.pdb"), sha256=SHA), recorded(pdb("m.pdb"), sha256="2" * 64), Change.CHANGED),
    "no longer at hand": (recorded(pdb("m.pdb")), recorded(pdb("m.pdb"), cause="not-published"), Change.LOST),
    "at hand since": (recorded(pdb("m.pdb"), cause="unavailable"), recorded(pdb("m.pdb")), Change.FOUND),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "change"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_is_different(before: Module, after: Module, change: Change) -> None:
    assert changes(side(before), side(after)) == [(after.name, change)]


def test_what_comes_and_goes_is_told_by_name_and_unloaded_modules_are_not() -> None:
    before = side(module("a.sys"), module("b.sys"), module("old.sys", unloaded=True))
    after = side(module("B.sys"), module("c.sys"))
    compared = compare(before, after)
    assert [(each.name, each.change) for each in compared.differences] == [
        ("c.sys", Change.CAME), ("a.sys", Change.WENT),
    ]  # fmt: skip
    assert compared.count() == {
        "changed": 0, "came": 1, "went": 1, "lost": 0, "found": 0, "unclear": 0, "same": 1,
    }  # fmt: skip


def test_several_builds_of_one_name_are_a_set() -> None:
    both = side(module("a.dll", 1), module("a.dll", 2))
    assert changes(both, side(module("a.dll", 2), module("a.dll", 1), module("a.dll", 1))) == []
    (only,) = compare(both, side(module("a.dll", 1))).differences
    assert only.said() == ("image 5F0000029000, pdb x.pdb 000000000000000000000000000000021", "")


def test_a_pdb_beside_its_image_is_no_module_of_its_own() -> None:
    folder = side(module("a.sys"), Module("x.pdb", pdbs=(reference("x.pdb"),)))
    assert changes(folder, side(module("a.sys"))) == []
    stray = side(module("a.sys"), Module("x.pdb", pdbs=(reference("x.pdb", 7),)))
    assert changes(stray, side(module("a.sys"))) == [("x.pdb", Change.WENT)]


def test_beside_a_store_files_count_and_what_is_missing_does_not() -> None:
    store = Side(by_file=True)
    for key in (image("A.sys"), pdb("x.pdb")):
        store.add_key(key)
    dump = side(module("a.sys"), by_file=True)
    assert changes(dump, store) == []
    lock = side(recorded(image("a.sys")), recorded(pdb("x.pdb")), recorded(pdb("gone.pdb"), cause="not-published"),
                by_file=True, held_alone=True)  # fmt: skip
    assert changes(lock, store) == []


def test_text_says_counts_first_and_both_identities() -> None:
    before, after = side(module("nt", 1), module("a.sys")), side(module("NT", 2), Module("evil\x1b.sys"))
    lines = list(difference_lines(compare(before, after)))
    assert lines[0] == "1 changed, 1 came, 1 went, 0 same"
    assert lines[2] == "changed (1)"
    for number in (1, 2):
        assert f"image 5F00000{number}9000, pdb x.pdb {number:032X}1" in lines[3]
    assert "\x1b" not in "".join(lines)
    assert next(difference_lines(compare(before, after), quiet=True)) == "changed (1)"
    assert list(difference_lines(compare(before, before), quiet=True)) == []
    assert list(difference_lines(compare(before, before))) == ["0 changed, 2 same"]


def modules() -> st.SearchStrategy[list[Module]]:
    one = st.builds(
        lambda name, number, kinds: Module(
            name,
            image=image(name, number) if "i" in kinds else None,
            pdbs=(reference("x.pdb", number),) if "p" in kinds else (),
        ),
        st.sampled_from(["a.sys", "A.SYS", "b.sys", "c.dll"]), st.integers(1, 3), st.sampled_from(["", "i", "p", "ip"]),
    )  # fmt: skip
    return st.lists(one, max_size=6)


@given(modules(), modules(), st.booleans())
def test_each_name_is_told_once_and_the_other_way_round_alike(
    before: list[Module], after: list[Module], by_file: bool
) -> None:
    one, other = side(*before, by_file=by_file), side(*after, by_file=by_file)
    there, back = compare(one, other), compare(other, one)
    assert len(there.differences) + there.same == len(one.known.keys() | other.known.keys())
    opposite = {Change.CAME: Change.WENT, Change.WENT: Change.CAME}
    assert {each.name.lower(): opposite.get(each.change, each.change) for each in there.differences} == {
        each.name.lower(): each.change for each in back.differences
    }
    assert compare(one, one).differences == ()


def test_versions_are_shown_and_not_compared() -> None:
    def built(number: int, *version: int) -> Module:
        a, b, c, d = version
        return replace(module("a.sys", number), version=VersionInfo(file_numbers=(a, b, c, d)))

    assert changes(side(built(1, 10, 0, 1, 2)), side(built(1, 10, 0, 1, 3))) == []
    (difference,) = compare(side(built(1, 10, 0, 1, 2)), side(built(2, 10, 0, 1, 3))).differences
    before, after = difference.said()
    assert before.startswith("10.0.1.2, image ")
    assert after.startswith("10.0.1.3, image ")
    after_json = difference.as_json()["after"]
    assert after_json["versions"] == ["10.0.1.3"]


def test_an_embedded_pdb_identifies_a_build_too() -> None:
    one, other = (Module("a.dll", pdbs=(PdbReference(pdb("a.pdb", number), PdbFormat.EMBEDDED),)) for number in (1, 2))
    assert changes(side(one), side(other)) == [("a.dll", Change.CHANGED)]
