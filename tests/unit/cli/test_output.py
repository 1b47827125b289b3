from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.cli.output import path_text, say_error, write_json, write_line, write_table
from symcache.cli.warm import write_report
from symcache.inputs.records import Unreadable
from symcache.reports.advice import evidence
from symcache.reports.lines import count_text, plain, size_text
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Missing, Present
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol

ESCAPE = "\x1b]0;owned\x07"
BIDI = "\u202egnp.exe"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe ☃ 記号", "größe ☃ 記号"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\tc\0", "a\\r\\nb\\tc\\x00"),
        (BIDI, "\\u202egnp.exe"),
        ("a\u2028b\u200bc", "a\\u2028b\\u200bc"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_a_terminal_would_act_on_is_made_visible(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text())
def test_whatever_is_shown_can_be_printed(text: str) -> None:
    assert plain(text).isprintable()


def test_columns_line_up_and_the_last_is_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    write_table([("a", "bbb", "the rest of it"), ("aaa", "b", ""), ("", "", "x")])
    assert capsys.readouterr().out == "a    bbb  the rest of it\naaa  b\n          x\n"


def test_a_table_of_nothing_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_table([])
    assert capsys.readouterr().out == ""


def test_a_cell_is_as_wide_as_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    write_table([(ESCAPE, "x"), ("a", "y")])
    first, second = capsys.readouterr().out.splitlines()
    assert "\x1b" not in first
    assert first.index("x", len(plain(ESCAPE))) == second.index("y")


def test_results_and_the_rest_go_apart(capsys: pytest.CaptureFixture[str]) -> None:
    write_line("result")
    say_error(f"x{ESCAPE}")
    assert capsys.readouterr() == ("result\n", "symcache: x\\x1b]0;owned\\x07\n")


def test_a_document_is_ascii_and_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"name": ESCAPE + BIDI + "\udcff"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out)["name"] == ESCAPE + BIDI + "\udcff"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (1_234_567, "1.2 MB"),
        (5_000_000_000, "5.0 GB"),
        (1 << 50, "1125.9 TB"),
    ],
)
def test_lengths_are_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


