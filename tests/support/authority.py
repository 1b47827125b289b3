"""A certificate authority that exists for one test run."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority"]


class Authority:
    """Issues certificates for loopback; no system trusts it."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return a server's context, with a certificate for 127.0.0.1, localhost and *names*."""
        return self.context_for("127.0.0.1", "localhost", *names)

    def context_for(self, *names: str) -> ssl.SSLContext:
        """Return a server's context, with a certificate for *names* alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def write_bundle(self, path: Path) -> Path:
        """Write what ``SSL_CERT_FILE`` wants to *path*; return it."""
        self._authority.cert_pem.write_to_path(str(path))
        return path
