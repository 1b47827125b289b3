"""Make the programs that need no installation: ``python3 config/standalone/make.py [exe] [pyz]``, on Linux or Windows.

    symcache.exe   for Windows x64; needs nothing else
    symcache.pyz   for Linux, macOS and Windows; needs Python 3.11 or newer

    --out DIR      where to put them; default: dist
    --wheel FILE   a wheel of symcache to take; default: build one

Beside each lies a file with the licenses of all that is in it. Needs Python 3.11 or newer and pip; for symcache.exe on
Linux wine, too. What goes into them is resolved again each time, and checked by nothing but the tests: run those of
tests/release before you hand the programs to anybody.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Make what *arguments* name, in an environment of its own; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="exe|pyz", help="default: both")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--wheel", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    programs = options.programs or ["exe", "pyz"]
    if not {*programs} <= {"exe", "pyz"}:
        parser.error("programs are exe and pyz")
    bootstrap = _load(ROOT / "symcache" / "bootstrap.py")
    try:
        python = bootstrap.make_environment(
            ROOT, f".venv-standalone-{bootstrap.version_tag()}", bootstrap.requirements_of(ROOT, ["standalone"])
        )
        if Path(sys.executable) != python:
            rest = ["--out", str(options.out), *(["--wheel", str(options.wheel)] if options.wheel else []), *programs]
            status: int = bootstrap.run_in(python, [str(Path(__file__).resolve()), *rest])
            return status
        _make(programs, options.out.absolute(), options.wheel and options.wheel.absolute())
    except (bootstrap.BootstrapError, RuntimeError) as error:
        sys.stderr.write(f"make.py: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _make(programs: list[str], out: Path, wheel: Path | None) -> None:
    # Here, since they need what the environment has.
    sys.path.insert(0, str(_HERE))
    import archive
    import executable

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="symcache-standalone-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        if wheel is None:
            wheel = _build_wheel(scratch / "wheel")
        make = {"exe": executable.make_executable, "pyz": archive.make_archive}
        for program in programs:
            (scratch / program).mkdir()
            for path in make[program](wheel, scratch / program):
                shutil.copy(path, out / path.name)
                print(f"{out / path.name}: {path.stat().st_size:,} bytes")  # noqa: T201 - its result


def _build_wheel(folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], check=False
    )
    if done.returncode != 0:
        raise RuntimeError("the wheel cannot be built")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _load(path: Path) -> ModuleType:
    # By path: the package cannot be imported before its dependencies are installed.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
