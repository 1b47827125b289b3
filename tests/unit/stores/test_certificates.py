"""Who is trusted; and what is said, with its facts, of a certificate that is refused."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.authority import Authority
from support.parts import need, wine_lacks
from support.proxy import ForwardingProxy
from support.sources import KEY, PATH, PDB

from symcache.config import ServerEntry
from symcache.errors import ConfigError, UpstreamError
from symcache.stores.http.certificates import Certificate, Trust, explain_distrust, parse_certificate
from symcache.stores.http.reply import translate
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeUpstream
    from support.sources import Rig

BEGAN, ENDED = datetime(2020, 1, 2, tzinfo=UTC), datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
OPENSSL = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509")


def make_by_openssl(folder: Path, subject: str, *options: str) -> bytes:
    """Return a self-signed certificate of that subject."""
    command = [need("openssl"), "req", *OPENSSL, "-subj", subject, "-keyout", str(folder / "key"), *options]
    done = subprocess.run([*command, "-outform", "DER"], capture_output=True, check=True)
    return done.stdout


def test_what_a_certificate_says_is_read(authority: Authority) -> None:
    issued = authority.certificate(
        "symbols.example", common_name="symbols.example", organization_name="Example", not_before=BEGAN, not_after=ENDED
    )
    certificate = parse_certificate(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))
    assert certificate == Certificate("symbols.example (Example)", "Example authority", BEGAN, ENDED)


@pytest.mark.parametrize(
    ("subject", "options", "shown"),
    [
        ("/CN=proxy.example", (), "proxy.example"),
        ("/O=Example", (), "Example"),
        ("/O=Example/CN=Example", (), "Example"),
        ("/O=Example/CN=proxy", (), "proxy (Example)"),
        ("/OU=nobody", (), "no name"),
        ("/CN=Größe ünd Ärger", ("-utf8",), "Größe ünd Ärger"),
        ("/CN=日本", ("-utf8",), "日本"),
        (f"/O={'o' * 64}/CN={'n' * 64}", (), f"{'n' * 64} ({'o' * 54}"),
        ("/CN=\x1b[31mred\n", (), "?[31mred?"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_certificate_made_by_openssl_is_read(
    subject: str, options: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    certificate = parse_certificate(make_by_openssl(tmp_path, subject, "-days", "30", *options))
    assert certificate.subject == certificate.issuer == shown
    assert before <= certificate.begins <= datetime.now(UTC)
    lasts = certificate.ends - certificate.begins
    assert abs(lasts - timedelta(days=30)) <= timedelta(seconds=1)  # openssl looks at the clock for either


@pytest.mark.parametrize("mask", ["utf8only", "MASK:0x0800", "MASK:0x0100", "MASK:0x0004"])
def test_times_after_2050_and_strings_of_every_kind_are_read(mask: str, tmp_path: Path) -> None:
    """The masks are those of OpenSSL's asn1.h: UTF-8, BMP, Universal, T61."""
    config = tmp_path / "openssl.cnf"
    config.write_text(f"[req]\ndistinguished_name = name\nstring_mask = {mask}\n[name]\n")
    der = make_by_openssl(tmp_path, "/CN=Größe", "-utf8", "-days", "36500", "-config", str(config))
    certificate = parse_certificate(der)
    assert certificate.subject == "Größe"
    assert certificate.ends.year > 2100


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"\x30\x80" + rest))
def test_hostile_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_certificate(data)


@given(data=st.data())
def test_a_damaged_certificate_is_read_or_refused(authority: Authority, data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(_issued(authority)))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    der = der[: data.draw(st.integers(0, len(der)))]
    try:
        certificate = parse_certificate(bytes(der))
    except ValueError:
        return
    assert certificate.subject.isprintable()
    assert len(certificate.subject) <= 120


_made: list[str] = []


def _issued(authority: Authority) -> str:
    if not _made:
        _made.append(authority.certificate("x", common_name="x").cert_chain_pems[0].bytes().decode())
    return _made[0]


# What is said of one that is refused


async def refused(rig: Rig, url: str, **options: object) -> str:
    """Return why a file cannot be had of *url*."""
    async with rig.source(f"srv*{rig.store}*{url}", **options) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert rig.misses() == []
    return outcome.attempts[0].answer


