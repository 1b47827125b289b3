"""Lines of a debugger's transcript, whatever carried it: encodings, line ends, counters, colours, markup, margins.

Lines come with a mail's quotation marks, a build server's time stamps or an editor's numbers before them, or cut in
two. What these are need not be known, as what follows them is.
"""

from __future__ import annotations

import codecs
import re
from html import unescape
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from symcache.inputs.manifest import text_encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.view import ByteView

_CHUNK_BYTES = 1 << 16
# The longest lines that say anything hold two paths.
_LONGEST_LINE_BYTES = 2048
# A counter goes back with CR or backspaces, and what follows is glued to it: each piece counts as a line. In a saved
# page tags end a line, too.
_LINE_END = re.compile(
    rb"[\r\n\b\0\f\v]+|<(?:br|/?(?:p|div|pre|tr|li|h[1-6]|blockquote))\b[^<>\r\n]{0,200}>", re.IGNORECASE
)
# A terminal's sequences: operating system commands, control sequences (written out, too), the two-character ones.
_ESCAPE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\^\[|\u241b)\[[0-9;]*m|\x1b[ -/]*[0-~]"
)
# No other tag is one: `<symbol_path>` and `vector<int>` stand in transcripts.
_TAG = re.compile(
    r"</?(?:a|b|body|code|details|em|font|head|html|i|ol|samp|span|strong|summary|table|tbody|(t[dh])|tt|ul)"
    r"(?:\s[^<>]{0,400})?/?>",
    re.IGNORECASE,
)
# Ends in a semicolon, and means what debuggers print; more would be read into the names of files.
_ENTITY = re.compile(r"&(?:nbsp|gt|lt|amp|quot|apos|#\d{1,6}|#x[0-9A-Fa-f]{1,5});")
# Markdown's backslash and a word processor's quotation mark for the grave accent within an address.
_ACCENT = re.compile(r"(?<=[0-9A-Fa-f]{8})(?:\\`|[\u2018\u2019\u00b4\u2032])(?=[0-9A-Fa-f]{8})")
# No path has these behind a backslash.
_ESCAPED = re.compile(r"\\(?=[<>|])")
_BLANKS = str.maketrans(
    dict.fromkeys(map(ord, "\xa0\u2002\u2003\u2007\u2009\u202f"), " ") | dict.fromkeys(map(ord, "\xad\u200b\ufeff"))
)


def iter_lines(view: ByteView) -> Iterator[str]:
    """Yield the lines that are not blank, as `_plain_text`, at most 2 KiB of each.

    UTF-8, where a line is not that Windows-1252, or UTF-16.
    """
    for raw in _split(_chunks(view)):
        line = _plain_text(_decode(raw)).rstrip()
        if line:
            yield line


def _plain_text(line: str) -> str:
    """Return *line* as a debugger printed it: without colours, tags and escapes, every kind of blank as blanks."""
    if "\x1b" in line or "\x9b" in line or "[" in line:
        line = _ESCAPE.sub("", line)
    if "<" in line:
        line = _TAG.sub(lambda tag: " " if tag[1] else "", line)
    if "&" in line:
        # Twice: a page that shows the source of a page escapes the ampersands, too.
        for _ in range(2):
            line = _ENTITY.sub(lambda entity: unescape(entity[0]), line)
    line = _ESCAPED.sub("", _ACCENT.sub("`", line))
    return line.translate(_BLANKS).replace("\t", "    ")


