"""The campaign with atheris, each target with a few inputs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from faults.fuzz import main
from support.fuzztargets import TARGETS
from support.parts import need

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_target_runs_under_the_fuzzer(tmp_path: Path) -> None:
    need("atheris")
    command = [sys.executable, "tests/faults/fuzz.py", "--runs", "40", "--seed", "1", "--corpus", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (\S+) \| .* \| ([\d,]+) \| (\d+) \| (\d+) \| \d+ ms \|$", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == list(TARGETS)
    assert all(int(number.replace(",", "")) > 0 for row in rows for number in row[1:])


def test_without_atheris_one_line_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"fuzz\.py: atheris is not installed; .*\n", captured.err)
