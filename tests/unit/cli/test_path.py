from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.cli.app import root
from symcache.cli.path import _POWERSHELL_QUOTES
from symcache.config import load_config
from symcache.errors import UsageError
from symcache.identity import PdbKey
from symcache.stores.local.tree import Store
from symcache.upkeep.bundle import export_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result
    from support.upstream import Upstream

MICROSOFT = "https://msdl.microsoft.com/download/symbols"
KEY = PdbKey("crash.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 2)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["path", *arguments])


def shown(*arguments: str) -> str:
    done = run("--json", *arguments)
    assert done.exit_code == 0, done.output
    text: str = json.loads(done.stdout)["symbol_path"]
    return text


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("srv*/sym*https://a.test", "srv*/sym*https://a.test"),
        ("srv*/sym*https://a.test*https://b.test", "srv*/sym*https://a.test;srv*/sym*https://b.test"),
        ("srv*", f"srv*DEFAULT*{MICROSOFT}"),
        ("srv*https://a.test", "srv*DEFAULT*https://a.test"),
        ("srv**https://a.test", "srv*DEFAULT*https://a.test"),
        ("srv*/sym*https://a.test*", "srv*/sym*DEFAULT*https://a.test"),
        ("symsrv*symsrv.dll*/sym*https://a.test", "symsrv*symsrv.dll*/sym*https://a.test"),
        ("cache*;srv*https://a.test", "cache*DEFAULT;srv*https://a.test"),
        ("cache*/c;/plain;srv*\\\\host\\share", "cache*/c;/plain;srv*\\\\host\\share"),
        ("srv*/a*/b*https://a.test;/plain", "srv*/a*/b*https://a.test;/plain"),
    ],
)
def test_the_symbol_path_is_printed_as_debuggers_take_it(written: str, printed: str, tmp_path: Path) -> None:
    config = tmp_path / "symcache.toml"
    config.write_text(f"store.folder = '{tmp_path / 'default'}'")
    assert shown("--config", str(config), "-y", written) == printed.replace("DEFAULT", str(tmp_path / "default"))


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("srv*/sym*https://a.test*https://b.test", "srv*/sym"),
        ("srv*", "srv*DEFAULT"),
        ("srv*https://a.test", "srv*DEFAULT"),
        ("srv*/a*/b*https://a.test;srv*/a*/b*https://b.test", "srv*/a*/b"),
        ("cache*/c;srv*https://a.test", "cache*/c"),
        ("cache*/c;srv*/b*https://a.test;/plain", "cache*/c;srv*/b;/plain"),
    ],
)
def test_offline_leaves_the_servers_out(written: str, printed: str, tmp_path: Path) -> None:
    config = tmp_path / "symcache.toml"
    config.write_text(f"store.folder = '{tmp_path / 'default'}'")
    found = shown("--offline", "--config", str(config), "-y", written)
    assert found == printed.replace("DEFAULT", str(tmp_path / "default"))


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("srv*/sym*BUNDLE*https://a.test", "srv*/sym*https://a.test"),
        ("srv*/sym*BUNDLE", "srv*/sym"),
        ("srv*BUNDLE", "srv*DEFAULT"),
        ("srv*BUNDLE*https://a.test", "srv*DEFAULT*https://a.test"),
        ("BUNDLE;srv*/sym", "srv*DEFAULT;srv*/sym"),
        ("cache*/c;BUNDLE;srv*BUNDLE", "cache*/c"),
        ("srv*\\\\host\\in\\crash.symbols", "srv*DEFAULT"),
    ],
)
def test_a_bundle_is_left_out_and_that_is_told(written: str, printed: str, tmp_path: Path) -> None:
    bundle = tmp_path / "crash.symbols"
    with Store(tmp_path / "store") as store:
        export_bundle(store, bundle)
    config = tmp_path / "symcache.toml"
    config.write_text(f"store.folder = '{tmp_path / 'default'}'\n[unc.map]\n'\\\\host\\in' = '{tmp_path}'\n")
    done = run("--json", "--config", str(config), "-y", written.replace("BUNDLE", str(bundle)))
    assert json.loads(done.stdout)["symbol_path"] == printed.replace("DEFAULT", str(tmp_path / "default"))
    assert "crash.symbols is left out: debuggers do not read a bundle" in done.stderr
    assert "`symcache serve`" in done.stderr


