from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.inputs.records import Unreadable
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Missing, Outcome, Present
from symcache.warm.plan import FileKind
from symcache.warm.report import HARMLESS, Report, State, Symbol

OF_MISSING = [
    Cause.NOT_PUBLISHED,
    Cause.REMEMBERED_MISS,
    Cause.NO_IDENTITY,
    Cause.NO_DEBUG_RECORD,
    Cause.IMAGE_NOT_PUBLISHED,
    Cause.EXCLUDED,
    Cause.EMBEDDED,
    Cause.NOT_CACHED,
    Cause.KNOWN_MISSING,
]
OF_FAILED = [cause for cause in Cause if cause not in OF_MISSING]

PRESENT = Present(Path("/sym/a.pdb"), 10)
FETCHED = Fetched(Path("/sym/b.pdb"), 20, "https://one.test", (Attempt("https://one.test", "200"),), "an odd age")
MISSING = Missing(
    Cause.NOT_PUBLISHED, (Attempt("https://one.test", "404"), Attempt("https://one.test", "404", "b.pd_"))
)
FAILED = Failed(Cause.UNAVAILABLE, (Attempt("https://one.test", "503"),), "https://one.test/b.pdb: 503")


def report(*outcomes: Outcome, unreadable: int = 0, is_interrupted: bool = False) -> Report:
    symbols = [Symbol(f"{n}.pdb/00/{n}.pdb", FileKind.PDB, f"{n}.sys", item) for n, item in enumerate(outcomes)]
    bad = [Unreadable("x.dmp", "it is empty", 0)] * unreadable
    return Report("srv*/sym", Path("/sym"), 1.25, symbols, bad, is_interrupted)


@pytest.mark.parametrize(
    ("outcomes", "more", "code"),
    [
        ([], {}, 0),
        ([PRESENT, FETCHED], {}, 0),
        ([MISSING], {}, 3),
        ([FAILED], {}, 1),
        ([PRESENT], {"unreadable": 1}, 4),
        ([MISSING], {"unreadable": 1}, 4),
        ([MISSING, FAILED], {"unreadable": 1}, 1),
        ([PRESENT], {"is_interrupted": True}, 130),
        ([MISSING, FAILED], {"unreadable": 1, "is_interrupted": True}, 130),
    ],
)
def test_the_exit_code_is_the_first_that_holds(outcomes: list[Outcome], more: dict[str, int], code: int) -> None:
    assert report(*outcomes, **more).exit_code() == code  # type: ignore[arg-type]


@pytest.mark.parametrize("cause", OF_MISSING)
def test_what_exists_nowhere_is_not_wanting(cause: Cause) -> None:
    harmless = {
        Cause.NO_DEBUG_RECORD, Cause.UNUSABLE_IDENTITY, Cause.EXCLUDED, Cause.EMBEDDED, Cause.KNOWN_MISSING,
    }  # fmt: skip
    assert report(Missing(cause)).exit_code() == (0 if cause in harmless else 3)
    assert harmless == HARMLESS


@pytest.mark.parametrize("cause", OF_FAILED)
def test_whatever_failed_may_be_mended_by_another_try(cause: Cause) -> None:
    assert report(Failed(cause)).exit_code(allow_missing=True) == 1


def test_missing_can_be_allowed_and_nothing_else() -> None:
    assert report(MISSING).exit_code(allow_missing=True) == 0
    assert report(MISSING, unreadable=1).exit_code(allow_missing=True) == 4


def test_the_document_is_as_the_reference_says() -> None:
    assert json.loads(json.dumps(report(PRESENT, FETCHED, MISSING, FAILED, unreadable=1).as_json())) == {
        "schema": "symcache.report/1",
        "symbol_path": "srv*/sym",
        "store": str(Path("/sym")),
        "seconds": 1.25,
        "summary": {"wanted": 4, "present": 1, "fetched": 1, "missing": 1, "failed": 1, "bytes": 20},
        "inputs": [],
        "images_left_out": 0,
        "symbols": [
            {
                "index": "0.pdb/00/0.pdb",
                "kind": "pdb",
                "module": "0.sys",
                "state": "present",
                "cause": None,
                "path": str(PRESENT.path),
                "upstream": None,
                "bytes": 10,
                "attempts": [],
            },
            {
                "index": "1.pdb/00/1.pdb",
                "kind": "pdb",
                "module": "1.sys",
                "state": "fetched",
                "cause": None,
                "path": str(FETCHED.path),
                "upstream": "https://one.test",
                "bytes": 20,
                "attempts": [{"upstream": "https://one.test", "answer": "200"}],
                "note": "an odd age",
            },
            {
                "index": "2.pdb/00/2.pdb",
                "kind": "pdb",
                "module": "2.sys",
                "state": "missing",
                "cause": "not-published",
                "path": None,
                "upstream": None,
                "bytes": None,
                "attempts": [
                    {"upstream": "https://one.test", "answer": "404"},
                    {"upstream": "https://one.test", "answer": "404", "asked": "b.pd_"},
                ],
            },
            {
                "index": "3.pdb/00/3.pdb",
                "kind": "pdb",
                "module": "3.sys",
                "state": "failed",
                "cause": "unavailable",
                "path": None,
                "upstream": None,
                "bytes": None,
                "attempts": [{"upstream": "https://one.test", "answer": "503"}],
                "detail": "https://one.test/b.pdb: 503",
            },
        ],
        "unreadable": [{"path": "x.dmp", "problem": "it is empty", "offset": 0}],
    }


def test_without_a_store_the_document_says_so() -> None:
    assert Report("srv*https://one.test", None, 0.0, []).as_json()["store"] is None


OUTCOMES = st.one_of(
    st.builds(Present, st.just(Path("a")), st.integers(0, 1 << 50)),
    st.builds(Fetched, st.just(Path("a")), st.integers(0, 1 << 50), st.just("https://one.test")),
    st.builds(Missing, st.sampled_from(OF_MISSING)),
    st.builds(Failed, st.sampled_from(OF_FAILED)),
)


@given(st.lists(OUTCOMES))
def test_the_counts_add_up(outcomes: list[Outcome]) -> None:
    whole = report(*outcomes)
    summary = whole.as_json()["summary"]
    assert summary["wanted"] == len(outcomes) == sum(summary[state] for state in State)
    assert summary["bytes"] == sum(item.size_bytes for item in outcomes if isinstance(item, Fetched))
