from __future__ import annotations

import codecs
from functools import partial
from textwrap import dedent
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.growth import lines_run
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.views import CountingView

from symcache.errors import InputError, UnknownFormat
from symcache.formats.pe.version import VersionInfo
from symcache.formats.view import BytesView, FileView
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.log import modules as logmodules
from symcache.inputs.log import reader as logreader
from symcache.inputs.log import tables
from symcache.inputs.log.reader import looks_like_debugger_log, read_debugger_log
from symcache.inputs.records import ImageUse, Input, InputKind, Module, PdbFormat, PdbReference, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
ID = "2DCFE7E3D09648B94C4C44205044422Ea"
PDB = PdbReference(PdbKey("app.pdb", GUID, 10), PdbFormat.NATIVE)
IMAGE = ImageKey("app.dll", 0x5AB38077, 0x9000)


def read(text: str) -> list[Module]:
    first, *records = read_debugger_log(BytesView(dedent(text).encode()), "session.log")
    assert isinstance(first, Input)
    assert first.kind is InputKind.DEBUGGER_LOG
    return [record for record in records if isinstance(record, Module)]


def only(text: str) -> Module:
    (module,) = read(text)
    return module


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("logs"))
def test_a_real_transcript_gives_the_pdbs_that_its_text_shows(name: str) -> None:
    with FileView(corpus / name) as view:
        modules = [record for record in read_debugger_log(view, name) if isinstance(record, Module)]
    expected = truth()[name]["expected_from_text"]
    found = [(pdb.key.name, pdb.key.id) for module in modules for pdb in module.pdbs]
    assert sorted(found) == sorted((each["name"], each["key"]) for each in expected if each["key"])
    unkeyed = {each["name"] for each in expected if not each["key"]}
    assert unkeyed <= {module.name for module in modules if module.problem and not module.pdbs}


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("logs"))
def test_a_real_transcript_gives_the_images_that_its_text_shows_and_no_guesses(name: str) -> None:
    fact = truth()[name]
    text = (corpus / name).read_text(encoding="utf-8")
    with FileView(corpus / name) as view:
        modules = [record for record in read_debugger_log(view, name) if isinstance(record, Module)]
    found = [(module.image.name, module.image.id) for module in modules if module.image and not module.unloaded]
    known = {(each["image"], each["image_key"]) for each in fact.get("modules", [])}
    shown = {
        (each["image"], each["image_key"])
        for each in fact.get("modules", [])
        if each["in_text"] and (each["image_key"] in text or f"({each['timestamp']})" in text)
    }
    assert len(found) == len(set(found))
    assert shown <= set(found) <= known
    bases = {module.base for module in modules if module.base is not None and not module.unloaded}
    assert bases <= {int(each["base"], 16) for each in fact.get("modules", [])}
    unloaded = {(module.name, module.base) for module in modules if module.unloaded}
    expected = {(each["image"], int(each["base"], 16)) for each in fact.get("unloaded", [])}
    assert unloaded == (expected if "Unloaded modules:" in text else set())


@needs_corpus
def test_a_real_transcript_says_which_debugger_and_dump() -> None:
    name = "logs/x86_crash_mixed.txt"
    with FileView(corpus / name) as view:
        first = next(read_debugger_log(view, name))
    assert isinstance(first, Input)
    assert first.details["debugger"] == "10.0.15063.400 AMD64"
    assert first.details["dump"] == "C:\\dumps\\symbolicator_windows_crash_x86.dmp"


# Era A: paths of index form.


def test_the_oldest_lines_name_keys_by_paths() -> None:
    text = f"""\
        SYMSRV:  c:\\sym\\app.pdb\\{ID}\\app.pdb not found
        SYMSRV:  http://host/download/symbols/app.pdb/{ID}/app.pdb not found
        DBGHELP: app.pdb - file not found
        *** ERROR: Module load completed but symbols could not be loaded for app.dll
        DBGHELP: app - no symbols loaded
        """
    assert only(text) == Module("app.dll", pdbs=(PDB,))


