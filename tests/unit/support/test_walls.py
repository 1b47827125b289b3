"""What surrounds every test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.parts import need, required_in


def test_a_test_has_a_home_of_its_own(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"
    assert list(tmp_path.iterdir()) == []


def test_no_setting_comes_from_outside() -> None:
    names = {name for name in os.environ if name.startswith(("SYMCACHE_", "_NT_"))}
    assert {name for name in names if not name.startswith("SYMCACHE_TEST_")} == set()
    assert "https_proxy" not in {name.lower() for name in os.environ}


def test_nothing_leaves_the_machine() -> None:
    with socket.socket() as client, pytest.raises(PermissionError, match="may not leave"):
        client.connect(("192.0.2.1", 80))


@given(st.integers())
def test_a_property_may_use_the_walls(number: int) -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
    assert number == number + 0


def test_an_absent_part_skips_and_a_required_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception, match="no_such_part is not installed"):
        need("no_such_part")
    monkeypatch.setenv("SYMCACHE_TEST_REQUIRE", "nginx, no_such_part")
    with pytest.raises(pytest.fail.Exception, match="SYMCACHE_TEST_REQUIRE names it"):
        need("no_such_part")


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("aria2c is not on the path", "aria2"),
        ("Skipped: could not import 'pefile': No module named 'pefile'", "pefile"),
        ("pyaria2 is not installed", "aria2"),
        ("backports.aria2 is not installed", None),
        ("needs Windows", None),
    ],
)
def test_a_skip_tells_which_part_it_lacked(monkeypatch: pytest.MonkeyPatch, reason: str, part: str | None) -> None:
    monkeypatch.setenv("SYMCACHE_TEST_REQUIRE", "aria2,pefile")
    assert required_in(reason) == part


@pytest.mark.parametrize(
    ("required", "counts"), [("", "2 skipped"), ("aria2,pefile", "1 failed, 1 error")], ids=["optional", "required"]
)
def test_a_run_that_must_have_a_part_fails_where_it_would_skip(tmp_path: Path, required: str, counts: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tmp_path / "test_one.py").write_text(
        "import pytest\ndef test_one():\n    pytest.skip('aria2c is not on the path')\n", encoding="utf-8"
    )
    (tmp_path / "test_file.py").write_text(
        "import pytest\npytest.skip('no pefile here', allow_module_level=True)\n", encoding="utf-8"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--continue-on-collection-errors", str(tmp_path)],
        env={**os.environ, "SYMCACHE_TEST_REQUIRE": required, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        capture_output=True,
        text=True,
    )
    assert counts in result.stdout.splitlines()[-1]
