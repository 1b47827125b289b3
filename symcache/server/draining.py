"""uvicorn's server, which goes on answering for a while when it is told to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from socket import socket
    from types import FrameType

    from symcache.server.app import App


class DrainingServer(uvicorn.Server):
    """Stops *drain_s* after the first signal, or at the second; meanwhile *app* says that it is about to."""

    def __init__(self, app: App, drain_s: float, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s
        self._stop_at_s: float | None = None
        self._has_signal = False

    def drain(self) -> None:
        """Begin to stop, if that has not begun; from any thread."""
        self._app.is_stopping = True
        if self._stop_at_s is None:
            self._stop_at_s = time.monotonic() + self._drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_first, self._has_signal = not self._has_signal, True
        self.drain()
        if not (is_first and self._drain_s):
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._app.stops_at_s = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at_s is not None and time.monotonic() >= self._stop_at_s:
            self.should_exit = True
        return await super().on_tick(counter)
