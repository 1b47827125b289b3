from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.command import run, run_json
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pe import disk_bytes, plan_image

from symcache.identity import ImageKey, PdbKey
from symcache.synth.session import SESSION, write_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = ("pe", "pdb", "pdb-portable", "user-minidump", "kernel-triage")
FILES = [name for folder in FOLDERS for name in corpus_files(folder)]
GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")

# What tells the formats of PDBs apart in the facts.
_FORMATS = {"msf7": "native", "pdb2": "pdb2", "portable": "portable"}


def scan(*inputs: str | Path, code: int = 0) -> dict[str, Any]:
    document = run_json("scan", *inputs, code=code)
    assert document.keys() == {"schema", "inputs", "modules", "processes", "unreadable"}
    assert document["schema"] == "symcache.modules/1"
    return document


def index(name: str, id_: str) -> str:
    return f"{name}/{id_}/{name}"


def pdb_fact(name: str, fact: dict[str, Any], format_: str) -> dict[str, Any]:
    """Return what the document must say of a PDB, from what independent tools say."""
    fields: dict[str, Any] = {"name": name, "format": format_, "index": index(name, fact["pdb_key"])}
    if format_ == "pdb2":
        return fields | {"guid": None, "age": fact["age"], "signature": int(fact["signature"], 16)}
    age = fact["dbi_age"] if "dbi_age" in fact else fact["age"]
    return fields | {"guid": str(UUID(fact["guid"])), "age": age if format_ == "native" else None}


def image_fact(name: str, fact: dict[str, Any]) -> dict[str, Any]:
    """Return what the document must say of an image's key."""
    size = fact["size_of_image"] if "size_of_image" in fact else fact["size"]
    return {
        "name": name,
        "timestamp": int(fact["timestamp"], 16),
        "size_of_image": int(size, 16),
        "index": index(name, fact["image_key"]),
    }


def module_facts(path: str) -> Iterator[dict[str, Any]]:
    """Yield what the document must say of each module of a corpus file."""
    fact = truth()[path]
    name = Path(path).name
    where: dict[str, Any] = {"name": name, "path": str(corpus / path), "base": None, "unloaded": False}
    where["needs_image"] = None
    if fact["kind"] == "pe":
        pdbs = [image_pdb(view, fact) for view in fact["codeview"]]
        yield where | {"image": image_fact(name, fact), "pdbs": pdbs}
    elif fact["kind"] in {"pdb", "pdb-portable"}:
        format_ = _FORMATS[fact["format"]]
        fact = fact | {"age": None} if format_ == "portable" else fact
        yield where | {"image": None, "pdbs": [pdb_fact(name, fact, format_)]}
    else:
        yield from dump_facts(fact)


def image_pdb(view: dict[str, Any], fact: dict[str, Any]) -> dict[str, Any]:
    format_ = "pdb2" if view["format"] == "NB10" else "native"
    if view.get("portable"):
        format_ = "embedded" if "embedded_pdb" in fact else "portable"
    fields = pdb_fact(view["pdb_name"], view, format_)
    if view.get("portable") and "pdb_checksums" in fact:
        fields["checksums"] = [f"{each['algorithm']}:{each['hash']}" for each in fact["pdb_checksums"]]
    return fields


def dump_facts(fact: dict[str, Any]) -> Iterator[dict[str, Any]]:
    is_foreign = fact.get("os", "windows") != "windows"
    for unloaded, modules in ((False, fact["modules"]), (True, fact["unloaded_modules"])):
        for each in modules:
            view = each.get("codeview", {})
            has_pdb = "pdb_key" in view and not is_foreign
            has_image = each.get("image_key") is not None and not is_foreign
            yield {
                "name": each["name"],
                "path": each.get("path"),
                "base": f"0x{int(each['base'], 16):x}",
                "unloaded": unloaded,
                # Drivers that write the dump run as second copies; the file has the name without the prefix.
                "image": image_fact(each["name"].removeprefix("dump_"), each) if has_image else None,
                "pdbs": [pdb_fact(view["pdb_name"], view, "native")] if has_pdb else [],
                # None of these dumps holds all memory.
                "needs_image": None if unloaded or not has_image else "code" if has_pdb else "symbols",
            }


