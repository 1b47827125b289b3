r"""Lists and objects picked by name out of JSON of any length, without reading the rest of it into memory.

A profile of a gigabyte has its list of libraries in a few hundred KiB of that. Quotes within a text of JSON are
escaped, so that ``"libs":`` with a quote that is not can only be a name: it is looked for as it stands, which goes a
hundred times as fast as reading every value, and a document that is cut or damaged elsewhere gives what it has.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from symcache.errors import MalformedInput
from symcache.formats.archive.member import iter_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.view import ByteView

_PIECE_CHARACTERS = 1 << 20
_LONGEST_ELEMENT = 1 << 20
_MOST_IN_VAIN = 64 << 20  # characters that are parsed and then left; each list costs some
_LEAST_COST = 64
_OVERLAP = 256
_COLON = re.compile(r"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}([\[{])")
_SKIP = re.compile(r"(?:[ \t\r\n,]++|null)*+")
_IN_LISTS = ']{"[-0123456789tf'  # what values begin with but ``null``, and the end
_BEGINS = re.compile(r"[ \t\r\n]*(?:\{[ \t\r\n]*(?:\"|\}|\Z)|\[[ \t\r\n]*(?:[\[\]{\"0-9-]|\Z))")


def looks_like_json(head: bytes) -> bool:
    """Tell whether *head* is the beginning of an object or a list of JSON, in UTF-8 or UTF-16."""
    start = head[:256].lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")
    if not start.startswith((b"{", b"[")):
        return False
    text = head[:1024].decode(_encoding(head), "replace").removeprefix("\ufeff")
    return _BEGINS.match(text) is not None


def find_elements(view: ByteView, names: Iterable[str], fits: Callable[[str, Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield the objects in each list that has one of *names*, with that name, and each object that has one itself.

    *fits* is asked about each object; those of a list that do not fit are passed over, as ``null`` is, unless one of
    the names stands within: then the list is left there, for the one within. Names count wherever they stand, not
    within what was yielded. About 4 MiB are in memory, and objects of at most 1 MiB are read.

    Raises:
        MalformedInput: At the end, when all was yielded that can be: a list of which objects were yielded is damaged,
            cut, or has one that is longer.
    """
    window = _Window(view)
    quoted = {name: f'"{name}"' for name in names}
    vain = _MOST_IN_VAIN
    yielded_from: str | None = None
    broken: str | None = None
    while vain > 0 and (found := window.find(quoted)) is not None:
        name, bracket = found
        if bracket == "{":
            window.at -= 1
            value, length = window.look()
            if value is None or not fits(name, value):
                window.at += 1  # names within it count
                vain -= max(length, _LEAST_COST)
            else:
                window.at += length
                yield name, value
            continue
        is_known = is_damaged = False
        while vain > 0 and window.is_at_object():
            value, length = window.look()
            if value is not None and fits(name, value):
                is_known = True
                yielded_from = name
                window.at += length
                yield name, value
                continue
            vain -= max(length, _LEAST_COST)
            is_damaged = value is None
            if is_damaged or window.has_within(length, quoted):
                break
            window.at += length
        if is_known and (is_damaged or not window.is_at_value_or_end()):
            broken = broken or name
    broken = yielded_from if vain <= 0 else broken
    if broken is not None:
        raise MalformedInput(f"its list {broken!r} is damaged or cut short, so that not all of it was read")


class _Window:
    """A piece of the text, which moves towards its end."""

    def __init__(self, view: ByteView) -> None:
        head = view.read(0, min(view.size, 4))
        self._decoder = codecs.getincrementaldecoder(_encoding(head))("replace")
        self._pieces = iter_pieces(view)
        self._next: dict[str, int] = {}  # where in the text each name stands next; -1 if it does not
        self._decode = json.JSONDecoder().raw_decode
        self.text = ""
        self.at = 0

    def _grow(self) -> bool:
        """Read on, and drop what lies behind; False at the end."""
        parts, length = [], 0
        while length < _PIECE_CHARACTERS:
            piece = next(self._pieces, None)
            text = self._decoder.decode(piece or b"", final=piece is None)
            parts.append(text)
            length += len(text)
            if piece is None:
                break
        if not length:
            return False
        keep = max(0, self.at - 1)  # a quote tells by what stands before it
        self.text = self.text[keep:] + "".join(parts)
        self.at -= keep
        self._next.clear()
        return True

    def find(self, quoted: dict[str, str]) -> tuple[str, str] | None:
        """Go behind the bracket that opens the value of the next of the names; return both, None at the end."""
        while True:
            best: tuple[int, str] | None = None
            for name, text in quoted.items():
                place = self._next.get(name)
                if place is None or 0 <= place < self.at:
                    place = self._next[name] = self.text.find(text, self.at)
                if place >= 0 and (best is None or place < best[0]):
                    best = place, name
            if best is None:
                self.at = max(self.at, len(self.text) - _OVERLAP)
                if not self._grow():
                    return None
                continue
            place, name = best
            if len(self.text) - place < _OVERLAP:
                self.at = place
                if self._grow():
                    continue
            self.at = place + len(quoted[name])
            is_within_text = place > 0 and self.text[place - 1] == "\\"
            if not is_within_text and (colon := _COLON.match(self.text, self.at)):
                self.at = colon.end()
                return name, colon[1]

    def is_at_object(self) -> bool:
        """Pass over blanks, commas and ``null``; return whether an object begins there."""
        while True:
            match = _SKIP.match(self.text, self.at)
            self.at = self.at if match is None else match.end()
            is_part_of_null = "null".startswith(self.text[self.at : self.at + 4])  # of nothing at all, too
            if not (is_part_of_null and self._grow()):
                return self.text.startswith("{", self.at)

    def is_at_value_or_end(self) -> bool:
        """Tell whether a list goes on here, or ends."""
        return self.text.startswith(tuple(_IN_LISTS), self.at)

    def has_within(self, length: int, quoted: dict[str, str]) -> bool:
        """Tell whether one of the names stands in the next *length* characters."""
        return any(self.text.find(text, self.at, self.at + length) >= 0 for text in quoted.values())

    def look(self) -> tuple[dict[str, Any] | None, int]:
        """Return the object that begins here, None if it is damaged or too long, and how many characters it took."""
        while True:
            try:
                value, end = self._decode(self.text, self.at)
            except RecursionError:
                return None, _LONGEST_ELEMENT
            except json.JSONDecodeError as error:
                if len(self.text) - self.at >= _LONGEST_ELEMENT or not self._grow():
                    return None, error.pos - self.at
            except ValueError:  # a number of more digits than are read
                return None, _LONGEST_ELEMENT
            else:
                return (value if isinstance(value, dict) else None), end - self.at


def _encoding(head: bytes) -> str:
    """Return the encoding of JSON that begins with *head*, which a shell may have written as UTF-16."""
    encoding = json.detect_encoding(head[:4])
    return "utf-8-sig" if encoding == "utf-8" else encoding
