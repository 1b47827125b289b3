"""``symcache.exe``: PyInstaller's work, on a Python for Windows."""

from __future__ import annotations

from pathlib import Path

from resolve import lay_packages
from windows_python import make_windows_python, windows_path

from symcache import bootstrap

__all__ = ["make_executable"]

_HERE = Path(__file__).resolve().parent


def make_executable(wheel: Path, scratch: Path) -> list[Path]:
    """Return ``symcache.exe``, made of *wheel*, and the file of its licenses, both in *scratch*.

    Raises:
        RuntimeError: It cannot be made.
    """
    windows = make_windows_python()
    packages, out = scratch / "packages", scratch / "out"
    tools = bootstrap.requirements_of(_HERE.parents[1], ["exe"])
    lay_packages(packages, [f"{wheel}[serve]", *tools], platform="x86_64-pc-windows-msvc", python=windows.version)
    places = {"--distpath": out, "--workpath": scratch / "work"}
    options = [text for name, path in places.items() for text in (name, windows_path(path))]
    try:
        status, said, complaints = windows.run(
            windows.python,
            *("-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"),
            *options,
            windows_path(_HERE / "symcache.spec"),
            cwd=scratch,
            PYTHONPATH=windows_path(packages),
            SOURCE_DATE_EPOCH="1767225600",  # else the time of the build stands in it
            PYTHONHASHSEED="0",
        )
    finally:
        windows.close()
    if status != 0:
        raise RuntimeError(f"PyInstaller ended with {status}:\n{said}{complaints}")
    return [out / "symcache.exe", out / "symcache.exe.licenses.txt"]
