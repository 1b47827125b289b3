"""What commands print of modules: ``lm`` in its variants, ``!lmi``, ``!chksym``, ``.reload``, ``!analyze``; and symchk.

Source: windows-driver-docs, "lm (List Loaded Modules)", "!lmi", "Symbol Status Abbreviations", "SymChk Command-Line
Options"; transcripts for what these leave out, of WinDbg 10 for ``!analyze``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from symcache.formats.pe.version import TEXT_FIELDS, VersionInfo, one_line, with_flags
from symcache.identity import ImageKey, base_name, fold
from symcache.inputs.log.modules import UNREADABLE_STAMP, Sighting, key_of, sighting_of
from symcache.inputs.log.noisy import find_keys, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.inputs.log.modules import LogModules
    from symcache.inputs.log.text import Fact

_ADDRESS = r"(?:0x)?([0-9a-fA-F]{8}(?:`?[0-9a-fA-F]{8})?)"
_PROMPT = re.compile(r"(?:\d+: ?)?(?:l?kd|\d+:\d+|\d+)(?::[\w&]+)?> ?")
_HEADING = re.compile(r"\s*start\s+end\s+module name")
_ROW = re.compile(rf"[\s.]*{_ADDRESS}\s+{_ADDRESS}\s+(\S+)(?:\s+(.*))?$")
_MODLOAD = re.compile(rf"ModLoad: {_ADDRESS}\s+{_ADDRESS}\s+(\S.*)$")
_STATUS = re.compile(r"(?:[#MTC]+\s+)?\(([^)]*)\)\s*(.*)$")
_STATUS_WORD = re.compile(r"deferred|symbols|code|exports?", re.IGNORECASE)
# The stamp of a row as a time or a hash, behind the file's name or without it.
_TIMED = re.compile(
    r"(?:(\S.{0,254}?\.\w{1,8})\s+)?(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) |\*{3,5} Invalid |[0-9A-F]{8} \()"
    r".*(?:\([0-9A-Fa-f]{8}\)|not a timestamp\))"
)
_NAMED_WITH_TIME = re.compile(r"(\S.*?\.[^\s.]{1,8})\s+(\S.*)$")
_STAMP = re.compile(r"\(([0-9A-Fa-f]{8})\)|\b([0-9A-Fa-f]{8}) \(")
# `!lmi` does not pad; a shorter number would be the day of a date.
_LEADING_STAMP = re.compile(r"([0-9A-Fa-f]{8})\b|([0-9A-Fa-f]{5,7})(?=$| [A-Z(])")
_FIELD_NAME = re.compile(r"[A-Za-z][\w ]{0,30}")
_LMI = re.compile(r"Loaded Module Info: \[([^\]]+)\]")
_GUID = re.compile(r"\{?([0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})\}?")
_LMI_PDB = re.compile(r"Age: ([0-9A-Fa-f]{1,8}), pdb: (.+)$", re.IGNORECASE)
_LMI_NB10 = re.compile(r"NB10 - Sig: ([0-9A-Fa-f]{8}), Age: ([0-9A-Fa-f]{1,8}), Pdb: (.+)$")
# `lmv` prints the numbers under names with a blank, and the texts under those that they have in the resource.
_VERSION_FIELD = re.compile(
    r"\s*(company ?name|product ?name|file ?description|original ?filename|file ?version|product ?version|file flags):"
    r" +(\S.*)$",
    re.IGNORECASE,
)
_VERSION_NUMBERS = {"file version": "file_numbers", "product version": "product_numbers"}
_NUMBERS = re.compile(r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})\.(\d{1,5})$")
_FLAGS = re.compile(r"([0-9A-Fa-f]{1,8}) \(Mask ([0-9A-Fa-f]{1,8})\)")
# Beside what modules take; real transcripts have 200 characters for each module.
_MOST_VERSION_CHARACTERS = 1 << 24
_HEX = re.compile(r"(?:0x)?([0-9A-Fa-f]{1,8})\b")
_MENTION = re.compile(
    r"(?:symbols could not be loaded for|Defaulted to export symbols for|Unable to verify (?:checksum|timestamp) for"
    r"|(?:checksum|timestamp) is wrong .* for|Unable to read image header for)\s+(\S.*?)(?: - .*| -| at .*)?$"
)
_PADDED = re.compile(r"[0-9A-Fa-f]{8}\b")
_EXTENSION = re.compile(r"\.(?:exe|dll|sys|ocx|drv|cpl|scr|efi|ax|acm|tsp|ime|pdb)$", re.IGNORECASE)
_UNLOADABLE = re.compile(r"Unable to load image (.+), Win32 error")
_SYMCHK_VERDICT = re.compile(r"\s(PASSED|FAILED|IGNORED|ERROR)\b[\s-]*(.*)$")
_SYMCHK_FIELD = re.compile(
    r"(Result(?=\s+0x)|DbgTimeDateStamp|DbgSizeOfImage|PdbFilename|PdbSignature|PdbDbiAge)\s+(\S.*)$", re.IGNORECASE
)
_SYMCHK_CHECKED = re.compile(r'\] Checked "([^"]+)"')
_SYMCHK_BLOCK = re.compile(r"MODULE64 Info |-{5,}\s*$")
# What `symchk /v` says of a loaded module; sizes and ages stand there in decimal.
_SYMCHK_MODULE_FIELD = re.compile(
    r"(?:Image size: (?P<size>\d{1,10}) bytes|Date: (?P<stamp>0x[0-9A-Fa-f]{1,8})|ImageName: (?P<image>\S.*)"
    r"|CV Data: +(?P<pdb>\S.*)|PDB7 Sig: (?P<guid>\{.*)|Age: (?P<age>\d{1,10}))\s*$",
    re.IGNORECASE,
)

_OTHER_FIELDS = frozenset(
    ["loadedsymbolimagefile", "mappedmemoryimagefile", "checksum", "machinetype", "symboltype", "loadreport"]
)
_FIELDS = _OTHER_FIELDS | {"imagename", "imagepath", "timestamp", "imagesize", "size", "baseaddress", "module"}


class TableLines:
    """Takes the lines that commands print."""

    def __init__(self, modules: LogModules) -> None:
        self._modules = modules
        self._in_table = False
        self._unloaded = False
        self._entry: Sighting | None = None
        self._guid: str | None = None
        self._fields: dict[str, str] = {}
        self._line_before = ""
        self._version_characters_left = _MOST_VERSION_CHARACTERS

    def take(self, line: str) -> bool:
        """Note what *line* says; False if it is none of these lines."""
        if _PROMPT.match(line):
            self.end()
            self._modules.settle()
            self._line_before = line
            return True
        known = (
            self._take_row(line)
            or self._take_symchk(line)
            or self._take_check(line)
            or self._take_detail(line)
            or self._take_mention(line)
        )
        self._line_before = line
        return known

    def end(self) -> None:
        """Note that the lines that belong together have ended."""
        self._close_entry()
        self._close_check()
        self._in_table = self._unloaded = False

    def _take_row(self, line: str) -> bool:
        """Take a heading, a row of a table or the beginning of ``!lmi``."""
        is_unloaded = line.startswith("Unloaded modules:")
        if is_unloaded or _HEADING.match(line):
            self._close_entry()
            self._in_table, self._unloaded = True, is_unloaded
            return True
        if block := _LMI.search(line):
            self._close_entry()
            self._entry = Sighting(block[1].strip())
            return True
        if loaded := _MODLOAD.match(line):
            self._close_entry()
            self._take_modload(*loaded.groups())
            return True
        row = _ROW.match(line)
        if row is None:
            return False
        start, end = (int(row[part].replace("`", ""), 16) for part in (1, 2))
        rest = row[4] or ""
        status = _STATUS.match(rest)
        if end <= start or not (self._in_table or (status is not None and _STATUS_WORD.search(status[1]))):
            return False
        self._close_entry()
        self._entry = _row_sighting(row[3], start, end - start, rest, unloaded=self._unloaded)
        return True

    def _take_modload(self, start: str, end: str, path: str) -> None:
        """Take what an engine prints when a module is loaded; the name alone is what ``lm`` lists it by."""
        base, limit = (int(address.replace("`", ""), 16) for address in (start, end))
        name = safe_name(path)
        if name is not None and limit > base:
            fact = sighting_of(name, base=base, size=limit - base, path=path if set("\\/") & set(path) else None)
            fact.image_name = name if "." in name else None
            self._modules.see(fact)

    def _take_detail(self, line: str) -> bool:
        """Take a line that ``lmv`` prints below a row, or one of ``!lmi``."""
        entry = self._entry
        if entry is None:
            return False
        if version := _VERSION_FIELD.match(line):
            self._version_characters_left -= len(version[2])
            if self._version_characters_left > 0:
                _add_version(entry, fold(version[1]), version[2])
        elif nb10 := _LMI_NB10.search(line):
            _add_pdb(entry, nb10[3], nb10[1] + nb10[2])
        elif guid := _GUID.search(line):
            self._guid = guid[1].replace("-", "")
        elif (pdb := _LMI_PDB.search(line)) and self._guid is not None:
            _add_pdb(entry, pdb[2], self._guid + pdb[1])
            self._guid = None
        elif line.startswith(" ") and (keys := [key for key in find_keys(line) if not isinstance(key, ImageKey)]):
            entry.add_key(keys[-1])
        else:
            return _add_field(entry, *_field(line))
        return True

    def _take_check(self, line: str) -> bool:
        """Take a line of ``!chksym``: a path, then stamp, size, PDB, its GUID and age, each on its line."""
        if self._entry is not None:
            return False
        name, value = _field(line)
        if name == "timestamp" and re.fullmatch(r"[0-9A-Fa-f]{8}", value):
            self._close_check()
            self._fields = {"image": self._line_before.strip(), "stamp": value}
        elif name in _CHECK_FIELDS and self._fields:
            self._fields[_CHECK_FIELDS[name]] = value
            if name == "age":
                self._close_check()
        else:
            return False
        return True

    def _take_symchk(self, line: str) -> bool:
        if line.startswith("[SYMCHK]"):
            line = line.removeprefix("[SYMCHK]").lstrip()
            checked = _SYMCHK_CHECKED.search(line)
            if checked is None:
                return self._take_symchk_module(line) or self._take_symchk_field(line) or True
            self._fields["image"] = checked[1]
            self._close_check()
            return True
        if not line.startswith("SYMCHK:"):
            return self._take_symchk_field(line)
        verdict = _SYMCHK_VERDICT.search(line)
        if verdict is not None and "files = " not in line:
            # The file's version may stand behind its name.
            name = safe_name(line[len("SYMCHK:") : verdict.start()].partition(" [")[0])
            if name is not None:
                said = verdict[2] or fold(verdict[1])
                self._modules.mention(name, f"the log does not show what identifies it (symchk: {said})")
        return True

    def _take_symchk_module(self, line: str) -> bool:
        """Take a line of the block about a loaded module, which begins with a heading and ends with dashes."""
        if _SYMCHK_BLOCK.match(line):
            self._close_check()
            return True
        match = _SYMCHK_MODULE_FIELD.match(line)
        if match is None:
            return False
        field, value = str(match.lastgroup), match[str(match.lastgroup)]
        is_decimal = field in {"size", "age"}
        self._fields[field] = f"{int(value):x}" if is_decimal else value
        return True

    def _take_symchk_field(self, line: str) -> bool:
        field = _SYMCHK_FIELD.match(line)
        if field is None:
            return False
        if fold(field[1]) == "result":
            self._close_check()
        else:
            self._fields[_SYMCHK_FIELDS[fold(field[1])]] = field[2]
        return True

    def _take_mention(self, line: str) -> bool:
        mention = _find_mention(line)
        if mention is not None and (name := safe_name(mention[1])) is not None:
            self._modules.mention(name)
        return mention is not None

    def _close_entry(self) -> None:
        if self._entry is not None:
            self._modules.see(self._entry)
        self._entry = self._guid = None

    def _close_check(self) -> None:
        """Put together what a block of symchk or ``!chksym`` said."""
        fields, self._fields = self._fields, {}
        pdb, age, guid = fields.get("pdb", ""), _hex(fields.get("age", "")), _GUID.search(fields.get("guid", ""))
        image = safe_name(fields.get("image", ""))
        if image is None and guid is None:
            return
        entry = Sighting(base_name(pdb)) if image is None else sighting_of(image)
        entry.timestamp = _known(_HEX.match(fields.get("stamp", "").strip()))
        entry.size = _hex(fields.get("size", "")) or None
        if guid is not None and age is not None:
            _add_pdb(entry, pdb, f"{guid[1].replace('-', '')}{age:x}")
        if entry.pdbs or entry.timestamp:
            self._modules.see(entry)


def table_facts(line: str) -> Iterator[Fact]:
    """Yield what *line* alone says: a stamp, a PDB's GUID or age, a row's stamp or key, the name of a file."""
    if row := _ROW.match(line):
        rest = row[4] or ""
        yield "range", row[1], row[2]
        if (status := _STATUS.match(rest)) and _STATUS_WORD.search(status[1]):
            yield "row", row[3]
        timed = _TIMED.match(rest)
        if timed is not None and (timed[1] is None or _is_called(row[3], timed[1])):
            yield "row's stamp", row[3], _stamp(rest)
        yield from (("row's key", row[3], key) for key in find_keys(rest))
    if _HEADING.match(line):
        yield "heading", line
    name, value = _field(line)
    if name in _FIELDS:
        yield "field", name
    if name == "timestamp" and (stamp := _stamp(value)) is not None:
        yield "stamp", stamp
    if name == "imagesize" and _PADDED.match(value):
        yield "size", value
    if name == "imagename" and _is_plain_name(value):
        yield "image", value
    if (loaded := _MODLOAD.match(line)) and _is_plain_name(loaded[3]):
        yield "loaded image", loaded[3]
    # Most lines lack what these patterns need, which takes less time to find out.
    if "-" in line and (guid := _GUID.search(line)):
        yield "guid", guid[0]
    if ": " in line and (pdb := _LMI_PDB.search(line)):
        yield "age", pdb[0]
    mention = _find_mention(line)
    if mention is not None and _is_plain_name(mention[1]):
        yield "mention", mention[1]


def _find_mention(line: str) -> re.Match[str] | None:
    """Return what a line says of a file without its key; its first group is the file."""
    return _UNLOADABLE.search(line) or (_MENTION.search(line) if " for" in line else None)


def _is_plain_name(path: str) -> bool:
    """Tell whether *path* ends in an image's name without a blank; with one it may be two lines' pieces."""
    return _EXTENSION.search(path) is not None and " " not in base_name(path)


def _is_called(module: str, file: str) -> bool:
    """Tell whether a debugger calls the module of *file* so; it puts an underscore for what C has no names with."""
    stem = fold(file).rpartition(".")[0]
    return fold(module) in {stem, re.sub(r"\W", "_", stem)} or (fold(module) == "nt" and stem.startswith("nt"))


_SYMCHK_FIELDS = {
    "dbgtimedatestamp": "stamp",
    "dbgsizeofimage": "size",
    "pdbfilename": "pdb",
    "pdbsignature": "guid",
    "pdbdbiage": "age",
}
_CHECK_FIELDS = {"sizeofimage": "size", "pdb": "pdb", "pdbsig": "guid", "age": "age"}


def _row_sighting(name: str, base: int, size: int, rest: str, *, unloaded: bool) -> Sighting:
    """Return what a row says; what follows the name depends on the options of ``lm``."""
    if unloaded:
        return Sighting(name, base, size, image_name=safe_name(name), unloaded=True)
    entry = Sighting(name, base, size)
    status = _STATUS.match(rest)
    if status is not None:
        for key in find_keys(status[2]):
            entry.add_key(key)
        if not entry.pdbs and fold(status[2]).endswith(".pdb"):
            entry.pdb_name = safe_name(status[2])
    elif named := _NAMED_WITH_TIME.match(rest):
        entry.image_name = safe_name(named[1])
        entry.timestamp = _stamp(named[2])
    elif rest:
        entry.timestamp = _stamp(rest)
        entry.image_name = safe_name(rest) if "." in rest and entry.timestamp is None else None
    return entry


def _field(line: str) -> tuple[str, str]:
    """Return a line's name, folded and without blanks, and its value; two empty texts for any other line."""
    name, _, value = line.partition(":")
    name = name.strip()
    return (fold(name).replace(" ", ""), value.strip()) if _FIELD_NAME.fullmatch(name) else ("", "")


