"""The command as clients and operators meet it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, cut, slow
from support.parts import wine_lacks
from support.serving import Client, fetch, publish, serving, serving_process, workers
from support.synth.pdb import NativePdbSpec, PublicSymbol, make_pdb
from support.upstream import Upstream

from symcache.identity import ImageKey
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PDB = publish("ntkrnlmp.pdb", 10, age=26)
LARGE = publish("chrome.dll.pdb", 11, payload_bytes=12 << 20)
SYMSRV = "Microsoft-Symbol-Server/10.0.0.0"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream({PDB.index: PDB.content, LARGE.index: LARGE.content}) as server:
        yield server


def http10(path: str, agent: str) -> bytes:
    """Return a request as wine's WinINet sends it for symsrv."""
    lines = [f"GET /{path} HTTP/1.0", f"User-Agent: {agent}", "Host: 127.0.0.1", "Accept-Encoding: gzip"]
    return "\r\n".join(
        [*lines, "Connection: Keep-Alive", "Cache-Control: no-cache", "Pragma: no-cache", "", ""]
    ).encode()


def http11(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET /{path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", ""]).encode()


def test_symsrv_asks_for_a_file_that_is_there_and_one_that_is_not(tmp_path: Path, upstream: Upstream) -> None:
    image = ImageKey("hal.dll", 0x6AA9A872, 0xC000).index
    sequence = [
        ("index2.txt", 404),
        (PDB.index, 200),
        (image, 404),
        (image.replace("/hal.dll", "/hal.dl_").replace("hal.dl_/", "hal.dll/", 1), 404),
        (image.rpartition("/")[0] + "/file.ptr", 404),
    ]
    with serving(tmp_path, upstream=upstream.url) as served:
        for path, status in sequence:
            with Client(served.port) as client:
                answer = client.ask(http10(path, SYMSRV))
                assert answer.status == status, path
                assert answer.fields["connection"] == "close"
                assert "transfer-encoding" not in answer.fields
                assert "content-encoding" not in answer.fields
                assert answer.body == (PDB.content if status == 200 else b"not found\n")
    assert PDB.index.split("/")[1].endswith("1a")  # age 26 as symsrv writes it


def test_lldb_asks_without_naming_itself(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        answer = client.ask(http11(PDB.index, "Accept: */*"))
        assert (answer.status, answer.body) == (200, PDB.content)
        assert client.ask(http11(PDB.index.replace("ntkrnlmp", "other"), "Accept: */*")).status == 404


def test_cle_asks_for_the_cabinet_after_the_file(tmp_path: Path, upstream: Upstream) -> None:
    absent = PDB.index.replace("ntkrnlmp", "absent")
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        assert client.ask(http11(PDB.index, f"User-Agent: {SYMSRV}")).body == PDB.content
        assert client.ask(http11(absent, f"User-Agent: {SYMSRV}")).status == 404
        assert client.ask(http11(absent[:-1] + "_", f"User-Agent: {SYMSRV}")).status == 404


def test_volatility_asks_twice_with_the_age_in_decimal(tmp_path: Path, upstream: Upstream) -> None:
    fields = ("Accept-Encoding: identity", "User-Agent: Python-urllib/3.11", "Connection: close")
    path = f"{PDB.key.name}/{PDB.key.guid.hex.upper()}26/{PDB.key.name}"
    with serving(tmp_path, upstream=upstream.url) as served:
        for _ in range(2):
            with Client(served.port) as client:
                assert client.ask(http11(path, *fields)).body == PDB.content
    assert len([request for request in upstream.requests if request.path.endswith(PDB.index)]) == 1


def test_radare2_asks_for_the_cabinet_first(tmp_path: Path, upstream: Upstream) -> None:
    fields = ("User-Agent: radare2 6.1.8", "Accept: */*", "Connection: close")
    with serving(tmp_path, upstream=upstream.url) as served:
        with Client(served.port) as client:
            answer = client.ask(http11(PDB.packed_index, *fields))
            assert (answer.status, answer.body) == (404, b"not found\n")
        with Client(served.port) as client:
            assert client.ask(http11(PDB.index, *fields)).body == PDB.content


def test_pdbconv_of_volatility_fetches_a_pdb(tmp_path: Path, upstream: Upstream) -> None:
    pytest.importorskip("volatility3", reason="volatility3 is not installed")
    key = PDB.key
    spec = NativePdbSpec(guid=key.guid, age=key.age, publics=(PublicSymbol("KeBugCheck", segment=1, offset=0x10),))
    upstream.files[key.index] = make_pdb(spec)
    script = (
        "import sys, runpy\n"
        "from volatility3.framework import constants\n"
        "constants.SYMBOL_SERVER_URL = sys.argv.pop(1)\n"
        "runpy.run_module('volatility3.framework.symbols.windows.pdbconv', run_name='__main__')\n"
    )
    out = tmp_path / "out.json"
    with serving(tmp_path, upstream=upstream.url) as served:
        wanted = ["-g", f"{key.guid.hex.upper()}{key.age}", "-p", key.name, "-o", str(out)]
        subprocess.run(
            [sys.executable, "-c", script, f"{served.url}/", *wanted], check=True, capture_output=True, cwd=tmp_path
        )
    assert "KeBugCheck" in json.loads(out.read_text())["symbols"]
    assert any(request.path.endswith(key.index) for request in upstream.requests)


def test_workers_and_a_warm_run_make_one_request(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall(6 << 20)
    upstream.script(LARGE.index, stall)
    results: list[bytes] = []
    with serving_process(tmp_path, upstream.url, "--workers", "2") as served:
        manifest = tmp_path / "wanted.txt"
        manifest.write_text(f"{LARGE.key.name},{LARGE.key.id},1\n", encoding="utf-8")
        warm = [sys.executable, "-m", "symcache", "warm", str(manifest), "--config", str(tmp_path / "symcache.toml")]
        readers = [
            threading.Thread(target=lambda: results.append(fetch(served.port, LARGE.index).body)) for _ in range(12)
        ]
        for reader in readers:
            reader.start()
        upstream.await_requests(1)
        with subprocess.Popen([*warm, "-y", f"srv*{served.store}*{upstream.url}"], cwd=ROOT) as process:
            time.sleep(1)
            stall.release()
            assert process.wait(60) == 0
        for reader in readers:
            reader.join()
    assert [hashlib.sha256(body).hexdigest() for body in results] == [hashlib.sha256(LARGE.content).hexdigest()] * 12
    assert len(upstream.requests) == 1


def test_a_second_process_passes_on_what_the_first_one_brings(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall(8 << 20)
    upstream.script(LARGE.index, stall)
    config = "[serve]\nstream_from_bytes = 0\n"
    with (
        serving_process(tmp_path, upstream.url, config=config) as first,
        serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as second,
        Client(first.port) as leader,
        Client(second.port) as follower,
    ):
        leader.send(http11(LARGE.index))
        upstream.await_requests(1)
        follower.send(http11(LARGE.index))
        assert follower.read_head()[0] == 200
        assert follower.read_some(6 << 20) == LARGE.content[: 6 << 20]
        stall.release()
        assert follower.read_some(len(LARGE.content) - (6 << 20)) == LARGE.content[6 << 20 :]
        assert leader.read().body == LARGE.content
    assert len(upstream.requests) == 1


def test_a_second_process_takes_over_from_one_that_is_killed(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall(8 << 20)
    upstream.script(LARGE.index, stall)
    config = "[serve]\nstream_from_bytes = 0\n"
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as second, Client(second.port) as follower:
        with serving_process(tmp_path, upstream.url, config=config) as first, Client(first.port) as leader:
            assert first.process is not None
            leader.send(http11(LARGE.index))
            upstream.await_requests(1)
            follower.send(http11(LARGE.index))
            follower.read_head()
            assert follower.read_some(4 << 20) == LARGE.content[: 4 << 20]
            first.process.kill()
            first.process.wait()
            assert not leader.read().is_whole
        # What it has goes on to be right, although it comes from another download now.
        assert follower.read_some(len(LARGE.content) - (4 << 20)) == LARGE.content[4 << 20 :]
        assert fetch(second.port, LARGE.index).body == LARGE.content
    with Store(tmp_path / "store") as store:
        store.scratch()  # sweeps what the dead one left
    assert list((tmp_path / "store/.symcache").rglob("*.part")) == []


def test_a_server_that_is_killed_leaves_nothing_wrong(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall(8 << 20)
    upstream.script(LARGE.index, stall)
    with serving_process(tmp_path, upstream.url) as served, Client(served.port) as client:
        assert served.process is not None
        client.send(http11(LARGE.index))
        upstream.await_requests(1)
        stall.reached.wait()
        served.process.kill()
        served.process.wait()
        assert not client.read().is_whole
        assert list(served.store.glob("*.pdb/*/*.pdb")) == []
    with serving_process(tmp_path, upstream.url) as served:
        assert fetch(served.port, LARGE.index).body == LARGE.content
    assert list((tmp_path / "store/.symcache").rglob("*.part")) == []


def test_every_worker_answers(tmp_path: Path, upstream: Upstream) -> None:
    with serving_process(tmp_path, upstream.url, "--workers", "2") as served, ExitStack() as stack:
        # All at once, so that no worker takes them all: whoever has taken one that it does not serve keeps it.
        clients = [stack.enter_context(Client(served.port)) for _ in range(24)]
        assert {client.get(PDB.index).status for client in clients} == {200}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_worker_that_dies_is_replaced(tmp_path: Path, upstream: Upstream) -> None:
    with serving_process(tmp_path, upstream.url, "--workers", "2") as served:
        assert served.process is not None
        for worker in workers(served.process.pid)[:2]:
            os.kill(worker, signal.SIGKILL)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                assert fetch(served.port, PDB.index).body == PDB.content
                break
            except (OSError, AssertionError):
                assert time.monotonic() < deadline_s
                time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_workers_end_with_their_parent(tmp_path: Path, upstream: Upstream) -> None:
    with serving_process(tmp_path, upstream.url, "--workers", "2") as served:
        assert served.process is not None
        started = workers(served.process.pid)
        served.process.kill()
        served.process.wait()
        deadline_s = time.monotonic() + 20
        while any(Path(f"/proc/{worker}/fd").exists() for worker in started):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@wine_lacks("resets")
def test_a_stop_in_the_middle_cuts_off_with_a_reset(tmp_path: Path, upstream: Upstream) -> None:
    stall = Stall(8 << 20)
    upstream.script(LARGE.index, stall)
    config = "[serve]\nstop_s = 1\nstream_from_bytes = 0\n"
    with serving_process(tmp_path, upstream.url, config=config) as served, Client(served.port) as client:
        assert served.process is not None
        client.send(http11(LARGE.index))
        client.read_head()
        client.read_some(1 << 20)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        with pytest.raises(ConnectionResetError):
            client.read_some(len(LARGE.content))
    assert list((tmp_path / "store").glob("*.pdb/*/*.pdb")) == []


def test_a_slow_upstream_begins_long_before_it_ends(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script(LARGE.index, slow(chunk_bytes=1 << 20, pause_s=0.05))
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        client.send(http11(LARGE.index))
        client.read_head()
        client.read_some(1)
        (request,) = upstream.asked(LARGE.index)
        assert request.sent_bytes < len(LARGE.content)
        assert client.read_some(len(LARGE.content) - 1) == LARGE.content[1:]


def test_the_command_needs_its_extra(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "from symcache.cli import main\n"
        "main(['serve', '--port', '0', '--store', sys.argv[1]])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 2
    assert "pip install 'symcache[serve]'" in ran.stderr


def test_cut_halfway_upstream_is_resumed_for_everybody(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script(LARGE.index, cut(at=len(LARGE.content) // 2))
    bodies: list[bytes] = []
    with serving(tmp_path, upstream=upstream.url) as served:
        readers = [
            threading.Thread(target=lambda: bodies.append(fetch(served.port, LARGE.index).body)) for _ in range(8)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert bodies == [LARGE.content] * 8
    assert len(upstream.requests) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="a path of Windows is one there")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_start_ends_with_one_line(workers: str) -> None:
    command = [sys.executable, "-m", "symcache", "serve", "--port", "0", "--workers", workers]
    ran = subprocess.run(
        [*command, "-y", r"srv*C:\symbols*http://127.0.0.1:9"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 2
    assert "is a path of Windows" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_plain_folder_can_be_served(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / PDB.key.name).write_bytes(PDB.content)
    with serving(tmp_path, str(tmp_path / "plain")) as served:
        assert fetch(served.port, PDB.index).body == PDB.content
        assert fetch(served.port, LARGE.index).status == 404
        assert fetch(served.port, "-/status").status == 200


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX signal")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_that_comes_while_it_starts_is_heard(tmp_path: Path, workers: str) -> None:
    command = [sys.executable, "-m", "symcache", "serve", "--port", "0", "--workers", workers]
    with subprocess.Popen([*command, "--store", str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert "serving" in process.stderr.readline()
        assert "debuggers" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        # Before its own handlers are in place it may end by the signal as any process does; it must end.
        assert process.wait(30) in {0, -signal.SIGTERM}
