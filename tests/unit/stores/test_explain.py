from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from support.answers import page, status
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.config import load_config
from symcache.identity import PdbKey, Tier, compressed_name, relative_parts
from symcache.stores.base import Form
from symcache.stores.local.tree import Store
from symcache.stores.source import Step, SymbolSource, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.upstream import Upstream

KEY = PdbKey("crash.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 2)
PDB = make_pdb(NativePdbSpec(KEY.guid, KEY.age))


async def steps(symbol_path: str, tmp_path: Path, text: str = "") -> list[Step]:
    file = tmp_path / "symcache.toml"
    file.write_text(f"network.retries = 0\n{text}")
    async with SymbolSource(load_config(file, {}, symbol_path=symbol_path)) as source:
        return [step async for step in explain(source, KEY)]


def fill(root: Path, content: bytes, form: Form = Form.PLAIN) -> None:
    with Store(root) as store:
        scratch = store.scratch()
        scratch.write_bytes(content)
        store.publish(scratch, KEY, form=form)


def brief(found: list[Step]) -> list[tuple[int, int, str]]:
    return [(step.element, step.place, step.answer) for step in found]


async def test_a_cascade_is_walked_and_nothing_is_copied(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {KEY.index: PDB}
    near, between = tmp_path / "near", tmp_path / "between"
    found = await steps(f"srv*{near}*{between}*{upstream.url}", tmp_path)
    size = len(PDB)
    assert brief(found) == [(0, 0, "not there"), (0, 1, "not there"), (0, 2, f"there, plain, {size} bytes")]
    assert found[2].copies == ((str(between), "plain"), (str(near), "plain"))
    assert [step.has_file for step in found] == [False, False, True]
    assert not near.exists()
    assert not between.exists()
    for request in upstream.requests:  # the head is enough for the answer, so the body may still be on its way
        await request.ended.reached()
    assert sum(request.sent_bytes for request in upstream.requests) == 1


async def test_a_cabinet_stays_one_between(upstream: Upstream, tmp_path: Path) -> None:
    packed = f"crash.pdb/{KEY.id}/{compressed_name(KEY.name)}"
    upstream.files = {packed: b"MSCF"}
    near, between = tmp_path / "near", tmp_path / "between"
    found = await steps(f"srv*{near}*{between}*{upstream.url}", tmp_path)
    assert found[2].answer == "there, compressed, 4 bytes"
    assert found[2].copies == ((str(between), "compressed"), (str(near), "plain"))


async def test_a_file_that_is_there_ends_the_walk(upstream: Upstream, tmp_path: Path) -> None:
    fill(tmp_path / "sym", PDB)
    found = await steps(f"srv*{tmp_path / 'sym'}*{upstream.url}", tmp_path)
    assert brief(found) == [(0, 0, f"there, plain, {len(PDB)} bytes")]
    assert found[0].copies == ()
    assert upstream.requests == []


async def test_a_damaged_file_does_not(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {KEY.index: PDB}
    fill(tmp_path / "sym", b"<html>")
    first, second = await steps(f"srv*{tmp_path / 'sym'}*{upstream.url}", tmp_path)
    assert first.answer.startswith("there, but ")
    assert not first.has_file
    assert second.has_file


async def test_a_plain_folder_answers_too(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "crash.pdb").write_bytes(PDB)
    found = await steps(f"srv*{tmp_path / 'sym'};{tmp_path / 'build'}", tmp_path)
    assert brief(found) == [(0, 0, "not there"), (1, 0, f"there, plain, {len(PDB)} bytes")]


async def test_every_server_is_named_with_its_answer(
    upstream: Upstream, make_upstream: Callable[[], Upstream], tmp_path: Path
) -> None:
    second, third = make_upstream(), make_upstream()
    second.always("*", status(503))
    third.always("*", page())
    urls = "*".join(server.url for server in (upstream, second, third))
    found = await steps(f"srv*{tmp_path / 'sym'}*{urls}", tmp_path)
    assert [step.answer for step in found][1:] == ["404, 404 (crash.pd_)", "503", "200, but an HTML page"]
    assert [step.name for step in found][1:] == [upstream.url, second.url, third.url]


async def test_a_remembered_miss_is_told_and_nobody_is_asked(upstream: Upstream, tmp_path: Path) -> None:
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    async with SymbolSource(load_config(None, {}, symbol_path=path)) as source:
        await source.fetch(KEY)
    asked = len(upstream.requests)
    assert (await steps(path, tmp_path))[1].answer.startswith("404, remembered until ")
    assert len(upstream.requests) == asked


async def test_a_two_tier_server_is_found_out(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {"index2.txt": b".", "/".join((*relative_parts(KEY, Tier.TWO), KEY.name)): PDB}
    found = await steps(f"srv*{tmp_path / 'sym'}*{upstream.url}", tmp_path)
    assert found[1].answer == f"there, plain, {len(PDB)} bytes"


async def test_a_server_that_has_no_such_files_is_not_asked(upstream: Upstream, tmp_path: Path) -> None:
    text = f"[[server]]\nurl = '{upstream.url}'\nholds = ['image']\n"
    found = await steps(f"srv*{tmp_path / 'sym'}*{upstream.url}", tmp_path, text)
    assert found[1].answer == "not asked, as it has no PDBs"
    assert upstream.requests == []


async def test_an_excluded_name_is_never_looked_for(upstream: Upstream, tmp_path: Path) -> None:
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    found = await steps(path, tmp_path, "exclusions.names = ['crash.*']")
    assert brief(found) == [(0, 0, "never looked for")]


async def test_the_document_has_every_field(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {KEY.index: PDB}
    *_, step = await steps(f"srv*{tmp_path / 'sym'}*{upstream.url}", tmp_path)
    assert replace(step, seconds=0.25).as_json() == {
        "element": 0,
        "place": 1,
        "name": upstream.url,
        "answer": f"there, plain, {len(PDB)} bytes",
        "has_file": True,
        "seconds": 0.25,
        "copies": [{"store": str(tmp_path / "sym"), "form": "plain"}],
    }
