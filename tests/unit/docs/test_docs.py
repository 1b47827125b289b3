"""The documentation is held to what it says: links lead somewhere, sessions and examples come out as printed."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

import symcache
from symcache.cli.app import root
from symcache.errors import UsageError
from symcache.synth.session import make_published, write_inputs
from symcache.synth.upstream import LoopbackUpstream

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[3]
PAGES = sorted([*(PROJECT / "docs").glob("*.md"), PROJECT / "CHANGELOG.md", PROJECT / "README.md"])
MICROSOFT = "https://msdl.microsoft.com/download/symbols"
HOME = "/home/me"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def prose(page: Path) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings are linked, as GitHub and most others make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{page.name}: {target}"


def test_the_list_of_how_tos_names_each_of_them() -> None:
    text = (PROJECT / "docs" / "how-to.md").read_text(encoding="utf-8")
    assert re.findall(r"^- \[(.+)\]\(#", text, re.MULTILINE) == re.findall(r"^## (.+)$", text, re.MULTILINE)


@pages
def test_fences_are_closed_and_lines_are_not_too_long(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0
    long = [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith(("|", "    "))]
    assert long == []


@pytest.fixture
def url() -> Iterator[str]:
    with LoopbackUpstream(make_published()) as upstream:
        yield upstream.url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples take: MEMORY.DMP and the folder drivers."""
    here = tmp_path / "me"
    here.mkdir()
    write_inputs(here)
    monkeypatch.chdir(here)
    return here


class Session:
    """A shell of few words: ``export``, ``echo $?`` and symcache."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = {MICROSOFT: url, HOME: str(folder)}
        self._monkeypatch = monkeypatch
        self._status = 0

    def run(self, line: str) -> str:
        for shown, real in self._real.items():
            line = line.replace(shown, real)
        command, *arguments = shlex.split(line, comments=True)
        if command == "export":
            name, _, value = arguments[0].partition("=")
            self._monkeypatch.setenv(name, value)
            return ""
        if command == "echo":
            assert arguments == ["$?"]
            return f"{self._status}\n"
        assert command == "symcache", f"{command} is not run by the tests; mark the block as text"
        if ">" in arguments:
            arguments, (name,) = arguments[: arguments.index(">")], arguments[arguments.index(">") + 1 :]
        else:
            name = ""
        done = CliRunner().invoke(root, arguments)
        said, self._status = done.output, done.exit_code
        if isinstance(done.exception, UsageError):  # what `main` makes of it
            said, self._status = f"symcache: {done.exception}\n", 2
        else:
            assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        if name:
            Path(name).write_text(done.stdout, encoding="utf-8")
        return self._as_shown(done.stderr if name else said)

    def _as_shown(self, output: str) -> str:
        for shown, real in self._real.items():
            output = output.replace(real, shown)
        output = re.sub(r"at character \d+", "at character 18", output)  # it counts from the real folder's name
        output = re.sub(r"in \d+\.\d s$", "in 0.3 s", output, flags=re.MULTILINE)
        output = re.sub(r"\d+ ms\b", "9 ms", output)
        output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "2026-03-03 09:14 UTC", output)
        output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-03-02 09:14:05", output)
        return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "2026-03-02T09:14:05+00:00", output)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a session and what it is said to print."""
    for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = piece.partition("\n")
        yield command, output


def matches(said: str, printed: str) -> bool:
    """Compare line by line; blanks count as one, and a line of ``...`` stands for any lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == "..." else re.escape(" ".join(line.split())) + "\n"
        for line in said.splitlines()
    )
    return re.fullmatch(pattern, "".join(f"{' '.join(line.split())}\n" for line in printed.splitlines())) is not None


@pytest.mark.skipif(os.name == "nt", reason="sessions are shown with paths of Unix")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name)
def test_sessions_come_out_as_printed(page: Path, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(url, folder, monkeypatch)
    for block in blocks(page, "console"):
        for command, said in commands(block):
            printed = session.run(command)
            assert matches(said, printed), f"{page.name}: {command}\n{printed}"


@pytest.mark.parametrize("number", range(len(blocks(PROJECT / "docs" / "api.md", "python"))))
def test_an_example_runs(
    number: int, url: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stands alone; what it says it prints stands in comments ``# → …`` behind the lines that print."""
    code = blocks(PROJECT / "docs" / "api.md", "python")[number]
    said = re.findall(r"# → (.*)$", code, re.MULTILINE)
    code = code.replace(MICROSOFT, url).replace(HOME, folder.as_posix())
    exec(compile(code, "docs/api.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out.replace(url, MICROSOFT).replace(folder.as_posix(), HOME)
    assert printed.replace(str(folder), HOME).splitlines() == said


def test_every_public_name_stands_in_the_page_for_programs() -> None:
    text = (PROJECT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in symcache.__all__:
        assert re.search(rf"`(?:symcache\.)?{re.escape(name)}\b", text), name


def test_public_names_are_what_type_checkers_take_them_for() -> None:
    source = (PROJECT / "symcache" / "__init__.py").read_text(encoding="utf-8")
    imports = re.findall(r"^    from (symcache(?:\.\w+)+) import (\([^)]*\)|[^\n]*)$", source, re.MULTILINE)
    typed = {name: home for home, names in imports for name in re.findall(r"\w+", names)}
    assert set(typed) | {"__version__"} == set(symcache.__all__)
    for name, home in typed.items():
        module = __import__(home, fromlist=[name])
        assert getattr(symcache, name) is getattr(module, name)
    assert not hasattr(symcache, "nothing_of_that_name")
