"""Complete means that the debugger finds everything, offline: a store is filled, the server goes, the engine comes."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from support.command import run, run_json
from support.dbgeng import windows_path
from support.debuggees import DEBUGGEES, DOTNET
from support.shared import corpus, corpus_files, needs_corpus
from support.sources import cabinet
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.upstream import Upstream

from symcache.identity import ImageKey, PdbKey, compressed_name, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from support.dbgeng import Engine, Session
    from support.debuggees import Debuggee


@pytest.fixture(params=DEBUGGEES)
def debuggee(request: pytest.FixtureRequest, tmp_path: Path) -> Debuggee:
    return (DEBUGGEES | DOTNET)[request.param](tmp_path)


@pytest.fixture
def server(debuggee: Debuggee) -> Iterator[Upstream]:
    with Upstream(debuggee.published, case_insensitive=True) as upstream:
        yield upstream


def commands(debuggee: Debuggee, report: dict[str, Any]) -> list[str]:
    """Return what a person types: what the report says, everything loaded, code where the dump has none."""
    by_hand = [symbol["reload"] for symbol in report["symbols"] if "reload" in symbol]
    process = [f".process /r /p {debuggee.process:x}", ".reload /user /f", "lmu"] if debuggee.process else []
    code = [f"u {place} L1" for place in debuggee.code]
    return [".reload /f", "lm", *by_hand, *code, *process, "lm"]


def warm(debuggee: Debuggee, server: Upstream, store: Path) -> dict[str, Any]:
    return run_json("warm", debuggee.dump, "-y", f"srv*{store}*{server.url}", "--allow-missing")


def check(debuggee: Debuggee, *stores: Path) -> dict[str, Any]:
    return run_json("check", debuggee.dump, "-y", f"srv*{'*'.join(map(str, stores))}", "--allow-missing")


def bare_modules(session: Session) -> set[str]:
    return {name for name, module in session.modules().items() if not module.has_symbols}


def indexes_of(report: dict[str, Any]) -> set[str]:
    """Return every file that *report* calls wanted; an image that names no PDB leaves nothing to want."""
    symbols = (symbol for symbol in report["symbols"] if symbol["index"] and symbol["cause"] != "no-debug-record")
    return {fold(symbol["index"]) for symbol in symbols}


def asked_indexes(server: Upstream) -> set[str]:
    """Return every file that was asked for, by its plain name."""
    paths = (fold(request.path.strip("/")) for request in server.requests)
    return {path for path in paths if path.count("/") == 2 and path.split("/")[0] == path.split("/")[2]}


def ids_of(indexes: Iterable[str]) -> set[str]:
    return {fold(index.split("/")[1]) for index in indexes}


def files_in(store: Path) -> set[str]:
    paths = (path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file())
    return {path for path in paths if path.count("/") == 2 and not path.startswith(".symcache/")}


def test_offline_the_engine_finds_everything_that_is_published(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    report = warm(debuggee, server, store)
    server.close()
    session = engine.open(debuggee.dump, f"srv*{windows_path(store)}", *commands(debuggee, report))

    before = {name for name, module in _first_list(session).items() if not module}
    assert before == debuggee.bare | debuggee.by_hand
    assert bare_modules(session) == debuggee.bare
    for place in debuggee.code:
        said = session.said(f"u {place} L1")
        assert re.search(r"^[0-9a-f`]+ [0-9a-f]{2,} ", said, re.MULTILINE), said
    if debuggee.process:
        users = session.modules("lmu")
        assert set(users) == debuggee.users
        assert all(module.has_symbols for module in users.values())


def _first_list(session: Session) -> dict[str, bool]:
    """Return whether each module had symbols when they were first listed."""
    first = session.text.partition("\n0:000> lm\n")[2].partition("\n0:000> ")[0]
    return {name: module.has_symbols for name, module in type(session)(f"\n0:000> lm\n{first}").modules().items()}


# What the engine asks for and symcache does not want, by the file's name or id, and why.
NOT_WANTED = {
    "a stamp that stands for a header that is not in the dump": re.compile(r"[^/]+/fffffffe[0-9a-f]+/"),
    "no stamp at all: the triage dump has none of this driver": re.compile(r"[^/]+/0{32}[0-9a-f]+/"),
    "a .dbg file, which no build of this century makes; an image that has one names it": re.compile(r"[^/]+\.dbg/"),
}


def test_what_the_engine_asks_for_is_what_is_wanted_and_nothing_else_is_fetched(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    report = warm(debuggee, server, store)
    wanted = indexes_of(check(debuggee, store))
    assert wanted == indexes_of(report)

    server.requests.clear()
    cold = f"srv*{windows_path(tmp_path / 'engine')}*{server.url}"
    engine.open(debuggee.dump, cold, *commands(debuggee, report))
    known = {index for index in asked_indexes(server) if not any(form.match(index) for form in NOT_WANTED.values())}
    # Under whichever of its names an image is asked for or stored, its stamp and size are the same.
    listed = {index.split("/")[1]: index for index in wanted}
    assert {listed.get(index.split("/")[1], index) for index in known} == wanted
    assert ids_of(files_in(store)) <= listed.keys()


COMPLETENESS = ["x64 kernel", "x64 triage", "minidump"]


@pytest.mark.parametrize("debuggee", COMPLETENESS, indirect=True)
def test_check_calls_complete_what_the_engine_finds_complete(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    report = warm(debuggee, server, store)
    server.close()
    published = {symbol["index"] for symbol in report["symbols"] if symbol["state"] == "fetched"}

    def lacking() -> set[str]:
        symbols = check(debuggee, store)["symbols"]
        return {symbol["index"] for symbol in symbols if symbol["cause"] == "not-cached"} & published

    assert lacking() == set()
    gone = next(symbol for symbol in report["symbols"] if symbol["kind"] == "pdb" and symbol["state"] == "fetched")
    shutil.rmtree(store / gone["index"].rpartition("/")[0])
    assert lacking() == {gone["index"]}
    session = engine.open(debuggee.dump, f"srv*{windows_path(store)}", *commands(debuggee, report))
    assert len(bare_modules(session)) == len(debuggee.bare) + 1


@pytest.mark.parametrize("debuggee", ["x64 triage"], indirect=True)
def test_a_missing_image_keeps_the_engine_from_the_pdb_that_the_report_names(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    report = warm(debuggee, server, store)
    server.close()
    (image,) = (symbol for symbol in report["symbols"] if symbol["module"] == "whole.sys" and symbol["kind"] == "image")
    shutil.rmtree(store / image["index"].rpartition("/")[0])
    (missing,) = (symbol for symbol in check(debuggee, store)["symbols"] if "keeps_from_loading" in symbol)
    assert missing["index"] == image["index"]
    assert [index.partition("/")[0] for index in missing["keeps_from_loading"]] == ["whole.pdb"]
    session = engine.open(debuggee.dump, f"srv*{windows_path(store)}", *commands(debuggee, report))
    assert bare_modules(session) == debuggee.bare | {"whole"}


@pytest.mark.parametrize("debuggee", ["x64 triage"], indirect=True)
def test_a_store_of_cabinets_is_complete_for_an_engine_with_a_downstream_store(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    warmed, packed = tmp_path / "sym", tmp_path / "packed"
    report = warm(debuggee, server, warmed)
    server.close()
    for index in files_in(warmed):
        target = packed / index
        target.parent.mkdir(parents=True)
        target.with_name(compressed_name(target.name)).write_bytes(cabinet((warmed / index).read_bytes(), target.name))
    shutil.rmtree(warmed)
    (packed / "pingme.txt").touch()

    present = {symbol["index"] for symbol in check(debuggee, packed)["symbols"] if symbol["state"] == "present"}
    fetched = {symbol["index"] for symbol in report["symbols"] if symbol["state"] == "fetched"}
    assert present == fetched
    path = f"srv*{windows_path(tmp_path / 'down')}*{windows_path(packed)}"
    assert bare_modules(engine.open(debuggee.dump, path, *commands(debuggee, report))) == debuggee.bare


def test_the_dump_of_the_demo_opens_and_everything_but_secdrv_loads(engine: Engine, tmp_path: Path) -> None:
    kept = tmp_path / "demo"
    assert run("demo", "--keep", kept).returncode == 0
    session = engine.open(kept / "MEMORY.DMP", f"srv*{windows_path(kept / 'store')}", ".reload /f", "lm")
    assert len(session.modules()) == 7
    assert bare_modules(session) == {"secdrv"}


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("kernel-triage"))
def test_every_module_of_a_real_triage_dump_loads_that_has_a_key(name: str, engine: Engine, tmp_path: Path) -> None:
    dump = corpus / name
    loaded = [module for module in run_json("scan", dump)["modules"] if module["image"] and not module["unloaded"]]
    files: dict[str, bytes] = {}
    for module in loaded:
        image = module["image"]
        pdb = PdbKey(f"{image['name'].rpartition('.')[0]}.pdb", uuid5(NAMESPACE_DNS, image["index"]), 1)
        plan = plan_image(ImageKey(image["name"], image["timestamp"], image["size_of_image"]), pdb)
        files |= {image["index"]: disk_bytes(plan), pdb.index: make_pdb(NativePdbSpec(pdb.guid, pdb.age))}
    store = tmp_path / "sym"
    with Upstream(files) as server:
        report = run_json("warm", dump, "-y", f"srv*{store}*{server.url}", "--allow-missing")
    assert [symbol for symbol in report["symbols"] if symbol["index"] and symbol["state"] == "missing"] == []
    assert files_in(store) >= files.keys()
    session = engine.open(dump, f"srv*{windows_path(store)}", ".reload /f", "lm")
    assert len(session.modules()) == len(loaded) > 100
    assert bare_modules(session) == set()


@pytest.mark.parametrize("debuggee", ["x64 kernel", "x64 triage", "x86 triage", "minidump"], indirect=True)
def test_a_transcript_leads_to_all_that_the_session_asked_for_in_vain(
    debuggee: Debuggee, engine: Engine, tmp_path: Path
) -> None:
    transcript, store = tmp_path / "session.log", tmp_path / "sym"
    with Upstream(case_insensitive=True) as empty:
        cold = f"srv*{windows_path(tmp_path / 'engine')}*{empty.url}"
        session = engine.open(debuggee.dump, cold, "!sym noisy", ".reload /f", "lm")
        asked = asked_indexes(empty)
    transcript.write_text(session.text, encoding="utf-8")
    wanted = indexes_of(run_json("check", transcript, "--store", store, "--allow-missing"))
    nameless = re.compile(r"[^/]+/(fffffffe|0{32})[0-9a-f]+/")  # of a header or stamp that is not in the dump
    assert ids_of(wanted) == ids_of(index for index in asked if not nameless.match(index))

    with Upstream(debuggee.published, case_insensitive=True) as server:
        run_json("warm", transcript, "-y", f"srv*{store}*{server.url}", "--allow-missing")
    session = engine.open(debuggee.dump, f"srv*{windows_path(store)}", ".reload /f", "lm")
    assert bare_modules(session) == debuggee.bare | debuggee.by_hand


LIBRARY = re.compile(r"(?:mscordaccore|mscordacwks|mscordbi|sos)[_.]")
LOOK_FOR_LIBRARIES = ".cordll -ve -u -l"
# This engine runs on x64, and nothing is published for it to read x86 with: a person takes the x86 debugger.
CROSS_X86 = re.compile(r"[^/]+_amd64_x86_")


@pytest.mark.parametrize("debuggee", DOTNET, indirect=True)
def test_the_libraries_of_a_runtime_that_the_engine_asks_for_are_wanted(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    report = warm(debuggee, server, store)
    assert report["managed"][0]["ready"]
    assert indexes_of(check(debuggee, store)) == indexes_of(report)

    server.requests.clear()
    engine.open(debuggee.dump, f"srv*{windows_path(tmp_path / 'engine')}*{server.url}", LOOK_FOR_LIBRARIES)
    asked = {index for index in asked_indexes(server) if LIBRARY.match(index)}
    assert asked
    assert {index for index in asked if not CROSS_X86.match(index)} <= indexes_of(report)


@pytest.mark.parametrize(
    "debuggee", [".NET Framework 4", ".NET 8, published under short names alone", "ARM64 .NET 8"], indirect=True
)
def test_offline_the_engine_opens_the_data_access_library_out_of_the_store(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    assert warm(debuggee, server, store)["managed"] == check(debuggee, store)["managed"]
    server.close()
    path = f"srv*{windows_path(store)}"
    said = engine.open(debuggee.dump, path, "!sym noisy", LOOK_FOR_LIBRARIES).said(LOOK_FOR_LIBRARIES)
    (opened,) = re.findall(r"^DBGHELP: (.+\\mscordac[^\\]+)\\.+ - OK$", said, re.MULTILINE)
    # What was written is no program: that the engine tries to load it is all that it can do with it.
    assert f"LoadLibrary({opened}" in said


@pytest.mark.parametrize("debuggee", [".NET 8"], indirect=True)
def test_check_calls_managed_debugging_ready_where_the_engine_has_what_it_needs(
    debuggee: Debuggee, server: Upstream, engine: Engine, tmp_path: Path
) -> None:
    store = tmp_path / "sym"
    warm(debuggee, server, store)
    server.close()
    (long,) = store.glob("mscordaccore_*")
    shutil.rmtree(long)  # what is left goes by the short name, by which this engine does not ask
    report = check(debuggee, store)
    lacking = {symbol["index"].partition("/")[0] for symbol in report["symbols"] if symbol["cause"] == "not-cached"}
    assert lacking == {"app.exe", long.name}
    assert not report["managed"][0]["ready"]
    path = f"srv*{windows_path(store)}"
    said = engine.open(debuggee.dump, path, "!sym noisy", LOOK_FOR_LIBRARIES).said(LOOK_FOR_LIBRARIES)
    assert "LoadLibrary(" not in said

    # Without a server the file is filed once more from what the store has.
    again = run_json("warm", debuggee.dump, "-y", f"srv*{store}", "--allow-missing")
    assert again["managed"][0]["ready"]
    assert next(long.glob("*/*")).is_file()
