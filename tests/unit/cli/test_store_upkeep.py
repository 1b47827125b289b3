"""`store stats`, `verify`, `prune`, the pins, and `convert`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.answers import status
from support.sources import visible
from support.stores import APP, DRV, IMAGE, PUBLIC, StoreShell, write_build

from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from support.upstream import Upstream

    from symcache.identity import Key

KEYS: tuple[Key, ...] = (APP, PUBLIC, IMAGE, DRV)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    build = write_build(tmp_path / "build")
    (build / DRV.name).write_bytes((build / "obj" / DRV.name).read_bytes())
    return {key.index: (build / key.name).read_bytes() for key in KEYS}


@pytest.fixture
def shell(tmp_path: Path, upstream: Upstream, files: dict[str, bytes]) -> StoreShell:
    """A store that was filled from an upstream that still has all."""
    upstream.files.update(files)
    store = tmp_path / "store"
    for index, content in files.items():
        (store / index).parent.mkdir(parents=True)
        (store / index).write_bytes(content)
    (store / "pingme.txt").touch()
    return StoreShell(store, f"srv*{store}*{upstream.url}")


def used(shell: StoreShell, key: Key, *, days_ago: float) -> None:
    now_s = time.time()
    AccessLog(Store(shell.store), clock_s=lambda: now_s - 86400 * days_ago).touch(key)


def published(shell: StoreShell, key: Key, *, days_ago: float) -> None:
    at_s = time.time() - 86400 * days_ago
    os.utime(shell.store / key.index, (at_s, at_s))


def test_the_store_is_counted(shell: StoreShell, files: dict[str, bytes]) -> None:
    document = shell.json("stats", "--largest", "1")
    assert document["schema"] == "symcache.stats/1"
    assert (document["files"], document["keys"], document["names"]) == (4, 4, 4)
    assert document["bytes"] == sum(map(len, files.values()))
    assert document["by_kind"] == {"plain": {"files": 4, "bytes": document["bytes"]}}
    assert len(document["largest"]) == 1
    assert document["duplicates"] is document["shared"] is None
    assert "files         4, " in shell("stats").stdout


def test_duplicates_are_found_and_share_their_space(shell: StoreShell, files: dict[str, bytes]) -> None:
    twin = shell.store / "twin.pdb" / APP.id / "twin.pdb"
    twin.parent.mkdir(parents=True)
    twin.write_bytes(files[APP.index])
    (group,) = shell.json("stats", "--duplicates")["duplicates"]
    assert sorted(group["paths"]) == sorted([str(twin), str(shell.store / APP.index)])
    assert group["wasted_bytes"] == twin.stat().st_size
    done = shell("stats", "--dedupe")
    assert done.exit_code == 0
    assert "1 file now share" in done.stdout
    assert twin.read_bytes() == files[APP.index]
    assert shell.json("stats", "--dedupe")["shared"] in ([], None) or os.name == "nt"


def test_a_sound_store_verifies(shell: StoreShell) -> None:
    done = shell("verify")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("4 keys, ")
    assert done.stdout.endswith(": nothing is wrong\n")
    document = shell.json("verify")
    assert (document["schema"], document["keys"], document["findings"]) == ("symcache.verify/1", 4, [])


def spoil(shell: StoreShell) -> None:
    (shell.store / APP.index).write_bytes(b"<!DOCTYPE html><html>")
    (shell.store / PUBLIC.index).write_bytes((shell.store / PUBLIC.index).read_bytes()[:6000])


def test_what_is_wrong_is_told_and_left(shell: StoreShell) -> None:
    spoil(shell)
    before = visible(shell.store)
    document = shell.json("verify", code=4)
    assert {each["index"]: each["problem"] for each in document["findings"]} == {
        APP.index: "html",
        PUBLIC.index: "damaged",
    }
    assert all("mended" not in each for each in document["findings"])
    assert shell("verify").stdout.splitlines()[0] == f"{APP.index}: html: a web page"
    assert visible(shell.store) == before


def test_a_repair_fetches_the_right_files_and_keeps_the_wrong_ones(shell: StoreShell, files: dict[str, bytes]) -> None:
    spoil(shell)
    document = shell.json("verify", "--repair")
    assert [each["mended"] for each in document["findings"]] == [True, True]
    assert all(each["note"].endswith("fetched again") for each in document["findings"])
    assert {index: (shell.store / index).read_bytes() for index in files} == files
    assert len(list((shell.store / ".symcache" / "quarantine").glob("*/*.pdb"))) == 2
    assert shell.json("verify")["findings"] == []


@pytest.mark.parametrize(
    ("answer", "code", "note"), [(404, 3, "not-published"), (503, 1, "503")], ids=["nowhere", "not just now"]
)
def test_a_repair_says_what_it_could_not_fetch(
    shell: StoreShell, upstream: Upstream, tmp_path: Path, answer: int, code: int, note: str
) -> None:
    spoil(shell)
    config = tmp_path / "symcache.toml"
    config.write_text("network.retries = 0\n")
    upstream.always(APP.index, status(answer))
    upstream.always(APP.index.removesuffix("b") + "_", status(answer))
    document = shell.json("verify", "--repair", "--config", config, code=code)
    by_index = {each["index"]: each for each in document["findings"]}
    assert by_index[PUBLIC.index]["mended"]
    assert not by_index[APP.index]["mended"]
    assert note in by_index[APP.index]["note"]


def test_private_symbols_are_unwanted_where_the_policy_says_so_and_stay(shell: StoreShell) -> None:
    document = shell.json("verify", "--no-private", code=4)
    assert [(each["index"], each["problem"]) for each in document["findings"]] == [(APP.index, "unwanted")]
    assert shell("verify", "--no-private", "--repair").exit_code == 4
    assert (shell.store / APP.index).exists()


def test_a_policy_looks_into_cabinets_too(tmp_path: Path) -> None:
    shell = StoreShell(tmp_path / "store")
    shell("add", write_build(tmp_path / "build"), "--product", "app", "--compress")
    document = shell.json("verify", "--no-private", code=4)
    assert [each["index"] for each in document["findings"]] == [APP.index]


def test_a_deep_check_finds_what_identity_does_not_tell(shell: StoreShell) -> None:
    pytest.importorskip("pdbparse", reason="pdbparse is not installed")
    assert shell.json("verify", "--deep")["findings"] == []
    content = bytearray((shell.store / APP.index).read_bytes())
    block_size, _, _, _, _, at = (int.from_bytes(content[32 + 4 * n : 36 + 4 * n], "little") for n in range(6))
    directory = int.from_bytes(content[at * block_size :][:4], "little") * block_size
    streams = int.from_bytes(content[directory : directory + 4], "little")
    sizes = [int.from_bytes(content[directory + 4 * n :][:4], "little") for n in range(1, streams + 1)]
    first = directory + 4 + 4 * streams
    blocks = {number: first + 4 * sum(-(-size // block_size) for size in sizes[:number]) for number in range(streams)}
    content[blocks[4] : blocks[4] + 4] = content[blocks[2] : blocks[2] + 4]  # two streams share a block
    (shell.store / APP.index).write_bytes(content)
    assert shell.json("verify")["findings"] == []
    (finding,) = shell.json("verify", "--deep", code=4)["findings"]
    assert "which another stream" in finding["detail"]


def test_without_pdbparse_a_deep_check_is_refused(shell: StoreShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symcache.formats.pdb.deep.available", lambda: False)
    done = shell("verify", "--deep")
    assert done.exit_code == 2
    assert "pip install" in str(done.exception)


def interrupted(shell: StoreShell, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Begin a verification that ends after the second of the four keys, each of which is a checkpoint."""
    looked: list[Path] = []
    real = __import__("symcache.upkeep.verify", fromlist=["x"])._KeyFolders.verify

    def inspect(self: object, folder: Path, name: str) -> object:
        looked.append(folder)
        if len(looked) > 2:
            raise KeyboardInterrupt
        return real(self, folder, name)

    with monkeypatch.context() as patch:
        patch.setattr("symcache.upkeep.checkpoint._CHECKPOINT_KEYS", 1)
        patch.setattr("symcache.upkeep.verify._KeyFolders.verify", inspect)
        assert shell("verify", *arguments).exit_code != 0


