from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import ConfigError, UsageError
from symcache.identity import ImageKey
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.records import CrashStack, Input, InputKind, Module, Narrowed, StackModule
from symcache.inputs.sets import NamedSet, NameSet, Sets, load_sets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.inputs.records import Record

HERE = Path(__file__).resolve()
KERNEL_NAMES = [
    "ntoskrnl.exe", "NTKRNLMP.EXE", "ntkrpamp.exe", "nt", "ntkrnlmp.pdb", "hal.dll", "halmacpi.dll", "kdcom.dll",
    "kd_02_8086.dll", "CI.dll", "CLFS.SYS", "win32kfull.sys", "win32kwhatever.sys", "win32kbase.pdb", "Ntfs.sys",
    "ntfs", "ACPI.sys", "C:\\Windows\\System32\\drivers\\tcpip.sys", "/mnt/c/Windows/System32/drivers/NDIS.SYS",
    "dump_storport.sys",
]  # fmt: skip


@pytest.mark.parametrize("name", KERNEL_NAMES)
def test_a_kernel_debugger_meets_it(name: str) -> None:
    assert load_sets().union(["kernel"]).takes(name)


@pytest.mark.parametrize(
    "name", ["ntdll.dll", "kernel32", "nvlddmkm.sys", "ntoskrnl.exe.mui", "ntfs.dll", "", "kernelbase"]
)
def test_a_kernel_debugger_does_not_meet_it(name: str) -> None:
    assert not load_sets().union(["kernel"]).takes(name)


def test_sets_together_take_what_any_of_them_takes() -> None:
    both = load_sets().union(["Kernel", "user-core"])
    assert both.label == "Kernel, user-core"
    assert both.takes("ntdll.dll")
    assert both.takes("hal.dll")
    assert not both.takes("nvlddmkm.sys")


def test_drivers_are_files_of_that_suffix_and_all_is_everything() -> None:
    sets = load_sets()
    assert sets.union(["drivers"]).takes("NVLDDMKM.SYS")
    assert not any(sets.union(["drivers"]).takes(name) for name in ("ntdll.dll", "ntdll", "ntdll.pdb", "x.sys.mui"))
    assert all(sets.union(["all"]).takes(name) for name in ("ntdll.dll", "ntdll", "x"))


def test_every_set_that_everybody_has_says_what_it_is_for_and_lists_nothing_twice() -> None:
    sets = list(load_sets())
    assert [each.name for each in sets] == ["kernel", "drivers", "user-core", "all"]
    for each in sets:
        assert each.about
        assert len(set(each.members)) == len(each.members)
        assert all(member == member.lower() for member in each.members)


@given(st.text(), st.lists(st.text(), max_size=4))
def test_any_name_and_any_member_get_an_answer(name: str, members: list[str]) -> None:
    assert NameSet("any", [*members, "*"]).takes(name) in (True, False)
    assert NameSet("one", ["a.sys"]).takes(name) is (
        name.lower().replace("\\", "/").rpartition("/")[2] in ("a.sys", "a", "a.pdb")
    )


def test_brackets_in_a_pattern_are_no_range() -> None:
    taken = NameSet("odd", ["a[1]*.sys"])
    assert taken.takes("A[1]b.sys")
    assert not taken.takes("a1b.sys")


def test_a_set_of_the_config_file_holds_names_patterns_sets_and_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeff# ours\n\nfromlist.sys\r\n@user-core\n", encoding="utf-8")
    own = {"Ours": ["@kernel", "Our*.sys", f"file:{tmp_path / 'list.txt'}"], "kernel": ["@kernel", "more.sys"]}
    taken = load_sets(own).union(["ours"])
    assert all(taken.takes(name) for name in ("hal.dll", "OURFILTER.sys", "fromlist.sys", "ntdll.dll", "more.sys"))
    assert not taken.takes("other.sys")


def test_a_path_before_a_name_of_the_config_file_does_not_count() -> None:
    own = {"mine": (r"C:\Windows\System32\drivers\mine.sys", "bin/*.drv")}
    mine = load_sets(own).union(["mine"])
    assert mine.members == ("mine.sys", "*.drv")
    assert mine.takes("mine.sys")


