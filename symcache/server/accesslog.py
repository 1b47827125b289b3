"""One line of JSON for each request, written in batches."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from symcache.server.exchange import Exchange

__all__ = ["AccessLines"]

_FLUSH_EVERY_S = 0.5
_FLUSH_AT_LINES = 500


class AccessLines:
    """The access log; several processes may append to one file, as each batch is one write.

    Args:
        path: Where; ``-`` for standard error, empty for none. Opened anew for each batch, so that it can be rotated.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: list[str] = []

    @property
    def is_wanted(self) -> bool:
        """Whether there is a log at all."""
        return bool(self._path)

    def add(self, exchange: Exchange, client: str, *, took_s: float) -> None:
        """Note one request; of its fields only the user agent, so that no secret gets in."""
        agent = exchange.fields.get(b"user-agent", b"").decode("latin-1")
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": client,
            "method": exchange.method,
            "path": exchange.raw_path.decode("ascii", "replace")[:2048],
            "status": exchange.status,
            "bytes": exchange.sent_bytes,
            "seconds": round(took_s, 6),
            "answer": exchange.said,
            "agent": agent[:200],
        }
        self._lines.append(json.dumps(entry))
        if len(self._lines) >= _FLUSH_AT_LINES:
            self.flush()

    async def run(self) -> None:
        """Write what has come together, again and again."""
        while self.is_wanted:
            await anyio.sleep(_FLUSH_EVERY_S)
            self.flush()

    def flush(self) -> None:
        """Write what has come together; a log that cannot be written is no reason not to answer."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._lines.clear()
        with suppress(OSError):
            if self._path == "-":
                sys.stderr.buffer.write(data)
                sys.stderr.buffer.flush()
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Write the rest."""
        self.flush()
