from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.answers import Stall, page, status
from support.command import run, run_json, start
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.windows import held_open, interrupt, only_windows

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.nginx import Nginx
    from support.upstream import Upstream

PATIENCE_S = 60
ROOT = Path(__file__).resolve().parents[2]


# Real images and PDBs, laid out as an upstream store.


def wanted_pdbs(path: str) -> list[str]:
    """Return indexes of the PDBs that debuggers ask for, of a real image: of precompiled managed code two."""
    fact = truth()[path]
    native = [view for view in fact["codeview"] if not view.get("portable")]
    portable = [] if "embedded_pdb" in fact else [view for view in fact["codeview"] if view.get("portable")]
    if not any(view["pdb_name"].endswith(".ni.pdb") for view in native):
        native = native[-1:]
    return [f"{view['pdb_name']}/{view['pdb_key']}/{view['pdb_name']}" for view in [*native, *portable[-1:]]]


def image_index(path: str) -> str:
    name = Path(path).name
    return f"{name}/{truth()[path]['image_key']}/{name}"


IMAGES = corpus_files("pe")
# By what a key holds beside the name, as images call some of them by another name than they lie under here.
REAL_PDBS = {truth()[path]["pdb_key"]: path for folder in ("pdb-portable", "pdb") for path in corpus_files(folder)}
PUBLISHED = {
    index: corpus / REAL_PDBS[index.split("/")[1]]
    for index in chain.from_iterable(map(wanted_pdbs, IMAGES))
    if index.split("/")[1] in REAL_PDBS
}
COMPLETE = [path for path in IMAGES if PUBLISHED.keys() >= set(wanted_pdbs(path))]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every real image, and every real PDB that one of them names."""
    root = tmp_path_factory.mktemp("published")
    for index, source in [*PUBLISHED.items(), *((image_index(path), corpus / path) for path in IMAGES)]:
        at = root / index
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(source.read_bytes())
    return root


@pytest.fixture
def nginx(published: Path, make_nginx: Callable[[Path], Nginx]) -> Nginx:
    return make_nginx(published)


# Made-up ones.

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")


def make_module(number: int, *, code_bytes: int = 0x400, symbols_bytes: int = 0) -> tuple[str, bytes, str, bytes]:
    """Return index and content of an image and of the PDB that it names."""
    pdb = PdbKey(f"m{number}.pdb", UUID(int=GUID.int + number), 1)
    image = ImageKey(f"m{number}.dll", 0x5F000000 + number, 0x2000 + -(-code_bytes // 0x1000) * 0x1000)
    plan = plan_image(image, pdb)
    content = disk_bytes(
        type(plan)(plan.timestamp, plan.size_of_image, code_views=plan.code_views, payload_bytes=code_bytes)
    )
    return image.index, content, pdb.index, make_pdb(NativePdbSpec(pdb.guid, 1, payload_bytes=symbols_bytes))


def write_list(path: Path, *indexes: str) -> Path:
    path.write_text("".join(f"{index}\n" for index in indexes))
    return path


def path_to(store: Path, server: Upstream | Nginx) -> list[str]:
    return ["-y", f"srv*{store}*{server.url}"]


def files_in(store: Path) -> dict[str, bytes]:
    """Return what a debugger can see in a store, by index."""
    found = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    own = {name for name in found if name.startswith(".symcache/") or name == "pingme.txt"}
    return {name: path.read_bytes() for name, path in found.items() if name not in own}


def scratch_in(store: Path) -> list[Path]:
    return [path for path in (store / ".symcache" / "staging").rglob("*") if path.is_file()]


@needs_corpus
def test_an_empty_store_is_filled_with_the_very_files(nginx: Nginx, tmp_path: Path) -> None:
    store = tmp_path / "sym"
    document = run_json("warm", corpus / "pe", *path_to(store, nginx), "--allow-missing")
    assert files_in(store) == {index: source.read_bytes() for index, source in PUBLISHED.items()}
    # What is embedded in one image may be wanted as a file of its own by another.
    symbols = {symbol["index"]: symbol for symbol in document["symbols"] if symbol["cause"] != "embedded"}
    for index, source in PUBLISHED.items():
        found = symbols[index]
        assert (found["state"], found["cause"], found["upstream"]) == ("fetched", None, nginx.url)
        assert Path(found["path"]) == store / index
        assert found["bytes"] == source.stat().st_size
    missing = {index for index in chain.from_iterable(map(wanted_pdbs, IMAGES)) if index not in PUBLISHED}
    assert {index for index, each in symbols.items() if each["cause"] == "not-published"} == missing
    causes = {each["cause"] for each in document["symbols"]}
    assert causes == {None, "not-published", "no-debug-record", "embedded"}
    summary = document["summary"]
    assert (
        summary["wanted"]
        == len(document["symbols"])
        == sum(summary[state] for state in ("present", "fetched", "missing", "failed"))
    )
    assert summary["bytes"] == sum(source.stat().st_size for source in PUBLISHED.values())
    assert scratch_in(store) == []


@needs_corpus
def test_a_second_run_asks_nobody(nginx: Nginx, tmp_path: Path) -> None:
    arguments: list[str | Path] = [*(corpus / path for path in IMAGES), *path_to(tmp_path / "sym", nginx)]
    assert run("warm", *arguments).returncode == 3
    asked = len(nginx.requests())
    document = run_json("warm", *arguments, "--allow-missing")
    assert len(nginx.requests()) == asked
    assert document["summary"]["present"] == len(PUBLISHED)
    assert {each["cause"] for each in document["symbols"]} == {None, "remembered-miss", "no-debug-record", "embedded"}


@needs_corpus
def test_a_run_with_nothing_missing_exits_with_0_and_checks_without_a_network(nginx: Nginx, tmp_path: Path) -> None:
    inputs = [corpus / path for path in COMPLETE]
    options = path_to(tmp_path / "sym", nginx)
    assert run("warm", *inputs, *options).returncode == 0
    nginx.stop()
    document = run_json("check", *inputs, *options)
    assert document["summary"]["present"] == len(set(chain.from_iterable(map(wanted_pdbs, COMPLETE))))
    assert run("warm", *inputs, *options).returncode == 0


@needs_corpus
def test_images_are_fetched_on_request(nginx: Nginx, tmp_path: Path) -> None:
    store = tmp_path / "sym"
    inputs = [corpus / path for path in COMPLETE]
    document = run_json("warm", "--images", *inputs, *path_to(store, nginx))
    images = {image_index(path): (corpus / path).read_bytes() for path in COMPLETE}
    found = files_in(store)
    assert {index: found.get(index) for index in images} == images
    kinds = Counter(each["kind"] for each in document["symbols"] if each["state"] == "fetched")
    assert kinds["image"] == len(COMPLETE)


def test_check_finds_nothing_in_an_empty_store_and_asks_nobody(upstream: Upstream, tmp_path: Path) -> None:
    _, _, pdb, content = make_module(1)
    upstream.files[pdb] = content
    document = run_json("check", write_list(tmp_path / "list", pdb), *path_to(tmp_path / "sym", upstream), code=3)
    assert [(each["state"], each["cause"]) for each in document["symbols"]] == [("missing", "not-cached")]
    assert upstream.requests == []


@pytest.mark.parametrize("harm", ["cut", "replaced"])
def test_a_damaged_file_in_the_store_is_not_counted_and_fetched_again(
    harm: str, upstream: Upstream, tmp_path: Path
) -> None:
    _, _, pdb, content = make_module(1)
    upstream.files[pdb] = content
    store = tmp_path / "sym"
    arguments: list[str | Path] = [write_list(tmp_path / "list", pdb), *path_to(store, upstream)]
    assert run("warm", *arguments).returncode == 0
    (store / pdb).write_bytes(content[:5000] if harm == "cut" else make_module(2)[3])
    assert run("check", *arguments).returncode == 3
    assert run("warm", *arguments).returncode == 0
    assert files_in(store) == {pdb: content}


@only_windows
def test_a_damaged_file_that_a_debugger_has_open_fails_alone_and_is_mended_the_next_time(
    upstream: Upstream, tmp_path: Path
) -> None:
    (_, _, held, held_content), (_, _, free, free_content) = make_module(1), make_module(2)
    upstream.files |= {held: held_content, free: free_content}
    store = tmp_path / "sym"
    (store / held).parent.mkdir(parents=True)
    (store / held).write_bytes(held_content[:5000])
    arguments: list[str | Path] = [write_list(tmp_path / "list", held, free), *path_to(store, upstream)]
    for is_shared in (True, False):
        with held_open(store / held, is_shared=is_shared):
            document = run_json("warm", *arguments, code=1)
        ends = {each["index"]: (each["state"], each["cause"]) for each in document["symbols"]}
        assert ends[held] == ("failed", "disk")
        assert ends[free][0] in {"fetched", "present"}
        assert (store / held).read_bytes() == held_content[:5000]
        assert scratch_in(store) == []
    assert run("warm", *arguments).returncode == 0
    assert files_in(store) == {held: held_content, free: free_content}


@pytest.mark.parametrize("code_page", ["cp1252", "cp932", "ascii"])
def test_no_code_page_keeps_a_run_from_its_end(code_page: str, upstream: Upstream, tmp_path: Path) -> None:
    _, _, pdb, content = make_module(1)
    _, _, lost, _ = make_module(2)
    upstream.files[pdb] = content
    folder = tmp_path / "Zoë μ 日本"
    folder.mkdir()
    wanted = folder / "Liste ж.txt"
    wanted.write_text(f"# größer, больше\n{pdb}\n{lost}\n", encoding="utf-8")
    config = folder / "symcache.toml"
    config.write_text(f"[misses]\nfolder = '{folder / 'misses'}'\n", encoding="utf-8")
    arguments = [wanted, folder / "gone ж.dmp", "--config", config, *path_to(folder / "sym", upstream)]
    done = subprocess.run(
        [sys.executable, "-m", "symcache", "warm", "-v", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "PYTHONIOENCODING": code_page},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert b"Traceback" not in done.stderr
    assert lost.encode() in done.stdout
    assert files_in(folder / "sym") == {pdb: content}


def test_an_image_alone_leads_to_its_pdb_by_parts_of_it(tmp_path: Path, make_nginx: Callable[[Path], Nginx]) -> None:
    image, image_content, pdb, pdb_content = make_module(1, code_bytes=3_000_000, symbols_bytes=100_000)
    root = tmp_path / "published"
    for index, content in ((image, image_content), (pdb, pdb_content)):
        (root / index).parent.mkdir(parents=True)
        (root / index).write_bytes(content)
    nginx = make_nginx(root)
    manifest = tmp_path / "manifest.txt"
    name, id_, _ = image.split("/")
    manifest.write_text(f"{name},{id_.lower()},2\n")
    store = tmp_path / "sym"
    document = run_json("warm", manifest, *path_to(store, nginx))
    assert [(each["index"], each["module"]) for each in document["symbols"]] == [(pdb, name)]
    assert files_in(store) == {pdb: pdb_content}
    parts = [each for each in nginx.requests() if each.target.endswith(".dll") and each.status != 404]
    assert parts
    assert all(each.status == 206 for each in parts)
    assert sum(each.sent_bytes for each in parts) < 64 * 1024
    # What the image names is known from then on.
    asked = len(nginx.requests())
    assert run("warm", manifest, *path_to(store, nginx)).returncode == 0
    assert len(nginx.requests()) == asked


@contextmanager
def start_after(upstream: Upstream, index: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process once somebody has asked for *index*."""
    upstream.await_requests(1, index, timeout_s=PATIENCE_S)
    with start(*arguments) as process:
        yield process


