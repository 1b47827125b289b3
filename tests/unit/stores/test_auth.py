"""Who one is, to servers: tokens, passwords, keyrings, handshakes; and that nobody else learns it."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import file, redirect, status
from support.parts import wine_lacks
from support.sources import KEY, PATH, PDB

from symcache.config import ServerEntry
from symcache.errors import UpstreamRefused
from symcache.stores.http import auth
from symcache.stores.http.auth import Credentials, Handshake, find_program, parse_token, wanted_schemes
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import MakeUpstream
    from support.answers import Answer
    from support.sources import Rig
    from support.upstream import Exchange, Upstream

NOW_S = 1_700_000_000.0
SECRET = "s3cr3t-t0k3n"


def said(upstream: Upstream, field: str = "authorization") -> list[str | None]:
    """Return what each request said of who one is."""
    return [request.headers.get(field) for request in upstream.requests]


def demanding(*accepted: str, field: str = "authorization") -> Answer:
    """Return an answer that wants one of these fields."""

    def answer(exchange: Exchange) -> None:
        known = exchange.request.headers.get(field) in accepted
        (file() if known else status(401, headers=[("WWW-Authenticate", "Bearer")]))(exchange)

    return answer


def entry(upstream: Upstream, **options: object) -> ServerEntry:
    return replace(ServerEntry(upstream.url, compressed=False, two_tier=False), **options)  # type: ignore[arg-type]


def printing(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({text!r})")


async def fetch(rig: Rig, upstream: Upstream, known: ServerEntry) -> Fetched | Failed:
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=(known,)) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched | Failed)
    assert SECRET not in repr(outcome) + repr(rig.events)
    return outcome


# What a command prints


@pytest.mark.parametrize(
    ("printed", "token", "lasts_s"),
    [
        ("abc\n", "abc", 900),
        ("  abc  \r\n", "abc", 900),
        ("protocol=https\nhost=h\nusername=me\npassword=abc\n", "abc", 900),
        (f"username=me\npassword=a=b=c\npassword_expiry_utc={NOW_S + 3600:.0f}\n", "a=b=c", 3600),
        ('{"token": "abc"}', "abc", 900),
        ('{"ServerURL": "h", "Username": "me", "Secret": "abc"}', "abc", 900),
        ('{"access_token": "abc", "expires_in": 3600}', "abc", 3600),
        ('{"accessToken": "abc", "expiresOn": "2023-11-14T23:13:20+00:00"}', "abc", 3600),
        (
            f'{{"accessToken": "abc", "expiresOn": "1999-01-01 00:00:00.000000", "expires_on": {NOW_S + 3600:.0f}}}',
            "abc",
            3600,
        ),
        ('{"token": "abc", "expiry": "2023-11-14T23:13:20Z"}', "abc", 3600),
        ('{"accessToken": null, "token": "abc"}', "abc", 900),
    ],
)
def test_a_token_is_read_in_every_form(printed: str, token: str, lasts_s: float) -> None:
    read, until_s = parse_token(printed, now_s=NOW_S)
    assert (read, until_s) == (token, NOW_S + lasts_s - 30)


def test_the_time_of_azures_command_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone is the system's")
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        _, until_s = parse_token('{"accessToken": "abc", "expiresOn": "2023-11-15 02:13:20.000000"}', now_s=NOW_S)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert until_s == NOW_S + 3600 - 30


def test_a_token_that_lasts_but_a_moment_is_used_for_half_of_it() -> None:
    assert parse_token('{"token": "abc", "expires_in": 20}', now_s=NOW_S)[1] == NOW_S + 10


@pytest.mark.parametrize("name", ["expires_in", "expires_on"])
def test_a_token_that_lasts_longer_than_numbers_go_is_used(name: str) -> None:
    assert parse_token(f'{{"token": "abc", "{name}": {"9" * 400}}}', now_s=NOW_S) == ("abc", math.inf)


@pytest.mark.parametrize(
    "printed",
    [
        *["", "\n", "two words", "zwölf", "a\x00b", "line\nline", "password=\n", "username=me\n", "{", "{}", "[]x y"],
        *['{"token": 5}', '{"token": ""}', '{"token": "a b"}', '{"token": "a", "expiry": "soon"}', "password=x\x1b[0m"],
        *['{"a":' + "[" * 100_000, f"password={SECRET}\npassword_expiry_utc=soon"],
    ],
)
def test_what_holds_no_token_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_token(printed, now_s=NOW_S)


@given(st.text(max_size=100) | st.text(max_size=60).map('{"token": "a", "expiry": "%s"}'.__mod__))
def test_no_output_stops_the_program(printed: str) -> None:
    try:
        token, _ = parse_token(printed, now_s=NOW_S)
    except ValueError:
        return
    assert token.isascii()
    assert token.isprintable()


# Commands


@pytest.mark.parametrize(
    "command",
    [
        printing(SECRET),
        printing(f"username=me\npassword={SECRET}"),
        printing(json.dumps({"access_token": SECRET, "expires_in": 3600})),
    ],
    ids=["alone", "git", "json"],
)
async def test_a_commands_token_is_sent_and_kept_for_the_run(
    command: Sequence[str], upstream: Upstream, rig: Rig
) -> None:
    upstream.files.update({PATH: PDB})
    upstream.always(PATH, demanding(f"Bearer {SECRET}"))
    assert isinstance(await fetch(rig, upstream, entry(upstream, token_command=command)), Fetched)
    assert said(upstream) == [f"Bearer {SECRET}"]


async def test_a_command_that_is_given_up_holds_up_nobody_though_what_it_started_lives_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        inner = f"import socket; socket.create_connection({listening.getsockname()!r}).recv(1)"
        outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
        async with anyio.create_task_group() as group:
            group.start_soon(auth.print_in_thread, [sys.executable, "-c", outer])
            inside, _ = await anyio.to_thread.run_sync(listening.accept)
            # What the test would hang without.
            rescue = threading.Timer(20, inside.close)
            rescue.start()
            group.cancel_scope.cancel()
        assert rescue.is_alive()
        rescue.cancel()
        inside.close()


class Command:
    """Stands in for a command: prints one text after the other, the last one for ever."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.runs = 0

    async def __call__(self, _command: Sequence[str]) -> str:
        self.runs += 1
        await anyio.lowlevel.checkpoint()
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


