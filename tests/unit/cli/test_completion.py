"""Shells complete commands, options, their values and files; what they ask imports neither readers nor network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from symcache.cli.app import _COMMANDS, root
from symcache.errors import UsageError
from symcache.stores.http.servers import SERVERS

PROJECT = Path(__file__).parents[3]
SHELLS = ["bash", "zsh", "fish", "powershell"]


def needs(shell: str) -> str:
    """Return where *shell* is; skip the test where it is not installed."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


def script(shell: str) -> str:
    done = CliRunner().invoke(root, ["completion", shell])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A folder with a command ``symcache`` in front of PATH, and nothing of the user's."""
    command = tmp_path / "bin" / "symcache"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m symcache "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a dump and a store."""
    folder = tmp_path / "here"
    (folder / "symbols").mkdir(parents=True)
    (folder / "dump one.dmp").touch()
    return folder


def run(shell: str, program: str, environment: dict[str, str], here: Path) -> list[str]:
    done = subprocess.run(
        [needs(shell), *{"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}.get(shell, ()), "-c", program],
        env=environment,
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


# bash as a terminal drives it: the function fills COMPREPLY, and `compopt` says whether files are wanted.
BASH = """
{script}
compopt() {{ printf "compopt %s %s\n" "$@"; }}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_symcache_completion symcache
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

CASES = [
    ("symcache war", ["warm"]),
    ("symcache store ve", ["verify"]),
    ("symcache warm --allow-m", ["--allow-missing"]),
    ("symcache warm --images ''", ["auto", "all", "none"]),
    ("symcache path --shell wi", ["windbg"]),
    ("symcache warm MEMORY.DMP --fail-on p", ["private"]),
    ("symcache store list --symbols pri", ["private"]),
    ("symcache completion po", ["powershell"]),
]


@pytest.mark.parametrize(("line", "found"), CASES, ids=[line for line, _ in CASES])
def test_bash_completes(line: str, found: list[str], environment: dict[str, str], here: Path) -> None:
    assert run("bash", BASH.format(script=script("bash"), words=line), environment, here) == found


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("symcache warm ''", "default"),
        ("symcache inspect ''", "default"),
        ("symcache export -o b.zip ''", "default"),
        ("symcache warm --config ''", "default"),
        ("symcache warm --report ''", "default"),
        ("symcache warm --store ''", "dirnames"),
        ("symcache store init ''", "dirnames"),
        ("symcache store pin --for ''", "default"),
        ("symcache serve --access-log ''", "default"),
    ],
)
def test_bash_is_told_where_files_and_folders_go(
    line: str, option: str, environment: dict[str, str], here: Path
) -> None:
    assert run("bash", BASH.format(script=script("bash"), words=line), environment, here) == [
        f"compopt -o {option}",
        "",
    ]


def test_bash_offers_every_command_and_server(environment: dict[str, str], here: Path) -> None:
    program = BASH.format(script=script("bash"), words="symcache ''")
    assert run("bash", program, environment, here) == list(_COMMANDS)
    program = BASH.format(script=script("bash"), words="symcache doctor ''")
    assert run("bash", program, environment, here) == [server.name for server in SERVERS]


def test_bash_registers_what_it_is_given(environment: dict[str, str], here: Path) -> None:
    (line,) = run("bash", 'eval "$(symcache completion bash)"; complete -p symcache', environment, here)
    assert line.endswith("-F _symcache_completion symcache")


# What the completion system does with what it is given is zsh's own affair; these stand for its functions.
ZSH = """
compdef() {{ : }}
_describe() {{ print -l -- ${{(P)3}} }}
compadd() {{ print -l -- ${{(P)5}} }}
_path_files() {{ print -- "path_files $*" }}
{script}
words=({words})
CURRENT=$#words
_symcache_completion
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("symcache war", [f"warm:{_COMMANDS['warm'][1]}"]),
        ("symcache warm --images ''", ["auto", "all", "none"]),
        ("symcache warm --store ''", ["path_files -/"]),
        ("symcache warm ''", ["path_files -f"]),
    ],
)
def test_zsh_completes(line: str, found: list[str], environment: dict[str, str], here: Path) -> None:
    assert run("zsh", ZSH.format(script=script("zsh"), words=line), environment, here) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("symcache war", [f"warm\t{_COMMANDS['warm'][1]}"]),
        ("symcache warm --images ", ["auto", "all", "none"]),
        ("symcache warm dump", ["dump one.dmp"]),
        ("symcache warm --store s", ["symbols/"]),
    ],
)
def test_fish_completes(line: str, found: list[str], environment: dict[str, str], here: Path) -> None:
    said = run("fish", f"{script('fish')}\ncomplete --do-complete '{line}'", environment, here)
    assert sorted(each if "\t" in found[0] else each.partition("\t")[0] for each in said) == sorted(found)


