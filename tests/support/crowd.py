"""A crowd that asks servers on loopback for one file at once, and compares what it gets piece by piece."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.answers import Stall
    from support.serving import Published, Served

__all__ = ["Got", "ask", "crowd", "peak_bytes"]


@dataclass(slots=True)
class Got:
    """What one client got.

    Attributes:
        status: 0 if the connection ended before.
        received_bytes: Of the body.
        is_right: Whether all of that was as published.
        is_whole: Whether it was all that was announced.
    """

    status: int = 0
    received_bytes: int = 0
    is_right: bool = True
    is_whole: bool = False


async def ask(port: int, wanted: Published, first: asyncio.Event) -> Got:
    """Ask for *wanted*; set *first* when a piece has come."""
    got = Got()
    content = memoryview(wanted.content)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 17)
    try:
        writer.write(f"GET /{wanted.index} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        got.status = int(head.split()[1])
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        while got.received_bytes < length and (piece := await reader.read(1 << 17)):
            first.set()
            at = got.received_bytes
            got.is_right &= got.status != 200 or content[at : at + len(piece)] == piece
            got.received_bytes += len(piece)
        got.is_whole = got.received_bytes == length
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
    return got


async def crowd(served: Sequence[Served], wanted: Published, count: int, stall: Stall | None = None) -> list[Got]:
    """Let *count* clients ask *served* in turn; *stall* ends when one of them has a beginning."""
    first = asyncio.Event()

    async def let_go() -> None:
        await first.wait()  # somebody has the beginning, while upstream has not sent the end
        if stall is not None:
            stall.release()

    async with asyncio.TaskGroup() as group:
        ports = [served[number % len(served)].port for number in range(count)]
        clients = [group.create_task(ask(port, wanted, first)) for port in ports]
        group.create_task(let_go())
    return [client.result() for client in clients]


def peak_bytes(served: Served) -> int:
    """Return the largest resident size of the process so far; 0 where that cannot be told."""
    assert served.process is not None
    status = Path(f"/proc/{served.process.pid}/status")
    if not status.exists():
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) << 10  # type: ignore[index]
