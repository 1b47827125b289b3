"""Faults of an upstream and of a disk: what is there is right, and one more run completes the rest."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("trustme", reason="trustme is not installed")
if sys.platform == "win32":
    pytest.skip("the campaign looks at processes and disks as POSIX has them", allow_module_level=True)
from faults import disk
from faults.upstream import check, serve_run, warm_run

SYMBOLS = 60


def test_warm_survives_the_faults_of_an_upstream() -> None:
    run = warm_run(SYMBOLS, 1, rounds=4)
    assert check(run) == []
    assert len({meeting.fault for meeting in run.meetings}) > SYMBOLS
    assert run.notes["reads"] > SYMBOLS / 2


def test_serve_survives_the_faults_of_an_upstream() -> None:
    run = serve_run(SYMBOLS, 2)
    assert check(run) == []
    assert len(run.meetings) > SYMBOLS / 2


@pytest.mark.parametrize("name", list(disk.SCENES)[:3])
def test_warm_survives_a_disk_that_fails(name: str) -> None:
    try:
        run = disk.play(name, SYMBOLS, 1)
    except disk.NotHereError as error:
        pytest.skip(str(error))
    assert check(run) == []
    assert run.notes["failed"] > 0
