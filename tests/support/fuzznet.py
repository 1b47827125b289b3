"""Fuzz targets of what comes over the network: answers of servers and proxies, requests of clients, their settings.

Nothing here opens a connection to another machine: what was fed arrives on streams that are made of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from uvicorn.server import ServerState

from support.authority import Authority
from support.fuzzing import NO_ERRORS, Target, as_text, scratch
from support.serving import publish
from symcache.config import load_config
from symcache.errors import ConfigError, UpstreamError
from symcache.server.app import hash_token, make_server
from symcache.server.request import FileInfo, Loops, Proxies, Request, select
from symcache.server.symbols import FileAsked, MalformedPath, parse_path, read_in_decimal
from symcache.stores.http.auth import Handshake, describe_401, parse_token
from symcache.stores.http.certificates import parse_certificate
from symcache.stores.http.connect import Opened, _ask_for_tunnel, _ask_socks
from symcache.stores.http.proxies import Proxy, matches_no_proxy, parse_proxy, parse_script_answer
from symcache.stores.http.reply import check_status, drain, read_reply, translate
from symcache.stores.http.retry import parse_retry_after
from symcache.stores.http.transport import Http1Transport
from symcache.stores.http.urls import file_url, origin_of, parse_url, redact, redirect_target
from symcache.stores.local.tree import Store

with suppress(ImportError):  # what is imported while an input is parsed counts as its memory
    import_module("spnego")

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["NET_TARGETS"]

_URL = httpx.URL("https://symbols.example/a.pdb/1/a.pdb?x=1")
_SHOWN = "https://symbols.example/a.pdb/1/a.pdb"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    _loop().run_until_complete(coroutine)


class _Stream:
    """What a server or proxy sends: pieces, whose length the first byte says, then the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data[1:]
        self._piece = (data[0] if data else 0) * 8 + 1
        self._at = 0

    def extra(self, _attribute: object) -> object:
        return None

    async def send(self, data: bytes) -> None:
        assert data

    async def receive(self, max_bytes: int = 65536) -> bytes:
        piece = self._data[self._at : self._at + min(self._piece, max_bytes)]
        if not piece:
            raise anyio.EndOfStream
        self._at += len(piece)
        return piece

    async def aclose(self) -> None:
        pass


class _Connector:
    def __init__(self, stream: _Stream, *, is_relayed: bool) -> None:
        proxy = Proxy("http", "proxy", 8080, "user", "secret") if is_relayed else None
        handshake = Handshake("proxy", "user", "secret") if is_relayed else None
        self._opened = Opened(stream, proxy, handshake, proxy)  # type: ignore[arg-type]  # as much of a stream as is used
        self._opens = 0

    async def open(self, _request: object, _origin: object) -> Opened:
        self._opens += 1
        assert self._opens < 8
        return self._opened

    async def listen_for_alert(self, _request: object, _origin: object) -> None:
        pass


async def _receive_answer(data: bytes, *, start: int = 0, end: int | None = None, is_relayed: bool = False) -> None:
    transport = Http1Transport(_Connector(_Stream(data), is_relayed=is_relayed), most_idle=0)  # type: ignore[arg-type]
    request = httpx.Request("GET", _URL, extensions={"timeout": {"read": 20.0}})
    received = 0
    try:
        response = await transport.handle_async_request(request)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise translate(error, _SHOWN) from error
    try:
        if response.status_code == 401:
            describe_401(response.headers.get_list("www-authenticate"))
        check_status(response, _SHOWN)
        if response.has_redirect_location:
            await drain(response)
            target = redirect_target(_URL, response.headers["location"], shown=_SHOWN)
            assert target.scheme == "https"
            origin_of(target)
            return
        reply = read_reply(response, _SHOWN, start, end)
        if reply.is_miss:
            await drain(response)
            return
        assert reply.status in {200, 206}
        async for piece in reply.chunks():
            received += len(piece)
            if received > 1 << 20:
                break
        assert reply.start == (start if reply.status == 206 else 0)
        await reply.aclose()
    finally:
        await response.aclose()


def _answer(data: bytes) -> None:
    _run(_receive_answer(data))


def _ranged_answer(data: bytes) -> None:
    _run(_receive_answer(data, start=4, end=10))