def test_a_file_that_was_copied_without_its_key_is_named() -> None:
    text = """\
        SYMSRV:  app.pdb from \\\\symbols\\symbols: 10497024 bytes - copied
        DBGHELP: app - public symbols
        """
    assert only(text) == Module("app.pdb", problem="the log does not show its key; it is the PDB of app")


def test_a_file_that_was_copied_is_named_even_if_no_module_follows() -> None:
    module = only("SYMSRV:  app.pdb from 1771779 bytes - copied\n")
    assert (module.name, module.pdbs) == ("app.pdb", ())
    assert module.problem is not None


def test_the_path_below_a_loaded_module_holds_its_key() -> None:
    assert only(
        f"""\
        DBGHELP: c:\\cache\\app.pdb\\{ID}\\app.pdb already cached
        DBGHELP: app - public symbols
                c:\\cache\\app.pdb\\{ID}\\app.pdb
        """
    ) == Module("app", pdbs=(PDB,))


# Era B: the chatter of WinInet.


def test_chatter_of_the_transport_is_skipped() -> None:
    text = f"""\
        SYMSRV:  Connecting to the Server: http://host/download/symbols.
        SYMSRV:  Successfully connected to the Server.
        SYMSRV:  Sending the information request to the server.
        SYMSRV:  Get File Path: /download/symbols/app.pdb/{ID}/app.pdb
        SYMSRV:  *** ERROR: HTTP_STATUS_SERVER_ERROR
        SYMSRV:  http://host/download/symbols/app.pdb/{ID}/app.pdb not found
        DBGHELP: app - no symbols loaded
        """
    assert only(text) == Module("app", pdbs=(PDB,))


# Era C: questions and answers.


def question(name: str, id_: str, result: str = "0x80190194") -> str:
    return (
        f"SYMSRV:  BYINDEX: 0x6\n         C:\\sym*https://host/symbols\n         {name}\n         {id_}\n"
        f"SYMSRV:  UNC: C:\\sym\\{name}\\{id_}\\{name} - path not found\n"
        f"SYMSRV:  HTTPGET: /symbols/{name}/{id_}/{name[:-1]}_\n"
        "SYMSRV:  HttpQueryInfo: 80190194 - HTTP_STATUS_NOT_FOUND\n"
        f"SYMSRV:  RESULT: {result}\n"
    )


def test_questions_before_a_load_are_about_the_module_that_loads() -> None:
    text = question("app.dll", "5AB380779000") + question("other.pdb", ID) + "DBGHELP: app - export symbols\n"
    assert only(text) == Module(
        "app.dll",
        image=IMAGE,
        pdbs=(PdbReference(PdbKey("other.pdb", GUID, 10), PdbFormat.NATIVE),),
        needs_image=ImageUse.CODE,
    )


def test_a_question_without_any_path_is_enough() -> None:
    text = f"SYMSRV:  BYINDEX: 0x6\n  C:\\sym*https://host\n  app.pdb\n  {ID}\n"
    assert only(text) == Module("app.pdb", pdbs=(PDB,))


def test_a_dot_of_progress_and_prefixes_do_not_hide_a_line() -> None:
    text = f"""\
        CBA_EVENT: sevInfo [0] : SYMSRV:  UNC: C:\\sym\\app.pdb\\{ID}\\app.pdb - path not found
           86 percentDBGHELP: app - no symbols loaded
        """
    assert only(text) == Module("app", pdbs=(PDB,))


def test_names_that_were_guessed_for_a_found_image_are_dropped() -> None:
    text = (
        question("halaacpi.dll", "5AB380779000")
        + question("halmacpi.dll", "5AB380779000")
        + question("hal.dll", "5AB380779000", "0x00000000")
        + question("hal.pdb", ID)
        + "DBGHELP: hal - private symbols & lines \n"
    )
    assert [module.image and module.image.name for module in read(text)] == ["hal.dll"]


