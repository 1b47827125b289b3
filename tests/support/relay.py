"""A relay on loopback that makes a server look far away."""

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

__all__ = ["delayed"]


@contextmanager
def delayed(port: int, round_trip_s: float) -> Iterator[int]:
    """Run a relay to *port* that holds every piece back for half of *round_trip_s*; yield its own port."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_relay, args=(port, round_trip_s / 2, theirs))
    process.start()
    with closing(ours):
        try:
            yield ours.recv()
        finally:
            process.terminate()
            process.join()


def _relay(port: int, delay_s: float, told: Connection) -> None:
    class End(asyncio.Protocol):
        """One end of a relayed connection."""

        def __init__(self, other: End | None = None) -> None:
            self.other = other
            self.transport: asyncio.Transport | None = None
            self.waiting: list[bytes] = []

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            if self.other is None:
                end = self.other = End(self)
                connecting = asyncio.get_running_loop().create_connection(lambda: end, "127.0.0.1", port)
                self.task = asyncio.ensure_future(connecting)
            for data in self.waiting:
                transport.write(data)

        def data_received(self, data: bytes) -> None:
            assert self.other is not None
            asyncio.get_running_loop().call_later(delay_s, self.other.send, data)

        def send(self, data: bytes) -> None:
            if self.transport is None:
                self.waiting.append(data)
            else:
                self.transport.write(data)

        def connection_lost(self, _error: Exception | None) -> None:
            if self.other is not None and self.other.transport is not None:
                asyncio.get_running_loop().call_later(delay_s, self.other.transport.close)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(End, "127.0.0.1", 0, backlog=512)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())
