"""Who may ask and who may publish: passwords and tokens, of which only hashes are kept."""

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
    from symcache.server.protocol import Exchange

__all__ = ["Gate", "hash_password", "hash_token"]

_COST = 14  # 2**14 rounds of scrypt: 16 MiB and some 50 ms, once for each client that shows a new password
_NOBODY = f"scrypt:{_COST}:{'0' * 32}:{'0' * 64}"
_MOST_REMEMBERED = 4096
_CHALLENGE = (b"www-authenticate", b'Basic realm="symcache", charset="UTF-8"')


def hash_password(password: str, *, salt: bytes | None = None, cost: int = _COST) -> str:
    """Return what the config file keeps of *password*: ``scrypt:cost:salt:hash``."""
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << cost, r=8, p=1, maxmem=1 << 30, dklen=32)
    return f"scrypt:{cost}:{salt.hex()}:{digest.hex()}"


def hash_token(token: str) -> str:
    """Return what the config file keeps of *token*, which is long and random, so that one round is enough."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class Gate:
    """Lets requests in by their ``Authorization``.

    Args:
        settings: ``[serve]``: users, tokens, upload tokens.
    """

    def __init__(self, settings: Serve) -> None:
        self._users = dict(user.split(":", 1) for user in settings.users)
        self._tokens = settings.tokens
        self._upload_tokens = settings.upload_tokens
        self._secret = secrets.token_bytes(32)
        self._right: set[bytes] = set()
        self._limiter = anyio.Semaphore(2)

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return not self._users and not self._tokens

    async def admit(self, exchange: Exchange) -> bool:
        """Return whether *exchange* may be answered; otherwise it has been, with 401."""
        if self.is_open:
            return True
        shown = exchange.fields.get(b"authorization", b"")
        if shown and await self._is_right(shown):
            return True
        exchange.said = "unauthorized"
        await exchange.say(401, "who are you?", [_CHALLENGE])
        return False

    def may_upload(self, exchange: Exchange) -> bool:
        """Whether *exchange* shows a token for publishing."""
        token = _bearer(exchange.fields.get(b"authorization", b""))
        return token is not None and _is_one_of(token, self._upload_tokens)

    async def _is_right(self, shown: bytes) -> bool:
        token = _bearer(shown)
        if token is not None:
            return _is_one_of(token, self._tokens)
        # A client shows the same with every request, and the hash is slow on purpose.
        mark = hmac.digest(self._secret, shown, "sha256")
        if mark in self._right:
            return True
        user, password = _basic(shown)
        kept = self._users.get(user)
        async with self._limiter:
            # Worked out for names that do not exist too, so that the time does not tell which do.
            _, cost, salt, digest = (kept or _NOBODY).split(":")
            said = await to_thread.run_sync(lambda: hash_password(password, salt=bytes.fromhex(salt), cost=int(cost)))
        is_right = kept is not None and hmac.compare_digest(said.rpartition(":")[2], digest)
        if is_right:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right.add(mark)
        return is_right


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
    return any([hmac.compare_digest(said, each) for each in hashes])  # noqa: C419 - all of them, whichever is right