def test_names_that_were_guessed_in_vain_are_all_kept() -> None:
    text = question("halaacpi.dll", "5AB380779000") + question("halmacpi.dll", "5AB380779000")
    assert [module.name for module in read(text)] == ["halaacpi.dll", "halmacpi.dll"]


def test_a_prompt_ends_what_questions_are_about() -> None:
    text = question("early.pdb", ID) + "0: kd> .reload /f app.dll\n" + "DBGHELP: app - no symbols loaded\n"
    assert {module.name: len(module.pdbs) for module in read(text)} == {"app": 0, "early.pdb": 1}


def test_a_dbg_file_is_wanted_as_such() -> None:
    module = only(question("app.dbg", "5AB380779000") + "DBGHELP: app - no symbols loaded\n")
    assert (module.dbg, module.pdbs, module.image) == (DbgKey("app.dbg", 0x5AB38077, 0x9000), (), None)


def test_every_kind_of_key_is_read() -> None:
    text = (
        question("old.pdb", "37A8F40E2")
        + question("net.pdb", "2DCFE7E3D09648B94C4C44205044422Effffffff")
        + question("stripped.pdb", "2DCFE7E3D09648B94C4C44205044422E")
    )
    assert [reference for module in read(text) for reference in module.pdbs] == [
        PdbReference(Pdb2Key("old.pdb", 0x37A8F40E, 2), PdbFormat.PDB2),
        PdbReference(PortablePdbKey("net.pdb", GUID), PdbFormat.PORTABLE),
        PdbReference(PdbKey("stripped.pdb", GUID, 0), PdbFormat.NATIVE),
    ]


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("app.pdb", "0" * 32 + "1"),
        ("app.dll", "000000009000"),
        ("..", ID),
        ("aux.pdb", ID),
        ("file.ptr", ID),
        ("app.pdb", "not an id"),
        ("app.pdb", "123"),
    ],
)
def test_what_identifies_nothing_is_no_key(name: str, id_: str) -> None:
    assert read(question(name, id_)) == []


# Era D: SYMSRV2.


@pytest.mark.parametrize(
    "line",
    [
        f"SYMSRV2: [app.pdb] Uri C:\\ProgramData\\Dbg\\sym\\app.pdb\\{ID}\\file.ptr",
        f"SYMSRV2: [app.pd_] GET https://host/app.pdb/{ID}/app.pd_",
        f"SYMSRV2: [app.pdb] Unc \\\\s\\symsrv\\app.pdb\\{ID}\\app.pdb",
        f"SYMSRV2: [app.pdb] GET https://host/app.pdb/{ID}/msfz0/app.pdb",
        f"SYMSRV2: [app.pdb] http_download_from_symbol_server failed. Error: HTTP 404. Url: https://host/app.pdb/{ID}/app.pdb",
    ],
    ids=["pointer", "compressed", "share", "MSFZ", "failure"],
)
def test_the_newest_lines_name_keys_in_brackets_and_paths(line: str) -> None:
    text = f"{line}\nSYMSRV2: [app.pdb] HTTP 404 (request #0)\nSYMSRV:  Credential Provider: none\n"
    assert only(text) == Module("app.pdb", pdbs=(PDB,))


def test_an_address_may_be_escaped() -> None:
    module = only(f"SYMSRV2: [my app.pdb] GET https://host/my%20app.pdb/{ID}/my%20app.pdb\n")
    assert [reference.key.name for reference in module.pdbs] == ["my app.pdb"]


def test_a_folder_with_a_name_in_hex_digits_is_no_key() -> None:
    text = f"DBGHELP: c:\\build\\{ID}\\app.pdb - file not found\nDBGHELP: c:\\a.b\\123456789\\c.d - OK\n"
    assert read(text) == []


# Tables.