@pytest.mark.parametrize(
    ("first", "then", "found"),
    [
        ([], [], False),
        ([], ["--restart"], True),
        ([], ["--no-private"], True),
        (["--no-private"], ["--no-private"], False),
    ],
)
def test_an_interrupted_run_goes_on_if_the_next_one_looks_for_the_same(
    shell: StoreShell, monkeypatch: pytest.MonkeyPatch, first: list[str], then: list[str], found: bool
) -> None:
    interrupted(shell, monkeypatch, *first)
    (shell.store / IMAGE.index).write_bytes(b"")  # in the part that was looked into
    document = shell.json("verify", *then, code=4 if found or "--no-private" in then else 0)
    assert document["keys"] == 4
    assert any(each["index"] == IMAGE.index for each in document["findings"]) is found


def test_limits_decide_what_goes(shell: StoreShell) -> None:
    published(shell, APP, days_ago=100)
    published(shell, IMAGE, days_ago=50)
    used(shell, IMAGE, days_ago=1)
    published(shell, DRV, days_ago=50)
    document = shell.json("prune", "--max-age", "90d", "--unused-for", "30d", "--dry-run")
    assert document["schema"] == "symcache.prune/1"
    assert [each["index"] for each in document["plan"]["evictions"]] == [APP.index, DRV.index]
    assert document["pruned"] is None
    assert len(visible(shell.store)) == 4
    done = shell("prune", "--max-age", "90d", "--unused-for", "30d")
    assert done.exit_code == 0
    assert done.stdout.startswith("gone: 2 keys, ")
    assert sorted(visible(shell.store)) == sorted([IMAGE.index, PUBLIC.index])


