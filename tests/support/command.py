"""The real command, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.windows import OWN_CONSOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["run", "run_json", "start"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 120


@contextmanager
def start(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Lend a running ``symcache`` with *arguments*; it is killed in the end if it still runs."""
    with subprocess.Popen(
        _command(arguments),
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        creationflags=OWN_CONSOLE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(
    *arguments: str | Path, env: Mapping[str, str] | None = None, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``symcache`` with *arguments* to its end."""
    done = subprocess.run(
        _command(arguments),
        env=_environment(env),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    out, err = (text.decode("utf-8").replace("\r\n", "\n") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def run_json(*arguments: str | Path, code: int = 0, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``symcache`` with *arguments* and ``--json``; return its one document."""
    done = run(*arguments, "--json", env=env)
    assert done.returncode == code, done.stderr or done.stdout
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _command(arguments: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "symcache", *map(str, arguments)]


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1", **(more or {})}
