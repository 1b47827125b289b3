from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.growth import growth

from symcache.errors import SymbolPathError
from symcache.sympath import (
    MICROSOFT,
    BucketPlace,
    DefaultPlace,
    Environment,
    HttpPlace,
    LocalPlace,
    Place,
    ResolvedElement,
    SymbolPath,
    UncPlace,
    chains,
    parse_symbol_path,
    redact_path,
    redact_text,
    redact_url,
    redact_words,
    with_store,
)
from symcache.sympath import CacheElement as Cache
from symcache.sympath import ChainElement as Chain
from symcache.sympath import FolderElement as Folder

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = DefaultPlace()
STORE = Path("/default/sym")
SYM = LocalPlace(str(STORE))
C = LocalPlace(r"C:\c")
MID = UncPlace(r"\\mid\s")
H = HttpPlace("https://h/p")
MSDL = HttpPlace(MICROSOFT)


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        pytest.param(r"C:\c", [Folder(C)], id="a plain folder"),
        pytest.param("/var/sym", [Folder(LocalPlace("/var/sym"))], id="a plain folder of another system"),
        pytest.param("sym", [Folder(LocalPlace("sym"))], id="a relative folder"),
        pytest.param(r"\\mid\s", [Folder(MID)], id="a share"),
        pytest.param(r"\\mid\s\a b", [Folder(UncPlace(r"\\mid\s\a b"))], id="a folder of a share"),
        pytest.param(r"\\?\C:\c", [Folder(LocalPlace(r"\\?\C:\c"))], id="the long form of a local folder"),
        pytest.param(r"\\?\UNC\mid\s", [Folder(UncPlace(r"\\?\UNC\mid\s"))], id="the long form of a share"),
        pytest.param(r"C:\c;\\mid\s", [Folder(C), Folder(MID)], id="two elements"),
        pytest.param("srv*", [Chain((DEFAULT,))], id="the default store"),
        pytest.param(r"srv*C:\c*https://h/p", [Chain((C, H))], id="a folder and a server"),
        pytest.param(r"SrV*C:\c*https://h/p", [Chain((C, H))], id="keywords in any case"),
        pytest.param(r"srv**https://h/p", [Chain((DEFAULT, H))], id="an empty token"),
        pytest.param(r"srv*C:\c*", [Chain((C, DEFAULT))], id="an empty token at the end"),
        pytest.param("srv*https://h/p*", [Chain((H, DEFAULT))], id="an empty token after a URL"),
        pytest.param("srv*https://h/p*http://i", [Chain((H, HttpPlace("http://i")))], id="two URLs"),
        pytest.param(r"symsrv*symsrv.dll*C:\c", [Chain((C,), "symsrv.dll")], id="a DLL named"),
        pytest.param(r"symsrv*symsrv.dll*", [Chain((DEFAULT,), "symsrv.dll")], id="a DLL and the default store"),
        pytest.param("cache*", [Cache(DEFAULT)], id="the default cache"),
        pytest.param(r"cache*C:\c;srv*https://h/p", [Cache(C), Chain((H,))], id="a cache"),
        pytest.param(
            r" C:\c ;; srv * C:\c * https://h/p ;", [Folder(C), Chain((C, H))], id="blanks and empty elements"
        ),
        pytest.param("C:\\c\r\nsrv*https://h/p\n", [Folder(C), Chain((H,))], id="line breaks"),
        pytest.param(r"srv*C:\c;symsrv*SymSrv.DLL*C:\c", [Chain((C,)), Chain((C,), "SymSrv.DLL")], id="one DLL twice"),
        pytest.param("srv*" + "*".join(["a"] * 10), [Chain((LocalPlace("a"),) * 10)], id="ten stores"),
        pytest.param("srv*http://[::1]:8000/", [Chain((HttpPlace("http://[::1]:8000/"),))], id="an IPv6 host"),
        pytest.param('"srv*https://h/p"', [Chain((H,))], id="quotes round the whole"),
        pytest.param(" \u201csrv*https://h/p \u201d ", [Chain((H,))], id="typographic quotes round the whole"),
        pytest.param("'srv*https://h/p'", [Chain((H,))], id="single quotes round the whole"),
        pytest.param("'odd'", [Folder(LocalPlace("'odd'"))], id="a folder's name with single quotes"),
        pytest.param("srv*./srv.example/s", [Chain((LocalPlace("./srv.example/s"),))], id="a folder like a server"),
        pytest.param("srv*build.out", [Chain((LocalPlace("build.out"),))], id="a relative folder with a dot"),
        pytest.param(r"srv*sym.d\x", [Chain((LocalPlace(r"sym.d\x"),))], id="a relative folder in another"),
        pytest.param(
            r"\\files.corp.example\s", [Folder(UncPlace(r"\\files.corp.example\s"))], id="a share's full host"
        ),
        pytest.param("\n  sym\n", [Folder(LocalPlace("sym"))], id="a relative folder on a line of its own"),
        pytest.param("C:/mail@home/s", [Folder(LocalPlace("C:/mail@home/s"))], id="an at sign in a folder"),
        pytest.param("C:\\c\n.\\d", [Folder(C), Folder(LocalPlace(".\\d"))], id="a relative folder on its own line"),
    ],
)
def test_a_symbol_path_parses(text: str, elements: list[Folder | Cache | Chain]) -> None:
    assert parse_symbol_path(text) == SymbolPath(tuple(elements))


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        pytest.param("", 0, "it is empty", id="nothing"),
        pytest.param(" ; \n", 0, "it is empty", id="separators alone"),
        pytest.param(r"srv*C:\c*https://h*C:\d", 19, "nothing but URLs", id="a URL in the middle"),
        pytest.param(r"srv*https://h*\\mid\s", 14, "nothing but URLs", id="a URL before a share"),
        pytest.param("srv*https://h**https://i", 14, "nothing but URLs", id="a URL before an empty token"),
        pytest.param(r"C:\c; https://h/p", 6, "srv* in front", id="a URL alone"),
        pytest.param(r"srv*C:\c;symsrv*other.dll*C:\c", 9, "one symbol server DLL", id="two DLLs"),
        pytest.param("srv*" + "*".join(["a"] * 11), 24, "at most 10", id="eleven stores"),
        pytest.param(r"C:\c;srv", 5, "followed by '*'", id="srv without a star"),
        pytest.param("cache", 0, "followed by '*'", id="cache without a star"),
        pytest.param(r"cache*C:\c*https://h", 11, "one folder", id="a cache with two places"),
        pytest.param("cache*https://h", 6, "takes a folder", id="a cache behind HTTP"),
        pytest.param(r"symsrv*C:\c*https://h", 7, "name of a DLL", id="symsrv without a DLL"),
        pytest.param("symsrv*", 7, "name of a DLL", id="symsrv with nothing"),
        pytest.param("symsrv*symsrv.dll", 7, "and a store", id="a DLL without a store"),
        pytest.param(r"sevr*C:\c", 0, "srv, symsrv or cache", id="another keyword"),
        pytest.param("srv*ftp://h/p", 4, "ftp: is not", id="another scheme"),
        pytest.param("srv*file:///c/sym", 4, "file: is not", id="a file URL"),
        pytest.param(r"srv*https:\\h\p", 10, "begins with https://", id="back slashes"),
        pytest.param("srv*https://", 4, "host is missing", id="no host"),
        pytest.param("srv*https://h:99999/", 4, "not well formed", id="no such port"),
        pytest.param("srv*https://h/a b", 15, "no ' '", id="a blank in a URL"),
        pytest.param(r"srv*\\mid", 4, r"\\host\share", id="a share's host alone"),
        pytest.param(r"\\\s", 0, r"\\host\share", id="a share without a host"),
        pytest.param("set _NT_SYMBOL_PATH = srv*", 0, "a command", id="pasted from cmd"),
        pytest.param("$env:_NT_SYMBOL_PATH='srv*'", 0, "a command", id="pasted from PowerShell"),
        pytest.param("_NT_SYMBOL_PATH=srv*", 0, "a command", id="an assignment"),
        pytest.param(r".sympath+ C:\c", 0, "a command", id="pasted from the debugger"),
        pytest.param(r'srv*"C:\c"', 4, "quotation", id="quotation marks"),
        pytest.param("srv*C:\\c\0", 8, "control", id="a control character"),
        pytest.param("srv*C:\\c\x9c", 8, "control", id="a control character of the second set"),
        pytest.param("\u202aC:\\c", 0, "invisible character U+202A", id="a mark copied from a dialog"),
        pytest.param("srv*C:\\c\ufeff", 8, "invisible character U+FEFF", id="a byte order mark"),
        pytest.param("srv*\u201cC:\\c\u201d", 4, "quotation", id="typographic quotation marks"),
        pytest.param(" 'srv*C:x'", 8, "back slash", id="inside quotes"),
        pytest.param("srv*c*srv.example/symbols", 6, "https://srv.example/symbols, a folder ./srv", id="no scheme"),
        pytest.param("srv*c*srv.example", 6, "no URL", id="a host alone behind a store"),
        pytest.param(r"srv*c*srv.example\s", 6, "https://srv.example/s,", id="no scheme and back slashes"),
        pytest.param("srv*srv.example/s", 4, "no URL", id="no scheme in the first place"),
        pytest.param("srv*www.srv.example", 4, "no URL", id="a host of three labels"),
        pytest.param("srv.example/symbols", 0, "no URL", id="no scheme and no srv"),
        pytest.param("srv*c*127.0.0.1:80/s", 6, "no URL", id="an address"),
        pytest.param("srv*localhost:8080", 4, "no URL", id="a host and a port"),
        pytest.param("srv*c*http//host/p", 10, "begins with http://", id="no colon"),
        pytest.param("SRV*..*HTTPS//host/p", 12, "begins with https://", id="no colon, in capitals"),
        pytest.param("srv*c*https:/host", 12, "begins with https://", id="one slash"),
        pytest.param("srv*c*//host/p", 6, r"https://host/path, a share \\host", id="slashes alone"),
        pytest.param(r"srv*\\msdl.microsoft.com\download", 4, "the server is written", id="the server as a share"),
        pytest.param("srv*c:symbols*//msdl.microsoft.com", 6, r"c:\symbols", id="a drive without a back slash"),
        pytest.param("srv*https://h/\ndownload/symbols", 15, "line break ends", id="a URL on two lines"),
        pytest.param(r"srv*https://h\p", 13, "no ", id="a back slash in a URL"),
        pytest.param("set _NT_SYMBOL_PATH=srv*c", 0, "alone: srv*c", id="a command with its path"),
        pytest.param("Symbol search path is: srv*c", 0, "alone: srv*c", id="what the debugger printed"),
        pytest.param(";".join(["c"] * 501), 1000, "at most 500 elements", id="too many elements"),
    ],
)
def test_an_error_points_at_the_first_character_that_does_not_fit(text: str, position: int, problem: str) -> None:
    with pytest.raises(SymbolPathError) as caught:
        parse_symbol_path(text)
    assert problem in caught.value.problem
    assert caught.value.position == position
    assert caught.value.text == text
    assert f"at character {position + 1}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "srv*https://me:hush@h/p*C:\\c",
        "https://h/p?sig=hush",
        "srv*https:\\\\me:hush@h",
        "srv*https:me:hush@h",
        "srv*ftp://me:hush@h",
        "srv*https://me:x/hush@h",
        "srv*https://me:x;hush@h",
        "srv*https://me:x*hush@h",
        "srv*c*me:hush@h/s",
        "srv*c*u:hush@h/s",
        "srv*c*u:hu//hush@h/s",
        "srv*c*u:x*hush@h/s",
        "srv*c*https//me:hush@h/s",
        "srv*c*//me:hush@h/s",
        "set _NT_SYMBOL_PATH=srv*C:\\c*https://me:hush@h",
        "srv*c*h.example/s?sig=hush",
        "srv*c*${u:hush@h}",
        "srv*c\nx/u:hush@h",
        "srv*c*C:hu\\hush@h",
    ],
)
def test_an_error_shows_no_credentials(text: str) -> None:
    with pytest.raises(SymbolPathError) as caught:
        parse_symbol_path(text, Environment({}))
    assert "hush" not in str(caught.value) + repr(caught.value)
    assert len(caught.value.text) == len(text)
    assert caught.value.__cause__ is None