def test_rows_without_symbols_are_listed_with_a_reason() -> None:
    text = """\
        0: kd> lm
        start             end                 module name
        fffff802`6f4b0000 fffff802`6f4ca000   app        (deferred)
        """
    module = only(text)
    assert (module.name, module.base, module.image, module.pdbs) == ("app", 0xFFFFF8026F4B0000, None, ())
    assert module.problem is not None


def test_the_path_in_a_row_holds_the_key() -> None:
    text = f"""\
        start    end        module name
        00400000 0042d000   app      C (pdb symbols)          c:\\my symbols\\app.pdb\\{ID}\\app.pdb
        """
    assert only(text) == Module("app", base=0x400000, pdbs=(PDB,))


def test_a_row_that_names_a_pdb_without_its_key_says_so() -> None:
    module = only("00400000 0042d000   Prymes     C (pdb symbols)              Prymes.pdb\n")
    assert module.problem == "the log does not show the key of its PDB, Prymes.pdb"


@pytest.mark.parametrize(
    "time",
    [
        "Thu Mar 22 10:07:51 2018 (5AB38077)",
        "***** Invalid (5AB38077)",
        "5AB38077 (This is a reproducible build file hash, not a timestamp)",
    ],
)
def test_rows_with_name_and_time_give_image_keys(time: str) -> None:
    text = f"start    end        module name\n00400000 00409000   app      app.dll      {time}\n"
    assert only(text).image == IMAGE


@pytest.mark.parametrize("time", ["unavailable (00000000)", "unavailable (FFFFFFFE)"])
def test_an_unavailable_time_gives_no_image_key(time: str) -> None:
    module = only(f"start    end        module name\n00400000 00409000   app      app.dll      {time}\n")
    assert (module.name, module.image) == ("app.dll", None)


def test_verbose_rows_give_image_keys() -> None:
    text = """\
        start             end                 module name
        00000001`40000000 00000001`40009000   app        (no symbols)
            Loaded symbol image file: app.dll
            Image path: C:\\app\\app.dll
            Image name: app.dll
            Browse all global symbols  functions  data
            Timestamp:        Thu Mar 22 10:07:51 2018 (5AB38077)
            CheckSum:         0000E766
            ImageSize:        00009000
            File version:     10.0.22000.282
        """
    module = only(text)
    assert (module.base, module.path, module.image) == (0x140000000, "C:\\app\\app.dll", IMAGE)


def test_unloaded_modules_are_told_apart() -> None:
    text = """\
        start    end        module name
        00400000 00409000   app        (deferred)

        Unloaded modules:
        00500000 00509000   app.dll
            Timestamp: Thu Mar 22 10:07:51 2018 (5AB38077)
            Checksum:  0000E766
            ImageSize:  00009000
        """
    loaded, unloaded = read(text)
    assert (loaded.unloaded, loaded.base) == (False, 0x400000)
    assert (unloaded.unloaded, unloaded.base, unloaded.image) == (True, 0x500000, IMAGE)


def test_words_of_memory_are_no_rows() -> None:
    with pytest.raises(UnknownFormat):
        read("00401000  00402000 00000000 00000000\n00401010  00405000 00000000 00000000\n")


def test_lmi_gives_both_keys() -> None:
    text = """\
        0: kd> !lmi app
        Loaded Module Info: [app]
                 Module: app
           Base Address: fffff8069ad90000
             Image Name: app.dll
           Machine Type: 34404 (X64)
             Time Stamp: 5ab38077 Thu Mar 22 10:07:51 2018
                   Size: 9000
               CheckSum: 42df7
        Characteristics: 22
        Debug Data Dirs: Type  Size     VA  Pointer
                     CODEVIEW    a7,  e5f4,    d1f4 RSDS - GUID: {2DCFE7E3-D096-48B9-4C4C-44205044422E}
                       Age: a, Pdb: C:\\build\\app.pdb
            Symbol Type: NONE     - PDB not found from image path.
            Load Report: no symbols loaded
        """
    assert only(text) == Module("app.dll", base=0xFFFFF8069AD90000, image=IMAGE, pdbs=(PDB,))


