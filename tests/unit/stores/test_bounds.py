"""Time and size have bounds that the file itself sets: what is endless, or hardly moves, is given up."""

from __future__ import annotations

import shutil
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import slow
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig
from support.synth.pdb import NativePdbSpec, make_pdb
from support.wire import Listener, read_head

from symcache.config import ServerEntry
from symcache.formats import glance
from symcache.formats.glance import HEAD_BYTES, limit_of
from symcache.stores.results import Cause, Failed

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.upstream import Exchange, Upstream

MIB = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


def endless(content: bytes) -> Callable[[Exchange], None]:
    """Send *content* without saying how long it is, and then more and more."""

    def answer(exchange: Exchange) -> None:
        exchange.head(200, length=None)
        exchange.body(content)
        while True:
            exchange.body(bytes(64 * 1024))

    return answer


@pytest.mark.parametrize(
    "content",
    [PDB, PDB[:5000], b"MSCF" + CAB[4:], IMAGE, b"not a symbol file at all"],
    ids=["a PDB", "the beginning of a PDB", "a cabinet", "an image", "something else"],
)
async def test_a_body_without_a_length_ends_where_the_file_does(
    content: bytes, upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "_LARGEST_UNKNOWN_BYTES", MIB)
    is_image = content is IMAGE
    key = IMAGE_KEY if is_image else KEY
    upstream.always(key.index, endless(content))
    async with rig.plain(upstream, retries=0) as source:
        outcome = await source.fetch(key)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.WRONG_CONTENT, "longer than it says it is")
    assert upstream.requests[0].sent_bytes < 16 * MIB, "what is in flight, and no more"


async def test_a_trickle_is_given_up_and_asked_for_elsewhere(
    upstream: Upstream, rig: Rig, make_upstream: Callable[..., Upstream]
) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, slow(chunk_bytes=1, pause_s=0.02))
    other = make_upstream({PATH: PDB})
    servers = [ServerEntry(url=each.url, compressed=False, two_tier=False) for each in (upstream, other)]
    path = f"srv*{rig.store}*{upstream.url};srv*{rig.store}*{other.url}"
    options = {"slowest_bytes_per_s": 1000, "slowest_time_s": 0.2, "retries": 4}
    async with rig.source(path, servers=servers, **options) as source:
        with anyio.fail_after(20):
            outcome = await source.fetch(KEY)
    assert "slower than network.slowest_bytes_per_s" in outcome.attempts[0].answer  # type: ignore[union-attr]
    assert len(upstream.asked(PATH)) == 2, "a second silence in a row is the last"
    assert (rig.store / PATH).is_file()


async def test_a_slow_body_may_take_its_time_where_nothing_is_said_against_it(upstream: Upstream, rig: Rig) -> None:
    small = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age))
    upstream.files[PATH] = small
    upstream.always(PATH, slow(chunk_bytes=1 + len(small) // 20, pause_s=0.02))
    async with rig.plain(upstream, slowest_bytes_per_s=0, slowest_time_s=0.05) as source:
        await source.fetch(KEY)
    assert (rig.store / PATH).is_file()


def trickle(data: Iterator[bytes]) -> Listener:
    """Answer each request with *data*, piece by piece, as long as somebody listens."""

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            read_head(stream)
        for piece in data:
            connection.sendall(piece)
            pause.wait(0.02)

    pause = threading.Event()
    return Listener(serve)


def head_letters() -> Iterator[bytes]:
    yield OK + b"X: "
    while True:
        yield b"x"


def interim_answers() -> Iterator[bytes]:
    while True:
        yield b"HTTP/1.1 100 Continue\r\n\r\n"


def chunk_extensions() -> Iterator[bytes]:
    yield OK + b"Transfer-Encoding: chunked\r\n\r\n1;"
    while True:
        yield b"x"


@pytest.mark.parametrize("data", [head_letters, interim_answers, chunk_extensions])
async def test_what_moves_and_brings_nothing_is_a_time_out(data: Callable[[], Iterator[bytes]], tmp_path: Path) -> None:
    rig = Rig(tmp_path)  # httpx's own transport waits for each piece anew
    listener = trickle(data())
    url = f"http://127.0.0.1:{listener.port}"
    entry = ServerEntry(url=url, compressed=False, two_tier=False)
    async with rig.source(f"srv*{rig.store}*{url}", servers=[entry], retries=0, read_timeout_s=0.3) as source:
        with anyio.fail_after(20):
            outcome = await source.fetch(KEY)
    listener.close()
    assert isinstance(outcome, Failed)
    assert outcome.attempts[0].answer.endswith("in time")


async def test_a_file_that_does_not_fit_is_not_begun(
    upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=8 * MIB))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * MIB))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK
    assert upstream.requests[0].sent_bytes < 8 * MIB


@pytest.mark.parametrize("content", [PDB, CAB, IMAGE], ids=["PDB", "cabinet", "image"])
def test_no_limit_is_shorter_than_the_file(content: bytes) -> None:
    assert len(content) <= limit_of(content[:HEAD_BYTES]) < len(content) + 100 * MIB


@given(st.sampled_from([b"", PDB[:64], CAB[:64], IMAGE[:512]]), st.binary(max_size=300))
def test_any_beginning_has_a_limit(start: bytes, rest: bytes) -> None:
    assert limit_of(start + rest) >= 0
