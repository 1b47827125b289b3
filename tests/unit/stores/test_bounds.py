"""Time and size have bounds that the file itself sets: what is endless, or hardly moves, is given up."""

from __future__ import annotations

import gzip
import shutil
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import slow, unframed
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet
from support.synth.cab import Stored, SynthFolder, build_cabinet
from support.synth.pdb import NativePdbSpec, make_pdb, make_pdb2, make_portable_pdb
from support.wire import Listener, read_head

from symcache.config import ServerEntry
from symcache.events import TransferAdvanced
from symcache.formats import glance
from symcache.formats.glance import HEAD_BYTES, limit_of
from symcache.identity import OtherKey
from symcache.stores import check
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


def endless(content: bytes, announced: int | None = None) -> Callable[[Exchange], None]:
    """Send *content* and then more and more; announce a length, or do not say any."""

    def answer(exchange: Exchange) -> None:
        exchange.head(200, length=announced)
        exchange.body(content)
        while True:
            exchange.body(bytes(64 * 1024))

    return answer


PORTABLE, _ = make_portable_pdb(KEY.guid, 1, payload_bytes=5000)


@pytest.mark.parametrize("announced", [None, 1 << 40], ids=["no length", "a length that lies"])
@pytest.mark.parametrize(
    "content",
    [PDB, PDB[:5000], b"MSCF" + CAB[4:], IMAGE, PORTABLE, make_pdb2(1, 1), b"Micr", b"not a symbol file at all"],
    ids=["a PDB", "half a PDB", "a cabinet", "an image", "a portable PDB", "a PDB 2.0", "a letter", "something else"],
)
async def test_a_body_ends_where_the_file_says_it_does(
    content: bytes, announced: int | None, upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 50))
    monkeypatch.setattr(glance, "_LARGEST_UNKNOWN_BYTES", MIB)
    is_image = content is IMAGE
    key = IMAGE_KEY if is_image else KEY
    upstream.always(key.index, endless(content, announced))
    async with rig.plain(upstream, retries=0, largest_file_bytes=1 << 41) as source:
        outcome = await source.fetch(key)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.WRONG_CONTENT, "longer than it says it is")
    assert upstream.requests[0].sent_bytes < 16 * MIB, "what is in flight, and no more"


async def test_a_length_is_not_told_from_a_crumb_of_the_beginning(
    upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "_LARGEST_UNKNOWN_BYTES", MIB)
    large = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=3 * MIB))

    def crumbs(exchange: Exchange) -> None:
        exchange.head(200, length=None)
        exchange.body(large[:10])
        exchange.pause(threading.Event(), at_most_s=0.1)
        exchange.body(large[10:])

    upstream.always(PATH, crumbs)
    async with rig.plain(upstream) as source:
        await source.fetch(KEY)
    assert (rig.store / PATH).read_bytes() == large


