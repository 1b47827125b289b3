"""`store push`, and `list`, `stats`, `verify` and `prune` where ``--store`` is a bucket; each against real servers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.faultrelay import Fault, FaultRelay
from support.stores import APP, DRV, IMAGE, PUBLIC, StoreShell, invoke, write_build
from support.synth.cab import SynthFolder, build_cabinet
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.errors import Forbidden, UpstreamRefused
from symcache.identity import PdbKey, compressed_name

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from support.buckets import Bucket

    from symcache.identity import Key

KEYS: tuple[Key, ...] = (APP, PUBLIC, IMAGE, DRV)
SPARE = PdbKey("spare.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113c"), 1)


class BucketShell(StoreShell):
    """Runs commands on a store with a bucket behind it, and on the bucket.

    Attributes:
        bucket: The bucket.
        prefix: What the names in it begin with.
        url: Of the bucket with the prefix.
    """

    def __init__(self, store: Path, bucket: Bucket) -> None:
        self.bucket = bucket
        self.prefix = "windows/x64"
        self.url = f"{bucket.url}/{self.prefix}"
        super().__init__(store, f"srv*{store}*{self.url}")
        self._objects = bucket.open(prefix=self.prefix)

    def on_bucket(self, *arguments: str) -> Result:
        """Run ``symcache store`` with the bucket as ``--store``."""
        return invoke(["store", *arguments, "--store", self.url])

    def on_bucket_json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        done = self.on_bucket(*arguments, "--json")
        assert done.exit_code == code, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["store"] == self.url
        return document

    def put(self, name: str, content: bytes, **attributes: str) -> None:
        obstore.put(self._objects, name, content, attributes=attributes or None)

    def contents(self) -> dict[str, bytes]:
        """Return what lies in the bucket, by name."""
        names = [meta["path"] for meta in obstore.list(self._objects).collect()]
        return {name: bytes(obstore.get(self._objects, name).bytes()) for name in names}

    def stated_hash(self, name: str) -> str | None:
        found: str | None = obstore.get(self._objects, name).attributes.get("sha256")
        return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    build = write_build(tmp_path / "build")
    (build / DRV.name).write_bytes((build / "obj" / DRV.name).read_bytes())
    return {key.index: (build / key.name).read_bytes() for key in KEYS}


@pytest.fixture(params=["moto", "azurite"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param).new_bucket()
    for name, value in found.variables().items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def shell(tmp_path: Path, bucket: Bucket, files: dict[str, bytes]) -> BucketShell:
    """A store that has everything, and an empty bucket behind it."""
    store = tmp_path / "store"
    for index, content in files.items():
        (store / index).parent.mkdir(parents=True)
        (store / index).write_bytes(content)
    (store / "pingme.txt").touch()
    return BucketShell(store, bucket)


@pytest.fixture
def filled(shell: BucketShell, files: dict[str, bytes]) -> BucketShell:
    """The same, where the bucket has everything, too."""
    for index, content in files.items():
        shell.put(index, content)
    return shell


@pytest.fixture
def s3_shell(tmp_path: Path, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> BucketShell:
    """An empty store, and an empty bucket of S3."""
    for name, value in s3_bucket.variables().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pingme.txt").touch()
    return BucketShell(tmp_path / "store", s3_bucket)


@pytest.fixture
def relay(s3_shell: BucketShell, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultRelay]:
    """What counts the requests of commands, and breaks them."""
    with FaultRelay(s3_shell.bucket.server.url) as between:
        for name, value in s3_shell.bucket.variables(at=between.url).items():
            monkeypatch.setenv(name, value)
        yield between


def asked(relay: FaultRelay) -> dict[str, int]:
    """Return how many requests of each kind came."""
    kinds = ["list" if "list-type" in request.target else request.method for request in relay.requests]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def test_a_store_is_pushed_whole_and_then_there_is_nothing_to_do(shell: BucketShell, files: dict[str, bytes]) -> None:
    would = shell("push", "--dry-run")
    assert would.exit_code == 0
    assert f"4 files lacking in {shell.url}" in would.stdout
    assert shell.contents() == {}
    document = shell.json("push")
    assert set(document) == {"schema", "store", "bucket", "summary", "bytes", "files"}
    assert (document["schema"], document["bucket"]) == ("symcache.push/1", shell.url)
    assert document["summary"]["pushed"] == 4
    assert document["bytes"] == sum(map(len, files.values()))
    assert shell.contents() == {**files, "pingme.txt": b""}
    again = shell.json("push")
    assert (again["summary"]["pushed"], again["summary"]["there"], again["files"]) == (0, 4, [])


def test_what_is_pushed_states_its_hash(shell: BucketShell, files: dict[str, bytes]) -> None:
    assert shell("push", "app.*").exit_code == 0
    assert shell.stated_hash(APP.index) == hashlib.sha256(files[APP.index]).hexdigest()
    assert set(shell.contents()) == {APP.index, IMAGE.index, "pingme.txt"}


def test_a_push_replaces_nothing(shell: BucketShell) -> None:
    shell.put(APP.index, b"of somebody else")
    assert shell.json("push")["summary"]["there"] == 1
    assert shell.contents()[APP.index] == b"of somebody else"


def test_a_cabinet_is_pushed_expanded(shell: BucketShell, files: dict[str, bytes]) -> None:
    plain = shell.store / APP.index
    plain.unlink()
    plain.with_name(compressed_name(APP.name)).write_bytes(build_cabinet([SynthFolder([(APP.name, files[APP.index])])]))
    assert shell("push").exit_code == 0
    assert shell.contents()[APP.index] == files[APP.index]


def test_a_bad_file_is_not_pushed_and_a_pointer_is_left(shell: BucketShell) -> None:
    (shell.store / PUBLIC.index).unlink()
    (shell.store / PUBLIC.index).with_name("file.ptr").write_text("\\\\build\\drv.pdb")
    summary = shell.json("push", code=3)["summary"]
    assert (summary["left"], summary["pushed"]) == (1, 3)
    (shell.store / SPARE.index).parent.mkdir(parents=True)
    (shell.store / SPARE.index).write_bytes((shell.store / APP.index).read_bytes())
    done = shell("push")
    assert done.exit_code == 4
    assert f"{SPARE.index}: refused: another PDB" in done.stdout
    assert SPARE.index not in shell.contents()


def test_a_push_lists_and_does_not_ask_for_each_file(s3_shell: BucketShell, relay: FaultRelay) -> None:
    keys = [PdbKey(f"m{number:02}.pdb", UUID(int=number + 1), 1) for number in range(40)]
    for key in keys:
        (s3_shell.store / key.index).parent.mkdir(parents=True)
        content = make_pdb(NativePdbSpec(key.guid, key.age))
        (s3_shell.store / key.index).write_bytes(content)
        if key is not keys[7]:
            s3_shell.put(key.index, content)
    document = s3_shell.json("push")
    assert [each["index"] for each in document["files"]] == [keys[7].index]
    # Whether a name is kept is found out by putting pingme.txt there twice.
    assert asked(relay) == {"list": 1, "PUT": 3}


def test_a_bucket_that_fails_ends_a_push_soon(s3_shell: BucketShell, relay: FaultRelay) -> None:
    for number in range(200):
        key = PdbKey(f"m{number:03}.pdb", UUID(int=number + 1), 1)
        (s3_shell.store / key.index).parent.mkdir(parents=True)
        (s3_shell.store / key.index).write_bytes(make_pdb(NativePdbSpec(key.guid, key.age)))
    relay.fault = Fault(methods={"PUT"}, target=r"m\d+\.pdb", status=403)
    done = s3_shell("push")
    assert done.exit_code == 1
    assert "403" in done.stderr
    assert "what was brought there stays" in done.stderr
    assert asked(relay)["PUT"] < 60
    relay.fault = None
    summary = s3_shell.json("push")["summary"]
    assert summary["pushed"] + summary["there"] == 200  # what was under way may have come later


def test_files_of_a_bucket_are_listed(filled: BucketShell, files: dict[str, bytes]) -> None:
    filled.put("readme.txt", b"nothing for a store")
    filled.put("pingme.txt", b"")
    done = filled.on_bucket("list", "--files")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [["plain", "-", str(len(files[index])), index] for index in sorted(files)]
    assert "1 object no file of a store: readme.txt" in done.stderr
    document = filled.on_bucket_json("list", "drv*", "--files")
    assert [each["index"] for each in document["files"]] == [PUBLIC.index, DRV.index]
    assert document["files"][0]["path"] == f"{filled.url}/{PUBLIC.index}"
    private = filled.on_bucket_json("list", "--files", "--symbols", "private")["files"]
    assert [(each["index"], each["symbols"]) for each in private] == [(APP.index, "private")]


def test_a_list_of_a_bucket_serves_an_export(filled: BucketShell, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(filled.on_bucket("list", "--files").stdout, encoding="utf-8")
    document = filled.json("export", "-o", tmp_path / "b.zip", "--without", listing, group=None)
    assert (document["files"], document["left_out"]) == (0, 4)


def test_a_list_takes_a_request_for_each_thousand(s3_shell: BucketShell, relay: FaultRelay) -> None:
    names = [f"m{number:04}.pdb/{number:032X}1/m{number:04}.pdb" for number in range(1010)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: s3_shell.put(name, b"x"), names))
    done = s3_shell.on_bucket("list", "--files")
    assert [line.split()[3] for line in done.stdout.splitlines()] == names
    assert asked(relay) == {"list": 2}
    relay.forget()
    stats = s3_shell.on_bucket_json("stats")
    assert (stats["files"], stats["keys"], stats["names"], stats["bytes"]) == (1010, 1010, 1010, 1010)
    assert asked(relay) == {"list": 2}
    relay.forget()
    done = s3_shell.on_bucket("prune", "--max-size", "500B")
    assert "gone: 510 keys" in done.stdout
    counts = asked(relay)
    assert (counts.pop("list"), counts) == (4, {"POST": 2})


def test_a_bucket_is_counted(filled: BucketShell, files: dict[str, bytes]) -> None:
    filled.put(f"other.pdb/{APP.id}/other.pd_", b"MSCF")
    filled.put("readme.txt", b"nothing for a store")
    document = filled.on_bucket_json("stats", "--largest", "1")
    assert (document["files"], document["keys"], document["names"]) == (5, 5, 5)
    assert document["by_kind"]["plain"] == {"files": 4, "bytes": sum(map(len, files.values()))}
    assert document["by_kind"]["compressed"] == {"files": 1, "bytes": 4}
    assert [each["name"] for each in document["largest"]] == [APP.name]
    assert document["others"] == {"count": 1, "first": ["readme.txt"]}
    text = filled.on_bucket("stats").stdout
    assert filled.url in text
    assert "transactions" not in text


def test_a_right_bucket_is_found_right(filled: BucketShell, files: dict[str, bytes]) -> None:
    filled.put(f"zip.pdb/{APP.id}/zip.pd_", build_cabinet([SynthFolder([("zip.pdb", files[APP.index])])]))
    for options in ([], ["--hashes"]):
        document = filled.on_bucket_json("verify", *options)
        assert (document["findings"], document["keys"]) == ([], 5)


def test_what_is_wrong_is_found_and_moved_out_of_the_way(filled: BucketShell, files: dict[str, bytes]) -> None:
    bad = {
        f"a.pdb/{APP.id}/a.pdb": ("html", b"<!DOCTYPE html><html><body>Sign in"),
        f"b.pdb/{APP.id}/b.pdb": ("damaged", files[APP.index][:5000]),
        f"c.pdb/{PUBLIC.id}/c.pdb": ("misfiled", files[APP.index]),
        f"d.pdb/{APP.id}/d.pd_": ("damaged", b"MSCF and no more"),
        f"e.exe/{IMAGE.id}/e.exe": ("empty", b""),
    }
    for name, (_, content) in bad.items():
        filled.put(name, content)
    filled.put(f"f.pdb/{APP.id.lower()}/f.pdb", files[APP.index])
    filled.put("notes/of mine", b"not a store's")
    before = filled.contents()
    document = filled.on_bucket_json("verify", code=4)
    found = {each["path"]: each["problem"] for each in document["findings"]}
    assert found == {**{name: kind for name, (kind, _) in bad.items()}, f"f.pdb/{APP.id.lower()}/f.pdb": "bad-name"}
    assert document["others"] == {"count": 1, "first": ["notes/of mine"]}
    assert filled.contents() == before
    done = filled.on_bucket("verify", "--repair")
    assert done.exit_code == 4  # nobody but a person knows what the spelling should be
    assert "symcache store push" in done.stderr
    after = filled.contents()
    moved = {name.split("/", 3)[3]: content for name, content in after.items() if name.startswith(".symcache/")}
    assert moved == {name: content for name, (_, content) in bad.items()}
    assert {name: after[name] for name in after if not name.startswith(".symcache/")} == {
        name: content for name, content in before.items() if name not in bad
    }
    assert [each["problem"] for each in filled.on_bucket_json("verify", code=4)["findings"]] == ["bad-name"]


def test_what_was_repaired_can_be_pushed_again(shell: BucketShell, files: dict[str, bytes]) -> None:
    shell.put(APP.index, files[APP.index][:5000])
    done = shell.on_bucket("verify", "--repair")
    assert done.exit_code == 0
    assert f"{APP.index}: mended: moved to .symcache/quarantine/" in done.stdout
    assert shell("push").exit_code == 0
    assert shell.contents()[APP.index] == files[APP.index]
    assert shell.on_bucket("verify").exit_code == 0


def test_other_bytes_than_are_stated_are_found_with_hashes_alone(shell: BucketShell, files: dict[str, bytes]) -> None:
    content = bytearray(make_pdb(NativePdbSpec(SPARE.guid, SPARE.age, payload_bytes=200_000)))
    stated = hashlib.sha256(content).hexdigest()
    content[120_000] ^= 1
    shell.put(SPARE.index, bytes(content), sha256=stated)
    assert shell.on_bucket("verify").exit_code == 0
    (found,) = shell.on_bucket_json("verify", "--hashes", code=4)["findings"]
    assert (found["path"], found["problem"]) == (SPARE.index, "damaged")
    assert stated in found["detail"]


def test_private_symbols_are_reported_where_they_must_not_be(filled: BucketShell) -> None:
    (found,) = filled.on_bucket_json("verify", "--no-private", code=4)["findings"]
    assert (found["path"], found["problem"], found["mend"]) == (APP.index, "unwanted", "none")


def test_verifying_reads_what_identity_takes(s3_shell: BucketShell, relay: FaultRelay) -> None:
    content = make_pdb(NativePdbSpec(SPARE.guid, SPARE.age, payload_bytes=8 << 20))
    s3_shell.put(SPARE.index, content)
    assert s3_shell.on_bucket("verify").exit_code == 0
    assert sum(request.sent_bytes for request in relay.requests) < 512 << 10
    relay.forget()
    assert s3_shell.on_bucket("verify", "--hashes").exit_code == 0
    assert sum(request.sent_bytes for request in relay.requests) > len(content)


def test_a_verification_goes_on_where_it_failed(
    s3_shell: BucketShell, relay: FaultRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.upkeep.checkpoint._CHECKPOINT_KEYS", 1)
    keys = [PdbKey(f"m{number:02}.pdb", UUID(int=number + 1), 1) for number in range(60)]
    for number, key in enumerate(keys):
        content = b"no PDB" if number == 3 else make_pdb(NativePdbSpec(key.guid, key.age))
        s3_shell.put(key.index, content)
    relay.fault = Fault(methods={"GET"}, target=r"m[345]\d\.pdb", status=403)
    with pytest.raises(Forbidden, match="403"):
        s3_shell.on_bucket("verify")
    relay.fault = None
    relay.forget()
    document = s3_shell.on_bucket_json("verify", code=4)
    assert [each["path"] for each in document["findings"] if each["problem"] == "damaged"] == [keys[3].index]
    assert document["keys"] == 60
    read = {
        request.path.split("/")[4] for request in relay.requests if request.method == "GET" and ".pdb" in request.path
    }
    assert not {key.name for key in keys[:29] if key is not keys[3]} & read
    relay.forget()
    assert s3_shell.on_bucket_json("verify", code=4)["keys"] == 60
    read = {
        request.path.split("/")[4] for request in relay.requests if request.method == "GET" and ".pdb" in request.path
    }
    assert len(read) == 60


def test_one_object_that_cannot_be_read_stops_nothing(s3_shell: BucketShell, relay: FaultRelay) -> None:
    for key in (APP, PUBLIC):
        s3_shell.put(key.index, make_pdb(NativePdbSpec(key.guid, key.age)))
    relay.fault = Fault(methods={"GET"}, target="app.pdb", status=403)
    (found,) = s3_shell.on_bucket_json("verify", "--repair", code=4)["findings"]
    assert (found["path"], found["problem"], found["mended"]) == (APP.index, "unreadable", False)
    assert APP.index in s3_shell.contents()


def test_what_is_too_old_goes(filled: BucketShell) -> None:
    filled.put(".symcache/quarantine/0123/app.pdb", b"bad")
    filled.put("readme.txt", b"nothing for a store")
    would = filled.on_bucket("prune", "--max-age", "0s", "--quarantined-for", "0s", "--dry-run")
    assert "would go: 4 keys" in would.stdout
    assert "in quarantine" in would.stdout
    assert len(filled.contents()) == 6
    assert filled.on_bucket("prune", "--max-age", "1d").exit_code == 0
    assert len(filled.contents()) == 6
    document = filled.on_bucket_json("prune", "--max-age", "0s", "--quarantined-for", "0s")
    assert document["pruned"]["removed_keys"] == 4
    assert set(filled.contents()) == {"readme.txt"}


REFUSED = {
    "unused": (["prune", "--unused-for", "30d"], "--max-age"),
    "transactions": (["list"], "--files"),
    "duplicates": (["stats", "--duplicates"], "stores on disk"),
    "init": (["init"], "is a bucket; name it in the symbol path"),
    "pins": (["pins"], "is a bucket; name it in the symbol path"),
    "convert": (["convert", "--two-tier"], "is a bucket; name it in the symbol path"),
    "push": (["push"], "is a bucket; name it in the symbol path"),
    "query": (["query", "app.pdb"], "is a bucket; name it in the symbol path"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_bucket_does_not_do_is_refused(words: list[str], said: str) -> None:
    done = invoke(["store", *words, "--store", "s3://symbols/windows"])
    assert done.exit_code == 2
    assert said in str(done.exception)


def test_other_commands_take_no_bucket_as_a_store(tmp_path: Path) -> None:
    for words in (["warm", str(tmp_path)], ["serve"], ["import", "b.zip"], ["store", "init", "s3://a/b"]):
        store = [] if "s3://a/b" in words else ["--store", "s3://symbols/windows"]
        done = invoke([*words, *store])
        assert done.exit_code == 2
        assert "is a bucket; name it in the symbol path" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_a_bucket_if_it_is_declared(
    filled: BucketShell, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "azurite" in request.node.name:
        pytest.skip("https:// is S3's alone")
    url = f"{filled.bucket.server.url}/{filled.bucket.name}/{filled.prefix}"
    config = tmp_path / "symcache.toml"
    config.touch()
    done = invoke(["store", "stats", "--store", url, "--config", str(config)])
    assert "a store is a folder" in str(done.exception)
    config.write_text(f"[[bucket]]\nurl = '{url}'\nread_only = true\n", encoding="utf-8")
    assert "files  4" in invoke(["store", "stats", "--store", f"{url}/", "--config", str(config)]).stdout
    done = invoke(["store", "prune", "--max-age", "1d", "--store", url, "--config", str(config)])
    assert "read_only" in str(done.exception)
    done = invoke(["store", "push", "-y", f"srv*{filled.store}*{url}", "--config", str(config)])
    assert "read_only" in str(done.exception)


def test_without_a_bucket_there_is_nowhere_to_push(tmp_path: Path) -> None:
    done = invoke(["store", "push", "-y", f"srv*{tmp_path}"])
    assert done.exit_code == 2
    assert "names no bucket" in str(done.exception)


def test_a_name_that_cannot_be_listed_is_said(s3_shell: BucketShell) -> None:
    s3_shell.bucket.server._put(f"/{s3_shell.bucket.name}/{s3_shell.prefix}/a//b", {})
    with pytest.raises(UpstreamRefused, match="a//b") as raised:
        s3_shell.on_bucket("stats")
    assert "\n" not in str(raised.value)
