from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from symcache.cli.bars import Bars
from symcache.cli.output import Lines, show_progress
from symcache.events import InputAdvanced, Noted, Planned, Settled, TransferAdvanced, TransferEnded, TransferStarted

MIB = 1 << 20


def start(bars: Bars, number: int, size: int = 8 * MIB) -> str:
    index = f"big{number}.pdb/00/big{number}.pdb"
    bars.observe(TransferStarted(index, "https://one.test", size))
    return index


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return Bars()


def shown(bars: Bars, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True, legacy_windows=False)
    console.print(bars._progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_bar_stands_for_the_whole(bars: Bars) -> None:
    bars.observe(Planned(10))
    for number in range(3):
        bars.observe(Settled(f"{number}.pdb/00/{number}.pdb", "fetched"))
    out = shown(bars)
    assert len(out.splitlines()) == 1
    assert "symbols" in out
    assert "3/10  0 bytes" in out
    assert re.search(r"-?-?:?\d*-?:--|\d:\d\d:\d\d", out)  # time left, known or not


def test_bytes_and_their_rate_are_counted_over_all_transfers(bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_few_large_transfers_have_bars_of_their_own(bars: Bars) -> None:
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


@pytest.mark.parametrize("width", [1, 7, 16, 24, 40, 60, 79])
def test_a_narrow_terminal_gets_one_row_for_each(width: int, bars: Bars) -> None:
    bars.observe(Planned(4321))
    bars.observe(Settled("a.pdb/00/a.pdb", "fetched"))
    names = ["nt.pdb", "a-very-long-name-of-a-program-database.pdb", "記号記号記号記号記号記号.pdb"]
    for name in names:
        bars.observe(TransferStarted(f"{name}/00/{name}", "https://one.test", 800 * MIB))
        bars.observe(TransferAdvanced(f"{name}/00/{name}", 500 * MIB, 800 * MIB))
    lines = shown(bars, width).splitlines()
    assert len(lines) == 1 + len(names)
    assert max(map(cell_len, lines)) <= width
    if width >= 24:
        assert "1/4321" in lines[0]
        assert "62%" in lines[1] or "524.3 MB of 838.9 MB" in lines[1]
    if width >= 40:
        assert "nt.pdb" in lines[1]
        assert "━" in lines[1]


def test_a_bar_is_as_long_as_there_is_room(bars: Bars) -> None:
    bars.observe(Planned(1))
    bars.observe(Settled("a.pdb/00/a.pdb", "fetched"))
    lengths = [shown(bars, width).count("━") for width in (40, 60, 80, 100, 200)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert "0:00:00" in shown(bars, 100)
    assert ":" not in shown(bars, 30)


def test_a_name_cannot_draw_on_the_terminal(bars: Bars) -> None:
    bars.observe(TransferStarted("[bold]\x1b[2J/00/x", "https://one.test", 8 * MIB))
    out = shown(bars)
    assert "[bold]\\x1b[2J" in out
    assert "\x1b" not in out


def test_a_note_among_bars_shows_no_password(bars: Bars, capsys: pytest.CaptureFixture[str]) -> None:
    bars.observe(Noted("https://user:secret@one.test is left alone"))
    out = capsys.readouterr().err
    assert "one.test is left alone" in out
    assert "secret" not in out


def test_an_input_that_takes_long_has_a_bar_until_it_is_read(bars: Bars) -> None:
    bars.observe(InputAdvanced("/tmp/a\x1b.etl", 500 * MIB, 1000 * MIB))
    bars.observe(InputAdvanced("/tmp/a\x1b.etl", 750 * MIB, 1000 * MIB))
    (row,) = [line for line in shown(bars).splitlines() if "reading" in line]
    assert "a\\x1b.etl" in row
    assert "786 MB of 1.0 GB" in row or "786.4 MB of 1.0 GB" in row
    bars.observe(InputAdvanced("/tmp/a\x1b.etl", 1000 * MIB, 1000 * MIB))
    assert "reading" not in shown(bars)
    bars.observe(InputAdvanced("b.etl", 1000, 1000))
    assert "reading" not in shown(bars)


def test_a_line_says_now_and_then_how_much_of_an_input_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    lines = Lines(lambda: now_s)
    for done in range(1, 100):
        now_s += 1.0
        lines.observe(InputAdvanced("a.etl", done * MIB, 100 * MIB))
    said = capsys.readouterr().err.splitlines()
    assert 1 <= len(said) <= 10
    assert said[0].endswith("of 104.9 MB read")


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=True) as observe:
        observe(Noted("a host is left alone"))
    assert capsys.readouterr() == ("", "")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_terminal_a_short_run_says_notes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(clock_s=Clock())
    lines.observe(Planned(1))
    lines.observe(TransferStarted("a.pdb/00/a.pdb", "https://one.test", 8 * MIB))
    lines.observe(Noted("a host\x1b is left alone"))
    lines.observe(Settled("a.pdb/00/a.pdb", "fetched"))
    assert capsys.readouterr() == ("", "a host\\x1b is left alone\n")


def test_lines_come_at_each_quarter_and_after_a_while_and_never_close_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    lines = Lines(clock_s=clock)
    index = start_one(lines)
    lines.observe(Planned(8))
    said: list[tuple[float, str]] = []
    for second in range(1, 81):
        clock.now_s += 1
        lines.observe(TransferAdvanced(index, second * 1_000_000, None))
        if second % 10 == 0:
            lines.observe(Settled("b.pdb/00/b.pdb", "fetched"))
        said += [(second, line) for line in capsys.readouterr().err.splitlines()]
    assert said == [
        (15, "1 of 8 files, 15.0 MB so far"),
        (20, "2 of 8 files, 20.0 MB so far"),
        (35, "3 of 8 files, 35.0 MB so far"),
        (40, "4 of 8 files, 40.0 MB so far"),
        (55, "5 of 8 files, 55.0 MB so far"),
        (60, "6 of 8 files, 60.0 MB so far"),
        (75, "7 of 8 files, 75.0 MB so far"),
        (80, "8 of 8 files, 80.0 MB so far"),
    ]
    assert all(line.isprintable() and len(line) <= 40 for _, line in said)


def test_many_quarters_at_once_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock_s=clock)
    lines.observe(Planned(4))
    clock.now_s += 6
    for number in range(4):
        lines.observe(Settled(f"{number}.pdb/00/{number}.pdb", "present"))
    assert capsys.readouterr().err == "1 of 4 files, 0 bytes so far\n"


def start_one(lines: Lines) -> str:
    index = "big.pdb/00/big.pdb"
    lines.observe(TransferStarted(index, "https://one.test", None))
    return index


SESSION = """
import click, sys
from symcache.cli.options import settings_options
from symcache.cli.output import show_progress
from symcache.events import InputAdvanced, Noted, Planned, Settled, TransferAdvanced, TransferStarted
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


def test_nothing_wraps_on_a_terminal_of_forty_columns() -> None:
    got = on_a_terminal(COLUMNS="40")
    rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got).replace("\r", "\n").splitlines()
    assert any("nt.pdb" in row for row in rows)
    assert max(map(cell_len, rows)) <= 40


@pytest.mark.parametrize(
    ("arguments", "variables"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})], ids=["option", "variable"]
)
def test_colour_can_be_turned_off(arguments: list[str], variables: dict[str, str]) -> None:
    got = on_a_terminal(*arguments, **variables)
    assert "1/4" in got
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m", got)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [(["--progress", "plain"], {}), ([], {"TERM": "dumb"}), ([], {"TERM": "unknown"})],
    ids=["option", "dumb", "unknown"],
)
def test_who_wants_lines_gets_no_control_characters(arguments: list[str], variables: dict[str, str]) -> None:
    got = on_a_terminal(*arguments, **variables)
    assert got == "one.test is left alone\r\n"  # the terminal makes CR of it


def test_quiet_leaves_the_terminal_alone() -> None:
    assert on_a_terminal("-q") == ""
