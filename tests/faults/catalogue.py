"""Everything that an upstream can do wrong, by name: what `faults.upstream` draws from.

What symcache cannot see is left out: a file of the right key and length whose other bytes were flipped on the way. No
PDB, image or server of symbols has a checksum over all of a file, so that TLS alone guards it.
"""

from __future__ import annotations

import gzip
import itertools
import threading
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from support.answers import SIGNATURE, busy, chunked, cut, file, gzipped, page, raw, redirect, signed, slow, status
from support.authority import Authority
from support.sources import cabinet
from support.upstream import Upstream
from support.wire import Listener, closed_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from pathlib import Path
    from typing import TypeAlias

    from support.answers import Answer
    from support.upstream import Exchange

__all__ = [
    "CUT",
    "ENDLESS",
    "FAMILIES",
    "FAULTS",
    "POINTER_FAULTS",
    "RANGE_FAULTS",
    "SIGNATURE",
    "Fault",
    "Scenery",
    "is_applicable",
]

CUT = "a body that is cut"
"""What makes symcache ask for the rest."""

_HOLD_S = 20.0  # beyond every bound that a run has
_CRUMB_S = 0.05
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_OK = b"HTTP/1.1 200 OK\r\n"


class Scenery:
    """What faults need beside the upstream: other servers, other files, an authority.

    Attributes:
        upstream: The server that misbehaves.
        others: Contents of files that are not the one asked for, by kind.
        aged: The file at a path with another age or stamp, else the same.
    """

    def __init__(
        self,
        stack: ExitStack,
        upstream: Upstream,
        others: dict[str, bytes],
        aged: Callable[[str], bytes],
        bundle: Path,
    ) -> None:
        self.upstream = upstream
        self.others = others
        self.aged = aged
        authority, stranger = Authority(), Authority("Example inspection")
        authority.write_bundle(bundle)
        began, ended = datetime(2020, 1, 2, tzinfo=UTC), datetime(2021, 3, 4, tzinfo=UTC)
        contexts = {
            "good": authority.context_for("localhost"),
            "expired": authority.context_for("localhost", not_before=began, not_after=ended),
            "for another host": authority.context_for("other.example"),
            "of an unknown authority": stranger.context_for("localhost"),
        }
        # All of them serve what the upstream serves.
        files = upstream.files
        self.fronts = {name: stack.enter_context(Upstream(tls=context)) for name, context in contexts.items()}
        self.neighbour = stack.enter_context(Upstream())
        for each in [*self.fronts.values(), self.neighbour]:
            each.files = files
        for code in (429, 503):
            self.neighbour.always(f"busy{code}", busy(10**9, code=code))
        self.neighbour.always("signed", status(403))
        self.neighbour.always("signin", page())
        self.fronts["good"].always("to-http", redirect(f"http://localhost:{self.neighbour.port}/busy429"))
        self.refusing_port = stack.enter_context(closed_port())
        self.rude = {name: Listener(serve) for name, serve in _RUDE.items()}
        for listener in self.rude.values():
            stack.callback(listener.close)

    def front(self, name: str) -> str:
        """Return the URL of a TLS server, by its host's name."""
        return f"https://localhost:{self.fronts[name].port}"


def _say_plain(connection: socket.socket) -> None:
    connection.sendall(_OK + b"Content-Length: 0\r\n\r\n")
    connection.recv(1 << 16)


