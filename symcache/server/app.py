"""The application: who may ask, which request goes where, what lives as long as the server; and uvicorn, to run it."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import importlib.util
import ipaddress
import json
import logging
import math
import multiprocessing
import re
import secrets
import signal
import socket
import ssl
import sys
import threading
import time
from base64 import b64decode
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import ConfigError, SymcacheError, UsageError
from symcache.events import Noted
from symcache.server.downloads import Downloads
from symcache.server.maintenance import Maintenance
from symcache.server.metrics import Metrics, Replicas, RequestLog, Sharing
from symcache.server.pages import Pages, publish
from symcache.server.ready import ReadyCheck
from symcache.server.request import NO_STORE, Loops, Proxies, Request, ResponseAborted
from symcache.server.symbols import FileAsked, KnownAnswers, MalformedPath, Mark, Symbols, parse_path
from symcache.server.watching import Watching
from symcache.stores.http.urls import is_loopback
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.source import SymbolSource

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    import httpx

    from symcache.config import Config, Serve
    from symcache.events import Event
    from symcache.server.draining import DrainingServer
    from symcache.server.request import Receive, RequestHeaders, Scope, Send


_COST = 14  # 2**14 rounds of scrypt: 16 MiB and about 50 ms, once for each new pair of name and password
_NO_USER = f"scrypt:{_COST}:{'0' * 32}:{'0' * 64}"
_MOST_REMEMBERED = 4096

_log = logging.getLogger("symcache.serve")


def hash_password(password: str, *, salt: bytes | None = None, cost: int = _COST) -> str:
    """Return what the config file keeps of *password*: ``scrypt:cost:salt:hash``."""
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << cost, r=8, p=1, maxmem=1 << 30, dklen=32)
    return f"scrypt:{cost}:{salt.hex()}:{digest.hex()}"


def hash_token(token: str) -> str:
    """Return what the config file keeps of *token*: it is long and random, so one round is enough."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


_MOST_HOSTS = 64


class Gate:
    """Checks the ``Authorization`` of requests against the hashes in ``[serve]``; *is_open* if every client may ask.

    It checks the ``Host`` as well: a page of a stranger's site, whose name leads to this server a moment after the page
    was loaded, may ask for anything here, but its requests say that name (DNS rebinding).
    """

    def __init__(self, settings: Serve) -> None:
        self._users = dict(user.split(":", 1) for user in settings.users)
        self._tokens = settings.tokens
        self._upload_tokens = settings.upload_tokens
        self.is_open = not self._users and not self._tokens
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._limiter = anyio.Semaphore(2)
        self._names = frozenset(name.lower() for name in (*settings.names, socket.gethostname()))
        # Who listens for others may be called by any name; so may a proxy in front, which is on this machine.
        self._has_names = bool(settings.names) or (is_loopback(settings.host) and not settings.trusted_proxies)
        self._called: set[bytes] = set()

    def is_called(self, headers: RequestHeaders) -> bool:
        """Whether a request is for this server, by its ``Host``: an address, one of its names, or one without a dot."""
        host = headers.get(b"host")
        if not self._has_names or host is None or host in self._called:
            return True
        if not self._is_name(host.decode("latin-1")):
            return False
        if len(self._called) < _MOST_HOSTS:
            self._called.add(host)
        return True

    def _is_name(self, host: str) -> bool:
        name = re.sub(r":[0-9]*$", "", host).lower().removesuffix(".")
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
        # Nobody registers a name without a dot.
        return name in self._names or is_loopback(name) or "." not in name

    def lets_in(self, headers: RequestHeaders) -> bool:
        """Whether a request may be answered, without the slow check of a password not seen before; False if unsure."""
        if self.is_open:
            return True
        shown = headers.get(b"authorization", b"")
        token = _bearer(shown)
        return _is_one_of(token, self._tokens) if token is not None else self._mark(shown) in self._right

    async def check(self, headers: RequestHeaders) -> bool:
        shown = headers.get(b"authorization", b"")
        return self.lets_in(headers) or (bool(shown) and await self._has_right_password(shown))

    def may_upload(self, headers: RequestHeaders) -> bool:
        token = _bearer(headers.get(b"authorization", b""))
        return token is not None and _is_one_of(token, self._upload_tokens)

    async def _has_right_password(self, shown: bytes) -> bool:
        user, password = _basic(shown)
        kept = self._users.get(user)
        async with self._limiter:
            # Computed for unknown names too, so that the time taken does not tell which names exist.
            _, cost, salt, digest = (kept or _NO_USER).split(":")
            said = await to_thread.run_sync(lambda: hash_password(password, salt=bytes.fromhex(salt), cost=int(cost)))
        is_right = kept is not None and hmac.compare_digest(said.rpartition(":")[2], digest)
        if is_right:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right.add(self._mark(shown))
        return is_right

    def _mark(self, shown: bytes) -> bytes:
        """Return what is kept of credentials that were right: a client shows them each time, and scrypt is slow."""
        return hmac.digest(self._secret, shown, "sha256")