def _add_field(entry: Sighting, name: str, value: str) -> bool:
    """Take over a line of ``lmv`` or ``!lmi``; False if it is neither's."""
    match name:
        case "imagename":
            entry.image_name = safe_name(value) or entry.image_name
        case "imagepath":
            entry.path = value or entry.path
        case "timestamp":
            entry.timestamp = _stamp(value) or entry.timestamp
        case "imagesize" if value.startswith("0") and not _PADDED.match(value):
            pass  # its end was cut off
        case "imagesize" | "size":
            entry.size = _hex(value) or entry.size
        case "baseaddress" if re.fullmatch(r"[0-9a-fA-F`]{8,17}", value):
            entry.base = int(value.replace("`", ""), 16)
        case "module":
            if re.fullmatch(r"[0-9a-fA-F`]+", entry.name):
                entry.name = value or entry.name  # !lmi was given an address
        case _:
            return name in _OTHER_FIELDS
    return True


def _add_version(entry: Sighting, name: str, value: str) -> None:
    """Take over a line that ``lmv`` prints of the version resource; of one that comes twice the first counts."""
    known = entry.version or VersionInfo()
    if name == "file flags":
        if flags := _FLAGS.match(value):
            known = with_flags(known, int(flags[1], 16) & int(flags[2], 16))
    else:
        numbers = _NUMBERS.match(value) if name in _VERSION_NUMBERS else None
        parts = None if numbers is None else tuple(map(int, numbers.groups()))
        field = TEXT_FIELDS[name.replace(" ", "")] if parts is None else _VERSION_NUMBERS[name]
        if parts is not None and not (any(parts) and max(parts) <= 0xFFFF):
            return  # nothing, for want of the image
        if getattr(known, field) is None:
            known = replace(known, **{field: one_line(value) if parts is None else parts})  # type: ignore[arg-type]
    entry.version = None if known == VersionInfo() else known