def _chunks(view: ByteView) -> Iterator[bytes]:
    """Yield the bytes of *view*, UTF-16 as UTF-8."""
    encoding = text_encoding(view.read(0, min(256, view.size)))
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    for offset in range(0, view.size, _CHUNK_BYTES):
        data = view.read(offset, min(_CHUNK_BYTES, view.size - offset))
        yield data if decoder is None else decoder.decode(data).encode("utf-8", "replace")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut at line ends; of a line without end only the start is kept."""
    rest = b""
    for chunk in chunks:
        *lines, rest = _LINE_END.split(rest[:_LONGEST_LINE_BYTES] + chunk)
        for line in lines:
            yield line[:_LONGEST_LINE_BYTES]
    yield rest[:_LONGEST_LINE_BYTES]


def _decode(line: bytes) -> str:
    line = line.removeprefix(codecs.BOM_UTF8)
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")


# Where a line of a debugger or of symchk begins, all of them in the first column. A search for it looks at each
# character a few times, whatever the line.
_BEGINNING = re.compile(
    r"(?:SYMSRV2?|DBGHELP|DBGENG|SYMCHK): |\[SYMCHK\] |ModLoad: |Loaded Module Info: \[|Unloaded modules:"
    r"|\*\*\* (?:ERROR|WARNING): |Unable to (?:load image|read image header for) |start {1,40}end {1,40}module name"
    r"|Microsoft \(R\) Windows Debugger|Loading (?:Dump File \[|Kernel Symbols|User Symbols|unloaded module list)"
    r"|Symbol search path is: |(?:SymbolCheckVersion|DbgTimeDateStamp|DbgSizeOfImage) {1,20}0x"
    r"|(?<![\w:.-])(?:(?:\d{1,4}: ?)?l?kd|\d{1,4}:\d{3,4})(?::\w{1,9})?>(?= |$)"
    r"|(?<![\w`])(?:0x)?[0-9A-Fa-f]{8}(?:`?[0-9A-Fa-f]{8})? {1,20}(?:0x)?[0-9A-Fa-f]{8}(?:`?[0-9A-Fa-f]{8})? {1,20}"
    r"\S{1,99} {1,99}(?:[#MTC]{1,3} {1,20})?\((?:deferred|no symbols|[a-z ]{1,20}symbols|code|export)"
)
_TOKEN = re.compile(
    r"(?P<time>\d{4}([-/.])\d\d\2\d\d[T :_-]?(?:\d\d:\d\d:\d\d(?:[.,:]\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?)?"
    r"|\d{1,2}:\d\d:\d\d(?:[.,:]\d+)?(?: ?[AP]M\b)?Z?)"
    r"|(?P<level>(?:trace|verbose|debug|info(?:rmation)?|notice|warn(?:ing)?|err(?:or)?|fatal|crit(?:ical)?"
    r"|inf|wrn|dbg|vrb|ftl|[IWEDVF])\b)"
    r"|(?P<day>(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)\b)"
    r"|(?P<number>\d+\b)|(?P<hex>(?:0x)?(?=[A-Fa-f]*\d)[0-9A-Fa-f]+\b)|(?P<mixed>(?=[^\W\d]*\d)\w+)|(?P<word>\w+)"
    r"|(?P<quote>[>|])|(?P<blanks> +)|(?P<mark>[^\w >|])",
    re.IGNORECASE,
)
_HEX_LETTERS = re.compile(r"[A-Fa-f]+")
_SAME_TEXT = frozenset(["word", "mark", "quote"])
_LONGEST_MARGIN = 200
_MOST_TOKENS = 48
# The last character of a margin; what is glued to a line is a counter of progress.
_ENDS = " >|:;]#)}*/-"

# A kind, then what is said.
Fact: TypeAlias = tuple[str, *tuple[object, ...]]
SHOWN = "shown"
"""The kind of facts that a path or an address by itself says."""

_NARROWEST, _WIDEST = 60, 132
_MOST_PIECES = 4


class Line(NamedTuple):
    """A line without what stands in front of it."""

    text: str
    width: int  # columns in the text, margin included
    begins: bool  # known to begin here, so that it continues no other


class _Token(NamedTuple):
    kind: str
    text: str


class Margin:
    """Cuts off what stands in front of lines.

    1. Where a line holds the beginning of a line that debuggers print in the first column, what stands before that
       beginning is its margin.
    2. A margin is learned in kinds, not in letters: a time, a level, a number, a hexadecimal number, a word with
       digits in it; other words and marks stay what they are. Blanks count as blanks, but for those at the end: they
       are counted, as the indentation follows them.
    3. A line that shows no beginning loses as much of its start as is of the same kinds, in the same order. If it is
       not, it is a line from elsewhere and stays whole.
    4. Blanks between quotation marks are of no account, and at the end no more of them are cut off than the margin has.
    5. The margin in force is that of the last line that showed one; a beginning in the first column ends it. Nothing
       is learned from a line with something longer, or with something glued to its beginning.
    """

    def __init__(self) -> None:
        self._tokens: tuple[_Token, ...] = ()
        self._blanks = 0

    def strip(self, text: str) -> Line:
        """Return *text* without the margin."""
        beginning = _BEGINNING.search(text)
        if beginning is None:
            return Line(self._cut(text), len(text), begins=False)
        start = beginning.start()
        margin = text[:start]
        if start > _LONGEST_MARGIN or (margin and margin[-1] not in _ENDS):
            return Line(text, len(text), begins=True)
        if self._cut(text) != text[start:]:
            self._learn(margin)
        return Line(text[start:], len(text), begins=True)

    def _learn(self, margin: str) -> None:
        bare = margin.strip(" ")
        tokens = tuple(_Token(_kind(token), token[0]) for token in _TOKEN.finditer(bare))
        self._tokens = tokens if len(tokens) <= _MOST_TOKENS else ()
        self._blanks = len(margin) - len(margin.rstrip(" ")) if len(tokens) <= _MOST_TOKENS else 0

    def _cut(self, text: str) -> str:
        """Return what follows the margin in *text*; the whole of it if it has none."""
        at = 0
        if self._tokens:
            at = len(text) - len(text.lstrip(" "))
        for expected in self._tokens:
            found = _TOKEN.match(text, at)
            if found is not None and found.lastgroup == "blanks" and expected.kind in {"quote", "mark"}:
                found = _TOKEN.match(text, found.end())
            if expected.kind == "blanks" and (found is None or found.lastgroup != "blanks"):
                if found is not None and found.lastgroup == "quote":
                    continue
                return text
            if found is None or _kind(found) != expected.kind:
                return text
            if expected.kind in _SAME_TEXT and found[0] != expected.text:
                return text
            at = found.end()
        blanks = len(text) - at - len(text[at:].lstrip(" "))
        if self._blanks and not blanks and at < len(text) and self._tokens and self._tokens[-1].kind != "quote":
            return text
        return text[at + min(blanks, self._blanks) :]


def _kind(token: re.Match[str]) -> str:
    """Return what *token* is; a hexadecimal number may have digits alone, or letters alone at a thread's width."""
    kind = str(token.lastgroup)
    if kind == "number" or (kind == "word" and len(token[0]) in {4, 8, 16} and _HEX_LETTERS.fullmatch(token[0])):
        return "hex"
    return kind


