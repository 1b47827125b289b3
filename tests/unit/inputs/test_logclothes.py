"""Transcripts and tools' texts as people paste them: quoted, logged, marked up, coloured, wrapped."""

from __future__ import annotations

import html
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shared import corpus, corpus_files, needs_corpus

from symcache.errors import InputError
from symcache.formats.view import BytesView
from symcache.inputs.detect import read_input
from symcache.inputs.log.reader import looks_like_debugger_log, read_debugger_log
from symcache.inputs.records import ImageUse, InputKind, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GUID = "7E57AB1E000011112222333344445555"
DASHED = "7e57ab1e-0000-1111-2222-333344445555"
PDB = f"sample.pdb/{GUID}2/sample.pdb"
IMAGE = "sample.sys/5C0FFEE024000/sample.sys"

TABLE = """\
Microsoft (R) Windows Debugger Version 10.0.22621.2428 AMD64
1: kd> lmvm sample
Browse full module list
start             end                 module name
fffff807`21000000 fffff807`21024000   sample     (deferred)
    Image path: \\SystemRoot\\System32\\drivers\\sample.sys
    Image name: sample.sys
    Timestamp:        Tue Dec 11 17:06:40 2018 (5C0FFEE0)
    CheckSum:         0002A1B2
    ImageSize:        00024000
    Translations:     0000.04b0 0000.04e4 0409.04b0 0409.04e4
1: kd> lmvm other
start             end                 module name
fffff807`22000000 fffff807`22009000   other      (no symbols)
    Image name: other.sys
    Timestamp:        Tue Dec 11 17:06:41 2018 (5C0FFEE1)
    ImageSize:        00009000
"""
NOISY = f"""\
DBGHELP: sample - searching
SYMSRV:  BYINDEX: 0x2
         c:\\symbols*https://symbols.example/s
         sample.pdb
         {GUID}2
SYMSRV:  UNC: c:\\symbols\\sample.pdb\\{GUID}2\\sample.pdb - path not found
SYMSRV:  HTTPGET: /s/sample.pdb/{GUID}2/sample.pdb
SYMSRV:  HttpQueryInfo: 80190194 - HTTP_STATUS_NOT_FOUND
SYMSRV:  RESULT: 0x80190194
DBGHELP: sample - no symbols loaded
SYMSRV:  BYINDEX: 0x3
         c:\\symbols*https://symbols.example/s
         other.sys
         5C0FFEE19000
SYMSRV:  RESULT: 0x80190194
DBGHELP: other - no symbols loaded
"""


def modules(text: str | bytes) -> list[Module]:
    data = text if isinstance(text, bytes) else text.encode()
    return [record for record in read_debugger_log(BytesView(data), "log") if isinstance(record, Module)]


def identities(text: str | bytes) -> set[str]:
    """Return every index that a text leads to."""
    found: set[str] = set()
    for module in modules(text):
        found |= {pdb.key.index for pdb in module.pdbs}
        found |= {key.index for key in (module.image, module.dbg) if key is not None}
    return {index.lower() for index in found}


def each_line(front: str) -> Callable[[str], str]:
    return lambda text: "".join(f"{front}{line}\n" for line in text.splitlines())


def numbered(text: str) -> str:
    return "".join(f"{number:4}: {line}\n" for number, line in enumerate(text.splitlines(), 1))


def stamped(form: str) -> Callable[[str], str]:
    def dress(text: str) -> str:
        lines = enumerate(text.splitlines())
        return "".join(
            form.format(second=number % 60, line=line, milli=number * 7 % 1000) + "\n" for number, line in lines
        )

    return dress


def coloured(text: str) -> str:
    return "".join(f"\x1b[32m{line}\x1b[0m\r\n" for line in text.splitlines())


CLOTHES: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "a mail's quotation": each_line("> "),
    "a quotation of a quotation": each_line("> > "),
    "quotation marks without blanks": each_line(">>"),
    "bars": each_line("| "),
    "an indented block": each_line("    "),
    "a hosted build's time stamps": stamped("2026-03-04T05:06:{second:02}.1234567Z {line}"),
    "a build server's": stamped("[05:06:{second:02}] {line}"),
    "a logger's": stamped("2026-03-04 05:06:{second:02},{milli:03} INFO  debugger: {line}"),
    "syslog": stamped("Mar  4 05:06:{second:02} builder dbg[4711]: {line}"),
    "a level": stamped("[05:06:{second:02} INF] {line}"),
    "an editor's line numbers": numbered,
    "entities": html.escape,
    "entities for every grave accent and blank": lambda text: (
        html.escape(text).replace("`", "&#96;").replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;")
    ),
    "a backslash before grave accents": lambda text: text.replace("`", "\\`"),
    "a terminal's colours": coloured,
    "no-break spaces": lambda text: text.replace("    ", "\u00a0\u00a0\u00a0\u00a0"),
    "a code block": lambda text: f"It crashes:\n\n```\n{text}```\n\nAny idea?\n",
    "a saved page": lambda text: f"<html><body><pre>{html.escape(text)}</pre></body></html>",
    "UTF-16": lambda text: text,
}
LAYERS = ["a mail's quotation", "bars", "entities", "a terminal's colours", "Windows line ends", "a logger's"]