def end_well(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


def test_two_processes_that_warm_one_store_request_each_file_once(upstream: Upstream, tmp_path: Path) -> None:
    modules = [make_module(number, symbols_bytes=200_000) for number in range(8)]
    upstream.files |= {pdb: content for _, _, pdb, content in modules}
    _, _, held, _ = modules[0]
    _, _, extra, content = make_module(99)
    upstream.files[extra] = content
    stall = Stall(after=50_000)
    upstream.script(held, stall)
    store = tmp_path / "sym"
    shared = write_list(tmp_path / "shared", *(pdb for _, _, pdb, _ in modules))
    extra_list = write_list(tmp_path / "extra", extra)
    with (
        start("warm", shared, *path_to(store, upstream), "--json") as first,
        start_after(upstream, held, "warm", shared, extra_list, *path_to(store, upstream), "--json") as second,
    ):
        # Only the second wants it, so by now both are at work.
        upstream.await_requests(1, extra, timeout_s=PATIENCE_S)
        stall.release()
        documents = [json.loads(end_well(process)) for process in (first, second)]
    assert Counter(request.path.lstrip("/") for request in upstream.requests) == dict.fromkeys(upstream.files, 1)
    assert files_in(store) == upstream.files
    fetched = [document["summary"]["fetched"] for document in documents]
    present = [document["summary"]["present"] for document in documents]
    assert (sum(fetched), sum(present)) == (9, 8)


@pytest.fixture
def stalled(upstream: Upstream, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[str | Path]]]:
    """A run that has brought one file of two, and half of the other."""
    (_, _, whole, whole_content), (_, _, half, half_content) = make_module(1), make_module(2, symbols_bytes=400_000)
    upstream.files |= {whole: whole_content, half: half_content}
    stall = Stall(after=200_000)
    upstream.script(half, stall)
    config = tmp_path / "one-by-one.toml"
    config.write_text("[network]\nconnections = 1\n")
    arguments: list[str | Path] = [write_list(tmp_path / "list", whole, half), "--config", config, "--json"]
    arguments += path_to(tmp_path / "sym", upstream)
    with start("warm", *arguments) as process:
        stall.reached.wait(PATIENCE_S)
        yield process, arguments


