"""A symbol server on loopback that behaves like Microsoft's.

Source: what msdl.microsoft.com was seen to do: 302 to a blob store whose URL is signed and expires, 404 without a body
for what it lacks, ranges on the blob, no cabinets, no regard to letter case.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_SYMBOLS = "/download/symbols/"
_BLOBS = "/blobs/"
_SIGNED_FOR_S = 60
_PATIENCE_S = 30.0
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class LoopbackUpstream:
    """The server of *files*, by index, in threads of its own; use it as a context manager."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {index.lower(): content for index, content in files.items()}
        self._names = {hashlib.sha256(index.encode()).hexdigest(): index for index in self._files}
        self._secret = secrets.token_bytes(32)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="upstream", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Its URL, for a symbol path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{_SYMBOLS.rstrip('/')}"

    def close(self) -> None:
        """Stop listening; safe to call twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_PATIENCE_S)

    def sign(self, index: str) -> str | None:
        """Return where the file of *index* can be had for a while; None if there is none."""
        if index.lower() not in self._files:
            return None
        name = hashlib.sha256(index.lower().encode()).hexdigest()
        expiry = str(int(time.time()) + _SIGNED_FOR_S)
        return f"{_BLOBS}{name}?se={expiry}&sp=r&sig={self._signature(name, expiry)}"

    def open_blob(self, name: str, expiry: str, signature: str) -> bytes | None:
        """Return the blob *name*; None unless it was signed for this time."""
        if not hmac.compare_digest(signature.encode(), self._signature(name, expiry).encode()):
            return None
        return self._files[self._names[name]] if int(expiry) >= time.time() else None

    def _signature(self, name: str, expiry: str) -> str:
        return hmac.new(self._secret, f"{name} {expiry}".encode(), hashlib.sha256).hexdigest()


class _Server(ThreadingTCPServer):
    # Not http.server.HTTPServer: that asks the name service who 127.0.0.1 is, which takes seconds on some machines.
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: LoopbackUpstream) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith(_BLOBS):
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._answer_blob(parts.path.removeprefix(_BLOBS), query.get("se", ""), query.get("sig", ""))
            return
        target = None
        if parts.path.startswith(_SYMBOLS):
            target = self.server.upstream.sign(unquote(parts.path.removeprefix(_SYMBOLS)))
        if target is None:
            self._answer(404)
        else:
            self._answer(302, {"Location": target})

    def _answer_blob(self, name: str, expiry: str, signature: str) -> None:
        content = self.server.upstream.open_blob(name, expiry, signature)
        if content is None:
            self._answer(403)
            return
        fields = {"ETag": f'"{name[:16]}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or self.headers.get("If-Range", fields["ETag"]) != fields["ETag"]:
            self._answer(200, fields, content)
            return
        start = int(wanted[1])
        end = min(int(wanted[2] or len(content)) + 1, len(content))
        if start >= end:
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"})
        else:
            fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self._answer(206, fields, content[start:end])

    def _answer(self, status: int, fields: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Write no log: the report of the client is enough."""
