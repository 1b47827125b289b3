from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from symcache.cli.warm import write_report
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.records import ImageUse, Narrowed
from symcache.reports.advice import evidence
from symcache.reports.text import report_lines
from symcache.stores.results import Attempt, Cause, Failed, Hint, Missing, Present
from symcache.warm.plan import FileKind
from symcache.warm.report import Guess, Report, Symbol

INDEX = PdbKey("a.pdb", UUID(int=1), 1).index
ATTEMPTS = (Attempt("/mid", "not there"), Attempt("http://far", "404"), Attempt("http://far", "410"))


@pytest.mark.parametrize(
    ("outcome", "advice"),
    [
        (Failed(Cause.WRONG_CONTENT), "tell its publisher"),
        (Failed(Cause.WRONG_CONTENT, hint=Hint.PAGE), "credentials are needed"),
        (Failed(Cause.REFUSED), "credentials"),
        (Failed(Cause.REFUSED, hint=Hint.POINTER), "pointers.allow"),
        (Failed(Cause.REFUSED, hint=Hint.LOOP), "circle"),
    ],
    ids=["wrong content", "a page", "refused", "a pointer", "a loop"],
)
def test_the_advice_fits_what_is_known_of_the_failure(
    outcome: Failed, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [Failed(Cause.WRONG_CONTENT), *(Failed(Cause.REFUSED, hint=hint) for hint in Hint)]
    symbols = [Symbol(f"{number}", FileKind.PDB, "a.sys", each) for number, each in enumerate([*others, outcome])]
    write_report(Report("srv*", None, 1.0, symbols, ()), quiet=True, verbose=False)
    groups = capsys.readouterr().out.split("\n\n")
    (group,) = (group for group in groups if f"\n  {len(others)} " in group)
    assert advice in group.splitlines()[0]


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Missing(Cause.NOT_PUBLISHED, ATTEMPTS), "/mid: not there; http://far: 404, 410"),
        (Missing(Cause.NOT_CACHED, detail="not known here"), "not known here"),
        (Failed(Cause.UNAVAILABLE, ATTEMPTS[:1], detail="cut"), "/mid: not there"),
        (Failed(Cause.DISK, ATTEMPTS, detail="/sym: the disk is full"), "/sym: the disk is full"),
    ],
    ids=["the answers", "the reason where nobody was asked", "answers before the reason", "the disk before answers"],
)
def test_the_evidence_is_what_explains_the_cause(outcome: Missing | Failed, text: str) -> None:
    assert evidence(Symbol(INDEX, FileKind.PDB, "a.sys", outcome)) == text


IMAGE = ImageKey("a.sys", 0x5F001122, 0x9000).index
GONE = Missing(Cause.NOT_PUBLISHED, ATTEMPTS[1:2])
HERE = Present(Path("/sym/a"), 10)


def written(*symbols: Symbol, left_out: int = 0, verbose: bool = False, capsys: pytest.CaptureFixture[str]) -> str:
    report = Report("srv*", None, 1.0, symbols, images_left_out=left_out)
    write_report(report, quiet=False, verbose=verbose)
    return capsys.readouterr().out


def test_an_image_that_keeps_a_pdb_from_loading_comes_first_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    other = Symbol(INDEX, FileKind.PDB, "b.sys", GONE)
    blocking = Symbol(IMAGE, FileKind.IMAGE, "a.sys", GONE, use=ImageUse.SYMBOLS, keeps=("a.pdb/1/a.pdb",))
    said = written(other, blocking, capsys=capsys)
    assert said.startswith("will not load: 1 PDB in the store")
    assert "keeps a.pdb/1/a.pdb" in said
    assert said.count(IMAGE) == 1


@pytest.mark.parametrize(
    ("use", "lost"),
    [
        (ImageUse.SYMBOLS, "no symbols without it"),
        (ImageUse.CODE, "no code without it"),
        (ImageUse.BY_HAND, "no symbols without it"),
    ],
)
def test_a_missing_image_is_said_with_what_it_costs(
    use: ImageUse, lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = written(Symbol(IMAGE, FileKind.IMAGE, "a.sys", GONE, use=use), capsys=capsys)
    assert f"http://far: 404; {lost}" in said
    assert "1 image wanted that the input does not hold" in said


def test_a_command_is_given_for_an_image_that_is_at_hand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    command = ".reload /f a.sys=fffff80000000000,9000,0`5f001122"
    for outcome, is_given in ((HERE, True), (GONE, False)):
        symbol = Symbol(IMAGE, FileKind.IMAGE, "a.sys", outcome, use=ImageUse.BY_HAND, reload=command)
        assert (f"  {command}\n" in written(symbol, capsys=capsys)) is is_given


def test_images_that_were_left_out_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--images none left out 151 images" in written(left_out=151, capsys=capsys)


def test_what_a_debugger_does_first_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    noted = Symbol(INDEX, FileKind.PDB, "a.sys", Present(Path("/sym/a"), 10, "compressed: it is expanded"))
    assert "compressed: it is expanded" in written(noted, verbose=True, capsys=capsys)


@pytest.mark.parametrize(
    ("guesses", "said"),
    [
        ([], None),
        ([Guess("hal.dll", 0, None)], "1 image of unknown size: 0 found"),
        (
            [Guess("hal.dll", 3, "x"), Guess("ci.dll", 7, None)],
            "2 images of unknown size: 1 found, 10 possible sizes asked for",
        ),
    ],
)
def test_images_of_unknown_size_are_one_line(guesses: list[Guess], said: str | None) -> None:
    lines = list(report_lines(Report("srv*", None, 1.0, [], guesses=guesses)))
    assert [line for line in lines if "unknown size" in line] == ([] if said is None else [said])


def test_what_sets_left_out_is_one_line() -> None:
    lines = list(report_lines(Report("srv*", None, 1.0, [], narrowed=Narrowed("kernel, ours", 1))))
    assert lines[0] == "1 module left out: not in kernel, ours"
