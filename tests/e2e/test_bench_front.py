from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "bench_front.py"


def test_the_benchmark_of_short_commands_runs_and_reports() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--files", "20", "--rounds", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=5)[0] for line in done.stdout.splitlines()[1:]]
    assert rows == ["path", "check nothing", "check", "warm", "scan"]
