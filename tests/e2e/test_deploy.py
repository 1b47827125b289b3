"""The files under config/deploy, held to the programs that read them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import pytest
from support.answers import Stall
from support.command import run
from support.nginx import deployed_site
from support.parts import need
from support.serving import Client, fetch, publish, serving, serving_process, wait_for
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.winbindex import Entry, document, full_fields, update
from support.upstream import Upstream

from symcache.cli.app import root
from symcache.config import load_config
from symcache.identity import ImageKey, PdbKey
from symcache.server import hash_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.buckets import Bucket
    from support.serving import Served

DEPLOY = Path(__file__).resolve().parents[2] / "config" / "deploy"
LARGE = publish("large.pdb", 1, payload_bytes=8 << 20)
OTHER = publish("other.pdb", 2)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({LARGE.index: LARGE.content}) as server:
        yield server


@pytest.fixture(params=["nginx", "haproxy"])
def front(request: pytest.FixtureRequest, tmp_path: Path, upstream: Upstream) -> Iterator[int]:
    """The port of a proxy with the settings of ours, in front of a server."""
    if request.param == "nginx":
        with in_front(tmp_path, upstream) as (port, _):
            yield port
    else:
        with (
            serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served,
            haproxy(tmp_path, served.port) as port,
        ):
            yield port


@contextmanager
def haproxy(home: Path, *replicas: int) -> Iterator[int]:
    """Run the HAProxy of config/deploy/replicas in front of servers on those ports; yield its own port."""
    program = need("haproxy")
    config = (DEPLOY / "replicas" / "haproxy.cfg").read_text(encoding="utf-8")
    config = re.sub(r"^    server .*\n", "", config, flags=re.MULTILINE)
    # Names stand for containers there, and there is room for more clients than one process of a test may have.
    for line, ours in (
        (" resolvers containers init-addr last,libc,none\n", "\n"),
        ("maxconn 20000", "maxconn 200"),
        ("log stdout format raw local0", ""),
        ("inter 1s", "inter 100ms"),
    ):
        assert line in config, line
        config = config.replace(line, ours)
    config += "".join(f"    server symcache-{port} 127.0.0.1:{port}\n" for port in replicas)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        assert "bind :8080" in config
        (home / "haproxy.cfg").write_text(config.replace("bind :8080", f"bind fd@{listening.fileno()}"))
        port: int = listening.getsockname()[1]
        command = [program, "-q", "-db", "-f", str(home / "haproxy.cfg")]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or fetch(port, "healthz").status == 200)
        assert process.poll() is None, "it ended"
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def in_front(
    tmp_path: Path, upstream: Upstream, *, sends_files: bool = False, **settings: Any
) -> Iterator[tuple[int, Served]]:
    assert sys.platform != "win32"
    program = need("nginx")
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0, **settings) as served:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        site = deployed_site(f"127.0.0.1:{port}", served.port, served.store if sends_files else None)
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
        config = f"{user} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\nevents {{}}\n"
        config += f"http {{ access_log off; client_body_temp_path {tmp_path}/body; {paths}\n{site}\n}}\n"
        (tmp_path / "nginx.conf").write_text(config, encoding="utf-8")
        command = [program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
        process = subprocess.Popen(command)
        try:
            end_s = time.monotonic() + 30
            while True:
                try:
                    assert fetch(port, "healthz").status == 200
                    break
                except OSError:
                    assert time.monotonic() < end_s, (tmp_path / "error.log").read_text()
                    time.sleep(0.05)
            yield port, served
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)


def test_a_file_is_passed_on_through_a_proxy_while_it_arrives(front: int, upstream: Upstream) -> None:
    stall = Stall(7 << 20)
    upstream.script(LARGE.index, stall)
    with Client(front) as client:
        client.send(f"GET /{LARGE.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.read_head()[0] == 200
        assert client.read_some(4 << 20) == LARGE.content[: 4 << 20]
        stall.release()
        assert client.read_some(len(LARGE.content) - (4 << 20)) == LARGE.content[4 << 20 :]
    assert fetch(front, LARGE.index, {"Range": "bytes=5-9"}).body == LARGE.content[5:10]
    assert fetch(front, OTHER.index).status == 404


def test_what_turns_out_wrong_is_cut_off_through_a_proxy(front: int, upstream: Upstream) -> None:
    upstream.files[OTHER.index] = LARGE.content
    answer = fetch(front, OTHER.index)
    assert not answer.is_whole or answer.status == 502


def test_nginx_sends_the_files_of_the_store_by_itself(tmp_path: Path, upstream: Upstream) -> None:
    pointer = LARGE.index.replace("/large.pdb", "/file.ptr").replace("file.ptr/", "large.pdb/")
    with in_front(tmp_path, upstream, sends_files=True, upload_tokens=(hash_token("token"),)) as (port, served):
        assert fetch(port, LARGE.index).body == LARGE.content  # fetched by symcache
        (served.store / pointer).write_bytes(b"PATH:/etc/passwd")

        asked = 0

        def by_symcache() -> int:
            # A request is counted when it is over, which its client may see before.
            nonlocal asked
            asked += 1
            text = fetch(served.port, "metrics").body.decode()
            counts = re.findall(r"^symcache_responses_total.* (\d+)$", text, re.MULTILINE)
            return sum(int(number) for number in counts) - (asked - 1)

        wait_for(lambda: by_symcache() == 2)
        for prefix in ("", "download/symbols/", "a/b/c/"):
            assert fetch(port, prefix + LARGE.index).body == LARGE.content
        assert fetch(port, LARGE.index, method="HEAD").fields["content-length"] == str(len(LARGE.content))
        part = fetch(port, LARGE.index, {"Range": "bytes=5-9"})
        assert (part.status, part.body, part.fields["content-type"]) == (
            (206, LARGE.content[5:10], "application/octet-stream")
        )
        wait_for(lambda: by_symcache() == 2)
        assert fetch(port, LARGE.index.upper()).body == LARGE.content
        for path in (OTHER.index, pointer, LARGE.packed_index, "000Admin/0/x", ".symcache/ab/.symcache", "-/nothing"):
            assert fetch(port, path).status in {400, 404}, path
        put = {"Authorization": "Bearer token", "Content-Length": str(len(LARGE.content))}
        with Client(port) as client:
            lines = "".join(f"{name}: {value}\r\n" for name, value in put.items())
            head = f"PUT /{LARGE.index} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
            assert client.ask(head + LARGE.content).status == 201
        wait_for(lambda: by_symcache() == 10)


@pytest.mark.parametrize("name", ["symcache.service", "symcache-warm@.service", "symcache-warm@.timer"])
def test_a_unit_is_one_that_systemd_takes(tmp_path: Path, name: str) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    for each in DEPLOY.glob("symcache*"):
        text = each.read_text(encoding="utf-8").replace("/opt/symcache/bin/symcache", "/bin/true")
        # Of a template an instance is verified.
        (tmp_path / each.name.replace("@.", "@11-24H2.")).write_text(text, encoding="utf-8")
    unit = tmp_path / name.replace("@.", "@11-24H2.")
    ran = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "symcache" not in ran.stderr, ran.stderr


def test_the_timer_s_service_warms_for_the_latest_update_of_its_release(tmp_path: Path) -> None:
    text = (DEPLOY / "symcache-warm@.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=/opt/symcache/bin/symcache (.*)$", text, re.MULTILINE)
    image, pdb = ImageKey("ntoskrnl.exe", 1, 0x9000), PdbKey("ntkrnlmp.pdb", UUID(int=1), 1)
    kernel = Entry(full_fields(1, 0x9000), [update("11-24H2", "KB5040435", "26100.1150")])
    files = {
        "by_filename_compressed/ntoskrnl.exe.json.gz": document([kernel]),
        image.index: disk_bytes(plan_image(image, pdb)),
        pdb.index: make_pdb(NativePdbSpec(pdb.guid, pdb.age)),
    }
    with Upstream(files) as server:
        config = tmp_path / "symcache.toml"
        config.write_text(
            f"symbol_path = 'srv*{tmp_path / 'sym'}*{server.url}'\n"
            f"[misses]\nfolder = '{tmp_path / 'misses'}'\n[builds]\n"
            f"cache = '{tmp_path / 'documents'}'\nurl = '{server.url}/by_filename_compressed/NAME.json.gz'\n"
        )
        words = command.replace("/etc/symcache/symcache.toml", str(config)).replace("%i", "11-24H2").split()
        done = run(*words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sym" / pdb.index).is_file()


@contextmanager
def two_replicas(home: Path, upstream: Upstream, *, first_drains_s: int = 0) -> Iterator[tuple[Served, Served]]:
    settings = f"[serve]\nupload_tokens = ['{hash_token('token')}']\n"
    with (
        serving_process(home / "1", upstream.url, config=f"{settings}drain_s = {first_drains_s}\n") as first,
        serving_process(home / "2", upstream.url, config=settings) as second,
    ):
        yield first, second


def test_a_replica_that_is_to_stop_is_left_before_it_does(tmp_path: Path, upstream: Upstream) -> None:
    with (
        two_replicas(tmp_path, upstream, first_drains_s=10) as (first, second),
        haproxy(tmp_path, first.port, second.port) as port,
    ):
        numbers = itertools.count(100)

        def upload() -> int:
            new = publish("new.pdb", next(numbers))  # which nobody may send twice for the client
            fields = {"Authorization": "Bearer token", "Content-Length": str(len(new.content))}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            with Client(port) as client:
                return client.ask(f"PUT /{new.index} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + new.content).status

        assert [upload() for _ in range(30)] == [201] * 30
        wait_for(lambda: _answered(first, "201") and _answered(second, "201"))  # each has its part of the names
        assert first.process is not None
        first.process.send_signal(signal.SIGTERM)
        wait_for(lambda: fetch(first.port, "readyz").status == 503)

        def is_left() -> bool:
            before = _answered(first, "201")
            assert [upload() for _ in range(10)] == [201] * 10
            return _answered(first, "201") == before

        wait_for(is_left)
        assert first.process.poll() is None  # it would still answer
        while first.process.poll() is None:
            assert upload() == 201
        assert first.process.returncode == 0
        assert upload() == 201


def test_what_a_replica_does_not_begin_to_answer_comes_from_another(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall()
    upstream.script(LARGE.index, stall)
    with (
        two_replicas(tmp_path, upstream) as replicas,
        haproxy(tmp_path, replicas[0].port, replicas[1].port) as port,
        Client(port) as client,
    ):
        client.send(f"GET /{LARGE.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stall.reached.wait()
        asked = [
            each for each in replicas if "symcache_requests_in_flight 2" in fetch(each.port, "metrics").body.decode()
        ]
        assert len(asked) == 1
        assert asked[0].process is not None
        asked[0].process.kill()
        assert client.read().body == LARGE.content
        for number in range(50):  # of which half are usually asked of the other one
            assert fetch(port, f"none.pdb/{number:032X}1/none.pdb").status == 404
        asked[0].process.wait()


def test_the_counts_of_replicas_are_not_for_everybody(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, upstream=upstream.url) as served, haproxy(tmp_path, served.port) as port:
        for path in ("metrics", "%6Detrics", "metrics?x=1"):
            assert b"symcache_" not in fetch(port, path).body, path


def _answered(served: Served, status: str) -> int:
    text = fetch(served.port, "metrics").body.decode()
    return sum(
        int(count) for count in re.findall(rf'^symcache_responses_total.*"{status}".* (\d+)$', text, re.MULTILINE)
    )


def test_the_container_runs_the_command_as_it_is() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    compose = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert f"command: {command}" in compose
    options = re.findall(r'"(--[a-z-]+)"', command)
    helped = subprocess.run(
        [sys.executable, "-m", "symcache", "serve", "--help"], capture_output=True, text=True, check=True, cwd=DEPLOY
    )
    assert all(option in helped.stdout for option in options)


COMPOSE = DEPLOY / "replicas" / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
_DEPLOYED = pytest.mark.parametrize("folder", ["replicas", "kubernetes"])
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def _documents(path: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="yaml is not installed")
    found: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return found


def _compose() -> dict[str, Any]:
    (document,) = _documents(COMPOSE)
    return document


def _kubernetes(kind: str) -> dict[str, Any]:
    resources = [each for path in sorted(KUBERNETES.glob("*.yaml")) for each in _documents(path)]
    (found,) = (each for each in resources if each["kind"] == kind)
    return found


def _pod() -> dict[str, Any]:
    found: dict[str, Any] = _kubernetes("Deployment")["spec"]["template"]["spec"]
    return found


def _settings(folder: str) -> dict[str, Any]:
    return tomllib.loads((DEPLOY / folder / "symcache.toml").read_text(encoding="utf-8"))


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def _seconds(duration: str) -> int:
    assert re.fullmatch(r"\d+s", duration), duration
    return int(duration[:-1])


@_DEPLOYED
def test_the_settings_of_replicas_are_symcache_s(folder: str) -> None:
    config = load_config(DEPLOY / folder / "symcache.toml", {})
    assert config.store.bucket == "s3://symbols"
    assert config.cluster.url == "redis://redis:6379/0"
    assert config.serve.drain_s >= 10
    assert config.serve.largest_store_bytes


@_DEPLOYED
def test_the_command_of_a_replica_is_symcache_s(folder: str) -> None:
    if folder == "replicas":
        commands = [service["command"] for service in _compose()["services"].values() if service["image"] == "symcache"]
        assert len(commands) == 2
    else:
        commands = [container["args"] for container in _pod()["containers"]]
    for name, *arguments in commands:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        said = command.make_context(name, arguments).params
        assert (said["host"], said["port"]) == ("0.0.0.0", 8080)


@_DEPLOYED
def test_a_replica_has_time_to_end_what_it_sends(folder: str) -> None:
    settings = _settings(folder)["serve"]
    if folder == "replicas":
        services = _compose()["services"]
        graces = [_seconds(each["stop_grace_period"]) for each in services.values() if each["image"] == "symcache"]
        haproxy = (DEPLOY / "replicas" / "haproxy.cfg").read_text(encoding="utf-8")
        (interval_s, fall) = re.findall(r"check inter (\d+)s fall (\d+) ", haproxy)[0]
        noticed_s = (int(interval_s) + 3) * int(fall)  # were each answer as late as "timeout check" lets it be
        (hard_stop,) = re.findall(r"hard-stop-after (\d+s)", haproxy)
        assert _seconds(services["front"]["stop_grace_period"]) > _seconds(hard_stop) > settings["stop_s"]
    else:
        graces = [_pod()["terminationGracePeriodSeconds"]]
        probe = _pod()["containers"][0]["readinessProbe"]
        noticed_s = probe["periodSeconds"] * (probe["failureThreshold"] + 1)
        assert not [each for each in _pod()["containers"] if "lifecycle" in each], "the server itself waits"
    assert all(grace > settings["drain_s"] + settings["stop_s"] for grace in graces)
    assert noticed_s < settings["drain_s"]


@_DEPLOYED
def test_what_asks_a_replica_how_it_is_gets_an_answer(tmp_path: Path, upstream: Upstream, folder: str) -> None:
    if folder == "replicas":
        text = COMPOSE.read_text(encoding="utf-8") + (DEPLOY / "replicas" / "haproxy.cfg").read_text(encoding="utf-8")
        paths = re.findall(r"(?:http://127\.0\.0\.1:8080|httpchk GET )(/[a-z]+)", text)
        assert paths == ["/readyz", "/healthz", "/readyz"]
    else:
        (container,) = _pod()["containers"]
        probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness")]
        assert {probe["port"] for probe in probes} <= {port["name"] for port in container["ports"]}
        paths = [probe["path"] for probe in probes]
    with serving(tmp_path, upstream=upstream.url) as served:
        assert [fetch(served.port, path).status for path in paths] == [200] * len(paths)


@_DEPLOYED
def test_no_secret_stands_in_a_file(folder: str) -> None:
    for path in (DEPLOY / folder).iterdir():
        text = path.read_text(encoding="utf-8")
        assert path.suffix != ".env"
        said = re.findall(r"(?im)^[^#\n]*(?:secret|passw|token|access_key)\w*[\"']?[ \t]*[:=][ \t]*(\S+)", text)
        said += re.findall(r"(?im)^[^#\n]*- name: *\w*(?:secret|passw|token|access_key)\w*$", text)
        assert set(said) <= {"false"}, path
        assert not re.search(r"//[^/\s]*:[^/\s]*@", text), path
    ignored = (DEPLOY.parents[1] / ".gitignore").read_text(encoding="utf-8")
    assert "*.env" in ignored.splitlines()


class TestCompose:
    def test_every_file_that_it_names_is_there(self) -> None:
        for service in _compose()["services"].values():
            if "build" in service:
                context = COMPOSE.parent / service["build"]["context"]
                assert (context / service["build"]["dockerfile"]).is_file()
                assert (context / "pyproject.toml").is_file()
            for volume in service.get("volumes", []):
                source, target, *mode = volume.split(":")
                assert target.startswith("/")
                if source.startswith("."):
                    assert (COMPOSE.parent / source).is_file()
                    assert mode == ["ro"]
                else:
                    assert source in _compose()["volumes"]
            assert set(service.get("networks", [])) <= set(_compose()["networks"])

    def test_the_settings_lie_where_the_command_looks(self) -> None:
        for service in _compose()["services"].values():
            if service["image"] == "symcache":
                targets = [volume.split(":")[1] for volume in service["volumes"]]
                assert service["command"][service["command"].index("--config") + 1] in targets
                assert [target for target in targets if target == "/var/lib/symcache"]

    def test_each_replica_has_a_level_of_its_own_and_one_bucket(self) -> None:
        services = _compose()["services"]
        replicas = [each for each in services.values() if each["image"] == "symcache"]
        levels = [volume for each in replicas for volume in each["volumes"] if volume.endswith(":/var/lib/symcache")]
        assert len(set(levels)) == len(replicas) == 2
        (bucket,) = [each for each in services["bucket"]["command"] if each.startswith("-bucket=")]
        assert _settings("replicas")["store"]["bucket"] == f"s3://{bucket.removeprefix('-bucket=')}"
        for each in replicas:
            assert each["environment"]["AWS_ENDPOINT_URL"].startswith("http://bucket:")
            assert each["env_file"] == services["bucket"]["env_file"]
        assert _settings("replicas")["cluster"]["url"].startswith("redis://redis:")

    def test_its_variables_lead_a_replica_to_the_bucket(
        self, tmp_path: Path, upstream: Upstream, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variables = _compose()["x-replica"]["environment"] | {"AWS_ENDPOINT_URL": s3_bucket.server.url}
        keys = re.findall(r"(AWS_\w+)=", COMPOSE.read_text(encoding="utf-8"))  # of which the file that it names is made
        assert keys == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        for name, value in {**variables, **{key: s3_bucket.variables()[key] for key in keys}}.items():
            monkeypatch.setenv(name, value)
        config = f"[store]\nbucket = '{s3_bucket.url}'\n"
        with serving_process(tmp_path, upstream.url, config=config) as served:
            assert fetch(served.port, LARGE.index).body == LARGE.content
            found = s3_bucket.open()
            wait_for(lambda: LARGE.index in [meta["path"] for meta in found.list().collect()])

    def test_haproxy_knows_each_replica(self) -> None:
        text = (DEPLOY / "replicas" / "haproxy.cfg").read_text(encoding="utf-8")
        servers = re.findall(r"^    server (\S+) (\S+):8080$", text, re.MULTILINE)
        replicas = [name for name, each in _compose()["services"].items() if each["image"] == "symcache"]
        assert servers == [(name, name) for name in replicas]

    def test_haproxy_takes_its_settings(self) -> None:
        command = [need("haproxy"), "-c", "-q", "-f", str(DEPLOY / "replicas" / "haproxy.cfg")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # Here is none of the containers that it names.
        said = [line for line in done.stderr.splitlines() if "WARNING" in line or "ALERT" in line]
        assert done.returncode == 0, done.stderr
        assert all("could not resolve address 'symcache-" in line for line in said), done.stderr

    def test_no_service_can_do_more_than_it_must(self) -> None:
        services = _compose()["services"]
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert "healthcheck" in service, name
            assert not {"privileged", "cap_add", "pid", "network_mode", "ipc"} & set(service), name
        assert [name for name, service in services.items() if "ports" in service] == ["front"]
        assert _compose()["networks"]["back"] == {"internal": True}
        assert [name for name, service in services.items() if service["networks"] == ["back"]] == ["redis", "bucket"]

    def test_there_is_room_for_what_an_input_is_expanded_to(self) -> None:
        (scratch,) = _compose()["x-replica"]["tmpfs"]
        assert (
            int(re.findall(r"^/tmp:size=(\d+)g$", scratch)[0]) << 30
            > (_settings("replicas")["serve"]["largest_expanded_bytes"])
        )

    def test_the_program_that_reads_it_takes_it(self, tmp_path: Path) -> None:
        program = need("docker-compose")
        for path in COMPOSE.parent.iterdir():
            shutil.copy(path, tmp_path)
        (tmp_path / "bucket.env").write_text("AWS_ACCESS_KEY_ID=none\n", encoding="utf-8")
        command = [program, "-f", str(tmp_path / "compose.yaml"), "config", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


class TestKubernetes:
    @pytest.mark.parametrize("version", ["1.29", "1.33"])
    def test_the_schemas_of_kubernetes_take_each_resource(self, version: str) -> None:
        schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes_validate is not installed")
        (kustomization,) = _documents(KUBERNETES / "kustomization.yaml")
        for name in kustomization["resources"]:
            for resource in _documents(KUBERNETES / name):
                schemas.validate(resource, version, strict=True)

    def test_the_kustomization_names_every_file_and_no_other(self) -> None:
        (kustomization,) = _documents(KUBERNETES / "kustomization.yaml")
        (settings,) = kustomization["configMapGenerator"]
        named = [*kustomization["resources"], *settings["files"], "kustomization.yaml"]
        assert sorted(named) == sorted(path.name for path in KUBERNETES.iterdir())
        assert [image["name"] for image in kustomization["images"]] == [each["image"] for each in _pod()["containers"]]

    def test_what_refers_to_another_resource_finds_it(self) -> None:
        deployment, pod = _kubernetes("Deployment"), _pod()
        (container,) = pod["containers"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (spread,) = pod["topologySpreadConstraints"]
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            _kubernetes("Service")["spec"]["selector"],
            _kubernetes("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            spread["labelSelector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
        assert {port["targetPort"] for port in _kubernetes("Service")["spec"]["ports"]} == {"http"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys()
        (generated,) = _kubernetes("Kustomization")["configMapGenerator"]
        assert volumes["settings"]["configMap"]["name"] == generated["name"]
        said = container["args"][container["args"].index("--config") + 1]
        assert said == f"{mounts['settings']}/{generated['files'][0]}"

    def test_it_is_updated_without_a_replica_less(self) -> None:
        deployment = _kubernetes("Deployment")["spec"]
        assert deployment["replicas"] >= 2
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert _kubernetes("PodDisruptionBudget")["spec"]["minAvailable"] < deployment["replicas"]

    def test_its_pods_fit_the_restricted_standard(self) -> None:
        pod = _pod()
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        user = re.findall(r"useradd .*--uid (\d+)", (DEPLOY / "Containerfile").read_text(encoding="utf-8"))
        assert [str(pod["securityContext"]["runAsUser"])] == user
        assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {"configMap", "emptyDir"}

    def test_its_volumes_have_room_for_what_the_settings_allow(self) -> None:
        limits = {each["name"]: each["emptyDir"]["sizeLimit"] for each in _pod()["volumes"] if "emptyDir" in each}
        settings = _settings("kubernetes")
        arrives = settings["serve"]["prune_every_s"] * 125_000_000 + settings["network"]["largest_file_bytes"]
        assert _bytes(limits["local"]) > settings["serve"]["largest_store_bytes"] + arrives
        assert _bytes(limits["scratch"]) > settings["serve"]["largest_expanded_bytes"]
        asked = _pod()["containers"][0]["resources"]["requests"]["ephemeral-storage"]
        assert _bytes(asked) >= sum(_bytes(limit) for limit in limits.values())