def test_credentials_are_kept_and_can_be_left_out() -> None:
    text = r"cache*C:\c;srv*C:\c*https://me:hush@h:8080/p?sig=hush#hush"
    path = parse_symbol_path(text)
    assert str(path) == text
    assert path.redacted() == r"cache*C:\c;srv*C:\c*https://h:8080/p"
    assert "hush" not in repr(path)
    assert "https://h:8080/p" in repr(path)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        # One row per row of the documentation's table of chains.
        pytest.param("srv*", [(SYM, MSDL)], id="srv* alone is the default store filled from Microsoft"),
        pytest.param(r"srv*\\mid\s", [(MID,)], id="a share has no downstream store"),
        pytest.param("srv*https://h/p", [(SYM, H)], id="a URL alone gets the default downstream store"),
        pytest.param(r"srv*C:\c*https://h/p", [(C, H)], id="a folder is filled from a server"),
        pytest.param("srv**https://h/p", [(SYM, H)], id="an empty token is the default store"),
        pytest.param("srv*https://h/p*", [(SYM, H)], id="an empty token after a URL is the store in front of it"),
        pytest.param(r"srv*C:\c*", [(C, SYM)], id="an empty token at the end is the default store"),
        pytest.param(r"srv*C:\c*https://h/p*", [(C, SYM, H)], id="nothing lies behind a URL"),
        pytest.param(r"srv*C:\c*\\mid\s*https://h/p", [(C, MID, H)], id="a cascade"),
        pytest.param(r"srv*C:\c**https://h/p", [(C, SYM, H)], id="a cascade over the default store"),
        pytest.param(r"srv*C:\c*https://h/p*http://i", [(C, H, HttpPlace("http://i"))], id="URLs in order"),
        pytest.param("srv*https://h/p*http://i", [(SYM, H, HttpPlace("http://i"))], id="URLs alone"),
        pytest.param(r"srv*\\mid\s*https://h/p", [(MID, H)], id="a proxy that is also shared"),
        pytest.param(r"srv*C:\c*C:\c*https://h/p", [(C, H)], id="a store written twice"),
        # Caches.
        pytest.param("cache*", [(SYM,)], id="cache* alone is the default store"),
        pytest.param(r"cache*C:\c;srv*https://h/p", [(C,), (C, H)], id="a cache replaces the forced downstream store"),
        pytest.param(r"cache*C:\c;srv*\\mid\s", [(C,), (C, MID)], id="a cache before a share"),
        pytest.param(r"srv*\\mid\s;cache*C:\c", [(MID,), (C,)], id="nothing left of a cache is cached"),
        pytest.param(r"cache*C:\c;cache*;srv*https://h/p", [(C,), (C, SYM), (C, SYM, H)], id="two caches"),
        pytest.param(r"cache*C:\c;srv*", [(C,), (C, SYM, MSDL)], id="a cache before srv*"),
        pytest.param("cache*;srv*" + MICROSOFT, [(SYM,), (SYM, MSDL)], id="what .symfix expands to"),
    ],
)
def test_chains_follow_the_rules_of_propagation(text: str, resolved: list[tuple[Place, ...]]) -> None:
    elements = chains(parse_symbol_path(text), STORE)
    assert [element.stores for element in elements] == resolved
    assert all(element.folder is None for element in elements)