LMV = """\
    0:000> lmvm app
    start             end                 module name
    00007ff7`78bd0000 00007ff7`78bd9000   app        (deferred)
        Image path: C:\\app\\app.dll
        Image name: app.dll
        Timestamp:        Thu Mar 22 10:04:55 2018 (5AB38077)
        CheckSum:         00000000
        ImageSize:        00009000
        File version:     4.8.4300.1
        Product version:  4.0.30319.0
        File flags:       29 (Mask 3F) Debug Private Special
        File OS:          4 Unknown Win32
        File type:        2.0 Dll
        File date:        00000000.00000000
        Translations:     0409.04b0
        Information from resource tables:
            CompanyName:      Example Drivers Ltd
            ProductName:      Example\N{REGISTERED SIGN} Suite
            InternalName:     app
            OriginalFilename: app.dll
            ProductVersion:   4.8
            FileVersion:      4.8.4300.1 built by: LAB
            FileDescription:  Filter {2dcfe7e3-d096-48b9-4c4c-44205044422e}
            LegalCopyright:   Nobody.
    """
VERSION = VersionInfo(
    company="Example Drivers Ltd",
    product="Example\N{REGISTERED SIGN} Suite",
    description="Filter {2dcfe7e3-d096-48b9-4c4c-44205044422e}",
    original_name="app.dll",
    file_version="4.8.4300.1 built by: LAB",
    product_version="4.8",
    file_numbers=(4, 8, 4300, 1),
    product_numbers=(4, 0, 30319, 0),
    is_private=True,
    is_special=True,
    is_debug=True,
)


def test_lmv_says_who_made_a_module() -> None:
    module = only(LMV)
    assert (module.image, module.version) == (IMAGE, VERSION)
    quoted = "".join(f"> | 12:00:01 {line}\n" for line in dedent(LMV).splitlines())
    assert only(quoted).version == VERSION


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        pytest.param("File version: 0.0.0.0\nProduct version: 0.0.0.0\nFile flags: 0 (Mask 0)", None, id="no-image"),
        pytest.param("File version: 70000.0.0.1", None, id="no-number-of-16-bits"),
        pytest.param("File flags: 8 (Mask 37) Private", None, id="flag-that-is-not-valid"),
        pytest.param("FileVersion: 1.2.3.4", VersionInfo(file_version="1.2.3.4"), id="text"),
        pytest.param("File version: 1.2 beta", VersionInfo(file_version="1.2 beta"), id="text-by-the-other-name"),
        pytest.param("Company name: A\nCompanyName: B", VersionInfo(company="A"), id="twice"),
        pytest.param("CompanyName:", None, id="empty"),
        pytest.param("0:000> ? 1\nCompanyName: A", None, id="of-something-else"),
    ],
)
def test_lines_of_a_version_are_taken_for_what_they_say(lines: str, version: VersionInfo | None) -> None:
    rows = "start    end        module name\n00400000 00409000   app      (deferred)\n"
    text = rows + "".join(f"    {line}\n" if ">" not in line else f"{line}\n" for line in lines.splitlines())
    assert only(text).version == version


def test_what_is_kept_of_versions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_VERSION_CHARACTERS", 120)
    assert only(LMV).version == VersionInfo(
        company="Example Drivers Ltd",
        product="Example\N{REGISTERED SIGN} Suite",
        file_numbers=(4, 8, 4300, 1),
        product_numbers=(4, 0, 30319, 0),
        original_name="app.dll",
        product_version="4.8",
        is_private=True,
        is_special=True,
        is_debug=True,
    )


