"""Debugger transcripts: what a session on another machine asked for, worked out from its text.

A log of ``!sym noisy`` and ``.reload /f``, of ``lmv`` or of ``symchk /v`` from a machine without a network is enough to
fetch the files elsewhere.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING

from symcache.errors import UnknownFormat
from symcache.formats.view import BytesView
from symcache.inputs.log.modules import LogModules
from symcache.inputs.log.noisy import NoisyLines, find_keys, noisy_facts
from symcache.inputs.log.tables import AnalysisLines, TableLines, table_facts
from symcache.inputs.log.text import Margin, Seams, iter_lines
from symcache.inputs.log.tools import ToolLines, is_of_list, names_identity
from symcache.inputs.manifest import text_encoding
from symcache.inputs.records import Input, InputKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

_FEW_LINES = 16
# Of a text that said nothing so far. It takes some ten seconds, and a debugger's part begins before.
_MOST_UNKNOWN_MIB = 16
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

# What a text is that identifies no file, and what to give in its place. The first that is seen counts, from the most
# telling to the least.
_RUN = "run `lmv` or `lm t n` in the debugger and give its output, or give the dump"
_KINDS = (
    (
        re.compile(r"<!doctype html|<\?xml", re.IGNORECASE),
        "a web page or XML, perhaps what a server sent in place of the file: fetch it again",
    ),
    (
        re.compile(r"(?:Dump File|Crash Time|Bug Check (?:String|Code)) +: "),
        "a report of BlueScreenView without the drivers' time stamps: give the dump that it shows",
    ),
    (
        re.compile(r"Initialize engine version: |SymInit: Symbol-SearchPath: |, SymType: '"),
        "a log of the Unity player that names modules without their PDBs: give the crash.dmp beside it",
    ),
    (
        re.compile(r"\((?:Win32|CLR|CoreCLR)[^)]{0,40}\): (?:Loaded|Unloaded) '|Cannot find or open the PDB file"),
        "the output of Visual Studio, which names modules without what identifies them: save a dump and give that",
    ),
    (
        re.compile(
            r"Faulting (?:module|application) (?:name|path): |(?:Problem )?Event Name: +(?:APPCRASH|BEX|BlueScreen)"
        ),
        "an error report of Windows, which has time stamps of modules but not their sizes: give the dump",
    ),
    (
        # Process Explorer, ListDLLs, tasklist /m, Get-Process -Module.
        re.compile(
            r"^Name +Description +Company Name\b|^Process: .{1,200} Pid: \d|^Base {5,}Size {5,}Path$"
            r"|^Image Name +PID Modules$|^ *Size\(K\) ModuleName +FileName"
        ),
        (
            "a list of a process's modules without what identifies them: give a dump of the process, or what `symcache "
            "scan --pid NAME -o wanted.txt` writes on that machine"
        ),
    ),
    (
        re.compile(r"Link Date|Driver Type|^Driver Name .*Type"),
        "a list of drivers without time stamps: give the drivers themselves, or the dump",
    ),
    (
        re.compile(r"^\s*start +end +module name|ModLoad: |^Loaded modules:$"),
        f"a list of modules without time stamps: {_RUN}",
    ),
    (
        re.compile(
            r"(?:Child-SP|ChildEBP) +RetAddr|RetAddr +: Args to Child|\b[\w.]{1,64}![\w:~<>@?$]{1,200}\+0x[0-9a-f]"
        ),
        f"a debugger's stack, which names modules without what identifies them: {_RUN}",
    ),
    (
        re.compile(r"\*\*\* (?:ERROR|WARNING): |Unable to load image |^SYMCHK: "),
        (
            "messages that name files without what identifies them: run `!sym noisy`, `.reload /f` and `lm t n` in the "
            "debugger (`symchk /v` in place of symchk) and give their output, or give the dump"
        ),
    ),
)
_LOG = (
    "a debugger's log that names no file by its key: run `!sym noisy`, `.reload /f` and `lm t n` and give their "
    "output, or give the dump"
)
_LATE = (
    f"not a debugger log: no line in its first {_MOST_UNKNOWN_MIB} MiB is from a debugger or symchk, nor an index path;"
    " if one is further down, give that part alone"
)
_NO_LOG = "not a debugger log: no line is from a debugger or symchk, and no index path stands in it"


def is_text_start(head: bytes) -> bool:
    """Tell whether *head*, the first few KiB of a file, is text in an encoding that is read."""
    return text_encoding(head) is not None or not _BINARY.search(head)


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
    kind = len(_KINDS)
    for line in iter_lines(BytesView(head)):
        kind = _kind_of(line, kind)
    return _hint(kind)


def _kind_of(line: str, kind: int) -> int:
    """Return which of `_KINDS` *line* is of, if it tells more than *kind*."""
    return next((better for better, (sign, _) in enumerate(_KINDS[:kind]) if sign.search(line)), kind)


def _hint(kind: int) -> str | None:
    return _KINDS[kind][1] if kind < len(_KINDS) else None


def is_long_text(head: bytes, size: int) -> bool:
    """Tell whether lines go on behind *head*, so that what it is may stand further down."""
    return size > len(head) and not _BINARY.search(head) and head.count(b"\n") > _FEW_LINES


def read_debugger_log(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the transcript, then each module that its lines identify or at least name.

    What is kept while reading is bounded, whatever the transcript's length. Modules come in the order in which the
    text names them; keys whose module the text does not tell follow, then files that it names without a key.

    Raises:
        UnknownFormat: No line is one of a debugger's, or none in the first 16 MiB.
    """
    log = _Log()
    unknown = 0
    for text in iter_lines(view):
        log.take(text)
        if log.known_lines or log.list_lines:
            continue
        unknown += len(text) + 1
        if unknown > _MOST_UNKNOWN_MIB << 20:
            raise UnknownFormat(_hint(log.kind) or _LATE)
    log.end()
    if log.known_lines == log.list_lines and log.list_lines in {0, log.lines}:
        raise UnknownFormat(_hint(log.kind) or _NO_LOG)
    yield Input(path, InputKind.DEBUGGER_LOG, {**log.details, "lines": log.lines, "known_lines": log.known_lines})
    is_identified = False
    for module in log.modules.modules():
        is_identified = is_identified or module.image is not None or bool(module.pdbs) or module.dbg is not None
        yield module
    if not is_identified:
        yield Unreadable(path, _hint(log.kind) or _LOG)
    if log.modules.overflowed:
        yield Unreadable(path, "the log names more files than are kept; the rest of it was left out")


