"""Who one is, to servers and proxies: fields that are sent unasked, and answers to 401 and 407."""

from __future__ import annotations

import errno
import json
import netrc
import os
import re
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import anyio
import httpx

from symcache.errors import UpstreamRefused
from symcache.stores.concurrency import call_detached
from symcache.stores.http.servers import entry_for
from symcache.stores.http.urls import is_loopback, redact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

    from symcache.config import ServerEntry

__all__ = ["Credentials", "Handshake", "SignIn", "describe_401", "wanted_schemes"]


_COMMAND_S = 60.0
_SYSTEM_S = 8.0  # less than a connection may take, so that it is named what takes so long
_PROGRAM_SUFFIXES = (".exe", ".cmd", ".bat")
_KEYRING_S = 60.0  # it may ask the user
_BELIEVED_S = 30.0  # how long what failed is not tried again
# A token that says nothing of its end is asked for again after this, as git does with its cache.
_TOKEN_S = 900.0
_EARLY_S = 30.0
_MOST_MESSAGES = 8  # of one handshake; Kerberos and NTLM take two


def basic(user: str, password: str) -> str:
    """Return the ``Authorization`` field of RFC 7617."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


# A name that no "=" follows; what stands in quotation marks is blanked before.
_SCHEME = re.compile(r"(?:^|,)[ \t]*([A-Za-z][A-Za-z0-9_-]{0,30})(?=[ \t]+[^ \t=]|[ \t]*(?:,|$))")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')


def _challenges(fields: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield scheme and parameters of each challenge in ``WWW-Authenticate`` or ``Proxy-Authenticate`` *fields*.

    Source: RFC 9110, section 11.6.1: several may stand in one field.
    """
    for field in fields:
        matches = list(_SCHEME.finditer(_QUOTED.sub(lambda quoted: '"' * len(quoted[0]), field)))
        ends = [*(match.start() for match in matches[1:]), len(field)]
        for match, end in zip(matches, ends, strict=False):
            yield match[1], field[match.end() : end].strip(" \t,")


def wanted_schemes(fields: Iterable[str]) -> list[str]:
    """Return the schemes that ``WWW-Authenticate`` or ``Proxy-Authenticate`` *fields* ask for, such as ``NTLM``."""
    return list(dict.fromkeys(scheme for scheme, _ in _challenges(fields)))


def describe_401(challenges: Iterable[str]) -> str:
    """Return what a server's 401 means, given its ``WWW-Authenticate`` fields."""
    schemes = wanted_schemes(challenges)
    return f"401: it wants {' or '.join(schemes)}" if schemes else "401"