def test_lmi_of_an_old_image_gives_a_pdb_2() -> None:
    text = """\
        Loaded Module Info: [app]
                     CODEVIEW 1d, 2ca60, 3cc60 NB10 - Sig: 37a8f40e, Age: 2, Pdb: app.pdb
        """
    assert only(text).pdbs == (PdbReference(Pdb2Key("app.pdb", 0x37A8F40E, 2), PdbFormat.PDB2),)


def test_chksym_gives_both_keys() -> None:
    text = """\
        0:000> !chksym app

        C:\\app\\app.dll
            Timestamp: 5AB38077
          SizeOfImage: 9000
                  pdb: D:\\build\\app.pdb
              pdb sig: 2DCFE7E3-D096-48B9-4C4C-44205044422E
                  age: a

        MISMATCH: app.pdb and app.dll
        """
    assert only(text) == Module("app.dll", image=IMAGE, pdbs=(PDB,))


def test_reload_lines_name_files_whose_keys_the_log_lacks() -> None:
    text = """\
        .Unable to load image \\SystemRoot\\System32\\drivers\\one.sys, Win32 error 0n2
        *** WARNING: Unable to verify checksum for two.exe
        *** ERROR: Symbol file could not be found.  Defaulted to export symbols for three.dll -
        *** ERROR: Module load completed but symbols could not be loaded for four.sys
        Unable to read image header for five.sys at fe0be000 - NTSTATUS 0xC0000001
        *** WARNING: symbols checksum and timestamp is wrong 0x0036a4ea 0x00361a83 for six.exe
        """
    modules = read(text)
    assert [module.name for module in modules] == ["one.sys", "two.exe", "three.dll", "four.sys", "five.sys", "six.exe"]
    assert all(module.problem and not module.pdbs and not module.image for module in modules)


def test_the_kernel_is_one_module_under_all_its_names() -> None:
    text = """\
        *** ERROR: Module load completed but symbols could not be loaded for ntkrnlmp.exe
        start    end        module name
        80400000 80409000   nt         (no symbols)
        """
    assert only(text).name == "nt"


def test_two_sessions_in_one_log_are_two_modules() -> None:
    row = "start    end        module name\n00400000 00409000   app      app.dll      ***** Invalid ({:08X})\n"
    images = [module.image for module in read(row.format(1) + row.format(2) + row.format(1))]
    assert images == [ImageKey("app.dll", 1, 0x9000), ImageKey("app.dll", 2, 0x9000)]


# symchk.


def test_a_verbose_block_of_symchk_gives_both_keys() -> None:
    text = """\
        [SYMCHK] Searching for symbols to C:\\app\\app.dll in path srv*C:\\sym*https://host
        [SYMCHK] MODULE64 Info ----------------------
        [SYMCHK] PDB7 Sig: {2DCFE7E3-D096-48B9-4C4C-44205044422E}
        [SYMCHK] Age: 10
        [SYMCHK] PDB Matched:  FALSE
        SymbolCheckVersion  0x00000002
        Result              0x00010001
        DbgFilename         app.dbg
        DbgTimeDateStamp    0x5ab38077
        DbgSizeOfImage      0x00009000
        DbgChecksum         0x00014647
        PdbFilename         D:\\build\\app.pdb
        PdbSignature        {2DCFE7E3-D096-48B9-4C4C-44205044422E}
        PdbDbiAge           0x0000000a
        [SYMCHK] [ 0x00000000 - 0x00010001 ] Checked "C:\\app\\app.dll"
        SYMCHK: app.dll             FAILED  - app.pdb mismatched or not found
        SYMCHK: FAILED files = 1
        SYMCHK: PASSED + IGNORED files = 0
        """
    assert only(text) == Module("app.dll", image=IMAGE, pdbs=(PDB,))


def test_a_verdict_of_symchk_names_a_file_and_the_reason() -> None:
    text = """\
        SYMCHK: Myapp.exe           FAILED  - Myapp.pdb is missing
        SYMCHK: my other app.exe [1.2.3.4]     ERROR - Unable to download file. Error reported was 2
        SYMCHK: good.exe            PASSED
        """
    modules = read(text)
    assert [module.name for module in modules] == ["Myapp.exe", "my other app.exe", "good.exe"]
    assert modules[0].problem == "the log does not show what identifies it (symchk: Myapp.pdb is missing)"