@pytest.fixture(params=[False, True], ids=["directly", "through a proxy"])
def through_proxy(request: pytest.FixtureRequest) -> bool:
    is_so: bool = request.param
    return is_so


@wine_lacks("own authorities")
@pytest.mark.parametrize("kind", ["unknown", "expired", "not yet valid", "another host", "self-signed"])
async def test_a_refused_certificate_is_named_with_its_facts(
    kind: str, through_proxy: bool, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    later = datetime.now(UTC) + timedelta(days=40)
    options = {
        "expired": {"not_before": BEGAN, "not_after": ENDED},
        "not yet valid": {"not_before": later, "not_after": later + timedelta(days=1)},
    }.get(kind, {})
    host = "other.example" if kind == "another host" else "127.0.0.1"
    tls = authority.context_for(host, common_name="symbols", organization_name="symbols", **options)
    if kind == "self-signed":
        made = make_by_openssl(tmp_path, "/CN=symbols", "-addext", "subjectAltName=IP:127.0.0.1")
        (tmp_path / "own.pem").write_text(ssl.DER_cert_to_PEM_cert(made))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(tmp_path / "own.pem", tmp_path / "key")
    upstream = make_upstream({PATH: PDB}, tls=tls)
    issuer = "symbols" if kind == "self-signed" else "Example authority"
    with ForwardingProxy() as proxy:
        network = {"ca_file": None if kind == "unknown" else bundle, "proxy": proxy.url if through_proxy else ""}
        answer = await refused(rig, upstream.url, **network)
        assert bool(proxy.requests) is through_proxy
    assert answer.startswith(f"its certificate, issued to symbols by {issuer}, ")
    said = {
        "unknown": "is vouched for by an authority that this system does not trust",
        "expired": "expired on 2021-03-04",
        "not yet valid": f"is not valid before {later:%Y-%m-%d}",
        "another host": "is for another host than 127.0.0.1",
        "self-signed": "is vouched for by itself alone",
    }[kind]
    assert said in answer
    assert ("network.ca_file" in answer) is (kind in {"unknown", "self-signed"})
    assert ("clock" in answer) is (kind in {"expired", "not yet valid"})
    assert upstream.requests == []


@pytest.mark.parametrize("code", range(100))
def test_every_reason_has_a_line(code: int) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "some reason of OpenSSL"
    certificate = Certificate("a", "b", BEGAN, ENDED)
    for known in (certificate, None):
        text = explain_distrust(error, known, "h")
        assert text.startswith("its certificate")
        assert text.isprintable()
        assert text.count(",") >= 2 or known is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0x800B0101, "expired on 2021-03-04"),
        (0x800B0109, "an authority that this system does not trust"),
        (0x800B010A, "an authority that this system does not trust"),
        (0x800B010F, "another host than h"),
        (-67818, "expired on 2021-03-04"),
        (-67843, "an authority that this system does not trust"),
        (-67602, "another host than h"),
    ],
)
def test_what_windows_and_macos_refuse_is_explained_too(code: int, said: str) -> None:
    error = ssl.SSLCertVerificationError(1, "a text of the system")
    error.verify_code, error.verify_message = code, "a text of the system"
    text = explain_distrust(error, Certificate("a", "b", BEGAN, ENDED), "h")
    assert said in text
    assert ("network.ca_file" in text) is ("authority" in said)


@pytest.mark.parametrize("code", [9, 10, 0x800B0101])
def test_a_certificate_that_is_in_time_itself_is_not_said_to_have_ended(code: int) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate has expired")
    error.verify_code, error.verify_message = code, "certificate has expired"
    text = explain_distrust(error, Certificate("a", "b", BEGAN, datetime.max.replace(tzinfo=UTC)), "h")
    assert "9999" not in text
    assert "one that vouches for it" in text


# What is trusted


@wine_lacks("own authorities")
async def test_the_variables_of_openssl_are_heeded(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = make_upstream({PATH: PDB}, tls=authority.server_context())
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    trust = Trust(bundle)  # the name alone: what it reads is not kept from test to test
    assert trust.context_for(("https", "h", 443)).verify_mode is ssl.CERT_REQUIRED
    entry = ServerEntry(upstream.url, compressed=False, two_tier=False)
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=(entry,), ca_file=bundle) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    from symcache.stores.http import certificates  # noqa: PLC0415

    named = certificates._system_context()
    assert named.get_ca_certs() == Trust(bundle)._context_of(_shown(authority, tmp_path)).get_ca_certs()


