"""Ways to run symcache as somebody else would: an installed command, symcache.pyz, symcache.exe under wine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from windows_python import WindowsPython, make_windows_python, windows_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PYTHONS", "USERS", "Program", "find_python", "windows_program"]

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
USERS = dict(os.environ)
"""The user's own environment, before tests have homes of their own: for what installs, with caches and settings."""

_PATIENCE_S = 180
_PYENV = Path(USERS.get("PYENV_ROOT", Path.home() / ".pyenv"))
_SERVING = re.compile(r" on (https?://[^/ ]*:(\d+))/")


@dataclass(frozen=True, slots=True)
class Program:
    """A way to run symcache.

    Attributes:
        command: What its arguments follow.
        environment: Instead of this process's, or in addition to it where *windows* is given.
        windows: What it runs on, for a program for Windows.
    """

    command: list[str]
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    windows: WindowsPython | None = None

    def path(self, path: Path) -> str:
        """Return *path* as the program sees it."""
        return windows_path(path) if self.windows else str(path)

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end with *more* in its environment."""
        done = subprocess.run(
            self._command(arguments),
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        out, err = (text.decode("utf-8", "replace").replace("\r\n", "\n") for text in (done.stdout, done.stderr))
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    @contextmanager
    def serving(self, *arguments: str | Path) -> Iterator[int]:
        """Run ``serve`` for a ``with`` block; return its port on 127.0.0.1."""
        process = subprocess.Popen(
            self._command(("serve", "--port", "0", *arguments)),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said: list[str] = []
        try:
            match = None
            while match is None:
                line = process.stderr.readline().decode("utf-8", "replace")
                assert line, f"the server ended: {said}"
                said.append(line)
                match = _SERVING.search(line)
            yield int(match[2])
        finally:
            process.terminate()
            if self.windows is not None:
                self.windows.close()  # symcache.exe runs as two processes, of which this was the first
            process.communicate(timeout=_PATIENCE_S)

    def _command(self, arguments: tuple[str | Path, ...]) -> list[str]:
        return [*self.command, *(self.path(each) if isinstance(each, Path) else each for each in arguments)]


@contextmanager
def windows_program(path: Path) -> Iterator[Program]:
    """Lend the program for Windows at *path*."""
    windows = make_windows_python()
    try:
        yield Program(windows.command(path), windows.environment(), windows)
    finally:
        windows.close()


def find_python(version: str) -> Path:
    """Return a Python of that version, or skip the test."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return Path(sys.executable)
    named = [shutil.which(f"python{version}"), *_PYENV.glob(f"versions/{version}.*/bin/python")]
    for candidate in filter(None, named):
        say: list[Any] = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        done = subprocess.run(say, capture_output=True, text=True, check=False)  # a shim may have nothing behind it
        found, _, executable = done.stdout.strip().partition(" ")
        if found == version:
            return Path(executable)
    pytest.skip(f"Python {version} is not here")
