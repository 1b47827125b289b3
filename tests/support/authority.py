"""A certificate authority that exists for one test run."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import trustme

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority"]


class Authority:
    """Issues certificates for loopback; no system trusts it.

    Args:
        organization: Whose it is.
    """

    def __init__(self, organization: str = "Example authority") -> None:
        self._authority = trustme.CA(organization_name=organization)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return a server's context, with a certificate for 127.0.0.1, localhost and *names*."""
        return self.context_for("127.0.0.1", "localhost", *names)

    def context_for(self, *names: str, **options: Any) -> ssl.SSLContext:
        """Return a server's context, with a certificate for *names* alone; *options* as for `certificate`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate(*names, **options).configure_cert(context)
        return context

    def certificate(self, *names: str, **options: Any) -> trustme.LeafCert:
        """Return a certificate for *names*; *options* are trustme's, such as ``common_name`` and ``not_after``."""
        return self._authority.issue_cert(*names, **options)

    def demanding_context(self, *names: str) -> ssl.SSLContext:
        """Return a context of a server that wants to be shown a certificate of this authority."""
        context = self.context_for(*names)
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context

    def write_authority(self, path: Path) -> None:
        """Write the authority itself to *path*, its key included, for a program that issues certificates."""
        path.write_bytes(self._authority.private_key_pem.bytes() + self._authority.cert_pem.bytes())

    def write_bundle(self, path: Path) -> Path:
        """Write what ``SSL_CERT_FILE`` wants to *path*; return it."""
        self._authority.cert_pem.write_to_path(str(path))
        return path
