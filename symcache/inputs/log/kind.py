"""What a text is that identifies no file, and what to give in its place."""

from __future__ import annotations

import re

__all__ = ["TextKind"]


_RUN = "run `lmv` or `lm t n` in the debugger and give its output, or give the dump"
# The first that is seen counts, from the most telling to the least.
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
_NO_LOG = "not a debugger log: no line is from a debugger or symchk, and no index path stands in it"


class TextKind:
    """Recognises, line by line, texts of tools that do not print what identifies a file."""

    def __init__(self) -> None:
        self._rank = len(_KINDS)

    def see(self, line: str) -> None:
        """Look at *line*."""
        for rank, (sign, _) in enumerate(_KINDS[: self._rank]):
            if sign.search(line):
                self._rank = rank
                return

    @property
    def hint(self) -> str | None:
        """What the text is and what to give in its place; None if it is of no known tool."""
        return _KINDS[self._rank][1] if self._rank < len(_KINDS) else None

    def problem(self, *, is_log: bool) -> str:
        """Return why nothing comes of the text, a debugger's log or not."""
        return self.hint or (_LOG if is_log else _NO_LOG)