def test_a_plain_folder_has_no_stores_but_the_caches_to_its_left() -> None:
    elements = chains(parse_symbol_path(r"C:\c;cache*;\\mid\s"), STORE)
    assert elements == (
        ResolvedElement((), C),
        ResolvedElement((SYM,)),
        ResolvedElement((SYM,), MID),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"srv*C:\c*https://h/p", "srv*{}*https://h/p"),
        ("srv**https://h/p", "srv*{}*https://h/p"),
        ("srv*https://h/p", "srv*{}*https://h/p"),
        ("srv*https://h/p*", "srv*{}*https://h/p"),
        (r"srv*\\mid\s*https://h/p", r"srv*{}*\\mid\s*https://h/p"),
        (r"srv*C:\c*\\mid\s*https://h/p", r"srv*{}*\\mid\s*https://h/p"),
        ("srv*", "srv*{}*" + MICROSOFT),
        (r"srv*C:\c", "srv*{}"),
        (r"symsrv*symsrv.dll*C:\c", "symsrv*symsrv.dll*{}"),
        (r"cache*C:\c;srv*C:\d*https://h/p", r"cache*{};srv*C:\d*https://h/p"),
        (r"C:\a;C:\b;srv*C:\c*https://h/p", r"cache*{};C:\a;C:\b;srv*{}*https://h/p"),
    ],
)
def test_a_store_given_by_hand_becomes_the_bottom_most(text: str, expected: str) -> None:
    folder = Path("/mine")
    path = with_store(parse_symbol_path(text), folder)
    assert str(path) == expected.replace("{}", str(folder))
    assert {element.stores[0] for element in chains(path, STORE)} == {LocalPlace(str(folder))}


