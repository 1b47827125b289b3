"""What other programs than Microsoft's debuggers print of an image's or PDB's identity.

A path or address of index form is understood in any program's lines; here are those that write it otherwise.
Source: dumpbin and llvm-readobj ran on made images; for the others their documentation and published output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from symcache.identity import ImageKey
from symcache.inputs.log.modules import Sighting, key_of, sighting_of
from symcache.inputs.log.noisy import find_keys, safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.identity import Key
    from symcache.inputs.log.modules import LogModules

_GUID = r"[{(]?([0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})[)}]?"
_PDB = r"([^\s|,;'\"<>()\[\]{}=*?][^|,;'\"<>\[\]{}=*?]{0,259}?\.pdb)\b"
# dumpbin, link /dump: "Format: RSDS, {GUID}, AGE, PATH".
_RSDS = re.compile(rf"RSDS,? *{_GUID}, *([0-9A-Fa-f]{{1,8}}), *{_PDB}", re.IGNORECASE)
# PerfView, Ghidra and whatever says "NAME GUID … Age …".
_NAME_GUID_AGE = re.compile(
    rf"([^\s\\/|,;'\"<>()\[\]{{}}=*?]{{1,200}}\.pdb)\W{{1,4}}GUID\W{{1,3}}{_GUID}\W{{1,3}}Age\W{{1,3}}([0-9A-Fa-f]{{1,8}})\b",
    re.IGNORECASE,
)
# Breakpad: "MODULE windows ARCH ID NAME", then "INFO CODE_ID ID NAME"; minidump_stackwalk -m and its two messages.
_BREAKPAD_MODULE = re.compile(r"MODULE windows \S+ ([0-9A-Fa-f]{32,40}) (\S.*)$")
_BREAKPAD_CODE = re.compile(r"INFO CODE_ID ([0-9A-Fa-f]{9,16}) (\S.*)$")
_WALKED_ROW = re.compile(
    r"Module\|([^|]+)\|[^|]*\|([^|]*)\|([0-9A-Fa-f]{0,40})\|0x([0-9a-f]{1,16})\|0x([0-9a-f]{1,16})\|"
)
_WALKED_LIST = re.compile(
    r"\s*0x([0-9a-f]{1,16}) - 0x([0-9a-f]{1,16}) {2,8}(\S.{0,200}?) {2}.*"
    r"\(WARNING: No symbols, ([^,]{1,200}), ([0-9A-Fa-f]{32,40})\)"
)
# minidump_dump, minidump-stackwalk --dump: a block for each module, in which the names of fields derived from several
# others stand in parentheses. Modules of other systems have such blocks, too.
_DUMPED_BLOCK = re.compile(r"(?:MDRaw|MINIDUMP_)(Unloaded_?)?Module\s*$", re.IGNORECASE)
_DUMPED_FIELD = re.compile(
    r"\s{1,8}(?:\((code_file|code_identifier|debug_file|debug_identifier)\)|(base_of_image)) {1,40}="
    r' (?:"([^"]{1,400})"|0x([0-9a-f]{1,16})\b)',
    re.IGNORECASE,
)
# Visual Studio: what the debugger prints of a load, and a row of its window of modules, in which the path of the PDB
# stands if there is one.
_VISUAL_STUDIO = re.compile(
    r"'[^']{1,200}' \((?:Win32|CLR|CoreCLR)[^)]{0,100}\): Loaded '(?P<loaded>[^']{3,400})'"
    r"|\s*(?P<listed>[^\\/:*?\"<>|]{1,200}\.(?:exe|dll|sys|ocx)) {4,}[A-Za-z]:\\.*(?:Symbols loaded|\bPDB file\b"
    r"|Skipped loading symbols|Symbol loading disabled|built with debug information|No symbols loaded)",
    re.IGNORECASE,
)
# "NAME.pdb|ID", "NAME.pdb, ID", "NAME.sys,ID,1": a list's line, a program's message.
_NAMED_ID = re.compile(
    r"([^\s\\/|,;:'\"<>()\[\]{}=*?]{1,200}\.(?:pdb|exe|dll|sys|ocx|drv|efi))['\"]?(\s{0,3}[|,;]\s{0,3}| {1,3})"
    r"['\"]?([0-9A-Fa-f]{9,40})\b",
    re.IGNORECASE,
)
_OF_LIST = re.compile(r"[^,]{1,255},[0-9A-Fa-f]{9,40}(?:,\d{1,2})?")
# LLDB's `image list`: an ELF file's identity looks the same, so that the path has to be one of Windows.
_LLDB = re.compile(
    rf"\[ *\d+\] {_GUID}-([0-9A-Fa-f]{{8}}) 0x([0-9A-Fa-f]{{1,16}}) (\S.*\.(?:exe|dll|sys|ocx))\s*$", re.IGNORECASE
)

# Blocks of fields, a file after the other.
_FILE = re.compile(r"(?:File|Dump of file|Filename)\s*:? +(?:: )?(\S.*)$")
_NUMBER = r"(?:0x([0-9A-Fa-f]{1,8})|(\d{1,10}))\b"
_FIELDS = (
    ("stamp", re.compile(r"\s*([0-9A-Fa-f]{1,8}) time date stamp\b")),
    ("stamp", re.compile(r"\s*TimeDateStamp: .*\(0x([0-9A-Fa-f]{1,8})\)")),
    ("stamp", re.compile(r"\s*Time Stamp +: 0x([0-9A-Fa-f]{1,8})\b")),
    ("size", re.compile(r"\s*([0-9A-Fa-f]{1,8}) size of image\b")),
    ("size", re.compile(rf"\s*SizeOfImage: {_NUMBER}")),
    ("size", re.compile(r"\s*Size +: 0x([0-9A-Fa-f]{1,8})\b")),
    ("guid", re.compile(rf"\s*PDBGUID: {_GUID}")),
    ("age", re.compile(rf"\s*PDBAge: {_NUMBER}")),
    ("pdb", re.compile(r"\s*PDBFileName: (\S.*)$")),
)
_STARTS = re.compile(
    r"MODULE windows |INFO CODE_ID |Module\||WARNING: No symbols, |RSDS|Locating PDB |Dump of file |PDBGUID: "
    r"|Filename +: |\[ *\d+\] [0-9A-Fa-f]{8}-|\((?:code|debug)_identifier\) {1,40}= \""
)
_PAGE = 0x1000


class ToolLines:
    """Takes the lines of other programs."""

    def __init__(self, modules: LogModules) -> None:
        self._modules = modules
        self._fields: dict[str, str] = {}
        self._breakpad: Sighting | None = None
        self._dumped: dict[str, str] | None = None  # fields of a module's block

    def take(self, line: str) -> bool:
        """Note what *line* says; False if it is none of these lines."""
        if self._take_dumped(line) or self._take_breakpad(line) or self._take_walked(line) or self._take_field(line):
            return True
        if lldb := _LLDB.search(line):
            return self._see_lldb(*lldb.groups())
        if loaded := _VISUAL_STUDIO.match(line):
            return self._see_visual_studio(loaded["loaded"] or loaded["listed"], line)
        keys = list(_keys_of(line))
        for key in keys:
            self._add(key)
        return bool(keys)

    def end(self) -> None:
        """Note that the text has ended."""
        self._close()
        self._close_dumped()
        if self._breakpad is not None:
            self._modules.see(self._breakpad)
        self._breakpad = None

    def _add(self, key: Key) -> None:
        """Note *key*; a PDB belongs to the file that the fields are about."""
        name = safe_name(self._fields.get("file", ""))
        if name is None or isinstance(key, ImageKey):
            self._modules.spot(key)
        else:
            self._modules.see(sighting_of(name, key))

    def _take_dumped(self, line: str) -> bool:
        """Take a line of a module's block: its heading, or one of its fields."""
        if block := _DUMPED_BLOCK.match(line):
            self._close_dumped()
            self._dumped = {"unloaded": "yes"} if block[1] else {}
            return True
        field = None if self._dumped is None else _DUMPED_FIELD.match(line)
        if field is None or self._dumped is None:
            return False
        self._dumped.setdefault(field[1] or field[2], field[3] or field[4])
        return True

    def _close_dumped(self) -> None:
        fields, self._dumped = self._dumped or {}, None
        path, pdb_path = fields.get("code_file", ""), fields.get("debug_file", "")
        name, base = safe_name(path), int(fields.get("base_of_image", "0"), 16)
        id_ = fields.get("debug_identifier", "").replace("-", "")  # of Breakpad without, of rust-minidump with them
        pdb = key_of(pdb_path, id_) if pdb_path.lower().endswith(".pdb") else None
        image = key_of(path, fields.get("code_identifier", ""))
        image = image if isinstance(image, ImageKey) else None
        if name is not None and (pdb is not None or image is not None):
            is_unloaded = "unloaded" in fields
            self._modules.see(sighting_of(name, image, pdb, base=base or None, path=path, unloaded=is_unloaded))

    def _take_breakpad(self, line: str) -> bool:
        if module := _BREAKPAD_MODULE.match(line):
            self.end()
            key = key_of(module[2], module[1])
            if key is not None:
                self._breakpad = Sighting(key.name.rpartition(".")[0])
                self._breakpad.add_key(key)
            return True
        code = _BREAKPAD_CODE.match(line)
        if code is None:
            return False
        image = key_of(code[2], code[1])
        if isinstance(image, ImageKey) and self._breakpad is not None:
            self._breakpad.add_key(image)
        return True

    def _take_walked(self, line: str) -> bool:
        if row := _WALKED_ROW.match(line):
            file, pdb, id_, base, _ = row.groups()
        elif listed := _WALKED_LIST.match(line):
            base, _, file, pdb, id_ = listed.groups()
        else:
            return False
        name = safe_name(file)
        if name is not None:
            key = key_of(pdb, id_)
            self._modules.see(sighting_of(name, None if isinstance(key, ImageKey) else key, base=int(base, 16)))
        return True

    def _take_field(self, line: str) -> bool:
        if file := _FILE.match(line):
            self._close()
            self._fields = {"file": file[1]}
            return line.startswith(("Dump of file ", "Filename "))
        for name, pattern in _FIELDS:
            if field := pattern.match(line):
                values = field.groups()
                self._fields.setdefault(name, f"{int(values[1]):x}" if values[0] is None else values[0])
                if name == "pdb":
                    self._close_pdb()
                return bool(self._fields.get("file") or "guid" in self._fields)
        return False

    def _close_pdb(self) -> None:
        guid, age, pdb = (self._fields.pop(name, None) for name in ("guid", "age", "pdb"))
        if guid and age and pdb and (key := key_of(pdb, guid.replace("-", "") + age)) is not None:
            self._add(key)

    def _close(self) -> None:
        fields, self._fields = self._fields, {}
        if "file" in fields and "stamp" in fields and "size" in fields:
            stamp, size = (int(fields[name], 16) for name in ("stamp", "size"))
            key = key_of(fields["file"], f"{stamp:08X}{size:x}")
            if isinstance(key, ImageKey):
                self._modules.see(sighting_of(key.name, key))

    def _see_visual_studio(self, path: str, line: str) -> bool:
        name = safe_name(path)
        if name is None:
            return False
        pdbs = [key for key in find_keys(line) if not isinstance(key, ImageKey)]
        if pdbs:
            self._modules.see(sighting_of(name, pdbs[-1]))
        else:
            self._modules.mention(name)
        return True

    def _see_lldb(self, guid: str, age: str, base: str, path: str) -> bool:
        r"""Take a row of ``image list``: the PDB's GUID and age, but not its name, which is the image's as a rule."""
        name = safe_name(path)
        if name is None:
            return False
        pdb = key_of(f"{name.rpartition('.')[0]}.pdb", f"{guid.replace('-', '')}{int(age, 16):x}")
        self._modules.see(sighting_of(name, pdb, base=int(base, 16), path=path))
        return True