# Windows PowerShell 5.1 and PowerShell 7 alike.
POWERSHELL = """
{script}
$found = [System.Management.Automation.CommandCompletion]::CompleteInput('{line}', {cursor}, $null)
$found.CompletionMatches | ForEach-Object {{ $_.ListItemText }}
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("symcache war", ["warm"]),
        ("symcache warm --images ", ["auto", "all", "none"]),
        ("symcache warm --images=al", ["--images=all"]),
        ("symcache warm dump", ["dump one.dmp"]),
        ("symcache store list --symbols x", []),
    ],
)
def test_powershell_completes(line: str, found: list[str], environment: dict[str, str], here: Path) -> None:
    program = POWERSHELL.format(script=script("powershell"), line=line, cursor=len(line))
    assert [each for each in run("pwsh", program, environment, here) if each] == found


def asked(words: list[str], end: str = "\n") -> list[str]:
    """Return what a PowerShell that completes the last of *words* is answered."""
    lines = "\n".join(["symcache", *words]) + end
    done = CliRunner().invoke(root, ["completion", "powershell", "--answer"], input=lines)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["war"], [f"plain\twarm\t{_COMMANDS['warm'][1]}"]),
        (["warm", "--images", "a"], ["plain\tauto\tauto", "plain\tall\tall"]),
        (["warm", "--images=no"], ["plain\t--images=none\tnone"]),
        (["warm", "a b.dmp", "--stac"], None),
        (["warm", "dump one"], ["file\tdump one\tdump one"]),
        (["warm", "--store", ""], ["dir\t\t"]),
        (["store", "list", "--symbols", "x"], []),
    ],
)
def test_powershell_is_answered_in_lines_of_three_fields(words: list[str], answer: list[str] | None) -> None:
    said = asked(words)
    assert said == asked(words, "\r\n")
    if answer is None:
        (option,) = said
        kind, value, text = option.split("\t")
        assert (kind, value) == ("plain", "--stack")
        assert text.startswith("Fetch only what")
    else:
        assert [line for line in said if line] == answer


def test_only_powershell_is_answered_so() -> None:
    done = CliRunner().invoke(root, ["completion", "bash", "--answer"])
    assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_whole_lines_without_cr(shell: str) -> None:
    text = script(shell)
    assert text.endswith("\n")
    assert "\r" not in text
    assert "%(" not in text
    assert "symcache" in text


# Each option list imports the command that has it, and nothing that a run needs.
ASK = """
import json, os, sys
from symcache.cli import main
os.environ["_SYMCACHE_COMPLETE"] = "bash_complete"
os.environ["COMP_WORDS"] = "symcache " + sys.argv[1]
os.environ["COMP_CWORD"] = str(len(sys.argv[1].split(" ")))
try:
    main([])
except SystemExit as end:
    assert end.code == 0
slow = {"anyio", "asyncio", "diskcache", "httpx", "httptools", "rich", "sqlite3", "ssl", "trio", "uvicorn"}
print(json.dumps(sorted(slow & set(sys.modules))), len([m for m in sys.modules if m.startswith("symcache.cli.")]))
"""


@pytest.mark.parametrize(
    "typed", [*(f"{name} --" for name in _COMMANDS if name != "store"), "store verify --", "store ", "doctor "]
)
def test_completing_imports_no_network(typed: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, typed], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1].startswith("[]"), done.stdout


def test_completing_a_command_imports_no_command() -> None:
    done = subprocess.run([sys.executable, "-c", ASK, "war"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["plain,warm", "[] 2"]  # app and output