class Handshake:
    """Says to one server or proxy, on one connection, who one is.

    Args:
        host: Its name.
        username: None for the signed-in user.
        password: Theirs.
        schemes: What may be used, in lower case; empty for whatever the other side asks for.
        is_trusted: Whether the signed-in user may be named without *schemes*, as to a proxy that they chose.
    """

    def __init__(
        self,
        host: str,
        username: str | None = None,
        password: str = "",
        *,
        schemes: Sequence[str] = (),
        is_trusted: bool = False,
    ) -> None:
        self._host = host
        self._username = username
        self._password = password
        self._schemes = frozenset(schemes)
        self._is_trusted = is_trusted
        self._context: Any = None
        self._digest: httpx.DigestAuth | None = None
        self._is_answered = False
        self._messages = 0
        self.problem = ""  # why the signed-in user could not be named

    async def first(self) -> str | None:
        """Return what is sent before anything is asked; None for nothing.

        A Negotiate token is good for one connection, as the other side remembers those that it has seen.
        """
        if "negotiate" in self._schemes:
            return await self._step("Negotiate", None)
        if self._username is not None and (not self._schemes or "basic" in self._schemes):
            return basic(self._username, self._password)
        return None

    async def answer(self, fields: Sequence[str], *, method: str = "GET", target: str = "/") -> str | None:
        """Return the answer to a 401 or 407; None if there is none, or if the last one was not accepted.

        Args:
            fields: ``WWW-Authenticate`` or ``Proxy-Authenticate``.
            method: Of the request that is to be sent again.
            target: Its target, as it stands in the request line.

        Raises:
            UpstreamRefused: As `first`.
        """
        for scheme, token in _challenges(fields):
            if scheme.lower() in {"negotiate", "ntlm"} and token and self._context is not None:
                return await self._step(scheme, token)
        if self._is_answered or self._context is not None:
            return None
        self._is_answered = True
        wanted = {scheme.lower() for scheme in wanted_schemes(fields)}
        for scheme in ("Negotiate", "NTLM"):
            if scheme.lower() in wanted and self._may_use(scheme):
                try:
                    return await self._step(scheme, None)
                except UpstreamRefused as error:
                    if self._schemes:
                        raise
                    self.problem = error.problem  # another scheme may do
        if "digest" in wanted and self._username is not None and not self._schemes:
            return self._answer_digest(fields, method, target)
        return None

    def _may_use(self, scheme: str) -> bool:
        if self._schemes:
            return scheme.lower() in self._schemes
        # Without a password NTLM is at hand on Windows alone.
        may_ask_system = self._is_trusted and (scheme == "Negotiate" or sys.platform == "win32")
        return (self._username is not None or may_ask_system) and find_spec("spnego") is not None

    def again(self, method: str, target: str) -> str | None:
        """Return what goes with a further request on the same connection; None for nothing."""
        if self._digest is not None:
            signed = next(self._digest.auth_flow(_request_line(method, target)))
            value: str | None = signed.headers.get("authorization")
            return value
        if self._context is None and self._username is not None and (not self._schemes or "basic" in self._schemes):
            return basic(self._username, self._password)
        return None

    def _answer_digest(self, fields: Sequence[str], method: str, target: str) -> str | None:
        wanted = next(parameters for scheme, parameters in _challenges(fields) if scheme.lower() == "digest")
        digest = httpx.DigestAuth(self._username or "", self._password)
        request = _request_line(method, target)
        flow = digest.auth_flow(request)
        next(flow)
        try:
            # What httpx looks for cookies by, where the target of CONNECT is no URL.
            asked = httpx.Request("GET", "http://localhost/")
            challenge = httpx.Response(401, headers=[(b"www-authenticate", f"Digest {wanted}".encode())], request=asked)
            answered = flow.send(challenge)
            value: str | None = answered.headers.get("authorization")
        except (httpx.ProtocolError, LookupError, ValueError, NotImplementedError, StopIteration):
            return None  # a challenge that makes no sense, or wants what httpx cannot do
        if value is None or not value.isascii():
            return None
        self._digest = digest
        return value

    async def _step(self, scheme: str, token: str | None) -> str | None:
        self._messages += 1
        if self._messages > _MOST_MESSAGES:
            return None
        try:
            received = None if token is None else b64decode(token)
        except ValueError:
            raise UpstreamRefused(f"{scheme} fails here: a token that makes no sense", url=self._host) from None
        try:
            with anyio.fail_after(_SYSTEM_S):
                sent = await call_detached(self._advance, scheme, received)
        except TimeoutError:
            problem = f"{scheme} fails here: no answer from this system within {_SYSTEM_S:g} s (is a domain reachable?)"
            raise UpstreamRefused(problem, url=self._host) from None
        return None if sent is None else f"{scheme} {b64encode(sent).decode('ascii')}"

    def _advance(self, scheme: str, received: bytes | None) -> bytes | None:
        try:
            import spnego  # noqa: PLC0415 - an extra
            from spnego.exceptions import SpnegoError  # noqa: PLC0415
        except ImportError:
            problem = f"it wants {scheme}, which needs an extra: pip install 'symcache[negotiate]'"
            raise UpstreamRefused(problem, url=self._host) from None
        try:
            if self._context is None:
                self._context = spnego.client(
                    self._username,
                    self._password or None,
                    hostname=self._host,
                    service="HTTP",
                    protocol=scheme.lower(),
                )
            sent: bytes | None = self._context.step(received)
        except (SpnegoError, ImportError, ValueError, OSError) as error:
            raise UpstreamRefused(f"{scheme} fails here: {_reason(error)}", url=self._host) from error
        except Exception as error:
            if received is None:
                raise
            # Whatever pyspnego stumbles over in what the other side made up: KeyError, struct.error and others.
            raise UpstreamRefused(f"{scheme} fails here: a token that makes no sense", url=self._host) from error
        return sent