@pytest.mark.parametrize(
    ("written", "printed", "left_out"),
    [
        ("srv*/sym*s3://b*https://a.test", "srv*/sym*https://a.test", ["s3://b"]),
        (
            "srv*/sym*s3://b*https://a.test*https://c.test",
            "srv*/sym*https://a.test;srv*/sym*https://c.test",
            ["s3://b"],
        ),
        ("srv*/sym*s3://b", "srv*/sym", ["s3://b"]),
        ("srv*s3://b*gs://c", "srv*DEFAULT", ["s3://b", "gs://c"]),
        ("cache*/c;srv*s3://b;srv*https://a.test", "cache*/c;srv*https://a.test", ["s3://b"]),
        ("srv*/sym*https://b.test/sym/x64/*https://a.test", "srv*/sym*https://a.test", ["https://b.test/sym/x64/"]),
        ("srv*/sym*https://b.test/sym", "srv*/sym", ["https://b.test/sym"]),
        ("srv*/sym*https://b.test/symbols", "srv*/sym*https://b.test/symbols", []),
    ],
)
def test_a_bucket_is_left_out_and_that_is_told(written: str, printed: str, left_out: list[str], tmp_path: Path) -> None:
    config = tmp_path / "symcache.toml"
    config.write_text(f"store.folder = '{tmp_path / 'default'}'\n[[bucket]]\nurl = 'https://b.test/sym'\n")
    done = run("--json", "--config", str(config), "-y", written)
    assert json.loads(done.stdout)["symbol_path"] == printed.replace("DEFAULT", str(tmp_path / "default"))
    assert [
        line.partition(" is left out: debuggers do not read a bucket;")[0] for line in done.stderr.splitlines()
    ] == [*left_out]


def test_a_file_that_is_no_bundle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "MEMORY.DMP").write_bytes(b"PAGEDU64")
    done = run("-y", f"srv*{tmp_path / 'MEMORY.DMP'}")
    assert isinstance(done.exception, UsageError)
    assert "is no bundle" in str(done.exception)


def test_each_shell_gets_its_line() -> None:
    text = f"srv*/my sym*{MICROSOFT}"
    done = run("-y", text)
    assert done.stdout.splitlines() == [
        f'cmd:         set "_NT_SYMBOL_PATH={text}"',
        f"powershell:  $env:_NT_SYMBOL_PATH = '{text}'",
        f"bash:        export _NT_SYMBOL_PATH='{text}'",
        f"windbg:      .sympath {text}",
    ]
    for number, shell in enumerate(["cmd", "powershell", "bash", "windbg"]):
        alone = run("-y", text, "--shell", shell).stdout
        assert alone == done.stdout.splitlines()[number].partition(":")[2].strip() + "\n"


# Without names of variables, which stand for their values.
FOLDERS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='*;"\\:?'), min_size=1).filter(
    lambda text: re.search(r"\$[\w{]|%[^%]+%", text) is None
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize("folder", ["/it's", "/a $(touch x) `touch y`", "/a&b|c", "/~", "/größe ☃", "/a'\\''b"])
def test_bash_takes_its_line_back(folder: str) -> None:
    path = f"srv*{folder}*{MICROSOFT}"
    line = run("-y", path, "--shell", "bash").stdout
    done = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$_NT_SYMBOL_PATH"'],
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout.decode(), done.stderr) == (path, b"")


@given(FOLDERS)
def test_powershell_ends_the_text_where_it_ends(folder: str) -> None:
    """Inside single quotes nothing but a quote, plain or typographic, has a meaning, and doubled it stands for one."""
    line = run("-y", f"srv*/x{folder}", "--shell", "powershell").stdout.rstrip("\n")
    assert line.startswith("$env:_NT_SYMBOL_PATH = '")
    assert line.endswith("'")
    inner = line.partition("'")[2][:-1]
    assert all(len(quotes) % 2 == 0 for quotes in _quote_runs(inner))


def _quote_runs(text: str) -> list[str]:
    runs, current = [], ""
    for char in text:
        if char in _POWERSHELL_QUOTES[1:-1]:
            current += char
        elif current:
            runs.append(current)
            current = ""
    return [*runs, current] if current else runs


def test_credentials_are_never_printed() -> None:
    path = "srv*/sym*https://me:hunter2@a.test/x?sig=hunter3"
    for arguments in ([], ["--json"], ["--shell", "cmd"], ["--offline"]):
        done = run("-y", path, *arguments)
        assert done.exit_code == 0
        assert "hunter" not in done.output
    assert "credentials are left out" in run("-y", path).stderr
    assert run("-y", "srv*/sym").stderr == ""