def credentials(command: Command, known: ServerEntry) -> Credentials:
    return Credentials((replace(known, token_command=("x",)),), run=command)


HTTPS = ServerEntry("https://symbols.example")
URL = httpx.URL("https://symbols.example/x")


def test_a_program_is_looked_for_in_the_folders_of_the_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "gh.EXE").touch()
    (there / "az.CMD").touch()
    monkeypatch.chdir(here)
    folders, suffixes = ["", ".", str(there)], [".EXE", ".CMD"]
    assert find_program("gh", folders, suffixes) == str(there / "gh.EXE")
    assert find_program("gh.EXE", folders, suffixes) == str(there / "gh.EXE")
    assert find_program("az", folders, suffixes) == str(there / "az.CMD")
    with pytest.raises(FileNotFoundError):
        find_program("az", ["", "."], suffixes)


async def test_a_command_runs_once_for_all_that_wait_for_it() -> None:
    command = Command("one", "two")
    known = credentials(command, HTTPS)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(known.sign_in, URL)
    assert command.runs == 1
    assert (await known.sign_in(URL)).fields == {"Authorization": "Bearer one"}


async def test_a_token_whose_time_is_over_is_asked_for_again() -> None:
    command = Command('{"token": "one", "expires_in": 0}', "two")
    known = credentials(command, HTTPS)
    assert (await known.sign_in(URL)).fields == {"Authorization": "Bearer one"}
    assert (await known.sign_in(URL)).fields == {"Authorization": "Bearer two"}


