"""Whoever installs the wheel or the sdist, with whichever tool and on whichever Python, has the whole command."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.parts import need
from support.programs import PYTHONS, USERS, Program, find_python
from support.serving import fetch, publish
from support.synth.pdb import NativePdbSpec, PublicSymbol, make_pdb
from support.upstream import Upstream

from symcache import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = publish("application.pdb", 1, payload_bytes=300_000)
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
pythons = pytest.mark.parametrize("version", PYTHONS)


def do(*command: str | Path, **more: str) -> str:
    done = subprocess.run([*map(str, command)], env=USERS | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path) -> str:
    need("uv")
    return do(sys.executable, "-m", "uv", *arguments)


def installed_by_uv(version: str, folder: Path, *wanted: str) -> Program:
    """Return the command out of a new environment in *folder*."""
    uv("venv", "--quiet", "--python", find_python(version), folder)
    if wanted:
        uv("pip", "install", "--quiet", "--python", folder, *wanted)
        uv("pip", "check", "--python", folder)
    return Program([str(folder / SCRIPTS / "symcache")])


def check(program: Program) -> None:
    """Check that the command does its whole job."""
    assert program.run("--version").stdout == f"symcache {__version__}\n"
    done = program.run("demo")
    assert done.returncode == 0, done.stderr
    assert "every other PDB is in the store, byte for byte." in done.stdout


@pythons
def test_pip_installs_it(version: str, wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "env" / SCRIPTS / "python"
    do(find_python(version), "-m", "venv", tmp_path / "env")
    do(python, "-m", "pip", "install", "--quiet", wheel)
    do(python, "-m", "pip", "check")
    check(Program([str(python.with_name("symcache"))]))
    templates = tmp_path / "env" / "share" / "symcache"
    assert (templates / "symcache.toml").is_file()
    assert (templates / "deploy" / "symcache.service").is_file()


def test_pip_installs_the_sdist(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    program = installed_by_uv(PYTHONS[0], tmp_path / "env")  # without pip, so quickly made
    target = tmp_path / "env" / SCRIPTS / "python"
    do(sys.executable, "-m", "pip", "--python", target, "install", "--quiet", distributions[1])
    check(program)


@pythons
def test_uv_installs_it_as_a_tool(version: str, wheel: Path, tmp_path: Path) -> None:
    need("uv")
    do(
        *(sys.executable, "-m", "uv", "tool", "install", "--quiet", "--python", find_python(version), wheel),
        UV_TOOL_DIR=str(tmp_path / "tools"),
        UV_TOOL_BIN_DIR=str(tmp_path / "bin"),
    )
    check(Program([str(tmp_path / "bin" / "symcache")]))


@pythons
def test_pipx_installs_it(version: str, wheel: Path, tmp_path: Path) -> None:
    need("pipx")
    do(
        *(sys.executable, "-m", "pipx", "install", "--python", find_python(version), wheel),
        PIPX_HOME=str(tmp_path / "pipx"),
        PIPX_BIN_DIR=str(tmp_path / "bin"),
        PIPX_MAN_DIR=str(tmp_path / "man"),
    )
    check(Program([str(tmp_path / "bin" / "symcache")]))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({APP.index: APP.content}) as server:
        yield server


@pythons
def test_the_extra_serve_serves(version: str, wheel: Path, tmp_path: Path, upstream: Upstream) -> None:
    program = installed_by_uv(version, tmp_path / "env", f"{wheel}[serve]")
    with program.serving("-y", f"srv*{tmp_path / 'store'}*{upstream.url}") as port:
        assert fetch(port, APP.index).body == APP.content
        assert fetch(port, "/", {"Accept": "text/html"}).status == 200


def test_without_the_extra_serve_it_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    program = installed_by_uv(PYTHONS[0], tmp_path / "env", str(wheel))
    done = program.run("serve", "-y", f"srv*{tmp_path / 'store'}")
    assert done.returncode == 2
    assert "pip install 'symcache[serve]'" in done.stderr


@pythons
def test_the_extra_libarchive_is_used(version: str, wheel: Path, tmp_path: Path) -> None:
    installed_by_uv(version, tmp_path / "env", f"{wheel}[libarchive]")
    code = "from symcache.formats.cabinet import has_libarchive; print(has_libarchive())"
    assert do(tmp_path / "env" / SCRIPTS / "python", "-c", code) == f"{_has_libarchive()}\n"


def _has_libarchive() -> bool:
    from ctypes.util import find_library  # noqa: PLC0415

    return find_library("archive") is not None


@pythons
def test_the_extra_pdbparse_looks_deeper_where_it_can_be_installed(version: str, wheel: Path, tmp_path: Path) -> None:
    if version == "3.11":
        need("compiler")
    program = installed_by_uv(version, tmp_path / "env", f"{wheel}[pdbparse]")
    publics = (PublicSymbol("_DriverEntry@8", 0x40, function=True),)
    (tmp_path / "app.pdb").write_bytes(make_pdb(NativePdbSpec(APP.key.guid, 1, publics=publics)))
    done = program.run("inspect", tmp_path / "app.pdb", "--publics")
    if version == "3.11":
        assert "0001:00000040  _DriverEntry@8" in done.stdout
    else:  # its own pins keep it from newer Pythons
        assert done.returncode == 2
        assert "Python 3.11" in done.stderr
