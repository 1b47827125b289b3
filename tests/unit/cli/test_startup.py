"""What a short command imports: start-up is half of its time, so it is held without measuring any."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.identity import PdbKey

if TYPE_CHECKING:
    from pathlib import Path

_REPORT = """
import json, sys
from symcache.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""

# Each of these costs as much as half of click.
_SLOW = {"anyio", "asyncio", "diskcache", "httpcore", "httpx", "rich", "sqlite3", "ssl", "trio", "uvicorn"}
_SLOW |= {"concurrent.futures", "email", "hashlib", "http", "logging", "multiprocessing", "tomllib"}


def imported(*arguments: str) -> tuple[int, set[str]]:
    """Return the exit code of a command run with *arguments*, and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYMCACHE_CONFIG", "SYMCACHE_STORE", "_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH", "_NT_SYMBOL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["path"], ["path", "--json"]])
def test_a_command_that_looks_at_nothing_imports_no_reader_and_no_network(command: list[str]) -> None:
    code, modules = imported(*command)
    assert code == 0
    assert not modules & _SLOW
    assert not {name for name in modules if name.startswith(("symcache.formats", "symcache.inputs", "symcache.stores"))}


def test_a_check_of_nothing_imports_no_parser_and_no_network(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    code, modules = imported("check", str(folder), "--allow-empty", "--store", str(tmp_path / "sym"))
    assert code == 0
    assert not modules & _SLOW
    assert not {name for name in modules if name.startswith(("symcache.formats.p", "symcache.formats.d"))}


@pytest.mark.parametrize("command", ["warm", "check"])
def test_what_is_present_needs_neither_network_nor_event_loop(tmp_path: Path, command: str) -> None:
    spec = NativePdbSpec(UUID(int=1), 1)
    key = PdbKey("a.pdb", spec.guid, spec.age)
    file = tmp_path / "sym" / key.index
    file.parent.mkdir(parents=True)
    file.write_bytes(make_pdb(spec))
    (tmp_path / "list.txt").write_text(f"{key.index}\n")
    code, modules = imported(command, str(tmp_path / "list.txt"), "--store", str(tmp_path / "sym"))
    assert code == 0
    assert not modules & {"anyio", "asyncio", "diskcache", "httpx", "rich", "sqlite3", "ssl"}


def test_a_scan_imports_what_reads_its_input_alone(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.pdb/{1:032X}1/a.pdb\n")
    code, modules = imported("scan", str(tmp_path / "list.txt"))
    assert code == 0
    assert not modules & _SLOW
    assert "symcache.inputs.manifest" in modules
    assert not modules & {"symcache.inputs.kerneldump", "symcache.inputs.minidump", "symcache.inputs.image"}
