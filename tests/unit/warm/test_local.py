from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.synth.cab import SynthFolder, build_cabinet
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.config import load_config
from symcache.events import Planned, Settled
from symcache.formats.pe.version import VersionInfo
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.records import CrashStack, Input, InputKind, Module, PdbFormat, PdbReference, StackModule
from symcache.stores.disk import DiskSource
from symcache.stores.links import Link, StoreLinks
from symcache.stores.results import Cause, Missing, Present
from symcache.warm.local import LocalRun
from symcache.warm.makers import Maker
from symcache.warm.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.events import Event
    from symcache.identity import Key
    from symcache.inputs.records import Record
    from symcache.warm.report import Report

KEYS = [PdbKey(f"m{number}.pdb", UUID(int=number + 1), 1) for number in range(200)]


def modules(keys: list[PdbKey]) -> list[Module]:
    return [Module(key.name, pdbs=(PdbReference(key, PdbFormat.NATIVE),)) for key in keys]


def content(key: PdbKey) -> bytes:
    return make_pdb(NativePdbSpec(key.guid, key.age))


def put(root: Path, key: PdbKey, data: bytes | None = None, *, name: str | None = None) -> Path:
    path = root / key.name / key.id / (name or key.name)
    path.parent.mkdir(parents=True)
    path.write_bytes(content(key) if data is None else data)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sym"


@pytest.fixture
def source(root: Path, tmp_path: Path) -> Iterator[DiskSource]:
    file = tmp_path / "symcache.toml"
    file.write_text("[exclusions]\nnames = ['m1?.pdb']\n")
    with closing(DiskSource(load_config(file, {}, symbol_path=f"srv*{root}*https://one.test"))) as source:
        yield source


def causes(report: Report) -> dict[str | None, Cause | None]:
    return {symbol.index: symbol.cause for symbol in report.symbols}


def test_each_of_many_files_ends_as_one_alone_would(source: DiskSource, root: Path) -> None:
    put(root, KEYS[0])
    put(root, KEYS[12])
    put(root, KEYS[20], build_cabinet([SynthFolder([(KEYS[20].name, content(KEYS[20]))])]), name="m20.pd_")
    put(root, KEYS[21], content(KEYS[22]))
    put(root, KEYS[22], b"")
    with LocalRun(source) as run:
        together = run.check(modules(KEYS))
    alone: dict[str | None, Cause | None] = {}
    for key in KEYS:
        with LocalRun(source) as run:
            alone |= causes(run.check(modules([key])))
    assert causes(together) == alone
    assert [symbol.index for symbol in together.symbols] == [key.index for key in KEYS]
    assert isinstance(together.symbols[20].outcome, Present)
    assert {number for number, symbol in enumerate(together.symbols) if symbol.cause is None} == {0, 20}
    assert together.symbols[12].outcome == Missing(Cause.EXCLUDED)


def test_files_that_are_nowhere_are_not_looked_for_one_by_one(
    source: DiskSource, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, KEYS[21], content(KEYS[22]))
    looked: list[Key] = []
    monkeypatch.setattr(DiskSource, "find_for_debugger", lambda _self, key, _checksums: looked.append(key))
    with LocalRun(source) as run:
        run.check(modules(KEYS))
    assert looked == [KEYS[21]]


def test_a_check_says_how_much_is_wanted_before_it_looks(source: DiskSource) -> None:
    seen: list[Event] = []
    with LocalRun(source, observer=seen.append) as run:
        run.check(modules(KEYS[:2]))
    assert seen == [Planned(2), Settled(KEYS[0].index, "missing"), Settled(KEYS[1].index, "missing")]


def test_a_run_that_needs_no_network_says_so(source: DiskSource, root: Path) -> None:
    put(root, KEYS[0])
    seen: list[Event] = []
    with LocalRun(source, observer=seen.append, may_fetch=True) as run:
        assert run.begin(iter(modules(KEYS[:1])))
    assert seen == [Planned(1), Settled(KEYS[0].index, "present"), Planned(1)]
    with LocalRun(source, may_fetch=True) as run:
        assert not run.begin(iter(modules(KEYS[:2])))
        assert [symbol.state for symbol in run.report(is_interrupted=True).symbols] == ["present", "failed"]


def test_the_pdb_of_an_image_alone_needs_a_network(source: DiskSource) -> None:
    with LocalRun(source, may_fetch=True) as run:
        assert not run.begin(iter([Module("a.exe", image=ImageKey("a.exe", 1, 0x1000))]))


def test_it_can_be_ended_between_two_files(source: DiskSource) -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    with LocalRun(source) as run, pytest.raises(EndedError):
        run.check(modules(KEYS), end)


def test_inputs_without_a_module_are_empty(source: DiskSource, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with LocalRun(source) as run:
        assert run.check(run.open_inputs([tmp_path / "empty"])).is_empty
    with LocalRun(source) as run:
        assert not run.check([Input("x", InputKind.MANIFEST)]).is_empty


def test_a_store_cannot_say_that_a_native_pdb_lies_in_an_image_or_has_other_checksums(
    root: Path, source: DiskSource
) -> None:
    put(root, KEYS[1])
    images = [ImageKey(f"m{number}.dll", 0x5EADBEEF, 0x1000) for number in range(2)]
    for image, key in zip(images, KEYS, strict=False):
        assert StoreLinks(root).remember(image, [Link(key, is_embedded=True, checksums=("SHA256:00",))])
    with LocalRun(source) as run:
        report = run.check(iter(Module(image.name, image=image) for image in images))
    assert causes(report) == {KEYS[0].index: Cause.NOT_CACHED, KEYS[1].index: None}


def test_inputs_without_a_stack_are_named_where_only_stacks_count(source: DiskSource) -> None:
    first, second, *_ = modules(KEYS)
    stack = CrashStack((StackModule(first, 1),))
    with_stack: list[Record] = [Input("a.dmp", InputKind.MINIDUMP), first, stack]
    without: list[Record] = [Input("b.dmp", InputKind.MINIDUMP), second]
    for records, missing, code in (
        ([*with_stack, *without], ("b.dmp",), 3),
        (without, ("b.dmp",), 4),
        (with_stack, (), 3),
    ):
        with LocalRun(source, Plan(stack_only=True)) as run:
            report = run.check(records)
        assert report.without_stack == missing
        assert report.lacks_stack == (code == 4)
        assert report.exit_code() == code
        assert report.as_json().get("without_stack", []) == list(missing)
    with LocalRun(source) as run:
        assert run.check(without).without_stack == ()


def test_what_an_input_does_not_name_is_not_explained_by_another_input(tmp_path: Path) -> None:
    known, unknown = (
        Module("a.sys", pdbs=(PdbReference(KEYS[0], PdbFormat.NATIVE),), version=VersionInfo(company="Example GmbH")),
        Module("a.sys", problem="paged out"),
    )
    records: list[Record] = [Input("1.dmp", InputKind.MINIDUMP), known, Input("2.dmp", InputKind.MINIDUMP), unknown]
    with closing(DiskSource(load_config(symbol_path=f"srv*{tmp_path}"))) as source:
        symbols = LocalRun(source).check(records).symbols
    assert [symbol.maker for symbol in symbols] == [Maker("Example GmbH"), None]