def test_the_default_is_microsofts_server_behind_the_default_store() -> None:
    assert shown() == f"srv*{load_config(None, {}).store.folder}*{MICROSOFT}"


def test_an_explanation_names_every_place(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files = {KEY.index: make_pdb(NativePdbSpec(KEY.guid, KEY.age))}
    near, between = tmp_path / "near", tmp_path / "between"
    arguments = ("-y", f"srv*{near}*{between}*{upstream.url}", "--explain", KEY.index)
    lines = run(*arguments).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["1.1", str(near)], ["1.2", str(between)], ["1.3", upstream.url]]
    assert lines[2].endswith(f"would be copied to {between} (plain); would be copied to {near} (plain)")
    document = json.loads(run(*arguments, "--json").stdout)
    assert (document["schema"], document["index"]) == ("symcache.explain/1", KEY.index)
    assert [step["has_file"] for step in document["steps"]] == [False, False, True]
    assert not near.exists()


def test_an_explanation_shows_no_credentials(upstream: Upstream, tmp_path: Path) -> None:
    url = upstream.url.replace("http://", "http://me:hunter2@")
    done = run("-y", f"srv*{tmp_path}*{url}?sig=hunter3", "--explain", KEY.index)
    assert upstream.url in done.stdout
    assert "hunter" not in done.output


def offline_lines(store: Path, *arguments: str) -> dict[str, str]:
    done = run("--offline", "--json", "-y", f"srv*{store}*https://a.test", *arguments)
    lines: dict[str, str] = json.loads(done.stdout)["lines"]
    return lines


def test_offline_there_is_a_line_for_each_client_with_what_it_takes(tmp_path: Path) -> None:
    lines = offline_lines(tmp_path)
    assert lines["windbg"] == f".sympath srv*{tmp_path}"
    unquoted = str(tmp_path).replace("\\", "\\\\")
    assert lines["lldb"] == f'settings set plugin.symbol-locator.symstore.urls "{unquoted}"'
    assert lines["angr"] == f"export _NT_SYMBOL_PATH={shlex.quote(str(tmp_path))}"
    assert lines["radare2"] == f"e pdb.symstore={tmp_path}"
    assert run("--offline", "--shell", "lldb", "-y", f"srv*{tmp_path}").stdout == f"{lines['lldb']}\n"
    assert "add --offline" in str(run("--shell", "lldb", "-y", f"srv*{tmp_path}").exception)


@pytest.mark.parametrize(
    ("written", "urls"),
    [
        ("cache*/c;srv*https://a.test", '"/c"'),
        ("srv*/a b*/c*https://a.test", '"/a b" "/c"'),
        (r"srv*\\fs\sym*https://a.test", r'"\\\\fs\\sym"'),
        ("srv*C:\\sym\\*https://a.test", r'"C:\\sym\\"'),
    ],
)
def test_lldb_gets_every_folder_as_it_unquotes_it(written: str, urls: str) -> None:
    line = run("--offline", "--shell", "lldb", "-y", written).stdout
    assert line == f"settings set plugin.symbol-locator.symstore.urls {urls}\n"


def test_a_two_tier_store_beside_another_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "index2.txt").touch()
    done = run("--offline", "-y", f"srv*/one*{tmp_path}")
    assert 'urls "/one"\n' in done.stdout
    assert f"two-tier store, as in {tmp_path};" in done.stderr


def test_a_path_without_a_store_has_no_line_for_lldb(tmp_path: Path) -> None:
    alone = run("--offline", "--shell", "lldb", "-y", str(tmp_path))
    assert str(alone.exception) == "lldb: the symbol path names no store"
    assert "tier" not in run("--offline", "-y", str(tmp_path)).stderr


def test_clients_that_know_no_second_tier_get_no_line_for_one(tmp_path: Path) -> None:
    (tmp_path / "index2.txt").touch()
    assert set(offline_lines(tmp_path)) == {"cmd", "powershell", "bash", "windbg"}
    said = run("--offline", "-y", f"srv*{tmp_path}")
    assert f"LLDB, angr and radare2: nothing is found in a two-tier store, as in {tmp_path};" in said.stderr
    alone = run("--offline", "--shell", "angr", "-y", f"srv*{tmp_path}")
    assert isinstance(alone.exception, UsageError)