@pytest.mark.parametrize("clothes", CLOTHES)
@pytest.mark.parametrize("text", [TABLE, NOISY], ids=["table", "noisy"])
def test_a_text_in_other_clothes_is_the_same_text(text: str, clothes: str) -> None:
    dressed = CLOTHES[clothes](text)
    data = dressed.encode("utf-16" if clothes == "UTF-16" else "utf-8")
    assert looks_like_debugger_log(data)
    assert identities(data) == identities(text) != set()


@pytest.mark.parametrize("width", [72, 76, 80])
def test_lines_that_were_cut_in_two_are_joined_where_that_tells_an_identity(width: int) -> None:
    line = f"SYMSRV:  UNC: c:\\symbols\\a longer folder name\\here\\sample.pdb\\{GUID}2\\sample.pdb - path not found"
    wrapped = textwrap.fill(line, width, break_long_words=True, break_on_hyphens=False)
    assert wrapped.count("\n") >= 1
    assert PDB.lower() in identities(f"{wrapped}\n")


@given(st.lists(st.sampled_from(LAYERS), unique=True, max_size=3), st.sampled_from([TABLE, NOISY]))
def test_clothes_over_clothes_change_nothing(layers: list[str], text: str) -> None:
    dressed = text
    for layer in layers:
        dressed = CLOTHES[layer](dressed)
    assert identities(dressed) == identities(text)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("logs"))
@settings(max_examples=15)
@given(st.sampled_from([name for name in CLOTHES if name not in {"UTF-16", "no-break spaces", "an indented block"}]))
def test_a_real_transcript_in_other_clothes_gives_the_same_identities(name: str, clothes: str) -> None:
    text = (corpus / name).read_bytes().decode("utf-8", "replace").replace("\b", "").replace("\r", "")
    assert identities(CLOTHES[clothes](text)) >= identities(text)


