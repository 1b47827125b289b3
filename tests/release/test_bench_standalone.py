from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.programs import USERS

BENCH = Path(__file__).parents[1] / "bench" / "bench_standalone.py"


def test_the_benchmark_of_starting_runs_and_reports(executable: Path, archive: Path, tmp_path: Path) -> None:
    for program in (executable, archive):
        os.link(program, tmp_path / program.name)
    done = subprocess.run(
        [sys.executable, str(BENCH), str(tmp_path), "--rounds", "1"],
        env=USERS,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [[kind, name] for kind in ("pyz", "exe") for name in ("--version", "path")]