class _Log:
    """One text, line by line: who understands a line takes it."""

    def __init__(self) -> None:
        self.modules = LogModules()
        self.kind = len(_KINDS)
        self.details: dict[str, str | int] = {}  # of the session
        self.lines = 0  # without blank ones
        self.known_lines = 0
        self.list_lines = 0  # those that are a manifest's
        self._margin = Margin()
        self._seams = Seams(lambda line, said: chain(noisy_facts(line, said), table_facts(line)))
        # What is understood depends on the neighbours, so that each keeps what it has seen.
        self._takers = [taker(self.modules) for taker in (NoisyLines, AnalysisLines, TableLines, ToolLines)]

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
        noisy, analysis, tables, tools = self._takers
        for taker in (noisy, tables, analysis, tools):
            taker.end()

    def _take_whole(self, line: str) -> None:
        self.kind = _kind_of(line, self.kind)
        self.known_lines += any(taker.take(line) for taker in self._takers) or self._spot(line)

    def _spot(self, line: str) -> bool:
        """Take a line of whatever kind for the keys in it."""
        known = _SIGNS.search(line) is not None
        for key in find_keys(line):
            self.modules.spot(key)
            known = True
        for name, pattern in _DETAILS.items():
            if match := pattern.search(line):
                self.details.setdefault(name, match[1].strip())
        return known
