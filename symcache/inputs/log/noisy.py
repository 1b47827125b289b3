r"""What debuggers and symchk print while they look for symbols (``!sym noisy``, ``-n``, ``/v``).

Four generations of such lines exist. Up to about 2015 they are paths of index form (``x.pdb\KEY\x.pdb not found``);
then WinInet adds its chatter; Windows 10 kits bracket each question by ``BYINDEX`` and ``RESULT``; WinDbg since 2024
prefixes ``SYMSRV2: [file]`` or, in its own log, ``SymSrv : [file]``. Paths of index form are in all of them, and what
is not known is skipped.
Source: transcripts of dbghelp 10.0.15063; public transcripts and documentation for the others, WinDbg 1.2506 and
1.2601 among them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from symcache.errors import MalformedInput
from symcache.identity import POINTER, base_name, check_name, compressed_name, fold
from symcache.inputs.log.modules import UNREADABLE_HEADERS, key_of
from symcache.inputs.log.text import SHOWN

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from symcache.identity import Key
    from symcache.inputs.log.modules import LogModules
    from symcache.inputs.log.text import Fact

# Progress text, or a prefix that the host of the library adds, may stand in front.
_MARKER = re.compile(r"(SYMSRV2?|SymSrv |DBGHELP):\s*")
# Separators are doubled where a program writes the path as a literal.
_ID_IN_PATH = re.compile(r"[\\/]{1,2}([0-9A-Fa-f]{9,16}|[0-9A-Fa-f]{32,40})[\\/]{1,2}(?:msfz0[\\/])?", re.IGNORECASE)
# What is percent-encoded: an address, and the path of a request.
_ADDRESS = re.compile(r"(?:https?://|(?:HTTPGET:|Get File Path:|GET|HEAD) +/)[^\s'\"<>|*]{1,2000}", re.IGNORECASE)
_REACH = 300  # further than any name is long
_HEX = re.compile(r"[0-9A-Fa-f]{1,40}")
_BEFORE_NAME = re.compile(r'[\\/:*?"<>|=\[\]{}]')
_IN_NAME = re.compile(r"[\w.\-]")
_LOADED = re.compile(r"([^\s\\/]+) - (?:no symbols loaded|(?:public|private|export|coff|dbg|dia|sym) symbols)")
_COPIED = re.compile(r"(\S.*?) from (?:.*: )?\d+ bytes\b")
_IS_THERE = re.compile(r"(\S.*?)(?: -)? (?:OK|already cached)\s*$|\S.*? cached to (\S.*)$")
_UNREADABLE = re.compile(r"([^\\/]+)[\\/]FFFFFFFE[0-9A-Fa-f]{1,8}[\\/]", re.IGNORECASE)
# What the client says of an answer names no file.
_ANSWER = re.compile(r"RESULT|BYINDEX|Http[QS]")
_FILE = re.compile(r"\.\w{3,4}$")
# The store or address of a question may be cut into several lines.
_MOST_PARTS = 6


class NoisyLines:
    """Takes the lines of the symbol server's client and of dbghelp."""

    def __init__(self, modules: LogModules) -> None:
        self._modules = modules
        self._answer_to: list[str] | None = None
        self._question: Key | None = None
        self._loading: str | None = None

    def take(self, line: str) -> bool:
        """Note what *line* says; False if it is none of these lines."""
        marker = _MARKER.search(line)
        if marker is None:
            return self._continue(line)
        self.end()
        if marker[1] == "DBGHELP":
            self._take_dbghelp(line[marker.end() :])
        else:
            self._take_symsrv(line[marker.end() :])
        return True

    def end(self) -> None:
        """Note that the lines that belong together have ended."""
        self._close_question()
        if self._loading is not None:
            self._modules.load(self._loading)
            self._loading = None

    def _continue(self, line: str) -> bool:
        """Take a line that continues the one before: a question's three parts, or where a PDB was loaded from."""
        if self._answer_to is not None:
            part = line.strip()
            is_answered = len(self._answer_to) >= 3 and _HEX.fullmatch(self._answer_to[-1]) is not None
            if len(self._answer_to) < _MOST_PARTS and (not is_answered or _HEX.fullmatch(part)):
                self._answer_to.append(part)
                return True
            self._close_question()
        if self._loading is not None and line.startswith(" "):
            self._modules.load(self._loading, find_keys(line))
            self._loading = None
            return True
        self.end()
        return False

    def _close_question(self) -> None:
        """Take the parts of a question: the store, which may be cut, the name, and the id, which may be cut, too."""
        parts, self._answer_to = self._answer_to or [], None
        if len(parts) == 3:
            self._ask(*parts[1:])
        for first in range(len(parts) - 1, 1, -1):
            if len(parts) == 3 or not _HEX.fullmatch(parts[first]):
                break
            if _FILE.search(parts[first - 1]):
                self._ask(parts[first - 1], "".join(parts[first:]))
                break

    def _ask(self, name: str, id_: str) -> None:
        self._question = key_of(name, id_)
        if self._question is not None:
            self._modules.ask(self._question)
        elif (unreadable := _UNREADABLE.match(f"{base_name(name)}/{id_}/")) and (file := safe_name(unreadable[1])):
            self._modules.mention(file, UNREADABLE_HEADERS)

    def _take_symsrv(self, text: str) -> None:
        if text.startswith("BYINDEX:"):
            self._answer_to = []
            return
        if text.startswith("RESULT:"):
            if self._question is not None and text.rstrip().endswith(" 0x00000000"):
                self._modules.find(self._question)
            self._question = None
            return
        for key in find_keys(text):
            self._modules.ask(key)
            if text.startswith("PATH:"):
                self._modules.find(key)
        if (unreadable := _UNREADABLE.search(text)) and (file := safe_name(unreadable[1])):
            self._modules.mention(file, UNREADABLE_HEADERS)
        copied = _COPIED.match(text)
        if copied is not None and (name := safe_name(copied[1])) is not None:
            self._modules.copied(name)

    def _take_dbghelp(self, text: str) -> None:
        loaded = _LOADED.match(text)
        if loaded is not None and (name := safe_name(loaded[1])) is not None:
            self._loading = name
            return
        there = _IS_THERE.match(text)
        for key in find_keys(text):
            self._modules.ask(key)
            if there is not None:
                self._modules.find(key)
        if there is not None and (name := safe_name(there[1] or there[2])) is not None:
            self._modules.find_by_name(name)


