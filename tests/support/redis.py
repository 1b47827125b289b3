"""A real Redis server on loopback, without persistence: what it held is gone when it ends."""

from __future__ import annotations

import re
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.parts import need
from support.serving import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["Redis", "be_patient", "free_port"]

_PATIENCE_S = 20.0


class Redis:
    """One ``redis-server`` that can be ended and started again on the same port; use it as a context manager.

    Args:
        home: An existing folder for its socket and its log.
        password: What clients must say; empty for none.
    """

    def __init__(self, home: Path, *, password: str = "") -> None:
        self._program = need("redis")
        pytest.importorskip("redis", reason="redis-py is not installed")
        self._home = home
        # Not below *home*: the name of a socket has at most 107 bytes.
        self._sockets = tempfile.TemporaryDirectory(prefix="redis-")
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._sockets.cleanup()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> Path:
        return Path(self._sockets.name, "redis.sock")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *options: str) -> None:
        """Start it, with *options* of its command, and wait until it answers."""
        assert self._process is None
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--daemonize", "no"]
        command += ["--unixsocket", str(self.socket_path), "--dir", str(self._home)]
        command += ["--save", "", "--appendonly", "no"]
        if self._password:
            command += ["--requirepass", self._password]
        with (self._home / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self._answers)

    def stop(self) -> None:
        """End it as an operator would."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End it at once."""
        self._end(subprocess.Popen.kill)

    def restart(self, *options: str) -> None:
        """Kill it and start it on the same port, with nothing in its memory."""
        self.kill()
        self.start(*options)

    def say(self, *words: str | int) -> str:
        """Return what it answers to a command, as it stands on the wire; of an array, the first line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S) as connection:
            stream = connection.makefile("rb")
            commands = [("AUTH", self._password)] if self._password else []
            answer = b""
            for each in [*commands, words]:
                parts = [str(word).encode() for word in each]
                head = b"*%d\r\n" % len(parts)
                connection.sendall(head + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
                answer = stream.readline().rstrip()
                if answer.startswith(b"$") and answer != b"$-1":
                    answer = stream.read(int(answer[1:]) + 2)[:-2]
            return answer.decode()

    def calls(self, command: str) -> int:
        """Return how often *command*, in lower case, was run since it started."""
        found = re.search(rf"cmdstat_{command}:calls=(\d+)", self.say("INFO", "commandstats"))
        return int(found[1]) if found else 0

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(_PATIENCE_S)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "redis.log").read_text(errors="replace")
        try:
            return self.say("PING") == "+PONG"
        except OSError:
            return False


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a cluster wait as long as a busy machine may take, so that its bounds decide no test that wants answers."""
    pytest.importorskip("redis", reason="redis-py is not installed")
    from symcache.stores import cluster, rediswire  # noqa: PLC0415 - of an extra

    for name in ("_CONNECT_S", "_ANSWER_S", "LONGEST_S"):
        monkeypatch.setattr(rediswire, name, _PATIENCE_S)
    monkeypatch.setattr(cluster, "_LONGEST_EXCHANGE_S", _PATIENCE_S)


def free_port() -> int:
    """Return a port that nobody has now; the server takes no socket that listens already."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
