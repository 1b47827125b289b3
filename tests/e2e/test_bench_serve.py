from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.parts import need

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
def test_the_server_benchmark_runs_and_reports() -> None:
    need("nginx")
    need("wrk")
    ran = subprocess.run(
        [sys.executable, str(BENCH / "bench_serve.py"), "--seconds", "1", "--rounds", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = ran.stdout.splitlines()
    assert [line.split(":")[0].split()[-1] for line in lines] == ["nginx", "serve"] * 3
    assert all(" 0 requests/s" not in line for line in lines)
