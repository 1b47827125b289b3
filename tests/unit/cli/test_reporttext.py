from __future__ import annotations

from uuid import UUID

import pytest

from symcache.cli.reporttext import evidence
from symcache.identity import PdbKey
from symcache.upstream.outcome import Attempt, Cause, Failed, Missing
from symcache.warm.plan import FileKind
from symcache.warm.report import Symbol

INDEX = PdbKey("a.pdb", UUID(int=1), 1).index
ATTEMPTS = (Attempt("/mid", "not there"), Attempt("http://far", "404"), Attempt("http://far", "410"))


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
