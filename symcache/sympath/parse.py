"""Parsing a symbol path, with errors that point at a character."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from symcache.errors import SymbolPathError
from symcache.sympath.values import (
    MICROSOFT,
    REMOTE,
    BucketPlace,
    CacheElement,
    ChainElement,
    DefaultPlace,
    Element,
    FolderElement,
    HttpPlace,
    LocalPlace,
    Place,
    SymbolPath,
    UncPlace,
    redact_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.sympath.values import Environment

_MOST_STORES = 10
_MOST_ELEMENTS = 500
_STANDARD_DLL = "symsrv.dll"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")  # two characters at least: C: is a drive
_KEYWORDS = frozenset({"srv", "symsrv", "cache"})
_COMMAND = re.compile(
    r"\s*(?:(?:set|setx|export)\s|\$env:_|\.sympath|\.symfix|_NT_\w+\s*=|-y\s|(?:expanded\s+)?symbol\s+search\s+path\s+is:)",
    re.IGNORECASE,
)
_PATH_IN_COMMAND = re.compile(r"""(?:srv|symsrv|cache)\*[^"'\r\n]*""", re.IGNORECASE)
_QUOTED = re.compile('"([^"]*)"|[\u201c\u201e]([^\u201c-\u201f]*)[\u201c\u201d]')
# A folder's name may begin with one of these, a keyword not.
_QUOTED_CHAIN = re.compile(r"['\u2018\u2019]((?:srv|symsrv|cache)\s*\*.*)['\u2018\u2019]", re.IGNORECASE | re.DOTALL)
_QUOTATION = '"\u201c\u201d\u201e\u201f'
_CONTROL = "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f"
_INVISIBLE = "\u200b-\u200f\u2028-\u202e\u2060\ufeff"  # get copied with text from web pages and dialogs
_UNFIT = re.compile(f"[{_QUOTATION}{_CONTROL}{_INVISIBLE}]")
# A name of two labels and more with a top level of letters, an IPv4 address, or anything with a port.
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,63}|[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::[0-9]{1,5})?|[\w.-]{2,}:[0-9]{1,5}"
)
_NEARLY_A_URL = re.compile(r"(https?)(?::|[;.]?[\\/]{2})", re.IGNORECASE)
_USER = re.compile(r"(?![A-Za-z]:[\\/])[^:\\/@]*:[^\\]*@")
_MICROSOFT_HOST = urlsplit(MICROSOFT).netloc

_HOME = re.compile(r"~(?=[\\/]|$)")
_OTHER_HOME = re.compile(r"~\w")
_URL = re.compile(r"(?:https?|s3|gs|az):(?=//)|https?:", re.IGNORECASE)
_BUCKET = re.compile(
    r"(?P<scheme>s3|gs|az)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{0,221})(?P<prefix>(?:/[^/]+)*)/?", re.IGNORECASE
)
_BUCKETS = frozenset({"s3", "gs", "az"})
_OF_WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
_PERCENT = r"%(?P<percent>[A-Za-z_][\w()]*)%"
_ANY = re.compile(rf"{_PERCENT}|\$(?:env:)?(?P<bare>[A-Za-z_]\w*)|\$\{{(?:env:)?(?P<braced>[^{{}}]*)\}}", re.IGNORECASE)
_PERCENT_ALONE = re.compile(_PERCENT)
_SEPARATES = re.compile(r'[*;"\r\n]')


def parse_symbol_path(text: str, environment: Environment | None = None) -> SymbolPath:
    r"""Return the elements of *text*.

    Letter case of keywords does not count. Because paths get pasted, blanks around elements and stores are dropped,
    empty elements and quotes around the whole too, and a line break separates elements as ``;`` does. Several URLs may
    end a chain, tried in order, though Microsoft's debuggers want one chain for each. ``~``, ``$NAME`` and ``%NAME%``
    in folders and shares are expanded from *environment*, if that is given.

    Raises:
        SymbolPathError: Another shape; it points at the first character that does not fit, and shows no credentials.
    """
    try:
        return _Parser(environment).parse(text)
    except PlaceError as error:
        raise SymbolPathError(error.problem, text=redact_text(text), position=error.at) from None


