"""`fetch`, `missing`, `path` and Ctrl-C, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.answers import Stall
from support.synth.pdb import NativePdbSpec, make_pdb
from support.windows import OWN_CONSOLE, interrupt

from symcache.identity import PdbKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.upstream import Upstream

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
KEY = PdbKey("crash.pdb", GUID, 2)
SECDRV = PdbKey("secdrv.pdb", GUID, 3)
COMMAND = [sys.executable, "-m", "symcache"]
PROJECT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_file_is_fetched_its_miss_listed_and_the_path_printed(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {KEY.index: make_pdb(NativePdbSpec(KEY.guid, KEY.age))}
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    done = run("fetch", KEY.index, SECDRV.name, SECDRV.id, _NT_SYMBOL_PATH=path)
    assert done.returncode == 2  # two files are named, the second by a name and an id apart
    done = run("fetch", KEY.index, SECDRV.index, _NT_SYMBOL_PATH=path)
    assert (done.returncode, done.stdout) == (3, f"{tmp_path / 'sym' / KEY.index}\n")
    assert Path(done.stdout.strip()).read_bytes() == upstream.files[KEY.index]
    listed = run("missing", "--json", _NT_SYMBOL_PATH=path)
    assert [row["index"] for row in json.loads(listed.stdout)["missing"]] == [SECDRV.index]
    printed = run("path", "--offline", "--shell", "windbg", _NT_SYMBOL_PATH=path)
    assert (printed.returncode, printed.stdout) == (0, f".sympath srv*{tmp_path / 'sym'}\n")
    explained = run("path", "--explain", SECDRV.index, _NT_SYMBOL_PATH=path)
    assert "404, remembered" in explained.stdout


def terminate(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


not_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal, and ends it on the spot")


@pytest.mark.parametrize("stop", [interrupt, pytest.param(terminate, marks=not_windows)])
def test_an_interrupted_run_says_what_it_did_and_leaves_no_scratch(
    stop: Callable[[subprocess.Popen[str]], None], upstream: Upstream, tmp_path: Path
) -> None:
    content = make_pdb(NativePdbSpec(KEY.guid, KEY.age, payload_bytes=1 << 20))
    stall = Stall(after=100_000)
    upstream.files = {KEY.index: content}
    upstream.always(KEY.index, stall)
    wanted = tmp_path / "list.txt"
    wanted.write_text(f"{KEY.index}\n")
    process = subprocess.Popen(
        [*COMMAND, "warm", "--json", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", str(wanted)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=OWN_CONSOLE,
    )
    stall.reached.wait()
    stop(process)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    (symbol,) = json.loads(out)["symbols"]
    assert (symbol["state"], symbol["detail"]) == ("failed", "interrupted")
    assert err == "symcache: interrupted; what was fetched is kept\n"
    kept = {"pingme.txt", "keys"}  # the marks of a store, and the file whose bytes are locked
    assert [file for file in (tmp_path / "sym").rglob("*") if file.is_file() and file.name not in kept] == []


def test_a_run_that_waits_for_its_input_can_be_interrupted(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "warm", "-v", "-y", f"srv*{tmp_path / 'sym'}", "-"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=OWN_CONSOLE,
    )
    try:
        os.write(write, b";\n" * 100_000)  # more than a pipe holds, so that it returns when reading has begun
        interrupt(process)
        out, _ = process.communicate(timeout=30)
    finally:
        os.close(read)
        os.close(write)
    assert process.returncode == 130
    assert "interrupted" in out
