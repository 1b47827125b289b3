"""What ``!analyze -v`` says of a module whose symbols are wrong or not there; posts in forums often have nothing else.

Source: transcripts of WinDbg 10 that people have published. Stamp and size stand in lines of their own, and written
one behind the other in ``SYMBOL_NAME`` and in buckets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.identity import fold
from symcache.inputs.log.modules import UNREADABLE_STAMP, Sighting
from symcache.inputs.log.noisy import safe_name

if TYPE_CHECKING:
    from symcache.inputs.log.modules import LogModules

__all__ = ["AnalysisLines"]


# Markdown may have put backslashes before the underscores.
_FIELD = re.compile(r"\s{0,40}([A-Z](?:[A-Z0-9]|\\?_|\.[A-Za-z]){2,40}): {1,40}(\S.*)$")
_BEGIN = re.compile(r"\s*(?:\*+ *)?(?:\S{1,20}> )?!analyze\b|\*? *(?:Bugcheck|Exception) Analysis\b")
_HEX = re.compile(r"(?:0x)?([0-9A-Fa-f]{1,8})\b")
_FAULTING = re.compile(r"([0-9A-Fa-f`]{8,17}) (\S+)")
_WRONG = re.compile(r"\.wrong\.symbols\.(\w{2,4})\b|_wrong_symbols(?![A-Za-z0-9])", re.IGNORECASE)
_BEFORE_NAME = re.compile(r"[^\w.+-]")
_LONGEST_NAME = 200
_WRITTEN_OUT = re.compile(
    r"wrong[._]symbols(?:\.\w{2,4})?[!_]([0-9A-Fa-f]{8})([0-9A-Fa-f]{1,8})(?![0-9A-Za-z])", re.IGNORECASE
)
# Modules that are not called like their files, or whose files alone are called so.
_FILES = {"nt": "ntoskrnl.exe", "ntdll": "ntdll.dll", "hal": "hal.dll", "kernel32": "kernel32.dll"}


@dataclass(slots=True)
class _Analysis:
    stamp: int | None = None
    size: int | None = None
    base: int | None = None
    module: str | None = None
    image: str | None = None
    bucket_module: str | None = None


class AnalysisLines:
    """Takes the lines of an analysis; what they say together is one module."""

    def __init__(self, modules: LogModules) -> None:
        self._modules = modules
        self._said: _Analysis | None = None

    def take(self, line: str) -> bool:
        """Note what *line* says; False if it says nothing of wrong symbols."""
        if _BEGIN.match(line):
            self.end()
            return False
        field = _FIELD.match(line)
        name = "" if field is None else field[1].replace("\\", "")
        value = line if field is None else field[2].replace("\\_", "_")
        if name == "WRONG_SYMBOLS_TIMESTAMP":
            self.end()
            self._open().stamp = _number(value)
        elif name == "WRONG_SYMBOLS_SIZE":
            self._open().size = _number(value)
        elif name == "FAULTING_MODULE" and self._said is not None and (faulting := _FAULTING.match(value)):
            self._said.base, self._said.module = int(faulting[1].replace("`", ""), 16), faulting[2]
        elif _is_of_wrong_symbols(value):
            self._take_names(self._open(), value, is_bucket="BUCKET" in name.upper() or field is None)
        else:
            return False
        return True

    def end(self) -> None:
        """Note that the analysis has ended."""
        said, self._said = self._said, None
        if said is None:
            return
        module = said.module or (said.image or "").rpartition(".")[0] or said.bucket_module
        if module is None:
            return
        fact = Sighting(module, said.base)
        fact.image_name = said.image or _FILES.get(fold(module))
        if said.stamp not in {None, 0, UNREADABLE_STAMP} and said.size:
            fact.timestamp, fact.size = said.stamp, said.size
            if fact.image_name is None:
                fact.reason = f"the log shows stamp and size of {module}, but not the name of its file"
        self._modules.see(fact)

    def _open(self) -> _Analysis:
        if self._said is None:
            self._said = _Analysis()
        return self._said

    def _take_names(self, said: _Analysis, value: str, *, is_bucket: bool) -> None:
        for wrong in _WRONG.finditer(value):
            name = _BEFORE_NAME.split(value[max(wrong.start() - _LONGEST_NAME, 0) : wrong.start()])[-1]
            if is_bucket:
                name = name.rpartition("_")[2]  # what stands before it in a bucket has underscores, too
            if wrong[1]:
                said.image = said.image or safe_name(f"{name}.{wrong[1]}")
            elif is_bucket:
                said.bucket_module = said.bucket_module or name or None
            else:
                said.module = said.module or name or None
        if key := _WRITTEN_OUT.search(value):
            said.stamp = said.stamp or int(key[1], 16)
            said.size = said.size or int(key[2], 16)


def _is_of_wrong_symbols(value: str) -> bool:
    return bool(_WRONG.search(value) or _WRITTEN_OUT.search(value))


def _number(value: str) -> int | None:
    match = _HEX.match(value)
    return int(match[1], 16) if match else None
