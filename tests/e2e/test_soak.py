from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "faults" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_short_soak_finds_nothing_wrong() -> None:
    command = [sys.executable, str(SOAK), "--minutes", "0.2", "--clients", "8"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "warm: exit 0" in ran.stdout
    assert "| warm as a library |" in ran.stdout