def test_the_least_recently_used_go_until_the_rest_fits(shell: StoreShell, files: dict[str, bytes]) -> None:
    for days_ago, key in enumerate(KEYS):
        published(shell, key, days_ago=days_ago + 1)
    limit = len(files[APP.index]) + len(files[PUBLIC.index])
    text = shell("prune", "--max-size", f"{limit}B", "--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in text[:-1]] == [DRV.index, IMAGE.index]
    document = shell.json("prune", "--max-size", f"{limit}B")
    assert document["pruned"]["removed_keys"] == 2
    assert sorted(visible(shell.store)) == sorted([APP.index, PUBLIC.index])


def test_what_must_stay_is_told_and_counts(shell: StoreShell, tmp_path: Path) -> None:
    shell("pin", "app")
    shell("add", tmp_path / "build" / PUBLIC.name, "--product", "mine")
    done = shell("prune", "--max-size", "1KB")
    assert done.exit_code == 3
    assert "above --max-size" in done.stderr
    left = {path for path in visible(shell.store) if path in {key.index for key in KEYS}}
    assert left == {APP.index, IMAGE.index, PUBLIC.index}
    assert shell("prune", "--max-size", "1KB", "--include-transactions").exit_code == 3
    assert not (shell.store / PUBLIC.index).exists()
    assert shell("unpin", "app").exit_code == 0
    assert shell("prune", "--max-size", "1KB").exit_code == 0
    assert shell.json("list", "--files")["files"] == []


def test_quarantine_is_emptied_when_asked_for(shell: StoreShell) -> None:
    spoil(shell)
    shell("verify", "--repair")
    assert shell.json("prune", "--quarantined-for", "30d")["plan"]["leftovers"] == []
    document = shell.json("prune", "--quarantined-for", "0s")
    assert {Path(each["path"]).name for each in document["plan"]["leftovers"]} == {
        "app.pdb", "drv.pdb", "why.json",
    }  # fmt: skip
    assert not list((shell.store / ".symcache" / "quarantine").rglob("*.pdb"))
    assert len(visible(shell.store)) == 4


@pytest.mark.parametrize(
    "arguments",
    [["prune"], ["prune", "--dry-run"], ["prune", "--max-size", "20"], ["pin"], ["unpin"], ["unpin", "--all", "nt"]],
)
def test_a_command_without_an_object_is_wrong_usage(shell: StoreShell, arguments: list[str]) -> None:
    assert shell(*arguments).exit_code == 2
    assert len(visible(shell.store)) == 4


def test_pins_are_kept_once_and_taken_back(shell: StoreShell) -> None:
    assert shell("pin", "nt", "hal", "nt").stdout == "2 pins added\n"
    document = shell.json("pin", APP.index.replace("/", "\\"), "hal")
    assert document == {"schema": "symcache.pins/1", "store": str(shell.store), "pins": ["nt", "hal", APP.index]}
    assert shell("pins").stdout.splitlines() == document["pins"]
    assert shell("unpin", "hal", "what").stdout == "1 pin removed\n"
    assert shell("unpin", "hal").exit_code == 3
    assert shell.json("unpin", "--all")["pins"] == []
    done = shell("pins")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "nothing is pinned\n")
    assert shell("pin", "../b").exit_code == 2


def test_everything_that_an_input_needs_is_pinned(shell: StoreShell, tmp_path: Path) -> None:
    manifest = tmp_path / "wanted.txt"
    manifest.write_text(f"{PUBLIC.index}\n{IMAGE.index}\nlater.dll/5E0B123621000/later.dll\n")
    document = shell.json("pin", "--for", manifest, code=3)
    assert document["pins"] == [PUBLIC.index, IMAGE.index, APP.index, "later.dll/5E0B123621000/later.dll"]
    assert "later.dll" in shell("pin", "--for", manifest).stderr
    assert shell.json("prune", "--max-size", "1B", code=3)["pruned"]["removed_keys"] == 1
    assert sorted(visible(shell.store)) == sorted([PUBLIC.index, IMAGE.index, APP.index])
    shell("unpin", "--for", manifest)
    assert shell("pins").stdout == ""
    assert shell("pin", "--for", tmp_path / "nothing").exit_code == 4


def test_a_layout_is_changed_and_changed_back(shell: StoreShell, files: dict[str, bytes]) -> None:
    document = shell.json("convert", "--two-tier")
    assert (document["schema"], document["tier"], document["moved"]) == ("symcache.convert/1", 2, 4)
    assert (shell.store / "ap" / APP.index).read_bytes() == files[APP.index]
    assert shell("verify").exit_code == 0
    done = shell("convert", "--single-tier")
    assert done.stdout == f"{shell.store} is single-tier now: 4 folders moved\n"
    assert sorted(visible(shell.store)) == sorted(files)
    assert shell("convert").exit_code == 2


def run_on_terminal(shell: StoreShell, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """Run a command as if standard error were a terminal."""
    import click.testing  # noqa: PLC0415 - the stream that it makes is looked into

    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda self: "stderr" in str(self.name))
    return shell(*arguments)


def test_progress_is_shown_on_a_terminal_and_never_in_the_result(
    shell: StoreShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., Result] = run_on_terminal
    done = run(shell, monkeypatch, "verify", "--json")
    assert "0 wrong" in done.stderr
    assert done.stdout.startswith("{")
    assert run(shell, monkeypatch, "verify", "-q").stderr == ""