def _basic(shown: bytes) -> tuple[str, str]:
    scheme, _, value = shown.partition(b" ")
    if scheme.lower() != b"basic":
        return "", ""
    try:
        user, _, password = b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _bearer(shown: bytes) -> str | None:
    scheme, _, value = shown.partition(b" ")
    return value.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def _is_one_of(token: str, hashes: tuple[str, ...]) -> bool:
    said = hash_token(token)
    return any([hmac.compare_digest(said, each) for each in hashes])  # noqa: C419 - all of them, so that the time taken tells nothing


_SHARE_EVERY_S = 1.0
_RESTART_AFTER_S = 60.0
# A debugger asks for one file after another and waits for each, so a pause may take only part of its patience.
_PAUSE_OF_PATIENCE = 0.25
_BUSY = (b"retry-after", b"2")
_METHODS = (b"allow", b"GET, HEAD")
_CHALLENGE = (b"www-authenticate", b'Basic realm="symcache", charset="UTF-8"')


async def _keep_running(task: Callable[[], Awaitable[None]]) -> None:
    """Run a background task; an error in it is logged, and does not end the server."""
    while True:
        try:
            await task()
        except Exception:  # noqa: BLE001 - the outermost edge of a task that nothing waits for
            _log.exception("a background task failed; it is started again in a minute")
            await anyio.sleep(_RESTART_AFTER_S)
        else:
            return


