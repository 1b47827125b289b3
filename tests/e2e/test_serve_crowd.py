"""A crowd that asks for one cold file at once: small by default, five hundred for 50 MiB when asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, cut
from support.crowd import Got, ask, crowd, peak_bytes
from support.serving import publish, serving_process
from support.upstream import Upstream

if TYPE_CHECKING:
    from pathlib import Path

    from support.answers import Answer
    from support.serving import Published

FEW, SMALL_BYTES = 24, 6 << 20
MANY, LARGE_BYTES = 500, 50 << 20
PEAK_BYTES = 200 << 20


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
            got = asyncio.run(crowd([served], wanted, count, stall))
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
            got = asyncio.run(crowd([served], wanted, count))
        assert all(each.is_right and each.is_whole and each.status == 200 for each in got)
    assert len(upstream.requests) == 2
