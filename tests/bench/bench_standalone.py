"""Compare how long the programs that need no installation take to start with the installed command.

    python3 config/standalone/make.py
    python tests/bench/bench_standalone.py dist            # 7 rounds
    python tests/bench/bench_standalone.py dist --rounds 3

symcache.exe is compared with ``python -m symcache`` of the same wheel's packages, compiled to bytecode, on the same
Python for Windows, under wine where this is not Windows; symcache.pyz with the same on the Python that runs this. Each
has been started before, and wine is kept running. They take turns within each round.
The least wall clock of all rounds is shown, since other work on the machine only adds to it, and its ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "config" / "standalone"))

from resolve import lay_packages
from support.programs import Program, windows_program
from windows_python import make_windows_python, windows_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windows_python import WindowsPython

ROOT = Path(__file__).resolve().parents[2]
GOAL = 3
_COMMANDS = {"--version": ["--version"], "path": ["path"]}


def installed_on_windows(folder: Path) -> Program:
    """Return the command as it is installed for the Windows Python, in *folder*."""
    windows = make_windows_python()
    _lay(folder, platform="x86_64-pc-windows-msvc", python=windows.version)
    packages = windows_path(folder / "packages")
    windows.run(windows.python, "-m", "compileall", "-q", packages)
    return Program(windows.command(windows.python, "-m", "symcache"), windows.environment(PYTHONPATH=packages), windows)


def installed_here(folder: Path) -> Program:
    _lay(folder, platform={"linux": "linux", "darwin": "macos"}.get(sys.platform, "windows"), python="")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder / "packages")], check=True)
    code = f"import sys; sys.path.insert(0, {str(folder / 'packages')!r}); from symcache.cli import main; main()"
    return Program([sys.executable, "-I", "-c", code])


def _lay(folder: Path, *, platform: str, python: str) -> None:
    build = [sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    version = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    lay_packages(folder / "packages", [f"{wheel}[serve]"], platform=platform, python=version)


@contextmanager
def awake(windows: WindowsPython) -> Iterator[None]:
    """Keep a process running: wine's own start, of seconds, is no matter of ours."""
    waits = windows.command(windows.python, "-c", "import sys; print(flush=True); sys.stdin.read()")
    pipe = subprocess.PIPE
    with subprocess.Popen(waits, env=windows.environment(), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


def start_s(program: Program, arguments: list[str]) -> float:
    began_s = time.perf_counter()
    done = program.run(*arguments)
    took_s = time.perf_counter() - began_s
    assert done.returncode == 0, done.stderr
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the programs are")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    executable, archive = (options.folder.absolute() / f"symcache.{kind}" for kind in ("exe", "pyz"))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-standalone-")))
        pairs: dict[str, tuple[Program, Program]] = {}
        if archive.exists():
            (scratch / "here").mkdir()
            pairs["pyz"] = (Program([sys.executable, "-I", str(archive)]), installed_here(scratch / "here"))
        if executable.exists():
            (scratch / "windows").mkdir()
            program = stack.enter_context(windows_program(executable))
            pairs["exe"] = (program, installed_on_windows(scratch / "windows"))
            stack.enter_context(awake(make_windows_python()))
        if not pairs:
            parser.error(f"{options.folder} holds neither symcache.exe nor symcache.pyz")
        todo = [
            (f"{kind} {name}", pair, arguments) for kind, pair in pairs.items() for name, arguments in _COMMANDS.items()
        ]
        for _, pair, arguments in todo:
            for program in pair:
                start_s(program, arguments)
        took_s = [
            [[start_s(program, arguments) for program in pair] for _, pair, arguments in todo]
            for _ in range(options.rounds)
        ]
    print(f"{'':14} {'ms':>6} {'installed ms':>13} {'ratio':>6}  goal")
    for number, (name, _, _) in enumerate(todo):
        ours_s, theirs_s = (min(one_round[number][which] for one_round in took_s) for which in (0, 1))
        print(f"{name:14} {ours_s * 1000:6.0f} {theirs_s * 1000:13.0f} {ours_s / theirs_s:6.2f}  under {GOAL}")


if __name__ == "__main__":
    main()
