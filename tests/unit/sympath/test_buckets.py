"""Buckets as places of a symbol path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import SymbolPathError
from symcache.sympath import (
    MICROSOFT,
    BucketPlace,
    ChainElement,
    DefaultPlace,
    Environment,
    HttpPlace,
    LocalPlace,
    SymbolPath,
    chains,
    parse_symbol_path,
    with_bucket,
    with_store,
    with_upstreams,
)

C = LocalPlace(r"C:\c")
H = HttpPlace("https://h/p")
B = BucketPlace("s3://b")
DEFAULT = Path("/default")
SYM = LocalPlace(str(DEFAULT))


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("srv*s3://b", (B,)),
        (r"srv*C:\c*s3://b*https://h/p", (C, B, H)),
        (r"srv*C:\c*https://h/p*s3://b", (C, H, B)),
        (r"srv*C:\c*s3://b*", (C, B, DefaultPlace())),
        ("srv*s3://b/", (B,)),
        ("srv*S3://b", (B,)),
        ("srv*s3://My.Bucket-1_x", (BucketPlace("s3://My.Bucket-1_x"),)),
        ("srv*gs://b/windows/x64/", (BucketPlace("gs://b/windows/x64"),)),
        ("srv*az://container/a%20b+ü~[x]", (BucketPlace("az://container/a%20b+ü~[x]"),)),
        ("srv*AZ://c/Prefix", (BucketPlace("az://c/Prefix"),)),
        (" srv * C:\\c * s3://b ", (C, B)),
        ("'srv*C:\\c*s3://b'", (C, B)),
        (r"symsrv*symsrv.dll*C:\c*s3://b", (C, B)),
    ],
)
def test_a_bucket_is_a_store_of_a_chain(text: str, places: tuple[object, ...]) -> None:
    path = parse_symbol_path(text)
    (element,) = path.elements
    assert isinstance(element, ChainElement)
    assert element.stores == places
    assert parse_symbol_path(str(path)) == path
    assert path.redacted() == str(path)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("srv*s3://", 4, "a bucket is written s3://bucket"),
        ("srv*C:\\c* gs:///x", 10, "a bucket is written gs://bucket or gs://bucket/prefix"),
        ("srv*az://-x", 4, "az://bucket"),
        ("srv*s3://b//x", 4, "s3://bucket"),
        ("srv*s3://b//", 4, "s3://bucket"),
        ("srv*s3://b/../x", 4, "s3://bucket"),
        ("srv*s3://b/./x", 4, "s3://bucket"),
        ("srv*s3://b/a b", 4, "s3://bucket"),
        ("srv*s3://b/a\\b", 4, "s3://bucket"),
        ("srv*s3://b?versionId=1", 4, "s3://bucket"),
        ("srv*s3://b/x#y", 4, "s3://bucket"),
        ("srv*s3://b:9000/x", 4, "s3://bucket"),
        ("srv*s3://key:secret@b", 4, "credentials are found in the environment"),
        ("srv*s3://ü", 4, "s3://bucket"),
        ("srv*s3://" + "x" * 223, 4, "s3://bucket"),
        ("srv*s3:b", 4, "s3: is not a kind of store"),
        ("srv*gcs://b", 4, "s3://, gs:// and az://"),
        (r"C:\c;s3://b", 5, "write srv* in front"),
        ("cache*s3://b", 6, "takes a folder"),
        (r"srv*s3://b*C:\d", 11, "nothing but URLs"),
        (r"srv*https://h*s3://b*\\mid\s", 21, "nothing but URLs"),
        ("srv*s3://b**https://h", 11, "nothing but URLs"),
    ],
)
def test_another_spelling_is_an_error_that_says_where(text: str, position: int, problem: str) -> None:
    with pytest.raises(SymbolPathError) as caught:
        parse_symbol_path(text)
    assert problem in caught.value.problem
    assert caught.value.position == position
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://AKIA:s3cr3t/x@b/p", "srv*s3://:s3cr3t@b", "srv*az://b?sv=1&sig=s3cr3t"])
def test_an_error_shows_no_credentials(text: str) -> None:
    with pytest.raises(SymbolPathError) as caught:
        parse_symbol_path(text)
    assert "s3cr3t" not in f"{caught.value}{caught.value!r}{caught.value.text}"


def test_nothing_is_expanded_in_it() -> None:
    environment = Environment({"HOME": "/home/me", "b": "x"}, "/home/me")
    path = parse_symbol_path("srv*C:\\c*s3://b/$b/%b%/~", environment)
    assert str(path) == "srv*C:\\c*s3://b/$b/%b%/~"


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("srv*s3://b", [(SYM, B)]),
        ("srv*s3://b*https://h/p", [(SYM, B, H)]),
        (r"srv*C:\c*s3://b*https://h/p", [(C, B, H)]),
        (r"srv*C:\c*https://h/p*s3://b*", [(C, SYM, H, B)]),
        (r"cache*C:\c;srv*s3://b", [(C,), (C, B)]),
        ("srv*s3://b*s3://b/", [(SYM, B)]),
    ],
)
def test_it_stands_behind_the_folders_of_its_chain(text: str, resolved: list[tuple[object, ...]]) -> None:
    assert [element.stores for element in chains(parse_symbol_path(text), DEFAULT)] == resolved


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("srv*", f"srv**s3://b*{MICROSOFT}"),
        ("srv*https://h/p", "srv*s3://b*https://h/p"),
        (r"srv*C:\c*https://h/p", r"srv*C:\c*s3://b*https://h/p"),
        (r"srv*C:\c*https://h/p*https://i*", r"srv*C:\c*s3://b*https://h/p*https://i*"),
        (r"srv*C:\c*\\mid\s", r"srv*C:\c*\\mid\s*s3://b"),
        (r"srv*C:\c*", r"srv*C:\c**s3://b"),
        (r"srv*C:\c*gs://other*https://h", r"srv*C:\c*s3://b*gs://other*https://h"),
        (r"srv*C:\c*https://h*s3://b", r"srv*C:\c*https://h*s3://b"),
        (r"cache*C:\c;C:\d;srv*https://h;srv*C:\e", r"cache*C:\c;C:\d;srv*s3://b*https://h;srv*C:\e"),
        (r"srv*\\host\share", r"srv*\\host\share*s3://b"),
        (r"srv*\\host\share;srv*C:\c*https://h", r"srv*\\host\share;srv*C:\c*s3://b*https://h"),
        (r"symsrv*symsrv.dll*C:\c*https://h", r"symsrv*symsrv.dll*C:\c*s3://b*https://h"),
    ],
)
def test_a_bucket_of_the_settings_stands_in_each_chain(text: str, expected: str) -> None:
    path = with_bucket(parse_symbol_path(text), "s3://b")
    assert str(path) == expected
    assert parse_symbol_path(str(path)) == path
    assert with_bucket(path, "s3://b") == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("srv*s3://b", "srv*{}*s3://b"),
        ("srv*s3://b*https://h*", "srv*{}*s3://b*https://h"),
        (r"srv*C:\c*s3://b", "srv*{}*s3://b"),
        (r"srv*\\mid\s*s3://b", r"srv*{}*\\mid\s*s3://b"),
    ],
)
def test_a_store_given_by_hand_stands_before_it(text: str, expected: str) -> None:
    path = with_store(parse_symbol_path(text), Path("/mine"))
    assert str(path) == expected.replace("{}", str(Path("/mine")))


def test_upstreams_of_one_run_fill_the_default_store_and_not_the_bucket() -> None:
    path = with_upstreams(parse_symbol_path("srv*s3://b"), ["https://up.test"], DEFAULT)
    assert str(path) == f"srv*{DEFAULT}*https://up.test;srv*s3://b"


@pytest.mark.parametrize(("text", "has_server"), [("srv*s3://b", False), ("srv*s3://b*https://h", True)])
def test_a_bucket_is_no_server(text: str, has_server: bool) -> None:
    assert parse_symbol_path(text).has_server is has_server


@given(st.text(st.sampled_from("s3gaz:/*;.bB-@?#%~ \\é[]") | st.characters(), max_size=30), st.sampled_from("sga"))
def test_whatever_follows_the_scheme_is_taken_or_refused(rest: str, first: str) -> None:
    scheme = {"s": "s3", "g": "gs", "a": "az"}[first]
    text = f"srv*{scheme}://{rest}"
    try:
        path = parse_symbol_path(text)
    except SymbolPathError as error:
        path, position = SymbolPath(()), error.position
    else:
        position = 0
        assert parse_symbol_path(str(path)) == path
    assert 0 <= position <= len(text)
    for element in path.elements:
        for place in getattr(element, "stores", ()):
            if isinstance(place, BucketPlace):
                parts = place.url.partition("://")[2].split("/")
                assert all(parts)
                assert not {".", ".."} & set(parts)
                assert not set(place.url) & set("@?#\\ ")