def _reason(error: Exception) -> str:
    """Return what went wrong, of the chain of texts that GSSAPI gives: what its mechanism says of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    mechanism = re.search(r"Minor \(-?\d+\): ([^,]+)", text)
    return text[:200] if mechanism is None else mechanism[1]


def _request_line(method: str, target: str) -> httpx.Request:
    """Return as much of a request as Digest is about; its target may be a ``host:port``, which no URL can hold."""
    line = SimpleNamespace(method=method, url=SimpleNamespace(raw_path=target.encode("ascii")), headers=httpx.Headers())
    return cast("httpx.Request", line)


@dataclass(slots=True)
class SignIn:
    """What one request says of who one is.

    Attributes:
        fields: Go with it.
        handshake: Answers a 401, on the connection that it came on.
        renew: Returns other fields than those that were refused.
    """

    fields: Mapping[str, str]
    handshake: Handshake | None = None
    renew: Callable[[], Awaitable[Mapping[str, str]]] | None = None

    async def again(self, challenges: Sequence[str]) -> bool:
        """Return whether the request is to be sent again, with the `fields` as they are now, after a 401.

        Args:
            challenges: Its ``WWW-Authenticate`` fields.
        """
        if self.handshake is not None:
            answer = await self.handshake.answer(challenges)
            self.fields = {} if answer is None else {"Authorization": answer}
            return answer is not None
        if self.renew is None:
            return False
        self.fields, self.renew = await self.renew(), None
        return True


class Credentials:
    """What each server is told of who one is: by its entry in the config file, else by the user's netrc file.

    Nothing but what a URL itself says is sent over plain HTTP, unless to this machine or by the entry's ``allow_http``.

    Args:
        entries: What the config file says of servers.
        netrc_file: The user's netrc file; None looks at none. One that cannot be read counts as empty.
        run: Runs a command and returns what it printed.
    """

    def __init__(
        self,
        entries: tuple[ServerEntry, ...] = (),
        netrc_file: Path | None = None,
        *,
        run: Callable[[Sequence[str]], Awaitable[str]] | None = None,
    ) -> None:
        self._entries = entries
        self._run = run or _run_command
        self._tokens: dict[str, tuple[str, float]] = {}
        self._passwords: dict[str, str] = {}
        self._renewed: dict[str, tuple[str, float]] = {}  # the token that came after one was refused, and when
        self._failures: dict[str, tuple[str, float]] = {}
        self._lock = anyio.Lock()
        self._hosts: dict[str, tuple[str, str, str]] = {}
        if netrc_file is not None and netrc_file.is_file():
            try:
                self._hosts = dict(netrc.netrc(str(netrc_file)).hosts)
            except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
                self._hosts = {}
        # It would be sent to every server there is.
        self._hosts.pop("default", None)

    def describe(self, url: httpx.URL) -> str:
        """Return in words what *url*'s server is told of who one is, without secrets."""
        if url.userinfo:
            return "user and password of the URL"
        entry = entry_for(str(url), self._entries)
        if entry is None or not _has_credentials(entry):
            text = "user and password of the netrc file" if self._netrc_login(url) else "nothing is sent"
        elif entry.token_command or entry.token is not None:
            text = "a token" + (f" of the command {entry.token_command[0]}" if entry.token_command else "")
            text += f", as {entry.token_header}" if entry.token_header else ""
        elif entry.auth is not None:
            text = f"{entry.auth} as {entry.username or 'the signed-in user'}"
        else:
            text = f"password of {entry.username!r}" + (" from the keyring" if entry.password_keyring else "")
        if entry is not None and entry.client_certificate is not None:
            text += f", and the certificate {entry.client_certificate.name}"
        return text

    async def sign_in(self, url: httpx.URL) -> SignIn:
        """Return what a request for *url* says; what stands in the URL comes first.

        Raises:
            UpstreamRefused: It may not be sent over plain HTTP, or cannot be had.
        """
        if url.userinfo:
            user, _, secret = url.userinfo.decode("ascii").partition(":")
            return SignIn({"Authorization": basic(unquote(user), unquote(secret))})
        entry = entry_for(str(url), self._entries) if self._entries else None
        if entry is None or not _has_credentials(entry):
            known = self._netrc_login(url)
            return SignIn({"Authorization": basic(known[0] or known[1], known[2])} if known else {})
        if url.scheme != "https" and not entry.allow_http and not is_loopback(url.host):
            problem = "credentials are not sent over plain http; use https, or set allow_http = true for this server"
            raise UpstreamRefused(problem, url=redact(url))
        if entry.token_command:
            token = await self._command_token(entry, url)

            async def renew() -> Mapping[str, str]:
                return _token_fields(entry, await self._command_token(entry, url, refused=token))

            return SignIn(_token_fields(entry, token), renew=renew)
        if entry.token is not None:
            return SignIn(_token_fields(entry, entry.token))
        password = entry.password
        if entry.password_keyring is not None:
            password = await self._keyring_password(entry, url)
        if entry.auth is not None:
            handshake = Handshake(url.host, entry.username, password or "", schemes=(entry.auth,))
            first = await handshake.first()
            return SignIn({} if first is None else {"Authorization": first}, handshake)
        return SignIn({"Authorization": basic(entry.username or "", password or "")})

    def _netrc_login(self, url: httpx.URL) -> tuple[str, str, str] | None:
        return self._hosts.get(url.host) if url.scheme == "https" or is_loopback(url.host) else None

    async def _command_token(self, entry: ServerEntry, url: httpx.URL, *, refused: str | None = None) -> str:
        async with self._lock:  # a command may ask the user something, once
            known = self._tokens.get(entry.url)
            if known is not None and time.time() < known[1] and known[0] != refused:
                return known[0]
            self._raise_known_failure(entry, url)
            command = entry.token_command[0]
            renewed, renewed_s = self._renewed.get(entry.url, ("", 0.0))
            if refused == renewed and time.monotonic() < renewed_s + _BELIEVED_S:
                raise self._note_failure(f"401: it does not accept what token_command prints: {command}", entry, url)
            try:
                printed = await self._run(entry.token_command)
                token, until_s = parse_token(printed, now_s=time.time())
            except subprocess.CalledProcessError as error:
                reason = f"it ended with {error.returncode}"
            except TimeoutError:
                reason = f"it did not end within {_COMMAND_S:g} s"
            except OSError as error:
                reason = error.strerror or type(error).__name__
            except ValueError:
                reason = "it printed no token that can be used"  # what it printed may be half a secret
            else:
                self._tokens[entry.url] = token, until_s
                if refused is not None:
                    self._renewed[entry.url] = token, time.monotonic()
                return token
            raise self._note_failure(f"token_command failed: {command}: {reason}", entry, url)

    async def _keyring_password(self, entry: ServerEntry, url: httpx.URL) -> str:
        service, user = entry.password_keyring or "", entry.username or ""
        async with self._lock:
            if entry.url in self._passwords:
                return self._passwords[entry.url]
            self._raise_known_failure(entry, url)
            try:
                with anyio.fail_after(_KEYRING_S):
                    password = await call_detached(_ask_keyring, service, user)
            except UpstreamRefused as error:
                problem = error.problem
            except ImportError:
                problem = "password_keyring needs an extra: pip install 'symcache[keyring]'"
            except TimeoutError:
                problem = f"the keyring did not answer within {_KEYRING_S:g} s; it may be locked"
            else:
                if password is not None:
                    self._passwords[entry.url] = password
                    return password
                problem = f"the keyring has no password for {user!r} at {service!r}: keyring set {service} {user}"
            raise self._note_failure(problem, entry, url)

    def _raise_known_failure(self, entry: ServerEntry, url: httpx.URL) -> None:
        problem, until_s = self._failures.get(entry.url, ("", 0.0))
        if time.monotonic() < until_s:
            raise UpstreamRefused(problem, url=redact(url))

    def _note_failure(self, problem: str, entry: ServerEntry, url: httpx.URL) -> UpstreamRefused:
        self._failures[entry.url] = problem, time.monotonic() + _BELIEVED_S
        return UpstreamRefused(problem, url=redact(url))


