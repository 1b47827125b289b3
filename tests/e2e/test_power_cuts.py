"""A power cut at any instant of a command: no name shows a damaged file, no transaction is half there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from faults.power import play
from support.jobs import JOBS
from support.parts import need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")
STATES = 20
QUICK = [
    "warm",
    "prune",
    "serve",
    "dedupe",
    "add",
    "add, compressed",
    "del",
    "convert",
    "warm, compressed",
    "import",
    "export",
]


def check(name: str, home: Path, *, states: int, durable: bool) -> None:
    need("strace")
    played = play(name, home, states=states, seed=0, durable=durable)
    assert played.broken == []
    assert played.states > states // 5
    if not durable and JOBS[name].is_sound:
        assert played.damaged  # else nothing would be shown of the flushes


@pytest.mark.parametrize("name", QUICK)
def test_a_power_cut_leaves_no_name_of_a_damaged_file_and_no_half_transaction(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, states=STATES, durable=True)


def test_without_flushes_only_what_was_fetched_may_be_damaged(tmp_path: Path) -> None:
    check("warm", tmp_path, states=40, durable=False)


@pytest.mark.slow
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("name", JOBS)
def test_power_cuts_at_many_instants_of_every_command(name: str, durable: bool, tmp_path: Path) -> None:
    if durable or JOBS[name].fetches:
        check(name, tmp_path, states=200, durable=durable)
