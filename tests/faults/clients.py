"""What clients that mean ill do to others of ``symcache serve``: slow ones by the thousand, floods of distinct misses.

    python tests/faults/clients.py [--clients N] [--misses N] [--seed N]

Prints what others notice, and what it costs the server, as tables in Markdown. Ends with 1 if somebody was kept out, or
if descriptors or memory were not bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.serving import fetch, publish, serving_process
from support.upstream import Upstream

from symcache.identity import PdbKey
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.serving import Served

__all__ = ["KINDS", "Flood", "Siege", "besiege", "flood", "judge", "publish_files"]

_HONEST = 20
_FLOODING = 64
_SOON_S = 60.0  # on a machine that is busy; on one that is not, five seconds at most
_CONFIG = """
[serve]
port = 0
[store]
durable = false
[[server]]
url = '{upstream}'
compressed = false
two_tier = false
"""
_SMALL = publish("small.pdb", 1)
_LARGE = publish("large.pdb", 2, payload_bytes=8 << 20)
_BODY = b"POST /-/warm HTTP/1.1\r\nHost: x\r\nX-Symcache: 1\r\nContent-Length: 1000000\r\n\r\nx"
KINDS = {
    "connect, and send nothing": b"",
    "send half a request": b"GET /small.pdb/",
    "stay connected after an answer": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "begin to upload, and stop": _BODY,
    "ask for a large file, and do not read it": f"GET /{_LARGE.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
}
"""What each of the slow clients sends."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process holds."""

    descriptors: int
    memory_mib: int

    @classmethod
    def of(cls, served: Served) -> Cost:
        """Return what it holds now."""
        assert served.process is not None
        proc = Path("/proc") / str(served.process.pid)
        resident = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return cls(len(list((proc / "fd").iterdir())), int(resident.split()[1]) // 1024)


@dataclass(frozen=True, slots=True)
class Siege:
    """What came of many slow clients."""

    statuses: list[int]  # what others were answered meanwhile
    longest_s: float
    before: Cost
    during: Cost
    after: Cost


def besiege(served: Served, begun: bytes, clients: int) -> Siege:
    """Let that many clients send *begun* and no more, and ask for a file meanwhile."""
    before = Cost.of(served)
    with ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", served.port))
            with suppress(ConnectionError):  # it has been closed to make room
                client.sendall(begun)
        statuses, longest_s = [], 0.0
        for _ in range(_HONEST):
            began_s = time.monotonic()
            statuses.append(ask_until(served.port, began_s + _SOON_S))
            longest_s = max(longest_s, time.monotonic() - began_s)
        during = Cost.of(served)
    end_s = time.monotonic() + 30
    while Cost.of(served).descriptors > before.descriptors + _HONEST and time.monotonic() < end_s:
        time.sleep(0.1)
    return Siege(statuses, longest_s, before, during, Cost.of(served))


def ask_until(port: int, end_s: float) -> int:
    """Return how a request was answered, at last: one that is told to come back does so."""
    while True:
        try:
            status = fetch(port, _SMALL.index).status
        except OSError:
            status = 0
        if status == 200 or time.monotonic() > end_s:
            return status
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Flood:
    """What came of requests for keys that no server has, no two the same."""

    misses: int
    seconds: float
    before: Cost
    half: Cost
    after: Cost
    metrics_bytes: int
    status_bytes: int
    remembered_bytes: int  # on disk


async def flood(served: Served, home: Path, misses: int, seed: int) -> Flood:
    """Ask for that many keys on a few connections."""
    draw = random.Random(seed)
    before, half = Cost.of(served), None
    began_s = time.monotonic()
    keys = [PdbKey(f"m{number}.pdb", UUID(int=draw.getrandbits(128)), 1) for number in range(misses)]

    async def ask(own: list[PdbKey]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        try:
            left = list(reversed(own))
            while left:
                writer.write(f"GET /{left[-1].index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                if not head.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 504 ")):  # which say to come back
                    assert head.startswith(b"HTTP/1.1 404 "), head
                    left.pop()
        finally:
            writer.close()

    for part in (keys[: misses // 2], keys[misses // 2 :]):
        async with asyncio.TaskGroup() as group:
            for number in range(_FLOODING):
                group.create_task(ask(part[number::_FLOODING]))
        half = half or Cost.of(served)
        print(f"{time.monotonic() - began_s:.0f} s: {Cost.of(served)}", file=sys.stderr, flush=True)
    assert half is not None
    seconds = time.monotonic() - began_s
    after = Cost.of(served)
    metrics, status = (len(fetch(served.port, path).body) for path in ("metrics", "-/status?brief"))
    remembered = sum(path.stat().st_size for path in (home / "misses").rglob("*") if path.is_file())
    return Flood(misses, seconds, before, half, after, metrics, status, remembered)


def judge(sieges: dict[str, Siege], flooded: Flood | None, descriptors: int) -> list[str]:
    """Return what is not as it should be."""
    wrong = []
    for name, siege in sieges.items():
        if set(siege.statuses) != {200} or siege.longest_s > _SOON_S:
            wrong.append(f"{name}: others were answered {siege.statuses}, after {siege.longest_s:.1f} s at most")
        if siege.during.descriptors > descriptors or siege.after.descriptors > siege.before.descriptors + 2 * _HONEST:
            wrong.append(f"{name}: descriptors {siege.before} {siege.during} {siege.after}")
        if siege.during.memory_mib > siege.before.memory_mib + 256:
            wrong.append(f"{name}: memory {siege.before} {siege.during}")
    # Half of them fill what is bounded, such as what is counted by key; the other half must add next to nothing.
    if flooded is not None and flooded.after.memory_mib > flooded.half.memory_mib + 32:
        wrong.append(f"misses: memory {flooded.before} {flooded.half} {flooded.after}")
    if flooded is not None and (flooded.metrics_bytes > 65536 or flooded.status_bytes > 65536):
        wrong.append(f"misses: pages of {flooded.metrics_bytes} and {flooded.status_bytes} bytes")
    return wrong


def publish_files(store: Path) -> str:
    """Put the files that clients ask for into *store*; return the index of the one that others ask for."""
    with Store(store) as opened:
        for each in (_SMALL, _LARGE):
            scratch = opened.scratch()
            scratch.write_bytes(each.content)
            opened.publish(scratch, each.key, durable=False)
    return _SMALL.index


def main(arguments: Sequence[str]) -> int:
    """Print the tables; return 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description="Print what slow and flooding clients do to others.")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--misses", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    import resource  # noqa: PLC0415 - not on Windows

    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    sieges: dict[str, Siege] = {}
    with tempfile.TemporaryDirectory() as name, Upstream() as upstream:
        home = Path(name)
        index = publish_files(home / "store")
        with serving_process(home, upstream.url, config=_CONFIG.format(upstream=upstream.url)) as served:
            fetch(served.port, index)
            print(f"| {options.clients} clients | others wait at most | descriptors, then | memory, then |")
            print("|---|---|---|---|", flush=True)
            for kind, begun in KINDS.items():
                siege = sieges[kind] = besiege(served, begun, options.clients)
                held = f"{siege.during.descriptors}, {siege.after.descriptors}"
                memory = f"{siege.during.memory_mib} MiB, {siege.after.memory_mib} MiB"
                print(f"| {kind} | {siege.longest_s:.2f} s | {held} | {memory} |", flush=True)
            flooded = asyncio.run(flood(served, home, options.misses, options.seed))
        cost = f"{flooded.before.memory_mib}, {flooded.half.memory_mib}, {flooded.after.memory_mib} MiB"
        rate = flooded.misses / flooded.seconds
        print("\n| distinct misses | a second | memory before, at half, at the end | `/metrics` | on disk |")
        print("|---|---|---|---|---|")
        disk = f"{flooded.remembered_bytes / 1e6:.0f} MB"
        print(f"| {flooded.misses} | {rate:.0f} | {cost} | {flooded.metrics_bytes} bytes | {disk} |", flush=True)
    wrong = judge(sieges, flooded, descriptors)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        again = f"--clients {options.clients} --misses {options.misses} --seed {options.seed}"
        print(f"see it again: python tests/faults/clients.py {again}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