async def test_a_refused_token_is_renewed_once_for_all_that_were_refused() -> None:
    command = Command("one", "two", "three")
    known = credentials(command, HTTPS)
    signed = [await known.sign_in(URL) for _ in range(20)]

    async def renew(number: int) -> None:
        assert await signed[number].again(["Bearer"])
        assert signed[number].fields == {"Authorization": "Bearer two"}
        assert not await signed[number].again(["Bearer"])

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(renew, number)
    assert command.runs == 2


async def test_a_command_that_prints_what_is_refused_is_not_run_for_every_file() -> None:
    command = Command(SECRET)
    known = credentials(command, HTTPS)
    first = await known.sign_in(URL)
    assert await first.again([])
    for _ in range(20):
        signed = await known.sign_in(URL)
        with pytest.raises(UpstreamRefused, match="does not accept what token_command prints") as caught:
            await signed.again([])
        assert SECRET not in str(caught.value)
    assert command.runs == 2


def test_a_command_is_asked_on_every_event_loop_of_the_system() -> None:
    command = printing("fine")
    known = Credentials((replace(HTTPS, token_command=tuple(command)),))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(known.sign_in(URL)).fields == {"Authorization": "Bearer fine"}


async def test_a_401_brings_a_new_token(upstream: Upstream, rig: Rig, tmp_path: Path) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, demanding("Bearer token2"))
    counter = tmp_path / "runs"
    code = f"p = __import__('pathlib').Path({str(counter)!r}); n = p.stat().st_size + 1 if p.exists() else 1"
    code += "; p.write_bytes(b'x' * n); print(f'token{n}')"
    known = entry(upstream, token_command=(sys.executable, "-c", code))
    assert isinstance(await fetch(rig, upstream, known), Fetched)
    assert said(upstream) == ["Bearer token1", "Bearer token2"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((sys.executable, "-c", f"print('{SECRET}'); raise SystemExit(3)"), "it ended with 3"),
        ((sys.executable, "-c", f"print('{SECRET} and more')"), "it printed no token that can be used"),
        ((sys.executable, "-c", f"print('password={SECRET}\\npassword_expiry_utc={SECRET}')"), "it printed no token"),
        (("/no/such/program",), "" if sys.platform == "win32" else "No such file or directory"),
    ],
    ids=["fails", "junk", "junk as its time", "absent"],
)
async def test_a_command_that_fails_is_named_without_what_it_printed(
    command: Sequence[str], reason: str, upstream: Upstream, rig: Rig
) -> None:
    outcome = await fetch(rig, upstream, entry(upstream, token_command=command))
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert outcome.attempts[0].answer.startswith(f"token_command failed: {command[0]}: {reason}")
    assert upstream.requests == []
    assert rig.misses() == []


def has_ended(file: Path) -> bool:
    """Return whether the process that writes its number into *file* is gone, as far as this system tells."""
    return not file.exists() or not Path("/proc", file.read_text()).exists()


async def test_a_command_that_hangs_is_ended_and_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(auth, "_COMMAND_S", 1.0)
    code = f"p = __import__('pathlib').Path({str(tmp_path / 'pid')!r}); p.write_text(str(__import__('os').getpid()))"
    command = (sys.executable, "-c", f"{code}; __import__('time').sleep(60)")
    known = Credentials((replace(HTTPS, token_command=command),))
    began_s = time.monotonic()

    async def fail() -> None:
        with pytest.raises(UpstreamRefused, match="it did not end within 1 s"):
            await known.sign_in(URL)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(fail)
    await fail()
    assert time.monotonic() - began_s < 8
    assert has_ended(tmp_path / "pid")


async def test_a_command_that_failed_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command("", "", "fine")
    known = credentials(command, HTTPS)
    for _ in range(5):
        with pytest.raises(UpstreamRefused, match="printed no token"):
            await known.sign_in(URL)
    assert command.runs == 1
    monkeypatch.setattr(auth, "_BELIEVED_S", 0)
    known = credentials(command, HTTPS)
    with pytest.raises(UpstreamRefused):
        await known.sign_in(URL)
    assert (await known.sign_in(URL)).fields == {"Authorization": "Bearer fine"}


