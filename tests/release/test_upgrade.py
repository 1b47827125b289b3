"""What 0.1.0 has left behind is there for this version: stores, misses and the config file."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.parts import need, skip_without
from support.programs import USERS, Program
from support.serving import fetch, publish
from support.stores import APP, DRV, IMAGE, PUBLIC, write_build
from support.upstream import Upstream

from symcache import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RELEASED = "828f7c2dcbfa739b0e144c7c20173c4984990a2c"  # the state that was 0.1.0
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
FETCHED = publish("fetched.pdb", 1, payload_bytes=300_000)
LATER = publish("later.pdb", 2)
ABSENT = publish("secdrv.pdb", 3)
EXCLUDED = publish("mycompany.pdb", 4)


class Old:
    """What a user of 0.1.0 has: an environment, a home with a config file, stores; and a server.

    Attributes:
        symcache: The command; it is 0.1.0 until `upgrade`.
        store: Its own store, filled from *upstream*.
        builds: A store with four transactions, of which one undid another.
    """

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.folder = folder
        self.upstream = upstream
        self.store, self.builds, self.two_tier = folder / "store", folder / "builds", folder / "two-tier"
        home = folder / "home"
        names = {"XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data", "APPDATA": "config"}
        places = {name: str(home / place) for name, place in names.items()}
        self.symcache = Program(
            [str(folder / "env" / SCRIPTS / "symcache")],
            {"PATH": "/usr/bin:/bin", "HOME": str(home), "LOCALAPPDATA": str(home / "cache"), **places},
        )
        config = home / "config" / "symcache" / "symcache.toml"
        config.parent.mkdir(parents=True)
        config.write_text(
            f"symbol_path = 'srv*{self.store}*{upstream.url}'\n"
            "[misses]\nttl_s = 500000.0\n[exclusions]\nnames = ['mycompany*']\n"
            f"[[server]]\nurl = '{upstream.url}'\nusername = 'me'\npassword = 'secret'\n",
            encoding="utf-8",
        )

    def install(self, wheel: Path) -> None:
        uv = [sys.executable, "-m", "uv"]
        if not (self.folder / "env").exists():
            do(*uv, "venv", "--quiet", "--python", sys.executable, self.folder / "env")
        do(*uv, "pip", "install", "--quiet", "--python", self.folder / "env", f"{wheel}[serve]")

    def use(self) -> None:
        """Do what leaves something behind."""
        wanted = self.write_list("wanted.txt", FETCHED, ABSENT, EXCLUDED)
        assert self.symcache.run("warm", wanted).returncode == 3
        build = write_build(self.folder / "build")
        add: list[str | Path] = ["store", "add", "--store", self.builds, "--product", "console", "--version"]
        self.do(*add, "1.0", build / APP.name, build / IMAGE.name)
        self.do(*add, "1.1", build / PUBLIC.name)
        self.do(*add, "1.2", build / "obj" / DRV.name)
        self.do("store", "del", "2", "--store", self.builds)
        self.do("store", "init", "--two-tier", "--store", self.two_tier)
        self.do("store", "add", build / APP.name, "--product", "console", "--store", self.two_tier)
        self.do("store", "pin", FETCHED.index)

    def write_list(self, name: str, *files: Any) -> Path:
        (self.folder / name).write_text("".join(f"{file.index}\n" for file in files))
        return self.folder / name

    def do(self, *arguments: str | Path) -> str:
        done = self.symcache.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        done = self.symcache.run(*arguments, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def do(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], env=USERS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of 0.1.0, out of the history."""
    need("uv")
    git = ["git", "-C", str(ROOT)]
    known = shutil.which("git") and subprocess.run([*git, "cat-file", "-e", RELEASED], check=False, capture_output=True)
    skip_without("history", bool(known and known.returncode == 0), "the history up to 0.1.0 is not here")
    folder = tmp_path_factory.mktemp("released")
    packed = subprocess.run([*git, "archive", RELEASED], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder / "source", filter="data")
    do(sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "--out-dir", folder, folder / "source")
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def prepared(
    released: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Old, dict[str, Any]]]:
    """A user of 0.1.0 who has upgraded, and what 0.1.0 said before."""
    files = {each.index: each.content for each in (FETCHED, LATER, EXCLUDED)}
    with Upstream(files, credentials=("me", "secret")) as upstream:
        old = Old(tmp_path_factory.mktemp("user"), upstream)
        old.install(released)
        assert old.do("--version") == "symcache 0.1.0\n"
        old.use()
        said = {
            "missing": old.json("missing"),
            "pins": old.json("store", "pins"),
            "builds": old.json("store", "list", "--store", old.builds, "--history"),
            "files": old.json("store", "list", "--store", old.builds, "--files"),
        }
        old.install(wheel)
        assert old.do("--version") == f"symcache {__version__}\n"
        yield old, said