# One text of each tool that prints what identifies a file, and what it identifies.
TOOLS = {
    "analysis, written out": (
        (
            "3: kd> !analyze -v\nWRONG_SYMBOLS_TIMESTAMP: 5c0ffee0\n\nWRONG_SYMBOLS_SIZE: 24000\n\n"
            "FAULTING_MODULE: fffff80721000000 sample\n\nIMAGE_NAME:  sample.wrong.symbols.sys\n"
        ),
        {IMAGE},
    ),
    "analysis, in a bucket": (
        (
            "3: kd> !analyze -v\nIMAGE_NAME:  ntoskrnl.wrong.symbols.exe\n\n"
            "FAILURE_BUCKET_ID:  nt_wrong_symbols!5C0FFEE0A1B000\n"
        ),
        {"ntoskrnl.exe/5C0FFEE0a1b000/ntoskrnl.exe"},
    ),
    "symchk": (
        (
            "[SYMCHK] MODULE64 Info ----------------------\n[SYMCHK] Struct size: 1680 bytes\n"
            "[SYMCHK] Base: 0x0000000140000000\n[SYMCHK] Image size: 147456 bytes\n[SYMCHK] Date: 0x5c0ffee0\n"
            "[SYMCHK] Checksum: 0x0002a1b2\n[SYMCHK] NumSyms: 0\n[SYMCHK] SymType: SymPDB\n[SYMCHK] ModName: sample\n"
            "[SYMCHK] ImageName: d:\\b\\sample.sys\n[SYMCHK] LoadedImage: d:\\b\\sample.sys\n"
            '[SYMCHK] PDB: "d:\\sym\\sample.pdb"\n[SYMCHK] CV: RSDS\n[SYMCHK] CV DWORD: 0x53445352\n'
            "[SYMCHK] CV Data:  sample.pdb\n[SYMCHK] PDB Sig:  0\n"
            f"[SYMCHK] PDB7 Sig: {{{DASHED.upper()}}}\n[SYMCHK] Age: 26\n[SYMCHK] PDB Matched:  TRUE\n"
            "[SYMCHK] Line nubmers: FALSE\n[SYMCHK] Global syms:  TRUE\n[SYMCHK] ------------------------------------\n"
            "[SYMCHK] MODULE64 Info ------\n[SYMCHK] Image size: 36864 bytes\n[SYMCHK] Date: 0x5c0ffee1\n"
            "[SYMCHK] ImageName: d:\\b\\other.sys\n[SYMCHK] ------------------------------------\n"
        ),
        {f"sample.pdb/{GUID}1a/sample.pdb", IMAGE, "other.sys/5C0FFEE19000/other.sys"},
    ),
    "a URL": (f"curl: (22) https://symbols.example/x/{PDB} returned 404\n", {PDB}),
    "a URL with escapes": (
        f"ERROR: HttpSymbolStore: 404 'https://h.example/s/sample.pdb%2F{GUID.lower()}2%2Fsample.pdb'\n",
        {PDB},
    ),
    "x64dbg": (
        f"Downloading symbol sample.pdb\n  Signature: {GUID}2\n  Destination: d:\\s\\sample.pdb\\{GUID}2\\sample.pdb\n",
        {PDB},
    ),
    "PerfView": (f"FindSymbolFilePath: *{{ Locating PDB sample.pdb GUID {DASHED} Age 2 Version 1.0\n", {PDB}),
    "dumpbin": (
        f"    5A2DD33B cv      4B 00001000     1000    Format: RSDS, {{{DASHED.upper()}}}, 2, d:\\b\\sample.pdb\n",
        {PDB},
    ),
    "LLDB": (f"[  0] {DASHED.upper()}-00000002 0x0000000140000000 C:\\b\\sample.exe\n", None),
    "Breakpad": (f"MODULE windows x86_64 {GUID}2 sample.pdb\nINFO CODE_ID 5C0FFEE024000 sample.sys\n", {PDB, IMAGE}),
    "minidump_stackwalk -m": (f"Module|sample.sys||sample.pdb|{GUID}2|0x00400000|0x00423fff|1\n", {PDB}),
    "minidump_dump": (
        f"""MDRawModule
  base_of_image                   = 0x400000
  (code_file)                     = "C:\\x\\sample.sys"
  (code_identifier)               = "5C0FFEE024000"
  (cv_record).pdb_file_name       = "D:\\b\\sample.pdb"
  (debug_file)                    = "D:\\b\\sample.pdb"
  (debug_identifier)              = "{GUID}2"
  (version)                       = ""

module[1]
MDRawModule
  base_of_image                   = 0x7f0000000000
  (code_file)                     = "/usr/lib/libc.so.6"
  (code_identifier)               = "0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d"
  (debug_file)                    = "libc.so.6"
  (debug_identifier)              = "{GUID}0"
""",
        {PDB, IMAGE},
    ),
    "minidump-stackwalk --dump": (
        f"""MINIDUMP_MODULE
  (code_file)                     = "sample.sys"
  (code_identifier)               = "5c0ffee024000"
  (debug_file)                    = "sample.pdb"
  (debug_identifier)              = "{DASHED}-2"
MINIDUMP_UNLOADED_MODULE
  base_of_image                   = 0x1000
  (code_file)                     = "gone.dll"
  (code_identifier)               = "5c0ffee125000"
""",
        {PDB, IMAGE, "gone.dll/5c0ffee125000/gone.dll"},
    ),
    "the modules of Visual Studio": (
        f"\tntdll.dll\tC:\\x\\ntdll.dll\tN/A\tSymbols loaded.\tC:\\s\\sample.pdb\\{GUID}2\\sample.pdb\t2\t10.0.1\n",
        {PDB},
    ),
    "a path of Process Monitor": (
        f'"9:15:01","windbg.exe","CreateFile","C:\\sym\\sample.pdb\\{GUID}2\\sample.pdb","NAME NOT FOUND"\n',
        {PDB},
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_identities_in_texts_of_other_tools_are_read(tool: str) -> None:
    text, expected = TOOLS[tool]
    found = identities(text)
    if expected is None:
        assert any(GUID.lower() in index for index in found)
    else:
        assert found >= {index.lower() for index in expected}


def test_what_visual_studio_names_without_a_pdb_is_said_unless_that_is_shown_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text(
        "'a.exe' (Win32): Loaded 'C:\\x\\sample.dll'. Cannot find or open the PDB file.\n"
        "'a.exe' (CoreCLR: clrhost): Loaded 'C:\\x\\other.dll'. Skipped loading symbols.\n"
        f"C:\\s\\sample.pdb\\{GUID}2\\sample.pdb: Symbols loaded.\n"
    )
    found = [record for record in read_input(str(path)) if isinstance(record, Module)]
    assert [(module.name, len(module.pdbs)) for module in found] == [("sample.pdb", 1), ("other.dll", 0)]


# Texts that hold no identity, and a word of what to give instead.
EMPTY = {
    "a list without time stamps": (
        (
            "Microsoft (R) Windows Debugger Version 10.0.1 AMD64\nstart             end                 module name\n"
            "00007ffb`10000000 00007ffb`10020000   sample     (deferred)\n"
        ),
        "lmv",
    ),
    "module loads": (
        (
            "Microsoft (R) Windows Debugger Version 10.0.1 AMD64\n"
            "ModLoad: 00007ffb`10000000 00007ffb`10020000   C:\\x\\sample.dll\n"
        ),
        "lmv",
    ),
    "Process Explorer": (
        "Process: app.exe Pid: 4242\n\nName\tDescription\tCompany Name\tPath\nntdll.dll\tNT\tMS\tC:\\x\\ntdll.dll\n",
        "scan --pid",
    ),
    "ListDLLs": (
        "app.exe pid: 1\nBase                Size      Path\n0x76930000  0x1000  C:\\x\\a.dll\n",
        "scan --pid",
    ),
    "a stack": ("0:000> k\n # Child-SP          RetAddr           Call Site\n00 1 2 sample!Run+0x12\n", "lmv"),
}


@pytest.mark.parametrize("text", EMPTY)
def test_a_text_without_identities_is_no_success_and_says_what_to_give(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(EMPTY[text][0])
    problems = [record.problem for record in read_input(str(path)) if isinstance(record, Unreadable)]
    assert problems
    assert any(EMPTY[text][1] in problem for problem in problems)


def test_a_text_of_no_debugger_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir,\nmy machine has crashed again.\n" * 30)
    (record,) = (record for record in read_input(str(path)) if isinstance(record, Unreadable))
    assert "\n" not in record.problem


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"SYMSRV:  UNC: c:\\sym\\a%20b.pdb\\{GUID}2\\a%20b.pdb - path not found\n", "a%20b.pdb"),
        (f"SYMSRV:  HTTPGET: /s/a%20b.pdb/{GUID}2/a%20b.pdb\nSYMSRV:  RESULT: 0x80190194\n", "a b.pdb"),
        (f"404 https://h.example/s/a%20b.pdb/{GUID}2/a%20b.pdb\n", "a b.pdb"),
    ],
    ids=["a path", "a request", "a URL"],
)
def test_only_what_follows_a_url_is_percent_encoded(line: str, name: str) -> None:
    assert identities(line) == {f"{name}/{GUID}2/{name}".lower()}


