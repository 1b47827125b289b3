"""Exchanges with a Redis or Valkey server that may be away, slow or hostile: bounded, and not tried again at once."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from symcache.errors import ConfigError
from symcache.stores.http.certificates import make_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.config import ClusterSettings

T = TypeVar("T")

LONGEST_S = 1.5
"""For one exchange, the connection and signing in included; looking up a name may take longer."""

_CONNECT_S = 0.5
_ANSWER_S = 1.0
_LEFT_ALONE_S = 2.0
_MOST_BYTES = 256 << 10
_MOST_CONNECTIONS = 64
_PORT = 6379

_DROP = """
local dropped = 0
for number, name in ipairs(KEYS) do
  if redis.call('get', name) == ARGV[number] then dropped = dropped + redis.call('del', name) end
end
return dropped
"""
"""A script that drops each of its keys that holds the argument of the same number."""


class Away(Exception):
    """The server did not answer as it should, or is left alone."""


class _Turn(threading.local):
    """What the exchange of a thread may still take."""

    end_s: float = 0.0
    left_bytes: int = 0


class _BoundedSocket:
    """A socket with which an exchange takes no longer, and reads no more, than it may."""

    def __init__(self, inner: socket.socket, turn: _Turn) -> None:
        self._inner = inner
        self._turn = turn
        self._timeout_s: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._inner.sendall(data)

    def recv(self, most_bytes: int, flags: int = 0) -> bytes:
        self._arm()
        data = self._inner.recv(most_bytes, flags)
        self._count(len(data))
        return data

    def recv_into(self, buffer: Any, *arguments: int) -> int:  # hiredis, where it is installed, reads by this
        self._arm()
        size_bytes = self._inner.recv_into(buffer, *arguments)
        self._count(size_bytes)
        return size_bytes

    def _arm(self) -> None:
        left_s = self._turn.end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._inner.settimeout(left_s if self._timeout_s is None else min(self._timeout_s, left_s))

    def _count(self, size_bytes: int) -> None:
        self._turn.left_bytes -= size_bytes
        if self._turn.left_bytes < 0:
            raise ValueError("longer than any answer")


class _Bounded:
    """What the connections below have in common."""

    def __init__(self, *, turn: _Turn, tls: ssl.SSLContext | None = None, **settings: Any) -> None:
        self._turn = turn
        self._tls = tls
        super().__init__(**settings)

    def _connect(self) -> _BoundedSocket:
        connected: socket.socket = super()._connect()  # type: ignore[misc]  # of the class that is mixed in
        if self._tls is not None:
            connected.settimeout(max(0.01, min(_ANSWER_S, self._turn.end_s - time.monotonic())))
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=self.host)  # type: ignore[attr-defined]
            except BaseException:
                connected.close()
                raise
        bounded = _BoundedSocket(connected, self._turn)
        bounded.settimeout(_ANSWER_S)
        return bounded


class _TcpConnection(_Bounded, redis.Connection):
    pass


class _UnixConnection(_Bounded, redis.UnixDomainSocketConnection):
    pass


class RedisServer:
    """The server that *settings* name; connections are made when they are needed, by whichever thread asks.

    One exchange that fails is enough to leave it alone for two seconds; then one tries it, with a write, as a server
    that only reads is of no use. Meanwhile, and while that one is under way, all others fail at once. It is no
    `CircuitBreaker`: that is of the event loop, and this is asked by threads.

    Args:
        settings: With a URL.
        tell: Is told once when the server goes away, and once when it is back, from any thread.
        clock_s: Monotonic seconds.

    Raises:
        ConfigError: The settings cannot be used.
    """

    def __init__(
        self, settings: ClusterSettings, *, tell: Callable[[str], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = settings.url  # which has no secrets
        self._tell = tell
        self._clock_s = clock_s
        self._try_name = f"{settings.prefix}try"
        self._turn = _Turn()
        self._lock = threading.Lock()
        self._is_up: bool | None = None  # None before the first exchange
        self._is_trying = False
        self._is_closed = False
        self._first_ended = threading.Event()
        self._not_before_s = 0.0
        self._client = _make_client(settings, self._turn)

    @property
    def is_up(self) -> bool:
        return self._is_up is True

    @property
    def is_left_alone(self) -> bool:
        """Whether an exchange would fail without having been tried."""
        if self._is_closed:
            return True
        return self._is_up is False and (self._is_trying or self._clock_s() < self._not_before_s)

    def ask(self, exchange: Callable[[redis.Redis], T], *, most_bytes: int = _MOST_BYTES) -> T:
        """Return what *exchange* makes of the server, all of whose answers may have *most_bytes*; it blocks.

        A ``ValueError`` of *exchange* means that the answer makes no sense.

        Raises:
            Away: There is no answer, or none to be used.
        """
        is_try = self._begin()
        self._turn.end_s = time.monotonic() + LONGEST_S
        self._turn.left_bytes = most_bytes
        try:
            if is_try:
                self._try()
            answer = exchange(self._client)
        except Exception as error:  # what another program sends may break the client in any way
            self._note_failure(_reason(error), is_try=is_try)
            raise Away from error
        finally:
            if self._is_closed:
                self._client.connection_pool.disconnect(inuse_connections=False)
        if is_try:
            self._note_success()
        return answer

    def note_stuck(self) -> None:
        """Note that an exchange took too long and was given up; until it ends, no other is tried."""
        self._note_failure("no answer in time", is_try=False)

    def close(self) -> None:
        """Let go of the connections; every exchange fails from now on. It is safe to call twice."""
        with self._lock:
            self._is_closed = True
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _begin(self) -> bool:
        """Return whether this exchange is the one that tries the server; `Away` if there is to be none."""
        while True:
            with self._lock:
                if self._is_closed:
                    raise Away
                if self._is_up:
                    return False
                if not self._is_trying and self._clock_s() >= self._not_before_s:
                    self._is_trying = True
                    return True
                if self._is_up is False:
                    raise Away
            # The first exchange of all is under way.
            if not self._first_ended.wait(LONGEST_S):
                raise Away

    def _try(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.set(self._try_name, "1", px=1000)
        pipeline.mget([self._try_name])
        pipeline.eval(_DROP, 1, self._try_name, "1")
        pipeline.execute()

    def _note_success(self) -> None:
        with self._lock:
            was_up, self._is_up, self._is_trying = self._is_up, True, False
        self._first_ended.set()
        if was_up is False:
            self._tell(f"cluster {self.name}: it is back")

    def _note_failure(self, reason: str, *, is_try: bool) -> None:
        with self._lock:
            is_news = self._is_up is not False and not self._is_closed
            self._is_up = False
            self._not_before_s = self._clock_s() + _LEFT_ALONE_S
            if is_try:
                self._is_trying = False
        self._first_ended.set()
        # The others are as useless, and each would have to find that out.
        self._client.connection_pool.disconnect(inuse_connections=False)
        if is_news:
            self._tell(f"cluster {self.name}: {reason}; this process goes on alone until that is over")


def _make_client(settings: ClusterSettings, turn: _Turn) -> redis.Redis:
    parts = urlsplit(settings.url)
    place: dict[str, Any]
    if parts.scheme == "unix":
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError("this system has no sockets by path", where="cluster.url")
        place = {"connection_class": _UnixConnection, "path": unquote(parts.path)}
    else:
        place = {"connection_class": _TcpConnection, "host": parts.hostname, "port": parts.port or _PORT}
        place["db"] = int(parts.path.strip("/") or 0)
        if parts.scheme == "rediss":
            place["tls"] = make_context(settings.ca_file, "cluster.ca_file")
    pool = redis.ConnectionPool(
        **place,
        turn=turn,
        # Not as words of their own, which older ones show when they show themselves.
        credential_provider=_credentials(settings),
        protocol=2,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=_ANSWER_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=_MOST_CONNECTIONS,
    )
    return redis.Redis(connection_pool=pool)


def _credentials(settings: ClusterSettings) -> redis.CredentialProvider | None:
    if not (settings.username or settings.password):
        return None
    return redis.UsernamePasswordCredentialProvider(settings.username or None, settings.password or None)


_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (redis.AuthenticationError, "it does not take this user and password (cluster.username, cluster.password)"),
    (redis.exceptions.BusyLoadingError, "it has just started and is still loading"),
    (redis.ReadOnlyError, "it is a replica that cannot be written"),
    (redis.exceptions.OutOfMemoryError, "it has no memory left"),
    (redis.exceptions.NoPermissionError, "its user may not do what is needed"),
    (redis.TimeoutError, "no answer in time"),
)


def _reason(error: BaseException) -> str:
    """Return what *error* is about in words of our own: the server's may hold what it was sent, the password too."""
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words
    if "NOAUTH" in str(error)[:100]:
        return _REASONS[0][1]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; cluster.ca_file names authorities"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS as it should"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, redis.ConnectionError):
        return "the connection was lost"
    return "its answer is none of a Redis server's that can be used"
