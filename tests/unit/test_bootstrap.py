"""What the bootstrap decides; that it installs is shown by every run of the tests through it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symcache import bootstrap
from symcache.bootstrap import BootstrapError, make_environment, requirements_of

SOURCE = Path(bootstrap.__file__)

PYPROJECT = """
[dependency-groups]
test = ["pytest>=8", "trio"]
more = ["pefile"]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands that would make the environment; a new one is an empty folder."""
    run: list[list[str]] = []

    def record(command: list[str], _problem: str) -> None:
        run.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(exist_ok=True)
            (Path(command[-1]) / "pyvenv.cfg").touch()

    monkeypatch.setattr(bootstrap, "_run", record)
    return run


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in modules else find_spec(name))


def test_the_requirements_of_several_groups_are_joined(checkout: Path) -> None:
    assert requirements_of(checkout, ["test", "more"]) == ["pytest>=8", "trio", "pefile"]


def test_a_group_that_is_not_declared_is_named(checkout: Path) -> None:
    with pytest.raises(BootstrapError, match="no dependency group 'docs'"):
        requirements_of(checkout, ["docs"])


def test_an_environment_is_made_once(
    checkout: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_runs", lambda _python: True)
    make_environment(checkout, ".venv", ["trio"], extras="pdbparse")
    assert [command[-1] for command in commands] == [str(checkout / ".venv"), "trio"]
    assert f"{checkout}[pdbparse]" in commands[1]
    make_environment(checkout, ".venv", ["trio"], extras="pdbparse")
    assert len(commands) == 2


@pytest.mark.parametrize("change", ["requirements", "project", "broken"])
def test_an_environment_that_no_longer_fits_is_made_anew(
    checkout: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(bootstrap, "_runs", lambda _python: change != "broken")
    make_environment(checkout, ".venv", [])
    if change == "project":
        (checkout / "pyproject.toml").write_text(PYPROJECT + "\n# changed\n", encoding="utf-8")
    make_environment(checkout, ".venv", ["trio"] if change == "requirements" else [])
    assert len(commands) == 4
    assert "--clear" in commands[2]


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Path, commands: list[list[str]]) -> None:
    (checkout / ".venv").mkdir()
    with pytest.raises(BootstrapError, match="Move it away"):
        make_environment(checkout, ".venv", [])
    assert commands == []


def test_a_pip_outside_installs_where_ensurepip_is_missing(
    checkout: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "ensurepip")
    python = make_environment(checkout, ".venv", [])
    assert "--without-pip" in commands[0]
    assert commands[1][:5] == [sys.executable, "-m", "pip", "--python", str(python)]


@pytest.mark.parametrize("missing", [("venv",), ("ensurepip", "pip")], ids=["no venv", "no pip at all"])
def test_what_to_install_is_said_where_nothing_can_be_made(
    checkout: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    hide(monkeypatch, *missing)
    with pytest.raises(BootstrapError, match="apt install python3-venv"):
        make_environment(checkout, ".venv", [])
    assert commands == []


def test_an_old_python_is_told_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    with pytest.raises(BootstrapError, match=r"needs Python 3\.11 or newer; this is 3\.10"):
        requirements_of(checkout, ["test"])


def test_outside_a_checkout_it_says_so_in_one_line(tmp_path: Path) -> None:
    alone = tmp_path / "site" / "symcache" / "bootstrap.py"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(SOURCE.read_bytes())
    result = subprocess.run(
        [sys.executable, "-I", str(alone), "demo"], check=False, capture_output=True, text=True, env={**os.environ}
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "is no checkout of symcache" in result.stderr
