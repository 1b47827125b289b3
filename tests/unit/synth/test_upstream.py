from __future__ import annotations

import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from symcache.synth.upstream import LoopbackUpstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX = "a.pdb/00112233445566778899AABBCCDDEEFF1/a.pdb"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def upstream() -> Iterator[LoopbackUpstream]:
    with LoopbackUpstream({INDEX: CONTENT}) as upstream:
        yield upstream


def ask(upstream: LoopbackUpstream, target: str, **fields: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(upstream.url).port or 0, timeout=20)
    try:
        connection.request("GET", target, headers={name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def place_of(upstream: LoopbackUpstream, index: str = INDEX) -> str:
    status, headers, body = ask(upstream, f"/download/symbols/{index}")
    assert (status, body) == (302, b"")
    return headers["Location"]


@pytest.mark.parametrize("index", [INDEX, INDEX.lower(), INDEX.upper()])
def test_a_file_is_had_by_a_redirect_in_any_letter_case(upstream: LoopbackUpstream, index: str) -> None:
    status, headers, body = ask(upstream, place_of(upstream, index))
    assert (status, body) == (200, CONTENT)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"]


@pytest.mark.parametrize("target", ["/", "/download/symbols/", f"/download/symbols/{INDEX[:-1]}_", "/pingme.txt"])
def test_what_it_lacks_is_404_without_a_body(upstream: LoopbackUpstream, target: str) -> None:
    status, _, body = ask(upstream, target)
    assert (status, body) == (404, b"")


def test_a_part_is_sent_alone(upstream: LoopbackUpstream) -> None:
    place = place_of(upstream)
    status, headers, body = ask(upstream, place, Range="bytes=100-199")
    assert (status, body, headers["Content-Range"]) == (206, CONTENT[100:200], f"bytes 100-199/{len(CONTENT)}")
    status, headers, body = ask(upstream, place, Range=f"bytes={len(CONTENT) - 5}-")
    assert (status, body) == (206, CONTENT[-5:])
    status, headers, body = ask(upstream, place, Range=f"bytes={len(CONTENT)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(CONTENT)}")


def test_a_part_of_another_version_is_sent_whole(upstream: LoopbackUpstream) -> None:
    status, _, body = ask(upstream, place_of(upstream), Range="bytes=0-9", If_Range='"another"')
    assert (status, body) == (200, CONTENT)


@pytest.mark.parametrize("change", [lambda at: at[:-1] + "x", lambda at: at.partition("?")[0], lambda at: at[:-70]])
def test_a_place_that_was_not_signed_is_forbidden(upstream: LoopbackUpstream, change: Callable[[str], str]) -> None:
    assert ask(upstream, change(place_of(upstream)))[0] == 403


def test_a_signature_expires(upstream: LoopbackUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(upstream)
    monkeypatch.setattr("symcache.synth.upstream.time.time", lambda: 4e9)
    assert ask(upstream, place)[0] == 403
