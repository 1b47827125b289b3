"""Run tests on CPython for Windows under wine: ``python3 tests/run.py --windows [PYTEST OPTIONS]`` calls this.

By default it runs tests/unit, without those that compute on bytes in memory alone, which is the same on every system,
and a few of tests/e2e. The Python, with what the tests need as wheels for Windows, is kept in
``.windows-tests``; tests' folders lie on drive C of its wine prefix, which knows no letter case, as on Windows. One
run at a time: the end of one ends whatever runs in the prefix.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "config" / "standalone"))

from resolve import lay_packages  # noqa: E402 - scripts, found above
from windows_python import WindowsPython, make_windows_python, windows_path  # noqa: E402

# Readers of bytes in memory and of text.
_COMPUTED = (
    *("crashreport", "crashstack", "debuglog", "kerneldump", "kerneldump_cost", "lock", "logclothes", "minidump"),
    *("modulelist", "runtimes", "trace", "triagedump", "versions"),
)
# A process takes wine seconds to start, so that of the tests of whole commands there are those of the main ones; the
# others, campaigns and benchmarks among them, take POSIX signals, strace, mounts, /proc or browsers as well.
_USUAL = [
    "tests/unit",
    *(f"tests/e2e/test_{name}.py" for name in ("demo", "scan", "store")),
    *(f"--ignore=tests/unit/{name}" for name in ("formats", "synth", "ci", "docs", "test_hostile.py")),
    *(f"--ignore=tests/unit/inputs/test_{name}.py" for name in _COMPUTED),
    # A process for each command, and what they import is the same everywhere.
    "--deselect=tests/unit/cli/test_completion.py::test_completing_imports_no_network",
]
_STAMP = "symcache-tests"
_EXTRAS = ("serve", "keyring", "negotiate")
# What a few tests compare with, by the variable that names it to them; a compiler that is not here makes none.
_PROGRAMS = {
    "SYMCACHE_TEST_MODULES": "x86_64-w64-mingw32-g++-win32",
    "SYMCACHE_TEST_MODULES32": "i686-w64-mingw32-g++-win32",
}
# Later ones are linked with bcryptprimitives.dll, which Debian's wine 8 lacks; trustme is content with this one.
_FOR_WINE = ("cryptography<43",)


def main(arguments: list[str]) -> int:
    """Run pytest with *arguments* on Windows' Python; return its exit status."""
    try:
        windows = make_windows_python("tests")
        _lay_packages(windows)
        programs = _compile(windows)
    except RuntimeError as error:
        sys.stderr.write(f"tests/windows.py: {error}\n")
        return 1
    _share_drive_c(windows)
    is_named = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    # Who ends this program ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(windows, [*arguments, *([] if is_named else _USUAL)], programs)
    except KeyboardInterrupt:
        return 130
    finally:
        windows.close()


def _lay_packages(windows: WindowsPython) -> None:
    """Install what the project and its tests need, and the checkout itself, unless that has been done."""
    packages = windows.python.parent / "Lib" / "site-packages"
    stamp = packages / _STAMP
    settings = ROOT / "pyproject.toml"
    wanted = hashlib.sha256(settings.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text("ascii") == wanted:
        return
    extras = [text for extra in _EXTRAS for text in ("--extra", extra)]
    requirements = ["--requirements", str(settings), *extras, "--group", f"{settings}:test", *_FOR_WINE]
    lay_packages(packages, requirements, platform="x86_64-pc-windows-msvc", python=windows.version)
    # Where there is this function of Windows 8, shutil calls it since 3.12, and wine 8 ends the process that does.
    copying = packages.parent / "shutil.py"
    copying.write_bytes(copying.read_bytes().replace(b'hasattr(_winapi, "CopyFile2")', b"False"))
    (packages / "symcache.pth").write_text(f"{windows_path(ROOT)}\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="ascii")


def _share_drive_c(windows: WindowsPython) -> None:
    r"""Let ``\\localhost\c$`` be drive C, as it is on Windows; wine looks for shares in this folder."""
    assert windows.folder is not None
    share = windows.folder / "prefix" / "dosdevices" / "unc" / "localhost" / "c$"
    share.parent.mkdir(parents=True, exist_ok=True)
    if not share.is_symlink():
        share.symlink_to("../../../drive_c")


def _compile(windows: WindowsPython) -> dict[str, str]:
    """Return where the programs of tests/support/live lie for Windows, by the variables that name them."""
    assert windows.folder is not None
    source = ROOT / "tests" / "support" / "live" / "modules.cpp"
    made: dict[str, str] = {}
    for variable, compiler in _PROGRAMS.items():
        is_for_32_bits = variable.endswith("32")
        if shutil.which(compiler) is None or (is_for_32_bits and not Path("/usr/lib/wine/wine").exists()):
            continue
        program = windows.folder / f"modules{'32' if is_for_32_bits else ''}.exe"
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command = [compiler, "-O1", "-static", "-o", str(program), str(source), "-lpsapi", "-lntdll"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{source} cannot be compiled: {done.stderr.strip()[-300:]}")
        made[variable] = windows_path(program)
    return made


def _run(windows: WindowsPython, arguments: list[str], programs: dict[str, str]) -> int:
    kept = {name: value for name, value in os.environ.items() if name.startswith("SYMCACHE_TEST_")}
    with subprocess.Popen(
        windows.command(windows.python, "-u", "-m", "pytest", *arguments),
        env=windows.environment(PYTHONDONTWRITEBYTECODE="1", **kept, **programs),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        # Under wine Python cannot write to a terminal.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        copying = threading.Thread(target=_copy, args=(process.stdout,))
        copying.start()
        try:
            return process.wait()
        finally:
            windows.close()  # what outlives the tests, such as wine's console, keeps the pipe
            copying.join()


def _copy(source: IO[bytes]) -> None:
    for piece in iter(lambda: os.read(source.fileno(), 1 << 16), b""):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