def _relayed_answer(data: bytes) -> None:
    _run(_receive_answer(data, is_relayed=True))


def _tunnel_answer(data: bytes) -> None:
    proxy = Proxy("http", "proxy", 8080, "user", "secret")
    request = httpx.Request("GET", _URL)
    field: str | None = None
    handshake = Handshake("proxy", "user", "secret")

    async def ask() -> None:
        nonlocal field
        with suppress(anyio.EndOfStream):
            for _ in range(3):
                stream: Any = _Stream(data)
                field = await _ask_for_tunnel(stream, proxy, "symbols.example:443", handshake, field, request)
                if field is None:
                    return

    _run(ask())


def _socks_answer(data: bytes) -> None:
    kind = ("socks5", "socks5h", "socks4", "socks4a")[(data[0] if data else 0) % 4]
    proxy = Proxy(kind, "127.0.0.1", 1080, "user" if data[:1] > b"\x80" else None, "secret")
    stream: Any = _Stream(b"\xff" + data[1:])

    async def ask() -> None:
        with suppress(anyio.EndOfStream, anyio.IncompleteRead):
            await _ask_socks(stream, proxy, "127.0.0.1", 443, httpx.Request("GET", _URL))

    _run(ask())


_HEAD = b"HTTP/1.1 %b\r\n%b\r\n\r\n%b"