@pytest.fixture
def user(prepared: tuple[Old, dict[str, Any]]) -> Old:
    return prepared[0]


def test_every_file_is_found_and_no_server_is_asked(user: Old) -> None:
    asked = len(user.upstream.requests)
    wanted = user.write_list("again.txt", FETCHED, ABSENT, EXCLUDED)
    states = {each["index"]: each for each in user.json("warm", wanted, code=3)["symbols"]}
    assert states[FETCHED.index]["state"] == "present"
    assert (states[ABSENT.index]["state"], states[ABSENT.index]["cause"]) == ("missing", "remembered-miss")
    assert states[EXCLUDED.index]["cause"] == "excluded"
    assert len(user.upstream.requests) == asked
    found = user.do("fetch", APP.index, "--store", user.two_tier).strip()
    assert Path(found).read_bytes() == (user.folder / "build" / APP.name).read_bytes()


def test_the_credentials_of_the_config_file_count(user: Old) -> None:
    report = user.json("warm", user.write_list("later.txt", LATER))
    assert report["summary"]["fetched"] == 1


def test_misses_pins_and_transactions_are_as_they_were(prepared: tuple[Old, dict[str, Any]]) -> None:
    user, said = prepared
    now = user.json("missing")
    assert [each["index"] for each in now["missing"]] == [each["index"] for each in said["missing"]["missing"]]
    assert [each["index"] for each in now["missing"]] == [ABSENT.index]
    assert user.json("store", "pins")["pins"] == said["pins"]["pins"] != []
    builds = user.json("store", "list", "--store", user.builds, "--history")
    assert builds["transactions"] == said["builds"]["transactions"]
    assert len(builds["transactions"]) == 4
    files = user.json("store", "list", "--store", user.builds, "--files")["files"]
    assert [each["index"] for each in files] == [each["index"] for each in said["files"]["files"]]
    assert len(files) == 3


def test_nothing_is_wrong_with_any_store(user: Old) -> None:
    for store in (user.store, user.builds, user.two_tier):
        assert "nothing is wrong" in user.do("store", "verify", "--store", store)


def test_transactions_of_old_are_undone_and_new_ones_follow(user: Old) -> None:
    shutil.copytree(user.builds, user.folder / "copy")
    copy: list[str | Path] = ["-y", f"srv*{user.folder / 'copy'}"]
    user.do("store", "del", "1", *copy)
    assert user.symcache.run("fetch", APP.index, *copy).returncode == 3
    assert user.symcache.run("fetch", DRV.index, *copy).returncode == 0
    user.do("store", "add", user.folder / "build" / APP.name, "--product", "console", *copy)
    numbers = [each["id"] for each in user.json("store", "list", "--history", *copy)["transactions"]]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert "nothing is wrong" in user.do("store", "verify", *copy)


def test_pins_keep_what_they_kept(user: Old) -> None:
    shutil.copytree(user.store, user.folder / "pruned")
    done = user.symcache.run("store", "prune", "--max-size", "1KB", "--store", user.folder / "pruned")
    assert "352.3 KB of it protected" in done.stdout
    assert (user.folder / "pruned" / FETCHED.index).read_bytes() == FETCHED.content


def test_the_store_is_served(user: Old) -> None:
    with user.symcache.serving() as port:
        assert fetch(port, FETCHED.index).body == FETCHED.content
        assert fetch(port, ABSENT.index).status == 404
