"""Each form of a report: what is in it, that it adds up, and that no name gets out of it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import StoreError, UsageError
from symcache.formats.pe.version import VersionInfo
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.detect import open_inputs
from symcache.inputs.records import ImageUse, Module, Unreadable
from symcache.reports.advice import group_by_cause, in_order_of_trouble, what_to_tell
from symcache.reports.files import SUFFIXES, report_text, write_report
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Hint, Missing, Present
from symcache.warm.makers import Maker, Origin, maker_of
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol

HOSTILE = '=cmd|"/c calc"!A1</script><img src=x onerror=alert(1)>`|\x1b[2J\n](http://evil.test)]]>&'


def pdb(name: str, number: int = 1) -> str:
    return PdbKey(name, UUID(int=0xABC << 100 | number), 1).index


URL = "https://symbols.test/download"
NO = Missing(Cause.NOT_PUBLISHED, (Attempt(URL, "404"),))
REPORT = Report(
    f"srv*/sym*{URL}",
    Path("/sym"),
    1.5,
    [
        Symbol(pdb("here.pdb"), FileKind.PDB, "here.sys", Present(Path("/sym/here.pdb"), 5)),
        Symbol(pdb("new.pdb"), FileKind.PDB, "new.sys", Fetched(Path("/sym/new.pdb"), 1_500_000, URL)),
        Symbol(pdb("one.pdb"), FileKind.PDB, "one.sys", NO),
        Symbol(pdb("two.pdb"), FileKind.PDB, "two.sys", NO),
        Symbol(ImageKey("two.sys", 0x5F001122, 0x9000).index, FileKind.IMAGE, "two.sys", NO, use=ImageUse.CODE),
        Symbol(
            pdb("page.pdb"),
            FileKind.PDB,
            "page.sys",
            Failed(Cause.WRONG_CONTENT, (Attempt(URL, "200, but an HTML page"),), hint=Hint.PAGE),
        ),
        Symbol(None, FileKind.PDB, HOSTILE, Missing(Cause.NO_IDENTITY), "paged out"),
        Symbol(pdb("in.pdb"), FileKind.PDB, "in.dll", Missing(Cause.EMBEDDED)),
    ],
    [Unreadable(f"{HOSTILE}.dmp", "it is empty", 0)],
)


class Page(HTMLParser):
    """What a browser makes of a page: rows of cells, all text, and the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        self._in_cell = self._in_cell or tag == "td"

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_html_has_each_file_once_with_trouble_first() -> None:
    page = Page(report_text(REPORT, ".html"))
    rows = [row for row in page.rows if row]
    assert [row[0] for row in rows] == ["failed", *["missing"] * 4, "present", "fetched", "missing"]
    assert sorted(filter(None, (row[2] for row in rows))) == sorted(
        filter(None, (each.index for each in REPORT.symbols))
    )
    assert rows[0][5] == f"wrong-content; page; {URL}: 200, but an HTML page"


def test_html_runs_its_own_script_alone_and_loads_nothing() -> None:
    page = Page(report_text(REPORT, ".html"))
    names = [name for name, _ in page.tags]
    assert names.count("script") == 1
    assert not {"img", "link", "iframe", "object"} & set(names)
    assert not any(name.startswith("on") or name in {"src", "href"} for _, attrs in page.tags for name in attrs)
    (policy,) = (attrs["content"] for name, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_junit_adds_up() -> None:
    root = ET.fromstring(report_text(REPORT, ".xml"))
    (suite,) = root
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) == 9
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 4
    assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error")) == 2
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped")) == 1
    (failure,) = (case.find("failure") for case in cases if case.attrib["name"] == pdb("one.pdb"))
    assert failure is not None
    assert failure.attrib["type"] == "not-published"
    assert failure.text == f"{URL}: 404"


def test_junit_fails_for_private_symbols_where_they_were_asked_for() -> None:
    (suite,) = ET.fromstring(report_text(replace(REPORT, private=[pdb("here.pdb")]), ".xml"))
    (case,) = suite.iterfind("testcase[failure][@classname='here.sys']")
    assert [failure.get("type") for failure in case] == ["private"]
    assert suite.get("failures") == str(len(suite.findall("testcase/failure")))
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))


def test_csv_has_a_row_for_each_file_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(report_text(REPORT, ".csv"))))
    assert len(rows) == len(REPORT.symbols)
    assert [row["state"] for row in rows][:2] == ["failed", "missing"]
    assert (rows[0]["cause"], rows[0]["hint"]) == ("wrong-content", "page")
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_markdown_says_what_is_wanting_and_acts_on_no_name() -> None:
    text = report_text(REPORT, ".md")
    assert text.startswith("**8 wanted: 1 present, 1 fetched")
    assert "### missing: not-published (3)" in text
    assert "here" not in text
    assert re.search(r"(?<!\\)\]\(|(?<!\\)`", text) is None
    assert "://e" not in text
    assert "<img" not in text


@pytest.mark.parametrize("name", ["www.evil.test", "WWW.evil.test", "@somebody", "a@evil.test", "http://evil.test"])
def test_no_name_is_a_link_or_a_mention_in_markdown(name: str) -> None:
    report = Report("srv*", None, 0.0, [Symbol(None, FileKind.PDB, name, Missing(Cause.NO_IDENTITY))])
    assert not re.search(r"(?i)www\.|@\w|://", report_text(report, ".md"))


def test_markdown_has_no_column_for_evidence_that_there_is_none_of() -> None:
    symbols = [Symbol(pdb(f"{each}.pdb"), FileKind.PDB, each, Missing(Cause.NOT_CACHED)) for each in "ab"]
    assert "evidence" not in report_text(Report("srv*", None, 0.0, symbols), ".md")


