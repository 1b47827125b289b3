"""A shared cache on loopback, in a thread of this process or as the command; a client that sends bytes as they are."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from support.synth.pdb import NativePdbSpec, make_pdb
from support.windows import OWN_CONSOLE, interrupt
from symcache.config import load_config
from symcache.identity import PdbKey
from symcache.server import listen, make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "Answered",
    "Client",
    "Published",
    "Served",
    "fetch",
    "publish",
    "serving",
    "serving_process",
    "wait_for",
    "workers",
]

_PATIENCE_S = 90.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Published:
    """A PDB and its key."""

    key: PdbKey
    content: bytes

    @property
    def index(self) -> str:
        return self.key.index

    @property
    def packed_index(self) -> str:
        """The index of its cabinet."""
        return self.index[:-1] + "_"


def publish(name: str, number: int, age: int = 1, payload_bytes: int = 0) -> Published:
    """Return a PDB of that name and age; *number* makes its GUID."""
    guid = UUID(int=(0xABCDEF << 104) + number)
    spec = NativePdbSpec(guid=guid, age=age, payload_bytes=payload_bytes)
    return Published(PdbKey(name, guid, age), make_pdb(spec))


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer.

    Attributes:
        status: Three digits.
        fields: By lower-case name.
        body: As far as it came.
        is_whole: Whether all of the announced body came.
    """

    status: int
    fields: Mapping[str, str]
    body: bytes
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs.

    Attributes:
        url: Without a trailing slash.
        port: On 127.0.0.1.
        store: Its store's folder.
        process: None where it runs in this process.
        said: Lines of its standard error so far; those of another process alone.
    """

    url: str
    port: int
    store: Path
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)


@contextmanager
def serving(home: Path, symbol_path: str | None = None, *, upstream: str = "", **settings: Any) -> Iterator[Served]:
    """Run a server in a thread of this process for a ``with`` block.

    Args:
        home: Holds the store and what is remembered.
        symbol_path: None for the store with *upstream* behind it.
        upstream: A URL.
        settings: Keys of ``[serve]``, and those of ``[network]`` and ``[misses]`` with the table and ``__`` in front.
    """
    store = home / "store"
    config = load_config(None, {}, symbol_path=symbol_path or f"srv*{store}" + (f"*{upstream}" if upstream else ""))
    tables: dict[str, dict[str, Any]] = {"misses": {"folder": home / "misses"}, "network": {"backoff_s": 0.01}}
    for name, value in settings.items():
        table, _, key = name.rpartition("__")
        tables.setdefault(table or "serve", {})[key] = value
    tables.setdefault("serve", {}).setdefault("port", 0)
    tables["store"] = {"durable": False, "folder": store}
    config = replace(config, **{name: replace(getattr(config, name), **keys) for name, keys in tables.items()})
    listening = listen(config)
    server = make_server(config, os.urandom(6).hex())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening.socket]})
    port = listening.socket.getsockname()[1]
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start"
        yield Served(f"http://127.0.0.1:{port}", port, store)
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_S)
        listening.socket.close()
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def serving_process(
    home: Path,
    upstream: str,
    *options: str,
    config: str = "",
    expect: int = 0,
    store: Path | None = None,
    tracing: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Run ``symcache serve`` for a ``with`` block, and end it as an operator would.

    Args:
        home: Holds the store, what is remembered, and the config file.
        upstream: A URL.
        options: Of the command.
        config: Text of the config file, headed by its tables.
        expect: Exit status that it must have.
        store: Its store's folder, if that is not in *home*.
        tracing: A command that runs the one that follows it, in the same process.
        variables: What its environment has beside this process's own.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = home / "symcache.toml"
    file.write_text(f"[misses]\nfolder = '{home / 'misses'}'\n{config}", encoding="utf-8")
    store = store or home / "store"
    command = [*tracing, sys.executable, "-m", "symcache", "serve", "--port", "0", "--config", str(file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("_NT_", "SYMCACHE_"))}
    process = subprocess.Popen(
        [*command, "-y", f"srv*{store}*{upstream}", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **(variables or {})},
        cwd=_ROOT,
        creationflags=OWN_CONSOLE,
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        match = None
        while match is None:
            line = process.stderr.readline()
            assert line, f"the server ended: {said}"
            said.append(line)
            match = re.search(r" on (https?://[^/ ]*:(\d+))/", line)
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        wait_for(lambda: _accepts(int(match[2])) or process.poll() is not None)
        yield Served(f"http://127.0.0.1:{match[2]}", int(match[2]), store, process, said)
        if process.poll() is None:
            if sys.platform == "win32":
                interrupt(process)
            else:
                process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE_S) == expect, said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()


class Client:
    """One connection.

    Args:
        port: On 127.0.0.1.
        receive_bytes: Size of the socket's buffer, for a client that reads slowly; 0 for the usual.
    """

    def __init__(self, port: int, *, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(_PATIENCE_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(self, data: bytes) -> Answered:
        """Send a request as it is, and read its answer."""
        self.send(data)
        return self.read(is_head=data.startswith(b"HEAD "))

    def get(self, path: str, fields: Mapping[str, str] | None = None, *, method: str = "GET") -> Answered:
        """Ask for *path*."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        return self.ask(f"{method} /{path.lstrip('/')} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Read status line and fields; status 0 if the connection ends before."""
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            return 0, {}
        fields: dict[str, str] = {}
        while (field := self._stream.readline()) not in {b"\r\n", b""}:
            name, _, value = field.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        return int(line.split()[1]), fields

    def read_some(self, size_bytes: int) -> bytes:
        """Read that much of the body, less if the connection ends."""
        return self._stream.read(size_bytes)

    def read(self, *, is_head: bool = False) -> Answered:
        """Read one answer."""
        status, fields = self.read_head()
        if is_head or status in {0, 304}:
            return Answered(status, fields, b"", status != 0)
        length = int(fields["content-length"])
        pieces: list[bytes] = []
        left = length
        try:
            while left and (piece := self._stream.read1(min(left, 1 << 20))):
                pieces.append(piece)
                left -= len(piece)
        except ConnectionResetError:
            pass
        return Answered(status, fields, b"".join(pieces), not left)


def fetch(port: int, path: str, fields: Mapping[str, str] | None = None, *, method: str = "GET") -> Answered:
    """Ask for *path* on a connection of its own."""
    with Client(port) as client:
        return client.get(path, {"Connection": "close", **(fields or {})}, method=method)


def _accepts(port: int) -> bool:
    try:
        return fetch(port, "healthz").status == 200
    except OSError:
        return False


def workers(pid: int) -> list[int]:
    """Return the processes of a server with several workers; Linux alone tells."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if "resource_tracker" not in Path(f"/proc/{each}/cmdline").read_text()]


def wait_for(condition: Callable[[], object]) -> None:
    """Return as soon as *condition* holds; an `AssertionError` if it does not come about in a minute and a half."""
    end_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come about in time"
        time.sleep(0.01)
