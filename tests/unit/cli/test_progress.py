from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from symcache.cli.output import _Bars, show_progress
from symcache.events import Noted, Planned, Settled, TransferAdvanced, TransferEnded, TransferStarted

MIB = 1 << 20


def start(bars: _Bars, number: int, size: int = 8 * MIB) -> str:
    index = f"big{number}.pdb/00/big{number}.pdb"
    bars.observe(TransferStarted(index, "https://one.test", size))
    return index


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> _Bars:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return _Bars()


def shown(bars: _Bars) -> str:
    console = Console(file=io.StringIO(), width=100, no_color=True, legacy_windows=False)
    console.print(bars._progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_bar_stands_for_the_whole(bars: _Bars) -> None:
    bars.observe(Planned(10))
    for number in range(3):
        bars.observe(Settled(f"{number}.pdb/00/{number}.pdb", "fetched"))
    out = shown(bars)
    assert len(out.splitlines()) == 1
    assert "symbols" in out
    assert "3/10  0 bytes" in out
    assert re.search(r"-?-?:?\d*-?:--|\d:\d\d:\d\d", out)  # time left, known or not


def test_bytes_and_their_rate_are_counted_over_all_transfers(bars: _Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(bars._progress, "get_time", lambda: now_s)
    first, second = start(bars, 1), start(bars, 2)
    for second_passed in range(1, 4):
        now_s = float(second_passed)
        bars.observe(TransferAdvanced(first, second_passed * 1_000_000, 8 * MIB))
        bars.observe(TransferAdvanced(second, second_passed * 500_000, 8 * MIB))
    assert "4.5 MB  1.8 MB/s" in shown(bars).splitlines()[0]  # counted from the first piece on: 3.5 MB in 2 s
    bars.observe(TransferEnded(first))
    assert "4.5 MB" in shown(bars).splitlines()[0]


def test_a_few_large_transfers_have_bars_of_their_own(bars: _Bars) -> None:
    bars.observe(Planned(20))
    indexes = [start(bars, number) for number in range(10)]
    start(bars, 99, size=1000)
    bars.observe(TransferAdvanced(indexes[0], MIB, 8 * MIB))
    out = shown(bars)
    assert len(out.splitlines()) == 1 + 6
    assert "big0.pdb" in out
    assert "1.0 MB of 8.4 MB" in out
    assert "big99.pdb" not in out
    for index in indexes:
        bars.observe(TransferEnded(index))
    assert len(shown(bars).splitlines()) == 1


def test_a_name_cannot_draw_on_the_terminal(bars: _Bars) -> None:
    bars.observe(TransferStarted("[bold]\x1b[2J/00/x", "https://one.test", 8 * MIB))
    out = shown(bars)
    assert "[bold]\\x1b[2J" in out
    assert "\x1b" not in out


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=True) as observe:
        observe(Noted("a host is left alone"))
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_are_notes_and_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=False) as observe:
        observe(Planned(1))
        observe(TransferStarted("a.pdb/00/a.pdb", "https://one.test", 8 * MIB))
        observe(Noted("a host\x1b is left alone"))
        observe(Settled("a.pdb/00/a.pdb", "fetched"))
    assert capsys.readouterr() == ("", "a host\\x1b is left alone\n")


SESSION = """
import click, sys
from symcache.cli.options import settings_options
from symcache.cli.output import show_progress
from symcache.events import Noted, Planned, Settled, TransferAdvanced, TransferStarted
@click.command()
@settings_options()
def session(settings):
    with show_progress(quiet=settings.quiet) as observe:
        observe(Planned(4))
        observe(TransferStarted("nt.pdb/00/nt.pdb", "https://one.test", 8000000))
        observe(TransferAdvanced("nt.pdb/00/nt.pdb", 2000000, 8000000))
        observe(Noted("one.test is left alone"))
        observe(Settled("a.pdb/00/a.pdb", "fetched"))
    print("the report")
session()
"""


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """Run a session whose stderr is a terminal; return what the terminal got."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on this system")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION, *arguments],
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[3]), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    got = b""
    try:
        while piece := os.read(ours, 65536):
            got += piece
    except OSError:  # Linux says so when the last one has closed the other end
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"the report\n")
    return got.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


def test_a_terminal_gets_bars_in_colour() -> None:
    got = on_a_terminal()
    assert "1/4" in got
    assert "nt.pdb" in got
    assert "2.0 MB of 8.0 MB" in got
    assert "one.test is left alone" in got
    assert COLOUR.search(got)


@pytest.mark.parametrize(
    ("arguments", "variables"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})], ids=["option", "variable"]
)
def test_colour_can_be_turned_off(arguments: list[str], variables: dict[str, str]) -> None:
    got = on_a_terminal(*arguments, **variables)
    assert "1/4" in got
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m", got)


def test_quiet_leaves_the_terminal_alone() -> None:
    assert on_a_terminal("-q") == ""
