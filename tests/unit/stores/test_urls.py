from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import UpstreamRefused
from symcache.stores.http.urls import file_url, origin_of, parse_url, redact, redirect_target


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("http://h", "http://h/a.pdb/1/a.pdb"),
        ("http://h/", "http://h/a.pdb/1/a.pdb"),
        ("http://h//x//", "http://h//x/a.pdb/1/a.pdb"),
        ("https://h:8443/x/y?sig=1", "https://h:8443/x/y/a.pdb/1/a.pdb?sig=1"),
        ("https://u:p@h/%20", "https://u:p@h/%20/a.pdb/1/a.pdb"),
    ],
)
def test_a_file_lies_below_its_base(base: str, expected: str) -> None:
    assert str(file_url(parse_url(base), ["a.pdb", "1", "a.pdb"])) == expected


@given(st.text(min_size=1).filter(lambda part: part.isprintable() and "/" not in part and part not in {".", ".."}))
def test_a_part_stays_one_part(part: str) -> None:
    url = file_url(parse_url("http://h/x"), [part, "1"])
    assert url.path == f"/x/{part}/1"
    assert url.raw_path.count(b"/") == 3
    assert not url.query
    assert not url.fragment


@pytest.mark.parametrize(
    "text",
    [
        "http://[::1%.\ufffd5a]/",
        "",
        "x",
        "ftp://h/x",
        "file:///x",
        "http://",
        "//h/x",
        "http://[::1",
        "http://h:99999",
        "http://xn--",
    ],
)
def test_only_absolute_http_urls_are_asked(text: str) -> None:
    with pytest.raises(UpstreamRefused):
        parse_url(text)


@pytest.mark.parametrize("text", ["https://u:p@h:1/x?sig=s#f", "https://u:p@h:1/x", "https://p@h:1/x?p"])
def test_what_is_shown_holds_no_secret(text: str) -> None:
    assert redact(text) == redact(httpx.URL(text)) == "https://h:1/x"


def test_origins_are_equal_by_scheme_host_and_port() -> None:
    same = ["https://h/x", "https://H:443/y?z", "https://u:p@h"]
    assert len({origin_of(httpx.URL(text)) for text in same}) == 1
    others = ["http://h/", "https://h:444/", "https://g/"]
    assert len({origin_of(httpx.URL(text)) for text in [same[0], *others]}) == 4


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://blob/x?sig=1", "https://blob/x?sig=1"),
        ("/y", "https://h/y"),
        ("y?z", "https://h/x/y?z"),
        ("//blob/x", "https://blob/x"),
    ],
)
def test_a_redirect_may_be_relative(location: str, target: str) -> None:
    assert str(redirect_target(httpx.URL("https://h/x/1"), location, shown="shown")) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://h/x",
        "ftp://h/x",
        "javascript:x",
        "https://h:x/",
        "https://h:99999/",
        "https://xn--/",
        "http://[::1",
        "http:////[",
    ],
)
def test_a_redirect_leads_to_no_worse_place(location: str) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        redirect_target(httpx.URL("https://h/secret?sig=1"), location, shown="shown")
    assert caught.value.url == "shown"
    assert "secret" not in str(caught.value)