# Text.

LINE = f"SYMSRV:  c:\\sym\\äpp.pdb\\{ID}\\äpp.pdb not found"


@pytest.mark.parametrize(
    "data",
    [
        LINE.encode(),
        codecs.BOM_UTF8 + LINE.encode(),
        LINE.encode("utf-16"),
        codecs.BOM_UTF16_BE + LINE.encode("utf-16-be"),
        LINE.encode("utf-16-le"),
        LINE.encode("cp1252"),
        f"one\r\n{LINE}\r\ntwo".encode(),
        f"one\r{LINE}\rtwo".encode(),
        f"SYMSRV:  x: 0 bytes -  \b           0 \b\b\b\b\b        3072{LINE}".encode(),
        LINE.replace("  ", "\xa0 ").encode(),
    ],
    ids=["UTF-8", "BOM", "UTF-16", "UTF-16 BE", "no BOM", "cp1252", "CRLF", "CR", "backspaces", "no-break"],
)
def test_a_line_is_read_however_it_is_written(data: bytes) -> None:
    assert looks_like_debugger_log(data)
    _, module = read_debugger_log(BytesView(data), "x")
    assert isinstance(module, Module)
    assert [reference.key.name for reference in module.pdbs] == ["äpp.pdb"]


def test_a_line_is_read_across_the_pieces_that_are_read_at_once() -> None:
    for shift in range(0, 90, 7):
        filler = "x" * 99 + "\n"
        text = filler * ((1 << 16) // 100 - 1) + "y" * shift + "\n" + LINE + "\n"
        assert len(read(text)) == 1


def test_a_line_without_end_costs_no_memory_and_hides_no_other() -> None:
    text = "z" * 300_000 + f"\n{LINE}\n"
    assert len(read(text)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MZ\x90\0",
        b"MDMP\x93\xa7\0\0",
        b"hello world\n",
        b"app.pdb,2DCFE7E3D09648B94C4C44205044422E1,1\n",
        b"<html><body>not found</body></html>",
    ],
)
def test_other_files_are_not_taken_for_a_log(data: bytes) -> None:
    assert not looks_like_debugger_log(data)
    with pytest.raises(UnknownFormat):
        list(read_debugger_log(BytesView(data), "x"))


@pytest.mark.parametrize(
    "text",
    [
        "0: kd> lm\n",
        "0:000> .reload\n",
        "start    end        module name\n",
        "SYMCHK: FAILED files = 1\n",
        "Microsoft (R) Windows Debugger Version 6.12\n",
        "DBGHELP: x\n",
    ],
)
def test_the_signs_of_a_log_are_known(text: str) -> None:
    assert looks_like_debugger_log(text.encode())
    assert looks_like_debugger_log(text.encode("utf-16"))


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("logs"))
def test_real_transcripts_are_recognised_by_their_start(name: str) -> None:
    assert looks_like_debugger_log((corpus / name).read_bytes()[:4096])


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logmodules, "_MOST_FACTS", 50)
    text = "".join(question(f"app{n}.pdb", ID) for n in range(200))
    *records, last = read_debugger_log(BytesView(text.encode()), "x")
    assert isinstance(last, Unreadable)
    assert sum(isinstance(record, Module) for record in records) == 50


def test_one_module_does_not_gather_pdbs_without_end() -> None:
    text = "".join(question(f"x{n}.pdb", ID) + "DBGHELP: app - no symbols loaded\n" for n in range(200))
    modules = read(text)
    assert sum(len(module.pdbs) for module in modules) == 200
    assert max(len(module.pdbs) for module in modules) <= 64