class Seams:
    """Puts together lines that a mail program, a forum or a terminal cut in two.

    1. A line may continue the one before if its first word had no room there, that is past column 60. One that begins
       where debuggers begin a line does not, nor one that says something by itself, unless it only shows a path.
    2. It does continue it if the two together, glued or with a blank between them, say something of a kind that the
       first does not say alone: a whole index path, a stamp behind its name. Otherwise nothing is joined, as that
       would be a guess.
    3. Up to four lines make one, and that may be continued again; lines wider than 132 columns were not cut.
    """

    def __init__(self, facts: Callable[[str, frozenset[str]], Iterator[Fact]]) -> None:
        self._facts = facts  # of a text, but for those of the given kinds
        self._held: list[_Piece] = []

    def add(self, line: Line) -> list[str]:
        """Take the next line; return the text of lines that nothing more belongs to."""
        piece = _Piece(line.text, line.width, frozenset(self._facts(line.text, frozenset())))
        held = self._held
        if not held or line.begins or {fact[0] for fact in piece.facts} - {SHOWN} or not _had_no_room(held[-1], piece):
            self._held = [piece]
            return [each.text for each in held]
        held.append(piece)
        for start in range(len(held) - 1):
            if (joined := self._join(held[start:])) is not None:
                self._held = [joined]
                return [each.text for each in held[:start]]
        return [held.pop(0).text] if len(held) == _MOST_PIECES else []

    def end(self) -> list[str]:
        """Return the text of the lines that are left."""
        held, self._held = self._held, []
        return [piece.text for piece in held]

    def _join(self, pieces: list[_Piece]) -> _Piece | None:
        alone = frozenset[Fact]().union(*(piece.facts for piece in pieces))
        said = frozenset(fact[0] for piece in pieces[:-1] for fact in piece.facts)
        for text in _joinings([piece.text for piece in pieces]):
            if any(fact[0] not in said and fact not in alone for fact in self._facts(text, said)):
                return _Piece(text, pieces[-1].width, frozenset(self._facts(text, frozenset())))
        return None


class _Piece(NamedTuple):
    text: str
    width: int
    facts: frozenset[Fact]


def _had_no_room(before: _Piece, after: _Piece) -> bool:
    word = after.text.lstrip(" ").partition(" ")[0]
    return before.width <= _WIDEST and before.width + len(word) >= _NARROWEST


def _joinings(texts: list[str]) -> Iterator[str]:
    """Yield *texts* with a blank or nothing at each seam, and without the ``=`` that a mail marks a cut by."""
    first, *rest = texts
    for seams in product((True, False), repeat=len(rest)):
        joined = first
        for has_blank, text in zip(seams, rest, strict=True):
            joined += f" {text.lstrip(' ')}" if has_blank else text
        yield joined
    if first.endswith("="):
        yield "".join(text.removesuffix("=") for text in texts[:-1]) + texts[-1]
