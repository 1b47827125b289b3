"""Which clients may ask and publish: passwords and tokens, of which only hashes are kept."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
from base64 import b64decode
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from symcache.config import Serve
    from symcache.server.files import RequestHeaders

__all__ = ["Gate", "hash_password", "hash_token"]

_COST = 14  # 2**14 rounds of scrypt: 16 MiB and about 50 ms, once for each new pair of name and password
_NO_USER = f"scrypt:{_COST}:{'0' * 32}:{'0' * 64}"
_MOST_REMEMBERED = 4096


def hash_password(password: str, *, salt: bytes | None = None, cost: int = _COST) -> str:
    """Return what the config file keeps of *password*: ``scrypt:cost:salt:hash``."""
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << cost, r=8, p=1, maxmem=1 << 30, dklen=32)
    return f"scrypt:{cost}:{salt.hex()}:{digest.hex()}"


def hash_token(token: str) -> str:
    """Return what the config file keeps of *token*: it is long and random, so one round is enough."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class Gate:
    """Checks the ``Authorization`` of requests.

    Args:
        settings: ``[serve]``: users, tokens, upload tokens.

    Attributes:
        is_open: Whether every client may ask.
    """

    def __init__(self, settings: Serve) -> None:
        self._users = dict(user.split(":", 1) for user in settings.users)
        self._tokens = settings.tokens
        self._upload_tokens = settings.upload_tokens
        self.is_open = not self._users and not self._tokens
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._limiter = anyio.Semaphore(2)

    def lets_in(self, headers: RequestHeaders) -> bool:
        """Whether a request may be answered, without the slow check of a password not seen before; False if unsure."""
        if self.is_open:
            return True
        shown = headers.get(b"authorization", b"")
        token = _bearer(shown)
        return _is_one_of(token, self._tokens) if token is not None else self._mark(shown) in self._right

    async def check(self, headers: RequestHeaders) -> bool:
        """Return whether a request may be answered."""
        shown = headers.get(b"authorization", b"")
        return self.lets_in(headers) or (bool(shown) and await self._has_right_password(shown))

    def may_upload(self, headers: RequestHeaders) -> bool:
        """Whether a request shows a token for publishing."""
        token = _bearer(headers.get(b"authorization", b""))
        return token is not None and _is_one_of(token, self._upload_tokens)

    async def _has_right_password(self, shown: bytes) -> bool:
        user, password = _basic(shown)
        kept = self._users.get(user)
        async with self._limiter:
            # Computed for unknown names too, so that the time taken does not tell which names exist.
            _, cost, salt, digest = (kept or _NO_USER).split(":")
            said = await to_thread.run_sync(lambda: hash_password(password, salt=bytes.fromhex(salt), cost=int(cost)))
        is_right = kept is not None and hmac.compare_digest(said.rpartition(":")[2], digest)
        if is_right:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right.add(self._mark(shown))
        return is_right

    def _mark(self, shown: bytes) -> bytes:
        """Return what is kept of credentials that were right: a client shows them each time, and scrypt is slow."""
        return hmac.digest(self._secret, shown, "sha256")


def _basic(shown: bytes) -> tuple[str, str]:
    scheme, _, value = shown.partition(b" ")
    if scheme.lower() != b"basic":
        return "", ""
    try:
        user, _, password = b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _bearer(shown: bytes) -> str | None:
    scheme, _, value = shown.partition(b" ")
    return value.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def _is_one_of(token: str, hashes: tuple[str, ...]) -> bool:
    said = hash_token(token)
    return any([hmac.compare_digest(said, each) for each in hashes])  # noqa: C419 - all of them, so that the time taken tells nothing