# Headers, keyrings


@pytest.mark.parametrize("name", ["PRIVATE-TOKEN", "X-Api-Key"])
async def test_a_token_goes_into_the_header_that_is_named(name: str, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, demanding(SECRET, field=name.lower()))
    assert isinstance(await fetch(rig, upstream, entry(upstream, token=SECRET, token_header=name)), Fetched)
    assert said(upstream) == [None]


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, str], str]]:
    """The passwords of a keyring in memory, by service and user."""
    backend = pytest.importorskip("keyring.backend", reason="keyring is not installed")
    import keyring  # noqa: PLC0415

    kept: dict[tuple[str, str], str] = {}

    class Memory(backend.KeyringBackend):  # type: ignore[misc,name-defined]
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    monkeypatch.setattr(auth, "_KEYRING_S", 10.0)
    yield kept
    keyring.set_keyring(before)


async def test_a_password_comes_from_the_keyring(
    keyring: dict[tuple[str, str], str], make_upstream: MakeUpstream, rig: Rig
) -> None:
    keyring["company symbols", "me"] = SECRET
    upstream = make_upstream({PATH: PDB}, credentials=("me", SECRET))
    known = entry(upstream, username="me", password_keyring="company symbols")
    assert isinstance(await fetch(rig, upstream, known), Fetched)


async def test_a_keyring_without_the_password_says_how_to_set_it(
    keyring: dict[tuple[str, str], str], upstream: Upstream, rig: Rig
) -> None:
    outcome = await fetch(rig, upstream, entry(upstream, username="me", password_keyring="company"))
    assert isinstance(outcome, Failed)
    assert outcome.attempts[0].answer == ("the keyring has no password for 'me' at 'company': keyring set company me")
    assert upstream.requests == []


async def test_a_keyring_that_fails_is_no_end_of_the_program(
    keyring: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise RuntimeError("no D-Bus here\nat all")

    monkeypatch.setattr(sys.modules["keyring"], "get_password", fail)
    known = Credentials((replace(HTTPS, username="me", password_keyring="company"),))
    with pytest.raises(UpstreamRefused) as caught:
        await known.sign_in(URL)
    assert caught.value.problem == "the keyring cannot be asked for 'company': RuntimeError: no D-Bus here"


async def test_a_keyring_that_is_locked_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_KEYRING_S", 0.2)
    over = threading.Event()
    monkeypatch.setattr(auth, "_ask_keyring", lambda _service, _user: over.wait(60))
    known = Credentials((replace(HTTPS, username="me", password_keyring="company"),))
    began_s = time.monotonic()
    for _ in range(3):
        with pytest.raises(UpstreamRefused, match="it may be locked"):
            await known.sign_in(URL)
    assert time.monotonic() - began_s < 30
    over.set()


async def test_without_its_extra_a_keyring_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    known = Credentials((replace(HTTPS, username="me", password_keyring="company"),))
    with pytest.raises(UpstreamRefused, match=r"pip install 'symcache\[keyring\]'"):
        await known.sign_in(URL)


# Nobody else


@pytest.mark.parametrize(
    "options",
    [
        {"token": SECRET},
        {"token": SECRET, "token_header": "X-Api-Key"},
        {"token_command": printing(SECRET)},
        {"username": "me", "password": SECRET},
    ],
    ids=["token", "header", "command", "password"],
)
async def test_no_redirect_takes_what_one_is_to_another_server(
    options: dict[str, object], make_upstream: MakeUpstream, rig: Rig
) -> None:
    other = make_upstream({PATH: PDB})
    upstream = make_upstream()
    upstream.always(PATH, redirect(f"{other.url}/{PATH}"))
    assert isinstance(await fetch(rig, upstream, entry(upstream, **options)), Fetched)
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert SECRET in str(upstream.requests[0].headers) or encoded in str(upstream.requests[0].headers)
    for request in other.requests:
        assert SECRET not in str(request.headers)
        assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "options",
    [
        {"token": SECRET},
        {"token_command": ("/no/such/program",)},
        {"username": "me", "password": SECRET},
        {"auth": "negotiate"},
        {"auth": "ntlm", "username": "me", "password": SECRET},
        {"username": "me", "password_keyring": "company"},
    ],
    ids=["token", "command", "password", "negotiate", "ntlm", "keyring"],
)
async def test_nothing_is_sent_over_plain_http_unless_that_is_allowed(options: dict[str, object]) -> None:
    known = replace(ServerEntry("http://symbols.example"), **options)  # type: ignore[arg-type]
    with pytest.raises(UpstreamRefused, match="not sent over plain http") as caught:
        await Credentials((known,)).sign_in(httpx.URL("http://symbols.example/x"))
    assert SECRET not in str(caught.value)
    assert "allow_http" in str(caught.value)


