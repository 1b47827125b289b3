"""What holds for every command: help, documentation, errors as one line, cheap to start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from symcache.cli.app import _COMMANDS, root

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[3]
REFERENCE = PROJECT / "docs" / "reference.md"


def commands(group: click.Group = root, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


COMMANDS = dict(commands())


def section(command: str) -> str:
    """Return what the reference says of a command: from its heading to the next of any command."""
    text = REFERENCE.read_text(encoding="utf-8")
    found = re.search(rf"^#+ symcache {re.escape(command)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/reference.md has no heading '### symcache {command}'"
    return found[1]


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_its_options_have_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
            assert parameter.help.endswith("."), parameter.help


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_every_command_takes_no_color_and_h(name: str) -> None:
    done = CliRunner().invoke(root, [*name.split(), "--no-color", "-h"])
    assert (done.exit_code, done.stdout[:6]) == (0, "Usage:")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_in_the_reference_with_every_option_of_its_own(name: str) -> None:
    text = section(name)
    common = REFERENCE.read_text(encoding="utf-8").partition("## Options of most commands")[2].partition("\n## ")[0]
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert re.search(rf"`{re.escape(option)}[` ]", text + common), f"{name}: {option} is not documented"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_documents_no_option_that_it_lacks(name: str) -> None:
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    rows = re.findall(r"^\| (`-.*?`) \|", section(name), re.MULTILINE)
    documented = {option for row in rows for option in re.findall(r"`(-[-\w]+)", row)}
    assert documented <= known


@pytest.mark.parametrize("name", [name for name in COMMANDS if " " not in name])
def test_the_list_of_commands_says_what_each_is_for(name: str) -> None:
    assert _COMMANDS[name][1].endswith(".")


def test_every_file_of_a_command_is_listed() -> None:
    listed = set(root.list_commands(click.Context(root)))
    assert set(COMMANDS) & set(_COMMANDS) == listed


def test_every_key_of_the_config_file_stands_in_the_reference() -> None:
    example = (PROJECT / "config" / "symcache.toml").read_text(encoding="utf-8")
    parsed = tomllib.loads(re.sub(r"^#(?=\S)", "", example, flags=re.MULTILINE))
    text = REFERENCE.read_text(encoding="utf-8")

    def check(table: dict[str, object], prefix: str) -> None:
        for name, value in table.items():
            where = f"{prefix}{name}"
            if where in {"server", "bucket"}:
                for key in value[0]:  # type: ignore[index]
                    assert f"`{key}`" in text, f"[[{where}]] {key}"
            elif isinstance(value, dict) and value and where != "unc.map":
                check(value, f"{where}.")
            else:
                assert f"`{where}`" in text, where

    check(parsed, "")


@pytest.mark.parametrize("name", ["version", "help"])
def test_starting_imports_neither_httpx_nor_rich(name: str) -> None:
    done = python(
        f"""
import sys
from symcache.cli import main
try:
    main(["--{name}"])
except SystemExit as end:
    assert not end.code
print(sorted({{"httpx", "rich", "diskcache", "asyncio", "trio"}} & set(sys.modules)))
"""
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--version"], ["warm", "--version"]], ids=" ".join)
def test_the_version_is_told(arguments: list[str]) -> None:
    told = CliRunner().invoke(root, arguments)
    assert (told.exit_code, told.stderr) == (0, "")
    assert re.fullmatch(r"symcache \d+\.\d+\.\d+\S*\n", told.stdout)


BREAK = """
import sys, click
from symcache import errors
from symcache.cli import app
@click.command()
@click.option("-v", "--verbose", is_flag=True)
def broken(verbose):
    raise {error}
app.root.get_command = lambda context, name: broken
app.main(sys.argv[1:] + ["broken"{arguments}])
"""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        ("RuntimeError('two')", 1, "this should not have happened, please report it: RuntimeError: two"),
        ("ExceptionGroup('g', [errors.StoreError('the disk is full', path='/sym')])", 1, "/sym: the disk is full"),
        ("errors.StoreError('the disk is full', path='/sym')", 1, "/sym: the disk is full"),
        ("errors.ConfigError('no', where='x')", 2, "x: no"),
        ("errors.TruncatedInput('it ends', offset=16)", 4, "it ends (at 0x10)"),
        ("KeyboardInterrupt()", 130, "interrupted; what was fetched is kept"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_a_code(error: str, code: int, line: str) -> None:
    done = python(BREAK.format(error=error, arguments=""))
    assert done.returncode == code
    assert done.stderr.strip() == f"symcache: {line}"
    assert done.stdout == ""


def test_a_traceback_is_there_for_who_asks() -> None:
    done = python(BREAK.format(error="RuntimeError('two')", arguments=', "-v"'))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows break differently")
@pytest.mark.parametrize("lines", [1, 100_000], ids=["at exit", "while writing"])
def test_a_reader_that_has_had_enough_is_no_error(lines: int, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"a{n}.pdb 7578144C39C4468394EF84F01549113A1\n" for n in range(lines)))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "symcache", "scan", "-q", str(listing)],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_name_that_the_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("größe☃.pdb 7578144C39C4468394EF84F01549113A1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "symcache", "scan", str(listing)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        encoding="latin-1",
        check=True,
        timeout=60,
    )
    assert "größe\\u2603.pdb" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *(
            (words, "Missing argument 'INPUT...': a dump,")
            for words in (["warm"], ["check", "-q"], ["scan"], ["lock", "-o", "x.lock"])
        ),
        (["warm", "x", "-y", "https://one.test"], "write srv* in front of the URL (at character 1"),
        (["warm", "x", "--config", "/none.toml"], "it cannot be read"),
        (["missing", "--retry", "--forget"], "exclude each other"),
        (["path", "--shell", "fish"], "'fish' is not one of"),
        (["path", "--explain", "crash.pdb"], "is not an index"),
        (["fetch", "a.pdb", "not an id/"], "is not an index"),
        (["fetch"], "Missing argument"),
        (["nothing"], "No such command"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_is_right(arguments: list[str], said: str) -> None:
    done = python(f"from symcache.cli import main; main({json.dumps(arguments)})")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_in_a_wrong_symbol_path_is_not_shown() -> None:
    path = "srv*https://me:hunter2@one.test*C:\\sym"
    done = python(f"from symcache.cli import main; main(['warm', 'x', '-y', {path!r}])")
    assert done.returncode == 2
    assert "hunter2" not in done.stderr + done.stdout


TYPED = ["u:hunter2@host/s", "http://u:hun/ter2@host/s", "https//u:hunter2@h/s", "./u:hunter2@h"]
RUN_ALL = """
import json, sys
from symcache.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        print("ended", end.code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        "warm -y srv*{sym}*{place} none.exe",
        "warm -y srv*{sym}*{place} none.exe --json",
        "warm --store {sym} --upstream {place} none.exe",
        "warm --store {place} none.exe",
        "warm --config {place} none.exe",
        "check --store {sym} {place}",
        "check --store {sym} {place} --json",
        "scan {place} --json",
        "import --store {sym} {place} --json",
        "path -y srv*{place}",
        "path -y srv*{sym}*{place} --offline",
        "path --explain {place}",
        "inspect {place}",
        "store add {place} --product x --store {sym}",
        "store init {place}",
    ],
)
def test_a_password_is_not_shown_wherever_it_was_typed(arguments: str, tmp_path: Path) -> None:
    runs = [[word.format(place=place, sym=tmp_path / "sym") for word in arguments.split()] for place in TYPED]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(runs)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("ended") == len(TYPED)
    assert "ter2" not in done.stdout + done.stderr
