"""Which certificates are trusted, and what a refused one says."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from symcache.errors import ConfigError
from symcache.stores.http.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import ServerEntry

__all__ = ["Certificate", "Trust", "explain_distrust", "make_context", "parse_certificate"]


class Trust:
    """The TLS settings for each server: who is trusted, and the certificate shown to a server that wants one.

    The operating system decides, and ``SSL_CERT_FILE``, ``SSL_CERT_DIR`` and *ca_file* add to it. On Linux that is what
    OpenSSL reads; where its own places hold nothing, as with a Python built elsewhere, truststore knows those of other
    distributions. On Windows and macOS truststore hands the decision to the system, which knows missing intermediates,
    roots that are loaded when needed, and the company's own.

    Raises:
        ConfigError: A file of certificates cannot be used.
    """

    def __init__(self, ca_file: Path | None = None, entries: Sequence[ServerEntry] = ()) -> None:
        self._ca_file = ca_file
        self._entries = tuple(entry for entry in entries if entry.client_certificate is not None)
        self._usual: ssl.SSLContext | None = None
        self._own: dict[str, ssl.SSLContext] = {}

    def context_for(self, origin: tuple[str, str, int]) -> ssl.SSLContext:
        """Return the settings for connections to *origin*, the same for all of them."""
        if self._entries:
            entry = next((entry for entry in self._entries if origin_of(httpx.URL(entry.url)) == origin), None)
            if entry is not None:
                return self._context_of(entry)
        if self._usual is None:
            self._usual = self._make()
        return self._usual

    def check(self) -> None:
        """Read all files that a setting names now, so that one that cannot be used is known before work begins."""
        if self._ca_file is not None:  # what the system trusts takes long to read, and may not be needed
            self.context_for(("https", "", 443))
        for entry in self._entries:
            self._context_of(entry)

    def _context_of(self, entry: ServerEntry) -> ssl.SSLContext:
        if entry.url not in self._own:
            context = self._make()
            assert entry.client_certificate is not None
            try:
                context.load_cert_chain(entry.client_certificate, entry.client_key, lambda: "")
            except (OSError, ssl.SSLError) as error:
                reason = (
                    error.strerror if not isinstance(error, ssl.SSLError) else "not PEM, encrypted, or the wrong key"
                )
                problem = f"{entry.client_certificate} cannot be used: {reason}"
                raise ConfigError(problem, where="server.client_certificate") from error
            self._own[entry.url] = context
        return self._own[entry.url]

    def _make(self) -> ssl.SSLContext:
        context = make_context(self._ca_file, "network.ca_file")
        context.set_alpn_protocols(["http/1.1"])
        return context


def make_context(ca_file: Path | None, where: str) -> ssl.SSLContext:
    """Return the TLS settings for servers that *ca_file*, the setting *where*, or the system vouches for; see `Trust`.

    Raises:
        ConfigError: *ca_file* cannot be used.
    """
    context = _system_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        _load(context, ca_file, where)
    return context


def _system_context() -> ssl.SSLContext:
    if sys.platform not in {"win32", "darwin"}:
        context = ssl.create_default_context()
        defaults = ssl.get_default_verify_paths()
        folder: str | None = defaults.capath  # None if it is not there, whatever the types say
        has_folder = folder is not None and any(True for _ in Path(folder).iterdir())
        if context.cert_store_stats()["x509_ca"] or has_folder:
            return context
    # It reads the whole bundle for each connection on Linux, 24 ms of processor time: only where nothing else is there.
    import truststore  # noqa: PLC0415

    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    defaults = ssl.get_default_verify_paths()
    if defaults.cafile and defaults.cafile != defaults.openssl_cafile:
        _load(context, Path(defaults.cafile), defaults.openssl_cafile_env)
    if defaults.capath and defaults.capath != defaults.openssl_capath:
        context.load_verify_locations(capath=defaults.capath)
    return context


def _load(context: ssl.SSLContext, path: Path, where: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        reason = "not a PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        problem = f"{path} holds no certificates: {reason}; name a PEM file of authorities, or leave it out"
        raise ConfigError(problem, where=where) from error


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says; a name is the common name, and the organization in brackets where it has both."""

    subject: str
    issuer: str
    begins: datetime
    ends: datetime