def test_an_image_that_was_asked_for_in_vain_is_wanted_itself() -> None:
    (other,) = (module for module in modules(NOISY) if module.image is not None)
    assert (other.image and other.image.index, other.needs_image) == (
        "other.sys/5C0FFEE19000/other.sys",
        ImageUse.SYMBOLS,
    )


def test_a_header_that_the_engine_could_not_read_gives_no_key() -> None:
    text = (
        "SYMSRV:  BYINDEX: 0x1\n         c:\\s*https://h.example/s\n         gone.sys\n         FFFFFFFE9000\n"
        "SYMSRV:  RESULT: 0x80190194\nDBGHELP: gone - no symbols loaded\n"
    )
    assert identities(text) == set()
    assert [module.name for module in modules(text)] == ["gone.sys"]


def test_a_copy_for_the_crash_stays_beside_the_driver_it_copies() -> None:
    rows = "".join(
        f"fffff807`2{number}000000 fffff807`2{number}01d000   {stem}   (no symbols)\n    Image name: {stem}.sys\n"
        "    Timestamp:        Tue Dec 11 17:06:40 2018 (5C0FFEE0)\n    ImageSize:        0001D000\n"
        for number, stem in enumerate(("dumpfve", "dump_dumpfve"))
    )
    text = f"start             end                 module name\n{rows}"
    assert [module.name for module in modules(text)] == ["dumpfve.sys", "dump_dumpfve.sys"]


HOSTILE = {
    "one long line": b"SYMSRV:  " + b"a.pdb\\" * 400_000,
    "many margins": b"".join(b"%d> %d| SYMSRV:  UNC: x\n" % (n, n) for n in range(8_000)),
    "brackets": b"> " * 1_000_000 + b"SYMSRV:  x\n",
    "entities": b"SYMSRV:  " + b"&amp;" * 400_000,
    "cut lines": b"\n".join(b"x" * 79 for _ in range(3_000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_work_that_a_hostile_text_makes_grows_with_its_length(name: str) -> None:
    data = HOSTILE[name]
    part, whole = (_calls(data[:length]) for length in (len(data) // 16, len(data)))
    # What is kept of a line, and of modules, is bounded: work beyond sixteen times that of the part would grow faster.
    assert whole <= 18 * part + 1000


def _calls(data: bytes) -> int:
    """Return how many functions were called, those in C included, to read *data*."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        list(read_debugger_log(BytesView(data), "log"))
    except InputError:
        pass
    finally:
        sys.setprofile(None)
    return calls


def test_what_a_text_is_stands_in_its_record(tmp_path: Path) -> None:
    path = tmp_path / "paste.txt"
    path.write_text(CLOTHES["a mail's quotation"](TABLE))
    first, *_ = read_input(str(path))
    assert getattr(first, "kind", None) is InputKind.DEBUGGER_LOG