def test_what_is_on_the_stack_keeps_its_order_and_the_rest_is_by_maker() -> None:
    makers = {"c": ("Z", True), "b": ("A", True), "a": ("Z", False), "d": (None, False), "e": ("A", False)}
    symbols = [
        Symbol(pdb(name), FileKind.PDB, name, NO, origin=Origin(Maker(maker) if maker else None), on_stack=on_stack)
        for name, (maker, on_stack) in makers.items()
    ]
    (group,) = group_by_cause(symbols)
    assert [symbol.module for symbol in group.symbols] == ["c", "b", "e", "a", "d"]


def test_json_is_the_document_of_the_command() -> None:
    assert json.loads(report_text(REPORT, ".json")) == json.loads(json.dumps(REPORT.as_json(), default=str))


def test_text_has_every_file() -> None:
    text = report_text(REPORT, ".txt")
    assert all(symbol.index in text for symbol in REPORT.symbols if symbol.index)


def test_a_noisy_log_reads_back_to_the_same_files(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    write_report(REPORT, path)
    records = list(open_inputs([str(path)]))
    modules = [record for record in records if isinstance(record, Module)]
    pdbs = {reference.key.index for module in modules for reference in module.pdbs}
    assert pdbs == {symbol.index for symbol in REPORT.symbols if symbol.kind is FileKind.PDB and symbol.index}
    assert {module.image.index for module in modules if module.image} == {
        symbol.index for symbol in REPORT.symbols if symbol.kind is FileKind.IMAGE
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(name=st.text(max_size=40))
def test_any_name_stands_in_any_form(suffix: str, name: str) -> None:
    symbols = [Symbol(None, FileKind.PDB, name, Missing(Cause.NO_IDENTITY), name)]
    text = report_text(Report(name, None, 0.0, symbols), suffix)
    assert "\x1b" not in text
    if suffix == ".xml":
        ET.fromstring(text)
    if suffix == ".html":
        assert len([row for row in Page(text).rows if row]) == 1
    if suffix == ".csv":
        assert len(list(csv.reader(io.StringIO(text)))) == 2


def test_a_report_replaces_another_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "R.HTML"
    path.write_text("old")
    write_report(REPORT, path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the report cannot be written"):
        write_report(REPORT, tmp_path / "no" / "a.md")
    with pytest.raises(UsageError, match=r"named by its form: \.txt, \.json"):
        write_report(REPORT, tmp_path / "a.doc")


def test_what_was_answered_to_all_is_said_once() -> None:
    groups = {group.title: group for group in group_by_cause(REPORT.symbols)}
    assert groups["missing: not-published"].said == f"{URL}: 404"
    assert groups["failed: wrong-content, page"].said == ""
    assert re.search("(?m)^  https://symbols.test/download: 404$", report_text(REPORT, ".txt"))


def test_what_a_maker_has_to_know_stands_there_ready_to_be_sent() -> None:
    version = VersionInfo("Example GmbH", "Example Suite", file_version="1.2 (lab)", file_numbers=(1, 2, 3, 4))
    image = ImageKey("one.sys", 0x5F001122, 0x9000)
    origin = Origin(maker_of("one.sys", version), version, image, "\\SystemRoot\\one.sys", "10.0.19041", 19041)
    symbol = Symbol(pdb("one.pdb"), FileKind.PDB, "one.sys", NO, origin=origin)
    told = [
        "File:      one.sys 1.2 (lab)",
        "Made by:   Example GmbH, Example Suite",
        "Path:      \\SystemRoot\\one.sys",
        "Windows:   10.0.19041",
        "Image:     one.sys/5F0011229000/one.sys (time stamp 5F001122, size 0x9000)",
        "PDB:       one.pdb, GUID {0000ABC0-0000-0000-0000-000000000001}, age 1",
        f"Asked:     {URL}/{pdb('one.pdb')}: 404",
    ]
    assert list(what_to_tell(symbol)) == told
    report = Report("srv*", None, 0.0, [symbol])
    assert "\n".join(told) in report_text(report, ".txt")
    assert "\n".join(f"    {line}" for line in told) in report_text(report, ".md")
    assert "{0000ABC0-0000-0000-0000-000000000001}" in report_text(report, ".html")
    assert f"{URL}: 404" in report_text(report, ".csv")


def test_junit_has_no_element_or_attribute_that_ci_systems_do_not_know() -> None:
    known = {
        "testsuites": {"name", "tests", "failures", "errors", "time"},
        "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
        "properties": set(),
        "property": {"name", "value"},
        "testcase": {"classname", "name", "time"},
        "failure": {"type", "message"},
        "error": {"type", "message"},
        "skipped": {"message"},
        "system-out": set(),
    }
    order = ["properties", "testcase", "system-out"]
    root = ET.fromstring(report_text(REPORT, ".xml"))
    for element in root.iter():
        assert set(element.attrib) <= known[element.tag], element.tag
        assert {"name"} & known[element.tag] <= set(element.attrib)
    (suite,) = root
    places = [order.index(element.tag) for element in suite]
    assert places == sorted(places)
    assert all(len(case) <= 1 for case in suite.iter("testcase"))


def test_what_the_crash_is_about_comes_first() -> None:
    symbols = [replace(symbol, on_stack=symbol.module == "two.sys") for symbol in REPORT.symbols]
    assert [symbol.module for symbol in in_order_of_trouble(symbols)][:4] == [
        "two.sys",
        "two.sys",
        "one.sys",
        "page.sys",
    ]
    first, second, *_ = group_by_cause(symbols)
    assert [symbol.module for symbol in first.symbols] == ["two.sys", "two.sys", "one.sys"]
    assert second.title == "failed: wrong-content, page"