def is_of_list(line: str) -> bool:
    """Tell whether *line* is a symchk manifest's, which may stand in a letter."""
    return _OF_LIST.fullmatch(line) is not None


def names_identity(line: str) -> bool:
    """Tell whether *line* is one that only these programs print, and that identifies a file."""
    return _STARTS.search(line) is not None or next(_keys_of(line), None) is not None


def _keys_of(line: str) -> Iterator[Key]:
    """Yield the keys that *line* by itself shows in another form than a path."""
    pdbs = [(match[3], match[1], match[2]) for match in _RSDS.finditer(line)]
    pdbs += [(match[1], match[2], match[3]) for match in _NAME_GUID_AGE.finditer(line)]
    for path, guid, age in pdbs:
        number = int(age) if age.isdecimal() else int(age, 16)  # these programs write decimal ones
        if (pdb := key_of(path, f"{guid.replace('-', '')}{number:x}")) is not None:
            yield pdb
    for match in _NAMED_ID.finditer(line):
        key = key_of(match[1], match[3])
        is_list = bool(match[2].strip())
        # A size stands behind a name, too; an image's is whole pages and its key hardly ever decimal.
        if isinstance(key, ImageKey) and (not is_list or key.size_of_image % _PAGE or match[3].isdecimal()):
            continue
        if key is not None:
            yield key