def _has_credentials(entry: ServerEntry) -> bool:
    return (
        bool(entry.token or entry.token_command or entry.auth or entry.password_keyring) or entry.password is not None
    )


def _token_fields(entry: ServerEntry, token: str) -> Mapping[str, str]:
    return {entry.token_header: token} if entry.token_header else {"Authorization": f"Bearer {token}"}


def _ask_keyring(service: str, user: str) -> str | None:
    import keyring  # noqa: PLC0415 - an extra

    try:
        return keyring.get_password(service, user)
    except Exception as error:  # of whatever the keyring is, such as D-Bus or the system of Windows
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UpstreamRefused(f"the keyring cannot be asked for {service!r}: {reason}", url=service) from error


async def _run_command(command: Sequence[str]) -> str:
    program, *arguments = command
    if sys.platform == "win32" and program == Path(program).name:
        # Windows itself looks into the current folder first, where a dump lies and what came with it; and for no .cmd.
        program = find_program(program, os.get_exec_path(), _PROGRAM_SUFFIXES)
    with anyio.fail_after(_COMMAND_S):
        printed = await _print_of([program, *arguments])
    return printed.decode("utf-8", "replace")


async def _print_of(command: list[str]) -> bytes:
    """Return what *command* prints; what else it has to say is for the user."""
    if sys.platform == "win32":
        # The selector loop runs no commands there: that of several workers of a server, of Jupyter and of Tornado.
        printed = await print_in_thread(command)
    else:
        printed = (await anyio.run_process(command, stderr=None)).stdout
    return printed