def test_a_set_of_the_config_file_takes_the_place_of_one_of_its_name() -> None:
    sets = load_sets({"KERNEL": ["only.sys"]})
    assert sets.union(["kernel"]).members == ("only.sys",)
    assert [each.name for each in sets if each.is_own] == ["KERNEL"]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"a": ["@b"], "b": ["@a"]}, "sets.a: @a leads back to itself"),
        ({"a": ["@a"]}, "sets.a: there is no set @a"),
        ({"a": ["@nothing"]}, "sets.a: there is no set @nothing"),
        ({"kernel": ["@a"], "a": ["@kernel"]}, "leads back to itself"),
        ({"a": ["file:list.txt"]}, "sets.a: file: needs a whole path"),
        ({"a": [f"file:{HERE.parent}"]}, "is no file"),
        ({"a": [f"file:{HERE}\0"]}, "cannot be read"),
        ({"a": [f"file:{HERE.with_name('list.txt')}"]}, "list.txt cannot be read"),
        ({f"a{n}": [f"@a{n + 1}"] for n in range(50)} | {"a": ["@a0"], "a50": []}, "more than 32 deep"),
    ],
)
def test_a_set_that_cannot_be_used_is_said_with_its_key(own: dict[str, list[str]], said: str) -> None:
    name = "a" if "a" in own else "kernel"
    with pytest.raises(ConfigError, match=said):
        load_sets(own).union([name])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "is not UTF-8"), (b"a" * ((1 << 20) + 1), "longer than")],
    ids=["bytes", "length"],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_sets({"a": [f"file:{tmp_path / 'list'}"]}).union(["a"])


def test_sets_that_hold_each_other_many_times_take_no_longer() -> None:
    rows = [NamedSet(f"a{n}", (f"@a{n + 1}",) * 20, is_own=True) for n in range(30)]
    assert Sets([], [*rows, NamedSet("a30", ("x.sys",), is_own=True)]).union(["a0"]).members == ("x.sys",)


def test_an_unknown_set_is_said_at_once_with_those_that_are_known() -> None:
    options = InputOptions(only=("kernal",), own_sets={"ours": ("x.sys",)})
    with pytest.raises(UsageError, match="no set 'kernal' of modules; there are all, drivers, kernel, ours, user-core"):
        open_inputs([], options)


class Held:
    path = "held"

    def records(self, options: InputOptions) -> Iterator[Record]:
        yield Input("held", InputKind.MANIFEST)
        modules = [Module("nt"), Module("a.dll"), Module("dump_x.sys", image=ImageKey("x.sys", 1, 2)), Module("b.sys")]
        yield from modules
        yield CrashStack((StackModule(modules[1], 1), StackModule(modules[0], 1)))


@pytest.mark.parametrize(
    ("only", "modules", "stack", "left_out"),
    [
        ((), ["nt", "a.dll", "dump_x.sys", "b.sys"], ["a.dll", "nt"], None),
        (("kernel",), ["nt", "dump_x.sys"], ["nt"], Narrowed("kernel", 2)),
        (("all",), ["nt", "a.dll", "dump_x.sys", "b.sys"], ["a.dll", "nt"], None),
        (("mine",), ["dump_x.sys"], [], Narrowed("mine", 3)),
    ],
)
def test_inputs_are_narrowed_to_sets(
    only: Any, modules: list[str], stack: list[str], left_out: Narrowed | None
) -> None:
    records = list(open_inputs([Held()], InputOptions(only=only, own_sets={"mine": ("X.sys",)})))
    assert [each.name for each in records if isinstance(each, Module)] == modules
    assert [[on.module.name for on in each.modules] for each in records if isinstance(each, CrashStack)] == [stack]
    assert [each for each in records if isinstance(each, Narrowed)] == ([left_out] if left_out else [])


def test_a_source_asks_which_names_are_wanted() -> None:
    assert InputOptions().names() is None
    assert InputOptions().names("kernel", "drivers").takes("x.sys")  # type: ignore[union-attr]  # there is a default
    assert not InputOptions(only=("user-core",)).names("kernel").takes("hal.dll")  # type: ignore[union-attr]  # the same
