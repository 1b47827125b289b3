"""Microsoft's debugger engine under wine: the judge of what a debugger finds in a store.

The DLLs are Microsoft's: they come out of a wheel from the package index where the tests run, and are kept in
``.dbgeng`` of the checkout (or the folder that ``SYMCACHE_DBGENG`` names), never in the project.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.parts import is_required, need

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Engine", "Loaded", "Session", "build_engine", "windows_path"]

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = _ROOT / "tests" / "clients" / "dbgeng" / "session.cpp"
_WHEEL = "pykd==0.3.4.15"  # dbgeng, dbghelp and symsrv 10.0.15063
_DLLS = ("dbgeng.dll", "dbghelp.dll", "symsrv.dll", "DbgModel.dll", "msdia140.dll", "srcsrv.dll")
_WINE = "/usr/lib/wine/wine64"
_PATIENCE_S = 240

# start, end, name, flags such as T or C, (state), path of the PDB
_LISTED = re.compile(r"^[0-9a-f`]{8,17} [0-9a-f`]{8,17} +(\S+) +(?:[A-Z#]+ +)*\(([^)]*)\) *(\S*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module as ``lm`` lists it.

    Attributes:
        name: The engine's name for it.
        state: ``pdb symbols``, ``private pdb symbols``, ``no symbols``, ``deferred``, ``export symbols``.
        pdb: Where the engine found the PDB, in lower case with ``/``; empty if it did not.
    """

    name: str
    state: str
    pdb: str

    @property
    def has_symbols(self) -> bool:
        return self.state.endswith("pdb symbols")


@dataclass(frozen=True, slots=True)
class Session:
    """What the engine said, command by command."""

    text: str

    def said(self, command: str) -> str:
        """Return what came of *command*, the last time it was given."""
        _, mark, rest = self.text.rpartition(f"\n0:000> {command}\n")
        assert mark, f"{command} was not reached:\n{self.text[-2000:]}"
        return rest.partition("\n0:000> ")[0]

    def modules(self, command: str = "lm") -> dict[str, Loaded]:
        """Return the modules that ``lm`` or its like listed, by name in lower case."""
        rows = _LISTED.findall(self.said(command).partition("\nUnloaded modules:")[0])
        return {name.lower(): Loaded(name, state, pdb.lower().replace("\\", "/")) for name, state, pdb in rows}


class Engine:
    """Runs sessions of the engine; each in a process of its own, one wine prefix for all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, dump: Path, symbol_path: str, *commands: str) -> Session:
        """Return what the engine says of *dump* with *symbol_path*, whose folders are Windows paths."""
        arguments = [windows_path(dump), *commands]
        done = self._run([str(self._folder / "session.exe"), *arguments], _NT_SYMBOL_PATH=symbol_path)
        text = done.stdout.decode("utf-8", "replace").replace("\r", "").replace("\b", "\n")
        assert done.returncode == 0, text[-3000:]
        return Session(text)

    def prepare(self) -> None:
        """Make the wine prefix."""
        self._run(["wineboot", "-i"])

    def close(self) -> None:
        """End the server of this prefix."""
        subprocess.run(["wineserver", "-k"], env=self._environment(), capture_output=True, check=False)

    def _run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [_WINE, *command],
            cwd=self._folder,
            env=self._environment() | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "WINEPREFIX": str(self._folder / "prefix"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # The engine's own libraries, not wine's; no debugger of wine's if it crashes.
            "WINEDLLOVERRIDES": "dbghelp,symsrv,dbgeng,dbgmodel=n;winedbg.exe=d",
        }


def windows_path(path: Path) -> str:
    """Return *path* as wine's programs see it."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


def build_engine() -> Iterator[Engine]:
    """Lend the engine, made on first use; skip where a part is missing, fail if ``dbgeng`` is required."""
    _need(Path(_WINE).exists(), "wine is not installed")
    compiler = need("mingw")
    folder = Path(os.environ.get("SYMCACHE_DBGENG", _ROOT / ".dbgeng"))
    engine = Engine(folder)
    if not (folder / "prefix").exists() or not (folder / "session.exe").exists():
        _build(folder, compiler)
        engine.prepare()
    try:
        yield engine
    finally:
        engine.close()


def _build(folder: Path, compiler: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-deps", "--only-binary=:all:", "--platform", "win_amd64", "--python-version", "3.9"]
    command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(folder), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _need(done.returncode == 0, f"dbgeng cannot be fetched: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("pykd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in _DLLS:
            with archive.open(f"pykd/{name}") as packed, (folder / name).open("wb") as library:
                shutil.copyfileobj(packed, library)
    wheel.unlink()
    subprocess.run(
        [compiler, "-O1", "-static", "-o", str(folder / "session.exe"), str(_SOURCE)], check=True, capture_output=True
    )


def _need(is_there: bool, reason: str) -> None:
    if not is_there:
        if is_required("dbgeng"):
            pytest.fail(f"{reason}, but SYMCACHE_TEST_REQUIRE names dbgeng", pytrace=False)
        pytest.skip(reason)