def noisy_facts(line: str, said: Container[str] = ()) -> Iterator[Fact]:
    """Yield what *line* alone says: the keys in it and, behind a marker, what was asked for or loaded.

    Facts of the kinds that were *said* may be left out.
    """
    marker = _MARKER.search(line)
    text, is_asked = "", False
    if marker is not None:
        text = line[marker.end() :]
        path = _ID_IN_PATH.search(text)
        is_asked = path is not None and not _ANSWER.match(text) and " - " not in text[: path.start()]
        if loaded := _LOADED.match(text):
            yield "loaded", loaded[1]
        if copied := _COPIED.match(text):
            yield "copied", copied[1]
    kind = "asked" if is_asked else SHOWN
    if kind not in said:
        yield from ((kind, key) for key, is_certain in _find_keys(line) if is_certain)


def find_keys(text: str) -> Iterator[Key]:
    r"""Yield the keys that paths and addresses of index form in *text* hold, in order.

    ``name\id\file`` counts where *file* is the name, its compressed form or ``file.ptr``; the three tell an index
    from a folder that happens to be named in hex digits. Only addresses are percent-decoded: ``a%20b.pdb`` on a disk is
    called so.
    """
    return (key for key, _ in _find_keys(text))


def _find_keys(text: str) -> Iterator[tuple[Key, bool]]:
    """Yield the keys in *text*, each with whether its name stands there twice, as that of a pointer file does not."""
    if "%" in text:
        text = _ADDRESS.sub(lambda address: unquote(address[0]), text)
    for match in _ID_IN_PATH.finditer(text):
        before, after = text[max(match.start() - _REACH, 0) : match.start()], text[match.end() : match.end() + _REACH]
        cut = _BEFORE_NAME.search(before[::-1])  # the last one, without a look at all
        name = before if cut is None else before[len(before) - cut.start() :]
        is_whole = cut is not None and cut[0] in "\\/"
        if not is_whole:
            name = name.rpartition(" ")[2]  # words may stand in front
        name = name.strip()
        files = (name, compressed_name(name), POINTER) if is_whole else (name, compressed_name(name))
        for file in files:
            if name and fold(after[: len(file)]) == fold(file) and not _IN_NAME.match(after[len(file) : len(file) + 1]):
                key = key_of(name, match[1])
                if key is not None:
                    yield key, file != POINTER
                break


def safe_name(text: str) -> str | None:
    """Return the file name at the end of the path *text*; None if no file of a store can be called so."""
    try:
        return check_name(base_name(text.strip()))
    except MalformedInput:
        return None
