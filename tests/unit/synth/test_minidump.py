from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record

from symcache.formats.dump.minidump import parse_minidump, read_memory_ranges
from symcache.formats.view import BytesView
from symcache.inputs.minidump import read_minidump
from symcache.inputs.records import Module

if TYPE_CHECKING:
    from pathlib import Path

MODULES = [
    MinidumpModule(
        "C:\\app\\app.exe",
        0x1_4000_0000,
        0x9000,
        0x5AB38077,
        rsds_record(UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e"), 1, "app.pdb"),
        checksum=0x1234,
    ),
    MinidumpModule("C:\\Windows\\System32\\ntdll.dll", 0x7FF8_0000_0000, 0x1E1000, 0xA5A334D4),
]
GONE = [MinidumpModule("shcore.dll", 0x7FF8_1000_0000, 0xEA000, 0xD40BC30A)]
MEMORY = [(0x10_0000, b"stack" * 100), (0x7FF8_0000_0000, b"MZ" + bytes(1000))]


@pytest.mark.parametrize("full", [False, True], ids=["memory list", "64-bit memory list"])
def test_pypi_minidump_reads_what_is_written_as_we_do(full: bool, tmp_path: Path) -> None:
    minidumpfile = pytest.importorskip("minidump.minidumpfile", reason="the minidump package is not installed")
    plan = MinidumpPlan(
        modules=MODULES,
        unloaded=GONE,
        memory=[] if full else MEMORY,
        memory64=MEMORY if full else [],
        exception=(0xC0000005, 0x1234),
        process=(4711, 1700000000),
        flags=2 if full else 0,
    )
    data = build_minidump(plan)
    (tmp_path / "x.dmp").write_bytes(data)
    theirs = minidumpfile.MinidumpFile.parse(str(tmp_path / "x.dmp"))
    try:
        listed = [
            (each.name, each.baseaddress, each.size, each.timestamp, False) for each in theirs.modules.modules
        ] + [(each.name, each.baseaddress, each.size, each.timestamp, True) for each in theirs.unloaded_modules.modules]
        assert listed == [
            (each.path, each.base_va, each.size_of_image, each.timestamp, gone)
            for modules, gone in ((MODULES, False), (GONE, True))
            for each in modules
        ]
        ours = [record for record in read_minidump(BytesView(data), "x.dmp") if isinstance(record, Module)]
        assert [(each.path, each.base, each.unloaded) for each in ours] == [(row[0], row[1], row[4]) for row in listed]
        assert (theirs.sysinfo.BuildNumber, theirs.misc_info.ProcessId) == (19041, 4711)
        view = BytesView(data)
        memory = read_memory_ranges(view, parse_minidump(view))
        reader = theirs.get_reader()
        for address, content in MEMORY:
            assert reader.read(address, len(content)) == memory.read(address, len(content)) == content
    finally:
        theirs.file_handle.close()


def test_udmp_parser_reads_what_is_written_as_we_do(tmp_path: Path) -> None:
    udmp_parser = pytest.importorskip("udmp_parser", reason="udmp-parser is not installed")
    # It takes captured memory only where the list of regions names it, and no padding behind a count.
    regions = b"".join(struct.pack("<QQIIQIIII", start, start, 4, 0, 0x1000, 0x1000, 4, 0, 0) for start, _ in MEMORY)
    region_list = struct.pack("<IIQ", 16, 48, len(MEMORY)) + regions
    plan = MinidumpPlan(modules=MODULES, memory64=MEMORY, flags=2, more_streams=[(16, region_list)])
    data = build_minidump(plan)
    (tmp_path / "x.dmp").write_bytes(data)
    theirs = udmp_parser.UserDumpParser()
    assert theirs.Parse(tmp_path / "x.dmp")
    assert {
        base: (each.ModuleName, each.SizeOfImage, each.TimeDateStamp) for base, each in theirs.Modules().items()
    } == {each.base_va: (each.path, each.size_of_image, each.timestamp) for each in MODULES}
    view = BytesView(data)
    memory = read_memory_ranges(view, parse_minidump(view))
    for address, content in MEMORY:
        assert bytes(theirs.ReadMemory(address, len(content))) == memory.read(address, len(content)) == content