def _add_pdb(entry: Sighting, path: str, id_: str) -> None:
    if (key := key_of(path, id_)) is not None:
        entry.add_key(key)


def _stamp(text: str) -> int | None:
    """Return the stamp in *text*: ``<time> (HEX)``, ``HEX (…build file hash…)`` or of ``!lmi`` ``HEX <time>``."""
    return None if text.startswith("unavailable") else _known(_STAMP.search(text) or _LEADING_STAMP.match(text))


def _known(match: re.Match[str] | None) -> int | None:
    stamp = int(next(filter(None, match.groups())), 16) if match else 0
    return stamp if stamp not in {0, UNREADABLE_STAMP} else None


def _hex(text: str) -> int | None:
    match = _HEX.match(text.strip())
    return int(match[1], 16) if match else None


# Markdown may have put backslashes before the underscores.
_ANALYSIS_FIELD = re.compile(r"\s{0,40}([A-Z](?:[A-Z0-9]|\\?_|\.[A-Za-z]){2,40}): {1,40}(\S.*)$")
_BEGIN = re.compile(r"\s*(?:\*+ *)?(?:\S{1,20}> )?!analyze\b|\*? *(?:Bugcheck|Exception) Analysis\b")
_FAULTING = re.compile(r"([0-9A-Fa-f`]{8,17}) (\S+)")
_WRONG = re.compile(r"\.wrong\.symbols\.(\w{2,4})\b|_wrong_symbols(?![A-Za-z0-9])", re.IGNORECASE)
_BEFORE_NAME = re.compile(r"[^\w.+-]")
_LONGEST_NAME = 200
_WRITTEN_OUT = re.compile(
    r"wrong[._]symbols(?:\.\w{2,4})?[!_]([0-9A-Fa-f]{8})([0-9A-Fa-f]{1,8})(?![0-9A-Za-z])", re.IGNORECASE
)
# Modules that are not called like their files, or whose files alone are called so.
_FILES = {"nt": "ntoskrnl.exe", "ntdll": "ntdll.dll", "hal": "hal.dll", "kernel32": "kernel32.dll"}