async def print_in_thread(command: list[str]) -> bytes:
    """Return what *command* prints, on any event loop; `CalledProcessError` if it failed."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603, ASYNC220
    try:
        printed, _ = await call_detached(process.communicate)
    except BaseException:
        # No more than that: what az.cmd started lives on and holds the pipe, which only the thread can wait for.
        process.kill()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    return printed


def find_program(name: str, folders: Iterable[str], suffixes: Sequence[str]) -> str:
    """Return the path of the first program in *folders* called *name*, with one of *suffixes* if it has none.

    Raises:
        FileNotFoundError: There is none.
    """
    names = [name] if Path(name).suffix else [name + suffix for suffix in suffixes]
    for folder in folders:
        for each in names:
            if Path(folder).is_absolute() and (path := Path(folder) / each).is_file():
                return str(path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def parse_token(printed: str, *, now_s: float) -> tuple[str, float]:
    """Return the token that a command printed, and until when it counts, in seconds since 1970.

    Forms: the token alone; lines as git's credential helpers print them (``password=``, ``password_expiry_utc=``); JSON
    with ``token``, ``access_token``, ``accessToken`` or ``Secret`` (docker), and ``expires_in``, ``expires_on``,
    ``expiresOn`` or ``expiry`` beside it.

    Raises:
        ValueError: There is none.

    Source: gitcredentials(7); docker-credential-helpers; the output of ``az account get-access-token``.
    """
    text = printed.strip()
    until_s = now_s + _TOKEN_S
    token: object = text
    if text.startswith("{"):
        try:
            said = json.loads(text, parse_int=float)  # which has no longest number
        except RecursionError:
            raise ValueError("it printed no token") from None
        token = next(
            (said[name] for name in ("token", "access_token", "accessToken", "Secret") if said.get(name)), None
        )
        if isinstance(seconds := said.get("expires_in"), int | float):
            until_s = now_s + seconds
        for name in ("expires_on", "expiresOn", "expiry"):
            if said.get(name):
                until_s = _parse_time(said[name])
                break
    elif re.match(r"(?:protocol|host|path|username|password)=", text):
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        token = lines.get("password")
        if "password_expiry_utc" in lines:
            until_s = float(lines["password_expiry_utc"])
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("it printed no token")
    return token, until_s - min(_EARLY_S, max(until_s - now_s, 0) / 2)


def _parse_time(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    text = str(value)
    return float(text) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text).timestamp()
