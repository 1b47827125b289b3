"""A crowd that asks for one cold file at once: small by default, five hundred for 50 MiB when asked for."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, cut
from support.serving import publish, serving_process
from support.upstream import Upstream

if TYPE_CHECKING:
    from support.answers import Answer
    from support.serving import Published, Served

FEW, SMALL_BYTES = 24, 6 << 20
MANY, LARGE_BYTES = 500, 50 << 20
PEAK_BYTES = 200 << 20


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


async def crowd(served: Served, wanted: Published, count: int, stall: Stall | None = None) -> list[Got]:
    first = asyncio.Event()

    async def let_go() -> None:
        await first.wait()  # somebody has the beginning, while upstream has not sent the end
        if stall is not None:
            stall.release()

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask(served.port, wanted, first)) for _ in range(count)]
        group.create_task(let_go())
    return [client.result() for client in clients]


def peak_bytes(served: Served) -> int:
    assert served.process is not None
    status = Path(f"/proc/{served.process.pid}/status")
    if not status.exists():
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) << 10  # type: ignore[index]


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.slow)])
def size(request: pytest.FixtureRequest) -> tuple[int, Published]:
    count, payload_bytes = (FEW, SMALL_BYTES) if request.param == "few" else (MANY, LARGE_BYTES)
    return count, publish("crowd.pdb", count, payload_bytes=payload_bytes)


def run(
    tmp_path: Path, count: int, wanted: Published, answer: Answer, served_as: bytes | None = None
) -> tuple[list[Got], int, int]:
    """Return what each got, the server's peak, and how often upstream was asked."""
    with Upstream({wanted.index: served_as or wanted.content}) as upstream:
        upstream.script(wanted.index, answer)
        with serving_process(tmp_path, upstream.url) as served:
            stall = answer if isinstance(answer, Stall) else None
            got = asyncio.run(crowd(served, wanted, count, stall))
            peak = peak_bytes(served)
    print(f"{count} clients, {len(wanted.content)} bytes: peak {peak / 2**20:.0f} MiB")
    return got, peak, len(upstream.requests)


def test_everybody_gets_a_right_copy_from_one_request(tmp_path: Path, size: tuple[int, Published]) -> None:
    count, wanted = size
    got, peak, asked = run(tmp_path, count, wanted, Stall(len(wanted.content) - (2 << 20)))
    assert asked == 1
    assert all(each.is_right and each.is_whole and each.status == 200 for each in got)
    assert peak < PEAK_BYTES


def test_everybody_gets_a_right_copy_though_upstream_breaks_halfway(
    tmp_path: Path, size: tuple[int, Published]
) -> None:
    count, wanted = size
    got, peak, asked = run(tmp_path, count, wanted, cut(at=len(wanted.content) // 2))
    assert asked == 2  # the second for the rest alone
    assert all(each.is_right and each.is_whole and each.status == 200 for each in got)
    assert peak < PEAK_BYTES


def test_nobody_gets_a_wrong_file(tmp_path: Path, size: tuple[int, Published]) -> None:
    count, wanted = size
    other = publish("other.pdb", 9, payload_bytes=len(wanted.content) - (1 << 20))
    got, peak, _ = run(tmp_path, count, wanted, Stall(len(other.content) - (2 << 20)), other.content)
    assert not any(each.is_whole and each.status == 200 for each in got)
    assert peak < PEAK_BYTES
    assert list((tmp_path / "store").glob("*.pdb/*/*.pdb")) == []


def test_nobody_gets_half_a_file_from_a_server_that_is_killed(tmp_path: Path, size: tuple[int, Published]) -> None:
    count, wanted = size
    with Upstream({wanted.index: wanted.content}) as upstream:
        stall = Stall(len(wanted.content) // 2)
        upstream.script(wanted.index, stall)
        with serving_process(tmp_path, upstream.url) as served:

            async def kill() -> list[Got]:
                first = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    clients = [group.create_task(ask(served.port, wanted, first)) for _ in range(count)]
                    await first.wait()
                    assert served.process is not None
                    served.process.kill()
                    served.process.wait()
                return [client.result() for client in clients]

            got = asyncio.run(kill())
        assert all(each.is_right and not each.is_whole for each in got)
        assert list((tmp_path / "store").glob("*.pdb/*/*.pdb")) == []
        with serving_process(tmp_path, upstream.url) as served:
            got = asyncio.run(crowd(served, wanted, count))
        assert all(each.is_right and each.is_whole and each.status == 200 for each in got)
    assert len(upstream.requests) == 2