async def test_of_what_is_no_symbol_file_little_is_fetched(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = b"no" + bytes(40 * MIB)
    upstream.script(PATH, unframed(b"no" + bytes(40 * MIB)))
    async with rig.plain(upstream) as source:
        for _ in range(2):
            outcome = await source.fetch(KEY)
            assert isinstance(outcome, Failed)
            assert outcome.cause is Cause.WRONG_CONTENT
    received = max(event.received_bytes for event in rig.events if isinstance(event, TransferAdvanced))
    assert received <= 2 * MIB


async def test_a_file_of_another_kind_is_as_long_as_it_is_announced(
    upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "_LARGEST_UNKNOWN_BYTES", MIB)
    key = OtherKey("libc.so.6", "elf-buildid-0123456789abcdef")
    upstream.files[key.index] = b"\x7fELF" + bytes(3 * MIB)
    async with rig.plain(upstream) as source:
        await source.fetch(key)
    assert (rig.store / key.index).stat().st_size == 4 + 3 * MIB


def gzip_without_an_end(begin: bytes, more: bytes, pause_s: float = 0) -> Callable[[Exchange], None]:
    """Send *begin* in gzip's format, without saying how long it is, and then *more* again and again."""

    def answer(exchange: Exchange) -> None:
        exchange.head(200, [("Content-Encoding", "gzip")], length=None)
        exchange.body(begin)
        while True:
            exchange.body(more)
            exchange.pause(threading.Event(), at_most_s=pause_s)

    return answer


EMPTY_BLOCK = b"\0\0\0\xff\xff"


@pytest.mark.parametrize(
    ("begin", "more", "said"),
    [
        (gzip.compress(PDB), bytes(4096), "not encoded as it says"),
        (gzip.compress(PDB)[:10], EMPTY_BLOCK * 1000, "not encoded as it says"),
        (gzip.compress(PDB), b"x", "slower than"),
        (gzip.compress(PDB)[:10], EMPTY_BLOCK, "slower than"),
    ],
    ids=["garbage behind the end", "blocks of nothing", "a trickle behind the end", "a trickle of nothing"],
)
async def test_what_an_encoding_hides_ends_too(
    begin: bytes, more: bytes, said: str, upstream: Upstream, rig: Rig
) -> None:
    trickles = len(more) < 100
    upstream.always(PATH, gzip_without_an_end(begin, more, 0.02 if trickles else 0))
    slowest = 1000 if trickles else 0  # a busy machine is slow, too
    async with rig.plain(upstream, slowest_bytes_per_s=slowest, slowest_time_s=0.2, retries=0) as source:
        with anyio.fail_after(20):
            outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert said in outcome.attempts[0].answer


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


async def test_blanks_that_trickle_are_given_up_before_it_is_known_what_they_begin(
    upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = b" " * 100_000
    upstream.always(PATH, slow(chunk_bytes=1, pause_s=0.02))
    async with rig.plain(upstream, slowest_bytes_per_s=1000, slowest_time_s=0.2, retries=0) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert "slower than network.slowest_bytes_per_s" in outcome.attempts[0].answer
    assert upstream.requests[0].sent_bytes < 1000


async def test_headers_of_an_image_that_trickle_are_given_up(upstream: Upstream, rig: Rig) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.head(206, [("Content-Range", f"bytes 0-4095/{len(IMAGE)}")], length=4096)
        for at in range(4096):
            exchange.body(IMAGE[at : at + 1])
            exchange.pause(threading.Event(), at_most_s=0.02)

    upstream.always(IMAGE_KEY.index, drip)
    async with rig.plain(upstream, slowest_bytes_per_s=1000, slowest_time_s=0.2, retries=0) as source:
        outcome = await source.read_image(IMAGE_KEY)
    assert isinstance(outcome, Failed)
    assert "slower than network.slowest_bytes_per_s" in outcome.attempts[-1].answer
    assert upstream.requests[0].sent_bytes < 4096


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
async def test_what_moves_and_brings_nothing_is_a_time_out(data: Callable[[], Iterator[bytes]], rig: Rig) -> None:
    listener = trickle(data())
    url = f"http://127.0.0.1:{listener.port}"
    entry = ServerEntry(url=url, compressed=False, two_tier=False)
    async with rig.source(
        f"srv*{rig.store}*{url}", servers=[entry], retries=0, connect_timeout_s=0.3, read_timeout_s=0.3
    ) as source:
        with anyio.fail_after(20):
            outcome = await source.fetch(KEY)
    listener.close()
    assert isinstance(outcome, Failed)
    assert outcome.attempts[0].answer.endswith("in time")


@pytest.mark.parametrize(
    ("begin", "said"),
    [(PDB, "longer than it says it is"), (b"", "longer than it says it is")],
    ids=["a PDB's beginning", "zeros"],
)
async def test_a_cabinet_of_more_than_its_file_says_is_not_expanded(
    begin: bytes, said: str, upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glance, "_LARGEST_UNKNOWN_BYTES", MIB)
    sizes: list[int] = []

    def drop(path: Path) -> None:
        sizes.append(path.stat().st_size if path.exists() else 0)
        path.unlink()

    monkeypatch.setattr(check, "drop", drop)
    upstream.files[PATH] = cabinet(begin + bytes(24 * MIB))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.WRONG_CONTENT
    assert said in outcome.attempts[0].answer
    assert max(sizes) < 64 * 1024


async def test_a_cabinet_of_more_than_fits_is_not_expanded(
    upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=8 * MIB))
    upstream.files[PATH] = build_cabinet([SynthFolder([("x", content)], Stored())])
    free = iter([1 << 40])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free, 2 * MIB)))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, "the disk is full" in str(outcome.detail)) == (Cause.DISK, True)


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


@pytest.mark.parametrize(
    "content",
    [PDB, CAB, IMAGE, PORTABLE, make_pdb2(1, 1)],
    ids=["PDB", "cabinet", "image", "portable PDB", "PDB 2.0"],
)
def test_no_limit_is_shorter_than_the_file(content: bytes) -> None:
    assert len(content) <= limit_of(content[:HEAD_BYTES]) < len(content) + 100 * MIB


def test_an_image_behind_a_long_program_for_dos_is_no_file_of_another_kind() -> None:
    stub = bytearray(HEAD_BYTES)
    stub[:2], stub[0x3C:0x40] = b"MZ", (2 * HEAD_BYTES).to_bytes(4, "little")
    assert limit_of(bytes(stub)) >= 64 * MIB


@given(st.sampled_from([b"", PDB[:64], CAB[:64], IMAGE[:512], PORTABLE[:16], PORTABLE[:64]]), st.binary(max_size=300))
def test_any_beginning_has_a_limit(start: bytes, rest: bytes) -> None:
    assert limit_of(start + rest) >= 0