SEED = (
    question("app.dll", "5AB380779000", "0x00000000")
    + question("app.pdb", ID)
    + f"DBGHELP: app - public symbols\n        c:\\sym\\app.pdb\\{ID}\\app.pdb\n"
    + "0:000> lmv\nstart    end        module name\n00400000 00409000   app      C (pdb symbols)\n"
    + "    Image name: app.dll\n    Timestamp: x (5AB38077)\n    ImageSize: 9000\n"
    + "Loaded Module Info: [app]\n   RSDS - GUID: {2DCFE7E3-D096-48B9-4C4C-44205044422E}\n   Age: a, Pdb: app.pdb\n"
    + "    Timestamp: 5AB38077\n  SizeOfImage: 9000\n pdb: a.pdb\n pdb sig: 2DCFE7E3-D096-48B9-4C4C-44205044422E\n"
    + 'age: a\nResult  0x1\nPdbFilename  a.pdb\nPdbDbiAge  0x1\n[SYMCHK] [ 0 - 1 ] Checked "a.dll"\n'
).encode()


def read_or_refuse(data: bytes) -> None:
    looks_like_debugger_log(data)
    try:
        list(read_debugger_log(BytesView(data), "x"))
    except InputError:
        return


@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_input_errors(data: bytes) -> None:
    read_or_refuse(data)


@given(st.lists(st.sampled_from(SEED.decode().splitlines()) | st.text(max_size=40), max_size=40))
def test_lines_in_any_order_raise_nothing_but_input_errors(lines: list[str]) -> None:
    read_or_refuse("\n".join(lines).encode("utf-8", "replace"))


def test_damaged_transcripts_raise_nothing_but_input_errors() -> None:
    for data in mutants(SEED, 1000):
        read_or_refuse(data)


@pytest.mark.slow
def test_many_damaged_transcripts_raise_nothing_but_input_errors() -> None:
    for data in mutants(SEED, 100_000, rng_seed=3):
        read_or_refuse(data)


def rows(count: int, row: Callable[[int], str]) -> str:
    """Return a table of modules one behind the other."""
    places = ((0x10000000 + number * 0x10000, number) for number in range(count))
    return HEADING + "".join(f"{at:08x} {at + 0x9000:08x}   {row(number)}\n" for at, number in places)


HEADING = "start    end        module name\n"
CROWDS = {
    "images of one build": lambda count: (
        rows(count, lambda n: f"m{n}  m{n}.dll  Mon Jan  1 00:00:00 2018 (5AB38077)")
        + "".join(f"SYMSRV:  x{number}.dll\\5AB380779000\\x{number}.dll not found\n" for number in range(count))
    ),
    "modules of one name": lambda count: (
        rows(count, lambda _: "a")
        + "".join(
            f"*** ERROR: Module load completed but symbols could not be loaded for a.x{n}\n" for n in range(count)
        )
    ),
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS)
def test_many_files_that_may_belong_to_many_modules_take_no_more_time_for_each(crowd: Callable[[int], str]) -> None:
    few, many = (lines_run(partial(read, crowd(count))) for count in (100, 800))
    assert many < 12 * few


@pytest.mark.parametrize("units", [2, 3])
def test_lines_that_could_be_one_that_was_cut_are_not_searched_for_keys_over_and_over(units: int) -> None:
    text = (f"a.pdb\\{ID}\\" * units + "\n") * 100
    assert lines_run(partial(read, text)) < 1200 * 100


def test_a_text_that_says_nothing_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logreader, "_MOST_UNKNOWN_MIB", 1)
    said, story = b"SYMCHK: app.exe FAILED\n", b"It was a dark and stormy night.\n" * 70_000  # 2 MiB
    view = CountingView(BytesView(story + said))
    with pytest.raises(UnknownFormat, match="no line in its first"):
        list(read_debugger_log(view, "story.txt"))
    assert view.read_bytes < 2 << 20
    assert [record for record in read_debugger_log(BytesView(said + story), "a.txt") if isinstance(record, Input)]
