from __future__ import annotations

from uuid import UUID

import pytest

from symcache.cli.reporttext import evidence, write_report
from symcache.identity import PdbKey
from symcache.upstream.outcome import Attempt, Cause, Failed, Hint, Missing
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol

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
