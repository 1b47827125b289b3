"""What stands for something else in a symbol path."""

from __future__ import annotations

import pytest

from symcache.errors import SymbolPathError
from symcache.sympath import Environment, parse_symbol_path

AROUND = Environment(
    {
        "DRIVE": "C:\\work",
        "DIR": "/var/sym",
        "HOST": "build",
        "SHARE": r"\\build\sym",
        "URL": "https://h/s",
        "ProgramFiles(x86)": "C:\\P",
        "EMPTY": "",
        "BOTH": "srv*a;srv*b",
    },
    "/home/me",
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("srv*~/sym", "srv*/home/me/sym"),
        (r"srv*~\sym\x", "srv*/home/me/sym/x"),
        ("~", "/home/me"),
        ("cache*~/c", "cache*/home/me/c"),
        ("srv*$DIR/x", "srv*/var/sym/x"),
        ("srv*${DIR}", "srv*/var/sym"),
        (r"srv*%DIR%\x", "srv*/var/sym/x"),
        (r"srv*%DRIVE%\x", r"srv*C:\work\x"),
        ("srv*%DRIVE%/x/y", r"srv*C:\work\x\y"),
        (r"srv*$env:DRIVE\x", r"srv*C:\work\x"),
        (r"srv*%ProgramFiles(x86)%\x", r"srv*C:\P\x"),
        ("/data/$HOST/${HOST}", "/data/build/build"),
        (r"\\%HOST%\sym", r"\\build\sym"),
        ("srv*/c*$URL", "srv*/c*https://h/s"),
        ("srv*%SHARE%*https://h/s", r"srv*\\build\sym*https://h/s"),
        # Nothing of these stands for something else.
        (r"\\host\c$\sym", r"\\host\c$\sym"),
        (r"C:\$Recycle.Bin", r"C:\$Recycle.Bin"),
        ("/a/100%/b%", "/a/100%/b%"),
        ("./~", "./~"),
        (r"C:\ADMINI~1\x", r"C:\ADMINI~1\x"),
        ("srv*https://h/%C3%A9/$web", "srv*https://h/%C3%A9/$web"),
    ],
)
def test_a_place_is_filled_in(text: str, expanded: str) -> None:
    assert str(parse_symbol_path(text, AROUND)) == expanded
    assert str(parse_symbol_path(expanded, AROUND)) == expanded


def test_a_share_in_a_variable_is_a_share() -> None:
    assert parse_symbol_path("srv*%SHARE%", AROUND) == parse_symbol_path(r"srv*\\build\sym")


def test_without_surroundings_a_path_stays_as_it_is_written() -> None:
    for text in ("srv*~/sym", "srv*$NONE/x", r"srv*%NONE%\x"):
        assert str(parse_symbol_path(text)) == text


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("srv*$NONE/x", 4, "$NONE: the variable is not set"),
        ("srv*/a/${NONE}/x", 7, "${NONE}: the variable is not set"),
        (r"srv*C:\%NONE%", 7, "%NONE%: the variable is not set"),
        ("srv*~/$EMPTY", 6, "$EMPTY: the variable is not set"),
        ("C:\\c;%BOTH%", 5, "%BOTH%: the variable holds more than one place"),
        ("srv*~you/sym", 4, "your own home folder alone"),
        ("cache*$URL", 6, "a server cannot be written"),
        ("srv*$HOST.example/s", 4, "https://build.example/s"),
    ],
)
def test_what_stands_for_nothing_is_no_folder(text: str, position: int, problem: str) -> None:
    with pytest.raises(SymbolPathError) as caught:
        parse_symbol_path(text, AROUND)
    assert problem in caught.value.problem
    assert (caught.value.position, caught.value.text) == (position, text)


def test_without_a_home_folder_a_tilde_is_an_error() -> None:
    with pytest.raises(SymbolPathError, match="no home folder"):
        parse_symbol_path("srv*~/sym", Environment({}))