def test_the_file_of_a_bundle_is_not_taken_for_a_server() -> None:
    (element,) = chains(parse_symbol_path("srv*/c*crash.symbols*Monday.9.Symbols"), STORE)
    assert element.stores == (LocalPlace("/c"), LocalPlace("crash.symbols"), LocalPlace("Monday.9.Symbols"))
    with pytest.raises(SymbolPathError, match="this is no URL"):
        parse_symbol_path("srv*/c*crash.symbols.example")


def test_a_store_given_by_hand_stands_before_a_bundle() -> None:
    path = with_store(
        parse_symbol_path("srv*a.symbols*https://h;srv*/c*a.symbols"), Path("/mine"), is_file="a.symbols".__eq__
    )
    mine = Path("/mine")
    assert str(path) == f"srv*{mine}*a.symbols*https://h;srv*{mine}*a.symbols"


# What can stand in a folder's or a URL's name without being taken for something else.
_LETTERS = st.text(st.sampled_from("abcxyzABC019._-+&()'@ é\u4e2d"), min_size=1, max_size=12)
_PARTS = _LETTERS.map(str.strip).filter(lambda part: bool(part) and part.lower() not in {"srv", "symsrv", "cache"})
_LOCAL = st.builds(
    lambda head, parts: LocalPlace(head + "\\".join(parts)),
    st.sampled_from(["C:\\", "/", ".\\", "~/", "\\\\?\\D:\\", "rel\\"]),
    st.lists(_PARTS, min_size=1, max_size=3),
)
_UNC = st.builds(lambda parts: UncPlace("\\\\host\\" + "\\".join(parts)), st.lists(_PARTS, min_size=1, max_size=3))
_HTTP = st.builds(
    lambda scheme, user, host, port, path, query: HttpPlace(f"{scheme}://{user}{host}{port}{path}{query}"),
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["", "me@", "me:pass@", ":token@"]),
    st.sampled_from(["h", "symbols.example", "127.0.0.1", "[::1]"]),
    st.sampled_from(["", ":80", ":65535"]),
    st.sampled_from(["", "/", "/download/symbols", "/a%20b/"]),
    st.sampled_from(["", "?sig=abc", "#x"]),
)
_BUCKETS = st.builds(
    lambda scheme, bucket, prefix: BucketPlace(f"{scheme}://{bucket}{prefix}"),
    st.sampled_from(["s3", "gs", "az"]),
    st.sampled_from(["b", "symbols", "Sym.bols_1-x"]),
    st.sampled_from(["", "/windows", "/x64/%41$HOME", "/~/a+b/中"]),
)
_STORES = st.tuples(
    st.lists(st.one_of(_LOCAL, _UNC, st.just(DEFAULT)), max_size=5),
    st.lists(_HTTP | _BUCKETS, max_size=3),
    st.booleans(),
).map(lambda both: (*both[0], *both[1], *([DEFAULT] if both[2] else [])))
_CHAINS = st.builds(Chain, _STORES.filter(bool), st.sampled_from([None, "symsrv.dll", "SymSrv.dll"]))
_ELEMENTS = st.one_of(
    st.builds(Folder, _LOCAL | _UNC), st.builds(Cache, st.one_of(_LOCAL, _UNC, st.just(DEFAULT))), _CHAINS
)
symbol_paths = st.lists(_ELEMENTS, min_size=1, max_size=5).map(lambda elements: SymbolPath(tuple(elements)))


