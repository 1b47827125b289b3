"""The programs that need no installation do what the installed command does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from support.programs import PYTHONS, Program, find_python, windows_program
from support.serving import Client, fetch, publish
from support.upstream import Upstream

from symcache import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = publish("application.pdb", 1, payload_bytes=300_000)
DRIVER = publish("driver.pdb", 2, age=3, payload_bytes=50_000)
ABSENT = publish("secdrv.pdb", 3)
ODD = "a store με кириллицей 日本語"

MEGABYTE = 1_000_000


@pytest.fixture(params=["exe", *(f"pyz {version}" for version in PYTHONS)])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    kind, _, version = request.param.partition(" ")
    if kind == "exe":
        with windows_program(request.getfixturevalue("executable")) as made:
            yield made
    else:
        python = find_python(version)
        home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "LOCALAPPDATA": str(tmp_path / "app")}
        path = {"PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"}
        # -I: nothing that is installed for this Python may help.
        yield Program([str(python), "-I", str(request.getfixturevalue("archive"))], path | home)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({each.index: each.content for each in (APP, DRIVER)}) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, program: Program) -> list[str | Path]:
    """Options that keep what is remembered in this test."""
    config = tmp_path / "symcache.toml"
    config.write_text(f"[misses]\nfolder = '{program.path(tmp_path / 'misses')}'\n[network]\nbackoff_s = 0.01\n")
    return ["--config", config]


def test_it_says_its_version(program: Program) -> None:
    done = program.run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"symcache {__version__}\n", "")


def test_it_does_the_demo(program: Program) -> None:
    done = program.run("demo")
    assert done.returncode == 0, done.stderr
    assert "every other PDB is in the store, byte for byte." in done.stdout
    assert "8 wanted: 0 present, 7 fetched" in done.stdout


def test_it_has_the_data_that_commands_read(program: Program, settings: list[str | Path], tmp_path: Path) -> None:
    listed = program.run("sets", "kernel", *settings)
    assert listed.returncode == 0, listed.stderr
    assert "ntoskrnl.exe" in listed.stdout.splitlines()
    page = tmp_path / "report.html"
    (tmp_path / "wanted.txt").write_text(f"{APP.index}\n")
    store = program.path(tmp_path / "sym")
    done = program.run("check", tmp_path / "wanted.txt", "-y", f"srv*{store}", "--report", page, *settings)
    assert done.returncode == 3, done.stderr
    assert "<style>" in page.read_text(encoding="utf-8")


def test_it_fills_a_store_below_a_path_in_any_script(
    program: Program, upstream: Upstream, settings: list[str | Path], tmp_path: Path
) -> None:
    wanted, store = tmp_path / "wanted.txt", tmp_path / ODD
    wanted.write_text(f"{APP.index}\n{DRIVER.index}\n")
    options = [wanted, "-y", f"srv*{program.path(store)}*{upstream.url}", *settings, "--json"]
    done = program.run("warm", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["fetched"] == 2
    assert (store / APP.index).read_bytes() == APP.content
    assert (store / DRIVER.index).read_bytes() == DRIVER.content
    asked = len(upstream.requests)
    done = program.run("check", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["present"] == 2
    assert len(upstream.requests) == asked


def test_its_exit_codes_are_those_of_the_command(
    program: Program, upstream: Upstream, settings: list[str | Path], tmp_path: Path
) -> None:
    path = ["-y", f"srv*{program.path(tmp_path / 'store')}*{upstream.url}"]
    inputs = {
        "wanted.txt": f"{APP.index}\n".encode(),
        "absent.txt": f"{ABSENT.index}\n".encode(),
        "cut.dmp": b"PAGEDU64" + bytes(100),
    }
    for name, content in inputs.items():
        (tmp_path / name).write_bytes(content)
    ended = {name: program.run("warm", tmp_path / name, *path, *settings).returncode for name in inputs}
    assert ended == {"wanted.txt": 0, "absent.txt": 3, "cut.dmp": 4}
    assert program.run("warm", "--no-such-option").returncode == 2
    gone = ["-y", f"srv*{program.path(tmp_path / 'other')}*http://127.0.0.1:9/"]
    assert program.run("warm", tmp_path / "wanted.txt", *gone, *settings).returncode == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_files_and_the_page(
    program: Program, upstream: Upstream, settings: list[str | Path], tmp_path: Path, workers: int
) -> None:
    path = f"srv*{program.path(tmp_path / ODD)}*{upstream.url}"
    with program.serving("-y", path, *settings, "--workers", str(workers)) as port:
        answered = fetch(port, APP.index)
        assert (answered.status, answered.body) == (200, APP.content)
        assert fetch(port, ABSENT.index).status == 404
        with Client(port) as client:
            page = client.get("/", {"Accept": "text/html"}).body.decode()
            linked = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page)
            assert "<title>" in page
            assert linked
            for name in linked:
                assert client.get(name).status == 200
    assert (tmp_path / ODD / APP.index).read_bytes() == APP.content


def test_windows_runs_a_proxy_script_for_the_program(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    script = b'function FindProxyForURL(url, host) { return "PROXY 127.0.0.1:9; DIRECT"; }'
    with Upstream({"proxy.pac": script}) as server, windows_program(request.getfixturevalue("executable")) as program:
        config = tmp_path / "symcache.toml"
        config.write_text(f"[network]\nproxy_script = '{server.url}/proxy.pac'\n")
        path = f"srv*{program.path(tmp_path / 'store')}*http://127.0.0.1:8"
        done = program.run("doctor", "-y", path, "--config", config, "--timeout", "5")
    assert "through http://127.0.0.1:9 (network.proxy_script)" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("kind", ["executable", "archive"])
def test_the_licenses_of_its_parts_lie_beside_it(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    text = path.with_name(f"{path.name}.licenses.txt").read_text(encoding="utf-8")
    parts = re.findall(r"^={78}\n(\S+) \S+.*\n={78}\n\n(.+)$", text, re.MULTILINE)
    names = {name.lower().replace("_", "-") for name, _ in parts}
    assert {"symcache", "httpx", "click", "uvicorn", "httptools", "certifi", "diskcache", "truststore"} <= names
    assert ("python" in names) == ("pyinstaller" in names) == (kind == "executable")
    assert not {"uvloop", "pytest", "setuptools", "uv"} & names
    assert "Permission is hereby granted" in text


def test_it_prints_the_licenses_that_lie_beside_it(program: Program, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue("executable" if program.windows else "archive")
    done = program.run("licenses")
    assert done.returncode == 0, done.stderr
    assert done.stdout == path.with_name(f"{path.name}.licenses.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "most_bytes"), [("executable", 26 * MEGABYTE), ("archive", 14 * MEGABYTE)])
def test_it_is_no_larger_than_need_be(kind: str, most_bytes: int, request: pytest.FixtureRequest) -> None:
    assert request.getfixturevalue(kind).stat().st_size < most_bytes


def test_the_executable_says_what_it_is(executable: Path) -> None:
    content = executable.read_bytes()
    for name, value in {"ProductName": "symcache", "ProductVersion": __version__}.items():
        at = content.find(f"{name}\0".encode("utf-16-le"))
        assert at > 0
        assert f"{value}\0".encode("utf-16-le") in content[at : at + 100]


def test_the_archive_unpacks_once(archive: Path, tmp_path: Path) -> None:
    program = Program([sys.executable, "-I", str(archive)], {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert program.run("--version").returncode == 0
    (folder,) = (tmp_path / "symcache" / "pyz").iterdir()
    before = (folder / "symcache" / "__init__.py").stat().st_ino
    assert program.run("--version").returncode == 0
    assert [folder] == list(folder.parent.iterdir())
    assert (folder / "symcache" / "__init__.py").stat().st_ino == before
    others = [file.name for file in (folder / "httptools" / "parser").glob("*.so")]
    assert len(others) == 2, "only what this Python can use"


def test_archives_that_start_at_once_unpack_one(archive: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-I", str(archive), "path"], env=environment, stdout=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0, 0]
    assert len(list((tmp_path / "symcache" / "pyz").iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be a file's place there")
def test_the_archive_runs_where_nothing_can_be_kept(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path / "tmp")}
    done = Program([sys.executable, "-I", str(archive)], environment).run("--version")
    assert (done.returncode, done.stdout) == (0, f"symcache {__version__}\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_archive_says_when_it_holds_nothing_for_a_system(archive: Path, tmp_path: Path) -> None:
    poorer = tmp_path / "symcache.pyz"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(poorer, "w") as packed:
        for name in whole.namelist():
            if not name.startswith("compiled/"):
                packed.writestr(name, whole.read(name))
    cache = tmp_path / "cache"
    done = Program([sys.executable, "-I", str(poorer)], {"XDG_CACHE_HOME": str(cache)}).run("--version")
    assert done.returncode == 1
    assert "holds nothing compiled for" in done.stderr
    assert "httptools/parser/parser" in done.stderr
    assert list((cache / "symcache" / "pyz").iterdir()) == []


def test_the_archive_tells_an_older_python_what_it_needs(archive: Path) -> None:
    for version in ("3.10", "3.9", "3.8"):
        try:
            python = find_python(version)
        except pytest.skip.Exception:
            continue
        done = Program([str(python), "-I", str(archive)]).run("--version")
        assert (done.returncode, done.stderr) == (
            1,
            f"symcache.pyz: needs Python 3.11 or newer; this is {version}\n",
        )
        return
    pytest.skip("no older Python is here")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_the_archive_runs_by_its_name(archive: Path, tmp_path: Path) -> None:
    copied = tmp_path / "sym cache.pyz"
    shutil.copy(archive, copied)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    assert Program([str(copied)], environment).run("--version").returncode == 0
