"""Running the application under uvicorn: one process, or several that share a listening socket."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import signal
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from symcache.errors import ConfigError, UsageError
from symcache.server.app import App
from symcache.server.request import ResponseAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from uvicorn import Server

    from symcache.config import Config

_BACKLOG = 2048
_IDLE_CONNECTIONS = 64
_RESTART_PAUSE_S = 1.0
_START_FAILED = 3  # uvicorn's exit status
_NOT_STARTED = "the server did not start; see above"

_log = logging.getLogger("symcache.serve")


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
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(settings.host, settings.host)  # noqa: S104
    scheme = "http" if settings.certificate is None else "https"
    return Listening(listening, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


def serve(config: Config, listening: Listening) -> None:
    """Answer requests until SIGINT or SIGTERM; responses under way then have ``serve.stop_s`` to end.

    Raises:
        UsageError: It cannot start with this configuration; the reason has been logged.
    """
    run = token_hex(6)
    if config.serve.workers > 1:
        _supervise(config, run, listening.socket)
        return
    try:
        _run(make_server(config, run), listening.socket)
    except SystemExit as error:  # uvicorn exits so when the application did not start
        raise UsageError(_NOT_STARTED) from error


def _supervise(config: Config, run: str, listening: socket.socket) -> None:
    """Start workers, replace those that die, and stop all of them."""
    context = multiprocessing.get_context("spawn")
    stopping = threading.Event()
    level = logging.getLogger().getEffectiveLevel()

    def start() -> tuple[BaseProcess, Connection]:
        # The worker sees this end closed when this process ends, for whatever reason.
        ours, theirs = context.Pipe()
        arguments = (config, run, listening, theirs, level)
        process = context.Process(target=_work_in_process, args=arguments, name="symcache serve")
        process.start()
        theirs.close()
        return process, ours

    with _quiet_signals(stopping.set):
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
            lifeline.recv()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    _run(server, listening)


def _run(server: Server, listening: socket.socket) -> None:
    # Also before uvicorn has installed its own handlers.
    with _quiet_signals(lambda: setattr(server, "should_exit", True)):
        server.run(sockets=[listening])


def make_server(config: Config, run: str) -> Server:
    """Return one worker, which `uvicorn.Server.run` starts; *run* is the name that all workers of a server share."""
    import uvicorn  # noqa: PLC0415 - of the extra, and slow to import

    from symcache.server.protocol import ServeProtocol  # noqa: PLC0415

    settings = config.serve
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
    app = App(config, run=run)
    protocol: Any = partial(ServeProtocol, app.known, app.log)
    return uvicorn.Server(
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
            limit_concurrency=2 * settings.connections + _IDLE_CONNECTIONS,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=settings.stop_s,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key or settings.certificate,
        )
    )


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn logs of responses aborted on purpose, and of every malformed request."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    expected = isinstance(error, ResponseAborted) or type(error).__name__ == "CancelledError"
    return not expected and record.levelno >= logging.ERROR
