"""The commands over a bucket, with credentials of the environment; none of them shows one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.buckets import SECRETS
from support.command import run, start
from support.faultrelay import Fault, FaultRelay
from support.parts import need
from support.serving import fetch, serving_process, wait_for
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.windows import interrupt

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from support.buckets import Bucket
    from support.upstream import Upstream

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

PDBS = {
    key: make_pdb(NativePdbSpec(key.guid, key.age, payload_bytes=20_000))
    for key in (PdbKey(f"m{number}.pdb", UUID(int=500 + number), 1) for number in range(5))
}
FILES = {key.index: content for key, content in PDBS.items()}
FIRST = next(iter(PDBS))
IMAGE = ImageKey("m0.dll", 0x5F000000, 0x3000)


class Machine:
    """Runs commands with a bucket behind a store of its own, and nothing else in the environment."""

    def __init__(self, folder: Path, bucket: Bucket, relay: FaultRelay, upstream: Upstream) -> None:
        self.folder = folder
        self.store = folder / "sym"
        self.symbol_path = f"srv*{self.store}*{bucket.url}*{upstream.url}"
        folder.mkdir()
        self.env = {
            **bucket.variables(relay.url),
            **{name: str(folder / "home") for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")},
        }
        self.wanted = folder / "list"
        self.wanted.write_text("".join(f"{index}\n" for index in FILES))

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = run(*arguments, "-y", self.symbol_path, env=self.env)
        show_nothing(done.stdout, done.stderr)
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def show_nothing(*texts: str) -> None:
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text], text
        assert "X-Amz-Signature" not in text
        assert "Debug source" not in text


class Scene:
    """A bucket behind a relay, a server behind it, and machines that share the two."""

    def __init__(self, bucket: Bucket, relay: FaultRelay, upstream: Upstream, folder: Path) -> None:
        self.bucket = bucket
        self.relay = relay
        self.upstream = upstream
        self._folder = folder

    def machine(self, name: str) -> Machine:
        return Machine(self._folder / name, self.bucket, self.relay, self.upstream)

    def held(self) -> dict[str, bytes]:
        store = self.bucket.open()
        names = [each["path"] for page in obstore.list(store) for each in page]
        return {name: obstore.get(store, name).bytes().to_bytes() for name in names if name != "pingme.txt"}


@pytest.fixture
def scene(s3_bucket: Bucket, upstream: Upstream, tmp_path: Path) -> Iterator[Scene]:
    upstream.files |= FILES
    with FaultRelay(s3_bucket.server.url) as relay:
        yield Scene(s3_bucket, relay, upstream, tmp_path)


def test_what_one_machine_fetched_another_has_without_the_server(scene: Scene) -> None:
    one, two = scene.machine("one"), scene.machine("two")
    first = one.json("warm", one.wanted)
    assert {each["upstream"] for each in first["symbols"]} == {scene.upstream.url}
    assert scene.held() == FILES
    scene.upstream.requests.clear()

    checked = two.json("check", two.wanted)  # without a copy
    for each in checked["symbols"]:
        assert (each["state"], each["path"]) == ("present", f"{scene.bucket.url}/{each['index']}")
    assert not two.store.exists()
    told = two("check", "-v", two.wanted)
    assert f"{scene.bucket.url}: debuggers do not read a bucket" in told.stderr
    assert f"in the bucket {scene.bucket.url}, which no debugger reads" in told.stdout

    second = two.json("warm", two.wanted)
    assert {(each["state"], each["upstream"]) for each in second["symbols"]} == {("fetched", scene.bucket.url)}
    assert scene.upstream.requests == []
    third = two.json("warm", two.wanted)
    assert {each["state"] for each in third["symbols"]} == {"present"}


def test_the_two_hops_of_an_image_are_made_in_the_bucket(scene: Scene) -> None:
    machine = scene.machine("one")
    obstore.put(scene.bucket.open(), IMAGE.index, disk_bytes(plan_image(IMAGE, FIRST)))
    obstore.put(scene.bucket.open(), FIRST.index, PDBS[FIRST])
    scene.upstream.files.clear()
    machine.wanted.write_text(f"{IMAGE.index}\n")
    done = machine.json("warm", machine.wanted)
    assert {each["index"] for each in done["symbols"]} >= {FIRST.index}
    assert {each["upstream"] for each in done["symbols"] if each["index"] == FIRST.index} == {scene.bucket.url}


def test_a_file_is_fetched_out_of_it_and_an_explanation_names_it(scene: Scene) -> None:
    machine = scene.machine("one")
    obstore.put(scene.bucket.open(), FIRST.index, PDBS[FIRST])
    done = machine("path", "--explain", FIRST.index)
    assert done.returncode == 0
    assert f"there, plain, {len(PDBS[FIRST])} bytes" in done.stdout
    done = machine("fetch", FIRST.index)
    assert done.stdout.strip() == str(machine.store / FIRST.index)
    assert scene.upstream.requests == []
    shown = machine("path")
    assert "s3://" not in shown.stdout
    assert f"{scene.bucket.url} is left out: debuggers do not read a bucket" in shown.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=503), "; what is fetched is brought there later"),
        (Fault(methods={"PUT"}, status=403), "; nothing is brought there"),
        (Fault(), "; what is fetched is brought there later"),
    ],
    ids=["away", "not to be written", "broken"],
)
def test_a_bucket_that_is_ill_holds_up_nobody(fault: Fault, said: str, scene: Scene) -> None:
    machine = scene.machine("one")
    scene.relay.fault = fault
    done = machine("warm", machine.wanted)
    assert done.returncode == 0, done.stderr
    first, last = (line for line in done.stderr.splitlines() if "still on the way" not in line)  # on a slow machine
    assert first.startswith(f"{scene.bucket.url}: ")
    assert first.endswith(said)
    assert last == f"5 files were not brought into {scene.bucket.url}; `symcache store push` does that later"
    assert "As told" not in done.stderr
    assert sorted(path.name for path in machine.store.rglob("*.pdb") if path.is_file()) == sorted(
        key.name for key in PDBS
    )
    scene.relay.fault = None
    assert scene.held() == {}


def test_what_no_server_has_while_the_bucket_is_away_failed(scene: Scene) -> None:
    machine = scene.machine("one")
    scene.upstream.files.clear()
    scene.relay.fault = Fault(status=503)
    document = machine.json("warm", machine.wanted, code=1)
    assert {(each["state"], each["cause"]) for each in document["symbols"]} == {("failed", "unavailable")}
    scene.relay.fault = None
    document = machine.json("warm", machine.wanted, code=3)
    assert {each["cause"] for each in document["symbols"]} <= {"not-published", "remembered-miss"}


def test_a_bucket_that_is_not_there_is_named(scene: Scene) -> None:
    machine = scene.machine("one")
    machine.symbol_path = f"srv*{machine.store}*s3://nowhere*{scene.upstream.url}"
    done = machine("check", machine.wanted)
    assert done.returncode == 3
    assert "s3://nowhere: the bucket cannot be asked: there is no such bucket" in done.stderr
    done = machine("warm", machine.wanted)
    assert done.returncode == 0
    assert "s3://nowhere: there is no such bucket; nothing is brought there" in done.stderr


@pytest.mark.parametrize(
    ("symbol_path", "variables", "said"),
    [
        ("srv*{}*s3://b", {"AWS_ENDPOINT_URL": f"ftp://me:{SECRETS[0]}@h"}, ""),
        ("srv*{}*s3://b", {"AWS_PROFILE": "none"}, "AWS profile none: there is no such profile"),
        ("srv*{}*s3://me:" + SECRETS[0] + "@b", {}, "credentials are found in the environment"),
        ("srv*{}*az://b", {"AZURE_STORAGE_ACCOUNT_KEY": f"{SECRETS[0]}!"}, "the bucket cannot be opened"),
    ],
    ids=["endpoint", "profile", "credentials in the path", "key"],
)
def test_settings_that_cannot_be_used_are_named_and_not_shown(
    symbol_path: str, variables: dict[str, str], said: str, scene: Scene
) -> None:
    machine = scene.machine("one")
    machine.symbol_path = symbol_path.format(machine.store)
    machine.env |= variables
    for command in ("warm", "check"):
        done = machine(command, machine.wanted)
        assert done.returncode in ({2} if said else {1, 2, 3})
        assert said in done.stderr


def test_an_interrupted_run_ends_though_the_bucket_is_silent(scene: Scene) -> None:
    machine = scene.machine("one")
    scene.relay.fault = Fault(silent=True)
    with start("warm", machine.wanted, "-y", machine.symbol_path, env=machine.env) as process:
        scene.relay.await_requests(1)
        interrupt(process)
        out, err = process.communicate(timeout=9)  # silence is borne for ten seconds
    assert process.returncode == 130, err
    show_nothing(out, err)
    assert "Traceback" not in err
    scene.relay.fault = None
    assert machine("warm", machine.wanted).returncode == 0
    assert scene.held() == FILES


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_interrupted_check_ends_though_the_bucket_is_silent(method: str, scene: Scene) -> None:
    machine = scene.machine("one")
    for index, content in FILES.items():
        obstore.put(scene.bucket.open(), index, content)
    scene.relay.fault = Fault(methods={method}, silent=True)
    with start("check", machine.wanted, "-y", machine.symbol_path, env=machine.env) as process:
        scene.relay.await_requests(1, method)
        interrupt(process)
        out, err = process.communicate(timeout=9)
    assert process.returncode == 130, err
    show_nothing(out, err)
    scene.relay.fault = None


def test_a_run_asks_a_bucket_once_for_each_file(scene: Scene) -> None:
    machine = scene.machine("one")
    for index, content in FILES.items():
        obstore.put(scene.bucket.open(), index, content)
    assert machine("warm", machine.wanted).returncode == 0
    assert sorted((each.method, each.path) for each in scene.relay.requests) == sorted(
        ("GET", f"/{scene.bucket.name}/{index}") for index in FILES
    )


def test_an_interrupted_run_keeps_what_it_has_though_uploads_are_silent(scene: Scene) -> None:
    machine = scene.machine("one")
    scene.relay.fault = Fault(methods={"PUT"}, silent=True)
    with start("warm", machine.wanted, "-y", machine.symbol_path, env=machine.env) as process:
        scene.relay.await_requests(1, "PUT")
        wait_for(lambda: all((machine.store / index).is_file() for index in FILES))
        interrupt(process)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    show_nothing(out, err)
    assert "Traceback" not in err
    scene.relay.fault = None
    done = machine.json("warm", machine.wanted)
    assert {each["state"] for each in done["symbols"]} == {"present"}


def test_a_cache_for_many_serves_what_the_bucket_has(scene: Scene) -> None:
    need("uvicorn")
    machine = scene.machine("one")
    scene.upstream.files.clear()
    obstore.put(scene.bucket.open(), FIRST.index, PDBS[FIRST])
    bucket = f"[store]\nbucket = '{scene.bucket.url}'\n"
    with serving_process(machine.folder, scene.upstream.url, config=bucket, variables=machine.env) as served:
        answer = fetch(served.port, FIRST.index)
        assert (answer.status, answer.body) == (200, PDBS[FIRST])
        other = list(PDBS)[1]
        assert fetch(served.port, other.index).status == 404
        show_nothing("\n".join(served.said))
    assert scene.relay.counts()["GET", f"/{scene.bucket.name}/{FIRST.index}"] == 1


def test_a_bucket_is_a_symbol_store_for_a_web_server_and_once_it_is_unpacked(
    plain_s3_bucket: Bucket, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.files.update(FILES)
    wanted = tmp_path / "list"
    wanted.write_text("".join(f"{index}\n" for index in FILES))
    filled = run(
        "warm",
        wanted,
        "-y",
        f"srv*{tmp_path / 'a'}*{plain_s3_bucket.url}*{upstream.url}",
        env=plain_s3_bucket.variables(),
    )
    assert filled.returncode == 0, filled.stderr
    # s3rver answers like any web server before a bucket who asks without a signature.
    site = f"{plain_s3_bucket.server.url}/{plain_s3_bucket.name}"
    assert run("warm", wanted, "-y", f"srv*{tmp_path / 'b'}*{site}").returncode == 0
    assert {path.read_bytes() for path in (tmp_path / "b").glob("*.pdb/*/*.pdb")} == set(PDBS.values())
    unpacked, objects = tmp_path / "c", plain_s3_bucket.open()
    for info in [info for page in obstore.list(objects) for info in page]:
        path = unpacked / info["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(obstore.get(objects, info["path"]).bytes()))
    assert run("check", wanted, "-y", f"srv*{unpacked}").returncode == 0
    assert run("store", "verify", "--store", unpacked).returncode == 0
