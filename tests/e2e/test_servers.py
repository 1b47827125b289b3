from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import page, status
from support.command import run, run_json

from symcache.stores.http.servers import SERVERS

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream


def by_url(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {server["url"]: server for server in document["servers"]}


def test_every_public_server_is_listed_and_those_of_the_path_are_marked() -> None:
    document = run_json("servers")
    assert document["schema"] == "symcache.servers/1"
    servers = by_url(document)
    assert servers.keys() == {server.url for server in SERVERS}
    assert [server["name"] for server in servers.values() if server["in_symbol_path"]] == ["Microsoft"]
    mozilla = servers["https://symbols.mozilla.org"]
    assert (mozilla["plain"], mozilla["compressed_first"], mozilla["holds"]) == (False, True, ["pdb", "image"])
    assert not any(server["probe"] for server in servers.values())


def test_the_list_as_text_marks_those_of_the_path(tmp_path: Path) -> None:
    done = run("servers", "-y", f"srv*{tmp_path}*https://symbols.mozilla.org/*https://internal.example/sym")
    assert done.returncode == 0
    marked = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("*")]
    assert marked == ["Mozilla", "internal.example"]
    assert "images alone, no PDBs" in done.stdout


def test_servers_of_the_config_file_are_listed_without_their_secrets(tmp_path: Path) -> None:
    config = tmp_path / "symcache.toml"
    config.write_text(
        """
        [[server]]
        url = "https://symbols.example/team"
        name = "Team"
        two_tier = true
        token = "s3cret"
        [[server]]
        url = "https://symbols.electronjs.org"
        compressed = false
        """
    )
    path = f"srv*{tmp_path / 'sym'}*https://user:hunter2@symbols.example/team?sig=abc"
    document = run_json("servers", "--config", config, "-y", path)
    servers = by_url(document)
    team = servers["https://symbols.example/team"]
    assert (team["name"], team["in_symbol_path"], team["configured"], team["credentials"]) == ("Team", True, True, True)
    assert team["two_tier"] is True
    electron = servers["https://symbols.electronjs.org"]
    assert (electron["name"], electron["configured"], electron["compressed"]) == ("Electron", True, False)
    text = run("servers", "--config", config, "-y", path).stdout
    assert "Team" in text
    assert "with credentials" in text
    for secret in ("s3cret", "hunter2", "sig=abc"):
        assert secret not in text + str(document)


def test_one_server_is_named_by_name_or_url() -> None:
    for name in ("mozilla", "https://symbols.mozilla.org/"):
        (server,) = run_json("servers", name)["servers"]
        assert server["name"] == "Mozilla"
    done = run("servers", "nobody")
    assert done.returncode == 2
    assert "nobody is no server that is known" in done.stderr


def test_a_probe_asks_the_servers_of_the_path_alone(upstream: Upstream, tmp_path: Path) -> None:
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    document = run_json("servers", "--probe", "-y", path)
    (server,) = document["servers"]
    assert server["url"] == upstream.url
    assert server["probe"] == {
        "behaviour": "symbol-server", "answer": "404", "latency_s": server["probe"]["latency_s"], "two_tier": False,
    }  # fmt: skip
    assert len(upstream.requests) == 2
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == []
    done = run("servers", "--probe", "-y", path)
    assert done.returncode == 0
    assert "symbol-server" in done.stdout
    assert " ms" in done.stdout


def test_a_server_that_sends_pages_makes_the_probe_exit_with_1(upstream: Upstream) -> None:
    upstream.always("*", page(200))
    document = run_json("servers", "--probe", upstream.url, code=1)
    assert document["servers"][0]["probe"]["behaviour"] == "soft-errors"


def test_a_probe_writes_the_lines_that_a_bucket_needs(upstream: Upstream, tmp_path: Path) -> None:
    index = f"App.pdb/{'AB' * 16}1/App.pdb"
    upstream.always("*", status(403))
    upstream.always(index.lower(), status(200, b"Microsoft C/C++ MSF 7.00"))
    done = run("servers", "--probe", upstream.url, "--index", index)
    assert done.returncode == 1
    lines = done.stdout.partition("\n\n")[2]
    assert tomllib.loads(lines)["server"] == [
        {"url": upstream.url, "letter_case": "lower", "forbidden_is_missing": True}
    ]
    config = tmp_path / "symcache.toml"
    config.write_text(f"[[server]]\nurl = '{upstream.url}'\nletter_case = 'lower'\n", encoding="utf-8")
    done = run("servers", "--probe", upstream.url, "--index", index, "--config", str(config))
    assert done.stdout.endswith(f"\n# into the block of {upstream.url}\nforbidden_is_missing = true\n")
    config.write_text(lines, encoding="utf-8")
    done = run("servers", "--probe", upstream.url, "--index", index, "--config", str(config))
    assert done.returncode == 0
    assert "[[server]]" not in done.stdout


def test_a_probe_takes_files_of_the_store_if_none_is_named(upstream: Upstream, tmp_path: Path) -> None:
    index = f"App.pdb/{'AB' * 16}1/App.pdb"
    (tmp_path / "sym" / index).parent.mkdir(parents=True)
    (tmp_path / "sym" / index).write_bytes(b"x")
    upstream.always("*", status(403))
    done = run("servers", "--probe", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}")
    assert "--index" in done.stderr
    upstream.always(index, status(200, b"x"))
    document = run_json("servers", "--probe", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", code=1)
    assert document["servers"][0]["probe"]["settings"] == {"forbidden_is_missing": True}
    asked = len(upstream.requests)
    run("servers", "--probe", upstream.url)  # not of the path: what lies in the store is not told to it
    assert all(index.lower() not in request.path.lower() for request in upstream.requests[asked:])


def test_an_index_that_is_none_is_said() -> None:
    done = run("servers", "--probe", "--index", "nonsense")
    assert done.returncode == 2
    assert "is not an index" in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_path_without_servers_has_nothing_to_probe(as_json: bool, tmp_path: Path) -> None:
    done = run("servers", "--probe", "-y", f"srv*{tmp_path}", *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stdout
