from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from symcache.identity import ImageKey, PdbKey
from symcache.inputs.records import Unreadable
from symcache.reports.text import plan_lines
from symcache.stores.results import Present
from symcache.warm.dryrun import DryRun, Expected, ask_servers
from symcache.warm.plan import FileKind, WantedFile, WantedPdbOfImage
from symcache.warm.report import Report, Symbol

if TYPE_CHECKING:
    from symcache.stores.source import SymbolSource

HERE = Symbol("a.pdb/1/a.pdb", FileKind.PDB, "a.sys", Present(Path("/sym/a"), 5))
AT_HAND = Report("srv*/sym*https://a.test", Path("/sym"), 0.5, [HERE])


def expected(number: int, server: str | None, size_bytes: int | None, answer: str = "there") -> Expected:
    want = WantedFile(f"{number}.sys", PdbKey(f"{number}.pdb", UUID(int=number), 1))
    return Expected(want, server, size_bytes, answer)


FORECAST = DryRun(
    AT_HAND,
    [
        expected(1, "https://a.test", 1000),
        expected(2, "https://b.test", 5_000_000),
        expected(3, "https://a.test", None),
        expected(4, None, None, "404"),
        Expected(WantedFile("5.sys", PdbKey("5.pdb", UUID(int=5), 1))),
    ],
    unnamed=2,
)


def test_what_is_not_known_makes_the_sum_a_least_one() -> None:
    assert list(plan_lines(FORECAST)) == [
        "8 files wanted: 1 present, 5 to fetch, 2 that only their images name",
        "  https://b.test      1 file   5.0 MB",
        "  https://a.test      2 files  1.0 KB  and 1 of unknown length",
        "  found on no server  1 file",
        "  not asked in time   1 file",
        "at least 5.0 MB to transfer; nothing was fetched",
        f"store: {Path('/sym')}",
    ]


def test_files_whose_server_does_not_answer_are_not_said_to_be_on_none() -> None:
    files = [replace(expected(number, None, None, "cannot connect"), is_no_answer=True) for number in (1, 2)]
    plan = DryRun(AT_HAND, [*files, expected(3, None, None, "404")], unnamed=0)
    assert list(plan_lines(plan))[1:3] == [
        "  found on no server  1 file",
        "  no answer           2 files  cannot connect",
    ]
    summary = plan.as_json()["summary"]
    assert (summary["nowhere"], summary["unanswered"]) == (3, 2)


def test_a_plan_fits_into_a_narrow_terminal() -> None:
    assert max(map(len, plan_lines(FORECAST, 40))) <= 48  # but the words that cannot be broken


@pytest.mark.parametrize(
    ("at_hand", "code"),
    [
        (AT_HAND, 0),
        (Report("srv*", None, 0.0, [], [Unreadable("x.dmp", "no such file")]), 4),
        (Report("srv*", None, 0.0, [], is_empty=True), 4),
        (Report("srv*", None, 0.0, [], without_stack=["x.dmp"]), 4),
    ],
    ids=["fine", "unreadable", "empty", "no stack"],
)
def test_a_plan_ends_as_its_inputs_let_the_run_end(at_hand: Report, code: int) -> None:
    assert DryRun(at_hand, [], unnamed=0).exit_code() == code
    assert DryRun(at_hand, [], unnamed=0).exit_code(allow_empty=True) == (0 if at_hand.is_empty else code)


class _NoServers:
    max_connections = 4
    chains = ()


@pytest.mark.anyio
async def test_where_no_server_is_there_none_is_asked() -> None:
    source: SymbolSource = _NoServers()  # type: ignore[assignment]
    image = WantedPdbOfImage("b.sys", ImageKey("b.sys", 1, 0x1000))
    (found,) = await ask_servers(source, [FORECAST.files[0].want, image], within_s=60)
    assert (found.server, found.size_bytes, found.answer) == (None, None, "no server to ask")
    assert "  no server to ask  1 file" in plan_lines(DryRun(AT_HAND, [found], unnamed=0))
