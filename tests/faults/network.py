"""What a fault of the network, or of a proxy, does to each command: how soon it ends, what it says, how it recovers.

    python tests/faults/network.py            with the default settings, as a table in Markdown
    python tests/faults/network.py --quick    with short time-outs

Each fault is made by a proxy on loopback between the command and an honest server. A fault is put right again while
``symcache serve`` runs, and the time is taken until it delivers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.answers import status
from support.authority import Authority
from support.command import run
from support.proxy import tunnel
from support.serving import fetch as ask
from support.serving import publish, serving_process
from support.upstream import Upstream
from support.wire import Listener, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from support.serving import Published, Served

__all__ = ["FAULTS", "QUICK", "Fault", "Outcome", "Scene", "main", "scene", "wrong"]

_HOST = "symbols.example"
_PATIENCE_S = 200.0
_HANDSHAKE_BYTES = 1200  # about what a server sends before its first answer
_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: For the table.
        said: What commands have to say of it, as a regular expression; empty if it is overcome.
        is_probed: A question for a file that does not exist meets it, too.
    """

    name: str
    said: str
    is_probed: bool = True


_PROXY = r"the proxy http://127\.0\.0\.1:\d+ "
_THROUGH = r"\(through the proxy http://127\.0\.0\.1:\d+\)"
FAULTS = (
    Fault("the proxy refuses connections", _PROXY + "cannot be reached: connection refused"),
    Fault("the proxy takes connections and is silent", _PROXY + "takes connections, but did not answer in time"),
    Fault("the proxy says yes to a tunnel and closes it", _PROXY + "closed the connection that it had opened"),
    Fault("the proxy wants credentials (407)", "the proxy answered 407: it wants Basic; in network.proxy, put user"),
    Fault("the proxy cannot reach the server (502)", "the proxy answered 502"),
    Fault("the proxy reaches the server too late (504)", "the proxy answered 504"),
    Fault("a page comes with 200", "200, but an HTML page"),
    Fault(
        "no TLS handshake comes through the tunnel", _PROXY + "opened a connection, but the other end did not answer"
    ),
    Fault(
        "no trusted authority stands behind the certificate",
        "by Example inspection, is vouched for by an authority that",
    ),
    Fault("the certificate has expired", r"by Example authority, expired on 2021-03-04"),
    Fault("the certificate is for another host", f"is for another host than {_HOST}"),
    Fault("no answer comes through the tunnel", f"no answer in time {_THROUGH}"),
    Fault("every body stops", f"the body stopped, and nothing more came in time {_THROUGH}", is_probed=False),
    Fault("every connection breaks off after 2 KB", f"the connection broke {_THROUGH}", is_probed=False),
    Fault("every other connection breaks off after 40 KB", "", is_probed=False),
)