def test_a_run_that_is_killed_leaves_no_part_of_a_file(
    stalled: tuple[subprocess.Popen[str], list[str | Path]], upstream: Upstream, tmp_path: Path
) -> None:
    process, arguments = stalled
    store = tmp_path / "sym"
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    whole, half = upstream.files
    assert files_in(store) == {whole: upstream.files[whole]}
    assert scratch_in(store), "the test shows nothing if nothing was left"
    done = run("warm", *arguments)
    assert done.returncode == 0, done.stderr
    assert files_in(store) == upstream.files
    assert scratch_in(store) == []
    assert len(upstream.asked(whole)) == 1
    assert len(upstream.asked(half)) == 2


def test_an_interrupted_run_reports_what_it_has_and_keeps_it(
    stalled: tuple[subprocess.Popen[str], list[str | Path]], upstream: Upstream, tmp_path: Path
) -> None:
    process, _ = stalled
    interrupt(process)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    document = json.loads(out)
    whole, half = upstream.files
    assert {each["index"]: each["state"] for each in document["symbols"]} == {whole: "fetched", half: "failed"}
    assert "Traceback" not in err
    assert files_in(tmp_path / "sym") == {whole: upstream.files[whole]}
    assert scratch_in(tmp_path / "sym") == []


def test_the_documents_have_the_schema_of_the_design(upstream: Upstream, tmp_path: Path) -> None:
    _, _, pdb, content = make_module(1)
    _, _, lost, _ = make_module(2)
    upstream.files[pdb] = content
    (tmp_path / "bad.dmp").write_bytes(b"<html>")
    store = tmp_path / "sym"
    for command, code in (("warm", 4), ("check", 4)):
        document = run_json(
            command,
            write_list(tmp_path / "list", pdb, lost),
            tmp_path / "bad.dmp",
            *path_to(store, upstream),
            code=code,
        )
        assert document.keys() == {
            *(
                "schema",
                "symbol_path",
                "store",
                "seconds",
                "summary",
                "inputs",
                "images_left_out",
                "symbols",
                "unreadable",
            )
        }
        assert document["schema"] == "symcache.report/1"
        assert document["symbol_path"] == f"srv*{store}*{upstream.url}"
        assert document["store"] == str(store)
        assert document["seconds"] >= 0
        assert document["summary"].keys() == {"wanted", "present", "fetched", "missing", "failed", "bytes"}
        for symbol in document["symbols"]:
            assert symbol.keys() - {"detail", "note"} == {
                "index", "kind", "module", "state", "cause", "path", "upstream", "bytes", "attempts",
            }  # fmt: skip
            assert symbol["kind"] == "pdb"
            assert all(attempt.keys() - {"asked"} == {"upstream", "answer"} for attempt in symbol["attempts"])
        (unreadable,) = document["unreadable"]
        assert unreadable == {"path": str(tmp_path / "bad.dmp"), "problem": unreadable["problem"], "offset": 0}