@pytest.fixture(scope="module")
def scanned() -> dict[str, Any]:
    """All real files in one run: a process for each would take most of a minute."""
    return scan(*(corpus / path for path in FILES))


@needs_corpus
@pytest.mark.parametrize("path", FILES)
def test_a_real_file_gives_what_independent_tools_found_and_nothing_else(path: str, scanned: dict[str, Any]) -> None:
    number = FILES.index(path)
    assert scanned["inputs"][number]["path"] == str(corpus / path)
    modules = [dict(module) for module in scanned["modules"] if module["input"] == number]
    problems = [module.pop("problem") for module in modules]
    # Of these, lists of user minidumps alone say it; tests/unit/inputs/test_minidump.py holds what they say.
    versions = [module.pop("version", None) for module in modules]
    assert not any(versions) or path.startswith("user-minidump/")
    expected = [{"input": number, **fact} for fact in module_facts(path)]
    assert modules == expected
    for module, problem in zip(modules, problems, strict=True):
        assert module["pdbs"] or problem, f"{module['name']} names no PDB, and nobody says why"


@needs_corpus
def test_inputs_are_read_in_their_order_and_all_of_them(scanned: dict[str, Any]) -> None:
    assert [given["path"] for given in scanned["inputs"]] == [str(corpus / path) for path in FILES]
    numbers = [module["input"] for module in scanned["modules"]]
    assert numbers == sorted(numbers)
    assert scanned["unreadable"] == []


@needs_corpus
def test_one_input_gives_what_it_gives_among_many(scanned: dict[str, Any]) -> None:
    number = FILES.index("user-minidump/calc_x86.dmp")
    alone = scan(corpus / FILES[number])
    assert alone["inputs"] == [scanned["inputs"][number]]
    assert [module | {"input": number} for module in alone["modules"]] == [
        module for module in scanned["modules"] if module["input"] == number
    ]


@needs_corpus
@pytest.mark.parametrize("folder", ["pe", "pdb"])
def test_a_folder_gives_what_its_files_give(folder: str) -> None:
    document = scan(corpus / folder)
    assert [given["kind"] for given in document["inputs"]] == ["folder"]
    found = sorted(module["path"] for module in document["modules"])
    assert found == sorted(str(corpus / path) for path in corpus_files(folder))


def keys(document: dict[str, Any]) -> Counter[str]:
    """Return the indexes of everything that a manifest has a line for."""
    return Counter(
        {
            each["index"]
            for module in document["modules"]
            for each in [module["image"], module.get("dbg"), *module["pdbs"]]
            if each is not None and each.get("format") != "embedded"
        }
    )


@needs_corpus
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_manifest_reads_back_to_the_same_keys(folder: str, tmp_path: Path) -> None:
    inputs = [corpus / path for path in corpus_files(folder)]
    manifest = tmp_path / "manifest.txt"
    done = run("scan", *inputs, "-o", manifest)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    back = scan(manifest)
    assert [given["kind"] for given in back["inputs"]] == ["manifest"]
    folded = {text.lower() for text in keys(back)}
    assert folded == {text.lower() for text in keys(scan(*inputs))}


def test_a_kernel_dump_lists_its_modules_in_order(tmp_path: Path) -> None:
    _, dump = write_inputs(tmp_path)
    document = scan(dump)
    assert document["inputs"][0]["kind"] == "kernel-dump"
    assert document["inputs"][0]["details"]["bugcheck_name"] == "MANUALLY_INITIATED_CRASH"
    found = [(module["path"], module["image"]["index"]) for module in document["modules"]]
    assert found == [(module.path, module.image.index) for module in SESSION]
    pdbs = [[pdb["index"] for pdb in module["pdbs"]] for module in document["modules"]]
    assert pdbs == [[] if module.is_paged_out else [module.pdb.index] for module in SESSION]


def test_a_manifest_is_what_symchk_writes(tmp_path: Path) -> None:
    image = ImageKey("a.dll", 0x5AB38077, 0xA9000)
    (tmp_path / "a.dll").write_bytes(disk_bytes(plan_image(image, PdbKey("a.pdb", GUID, 10))))
    run("scan", tmp_path / "a.dll", "-o", tmp_path / "manifest")
    assert (tmp_path / "manifest").read_text().splitlines() == [
        "a.pdb,2DCFE7E3D09648B94C4C44205044422EA,1",
        "a.dll,5ab38077a9000,1",
    ]