class FicklePath:
    """A proxy to honest and other servers that has any of the faults, or none.

    Attributes:
        fault: What goes wrong now; None for nothing.
    """

    def __init__(self, stack: ExitStack, files: dict[str, bytes], bundle: Path) -> None:
        authority, stranger = Authority(), Authority("Example inspection")
        authority.write_bundle(bundle)
        began, ended = datetime(2020, 1, 2, tzinfo=UTC), datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
        contexts = {
            None: authority.context_for(_HOST),
            "no trusted authority stands behind the certificate": stranger.context_for(_HOST),
            "the certificate has expired": authority.context_for(_HOST, not_before=began, not_after=ended),
            "the certificate is for another host": authority.context_for("other.example"),
        }
        self._servers = {
            name: stack.enter_context(Upstream(dict(files), tls=context)) for name, context in contexts.items()
        }
        pages = self._servers["a page comes with 200"] = stack.enter_context(Upstream(tls=contexts[None]))
        pages.always("*", status(200, _PAGE, headers=[("Content-Type", "text/html")]))
        self.fault: str | None = None
        self._tunnels = 0
        self._over = threading.Event()
        self._listener: Listener | None = Listener(self._serve)
        self.port = self._listener.port
        stack.callback(self.close)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._over.set()
        if self._listener is not None:
            self._listener.close()

    def become(self, fault: str | None) -> None:
        """Have this fault from now on, on all connections; None mends it."""
        self.fault = fault
        self._over.set()
        self._over = threading.Event()
        if self._listener is not None:
            self._listener.cut_connections()
        if fault == "the proxy refuses connections":
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        elif self._listener is None:
            self._listener = Listener(self._serve, port=self.port)

    def _serve(self, client: socket.socket) -> None:
        fault, over = self.fault, self._over
        if fault == "the proxy takes connections and is silent":
            over.wait(_PATIENCE_S)
            return
        with client.makefile("rb", buffering=0) as stream:
            if read_head(stream) is None:
                return
        refused = re.search(r"\((\d{3})\)$", fault or "")
        if refused is not None:
            wanted = 'Proxy-Authenticate: Basic realm="company"\r\n' if refused[1] == "407" else ""
            client.sendall(f"HTTP/1.1 {refused[1]} No\r\n{wanted}Content-Length: 0\r\n\r\n".encode())
            return
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if fault == "the proxy says yes to a tunnel and closes it":
            return
        if fault == "no TLS handshake comes through the tunnel":
            over.wait(_PATIENCE_S)
            return
        server = self._servers.get(fault, self._servers[None])
        with socket.create_connection(("127.0.0.1", server.port)) as origin:
            breaks = re.search(r"after (\d+) KB", fault or "")
            self._tunnels += 1
            if breaks and "every other" in str(fault) and self._tunnels % 2:
                breaks = None
            most_bytes = _HANDSHAKE_BYTES + int(breaks[1]) * 1024 if breaks else None
            if fault == "no answer comes through the tunnel":
                most_bytes = _HANDSHAKE_BYTES
            if fault == "every body stops":
                most_bytes = 10_000
            tunnel(client, origin, most_bytes=most_bytes)
        if breaks is None and most_bytes is not None:
            over.wait(_PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command did.

    Attributes:
        seconds: Until it ended, or answered.
        code: Its exit status, or the status of the answer.
        said: Its messages.
    """

    seconds: float
    code: int
    said: str


class Scene:
    """The place where faults happen: a proxy, files, and a server that runs all the time.

    Args:
        home: A folder for all of it.
        settings: Lines of ``[network]``.
    """

    def __init__(self, stack: ExitStack, home: Path, settings: str = "") -> None:
        self._home = home
        self._files = [publish(f"file{number:03}.pdb", number, payload_bytes=8000) for number in range(400)]
        contents = {each.index: each.content for each in self._files}
        self.path = FicklePath(stack, contents, home / "ca.pem")
        network = f"[network]\nproxy = '{self.path.url}'\nca_file = '{home / 'ca.pem'}'\n{settings}\n"
        server = f"[[server]]\nurl = 'https://{_HOST}'\ncompressed = false\ntwo_tier = false\n"
        self._config = home / "symcache.toml"
        self._config.write_text(f"{network}[misses]\nfolder = '{home / 'misses'}'\n{server}", encoding="utf-8")
        self._wanted = home / "wanted.txt"
        self._wanted.write_text("\n".join(each.index for each in self._files[:200]), encoding="utf-8")
        self._served: Served = stack.enter_context(
            serving_process(home / "serve", f"https://{_HOST}", config=network + server)
        )
        self._fresh = iter(self._files[200:])
        self._runs = 0

    def command(self, *arguments: str | Path) -> Outcome:
        """Run a command with an empty store."""
        self._runs += 1
        store = self._home / f"store{self._runs}"
        began_s = time.monotonic()
        done = run(*arguments, "-y", f"srv*{store}*https://{_HOST}", "--config", self._config)
        return Outcome(time.monotonic() - began_s, done.returncode, done.stdout + done.stderr)

    def warm(self) -> Outcome:
        """Fetch 200 files."""
        return self.command("warm", self._wanted, "--no-color")

    def fetch(self, wanted: Published | None = None) -> Outcome:
        """Fetch one file."""
        return self.command("fetch", (wanted or self._files[0]).index)

    def probe(self, timeout_s: float) -> Outcome:
        """Ask the server how it behaves."""
        return self.command("servers", "--probe", "--timeout", str(timeout_s))

    def serve(self, wanted: Published) -> Outcome:
        """Ask the running server for a file."""
        began_s = time.monotonic()
        answered = ask(self._served.port, wanted.index)
        said = f"{answered.fields.get('proxy-status', '')} {answered.body[:300].decode('latin-1')}"
        return Outcome(time.monotonic() - began_s, answered.status, said)

    def serve_many(self, wanted: Sequence[Published]) -> Outcome:
        """Ask the running server for several files at once; return the last outcome."""
        with ThreadPoolExecutor(len(wanted)) as pool:
            return max(pool.map(self.serve, wanted), key=lambda outcome: outcome.seconds)

    def play(self, fault: Fault, *, timeout_s: float = 10) -> tuple[dict[str, Outcome], float]:
        """Let every command meet *fault*; return what came of it, and how long `serve` took to recover.

        Args:
            fault: One of `FAULTS`.
            timeout_s: Of the probe.

        Raises:
            AssertionError: A command did not meet the fault, or nothing recovers.
        """
        several = [next(self._fresh) for _ in range(10)]
        wanted = several[-1]
        self.path.become(fault.name)
        work = {"warm": self.warm, "fetch": self.fetch, "servers --probe": lambda: self.probe(timeout_s)}
        with ThreadPoolExecutor(4) as pool:
            futures = {name: pool.submit(each) for name, each in work.items()}
            futures["serve"] = pool.submit(self.serve_many, several)
            outcomes = {name: future.result() for name, future in futures.items()}
        self.path.become(None)
        mended_s = time.monotonic()
        while (outcome := self.serve(wanted)).code != 200:
            assert time.monotonic() < mended_s + _PATIENCE_S, outcome
            time.sleep(0.05)
        recovery_s = time.monotonic() - mended_s
        again = self.fetch(wanted)
        assert again.code == 0, again.said
        return outcomes, recovery_s


def wrong(fault: Fault, outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Return what is not as it should be."""
    expected = dict.fromkeys(("warm", "fetch"), fault.said)
    expected["servers --probe"] = fault.said if fault.is_probed else ""
    return {
        name: outcomes[name]
        for name, said in expected.items()
        if (outcomes[name].code == 0) is bool(said) or not re.search(said, outcomes[name].said)
    }


@contextmanager
def scene(home: Path, settings: str = "") -> Iterator[Scene]:
    """Lend a scene in that folder."""
    with ExitStack() as stack:
        yield Scene(stack, home, settings)


QUICK = "connect_timeout_s = 2\nread_timeout_s = 2\nretries = 2\nbackoff_s = 0.05\nbreaker = { cool_down_s = 0.3 }\n"
"""Settings for tests."""


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if a command said something else than it should."""
    parser = argparse.ArgumentParser(description="Print what faults of networks and proxies do to each command.")
    parser.add_argument("--quick", action="store_true", help="with short time-outs")
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--json", action="store_true", help="all that was said")
    options = parser.parse_args(arguments)
    names = ["warm", "fetch", "servers --probe", "serve"]
    code = 0
    print(
        "| fault | what is said | `warm` of 200 | `fetch` | `servers --probe` | `serve` answers | and delivers again |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as home, scene(Path(home), QUICK if options.quick else "") as stage:
        for fault in FAULTS:
            if options.only not in fault.name:
                continue
            outcomes, recovery_s = stage.play(fault)
            found = re.search(f"(?:{fault.said})[^\n|]*", outcomes["fetch"].said) if fault.said else None
            said = "" if found is None else re.sub(r"127\.0\.0\.1:\d+", "proxy:8080", found[0])
            cells = [f"{outcomes[name].seconds:.1f} s" for name in names]
            cells[3] += f": {outcomes['serve'].code}"
            print(f"| {fault.name} | {said} | {' | '.join(cells)} | {recovery_s:.1f} s |", flush=True)
            if options.json:
                print(json.dumps({name: [each.code, each.said[-800:]] for name, each in outcomes.items()}, indent=1))
            for name, each in wrong(fault, outcomes).items():
                print(f"{fault.name}: {name} ended with {each.code}: {each.said}", file=sys.stderr)
                code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
