from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.parts import need

BENCH = Path(__file__).parents[1] / "bench" / "bench_fetch.py"


def test_the_fetch_benchmark_runs_and_reports(tmp_path: Path) -> None:
    need("nginx")
    need("curl")
    need("aria2")
    sizes = ["--small", "3", "--large", "2", "--large-mib", "1", "--repetitions", "2"]
    result = subprocess.run(
        [sys.executable, str(BENCH), *sizes, "--tools", "curl,aria2c", "--dir", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["tool", "curl", "aria2c"] * 2
    assert "small: 3 files" in result.stdout
    assert "large: 2 files" in result.stdout
    assert list(tmp_path.iterdir()) == []
