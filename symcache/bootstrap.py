"""Run symcache from a fresh checkout: ``python3 symcache/bootstrap.py COMMAND...``.

Needs Python and pip, nothing else: no root, no compiler, no environment prepared by hand. It makes a virtual
environment in the checkout, installs the project with its dependencies there and runs the command in it; the next run
finds the environment made. This file stands alone: it is run before anything is installed, so it imports nothing of
symcache, and it must parse on older Pythons to tell them what is missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

_OLDEST = (3, 11)
_STAMP = "symcache-environment"


class BootstrapError(Exception):
    """The environment cannot be made; the text says what to do."""


def make_environment(root: Path, folder: str, requirements: list[str], *, extras: str = "") -> Path:
    """Return the Python of a virtual environment in *root* that has the project and *requirements*.

    The environment, *folder* below the checkout *root*, is made if it is absent, unfinished or made for other
    requirements; else it is used as it is. The checkout is installed editable, so changed sources need no new one.
    *extras* are those of the project, by comma.

    Raises:
        BootstrapError: Python or pip lacks what is needed, or an installation failed.
    """
    _check_python(root)
    target = root / folder
    python = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = target / _STAMP
    project = f"{root}[{extras}]" if extras else str(root)
    settings = (root / "pyproject.toml").read_text(encoding="utf-8")
    parts = [sys.version, sys.base_prefix, settings, project, *requirements]
    wanted = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and _runs(python):
        return python
    if target.exists() and not (target / "pyvenv.cfg").exists():
        raise BootstrapError(f"{target} exists and is no virtual environment. Move it away.")
    _say(f"making {target}")
    installer = _create(target, python)
    _run([*installer, "install", "--quiet", "--editable", project, *requirements], "installing the project failed")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def requirements_of(root: Path, groups: list[str]) -> list[str]:
    """Return the requirements of dependency groups: pip itself reads them only from 25.1 on.

    Raises:
        BootstrapError: There is no such group.
    """
    _check_python(root)
    import tomllib  # noqa: PLC0415 - older Pythons have none

    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("dependency-groups", {})
    for group in groups:
        if group not in declared:
            raise BootstrapError(f"pyproject.toml has no dependency group {group!r}")
    return [requirement for group in groups for requirement in declared[group]]


def run_in(python: Path, arguments: list[str]) -> int:
    """Run *python* with *arguments* in place of this process where the system can; return the exit status elsewhere."""
    command = [str(python), *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    return subprocess.run(command, check=False).returncode


def main(arguments: list[str]) -> int:
    """Run symcache with *arguments* in the checkout's own environment."""
    root = Path(__file__).resolve().parents[1]
    try:
        python = make_environment(root, f".venv-{version_tag()}", [])
    except BootstrapError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return run_in(python, ["-m", "symcache", *arguments])


def version_tag() -> str:
    """Return what tells the environments of different Pythons apart: ``3.11``."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _check_python(root: Path) -> None:
    if sys.version_info[:2] < _OLDEST:
        raise BootstrapError(f"symcache needs Python 3.11 or newer; this is {version_tag()} ({sys.executable}).")
    if not (root / "pyproject.toml").is_file():
        raise BootstrapError(f"{root} is no checkout of symcache: pyproject.toml is not there.")


def _create(target: Path, python: Path) -> list[str]:
    """Make an empty environment; return the command that installs into it."""
    if importlib.util.find_spec("venv") is None:
        raise BootstrapError("this Python has no venv module; on Debian and Ubuntu: apt install python3-venv")
    if importlib.util.find_spec("ensurepip") is not None:
        _run([sys.executable, "-m", "venv", "--clear", str(target)], "making the environment failed")
        return [str(python), "-m", "pip"]
    # Debian splits ensurepip from Python. A pip that is there can install into an environment that has none.
    if importlib.util.find_spec("pip") is None:
        raise BootstrapError(
            "this Python has neither ensurepip nor pip; on Debian and Ubuntu: apt install python3-venv"
        )
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(target)], "making the environment failed")
    return [sys.executable, "-m", "pip", "--python", str(python)]


def _run(command: list[str], problem: str) -> None:
    # What pip says goes to standard error: standard output belongs to the command that is run afterwards.
    # PIP_USER, set where the system's Python is managed, would bar pip from installing into an environment.
    environment = {**os.environ, "PIP_USER": "0"}
    done = subprocess.run(command, check=False, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode != 0:
        raise BootstrapError(f"{problem}: {' '.join(command)}")


def _runs(python: Path) -> bool:
    if shutil.which(str(python)) is None:
        return False
    return subprocess.run([str(python), "-c", "import symcache"], check=False, capture_output=True).returncode == 0


def _say(text: str) -> None:
    sys.stderr.write(f"bootstrap: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
