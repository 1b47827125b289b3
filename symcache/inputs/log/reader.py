"""Debugger transcripts: what a session on another machine asked for, worked out from its text.

A log of ``!sym noisy`` and ``.reload /f``, of ``lmv`` or of ``symchk /v`` from a machine without a network is enough to
fetch the files elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from symcache.errors import UnknownFormat
from symcache.formats.view import BytesView
from symcache.inputs.log.analysis import AnalysisLines
from symcache.inputs.log.kind import TextKind
from symcache.inputs.log.margin import Margin, Seams
from symcache.inputs.log.modules import LogModules
from symcache.inputs.log.noisy import NoisyLines, find_keys, noisy_facts
from symcache.inputs.log.tables import TableLines, table_facts
from symcache.inputs.log.text import iter_lines, text_encoding
from symcache.inputs.log.tools import ToolLines, is_of_list, names_identity
from symcache.inputs.records import Input, InputKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView
    from symcache.inputs.log.margin import Fact
    from symcache.inputs.records import Record

__all__ = ["find_kind_of_text", "is_long_text", "looks_like_debugger_log", "read_debugger_log"]


_FEW_LINES = 16

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
    """Tell whether *head*, the first few KiB of a file, is a text that may identify files: a debugger's or a tool's."""
    if text_encoding(head) is None and _BINARY.search(head):
        return False
    margin = Margin()
    # A list alone is for another reader; in a letter its lines are as good as any.
    of_list = others = False
    for text in iter_lines(BytesView(head)):
        line = margin.strip(text)
        if is_of_list(text):
            of_list = True
        elif line.begins or _SIGNS.search(line.text) or names_identity(line.text) or any(find_keys(line.text)):
            return True
        else:
            others = True
        if of_list and others:
            return True
    return False


def find_kind_of_text(head: bytes) -> str | None:
    """Return what *head* is the beginning of and what to give in its place, if it is a known tool's text."""
    if text_encoding(head) is None and _BINARY.search(head):
        return None
    kind = TextKind()
    for line in iter_lines(BytesView(head)):
        kind.see(line)
    return kind.hint


def is_long_text(head: bytes, size: int) -> bool:
    """Tell whether lines go on behind *head*, so that what it is may stand further down."""
    return size > len(head) and not _BINARY.search(head) and head.count(b"\n") > _FEW_LINES


def read_debugger_log(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the transcript, then each module that its lines identify or at least name.

    What is kept while reading is bounded, whatever the transcript's length. Modules come in the order in which the
    text names them; keys whose module the text does not tell follow, then files that it names without a key.

    Raises:
        UnknownFormat: No line is one of a debugger's.
    """
    log = _Log()
    for text in iter_lines(view):
        log.take(text)
    log.end()
    if log.known_lines == log.list_lines and log.list_lines in {0, log.lines}:
        raise UnknownFormat(log.kind.problem(is_log=False))
    yield Input(path, InputKind.DEBUGGER_LOG, {**log.details, "lines": log.lines, "known_lines": log.known_lines})
    is_identified = False
    for module in log.modules.modules():
        is_identified = is_identified or module.image is not None or bool(module.pdbs) or module.dbg is not None
        yield module
    if not is_identified:
        yield Unreadable(path, log.kind.problem(is_log=True))
    if log.modules.overflowed:
        yield Unreadable(path, "the log names more files than are kept; the rest of it was left out")


class _Log:
    """One text, line by line: who understands a line takes it.

    Attributes:
        modules: What the lines say of modules.
        kind: Which text it may be.
        details: Facts about the session.
        lines: How many there are, blank ones left out.
        known_lines: How many of them say something.
        list_lines: How many of these are a manifest's.
    """

    def __init__(self) -> None:
        self.modules = LogModules()
        self.kind = TextKind()
        self.details: dict[str, str | int] = {}
        self.lines = self.known_lines = self.list_lines = 0
        self._margin, self._seams = Margin(), Seams(_facts)
        self._noisy, self._tables = NoisyLines(self.modules), TableLines(self.modules)
        self._analysis, self._tools = AnalysisLines(self.modules), ToolLines(self.modules)

    def take(self, text: str) -> None:
        """Take a line as it stands in the text."""
        self.lines += 1
        self.list_lines += is_of_list(text)
        line = self._margin.strip(text)
        if not line.text.strip():
            return  # a blank line that was quoted is blank
        for whole in self._seams.add(line):
            self._take_whole(whole)

    def end(self) -> None:
        """Note that the text has ended."""
        for whole in self._seams.end():
            self._take_whole(whole)
        for lines in (self._noisy, self._tables, self._analysis, self._tools):
            lines.end()

    def _take_whole(self, line: str) -> None:
        self.kind.see(line)
        self.known_lines += self._understand(line) or self._spot(line)

    def _understand(self, line: str) -> bool:
        """Take a line whose meaning depends on its neighbours."""
        return self._noisy.take(line) or self._analysis.take(line) or self._tables.take(line) or self._tools.take(line)

    def _spot(self, line: str) -> bool:
        """Take a line of whatever kind for the keys in it."""
        known = False
        for key in find_keys(line):
            self.modules.spot(key)
            known = True
        return _note_details(line, self.details) or known


def _facts(line: str) -> Iterator[Fact]:
    yield from noisy_facts(line)
    yield from table_facts(line)


def _note_details(line: str, details: dict[str, str | int]) -> bool:
    for name, pattern in _DETAILS.items():
        if match := pattern.search(line):
            details.setdefault(name, match[1].strip())
    return _SIGNS.search(line) is not None