class App:
    """The shared cache as an ASGI application; it opens stores and network when the server starts up.

    All workers of a server have the same *run*, a random text. *known* and *log* are for `symcache.server.protocol`,
    which answers some requests itself. A *transport* replaces the network, in tests. Whoever sets *is_stopping* is
    about to stop it; until then it says so to load balancers, and answers everything else. Who then stops it sets
    *stops_at_s*, when it has to end, on the clock of `time.monotonic`.
    """

    def __init__(
        self, config: Config, *, run: str = "single", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._config = config
        self._run = run
        self.is_stopping = False
        self.stops_at_s = math.inf
        self._transport = transport
        self._settings = settings = config.serve
        self._metrics = Metrics()
        self._gate = Gate(settings)
        self._loops = Loops(run)
        self.known = KnownAnswers(settings, self._gate, self._loops, self._metrics)
        self.log = RequestLog(self._metrics, Proxies(settings.trusted_proxies), settings.access_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(Request(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with AsyncExitStack() as stack:
                await self._start(stack)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._group.cancel_scope.cancel()
                self._source.give_up_uploads(after_s=self.stops_at_s - time.monotonic())
        except SymcacheError as error:
            _log.error("%s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: AsyncExitStack) -> None:
        config, metrics, settings = self._config, self._metrics, self._settings
        pause_s = min(config.network.longest_backoff_s, settings.patience_s * _PAUSE_OF_PATIENCE)
        source = await stack.enter_async_context(
            SymbolSource(
                replace(config, network=replace(config.network, longest_backoff_s=pause_s)),
                observer=self._observe,
                transport=self._transport,
                tell_end=metrics.fetch_ended,
                keeps_outside=not settings.private_redirects,
            )
        )
        self._group = await stack.enter_async_context(anyio.create_task_group())
        self._downloads = Downloads(source, self._group, recheck_after_s=settings.recheck_misses_s)
        self._symbols = Symbols(source, self._downloads, self.known, settings, metrics)
        own = None if source.store is None else source.store.root / OWN_FOLDER / "serve"
        self._sharing = Sharing(own, self._run)
        replicas = Replicas(source.cluster, self._sharing)
        self._ready = ReadyCheck(source.store, replicas)
        watching = [Watching(source, settings, metrics).run] if settings.watch else []
        maintenance = Maintenance(source, settings, self._sharing, own, *watching)
        self._source = source
        self._pages = Pages(source, settings, self._downloads, metrics, self._sharing, replicas, maintenance)
        stack.callback(self.log.flush)
        for task in (self._share_counts, self.log.run, maintenance.run, partial(replicas.run, self._pages.totals)):
            self._group.start_soon(_keep_running, task)

    def _observe(self, event: Event) -> None:
        if isinstance(event, Noted):
            _log.warning("%s", event.text)
        else:
            self._downloads.observe(event)

    async def _share_counts(self) -> None:
        """Let the other workers know what this one has counted."""
        while True:
            self._sharing.write(self._pages.own_counts())
            await anyio.sleep(_SHARE_EVERY_S)

    async def _answer(self, request: Request) -> None:
        metrics = self._metrics
        metrics.requests += 1
        try:
            if metrics.requests > self._settings.connections and not request.make_room():
                await request.send_text(503, "too many requests at once", _BUSY, kind="refused")
            else:
                await self._route(request)
            if request.is_gone and not request.is_answered:
                await request.leave()
        except ResponseAborted:
            request.kind = "cut"
            raise
        except anyio.get_cancelled_exc_class():
            # The server stops and cannot wait longer: a client must not take what it has for a complete body.
            if request.status and request.connection is not None:
                request.connection.abort()
            request.kind = "cut"
            raise
        finally:
            metrics.requests -= 1
            client = request.scope.get("client")
            self.log.record(request.began_s, client, request, request.status, request.sent_bytes, request.kind)

    async def _route(self, request: Request) -> None:
        if request.raw_path == b"/healthz":
            await request.send_text(200, "ok", kind="page")
            return
        if request.raw_path == b"/readyz":
            request.kind = "page"
            told = await self._ready.tell(is_stopping=self.is_stopping)
            body = json.dumps(told).encode() + b"\n"
            await request.send_whole(200 if told["ready"] else 503, b"application/json", body, [NO_STORE])
            return
        if not self._gate.is_called(request.headers):
            await request.send_text(421, "this server is not called that; serve.names says what it is", kind="refused")
            return
        try:
            asked = parse_path(request.raw_path)
        except MalformedPath:
            await request.send_text(400, "not a path of a file", kind="malformed")
            return
        if request.method == "PUT":
            request.kind = "upload"
            await publish(request, asked, self._source, self._gate, self._config)
        elif not await self._gate.check(request.headers):
            await request.send_text(401, "credentials are needed", _CHALLENGE, kind="unauthorized")
        elif self._loops.is_in_one(request.headers):
            request.kind = "loop"
            _log.warning("a loop: this server asks another one that asks this one; correct one symbol path")
            await request.send_text(508, "this server asks itself by way of another one")
        elif await self._pages.answer(request):
            pass
        elif request.method not in {"GET", "HEAD"}:
            await request.send_text(405, "", _METHODS)
        elif isinstance(asked, FileAsked):
            with self._loops.noting(request.headers):
                await self._symbols.answer(request, asked)
        elif isinstance(asked, Mark):
            request.kind = "probe"
            is_there = asked is Mark.TWO_TIER and self._symbols.is_two_tier
            await request.send_text(200 if is_there else 404, "" if is_there else "not found")
        else:
            await request.send_text(404, "not found")


_BACKLOG = 2048
_IDLE_CONNECTIONS = 64
_MOST_DESCRIPTORS = 1 << 16
_OTHER_DESCRIPTORS = 128  # files on their way, the store, the database, upstreams
_RESTART_PAUSE_S = 1.0
_START_FAILED = 3  # uvicorn's exit status
_NOT_STARTED = "the server did not start; see above"
_DRAIN = b"drain"


@contextmanager
def _quiet_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server and nothing else; uvicorn raises them again when it has ended."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = [(number, signal.signal(number, lambda *_: stop())) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that accepts connections, and its address for clients, without a trailing slash."""

    socket: socket.socket
    url: str


def listen(config: Config) -> Listening:
    """Open the socket that ``[serve]`` names.

    Raises:
        UsageError: What serving needs is not installed.
        ConfigError: The address or the certificate cannot be used.
    """
    if any(importlib.util.find_spec(name) is None for name in ("uvicorn", "httptools")):
        raise UsageError("serving needs uvicorn; install it with: pip install 'symcache[serve]'")
    settings = config.serve
    if settings.certificate is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.certificate, settings.private_key, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot be used with its key: {error}", where="serve.certificate") from error
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        problem = f"cannot listen on {settings.host}, port {settings.port}: {error.strerror or error}"
        raise ConfigError(problem, where="serve") from error
    listening.set_inheritable(True)
    port = listening.getsockname()[1]
    # Compared with, and not bound to: the address for clients cannot be "all addresses".
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(settings.host, settings.host)  # noqa: S104 - see above
    scheme = "http" if settings.certificate is None else "https"
    return Listening(listening, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


def serve(config: Config, listening: Listening) -> None:
    """Answer requests until ``serve.drain_s`` after SIGINT or SIGTERM.

    Responses, and what is on its way into buckets, then have ``serve.stop_s`` to end.

    A second signal ends the first of these waits.

    Raises:
        UsageError: It cannot start with this configuration; the reason has been logged.
    """
    run = token_hex(6)
    _raise_descriptors()
    if config.serve.workers > 1:
        _supervise(config, run, listening.socket)
        return
    try:
        _run(make_server(config, run), listening.socket)
    except SystemExit as error:  # uvicorn exits so when the application did not start
        raise UsageError(_NOT_STARTED) from error


def _raise_descriptors() -> None:
    """Take as many descriptors as the system gives for the asking; usual shells give 1024 of them at first."""
    if sys.platform != "win32":
        soft, wanted = _descriptors()
        while soft < wanted:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                break
            wanted //= 2  # macOS has a bound beside this one, kern.maxfilesperproc


def _descriptors() -> tuple[int, int]:
    """Return how many descriptors this process may have now, and how many it could have, neither more than of use."""
    if sys.platform == "win32":
        return _MOST_DESCRIPTORS, _MOST_DESCRIPTORS
    soft, hard = (
        _MOST_DESCRIPTORS if limit == resource.RLIM_INFINITY else min(limit, _MOST_DESCRIPTORS)
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return soft, hard


def most_connections(settings: Serve) -> int:
    """Return how many connections one process keeps: those that are answered, as many idle ones, and some more.

    There have to be descriptors for them; a connection that is being answered takes three.
    """
    fitting = max(_descriptors()[0] - _OTHER_DESCRIPTORS, 0) // 3
    if sys.platform == "win32" and settings.workers > 1:
        # Their loop's select takes 512 sockets, ours to upstreams among them (FD_SETSIZE in Python's selectmodule.c).
        fitting = min(fitting, 240)
    return min(2 * settings.connections + _IDLE_CONNECTIONS, fitting + 16)


def _supervise(config: Config, run: str, listening: socket.socket) -> None:
    """Start workers, replace those that die, and stop all of them."""
    context = multiprocessing.get_context("spawn")
    stopping, hurrying = threading.Event(), threading.Event()
    level = logging.getLogger().getEffectiveLevel()

    def start() -> tuple[BaseProcess, Connection]:
        # The worker sees this end closed when this process ends, for whatever reason.
        ours, theirs = context.Pipe()
        arguments = (config, run, listening, theirs, level)
        process = context.Process(target=_work_in_process, args=arguments, name="symcache serve")
        process.start()
        theirs.close()
        return process, ours

    def note_signal() -> None:
        (hurrying if stopping.is_set() else stopping).set()

    with _quiet_signals(note_signal):
        workers = [start() for _ in range(config.serve.workers)]
        try:
            while not stopping.wait(0.2):
                for at, (process, lifeline) in enumerate(workers):
                    if process.exitcode == _START_FAILED:
                        raise UsageError(_NOT_STARTED)
                    if process.exitcode is not None:
                        _log.error("worker %s ended with %s; another takes its place", process.pid, process.exitcode)
                        lifeline.close()
                        if not stopping.wait(_RESTART_PAUSE_S):
                            workers[at] = start()
            for _, lifeline in workers:
                with suppress(OSError):
                    lifeline.send_bytes(_DRAIN)
            hurrying.wait(config.serve.drain_s)
        finally:
            for _, lifeline in workers:
                lifeline.close()
            deadline_s = time.monotonic() + config.serve.stop_s + 5
            for process, _ in workers:
                process.join(max(0.0, deadline_s - time.monotonic()))
                if process.exitcode is None:
                    process.kill()
                    process.join()


def _work_in_process(config: Config, run: str, listening: socket.socket, lifeline: Connection, log_level: int) -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s", level=log_level)
    # They log URLs and fields of responses, where a signed redirect target is secret.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server = make_server(config, run)

    def stop_with_parent() -> None:
        with suppress(EOFError, OSError):
            while lifeline.recv_bytes() == _DRAIN:
                server.drain()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    _run(server, listening)


def _run(server: DrainingServer, listening: socket.socket) -> None:
    # Also before uvicorn has installed its own handlers.
    with _quiet_signals(lambda: setattr(server, "should_exit", True)):
        server.run(sockets=[listening])


def make_server(config: Config, run: str) -> DrainingServer:
    """Return one worker, which `uvicorn.Server.run` starts; *run* is the name that all workers of a server share."""
    import uvicorn  # noqa: PLC0415 - of the extra, and slow to import

    from symcache.server.draining import DrainingServer  # noqa: PLC0415
    from symcache.server.protocol import ServeProtocol  # noqa: PLC0415

    settings = config.serve
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
    app = App(config, run=run)
    protocol: Any = partial(ServeProtocol, app.known, app.log)
    return DrainingServer(
        app,
        settings.drain_s,
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            # On Windows uvicorn takes the selector loop then: a socket that processes share can be served by the
            # completion port of one alone.
            workers=settings.workers,
            limit_concurrency=most_connections(settings),
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.stop_s,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key or settings.certificate,
        ),
    )


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn logs of responses aborted on purpose, and of every malformed request."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    expected = isinstance(error, ResponseAborted) or type(error).__name__ == "CancelledError"
    return not expected and record.levelno >= logging.ERROR