@given(symbol_paths)
def test_a_printed_path_parses_to_the_same_value(path: SymbolPath) -> None:
    assert parse_symbol_path(str(path)) == path


@given(symbol_paths)
def test_a_redacted_path_parses_and_holds_no_credentials(path: SymbolPath) -> None:
    again = parse_symbol_path(path.redacted())
    assert again.redacted() == path.redacted() == str(again)
    urls = [store.url for element in again.elements if isinstance(element, Chain) for store in element.stores
            if isinstance(store, HttpPlace)]  # fmt: skip
    assert not any("@" in url or "?" in url or "#" in url for url in urls)


@given(symbol_paths)
def test_every_chain_ends_with_its_servers_and_begins_with_none(path: SymbolPath) -> None:
    for element in chains(path, STORE):
        kinds = [isinstance(store, HttpPlace | BucketPlace) for store in element.stores]
        assert kinds == sorted(kinds)
        assert not kinds or not kinds[0]
        assert len(set(element.stores)) == len(element.stores)
        assert element.stores or element.folder


@given(st.text(st.sampled_from("srvcahe*;:/\\\"'@?#[]. \n\thtps") | st.characters(), max_size=40))
def test_any_text_parses_to_a_path_that_prints_back_or_is_refused(text: str) -> None:
    try:
        path = parse_symbol_path(text)
    except SymbolPathError as error:
        position = error.position
    else:
        position = 0
        assert parse_symbol_path(str(path)) == path
    assert 0 <= position <= len(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hush@h:80/p/x.pdb?sig=hush#hush", "https://h:80/p/x.pdb"),
        ("https://[hush", "an address that is not well formed"),
        ("http://me:x/hush@h/s", "an address that is not well formed"),
        ("me:hush@h/s", "an address that is not well formed"),
        ("HTTPS://h/p", "HTTPS://h/p"),
        ("HTTPS://me@h/p", "HTTPS://h/p"),
    ],
)
def test_a_redacted_url_holds_no_secret(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(st.text(st.sampled_from('srv*;:/\\@?ahtps \n"') | st.characters(), max_size=60))
def test_a_redacted_text_keeps_its_length_and_shows_nothing_before_an_at_sign(text: str) -> None:
    shown = redact_text(text)
    assert len(shown) == len(text)
    assert "//" not in shown.rpartition("@")[0]


def test_paths_without_secrets_are_shown_whole() -> None:
    text = r"srv*C:\c;C:/mail@home/s;\\?\C:\c;srv*https://h/p"
    assert redact_text(text) == text
    assert parse_symbol_path(text).redacted() == text


@pytest.mark.parametrize(
    ("text", "has_server"),
    [
        ("srv*", True),
        ("symsrv*symsrv.dll*", True),
        ("srv*https://h", True),
        (r"C:\c;srv*C:\d*https://h", True),
        ("cache*", False),
        (r"srv*C:\c", False),
        (r"srv*C:\c*", False),
        (r"srv*\\mid\s;C:\c", False),
    ],
)
def test_a_path_tells_whether_it_asks_a_server(text: str, has_server: bool) -> None:
    assert parse_symbol_path(text).has_server is has_server
    resolved = chains(parse_symbol_path(text), STORE)
    assert any(isinstance(store, HttpPlace) for element in resolved for store in element.stores) is has_server


_HOSTILE = [
    "/",
    "//",
    "\\",
    "http",
    "https:",
    "a:",
    ":/",
    "*",
    ";",
    "@",
    ":@",
    "a:b@",
    "?",
    "a*:",
    "\r",
    "cache*a;",
    "%A",
    "${",
]


@pytest.mark.parametrize("unit", _HOSTILE)
@pytest.mark.parametrize("end", ["", "@", '"'])
@pytest.mark.parametrize("redact", [redact_text, redact_path, redact_words])
def test_blotting_out_takes_linear_time(redact: Callable[[str], str], unit: str, end: str) -> None:
    assert growth(lambda length: redact((unit * length)[:length] + end)) < 1.6


@pytest.mark.parametrize(
    "unit", [*_HOSTILE, "a.", "a-", "srv*", "cache*", "a;", "\\\\a\\", "~", "$A", "'", "set _NT_A="]
)
@pytest.mark.parametrize("begin", ["", "srv*", "https://", "\\\\"])
def test_a_path_is_refused_or_parsed_in_linear_time(begin: str, unit: str) -> None:
    def parse(length: int) -> None:
        with suppress(SymbolPathError):
            parse_symbol_path(begin + (unit * length)[:length], Environment({"A": "x" * 50}, "/home/me"))

    assert growth(parse) < 1.6


def test_as_many_caches_as_a_path_may_have_are_resolved_and_written_at_once() -> None:
    path = parse_symbol_path(";".join(f"cache*/{number}" for number in range(500)))
    assert len(chains(path, STORE)[-1].stores) == 500
    with pytest.raises(SymbolPathError, match="at most 500 elements"):
        parse_symbol_path(";".join(f"cache*/{number}" for number in range(4000)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("srv*./u:hush@host/s", "srv*./xxxxxxxhost/s"),
        ("srv*~/u:hu/sh@host", "srv*~/xxxxxxxxhost"),
        (r"\\u:hush@host\s", r"\\xxxxxxxhost\s"),
        (r"cache*C:\me:hush@h", r"cache*C:\xxxxxxxxh"),
        (r"C:/mail@home/s;\\?\D:\a@b", r"C:/mail@home/s;\\?\D:\a@b"),
    ],
)
def test_a_folder_that_looks_like_a_server_with_a_user_is_shown_without(text: str, shown: str) -> None:
    assert parse_symbol_path(text).redacted() == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("./u:hush@h/s: No such file", "./xxxxxxxh/s: No such file"),
        ("Path 'https://u:hush@h/s' does not exist.", "Path 'https://h/s' does not exist."),
        ("srv*c*u:hush@h;x", "srv*c*xxxxxxxh;x"),
        ("https://u:hu/sh@h is none", "an address that is not well formed is none"),
        ("https://h/@scope/x: 404, tell me@h", "https://h/@scope/x: 404, tell me@h"),
        (r"C:\Users\me@h\x: at 12:30", r"C:\Users\me@h\x: at 12:30"),
    ],
)
def test_a_message_keeps_its_words_but_for_a_user_and_password(text: str, shown: str) -> None:
    assert redact_words(text) == shown