class AnalysisLines:
    """Takes the lines of an analysis; what they say together is one module."""

    def __init__(self, modules: LogModules) -> None:
        self._modules = modules
        self._said: Sighting | None = None
        self._bucket_module = ""

    def take(self, line: str) -> bool:
        """Note what *line* says; False if it says nothing of wrong symbols."""
        if _BEGIN.match(line):
            self.end()
            return False
        field = _ANALYSIS_FIELD.match(line)
        name = "" if field is None else field[1].replace("\\", "")
        value = line if field is None else field[2].replace("\\_", "_")
        if name == "WRONG_SYMBOLS_TIMESTAMP":
            self.end()
            self._open().timestamp = _hex(value)
        elif name == "WRONG_SYMBOLS_SIZE":
            self._open().size = _hex(value)
        elif name == "FAULTING_MODULE" and self._said is not None and (faulting := _FAULTING.match(value)):
            self._said.base, self._said.name = int(faulting[1].replace("`", ""), 16), faulting[2]
        elif _WRONG.search(value) or _WRITTEN_OUT.search(value):
            self._take_names(self._open(), value, is_bucket="BUCKET" in name.upper() or field is None)
        else:
            return False
        return True

    def end(self) -> None:
        """Note that the analysis has ended."""
        said, self._said, bucket_module, self._bucket_module = self._said, None, self._bucket_module, ""
        if said is None:
            return
        said.name = said.name or (said.image_name or "").rpartition(".")[0] or bucket_module
        if not said.name:
            return
        said.image_name = said.image_name or _FILES.get(fold(said.name))
        if said.timestamp in {None, 0, UNREADABLE_STAMP} or not said.size:
            said.timestamp = said.size = None
        elif said.image_name is None:
            said.reason = f"the log shows stamp and size of {said.name}, but not the name of its file"
        self._modules.see(said)

    def _open(self) -> Sighting:
        if self._said is None:
            self._said = Sighting("")
        return self._said

    def _take_names(self, said: Sighting, value: str, *, is_bucket: bool) -> None:
        for wrong in _WRONG.finditer(value):
            name = _BEFORE_NAME.split(value[max(wrong.start() - _LONGEST_NAME, 0) : wrong.start()])[-1]
            if is_bucket:
                name = name.rpartition("_")[2]  # what stands before it in a bucket has underscores, too
            if wrong[1]:
                said.image_name = said.image_name or safe_name(f"{name}.{wrong[1]}")
            elif is_bucket:
                self._bucket_module = self._bucket_module or name
            else:
                said.name = said.name or name
        if key := _WRITTEN_OUT.search(value):
            said.timestamp = said.timestamp or int(key[1], 16)
            said.size = said.size or int(key[2], 16)
