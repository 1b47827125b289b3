"""The files under config/deploy, held to the programs that read them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import Stall
from support.nginx import deployed_site
from support.parts import need
from support.serving import Client, fetch, publish, serving
from support.upstream import Upstream

from symcache.server import hash_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.serving import Served

DEPLOY = Path(__file__).resolve().parents[2] / "config" / "deploy"
LARGE = publish("large.pdb", 1, payload_bytes=8 << 20)
OTHER = publish("other.pdb", 2)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({LARGE.index: LARGE.content}) as server:
        yield server


@pytest.fixture
def nginx(tmp_path: Path, upstream: Upstream) -> Iterator[int]:
    """The port of an nginx with the site of ours, in front of a server."""
    with in_front(tmp_path, upstream) as (port, _):
        yield port


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


def test_a_file_is_passed_on_through_nginx_while_it_arrives(nginx: int, upstream: Upstream) -> None:
    stall = Stall(7 << 20)
    upstream.script(LARGE.index, stall)
    with Client(nginx) as client:
        client.send(f"GET /{LARGE.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.read_head()[0] == 200
        assert client.read_some(4 << 20) == LARGE.content[: 4 << 20]
        stall.release()
        assert client.read_some(len(LARGE.content) - (4 << 20)) == LARGE.content[4 << 20 :]
    assert fetch(nginx, LARGE.index, {"Range": "bytes=5-9"}).body == LARGE.content[5:10]
    assert fetch(nginx, OTHER.index).status == 404


def test_what_turns_out_wrong_is_cut_off_through_nginx(nginx: int, upstream: Upstream) -> None:
    upstream.files[OTHER.index] = LARGE.content
    answer = fetch(nginx, OTHER.index)
    assert not answer.is_whole or answer.status == 502


def test_nginx_sends_the_files_of_the_store_by_itself(tmp_path: Path, upstream: Upstream) -> None:
    pointer = LARGE.index.replace("/large.pdb", "/file.ptr").replace("file.ptr/", "large.pdb/")
    with in_front(tmp_path, upstream, sends_files=True, upload_tokens=(hash_token("token"),)) as (port, served):
        assert fetch(port, LARGE.index).body == LARGE.content  # fetched by symcache
        (served.store / pointer).write_bytes(b"PATH:/etc/passwd")

        def by_symcache() -> int:
            text = fetch(served.port, "metrics").body.decode()
            return sum(int(number) for number in re.findall(r"^symcache_responses_total.* (\d+)$", text, re.MULTILINE))

        before = by_symcache()
        for prefix in ("", "download/symbols/", "a/b/c/"):
            assert fetch(port, prefix + LARGE.index).body == LARGE.content
        assert fetch(port, LARGE.index, method="HEAD").fields["content-length"] == str(len(LARGE.content))
        part = fetch(port, LARGE.index, {"Range": "bytes=5-9"})
        assert (part.status, part.body, part.fields["content-type"]) == (
            (206, LARGE.content[5:10], "application/octet-stream")
        )
        assert by_symcache() == before + 1  # the question itself
        assert fetch(port, LARGE.index.upper()).body == LARGE.content
        for path in (OTHER.index, pointer, LARGE.packed_index, "000Admin/0/x", ".symcache/ab/.symcache", "-/nothing"):
            assert fetch(port, path).status in {400, 404}, path
        put = {"Authorization": "Bearer token", "Content-Length": str(len(LARGE.content))}
        with Client(port) as client:
            lines = "".join(f"{name}: {value}\r\n" for name, value in put.items())
            head = f"PUT /{LARGE.index} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
            assert client.ask(head + LARGE.content).status == 201
        assert by_symcache() == before + 10


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "symcache.service"
    text = (DEPLOY / "symcache.service").read_text(encoding="utf-8")
    unit.write_text(text.replace("/opt/symcache/bin/symcache", "/bin/true"), encoding="utf-8")
    ran = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "symcache.service" not in ran.stderr, ran.stderr


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