def test_one_is_not_many() -> None:
    assert [count_text(count, "file") for count in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


NAME = "secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb"
NO = Missing(
    Cause.NOT_PUBLISHED,
    (
        Attempt("https://a.test", "404"),
        Attempt("https://a.test", "404", "secdrv.pd_"),
        Attempt("https://b.test", "410"),
    ),
)
REPORT = Report(
    "srv*/sym*https://a.test",
    Path("/sym"),
    1.26,
    [
        Symbol("a.pdb/00/a.pdb", FileKind.PDB, "a.sys", Present(Path("/sym/a"), 5)),
        Symbol(
            "b.pdb/00/b.pdb", FileKind.PDB, "b.sys", Fetched(Path("/sym/b"), 1_500_000, "https://a.test", note="odd")
        ),
        Symbol(None, FileKind.PDB, f"x{ESCAPE}.sys", Missing(Cause.NO_IDENTITY), "paged out"),
        Symbol(NAME, FileKind.PDB, "secdrv.sys", NO),
        Symbol("c.pdb/00/c.pdb", FileKind.PDB, "c.sys", Failed(Cause.UNAVAILABLE, (), "https://a.test: 503")),
        Symbol("d.pdb/00/d.pdb", FileKind.PDB, "d.dll", Missing(Cause.EMBEDDED)),
    ],
    [Unreadable("x\n.dmp", "it is empty", 0), Unreadable("y.dmp", "no such file")],
)


def text(
    capsys: pytest.CaptureFixture[str], report: Report = REPORT, *, quiet: bool = False, verbose: bool = False
) -> str:
    write_report(report, quiet=quiet, verbose=verbose)
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_report_tells_what_is_wanting_and_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert text(capsys).splitlines() == [
        "failed: unavailable (1) - try again later; symcache goes on where it was",
        "  c.pdb/00/c.pdb  c.sys  https://a.test: 503",
        "",
        "missing: not-published (1) - no server of the symbol path has it; ask its maker, or add a server that does",
        f"  {NAME}  secdrv.sys  https://a.test: 404; https://b.test: 410",
        "",
        "missing: no-identity (1) - the input does not hold enough to name it; a fuller dump or the image itself would",
        "  x\\x1b]0;owned\\x07.sys  paged out",
        "",
        "unreadable: x\\n.dmp: it is empty (at 0x0)",
        "unreadable: y.dmp: no such file",
        "6 wanted: 1 present, 1 fetched (1.5 MB), 3 missing (1 with nothing to fetch), 1 failed, in 1.3 s",
        f"store: {Path('/sym')}",
    ]


def test_a_report_told_in_full_has_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    lines = text(capsys, verbose=True).splitlines()
    assert "present  a.pdb/00/a.pdb  a.sys" in lines
    assert "fetched  b.pdb/00/b.pdb  b.sys  https://a.test  odd" in lines
    assert "missing: embedded (1) - the PDB lies in the image itself; there is nothing to fetch" in lines


def test_a_quiet_report_has_only_what_is_wanting(capsys: pytest.CaptureFixture[str]) -> None:
    out = text(capsys, quiet=True)
    assert NAME in out
    assert "wanted:" not in out
    assert text(capsys, Report("srv*", None, 0.0, REPORT.symbols[:2]), quiet=True) == ""


def test_an_interrupted_report_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert text(capsys, Report("srv*", None, 0.0, [], is_interrupted=True)).endswith("in 0.0 s; interrupted\n")


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_is_told_with_what_to_do(cause: Cause, capsys: pytest.CaptureFixture[str]) -> None:
    failed = {Cause.UNAVAILABLE, Cause.REFUSED, Cause.WRONG_CONTENT, Cause.DISK}
    outcome = Failed(cause) if cause in failed else Missing(cause)
    out = text(capsys, Report("srv*", None, 0.0, [Symbol(NAME, FileKind.PDB, "a.sys", outcome)]), verbose=True)
    assert f"{cause.value} (1) - " in out
    assert NAME in out


def test_evidence_is_what_was_answered_else_the_reason() -> None:
    assert evidence(REPORT.symbols[3]) == "https://a.test: 404; https://b.test: 410"
    assert evidence(REPORT.symbols[2]) == "paged out"
    assert evidence(REPORT.symbols[0]) == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


KITTY = {"TERM": "xterm-kitty"}
LINK = re.compile("\x1b]8;;([!-~]*)\x1b\\\\([^\x1b]*)\x1b]8;;\x1b\\\\")
_DECIDE = [
    *("TERM", "TERM_PROGRAM", "WT_SESSION", "VTE_VERSION", "KONSOLE_VERSION", "NO_COLOR", "SSH_CONNECTION", "SSH_TTY"),
    *("WSL_DISTRO_NAME", "TMUX", "STY", "ZELLIJ"),
]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that tells nothing of its terminal."""
    for name in _DECIDE:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "links"),
    [
        (KITTY, True),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, True),
        ({"WT_SESSION": "4d2a"}, True),
        ({"VTE_VERSION": "7600"}, True),
        ({"KONSOLE_VERSION": "230800"}, True),
        ({"VTE_VERSION": "5000"}, False),
        ({"VTE_VERSION": "9" * 5000}, False),
        ({"KONSOLE_VERSION": "many"}, False),
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "linux"}, False),
        ({}, False),
        ({**KITTY, "NO_COLOR": "1"}, False),
        ({**KITTY, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, False),
        ({**KITTY, "TMUX": "/tmp/tmux-0/default,1,0"}, False),
        ({"WT_SESSION": "4d2a", "WSL_DISTRO_NAME": "Debian"}, False),
        ({"WT_SESSION": "4d2a", "TERM": "dumb"}, False),
    ],
    ids=str,
)
def test_a_path_is_a_link_where_the_terminal_is_known_for_it(
    variables: dict[str, str], links: bool, bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        bare.setenv(name, value)
    text = path_text(tmp_path, Terminal())
    found = LINK.fullmatch(text)
    assert bool(found) is links
    assert (found[2] if found else text) == str(tmp_path)
    assert path_text(tmp_path, io.StringIO()) == str(tmp_path)


def test_who_wants_no_colours_gets_no_links(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("TERM", "xterm-kitty")
    with click.Context(click.Command("x")) as context:
        assert "\x1b" in path_text(Path("/sym"), Terminal())
        context.color = False
        assert path_text(Path("/sym"), Terminal()) == str(Path("/sym"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize(
    "name", [ESCAPE, "\x1b\\", "a;b\x07", "%1b%5c", "größe 記号", "\x9c", "a\nb", "\udcff", BIDI, "?#&"], ids=ascii
)
def test_no_name_ends_the_link_that_it_is_in(name: str, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("TERM", "xterm-kitty")
    path = Path("/tmp", name)
    found = LINK.fullmatch(path_text(path, Terminal()))
    assert found is not None
    parts = urlsplit(found[1])
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("file", "", "", "")
    assert unquote_to_bytes(parts.path) == os.fsencode(path)
    assert found[2] == plain(str(path))


def test_a_link_that_is_too_long_is_left_out(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("TERM", "xterm-kitty")
    path = Path("/" + "n" * 2100)
    assert path_text(path, Terminal()) == str(path)


def test_a_password_in_a_path_is_neither_shown_nor_linked(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("TERM", "xterm-kitty")
    text = path_text(Path("/sym/u:hunter2@host"), Terminal())
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_a_report_links_its_store(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("TERM", "xterm-kitty")
    terminal = Terminal()
    bare.setattr("sys.stdout", terminal)
    write_report(Report("srv*", tmp_path, 1.0, []), quiet=False, verbose=False)
    last = terminal.getvalue().splitlines()[-1]
    assert LINK.fullmatch(last.removeprefix("store: ")), last