class PlaceError(Exception):
    """What is wrong with a part of a symbol path, at character *at* of the text that was given."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem, at)
        self.problem = problem
        self.at = at


def expand(text: str, environment: Environment) -> str:
    r"""Return the folder or share *text* with ``~`` and variables expanded; a URL as it is.

    In a path that begins with a drive or with ``\\``, ``$`` is an ordinary character: ``\\host\c$`` is a share. After
    an expanded path with slashes, back slashes become slashes, too, and after one of Windows the other way round.

    Raises:
        PlaceError: A variable that is not set or empty, or holds what separates places; no home folder.
    """
    if _URL.match(text):
        return text  # %C3%A9 and $ are ordinary characters in it
    if _OTHER_HOME.match(text):
        raise PlaceError(r"~ is your own home folder alone; a folder of that name is written .\~…", 0)
    pattern = _PERCENT_ALONE if _OF_WINDOWS.match(text) else _ANY
    head, tail = "", text
    if _HOME.match(text):
        if not environment.home:
            raise PlaceError("there is no home folder for ~; write the folder out", 0)
        head, tail = environment.home, text[1:]
    elif first := pattern.match(text):
        head, tail = _value(first, 0, environment), text[first.end() :]
    begin = len(text) - len(tail)
    tail = pattern.sub(lambda match: _value(match, begin, environment), tail)
    if _OF_WINDOWS.match(head):
        return head + tail.replace("/", "\\")
    return head + (tail.replace("\\", "/") if "/" in head and "\\" not in head else tail)


def _value(match: re.Match[str], begin: int, environment: Environment) -> str:
    at, shown = begin + match.start(), redact_text(match[0])
    name = next(group for group in match.groups() if group is not None)
    value = environment.variables.get(name, "").strip()
    if not value:
        raise PlaceError(f"{shown}: the variable is not set; set it, or write out what it should be", at)
    if _SEPARATES.search(value):
        raise PlaceError(f"{shown}: the variable holds more than one place; write them out", at)
    return value


class _Piece(NamedTuple):
    """A part of the text without the blanks around it, and where it begins."""

    text: str
    at: int


def _split(piece: _Piece, separator: str) -> Iterator[_Piece]:
    begin = 0
    for end in [*(match.start() for match in re.finditer(separator, piece.text)), len(piece.text)]:
        yield _stripped(piece.text[begin:end], piece.at + begin)
        begin = end + 1


def _stripped(text: str, at: int) -> _Piece:
    return _Piece(text.strip(), at + len(text) - len(text.lstrip()))


class _Parser(NamedTuple):
    environment: Environment | None

    def parse(self, text: str) -> SymbolPath:
        if _COMMAND.match(text):
            found = _PATH_IN_COMMAND.search(text)
            path = f": {redact_text(found[0].strip())}" if found else ", which begins after it"
            raise PlaceError(f"this is a command; give the path alone{path}", 0)
        whole = _stripped(text, 0)
        if _QUOTED.fullmatch(whole.text) or _QUOTED_CHAIN.fullmatch(whole.text):
            whole = _Piece(whole.text[1:-1], whole.at + 1)
        if unfit := _UNFIT.search(whole.text):
            problem = f"the invisible character U+{ord(unfit[0]):04X} has no place in it"
            if unfit[0] in _QUOTATION:
                problem = "leave out quotation marks"
            elif ord(unfit[0]) < 0xA0:
                problem = "control characters have no place in it"
            raise PlaceError(problem, whole.at + unfit.start())
        elements: list[Element] = []
        dll: str | None = None
        for piece, is_wrapped in _elements(whole):
            if not piece.text:
                continue
            if len(elements) == _MOST_ELEMENTS:
                raise PlaceError(f"a path has at most {_MOST_ELEMENTS} elements", piece.at)
            element = self._parse_element(piece)
            if elements and is_wrapped and isinstance(element, FolderElement) and _is_relative(piece.text):
                raise PlaceError(
                    f"a line break ends an element; this folder would be .\\{redact_text(piece.text)}", piece.at
                )
            if isinstance(element, ChainElement):
                named = (element.dll or _STANDARD_DLL).lower()
                if dll not in {None, named}:
                    raise PlaceError(f"one path uses one symbol server DLL, and {dll} came first", piece.at)
                dll = named
            elements.append(element)
        if not elements:
            raise PlaceError(f"it is empty; write for example srv*C:\\sym*{MICROSOFT}", 0)
        return SymbolPath(tuple(elements))

    def _parse_element(self, piece: _Piece) -> Element:
        head, *rest = _split(piece, r"\*")
        keyword = head.text.lower()
        if not rest:
            if keyword in _KEYWORDS:
                raise PlaceError(
                    f"{head.text} is followed by '*'; a folder of that name is written .\\{head.text}", head.at
                )
            place = self._parse_place(head)
            if isinstance(place, HttpPlace | BucketPlace):
                raise PlaceError("a server is only asked by a chain; write srv* in front of the URL", head.at)
            assert not isinstance(place, DefaultPlace)
            return FolderElement(place)
        match keyword:
            case "cache":
                if len(rest) > 1:
                    raise PlaceError("cache* takes one folder", rest[1].at)
                place = self._parse_place(rest[0])
                if isinstance(place, HttpPlace | BucketPlace):
                    raise PlaceError("cache* takes a folder, a server cannot be written", rest[0].at)
                return CacheElement(place)
            case "srv":
                return ChainElement(self._parse_stores(rest))
            case "symsrv":
                dll, *stores = rest
                if not dll.text or set(dll.text) & set(":/\\"):
                    raise PlaceError(f"symsrv* takes the name of a DLL first: symsrv*{_STANDARD_DLL}*…", dll.at)
                if not stores:
                    raise PlaceError("the DLL's name is followed by '*' and a store", dll.at)
                return ChainElement(self._parse_stores(stores), dll.text)
        raise PlaceError("only srv, symsrv or cache can come before the first '*'", head.at)

    def _parse_stores(self, pieces: list[_Piece]) -> tuple[Place, ...]:
        if len(pieces) > _MOST_STORES:
            raise PlaceError(f"a chain has at most {_MOST_STORES} stores", pieces[_MOST_STORES].at)
        stores: list[Place] = []
        for number, piece in enumerate(pieces, start=1):
            place = self._parse_place(piece, is_first=number == 1)
            # A URL with '*' after it is common and harmless: the empty token can only mean the store in front.
            harmless = isinstance(place, DefaultPlace) and number == len(pieces)
            if stores and isinstance(stores[-1], REMOTE) and not (harmless or isinstance(place, REMOTE)):
                raise PlaceError("nothing but URLs can follow a URL in a chain, a server cannot be written", piece.at)
            stores.append(place)
        return tuple(stores)

    def _parse_place(self, piece: _Piece, *, is_first: bool = True) -> Place:
        if self.environment is None:
            return _parse_place(piece, is_first=is_first)
        try:
            text = expand(piece.text, self.environment)
        except PlaceError as error:
            raise PlaceError(error.problem, piece.at + error.at) from None
        try:
            return _parse_place(_Piece(text, piece.at), is_first=is_first)
        except PlaceError as error:
            raise PlaceError(error.problem, error.at if text == piece.text else piece.at) from None


def _elements(whole: _Piece) -> Iterator[tuple[_Piece, bool]]:
    """Yield each element, and whether there is a line break before it."""
    for number, line in enumerate(_split(whole, r"[\r\n]")):
        for at, piece in enumerate(_split(line, ";")):
            yield piece, bool(number) and not at


def _is_relative(text: str) -> bool:
    """Whether *text* begins with the name of a folder, as what is left of a URL on two lines does."""
    return text[0].isalnum() and text[1:2] != ":"


def _parse_place(piece: _Piece, *, is_first: bool) -> Place:
    text = piece.text
    if not text:
        return DefaultPlace()
    if text.startswith("\\\\"):
        return _parse_unc(piece)
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[2] is not None and scheme[1].lower() in {"http", "https"}:
        return _parse_url(piece)
    if scheme is not None and scheme[2] is not None and scheme[1].lower() in _BUCKETS:
        return _parse_bucket(piece)
    if nearly := _NEARLY_A_URL.match(text):
        raise PlaceError(f"a URL begins with {nearly[1].lower()}://", piece.at + len(nearly[0].rstrip("\\/;.")))
    if text.startswith("//"):
        raise PlaceError("a server is written https://host/path, a share \\\\host\\share", piece.at)
    if _USER.match(text) and (scheme is None or scheme[2] is None):
        raise PlaceError("a server with a user is written https://user:password@host/path", piece.at)
    if _is_server(text, is_first=is_first):
        shown = redact_text(text)
        url = "https://" + shown.replace("\\", "/")
        raise PlaceError(f"this is no URL; a server is written {url}, a folder ./{shown}", piece.at)
    if scheme is not None:
        raise PlaceError(
            f"{scheme[1]}: is not a kind of store; there are folders, http://, https://, s3://, gs:// and az://",
            piece.at,
        )
    if text[1:2] == ":" and text[0].isalpha() and text[2:3] not in {"\\", "/"}:
        shown = redact_text(text)
        raise PlaceError(f"a drive is followed by a back slash: {shown[:2]}\\{shown[2:]}", piece.at + 2)
    return LocalPlace(text)


def _is_server(text: str, *, is_first: bool) -> bool:
    """Whether *text* is a server without its scheme, and not a relative folder with a similar name.

    After the first place of a chain relative folders are rare. In the first, the name of a host needs a slash after
    it, as in ``symbols.example/sym``, or three labels, or a port. No top level is called ``symbols``, as bundles are.
    """
    if text.lower().endswith(".symbols"):
        return False
    host, slash, _ = re.split(r"([\\/]|$)", text, maxsplit=1)
    if not _HOST.fullmatch(host):
        return False
    return not is_first or slash == "/" or host.count(".") > 1 or ":" in host


def _parse_unc(piece: _Piece) -> LocalPlace | UncPlace:
    r"""``\\?\C:\…`` and ``\\.\…`` are names of local things, ``\\?\UNC\host\share`` is a share's long form."""
    rest = piece.text[2:]
    if rest[:2] in {"?\\", ".\\"}:
        if rest[2:6].lower() != "unc\\":
            return LocalPlace(piece.text)
        rest = rest[6:]
    host, _, path = rest.partition("\\")
    if not host or not path.partition("\\")[0]:
        raise PlaceError("a share is written \\\\host\\share, a server https://host/path", piece.at)
    if host.lower() == _MICROSOFT_HOST:
        raise PlaceError(f"this is no share; the server is written {MICROSOFT}", piece.at)
    return UncPlace(piece.text)


def _parse_bucket(piece: _Piece) -> BucketPlace:
    """Return the bucket with its scheme in lower case and without a slash at its end.

    Source: the rules for names of buckets at S3, Google and Azure; what one of them forbids it says itself.
    """
    match = _BUCKET.fullmatch(piece.text)
    if match is None or set(match["prefix"].split("/")) & {".", ".."} or re.search(r"[\s?#@\\]", piece.text):
        written = f"{piece.text[:2].lower()}://bucket or {piece.text[:2].lower()}://bucket/prefix"
        raise PlaceError(f"a bucket is written {written}; credentials are found in the environment", piece.at)
    return BucketPlace(f"{match['scheme'].lower()}://{match['bucket']}{match['prefix']}")


def _parse_url(piece: _Piece) -> HttpPlace:
    if blank := re.search(r"[\s\\]", piece.text):
        raise PlaceError(f"a URL has no {blank[0]!r}", piece.at + blank.start())
    try:
        parts = urlsplit(piece.text)
        if not parts.hostname or parts.port == 0:
            raise PlaceError("a host is missing, or its port is not one", piece.at)
    except ValueError:
        raise PlaceError("this URL is not well formed", piece.at) from None
    return HttpPlace(piece.text)