def _answers() -> list[bytes]:
    rows = (
        (b"200 OK", b'Content-Length: 5\r\nETag: "x"\r\nAccept-Ranges: bytes', b"MZabc"),
        (b"200 OK", b"Transfer-Encoding: chunked", b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"),
        (
            b"200 OK",
            b"Content-Encoding: gzip\r\nContent-Length: 23",
            b"\x1f\x8b\x08\0\0\0\0\0\0\3KLJ\6\0\xc2A$5\3\0\0\0",
        ),
        (b"206 Part", b"Content-Range: bytes 4-9/20\r\nContent-Length: 6\r\nLast-Modified: x", b"abcdef"),
        (b"302 Found", b"Location: /other?sig=1\r\nContent-Length: 0", b""),
        (b"503 No", b"Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nProxy-Status: symcache; error=x", b""),
        (b"429 No", b"Retry-After: 120\r\nContent-Length: 0", b""),
        (b"401 No", b'WWW-Authenticate: Basic realm="x", Digest realm="y", nonce="z"\r\nContent-Length: 0', b""),
        (b"404 No", b"Content-Type: text/html", b"<html>"),
        (b"200 OK", b"X: y", b"<!DOCTYPE html><html>"),
    )
    return [b"\x0a" + _HEAD % row for row in rows] + [b"\0HTTP/1.1 100 Continue\r\n\r\n" + _HEAD % rows[0]]


def _refusals() -> list[bytes]:
    digest = b'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256\r\nContent-Length: 0'
    basic = b'Proxy-Authenticate: Basic realm="r"\r\nContent-Length: 2'
    refused = [_HEAD % (b"407 No", digest, b""), _HEAD % (b"407 No", basic, b"no"), _HEAD % (b"502 No", b"X: y", b"")]
    yes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    return [b"\xff" + each for each in refused] + [b"\1" + yes, b"\xff" + refused[0] + yes]


# The server.

_TOKEN = "a-long-token"
_MOST_TURNS = 200


class _Wire:
    """asyncio's transport of one connection, as much of it as a server's protocol uses; what is sent is kept."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._there.setblocking(False)
        self._closing = False
        self.lost: Callable[[], object] = lambda: None
        self.sent = b""

    def get_extra_info(self, name: str, default: object = None) -> object:
        known = {"socket": self._here, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}
        return known.get(name, default)

    def write(self, data: bytes) -> None:
        self.sent += data

    def take(self) -> bytes:
        with suppress(BlockingIOError):
            while piece := self._there.recv(1 << 16):
                self.sent += piece
        return self.sent

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            asyncio.get_running_loop().call_soon(self.lost)
        self._closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def set_protocol(self, protocol: object) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def end(self) -> None:
        self._here.close()
        self._there.close()


class _Errors(logging.Handler):
    """What the server logs as an error: nothing that a client sends may be one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        self.texts.append(f"{record.getMessage()}: {error!r}")


class _Server:
    """The server without its sockets: an application that has started, and protocols for connections to it."""

    def __init__(self) -> None:
        home = scratch() / "server"
        self.file = publish("app.pdb", 1, payload_bytes=500)
        with Store(home / "store", locking="lease") as store:
            part = store.scratch()
            part.write_bytes(self.file.content)
            store.publish(part, self.file.key, durable=False)
        config = load_config(None, {}, symbol_path=f"srv*{home / 'store'}")
        tables: dict[str, dict[str, Any]] = {
            "misses": {"folder": home / "misses"},
            "store": {"durable": False, "folder": home / "store", "locks": "lease"},
            "serve": {
                "upload_tokens": (hash_token(_TOKEN),),
                "trusted_proxies": ("127.0.0.1",),
                "access_log": str(home / "log"),
            },
        }
        config = replace(config, **{name: replace(getattr(config, name), **keys) for name, keys in tables.items()})
        self._server = make_server(config, "fuzz")
        self._config = self._server.config
        self.errors = _Errors()
        logging.getLogger("uvicorn.error").addHandler(self.errors)
        logging.getLogger("symcache").addHandler(self.errors)
        self._config.load()
        self._state = ServerState()
        self._lifespan: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._task = _loop().create_task(self._live())

    async def _live(self) -> None:
        async def send(message: Any) -> None:
            assert message["type"].endswith("complete"), message
            self._started.set()

        await self._lifespan.put({"type": "lifespan.startup"})
        await self._config.loaded_app({"type": "lifespan"}, self._lifespan.get, send)

    async def ask(self, pieces: list[bytes]) -> bytes:
        """Return what is answered to a client that sends *pieces* and then closes the connection."""
        await self._started.wait()
        wire: Any = _Wire()
        make: Any = self._config.http_protocol_class
        protocol = make(config=self._config, server_state=self._state, app_state={}, _loop=asyncio.get_running_loop())
        protocol.connection_made(wire)
        wire.lost = partial(protocol.connection_lost, None)
        try:
            for piece in pieces:
                if not wire.is_closing():
                    protocol.data_received(piece)
                for _ in range(_MOST_TURNS):
                    await asyncio.sleep(0)
                    if not self._state.tasks:
                        break
            tasks = set(self._state.tasks)
            wire.close()
            await asyncio.sleep(0)
            if tasks:
                await asyncio.wait(tasks, timeout=20)
            assert not self._state.tasks, "a request does not end"
            return bytes(wire.take())
        finally:
            wire.end()


@cache
def _server() -> _Server:
    return _Server()


def _serve(data: bytes) -> None:
    """Whatever a client sends, no request ends in an error of the program."""
    server = _server()
    size = (data[0] if data else 0) * 16 + 1
    body = data[1:]
    answered = b""

    async def ask() -> None:
        nonlocal answered
        answered = await server.ask([body[at : at + size] for at in range(0, len(body), size)])

    server.errors.texts.clear()
    _run(ask())
    assert not server.errors.texts, server.errors.texts
    assert b"HTTP/1.1 500" not in answered


def _requests() -> list[bytes]:
    index = publish("app.pdb", 1, payload_bytes=500).index.encode()
    get = b"GET /%b HTTP/1.1\r\nHost: h\r\n%b\r\n"
    content = publish("app.pdb", 1, payload_bytes=500).content
    put = b"PUT /%b?product=x&version=1&comment=%%41 HTTP/1.1\r\nHost: h\r\n"
    put += b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
    fields = (
        b"",
        b'Range: bytes=0-9\r\nIf-Range: "x"\r\n',
        b'If-None-Match: W/"x", "y"\r\nIf-Modified-Since: Wed, 21 Oct 2026 07:28:00 GMT\r\n',
        b"X-Forwarded-For: 1.2.3.4, 127.0.0.1\r\nVia: 1.1 symcache-other\r\nUser-Agent: Microsoft-Symbol-Server/10\r\n",
        b"If-Match: *\r\nIf-Unmodified-Since: Wed, 21 Oct 2026 07:28:00 -0000\r\nSymbolChecksum: SHA256:00\r\n",
        b"Authorization: Basic dXNlcjpwYXNz\r\nExpect: 100-continue\r\nConnection: close\r\n",
    )
    rows = [get % (index, each) for each in fields]
    rows += [
        get % (path, b"") for path in (b"pingme.txt", b"index2.txt", b"a.pdb/1/file.ptr", b"x/y.dll/5AB380779000/y.dl_")
    ]
    rows += [
        get % (path, b"") for path in (b"metrics", b"status.json?q=a&q=%C3", b"", b"search?q=app&after=x", b"healthz")
    ]
    rows += [put % (index, _TOKEN.encode(), len(content), content), put % (index, b"x", 3, b"abc")]
    rows += [b"POST /warm?x=1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
    return [b"\xff" + row for row in rows] + [b"\xff" + rows[0] + rows[1], b"\3" + rows[0]]


_INFO = FileInfo.of(1000, 1_700_000_000 * 10**9 + 5)
_REQUEST_FIELDS = (
    b"range", b"if-range", b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since",
    b"x-forwarded-for", b"via", b"authorization",
)  # fmt: skip


def _request_fields(data: bytes) -> None:
    """Fields of a request, cut at line ends; each begins with the number of its name."""
    fields = {_REQUEST_FIELDS[line[0] % len(_REQUEST_FIELDS)]: line[1:] for line in data.split(b"\n") if line}
    for info in (_INFO, FileInfo.of(0, 5), FileInfo.of(1000)):
        chosen = select(info, fields)
        assert 0 <= chosen.start <= chosen.stop <= info.size_bytes
        assert chosen.status in {200, 206, 304, 412, 416}
    assert Proxies(("10.0.0.0/8", "::1")).client_of("10.1.2.3", fields) is not None
    loops = Loops("run")
    loops.is_in_one(fields)
    with loops.noting(fields):
        pass
    scope = {"headers": [*fields.items()], "method": "GET", "raw_path": b"/", "query_string": data[:4096]}
    request = Request(scope, None, None)  # type: ignore[arg-type]  # only what it reads of the scope counts
    request.query("q")


def _request_path(data: bytes) -> None:
    asked = parse_path(data)
    if isinstance(asked, FileAsked):
        read_in_decimal(asked)
        asked.key.folded.encode()


# Settings and answers of other kinds.


def _retry_after(data: bytes) -> None:
    seconds = parse_retry_after(as_text(data), now=lambda: 1e9)
    assert seconds is None or 0 <= seconds < 1e13


def _url(data: bytes) -> None:
    text = as_text(data)
    redact(text)
    for make in (parse_url, lambda text: redirect_target(_URL, text, shown=_SHOWN)):
        with suppress(UpstreamError):
            url = make(text)
            origin_of(url)
            assert redact(file_url(url, ["a b.pdb", "1", "a%.pdb"]))


def _proxy_setting(data: bytes) -> None:
    text = as_text(data)
    for route in parse_script_answer(text, "a script", is_chosen=False):
        str(route.proxy)
    matches_no_proxy("10.1.2.3", 443, text.split(","))
    matches_no_proxy("symbols.example", 443, text.split(","))
    str(parse_proxy(text, "network.proxy"))


def _token(data: bytes) -> None:
    token, _ = parse_token(as_text(data), now_s=1e9)
    assert token.isascii()
    assert token.isprintable()


def _challenge(data: bytes) -> None:
    fields = as_text(data).split("\n")
    describe_401(fields)

    async def answer() -> None:
        for schemes in ((), ("basic",)):
            handshake = Handshake("h", "user", "secret", schemes=schemes)
            field = await handshake.answer(fields, method="CONNECT", target="symbols.example:443")
            assert field is None or field.isascii()
            handshake.again("GET", "/a.pdb")

    _run(answer())


def _certificates() -> list[bytes]:
    bundle = scratch() / "ca.pem"
    Authority().write_bundle(bundle)
    return [ssl.PEM_cert_to_DER_cert(bundle.read_text("ascii"))]


_HTTP_WORDS = (
    b"Content-Length: ", b"Transfer-Encoding: chunked", b"Content-Range: bytes ", b"Retry-After: ", b"Location: ",
    b"Content-Encoding: deflate", b"\r\n\r\n", b"HTTP/1.1 206 x\r\n", b"0\r\n\r\n", b"https://",
    b"Proxy-Authenticate: ",
)  # fmt: skip
_REQUEST_WORDS = (
    b"Range: bytes=", b"If-Range: ", b"If-None-Match: ", b"Authorization: Bearer ", b"X-Forwarded-For: ", b"GET /",
    b"PUT /", b"HEAD /", b" HTTP/1.1\r\n", b"file.ptr", b"%2e%2e%2f", b"\r\n\r\n", b"Wed, 21 Oct 0001 07:28:00 -0000",
)  # fmt: skip
_COSTLY = {"most_calls": (150_000, 30_000), "most_s": (1.0, 0.2), "most_bytes": (16 << 20, 1 << 20)}

NET_TARGETS = (
    Target(
        "answer",
        _answer,
        _answers,
        ("stores/http",),
        (UpstreamError,),
        words=_HTTP_WORDS,
        most_bytes=(8 << 20, 1 << 20),
    ),
    Target(
        "answer-range",
        _ranged_answer,
        _answers,
        ("stores/http",),
        (UpstreamError,),
        words=_HTTP_WORDS,
        most_bytes=(8 << 20, 1 << 20),
    ),
    Target(
        "answer-relayed",
        _relayed_answer,
        lambda: _answers() + _refusals(),
        ("stores/http",),
        (UpstreamError,),
        words=_HTTP_WORDS,
        most_bytes=(8 << 20, 1 << 20),
    ),
    Target(
        "proxy-tunnel",
        _tunnel_answer,
        _refusals,
        ("stores/http/connect",),
        (httpx.ProxyError,),
        words=_HTTP_WORDS,
    ),
    Target(
        "proxy-socks",
        _socks_answer,
        lambda: [b"\0\5\0\5\0\0\1\x7f\0\0\1\0\1", b"\x81\5\2\1\0\5\0\0\3\1h\0\1", b"\2\0\x5a\0\0\0\0\0\0"],
        ("stores/http/connect",),
        (httpx.ProxyError,),
    ),
    Target("request", _serve, _requests, ("server",), NO_ERRORS, words=_REQUEST_WORDS, **_COSTLY),  # type: ignore[arg-type]
    Target(
        "request-fields",
        _request_fields,
        lambda: [b'\0bytes=0-9\n\1"x"\n\2W/"x"\n\3*\n\4Wed, 21 Oct 2026 07:28:00 GMT\n\6\x31.2.3.4\n\7x 1.1 a'],
        ("server/request",),
        NO_ERRORS,
        words=_REQUEST_WORDS,
    ),
    Target(
        "request-path",
        _request_path,
        lambda: [b"/x/app.pdb/2DCFE7E3D09648B94C4C44205044422E12/app.pd_", b"/a%20b.dll/5AB380779000/file.ptr"],
        ("server/symbols", "identity"),
        (MalformedPath,),
    ),
    Target(
        "retry-after",
        _retry_after,
        lambda: [b"120", b"Wed, 21 Oct 2026 07:28:00 GMT"],
        ("stores/http/retry",),
        NO_ERRORS,
    ),
    Target(
        "url",
        _url,
        lambda: [b"https://user:secret@h:1/a?sig=1#x", b"//h/a", b"http://[::1%25a]/"],
        ("stores/http/urls",),
        (UpstreamError,),
    ),
    Target(
        "proxy-setting",
        _proxy_setting,
        lambda: [b"PROXY p:8080; SOCKS5 [::1]:1; DIRECT", b"https://u:p@h:1", b"*.a,10.0.0.0/8:443,.b"],
        ("stores/http/proxies",),
        (ConfigError,),
    ),
    Target(
        "token",
        _token,
        lambda: [
            b"abc",
            b"username=u\npassword=x\npassword_expiry_utc=1",
            b'{"token": "x", "expires_on": "2026-01-02"}',
        ],
        ("stores/http/auth",),
        (ValueError,),
        words=(b'"expires_in": ', b"1e999", b"9" * 400, b'"accessToken": "x"', b"0001-01-01"),
    ),
    Target(
        "challenge",
        _challenge,
        lambda: [
            b'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256\nBasic realm="x"',
            b"Negotiate abc\nNTLM",
        ],
        ("stores/http/auth",),
        NO_ERRORS,
    ),
    Target("certificate", parse_certificate, _certificates, ("stores/http/certificates",), (ValueError,)),
)