@pytest.fixture
def impatient(tmp_path: Path) -> list[str | Path]:
    config = tmp_path / "impatient.toml"
    config.write_text("[network]\nretries = 0\n")
    return ["--config", config]


def outcomes(document: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {each["index"]: (each["state"], each["cause"]) for each in document["symbols"]}


def test_each_way_to_end_has_its_exit_code(upstream: Upstream, tmp_path: Path, impatient: list[str | Path]) -> None:
    """The worst counts: failed before unreadable before missing."""
    (_, _, there, content), (_, _, down, _), (_, _, gone, _) = make_module(1), make_module(2), make_module(3)
    upstream.files[there] = content
    upstream.always(down, status(503))
    bad = tmp_path / "bad.dmp"
    bad.write_bytes(b"<html>")
    options = [*path_to(tmp_path / "sym", upstream), *impatient]

    def code(*indexes: str, more: tuple[str | Path, ...] = ()) -> int:
        return run("warm", write_list(tmp_path / "list", *indexes), *more, *options).returncode

    assert code(there) == 0
    assert code(there, gone) == 3
    assert code(there, gone, more=("--allow-missing",)) == 0
    assert code(there, gone, more=(bad,)) == 4
    assert code(there, gone, down, more=(bad,)) == 1
    assert code(there, more=(bad,)) == 4
    assert run("warm", *options).returncode == 2
    assert run("warm", "x", "-y", "ftp://nowhere").returncode == 2
    assert run("warm", "x", "--config", tmp_path / "none.toml").returncode == 2


def test_each_answer_has_its_cause(upstream: Upstream, tmp_path: Path, impatient: list[str | Path]) -> None:
    indexes = {name: make_module(number)[2] for number, name in enumerate(("down", "wall", "page", "wrong", "gone"))}
    upstream.always(indexes["down"], status(503))
    upstream.always(indexes["wall"], status(403))
    upstream.always(indexes["page"], page(200))
    upstream.files[indexes["wrong"]] = make_module(77)[3]
    document = run_json(
        "warm",
        write_list(tmp_path / "list", *indexes.values()),
        *path_to(tmp_path / "sym", upstream),
        *impatient,
        code=1,
    )
    assert outcomes(document) == {
        indexes["down"]: ("failed", "unavailable"),
        indexes["wall"]: ("failed", "refused"),
        indexes["page"]: ("failed", "wrong-content"),
        indexes["wrong"]: ("failed", "wrong-content"),
        indexes["gone"]: ("missing", "not-published"),
    }
    assert files_in(tmp_path / "sym") == {}
    # Only the plain no is remembered.
    asked = len(upstream.requests)
    run("warm", write_list(tmp_path / "list", indexes["gone"]), *path_to(tmp_path / "sym", upstream))
    assert len(upstream.requests) == asked
    run("warm", write_list(tmp_path / "list", indexes["down"]), *path_to(tmp_path / "sym", upstream), *impatient)
    assert len(upstream.requests) > asked


def test_what_cannot_be_read_stops_nothing(upstream: Upstream, tmp_path: Path) -> None:
    _, _, pdb, content = make_module(1)
    upstream.files[pdb] = content
    inputs: list[str | Path] = [tmp_path / "none.dmp"]
    for name, data in {"empty": b"", "page": b"<!DOCTYPE html>", "cut": b"PAGEDU64" + bytes(100)}.items():
        (tmp_path / name).write_bytes(data)
        inputs.append(tmp_path / name)
    document = run_json(
        "warm", *inputs, write_list(tmp_path / "list", pdb), *path_to(tmp_path / "sym", upstream), code=4
    )
    assert [item["path"] for item in document["unreadable"]] == [str(path) for path in inputs]
    assert all(item["problem"] and "\n" not in item["problem"] for item in document["unreadable"])
    assert outcomes(document) == {pdb: ("fetched", None)}
    done = run("warm", *inputs, *path_to(tmp_path / "sym", upstream))
    assert done.stdout.count("unreadable: ") == 4
    assert "4 inputs could not be read" in done.stderr


@pytest.mark.parametrize("command", ["warm", "check"])
def test_a_log_that_identifies_nothing_is_no_success(command: str, upstream: Upstream, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("Microsoft (R) Windows Debugger Version 10.0.1 AMD64\n0:000> k\n", "utf-8")
    done = run(command, log, *path_to(tmp_path / "sym", upstream))
    assert (done.returncode, upstream.requests) == (4, [])
    assert "lm t n" in done.stdout
    assert "1 input could not be read" in done.stderr


def test_names_are_printed_safely(upstream: Upstream, tmp_path: Path) -> None:
    evil = "a\u202e\u200bb.pdb"
    (tmp_path / "list").write_text(
        f"{evil}/{GUID.hex.upper()}1/{evil}\n\x1b[31mx.pdb/{GUID.hex}1/\x1b[31mx.pdb\n", "utf-8"
    )
    folder = tmp_path / "in\x1b[2J"
    folder.mkdir()
    (folder / "m.dmp").write_bytes(b"MDMP")
    done = run("warm", tmp_path / "list", folder, "-v", *path_to(tmp_path / "sym", upstream))
    assert done.returncode == 4
    assert "a\\u202e\\u200bb.pdb" in done.stdout
    assert "\\x1b[2J" in done.stdout
    assert not set("\x1b\u202e\u200b") & set(done.stdout + done.stderr)


def test_a_report_in_words_says_what_is_missing_and_who_said_so(upstream: Upstream, tmp_path: Path) -> None:
    (_, _, pdb, content), (_, _, lost, _) = make_module(1), make_module(2)
    upstream.files[pdb] = content
    options: list[str | Path] = [write_list(tmp_path / "list", pdb, lost), *path_to(tmp_path / "sym", upstream)]
    done = run("warm", *options)
    assert f"{lost}" in done.stdout
    assert f"{upstream.url}: 404" in done.stdout
    assert "2 wanted: 0 present, 1 fetched" in done.stdout
    assert pdb not in done.stdout
    assert re.fullmatch(r"(\d of 2 files, .* so far\n)*", done.stderr)  # on a machine that takes seconds for it
    assert pdb in run("warm", "-v", *options).stdout
    quiet = run("warm", "-q", *options)
    assert (lost in quiet.stdout, "wanted" in quiet.stdout) == (True, False)


def test_secrets_are_in_no_output(make_upstream: Callable[..., Upstream], tmp_path: Path) -> None:
    upstream = make_upstream(credentials=("user", "hunter2"))
    (_, _, pdb, content), (_, _, lost, _) = make_module(1), make_module(2)
    upstream.files[pdb] = content
    url = upstream.url.replace("://", "://user:hunter2@")
    listed = write_list(tmp_path / "list", pdb, lost)
    for extra in ("--json", "-v"):
        done = run("warm", listed, "-y", f"srv*{tmp_path / 'sym'}*{url}", extra)
        assert done.returncode == 3
        assert "hunter2" not in done.stdout + done.stderr
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != listed]
    assert not any(b"hunter2" in data for data in kept)