def parse_certificate(der: bytes) -> Certificate:
    """Return what an X.509 certificate says; certificates that were refused are nothing that `ssl` takes apart.

    Raises:
        ValueError: It is not one.

    Source: RFC 5280, section 4.1: a sequence of version (optional, tag 0), serial number, algorithm, issuer, validity,
    subject; names are sequences of sets of pairs, an object identifier and a string.
    """
    try:
        (certificate,) = _elements(der)
        fields = list(_elements(next(_elements(certificate[1]))[1]))
        if fields[0][0] == 0xA0:
            del fields[0]
        _, _, issuer, validity, subject = (content for _, content in fields[:5])
        begins, ends = (_parse_time(tag, content) for tag, content in _elements(validity))
        return Certificate(_parse_name(subject), _parse_name(issuer), begins, ends)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER element of *data* (X.690, section 8.1)."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("not a certificate")
        yield tag, data[at : at + length]
        at += length


_COMMON_NAME, _ORGANIZATION = bytes.fromhex("550403"), bytes.fromhex("55040a")
# Of strings by their tag; all others are UTF-8 or ASCII. T61 is taken for Latin-1, as everybody writes it.
_ENCODINGS = {0x14: "latin-1", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}


def _parse_name(name: bytes) -> str:
    parts: dict[bytes, str] = {}
    for _, pair in _elements(name):
        (_, kind), (tag, text) = _elements(next(_elements(pair))[1])
        parts[kind] = text.decode(_ENCODINGS.get(tag, "utf-8"), "replace")
    organization = parts.get(_ORGANIZATION)
    name_of = parts.get(_COMMON_NAME) or organization or "no name"
    shown = name_of if organization in {None, name_of} else f"{name_of} ({organization})"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)[:120]


def _parse_time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, up to 2049
        text = ("20" if text[:2] < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


# Sources: openssl/x509_vfy.h, X509_V_ERR_…; winerror.h, CERT_E_…; Security/SecBase.h, errSec…. Windows has one for both
# ends of the time.
_NOT_IN_TIME = frozenset({9, 10, 0x800B0101, -67818, -67819})
_SELF_SIGNED = 18
_UNKNOWN_ISSUER = frozenset({2, _SELF_SIGNED, 19, 20, 21, 0x800B0109, 0x800B010A, -67843})
_WRONG_HOST = frozenset({62, 64, 0x800B010F, -67602})


def explain_distrust(error: ssl.SSLCertVerificationError, certificate: Certificate | None, host: str) -> str:
    """Return why *host*'s certificate was refused, in one line, with what to do about it."""
    shown = "its certificate"
    if certificate is not None:
        shown += f", issued to {certificate.subject} by {certificate.issuer},"
    # truststore, where nothing was shown that could be looked at, sets neither.
    code, text = getattr(error, "verify_code", None), getattr(error, "verify_message", error.args[0])
    if code in _NOT_IN_TIME:
        now = datetime.now(UTC)
        if certificate is not None and certificate.begins > now:
            return f"{shown} is not valid before {certificate.begins:%Y-%m-%d}; look at this machine's clock"
        if certificate is None or certificate.ends > now:
            shown += " or one that vouches for it"
        when = f" on {certificate.ends:%Y-%m-%d}" if certificate is not None and certificate.ends <= now else ""
        return f"{shown} expired{when}; look at this machine's clock, else its operator must act"
    if code in _WRONG_HOST:
        return f"{shown} is for another host than {host}"
    if code in _UNKNOWN_ISSUER or code == 0:
        who = "itself alone" if code == _SELF_SIGNED else "an authority that this system does not trust"
        return f"{shown} is vouched for by {who}; most likely a company's proxy that inspects TLS: {_advice()}"
    return f"{shown} is not trusted: {text}"


def _advice() -> str:
    """Return what makes an authority trusted on this system."""
    system = {
        "win32": "have its authority put among the trusted root certificates of Windows",
        "darwin": "have its authority trusted in the keychain",
    }.get(sys.platform, "add its authority to the system's (update-ca-certificates, update-ca-trust)")
    return f"{system}, or name its PEM file by network.ca_file or SSL_CERT_FILE"
