"""Whatever may hold a secret holds one here, and every command is run, well and ill: it turns up nowhere else."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.answers import redirect, status
from support.command import run, start
from support.proxy import ForwardingProxy
from support.serving import fetch, publish
from support.sources import IMAGE, IMAGE_KEY, KEY, PDB
from support.stores import write_build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.upstream import Upstream

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the command that prints a token is a shell script")

MARK = "5ecret"
LOST = publish("lost.pdb", 7)
FAR = publish("far.pdb", 8)

_CONFIG = """
symbol_path = 'srv*{store}*http://me:{MARK}-url@{first}/?sas={MARK}-query;srv*{store}*{second};srv*{store}*{third}'
[store]
durable = false
[misses]
folder = '{home}/misses'
[network]
retries = 0
netrc = true
connect_timeout_s = 2
read_timeout_s = 5
{proxy}
[[server]]
url = '{second}'
token_command = ['{home}/print-token']
[[server]]
url = '{third}'
username = 'me'
password = '{MARK}-password'
[[server]]
url = 'https://other.example/symbols'
token_env = 'OTHER_TOKEN'
[serve]
access_log = '{home}/access.log'
workers = 2
"""


class Scene:
    """A home with a config file full of secrets, and three servers that want them."""

    def __init__(self, home: Path, make_upstream: Callable[..., Upstream]) -> None:
        self.home = home
        self.upstreams = [make_upstream() for _ in range(3)]
        first, second, third = self.upstreams
        blob = make_upstream({"blob": FAR.content})
        third.files |= {KEY.index: PDB, IMAGE_KEY.index: IMAGE}
        first.always(FAR.index, redirect(f"{blob.url}/blob?sig={MARK}-signature"))
        second.always(FAR.index, redirect(f"{blob.url}/none?sig={MARK}-signature"))
        self.blob = blob
        self.own = [home / name for name in ("symcache.toml", ".netrc", "print-token")]
        self.write(proxy="")
        self.own[1].write_text(f"machine 127.0.0.1 login me password {MARK}-netrc\n")
        self.own[2].write_text(f"#!/bin/sh\necho {MARK}-command\n")
        for path in self.own:
            path.chmod(0o700)
        self.build = write_build(home / "build")
        self.wanted = home / "wanted.txt"
        self.wanted.write_text("".join(f"{each}\n" for each in (KEY.index, LOST.index, FAR.index)))
        self.env = {
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "_NT_SYMBOL_PATH"), ""),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "SYMCACHE_CONFIG": str(self.own[0]),
            "OTHER_TOKEN": f"{MARK}-variable",
        }

    def write(self, *, proxy: str) -> None:
        first, second, third = (upstream.url.partition("//")[2] for upstream in self.upstreams)
        text = _CONFIG.format(
            MARK=MARK, home=self.home, store=self.home / "store", proxy=proxy,
            first=first, second=f"http://{second}", third=f"http://{third}",
        )  # fmt: skip
        self.own[0].write_text(text)

    def run_everything(self) -> dict[str, str]:
        """Return what each command said."""
        told: dict[str, str] = {}
        bundle, file = self.home / "bundle.zip", self.build / "app.pdb"
        rounds: list[list[list[str | Path]]] = [
            [
                ["warm", self.wanted, "-v"],
                ["fetch", KEY.index, "-v"],
                ["fetch", LOST.index, "--json"],
                ["fetch", FAR.index, "-v"],
                ["servers", "--probe", "-v"],
                ["servers", "--json"],
                ["doctor", "-v"],
                ["doctor", "--json"],
                ["path"],
                ["path", "--explain", LOST.index],
                ["path", "--explain", FAR.index, "--json"],
            ],
            [
                ["warm", self.wanted, self.build, "--images", "all", "--json"],
                ["scan", self.build, "-o", self.home / "manifest.txt"],
                ["check", self.wanted, "-v"],
                ["scan", self.build, "-v"],
                ["inspect", file, "--json"],
                ["missing", "-v"],
                ["missing", "--json"],
                ["store", "add", self.build, "--product", "app", "-v"],
                ["store", "list", "--files", "-v"],
                ["store", "stats", "-v"],
            ],
            [
                ["missing", "--retry", "-v"],
                ["store", "verify", "--repair", "-v"],
                ["export", "-o", bundle, self.wanted, "-v"],
                ["import", bundle, "-v"],
                ["demo", "-v"],
                ["fetch", "no index at all", "-v"],
                ["warm", self.home / "nowhere", "-v"],
                ["fetch", LOST.index, "-y", "srv*"],
            ],
        ]
        with ThreadPoolExecutor(2) as threads:
            for commands in rounds:
                done = threads.map(lambda words: run(*words, env=self.env), commands)
                told |= {
                    " ".join(map(str, words)): f"{each.returncode}: {each.stdout}{each.stderr}"
                    for words, each in zip(commands, done, strict=True)
                }
        return told

    def serve(self) -> str:
        """Return what a server said that answered, failed, lost a worker and was stopped; and what its clients got."""
        said: list[str] = []
        with start("serve", "--port", "0", "-v", env=self.env) as process:
            assert process.stderr is not None
            port = 0
            while not port:
                line = process.stderr.readline()
                assert line, said
                said.append(line)
                found = re.search(r" on http://[^/ ]*:(\d+)/", line)
                port = int(found[1]) if found else 0
            reader = threading.Thread(target=said.extend, args=(process.stderr,))
            reader.start()
            asked = (KEY.index, LOST.index, FAR.index, "", "-/status", "-/search?q=pdb", "metrics", "bad//..")
            said += [str(fetch(port, path).body) for path in asked]
            worker = next(pid for pid, parent in parents() if parent == process.pid)
            os.kill(worker, signal.SIGKILL)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            reader.join()
        return "".join(said)


def parents() -> Iterator[tuple[int, int]]:
    """Yield each process that answers requests and its parent."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"spawn_main" in (path / "cmdline").read_bytes():
                yield int(path.name), int((path / "stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def watched_command_lines() -> Iterator[list[bytes]]:
    """Look at the arguments of every process again and again; lend those that were seen with a secret."""
    seen: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if MARK.encode() in (words := path.read_bytes()):
                        seen.append(words)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.fixture
def scene(tmp_path: Path, make_upstream: Callable[..., Upstream]) -> Scene:
    home = tmp_path / "home"
    home.mkdir()
    return Scene(home, make_upstream)


def assert_nothing_shows(scene: Scene, told: dict[str, str], seen: list[bytes]) -> None:
    assert {words: said for words, said in told.items() if MARK in said} == {}
    wrong_usage = {words: said for words, said in told.items() if said.startswith("2: ")}
    assert wrong_usage.keys() <= {"fetch no index at all -v"}, wrong_usage
    kept = [path for path in scene.home.rglob("*") if path.is_file() and path not in scene.own]
    assert [path for path in kept if MARK.encode() in path.read_bytes()] == []
    assert seen == []


def test_where_all_is_well(scene: Scene) -> None:
    with watched_command_lines() as seen:
        told = scene.run_everything()
        told["serve"] = scene.serve()
    assert_nothing_shows(scene, told, seen)
    asked = [[request.headers.get("authorization", "") for request in each.requests] for each in scene.upstreams]
    assert all(field.startswith("Basic ") for field in asked[0])
    assert f"Bearer {MARK}-command" in asked[1]
    assert any(f"{MARK}-signature" in request.query for request in scene.blob.requests), "secrets were in use"


@pytest.mark.parametrize("trouble", ["401", "page"])
def test_where_servers_are_in_trouble(trouble: str, scene: Scene) -> None:
    for each in (*scene.upstreams, scene.blob):
        page = f"<!DOCTYPE html><html><title>{MARK}</title></html>".encode()
        each.always("*", status(200, page) if trouble == "page" else status(401))
    with watched_command_lines() as seen:
        told = scene.run_everything()
        told["serve"] = scene.serve()
    assert_nothing_shows(scene, told, seen)


def test_where_a_proxy_is_in_trouble(scene: Scene) -> None:
    with ForwardingProxy(credentials=("me", "another")) as proxy, watched_command_lines() as seen:
        scene.write(proxy=f"proxy = 'http://me:{MARK}-proxy@{proxy.address}'")
        told = scene.run_everything()
        told["serve"] = scene.serve()
    assert_nothing_shows(scene, told, seen)
    assert any("proxy-authorization" in request.headers for request in proxy.requests), "secrets were in use"
