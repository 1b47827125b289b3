"""The pictures in README and docs show what the command and the page show now."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pictures
import pytest
from support.browser import Browser

if TYPE_CHECKING:
    from pictures import Shown

PROJECT = Path(__file__).parents[3]
PAGES = sorted([*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md"])
SVG = sorted(path.name for path in pictures.PICTURES.glob("*.svg"))
MADE_ANEW = "is old: run tests/pictures.py"

needs_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


@pytest.fixture(scope="module")
def shown() -> Shown:
    return pictures.show_command()


def structure(picture: str) -> str:
    """Return *picture* without what a faster or slower run changes: figures, rates, and how far a bar has come."""
    picture = picture.replace("\N{NO-BREAK SPACE}", " ")
    picture = re.sub(r"-:--:--|\d+(?:[.:]\d+)*", "0", picture)
    picture = re.sub(r"0 [kMG]?B/s", "0 B/s", picture)
    return re.sub(r"━+|╸|╺| +", lambda part: part[0][0], picture)


@needs_a_terminal
def test_every_drawn_picture_is_there(shown: Shown) -> None:
    assert sorted(pictures.drawn(shown)) == SVG


@needs_a_terminal
@pytest.mark.parametrize("name", SVG)
def test_a_drawn_picture_shows_what_the_command_shows(name: str, shown: Shown) -> None:
    drawn = pictures.drawn(shown)[name]
    assert structure((pictures.PICTURES / name).read_text(encoding="utf-8")) == structure(drawn), f"{name} {MADE_ANEW}"


@needs_a_terminal
def test_the_pictures_say_what_they_must(shown: Shown) -> None:
    assert "secdrv.pdb" in shown.ended.text
    assert "7 fetched" in shown.ended.text
    assert "ntkrpamp.pdb" in shown.running.text
    assert sorted(shown.states) == ["missing", *["present"] * 7]
    assert "/tmp" not in shown.ended.text


@needs_a_terminal
def test_the_pictures_of_the_page_show_the_page(tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    with pictures.a_days_server(tmp_path) as url, Browser(tmp_path / "profile") as browser:
        for theme in pictures.THEMES:
            words = pictures.open_page(browser, url, theme)
            said = (pictures.PICTURES / "page-words.txt").read_text(encoding="utf-8").split()
            assert words == said, f"page-{theme.name}.png {MADE_ANEW}"


@pytest.mark.parametrize("theme", pictures.THEMES, ids=lambda theme: theme.name)
def test_the_pictures_of_the_page_are_small_and_of_its_colour(theme: pictures.Theme) -> None:
    png = (pictures.PICTURES / f"page-{theme.name}.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert width == pictures.PAGE_WIDTH
    assert height > 1000, "the whole page"
    assert len(png) < 80_000
    palette = png.index(b"PLTE") + 4
    assert (sum(png[palette : palette + 3]) > 380) == (theme.name == "light")


def test_every_picture_is_shown_in_light_and_dark_and_told_in_words() -> None:
    seen: set[Path] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(
            r'<picture>\n  <source media="\(prefers-color-scheme: dark\)" srcset="(\S+)-dark\.(\w+)">\n'
            r'  <img src="(\S+)-light\.(\w+)"\n    alt="([^"]{30,})">\n</picture>',
            text,
        )
        assert len(found) == text.count("<picture>") == text.count("<img")
        for dark, dark_suffix, light, light_suffix, _ in found:
            assert (dark, dark_suffix) == (light, light_suffix)
            seen |= {(page.parent / f"{light}-{theme.name}.{light_suffix}").resolve() for theme in pictures.THEMES}
    assert seen == {path for path in pictures.PICTURES.iterdir() if path.suffix != ".txt"}


def test_the_readme_begins_with_what_it_is_for() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert text.index("purpose-light.svg") < text.index("```console")


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("one\r\ntwo", "one\ntwo"),
        ("one\rtwo", "two"),
        ("one\r\x1b[2Ktwo", "two"),
        ("one\r\ntwo\x1b[1A\r\x1b[2Kthree", "three\ntwo"),
        ("\x1b[?25l\x1b[38;5;70mone\x1b[0m", "one"),
    ],
    ids=["lines", "return", "clear", "up", "colours"],
)
def test_a_screen_shows_what_a_terminal_would(written: str, text: str) -> None:
    screen = pictures.Screen()
    screen.write(written)
    assert screen.text == text


def test_a_screen_refuses_what_it_does_not_know() -> None:
    for text in ("\x1b[5C", "\x1b]0;title\x07", "\x1b[7m"):
        with pytest.raises(ValueError, match="not known"):
            pictures.Screen().write(text)
