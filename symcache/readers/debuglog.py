"""Debugger transcripts: what a session on another machine asked for, worked out from its text.

Whoever debugs on a machine without a network can send the log of ``!sym noisy`` and ``.reload /f``, of ``lmv`` or of
``symchk /v``; that is enough to fetch the files elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from symcache.errors import UnknownFormat
from symcache.readers.logmodules import LogModules
from symcache.readers.lognoisy import NoisyLines, find_keys
from symcache.readers.logtables import TableLines
from symcache.readers.logtext import iter_lines, text_encoding
from symcache.readers.records import Input, InputKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView
    from symcache.readers.records import Record

__all__ = ["looks_like_debugger_log", "read_debugger_log"]

_BINARY = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")
_SIGNS = re.compile(
    r"(?:SYMSRV2?|DBGHELP|DBGENG|SYMCHK): |\[SYMCHK\] |Microsoft \(R\) Windows Debugger|noisy mode - symbol prompts"
    r"|^\s*start\s+end\s+module name|Loaded Module Info: \[|Symbol search path is: |Loading Dump File \["
    r"|\*\*\* (?:ERROR|WARNING): (?:Module load completed|Symbol file could not|Unable to verify|symbols )"
    r"|^(?:\d+: ?)?(?:l?kd|\d+:\d{3})(?::\w+)?> |^Loading (?:Kernel|User) Symbols",
    re.MULTILINE,
)
_DETAILS = {
    "debugger": re.compile(r"Microsoft \(R\) Windows Debugger +Version (.{1,80})"),
    "dump": re.compile(r"Loading Dump File \[(.{1,400})\]"),
}


def looks_like_debugger_log(head: bytes) -> bool:
    """Tell whether *head*, the first few KiB of a file, is from a debugger's or symchk's transcript."""
    encoding = text_encoding(head)
    if encoding is not None:
        text = head[: len(head) // 2 * 2].decode(encoding, "replace")
    elif _BINARY.search(head):
        return False
    else:
        text = head.decode("utf-8", "replace")
    return _SIGNS.search(text.replace("\xa0", " ").replace("\r", "\n").replace("\b", "\n")) is not None


def read_debugger_log(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the transcript, then each module that its lines identify or at least name.

    What is kept while reading is bounded, whatever the transcript's length. Modules come in the order in which the
    text names them; keys whose module the text does not tell follow, then files that it names without a key.

    Raises:
        UnknownFormat: No line is one of a debugger's.
    """
    modules = LogModules()
    tables, noisy = TableLines(modules), NoisyLines(modules)
    details: dict[str, str | int] = {}
    lines = known_lines = 0
    for line in iter_lines(view):
        lines += 1
        known = noisy.take(line) or tables.take(line)
        if not known:
            for key in find_keys(line):
                modules.spot(key)
                known = True
            known |= _note_details(line, details)
        known_lines += known
    noisy.end()
    tables.end()
    if not known_lines:
        raise UnknownFormat("not a debugger log: no line is from a debugger or symchk")
    yield Input(path, InputKind.DEBUGGER_LOG, {**details, "lines": lines, "known_lines": known_lines})
    yield from modules.modules()
    if modules.overflowed:
        yield Unreadable(path, "the log names more files than are kept; the rest of it was left out")


def _note_details(line: str, details: dict[str, str | int]) -> bool:
    for name, pattern in _DETAILS.items():
        if match := pattern.search(line):
            details.setdefault(name, match[1].strip())
    return _SIGNS.search(line) is not None
