"""The report of a run that goes wrong in every way, in each of its forms, and what makes CI fail."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.answers import cut, status
from support.browser import Browser
from support.command import run, run_json
from support.serving import publish
from support.shared import corpus, needs_corpus
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes
from support.synth.version import VersionPlan, version_bytes
from support.upstream import Upstream

from symcache.reports.files import SUFFIXES

SCREENSHOTS = os.environ.get("SYMCACHE_TEST_SCREENSHOTS")
FILES = [publish(f"driver{number:02}.pdb", number) for number in range(20)]
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
OTHER = publish("driver00.pdb", 999).content
CONFIG = "[network]\nretries = 0\nbackoff_s = 0.01\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every form of the report of one run: twelve of twenty files, and five ways to fail."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "symcache.toml").write_text(CONFIG)
    (folder / "wanted.txt").write_text("\n".join(each.index for each in FILES))
    with Upstream({each.index: each.content for each in FILES[:12]}) as upstream:
        upstream.always(FILES[12].index, status(200, PAGE, headers=[("Content-Type", "text/html")]))
        upstream.always(FILES[13].index, status(200, OTHER))
        upstream.always(FILES[14].index, status(200, FILES[14].content[:5000]))
        upstream.always(FILES[15].index, status(500))
        upstream.always(FILES[16].index, status(401))
        reports = [part for suffix in SUFFIXES for part in ("--report", folder / f"run{suffix}")]
        path = f"srv*{folder / 'store'}*{upstream.url}"
        done = run("warm", folder / "wanted.txt", "-y", path, "--config", folder / "symcache.toml", *reports)
    assert done.returncode == 1, done.stderr
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


def test_each_way_to_fail_has_its_own_advice(home: Path) -> None:
    said = (home / "said.txt").read_text(encoding="utf-8")
    headings = [line for line in said.splitlines() if " - " in line]
    assert [line.partition(" - ")[0] for line in headings] == [
        "failed: unavailable (1)",
        "failed: refused (1)",
        "failed: wrong-content (1)",
        "failed: wrong-content (1)",
        "failed: wrong-content (1)",
        "missing: not-published (3)",
    ]
    assert len({line.partition(" - ")[2] for line in headings}) == 6
    assert said.count(": 404") == 1  # once for all three
    assert "20 wanted: 0 present, 12 fetched" in said


def test_the_forms_agree(home: Path) -> None:
    document = json.loads((home / "run.json").read_text(encoding="utf-8"))
    states = {each["index"]: each["state"] for each in document["symbols"]}
    with (home / "run.csv").open(encoding="utf-8", newline="") as file:
        assert {row["index"]: row["state"] for row in csv.DictReader(file)} == states
    (suite,) = ET.parse(home / "run.xml").getroot()
    assert [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")] == ["20", "3", "5", "0"]
    assert "3 missing, 5 failed" in (home / "run.md").read_text(encoding="utf-8")
    assert all(index in (home / "run.txt").read_text(encoding="utf-8") for index in states)


def test_the_noisy_log_is_read_back_to_the_same_states(home: Path) -> None:
    config = ("--config", home / "symcache.toml", "--store", home / "store", "-y", "srv*")
    states = [
        {each["index"]: each["state"] for each in run_json("check", home / name, *config, code=3)["symbols"]}
        for name in ("wanted.txt", "run.log")
    ]
    assert states[0] == states[1]
    assert sorted(states[0].values()) == ["missing"] * 8 + ["present"] * 12


def test_a_noisy_run_says_of_each_file_what_its_log_does(home: Path, tmp_path: Path) -> None:
    """What was fetched before is found, and the rest is asked for where it is not."""
    log = tmp_path / "run.log"
    with Upstream({}) as upstream:
        config = ("--config", home / "symcache.toml", "-y", f"srv*{home / 'store'}*{upstream.url}")
        done = run("warm", "--noisy", home / "wanted.txt", *config, "--report", log)
    assert done.returncode == 3

    def questions(text: str) -> list[str]:
        return sorted(text.split("SYMSRV:  BYINDEX")[1:])

    said = done.stderr.removesuffix(f"report: {log}\n")
    assert len(questions(said)) == len(FILES)
    assert questions(said) == questions(log.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("wanted", "fail_on", "code"),
    [
        (slice(0, 20), [], 3),
        (slice(0, 20), ["failed"], 0),
        (slice(0, 20), ["images", "failed"], 0),
        (slice(0, 20), ["missing"], 3),
        (slice(0, 12), ["missing", "failed", "images"], 0),
        (slice(0, 12), ["private"], 3),
    ],
)
def test_ci_fails_on_what_it_says(home: Path, tmp_path: Path, wanted: slice, fail_on: list[str], code: int) -> None:
    listed = tmp_path / "wanted.txt"
    listed.write_text("\n".join(each.index for each in FILES[wanted]))
    options = [part for each in fail_on for part in ("--fail-on", each)]
    done = run("check", listed, "-y", f"srv*{home / 'store'}", *options)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("12 PDBs with private symbols" in done.stderr) is ("private" in fail_on)


def test_private_symbols_in_a_bundle_are_found_too(home: Path, tmp_path: Path) -> None:
    listed, bundle = tmp_path / "wanted.txt", tmp_path / "crash.symbols"
    listed.write_text("\n".join(each.index for each in FILES[:12]))
    assert run("export", listed, "-o", bundle, "-y", f"srv*{home / 'store'}").returncode == 0
    done = run("check", listed, "-y", f"srv*{bundle}", "--fail-on", "private")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "12 PDBs with private symbols" in done.stderr


def test_a_form_that_is_not_known_is_wrong_usage(home: Path) -> None:
    done = run("check", home / "wanted.txt", "--report", "report.doc")
    assert done.returncode == 2
    assert ".xml, .csv, .md or .log" in done.stderr


def test_a_folder_that_is_not_there_is_said_before_the_run(home: Path, tmp_path: Path) -> None:
    done = run("check", home / "wanted.txt", "-y", f"srv*{home / 'store'}", "--report", tmp_path / "no" / "report.md")
    assert (done.returncode, done.stdout) == (2, "")
    assert "report.md: there is no folder" in done.stderr


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_sorts_filters_and_prints(home: Path, tmp_path: Path, dark: bool) -> None:
    shown = "Array.from(document.querySelectorAll('tbody tr:not([hidden])'), row => row.children[{}].textContent)"
    with Browser(tmp_path) as browser:
        browser.open((home / "run.html").as_uri(), dark=dark)
        browser.wait("document.querySelector('#shown').textContent !== ''")
        assert browser.run(shown.format(0)) == ["failed"] * 5 + ["missing"] * 3
        browser.screenshot(Path(SCREENSHOTS or tmp_path) / f"report-{dark}.png")
        browser.run("document.querySelectorAll('th button')[1].click()")
        names = browser.run(shown.format(1))
        assert names == sorted(names)
        browser.run("document.querySelectorAll('th button')[1].click()")
        assert browser.run(shown.format(1)) == names[::-1]
        browser.run("document.querySelector('input[value=present]').click()")
        browser.run("document.querySelector('input[value=fetched]').click()")
        assert len(browser.run(shown.format(0))) == 20
        browser.run("document.querySelector('input[type=search]').value = 'sign credentials page'")
        browser.run("document.querySelector('input[type=search]').dispatchEvent(new Event('input'))")
        assert browser.run(shown.format(1)) == []
        browser.run("document.querySelector('input[type=search]').value = 'driver0 fetched'")
        browser.run("document.querySelector('input[type=search]').dispatchEvent(new Event('input'))")
        assert len(browser.run(shown.format(1))) == 10
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(22, 25, 29)") is dark
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.run("getComputedStyle(document.querySelector('form')).display") == "none"
        assert browser.complaints == []
        assert all(url.startswith("file:") for url in browser.requests if url != "about:blank")


@needs_corpus
def test_the_report_of_a_real_crash_says_what_matters_first(tmp_path: Path) -> None:
    """A small memory dump names images alone; six tenths of their PDBs are published, the rest fail in five ways."""
    dump = corpus / "kernel-triage" / "triage_x64_win10_19041.dmp"
    modules = run_json("scan", dump)["modules"]
    images = [module["image"] for module in modules if module["image"] is not None]
    files: dict[str, bytes] = {}
    pdbs = []
    for number, image in enumerate(images):
        stem = image["name"].rpartition(".")[0]
        published = publish(f"{stem}.pdb", number)
        texts = {"040904b0": {"CompanyName": "Example GmbH" if number % 10 == 9 else "Microsoft Corporation"}}
        plan = ImagePlan(
            image["timestamp"],
            image["size_of_image"],
            code_views=(CodeViewPlan(published.key.name, published.key.guid, 1),),
            versions=((1, 0x409, version_bytes(VersionPlan(texts))),),
        )
        files[image["index"]] = disk_bytes(plan)
        pdbs.append(published)
    ways = [
        status(200, PAGE, headers=[("Content-Type", "text/html")]),
        status(200, OTHER),
        status(500),
        None,  # not published
    ]
    config = tmp_path / "symcache.toml"
    config.write_text(CONFIG)
    with Upstream(files) as upstream:
        for number, published in enumerate(pdbs):
            if number % 10 < 6:
                upstream.files[published.index] = published.content
            elif (way := ways[number % 10 - 6]) is not None:
                upstream.always(published.index, way)
        upstream.files[pdbs[16].index] = pdbs[16].content  # of a module on the crash's stack
        upstream.always(pdbs[16].index, cut(at=1000))
        path = f"srv*{tmp_path / 'store'}*{upstream.url}"
        reports = ("--report", tmp_path / "r.html", "--report", tmp_path / "r.xml", "--report", tmp_path / "r.log")
        done = run("warm", dump, "-y", path, "--config", config, *reports)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    titles = [line.partition(" (")[0] for line in lines if " - " in line and not line.startswith(" ")]
    assert titles == [
        "failed: unavailable",
        "failed: wrong-content",
        "failed: wrong-content",
        "missing: not-published",
    ]
    assert len({line.partition(" - ")[2] for line in lines if " - " in line and not line.startswith(" ")}) == 4
    assert "Wdf01000.sys" in lines[1]
    assert "on the crash's stack" in lines[1]
    third_party = [line for line in lines if "Example GmbH" in line]
    assert len(third_party) == len([number for number in range(len(images)) if number % 10 == 9])
    assert lines[-1] == f"store: {tmp_path / 'store'}"
    assert any(line.startswith("the crash's stack: symbols for ") for line in lines)
    assert any(line.startswith("nt and hal: symbols for all 2") for line in lines)
    assert f"in the debugger: .sympath srv*{tmp_path / 'store'}" in lines
    (suite,) = ET.parse(tmp_path / "r.xml").getroot()
    assert lines[-2].startswith(f"{suite.attrib['tests']} wanted: ")
    again = [
        {
            each["index"]: each["state"]
            for each in run_json("check", read, "-y", path, code=3)["symbols"]
            if each["kind"] == "pdb"
        }
        for read in (dump, tmp_path / "r.log")
    ]
    assert again[0] == again[1]