def _shown(authority: Authority, folder: Path) -> ServerEntry:
    leaf = authority.certificate("me@example", common_name="me")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "me.pem"))
    return ServerEntry("https://127.0.0.1", client_certificate=folder / "me.pem")


@wine_lacks("own authorities")
@pytest.mark.parametrize("is_split", [False, True], ids=["one file", "two files"])
async def test_a_server_that_wants_a_certificate_is_shown_one(
    is_split: bool, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    upstream = make_upstream({PATH: PDB}, tls=authority.demanding_context("127.0.0.1"))
    leaf = authority.certificate("me@example", common_name="me")
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    entry = ServerEntry(
        upstream.url,
        compressed=False,
        two_tier=False,
        client_certificate=tmp_path / ("certificate.pem" if is_split else "both.pem"),
        client_key=tmp_path / "key.pem" if is_split else None,
    )
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=(entry,), ca_file=bundle) as source:
        assert isinstance(await source.fetch(KEY), Fetched)


@wine_lacks("own authorities")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def test_a_server_that_is_shown_no_certificate_is_named(
    version: ssl.TLSVersion, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    tls = authority.demanding_context("127.0.0.1")
    tls.minimum_version = tls.maximum_version = version
    upstream = make_upstream({PATH: PDB}, tls=tls)
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    answer = await refused(rig, upstream.url, ca_file=bundle)
    assert answer.endswith("it wants a certificate of yours: name it by client_certificate in this server's block")
    assert rig.clock.slept == []  # no second try can mend that


@wine_lacks("own authorities")
async def test_a_server_that_does_not_accept_the_certificate_is_named(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    upstream = make_upstream({PATH: PDB}, tls=authority.demanding_context("127.0.0.1"))
    stranger = _shown(Authority("A stranger"), tmp_path)
    entry = ServerEntry(upstream.url, client_certificate=stranger.client_certificate)
    answer = await refused(rig, upstream.url, ca_file=authority.write_bundle(tmp_path / "ca.pem"), servers=(entry,))
    assert answer.startswith("it does not accept the certificate that it was shown")


@wine_lacks("own authorities")
async def test_the_certificate_is_shown_to_no_other_server(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    shown_to, other = (make_upstream({PATH: PDB}, tls=authority.demanding_context("127.0.0.1")) for _ in range(2))
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    entry = ServerEntry(shown_to.url, client_certificate=_shown(authority, tmp_path).client_certificate)
    assert "wants a certificate" in await refused(rig, other.url, ca_file=bundle, servers=(entry,))


def encrypted(key: bytes) -> bytes:
    command = [need("openssl"), "ec", "-aes128", "-passout", "pass:secret"]
    return subprocess.run(command, input=key, capture_output=True, check=True).stdout


@pytest.mark.parametrize("content", [None, "", "nonsense", "encrypted", "no key"])
async def test_a_client_certificate_that_cannot_be_used_is_an_error_of_the_configuration(
    content: str | None, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pem"
    if content == "encrypted":
        leaf = authority.certificate("me@example")
        path.write_bytes(leaf.cert_chain_pems[0].bytes() + encrypted(leaf.private_key_pem.bytes()))
    elif content == "no key":
        authority.certificate("me@example").cert_chain_pems[0].write_to_path(str(path))
    elif content is not None:
        path.write_text(content)
    entry = ServerEntry("https://symbols.example", client_certificate=path)
    source = rig.source(f"srv*{rig.store}*https://symbols.example", servers=(entry,))
    with pytest.raises(ConfigError, match=r"mine\.pem cannot be used: ") as caught:
        await source.__aenter__()
    assert caught.value.where == "server.client_certificate"


def test_what_truststore_raises_is_explained_although_it_lacks_what_openssl_sets() -> None:
    error = ssl.SSLCertVerificationError("Peer sent no certificates to verify")
    assert explain_distrust(error, None, "h") == "its certificate is not trusted: Peer sent no certificates to verify"
    refused = httpx.ConnectError("no handshake")
    refused.__cause__ = error
    assert isinstance(translate(refused, "https://h"), UpstreamError)