def _keep_silent(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def _cut_hello(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"\x16\x03\x03\x00\x7a\x02\x00")  # half of a server's hello


_RUDE: dict[str, Callable[[socket.socket], None]] = {
    "plain text": _say_plain,
    "silence": _keep_silent,
    "half a hello": _cut_hello,
}

Play: TypeAlias = "Callable[[Exchange, Scenery], None]"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with one answer.

    Attributes:
        play: Gives the answer.
        needs_file: Only for a path where there is a file.
    """

    play: Play
    needs_file: bool = False


def _just(answer: Answer, *, needs_file: bool = False) -> Fault:
    return Fault(lambda exchange, _: answer(exchange), needs_file)


def _of(make: Callable[[Scenery], Answer]) -> Fault:
    return Fault(lambda exchange, scenery: make(scenery)(exchange))


def _at_path(make: Callable[[Exchange, Scenery], Answer]) -> Fault:
    return Fault(lambda exchange, scenery: make(exchange, scenery)(exchange), needs_file=True)


def _bytes_of(exchange: Exchange, scenery: Scenery) -> bytes:
    """Return the file that was asked for; another one where there is none."""
    content = exchange.content
    return content if isinstance(content, bytes) else scenery.others["pdb"]


def _counted(exchange: Exchange, pieces: Iterable[bytes], pause_s: float = 0.0) -> None:
    """Send *pieces* as they are until the client has enough, counted as body bytes."""
    never = threading.Event()
    for piece in pieces:
        exchange.raw(piece)
        exchange.request.sent_bytes += len(piece)
        if pause_s:
            exchange.pause(never, at_most_s=pause_s)
        elif exchange.upstream.closing:
            break
    exchange.hang_up()


def _endless(begin: Callable[[bytes], bytes], piece: bytes, pause_s: float = 0.0) -> Fault:
    """Begin with what *begin* makes of the file, and go on with *piece* for ever."""

    def play(exchange: Exchange, scenery: Scenery) -> None:
        exchange.request.status = 200
        _counted(exchange, itertools.chain([begin(_bytes_of(exchange, scenery))], itertools.repeat(piece)), pause_s)

    return Fault(play)


def _plain_head(content_length: int | None) -> bytes:
    length = b"" if content_length is None else b"Content-Length: %d\r\n" % content_length
    return _OK + length + b"Connection: close\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_CHUNKED_HEAD = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_GZIP_HEAD = _OK + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
_ZEROS = bytes(64 * _KIB)


def _zero_bomb() -> bytes:
    """Return 64 MiB of zeros in 64 KiB of deflate's blocks, which may be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(64 * _MIB)) + packer.flush(zlib.Z_FULL_FLUSH)


def _gzip_start(data: bytes) -> bytes:
    """Return *data* in gzip's format, to be continued."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)


def _partial_head(exchange: Exchange, scenery: Scenery) -> None:
    exchange.raw(_OK + b"Content-Length: 10\r\nContent-Ty")
    del scenery


def _then_silent(begin: Play) -> Fault:
    def play(exchange: Exchange, scenery: Scenery) -> None:
        begin(exchange, scenery)
        exchange.await_disconnect(_HOLD_S)

    return Fault(play)


def _then_reset(begin: Play) -> Fault:
    def play(exchange: Exchange, scenery: Scenery) -> None:
        begin(exchange, scenery)
        exchange.reset()

    return Fault(play)


def _half_body(exchange: Exchange, scenery: Scenery) -> None:
    content = _bytes_of(exchange, scenery)
    exchange.head(200, length=len(content))
    exchange.body(content[: len(content) // 2])


def _all_but_one(exchange: Exchange, scenery: Scenery) -> None:
    content = _bytes_of(exchange, scenery)
    exchange.head(200, length=len(content))
    exchange.body(content[:-1])


def _refuse(exchange: Exchange, scenery: Scenery) -> None:
    scenery.upstream.refuse(0.15)
    exchange.reset()


def _whole(head: Callable[[bytes], bytes], body: Callable[[bytes], bytes] = lambda content: content) -> Fault:
    """Send a head and body of one's own making, then hang up."""

    def play(exchange: Exchange, scenery: Scenery) -> None:
        content = _bytes_of(exchange, scenery)
        sent = head(content) + body(content)
        exchange.request.sent_bytes += len(sent)
        raw(sent)(exchange)

    return Fault(play)


def _fields(*lines: bytes) -> Fault:
    """Send the file with these fields, ``%d`` being its length."""
    text = b"\r\n".join([*lines, b"Connection: close", b"", b""])
    return _whole(lambda content: _OK + text.replace(b"%d", b"%d" % len(content)))


def _other(kind: str) -> Fault:
    return _of(lambda scenery: file(scenery.others[kind]))


def _other_mix(exchange: Exchange, scenery: Scenery) -> Answer:
    content = _bytes_of(exchange, scenery)
    # Of an image or a portable PDB the beginning is all that can be told from another.
    start = 2048 if content.startswith(b"Micr") else 0
    return file(content[:start] + scenery.others["pdb"][start:])


def _forever_redirect(exchange: Exchange, scenery: Scenery) -> None:
    at = int(exchange.request.query or 0)
    redirect(f"{exchange.request.path}?{at + 1}")(exchange)
    del scenery


_DECLARED = 8 * _GIB

ENDLESS: dict[str, Fault] = {
    "no length, right beginning, no end": _endless(lambda content: _plain_head(None) + content, _ZEROS),
    "8 GiB announced, right beginning, no end": _endless(lambda content: _plain_head(_DECLARED) + content, _ZEROS),
    "chunks, right beginning, no end": _endless(lambda content: _CHUNKED_HEAD + _chunk(content), _chunk(_ZEROS)),
    "no length, half of the file, then zeros": _endless(
        lambda content: _plain_head(None) + content[: len(content) // 2], _ZEROS
    ),
    "no length, nothing but zeros": _endless(lambda _: _plain_head(None), _ZEROS),
    "8 GiB announced, nothing but zeros": _endless(lambda _: _plain_head(_DECLARED), _ZEROS),
    "8 GiB announced, a cabinet's beginning": _endless(
        lambda content: _plain_head(_DECLARED) + cabinet(content), _ZEROS
    ),
    "no length, a cabinet's beginning, no end": _endless(lambda content: _plain_head(None) + cabinet(content), _ZEROS),
    "no length, a portable PDB's beginning, no end": _endless(
        lambda content: _plain_head(None) + b"BSJB" + content[4:], _ZEROS
    ),
    "a page without an end": _endless(lambda _: _plain_head(None) + b"<!-- ", b"x" * 4096),
    "gzip: right beginning, then a bomb": _endless(lambda content: _GZIP_HEAD + _gzip_start(content), _zero_bomb()),
    "gzip: a bomb": _endless(lambda _: _GZIP_HEAD + _gzip_start(b""), _zero_bomb()),
    "gzip: whole, then garbage without an end": _endless(
        lambda content: _GZIP_HEAD + gzip.compress(content, 1), b"x" * 4096
    ),
    "gzip: whole, then a trickle": _endless(lambda content: _GZIP_HEAD + gzip.compress(content, 1), b"x", _CRUMB_S),
    "gzip: blocks that hold nothing": _endless(lambda _: _GZIP_HEAD + _gzip_start(b""), b"\x00\x00\x00\xff\xff" * 1024),
    "fields without an end": _endless(lambda _: _OK, b"X-Filler: " + b"x" * 1000 + b"\r\n"),
    "a field without an end": _endless(lambda _: _OK + b"X-Filler: ", b"x" * 1000),
    "a status line without an end": _endless(lambda _: b"HTTP/1.1 200 ", b"x" * 1000),
    "a flood of interim answers": _endless(lambda _: b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 10),
    "a chunk extension without an end": _endless(lambda _: _CHUNKED_HEAD + b"1;", b"x" * 1000),
    "trailers without an end": _endless(
        lambda content: _CHUNKED_HEAD + _chunk(content) + b"0\r\n", b"X-Filler: " + b"x" * 1000 + b"\r\n"
    ),
    "a head that trickles": _endless(lambda _: _OK + b"X-Filler: ", b"x", _CRUMB_S),
    "interim answers that trickle": _endless(lambda _: b"", b"HTTP/1.1 100 Continue\r\n\r\n", _CRUMB_S),
    "a body that trickles": _endless(lambda content: _plain_head(len(content)) + content[:200], b"x", _CRUMB_S),
    "blanks that trickle, as before a page": _endless(lambda _: _plain_head(100_000), b" ", _CRUMB_S),
    "chunks of a byte that trickle": _endless(lambda _: _CHUNKED_HEAD, _chunk(b"M"), _CRUMB_S),
    "an error whose body does not end": _endless(lambda _: b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n", _ZEROS),
    "a redirect whose body trickles": _endless(
        lambda _: b"HTTP/1.1 302 Found\r\nLocation: file:///x\r\nContent-Length: 99999\r\n\r\n", b"x", _CRUMB_S
    ),
}
"""Answers without an end: what each costs is measured in bytes and seconds."""

_CONNECTION: dict[str, Fault] = {
    "connections refused for a moment": Fault(_refuse),
    "reset before the head": _just(lambda exchange: exchange.reset()),
    "closed before the head": _just(lambda exchange: exchange.hang_up()),
    "reset within the head": _then_reset(_partial_head),
    "closed within the head": _just(raw(_OK + b"Content-Le")),
    "reset within the body": _then_reset(_half_body),
    "reset before the last byte": _then_reset(_all_but_one),
    "silence before the head": _then_silent(lambda _exchange, _scenery: None),
    "silence within the head": _then_silent(_partial_head),
    "silence within the body": _then_silent(_half_body),
    "silence before the last byte": _then_silent(_all_but_one),
    "a late answer": _at_path(lambda _exchange, _scenery: _late),
}


def _late(exchange: Exchange) -> None:
    exchange.pause(threading.Event(), at_most_s=0.2)
    file()(exchange)


_BODIES: dict[str, Fault] = {
    CUT: _at_path(lambda exchange, s: cut(len(_bytes_of(exchange, s)) // 2)),
    "cut, without tag and ranges": _at_path(
        lambda exchange, s: cut(len(_bytes_of(exchange, s)) // 2, etag=None, ranges=False)
    ),
    "cut, and the length says so": _whole(lambda content: _plain_head(len(content) // 2), lambda c: c[: len(c) // 2]),
    "cut by a byte, and the length says so": _whole(lambda c: _plain_head(len(c) - 1), lambda c: c[:-1]),
    "a length that is too short for what comes": _whole(lambda content: _plain_head(len(content) - 100)),
    "a length that is too long by a byte": _whole(lambda content: _plain_head(len(content) + 1)),
    "no length, and whole": _whole(lambda _: _plain_head(None)),
    "no length, and cut": _whole(lambda _: _plain_head(None), lambda content: content[: len(content) // 2]),
    "whole, and garbage behind it": _at_path(lambda exchange, s: file(_with_garbage(_bytes_of(exchange, s)))),
    "chunks": _just(chunked(), needs_file=True),
    "chunks that are cut": _just(chunked(cut_after=1), needs_file=True),
    "chunks whose sizes lie": _whole(lambda _: _CHUNKED_HEAD, lambda c: b"%x\r\n%s\r\n0\r\n\r\n" % (len(c) + 9, c)),
    "chunks whose sizes are no numbers": _whole(lambda _: _CHUNKED_HEAD, lambda c: b"zz\r\n" + c),
    "a slow body": _at_path(lambda exchange, s: slow(chunk_bytes=1 + len(_bytes_of(exchange, s)) // 8, pause_s=0.02)),
    "empty": _just(status(200)),
    "empty, without a length": _whole(lambda _: _plain_head(None), lambda _: b""),
    "a page": _just(page()),
    "JSON": _just(status(200, b'{"errors":[{"status":404}]}')),
    "text of a miss": _just(status(200, b"Symbol Not Found")),
    "another PDB": _other("pdb"),
    "the same of another age or stamp": _at_path(lambda exchange, s: file(s.aged(exchange.request.path))),
    "another image": _other("image"),
    "a portable PDB": _other("portable"),
    "the beginning of it and the rest of another": Fault(lambda e, s: _other_mix(e, s)(e)),
    "random bytes": _other("noise"),
    "a cabinet that is cut": _at_path(lambda exchange, s: file(cabinet(_bytes_of(exchange, s))[:-500])),
    "a cabinet of another file": _other("cabinet"),
    "a cabinet that is right": _at_path(lambda exchange, s: file(_in_cabinet(_bytes_of(exchange, s)))),
    "a cabinet that is a bomb": _other("bomb"),
    "a cabinet that begins right and is a bomb": _other("grown bomb"),
    "a cabinet that lies about its length": _other("lying cabinet"),
    "a cabinet of nothing but a name": _other("hollow cabinet"),
}


def _with_garbage(content: bytes) -> bytes:
    # An image or a portable PDB may have something behind it.
    return content + bytes(5000) if content.startswith(b"Micr") else content


def _in_cabinet(content: bytes) -> bytes:
    return content if content.startswith(b"MSCF") else cabinet(content)


_STATUS: dict[str, Fault] = {
    **{str(code): _just(status(code)) for code in (203, 204, 300, 304, 400, 401, 403, 405, 407, 408, 416, 418, 425)},
    **{str(code): _just(status(code)) for code in (431, 451, 500, 501, 502, 503, 504, 505, 507, 508, 511, 599, 999)},
    "429": _just(busy()),
    "429, in a second": _just(busy(1)),
    "503, in a second": _just(busy(1, code=503)),
    "503 with a page": _just(page(503)),
    "503, in a date of the past": _just(busy(-1000, code=503, as_date=True)),
    "503, at a time that is none": _just(status(503, headers=[("Retry-After", "soon")])),
    **{
        f"redirect to a server that wants 31 years ({code})": _of(
            lambda s, code=code: redirect(f"http://localhost:{s.neighbour.port}/busy{code}")  # type: ignore[misc]
        )
        for code in (429, 503)
    },
    "206 without a range": _just(status(206, b"x" * 10, headers=[("Content-Range", "bytes 0-9/10")])),
}

_REDIRECTS: dict[str, Fault] = {
    "redirect to itself": _at_path(lambda exchange, _: redirect(exchange.request.path)),
    "redirects without an end": Fault(_forever_redirect),
    "redirect that is followed, to another host": _at_path(
        lambda exchange, s: redirect(f"http://localhost:{s.neighbour.port}{exchange.request.path}")
    ),
    "redirect that is followed, relative": _at_path(lambda exchange, _: _relative(exchange)),
    "redirect that is followed, to https": _at_path(
        lambda exchange, s: redirect(s.front("good") + exchange.request.path, code=307)
    ),
    "redirect that is followed, signed": _at_path(
        lambda exchange, s: redirect(signed(f"http://localhost:{s.neighbour.port}{exchange.request.path}"))
    ),
    "redirect to a signed URL that is refused": _of(
        lambda s: redirect(signed(f"http://localhost:{s.neighbour.port}/signed"))
    ),
    "redirect to a port that refuses": _of(lambda s: redirect(f"http://127.0.0.1:{s.refusing_port}/x")),
    "redirect to http from https": _of(lambda s: redirect(s.front("good") + "/to-http")),
    "redirect to a file": _just(redirect("file:///etc/passwd")),
    "redirect to ftp": _just(redirect("ftp://127.0.0.1/x")),
    "redirect to data": _just(redirect("data:,x")),
    "redirect to nonsense": _just(redirect("http://[::1")),
    "redirect without a place": _just(status(302)),
    "redirect to a sign-in page": _of(lambda s: redirect(f"http://localhost:{s.neighbour.port}/signin")),
    **{
        f"redirect to a certificate {name}": _of(lambda s, name=name: redirect(s.front(name) + "/x"))  # type: ignore[misc]
        for name in ("expired", "for another host", "of an unknown authority")
    },
    **{
        f"redirect to TLS that is {name}": _of(
            lambda s, name=name: redirect(f"https://localhost:{s.rude[name].port}/x")  # type: ignore[misc]
        )
        for name in _RUDE
    },
}


def _relative(exchange: Exchange) -> Answer:
    if exchange.request.query:
        return file()
    return redirect(f"../{exchange.request.path.split('/')[-2]}/{exchange.request.path.split('/')[-1]}?again")


_HEADS: dict[str, Fault] = {
    "not HTTP": _just(raw(b"SSH-2.0-OpenSSH_9.2\r\n")),
    "HTTP/0.9": _whole(lambda _: b""),
    "random bytes for a head": _just(raw(bytes(range(256)) * 4)),
    "a status that is no number": _whole(lambda _: b"HTTP/1.1 OK OK\r\n\r\n"),
    "HTTP/2 frames": _just(raw(b"\0\0\x12\x04\0\0\0\0\0" + bytes(18))),
    "two lengths that differ": _fields(b"Content-Length: %d", b"Content-Length: 7"),
    "two lengths that agree": _fields(b"Content-Length: %d", b"Content-Length: %d"),
    "a length and chunks": _fields(b"Content-Length: %d", b"Transfer-Encoding: chunked"),
    "a length below zero": _fields(b"Content-Length: -1"),
    "a length in words": _fields(b"Content-Length: many"),
    "a length of forty digits": _fields(b"Content-Length: " + b"9" * 40),
    "chunks in chunks": _fields(b"Transfer-Encoding: chunked, chunked"),
    "an unknown transfer encoding": _fields(b"Transfer-Encoding: weird"),
    "a field without a colon": _fields(b"Content-Length: %d", b"nonsense"),
    "a NUL in a field": _fields(b"Content-Length: %d", b"X: a\0b"),
    "a bare line feed in a field": _fields(b"Content-Length: %d", b"X: a\nY: b"),
    "a field of 200 KB": _fields(b"Content-Length: %d", b"X: " + b"x" * 200_000),
    "thousands of fields": _fields(b"Content-Length: %d", *[b"X-%04d: x" % number for number in range(9000)]),
    "101": _just(raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")),
    "an encoding that nobody asked for": _just(status(200, b"x" * 5000, headers=[("Content-Encoding", "br")])),
    "gzip": _just(gzipped(), needs_file=True),
    "gzip that is none": _fields(b"Content-Length: %d", b"Content-Encoding: gzip"),
    "gzip that is cut": _whole(lambda _: _GZIP_HEAD, lambda content: gzip.compress(content, 1)[:-20]),
    "gzip that is damaged": _whole(lambda _: _GZIP_HEAD, lambda c: gzip.compress(c, 1)[:60] + b"\xff" * 50),
    "gzip twice": _whole(lambda _: _GZIP_HEAD, lambda content: gzip.compress(gzip.compress(content, 1), 1)),
    "an answer that was not asked for behind it": _whole(
        lambda c: _OK + b"Content-Length: %d\r\n\r\n" % len(c), lambda c: c + _OK + b"Content-Length: 5\r\n\r\nwrong"
    ),
}

FAMILIES: dict[str, dict[str, Fault]] = {
    "connections that break or fall silent": _CONNECTION,
    "bodies that are cut, wrong or another file": _BODIES,
    "refusals": _STATUS,
    "redirects and TLS": _REDIRECTS,
    "heads and encodings that are none": _HEADS,
    "answers without an end": ENDLESS,
}
FAULTS: dict[str, Fault] = {name: fault for family in FAMILIES.values() for name, fault in family.items()}
"""What may meet any request."""


def _range(
    fields: Callable[[int, int, int], str], *, shift: int = 0, other: bool = False, tag: str | None = None
) -> Fault:
    """Answer a range with 206 and a Content-Range that *fields* makes of its first, last and the whole length."""

    def play(exchange: Exchange, scenery: Scenery) -> None:
        content = _bytes_of(exchange, scenery)
        start = int(exchange.request.headers["range"].removeprefix("bytes=").partition("-")[0])
        source = scenery.others["pdb"] if other else content
        body = source[start + shift :] if start + shift < len(source) else b"x" * 10
        headers = [("Content-Range", fields(start, start + len(body) - 1, len(content)))]
        if tag is not None:
            headers.append(("ETag", tag))
        status(206, body, headers=headers)(exchange)

    return Fault(play)


RANGE_FAULTS: dict[str, Fault] = {
    "206 of another version": _range("bytes {}-{}/{}".format, other=True, tag='"another"'),
    "206 of another length": _range(lambda a, b, size: f"bytes {a}-{b}/{size + 1}"),
    "206 from elsewhere": _range("bytes {}-{}/{}".format, shift=7),
    "206 that says it is from elsewhere": _range(lambda a, b, size: f"bytes {a + 1}-{b + 1}/{size}"),
    "206 without Content-Range": _just(status(206, b"x" * 100)),
    "206 with a Content-Range that is none": _range(lambda *_: "bytes what/ever"),
    "206 of several parts": _just(status(206, b"--x", headers=[("Content-Type", "multipart/byteranges; boundary=x")])),
    "206 that is cut": _at_path(lambda _exchange, _scenery: cut(5)),
    "200 to a range": _just(file(ranges=False), needs_file=True),
    "416 to a range": _just(status(416)),
    "503 to a range": _just(status(503)),
}
"""What may meet a request for the rest of a file."""
FAMILIES["ranges that do not fit"] = RANGE_FAULTS

_PLACES = {
    "a pointer to /etc/passwd": b"PATH:/etc/passwd",
    "a pointer that leads out of its place": b"PATH:{drop}/../../etc/passwd",
    "a pointer to a file that is not there": b"PATH:{drop}/nothing.pdb",
    "a pointer to another file": b"PATH:{drop}/other.pdb",
    "a pointer to a device": b"PATH:/dev/zero",
    "a pointer to a folder": b"PATH:{drop}",
    "an empty pointer": b"",
    "a pointer of many lines": b"a\nb\nc\n" * 100,
    "a pointer that is a file": b"MZ" + bytes(5000),
    "a pointer of a megabyte": b"PATH:" + b"x" * _MIB,
}


def _point(text: bytes) -> Play:
    def play(exchange: Exchange, scenery: Scenery) -> None:
        status(200, text.replace(b"{drop}", scenery.others["drop"]))(exchange)

    return play


POINTER_FAULTS: dict[str, Fault] = {name: Fault(_point(text)) for name, text in _PLACES.items()}
"""What may meet a request for a pointer file."""
FAMILIES["pointer files that lie"] = POINTER_FAULTS


def is_applicable(fault: Fault, exchange: Exchange) -> bool:
    return not fault.needs_file or exchange.content is not None