async def test_plain_http_is_allowed_by_a_word_and_to_this_machine() -> None:
    for url, allow_http in [
        ("http://symbols.example", True),
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
        ("http://[::1]:8080", False),
        ("https://symbols.example", False),
    ]:
        known = ServerEntry(url, token=SECRET, allow_http=allow_http)
        fields = (await Credentials((known,)).sign_in(httpx.URL(f"{url}/x"))).fields
        assert fields == {"Authorization": f"Bearer {SECRET}"}
    for url in ("http://localhost.example/x", "http://127.0.0.1.example/x"):
        known = ServerEntry(url, token=SECRET)
        with pytest.raises(UpstreamRefused, match="plain http"):
            await Credentials((known,)).sign_in(httpx.URL(url))


async def test_what_a_netrc_file_holds_is_not_sent_over_plain_http(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine symbols.example login me password {SECRET}\ndefault login you password {SECRET}\n")
    netrc.chmod(0o600)
    known = Credentials((), netrc)
    assert (await known.sign_in(httpx.URL("http://symbols.example/x"))).fields == {}
    assert known.describe(httpx.URL("http://symbols.example/x")) == "nothing is sent"
    assert (await known.sign_in(httpx.URL("https://other.example/x"))).fields == {}
    assert "Basic" in (await known.sign_in(httpx.URL("https://symbols.example/x"))).fields["Authorization"]


# Handshakes


@pytest.mark.parametrize(
    ("fields", "schemes"),
    [
        (["Negotiate", "NTLM"], ["Negotiate", "NTLM"]),
        (["Negotiate, NTLM"], ["Negotiate", "NTLM"]),
        (['Basic realm="a, b", Digest realm="c", nonce="d", qop="auth,auth-int", stale=false'], ["Basic", "Digest"]),
        (['Bearer realm = "x" , error="y"', 'Basic realm="z"'], ["Bearer", "Basic"]),
        (["Negotiate YII=, Basic realm=x"], ["Negotiate", "Basic"]),
        (['Basic realm="he said \\"NTLM, Negotiate\\""'], ["Basic"]),
        (["", ",", "=", '"'], []),
    ],
)
def test_the_ways_that_the_other_side_offers_are_told_from_their_parameters(
    fields: list[str], schemes: list[str]
) -> None:
    assert wanted_schemes(fields) == schemes


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_offer_stops_the_program(fields: list[str]) -> None:
    for scheme in wanted_schemes(fields):
        assert scheme.isascii()
        assert scheme.isprintable()
    anyio.run(Handshake("h", "me", SECRET).answer, fields)


class Slow:
    """Stands in for pyspnego where a domain cannot be reached."""

    @staticmethod
    def client(*_: object, **__: object) -> object:
        time.sleep(5)
        raise AssertionError


async def test_a_domain_that_cannot_be_reached_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    monkeypatch.setattr(auth, "_SYSTEM_S", 0.2)
    monkeypatch.setitem(sys.modules, "spnego", SimpleNamespace(client=Slow.client))
    known = Credentials((replace(HTTPS, auth="negotiate"),))
    began_s = time.monotonic()
    with pytest.raises(UpstreamRefused, match=r"Negotiate fails here: no answer .* within 0\.2 s"):
        await known.sign_in(URL)
    assert time.monotonic() - began_s < 3


async def test_without_its_extra_negotiate_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spnego", None)
    known = Credentials((replace(HTTPS, auth="negotiate"),))
    with pytest.raises(UpstreamRefused, match=r"pip install 'symcache\[negotiate\]'"):
        await known.sign_in(URL)


@wine_lacks("ntlm")
async def test_ntlm_takes_three_messages_on_one_connection(upstream: Upstream, rig: Rig) -> None:
    spnego = pytest.importorskip("spnego", reason="pyspnego is not installed")
    upstream.files[PATH] = PDB
    states: dict[int, object] = {}
    seen: list[int] = []

    def answer(exchange: Exchange) -> None:
        connection = exchange._connection.fileno()
        scheme, _, token = exchange.request.headers.get("authorization", "").partition(" ")
        seen.append(connection)
        if scheme != "NTLM":
            return status(401, headers=[("WWW-Authenticate", "NTLM")])(exchange)
        if connection not in states:
            # The middle message of MS-NLMP, section 4.2.4.3.
            states[connection] = token
            challenge = base64.b64encode(_CHALLENGE).decode()
            return status(401, headers=[("WWW-Authenticate", f"NTLM {challenge}")])(exchange)
        message = base64.b64decode(token)
        assert message.startswith(b"NTLMSSP\x00\x03")
        assert "me".encode("utf-16-le") in message
        return file()(exchange)

    upstream.always(PATH, answer)
    known = entry(upstream, auth="ntlm", username="DOM\\me", password=SECRET)
    assert isinstance(await fetch(rig, upstream, known), Fetched)
    assert len(set(seen)) == 1
    assert len(upstream.requests) == 3
    assert spnego


_CHALLENGE = bytes.fromhex(
    "4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef000000000000000024002400440000000600701700"
    "00000f53006500720076006500720002000c0044006f006d00610069006e0001000c005300650072007600650072000000000000"
    "00"
)


async def test_a_server_that_never_ends_a_handshake_is_left(upstream: Upstream, rig: Rig) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    challenge = base64.b64encode(_CHALLENGE).decode()
    offers = [("WWW-Authenticate", f"NTLM {challenge}"), ("WWW-Authenticate", "NTLM")]
    upstream.always(PATH, status(401, headers=offers))
    with anyio.fail_after(10):
        outcome = await fetch(rig, upstream, entry(upstream, auth="ntlm", username="DOM\\me", password=SECRET))
    assert isinstance(outcome, Failed)
    assert len(upstream.requests) < 12


@pytest.mark.parametrize(
    "token", ["\xe9" * 4, base64.b64encode(b"\xff" * 30).decode(), base64.b64encode(b"\xa1\x12\x30\x11").decode()]
)
async def test_a_token_that_makes_no_sense_is_a_refusal(token: str, upstream: Upstream, rig: Rig) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")

    def answer(exchange: Exchange) -> None:
        said = "authorization" in exchange.request.headers
        status(401, headers=[("WWW-Authenticate", f"NTLM {token}" if said else "NTLM")])(exchange)

    upstream.always(PATH, answer)
    outcome = await fetch(rig, upstream, entry(upstream, auth="ntlm", username="DOM\\me", password=SECRET))
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    gc.collect()  # its connection was closed, or this finds it


async def test_no_other_way_is_taken_than_the_one_that_is_named() -> None:
    offer = ['Digest realm="r", nonce="n"']
    assert str(await Handshake("h", "me", SECRET).answer(offer)).startswith("Digest ")
    assert await Handshake("h", "me", SECRET, schemes=("ntlm",)).answer(offer) is None
