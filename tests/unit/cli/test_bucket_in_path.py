"""Commands whose symbol path leads from a store on disk to a bucket: `export`, `check`, `doctor` and what they say."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.buckets import SECRETS
from support.faultrelay import Fault, FaultRelay
from support.stores import APP, DRV, IMAGE, PUBLIC, invoke, write_build

from symcache.cli.app import root
from symcache.errors import StoreError

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

if TYPE_CHECKING:
    from pathlib import Path

    from support.buckets import Bucket

    from symcache.identity import Key


class Place:
    """A build, a store that has nothing of it, and a bucket behind that which has all."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.build = write_build(folder / "build")
        self.store = folder / "store"
        self.store.mkdir()
        (self.store / "pingme.txt").touch()
        self.url = f"{bucket.url}/symbols"
        self.path = f"srv*{self.store}*{self.url}"
        self.objects = bucket.open(prefix="symbols")
        self.contents: dict[Key, Path] = {
            APP: self.build / "app.pdb",
            PUBLIC: self.build / "drv.pdb",
            IMAGE: self.build / "app.exe",
            DRV: self.build / "obj" / "drv.sys",
        }
        for key in self.contents:
            self.put(key, self.content(key))

    def content(self, key: Key) -> bytes:
        return self.contents[key].read_bytes()

    def put(self, key: Key, content: bytes) -> None:
        obstore.put(self.objects, key.index, content)

    def keep(self, key: Key) -> None:
        """Let the store on disk have *key*, too."""
        (self.store / key.index).parent.mkdir(parents=True)
        (self.store / key.index).write_bytes(self.content(key))

    def json(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        done = invoke([*map(str, words), "-y", self.path, "--json"])
        assert done.exit_code == code, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture
def place(tmp_path: Path, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in s3_bucket.variables().items():
        monkeypatch.setenv(name, value)
    return Place(tmp_path, s3_bucket)


def test_what_only_the_bucket_has_goes_into_a_bundle(place: Place, tmp_path: Path) -> None:
    place.keep(APP)
    bundle = tmp_path / "b.zip"
    document = place.json("export", place.build, "--images", "all", "-o", bundle)
    assert (document["files"], document["missing"]) == (4, [])
    with zipfile.ZipFile(bundle) as archive:
        assert archive.read(PUBLIC.index) == place.content(PUBLIC)
        assert archive.read(APP.index) == place.content(APP)
    assert [path.name for path in place.store.iterdir() if path.name not in {".symcache", "pingme.txt"}] == [APP.name]
    assert not list((place.store / ".symcache").rglob("*.part"))
    other = tmp_path / "other"
    done = invoke(["import", str(bundle), "--store", str(other)])
    assert done.exit_code == 0
    assert (other / DRV.index).read_bytes() == place.content(DRV)


def test_a_store_that_is_not_there_yet_is_no_hindrance(place: Place, tmp_path: Path) -> None:
    shutil.rmtree(place.store)
    document = place.json("export", place.build, "--images", "all", "-o", tmp_path / "b.zip")
    assert (document["files"], document["missing"]) == (4, [])


def test_a_bundle_is_the_same_wherever_its_files_came_from(place: Place, tmp_path: Path) -> None:
    place.json("export", place.build, "-o", tmp_path / "a.zip")
    place.keep(APP)
    place.keep(PUBLIC)
    place.json("export", place.build, "-o", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_bad_object_does_not_go_into_a_bundle(place: Place, tmp_path: Path) -> None:
    place.put(PUBLIC, place.content(APP))
    document = place.json("export", place.build, "-o", tmp_path / "b.zip", code=3)
    assert document["files"] == 1
    assert [each["index"] for each in document["missing"]] == [PUBLIC.index]


def test_the_whole_store_is_the_one_on_disk(place: Place, tmp_path: Path) -> None:
    place.keep(APP)
    assert place.json("export", "-o", tmp_path / "b.zip")["files"] == 1


def test_private_symbols_in_a_bucket_fail_a_check(place: Place) -> None:
    done = invoke(["check", str(place.build), "--fail-on", "private", "-y", place.path])
    assert done.exit_code != 0
    assert APP.index in done.output
    place.put(APP, place.content(PUBLIC))  # and what is not there as it should is not private
    obstore.delete(place.objects, [APP.index])
    assert invoke(["check", str(place.build), "--fail-on", "private", "-y", place.path]).exit_code == 0


def test_a_report_says_bucket_where_it_is_one(place: Place) -> None:
    done = invoke(["check", str(place.build), "-v", "-y", place.path])
    assert f"in the bucket {place.url}, which no debugger reads" in done.output
    assert "in a bundle" not in done.output


def test_a_bucket_that_is_away_is_asked_a_few_times_only(
    place: Place, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultRelay(s3_bucket.server.url) as relay:
        for name, value in s3_bucket.variables(at=relay.url).items():
            monkeypatch.setenv(name, value)
        relay.fault = Fault(status=503)
        words = [
            "export",
            str(place.build),
            "--images",
            "all",
            "-o",
            str(place.store.parent / "b.zip"),
            "-y",
            place.path,
        ]
        with pytest.raises(StoreError, match="503"):
            invoke(words)
        assert len(relay.requests) < 60


def test_no_command_shows_the_keys_of_a_bucket(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    on_bucket = ["--store", place.url]
    along = ["-y", place.path]
    shown = ""
    for words in (
        ["store", "list", "--files", *on_bucket],
        ["store", "stats", *on_bucket],
        ["store", "verify", "--hashes", "--repair", *on_bucket],
        ["store", "prune", "--max-size", "1KB", *on_bucket],
        ["store", "push", "-v", *along],
        ["check", "-v", str(place.build), *along],
        ["export", str(place.build), "-o", str(tmp_path / "b.zip"), *along],
        ["doctor", *along],
        ["path", *along],
    ):
        done = CliRunner().invoke(root, words)
        shown += f"{done.output}{done.exception!r}"
        shown += CliRunner().invoke(root, [*words, "--json"]).output
    shown += "".join(capfd.readouterr())
    assert place.url in shown
    assert not [secret for secret in SECRETS if secret in shown]


def findings(place: Place, *more: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(root, ["doctor", "-y", place.path, "--json", *more])
    found = json.loads(done.stdout)["findings"]
    return {each["check"]: each for each in found if each["subject"] == place.url}


def test_the_doctor_looks_at_a_bucket(place: Place) -> None:
    found = findings(place)
    assert {check: each["rating"] for check, each in found.items()} == {
        "listing": "fine",
        "contents": "fine",
        "writing": "fine",
    }
    assert "4 files" in found["contents"]["text"]
    assert obstore.head(place.objects, "pingme.txt")["size"] == 0
    assert findings(place, "--offline") == {}


def test_the_doctor_finds_names_that_nobody_asks_for(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "symcache.toml"
    config.write_text(f"[[bucket]]\nurl = '{place.url}'\nletter_case = 'lower'\nread_only = true\n", encoding="utf-8")
    obstore.put(place.objects, "notes.txt", b"not a store's")
    found = findings(place, "--config", str(config))
    assert found["letter case"]["rating"] == "wrong"
    assert found["contents"]["rating"] == "warning"
    assert "read_only" in found["writing"]["text"]
    with pytest.raises(FileNotFoundError):
        obstore.head(place.objects, "pingme.txt")


@pytest.mark.parametrize(
    ("fault", "check", "rating"),
    [
        (Fault(status=503), "reach", "wrong"),
        (Fault(), "reach", "wrong"),
        (Fault(target="list-type", status=403), "listing", "warning"),
        (Fault(methods={"PUT"}, status=403), "writing", "warning"),
    ],
    ids=["down", "reset", "not listed", "not written"],
)
def test_the_doctor_says_what_a_bucket_refuses(
    place: Place, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, fault: Fault, check: str, rating: str
) -> None:
    with FaultRelay(s3_bucket.server.url) as relay:
        for name, value in s3_bucket.variables(at=relay.url).items():
            monkeypatch.setenv(name, value)
        relay.fault = fault
        found = findings(place)
    assert found[check]["rating"] == rating
    assert found[check]["advice"]


def test_the_doctor_warns_of_a_server_that_replaces(
    tmp_path: Path, plain_s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in plain_s3_bucket.variables().items():
        monkeypatch.setenv(name, value)
    found = findings(Place(tmp_path, plain_s3_bucket))
    assert found["writing"]["rating"] == "warning"
    assert "replaces" in found["writing"]["text"]
