"""The benchmarks of what is beyond one machine run, and what they count is what docs/scale.md says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.parts import need

BENCH = Path(__file__).parents[1] / "bench"


def run_bench(name: str, *options: str) -> list[str]:
    for package in ("obstore", "redis"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    ran = subprocess.run(
        [sys.executable, str(BENCH / name), *options], check=False, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def cells_of(lines: list[str], first: str) -> list[str]:
    """Return the cells of the first row of a table that begins with *first*."""
    row = next(line for line in lines if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_what_a_symbol_costs_is_counted_and_does_not_grow() -> None:
    need("moto")
    need("redis")
    options = ["--symbols", "2,4", "--replicas", "2", "--entries", "1000", "--objects", "2500"]
    lines = run_bench("bench_scale.py", *options)
    for way, bucket, upstream in [
        ("cold: one fetches it for all", 3, 1),
        ("hit of the local level", 0, 0),
        ("brought by another replica", 1, 0),
        ("missed by another replica", 2, 0),
        ("the same, on another machine", 1, 0),  # and one of each run, whether there is such a bucket
    ]:
        asked = [[float(number) for number in cell.split(" / ")] for cell in cells_of(lines, way)]
        assert {(int(numbers[0]), numbers[2]) for numbers in asked} == {(bucket, upstream)}, way
    assert cells_of(lines, "hit of the local level") == ["0.00 / 0.00 / 0.00"] * 2
    assert cells_of(lines, "2,500")[0] == "3"
    assert len(cells_of(lines, "100,000,000")) == 9


@pytest.mark.slow
def test_the_benchmark_of_replicas_runs_and_reports() -> None:
    for part in ("moto", "redis", "nginx", "wrk"):
        need(part)
    lines = run_bench("bench_replicas.py", "--seconds", "1", "--rounds", "1", "--files", "10", "--large-mib", "2")
    assert [line.split(":")[0].strip() for line in lines] == [
        "64 KiB hits",
        "2 MiB hits",
        "misses",
        *[f"cold, {length}, {what}" for length in ("100 KiB", "2 MiB") for what in ("first byte", "whole file")],
        "warm of 10 files of 48 KiB",
    ]
    assert all(" 0 requests/s" not in line for line in lines)
