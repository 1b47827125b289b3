"""Upstreams that are named for one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from symcache.config import load_config
from symcache.errors import ConfigError
from symcache.sympath import parse_symbol_path, with_upstreams

DEFAULT = Path("/default")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("srv*/sym*https://one.test", "srv*/sym*https://up.test;srv*/sym*https://one.test"),
        ("srv*/sym*/mid*https://one.test", "srv*/sym*https://up.test;srv*/sym*/mid*https://one.test"),
        ("srv*https://one.test", "srv*/default*https://up.test;srv*https://one.test"),
        ("cache*/c;srv*https://one.test", "srv*/c*https://up.test;cache*/c;srv*https://one.test"),
        ("/plain;srv*/sym*https://one.test", "srv*/sym*https://up.test;/plain;srv*/sym*https://one.test"),
        ("/plain", "srv*/default*https://up.test;/plain"),
        (r"srv*\\s\sh", r"srv*\\s\sh*https://up.test;srv*\\s\sh"),
    ],
)
def test_they_are_asked_first_and_fill_the_same_store(text: str, expected: str) -> None:
    filled = with_upstreams(parse_symbol_path(text), ["https://up.test"], DEFAULT)
    assert str(filled) == expected.replace("/default", str(DEFAULT))


def test_several_are_asked_in_their_order_and_none_changes_nothing() -> None:
    path = parse_symbol_path("srv*/sym*https://one.test")
    assert str(with_upstreams(path, ["https://b.test", "https://a.test"], DEFAULT)).startswith(
        "srv*/sym*https://b.test*https://a.test;"
    )
    assert with_upstreams(path, [], DEFAULT) is path


def test_settings_take_them_after_the_store_is_chosen(tmp_path: Path) -> None:
    config = load_config(
        None, {}, symbol_path="srv*/sym*https://one.test", store=tmp_path, upstreams=["https://up.test"]
    )
    assert str(config.symbol_path) == f"srv*{tmp_path}*https://up.test;srv*{tmp_path}*https://one.test"


@pytest.mark.parametrize("url", ["", "/folder", "ftp://x", "https://a.test*https://b.test", "https://a.test;/b"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="upstream"):
        load_config(None, {}, upstreams=[url])


def test_credentials_in_one_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, upstreams=["https://me:hunter2@up.test/x"])
    assert "hunter2" not in str(caught.value)