def test_a_manifest_goes_to_standard_output_too(tmp_path: Path) -> None:
    (tmp_path / "a.dll").write_bytes(disk_bytes(plan_image(ImageKey("a.dll", 1, 0x3000), PdbKey("a.pdb", GUID, 10))))
    done = run("scan", tmp_path / "a.dll", "-o", "-", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dll"]
    assert done.stdout.splitlines() == ["a.pdb,2DCFE7E3D09648B94C4C44205044422EA,1", "a.dll,000000013000,1"]
    assert run("scan", tmp_path / "a.dll", "-o", "-", "--json").returncode == 2


def test_images_of_one_pdb_keep_it_in_a_manifest(tmp_path: Path) -> None:
    content = disk_bytes(plan_image(ImageKey("a.dll", 1, 0x3000), PdbKey("a.pdb", GUID, 10)))
    for name in ("a.dll", "copy of a.dll", "again/a.dll"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    run("scan", tmp_path / "in", "-o", tmp_path / "manifest")
    assert len((tmp_path / "manifest").read_text().splitlines()) == 4
    modules = scan(tmp_path / "manifest")["modules"]
    assert sorted((module["name"], len(module["pdbs"])) for module in modules) == [("a.dll", 1), ("copy of a.dll", 1)]


def test_standard_input_is_an_input(tmp_path: Path) -> None:
    text = b"a.pdb/2DCFE7E3D09648B94C4C44205044422EA/a.pdb\n"
    done = run("scan", "-", "--json", stdin=text)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["inputs"] == [{"path": "-", "kind": "manifest", "details": {}}]
    assert [module["name"] for module in document["modules"]] == ["a.pdb"]


def test_what_cannot_be_read_is_reported_and_the_rest_done(tmp_path: Path) -> None:
    (tmp_path / "a.dll").write_bytes(disk_bytes(plan_image(ImageKey("a.dll", 1, 0x3000))))
    (tmp_path / "page.dmp").write_bytes(b"<html></html>")
    document = scan(tmp_path / "page.dmp", tmp_path / "none", tmp_path / "a.dll", code=4)
    assert [item["path"] for item in document["unreadable"]] == [str(tmp_path / "page.dmp"), str(tmp_path / "none")]
    assert [item["offset"] for item in document["unreadable"]] == [0, None]
    assert [module["name"] for module in document["modules"]] == ["a.dll"]


def test_the_text_has_a_line_for_each_key_and_counts_on_stderr(tmp_path: Path) -> None:
    _, dump = write_inputs(tmp_path)
    done = run("scan", dump)
    assert done.returncode == 0
    for module in SESSION:
        assert (module.image if module.is_paged_out else module.pdb).index in done.stdout
    assert "7 modules" in done.stderr
    assert run("scan", dump, "-q").stderr == ""


def test_names_that_a_terminal_would_act_on_are_made_visible(tmp_path: Path) -> None:
    evil = MinidumpModule("C:\\x\\\x1b]0;owned\x07\u202egnp.exe", 0x10000, 0x1000, 1, rsds_record(GUID, 1, "a.pdb"))
    (tmp_path / "m.dmp").write_bytes(build_minidump(MinidumpPlan(modules=[evil])))
    done = run("scan", tmp_path / "m.dmp")
    assert "\\x1b]0;owned\\x07\\u202egnp.exe" in done.stdout
    assert not set("\x1b\x07\u202e") & set(done.stdout + done.stderr)
    assert run_json("scan", tmp_path / "m.dmp")["modules"][0]["name"] == "\x1b]0;owned\x07\u202egnp.exe"


def test_no_input_is_wrong_usage() -> None:
    assert run("scan").returncode == 2


def test_a_manifest_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a.pdb/2DCFE7E3D09648B94C4C44205044422EA/a.pdb\n")
    done = run("scan", tmp_path / "list", "-o", tmp_path / "none" / "manifest")
    assert done.returncode == 1
    assert str(tmp_path / "none" / "manifest") in done.stderr
