"""The writer against readers that are not ours; `tests/unit/formats/test_pe.py` holds ours against the writer."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from support.parts import need
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes, memory_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes

from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
WIDE = ImagePlan(
    0x4549B18E,
    0x14000,
    code_views=(
        CodeViewPlan("c:\\drv\\secdrv.pdb", GUID, 3),
        CodeViewPlan("old.pdb", age=2, signature=0x3E4A21B7),
        CodeViewPlan("m.pdb", GUID, portable=True, timestamp=0xC3923201),
    ),
    checksum=0xABCD,
    pdb_checksums=(("SHA256", bytes(32)),),
    embedded_pdb=b"BSJB",
    reproducible=True,
    dbg_name="secdrv.dbg",
    payload_bytes=100_000,
)
PLANS = pytest.mark.parametrize(
    "plan", [WIDE, replace(WIDE, pe32_plus=False, machine=0x14C, dll=False)], ids=["pe32+", "pe32"]
)


@PLANS
def test_pefile_reads_what_was_written(plan: ImagePlan) -> None:
    pefile: Any = pytest.importorskip("pefile", reason="pefile is an oracle of developers")
    image = pefile.PE(data=disk_bytes(plan))
    assert image.FILE_HEADER.TimeDateStamp == plan.timestamp
    assert image.FILE_HEADER.Machine == plan.machine
    assert image.OPTIONAL_HEADER.SizeOfImage == plan.size_of_image
    assert image.OPTIONAL_HEADER.CheckSum == plan.checksum
    assert image.OPTIONAL_HEADER.Magic == (0x20B if plan.pe32_plus else 0x10B)
    assert image.is_dll() == plan.dll
    assert [section.Name.rstrip(b"\0") for section in image.sections] == [b".text", b".rdata"]
    entries = image.DIRECTORY_ENTRY_DEBUG
    assert [entry.struct.Type for entry in entries] == [2, 2, 2, 19, 4, 16, 17]
    first, second, third = (entry.entry for entry in entries[:3])
    assert (first.PdbFileName.rstrip(b"\0"), first.Age) == (b"c:\\drv\\secdrv.pdb", 3)
    assert first.Signature_String == f"{GUID.hex.upper()}3"
    assert (second.PdbFileName.rstrip(b"\0"), second.Age) == (b"old.pdb", 2)
    assert (third.PdbFileName.rstrip(b"\0"), entries[2].struct.MinorVersion) == (b"m.pdb", 0x504D)
    assert [warning for warning in image.get_warnings() if "makes up" not in warning] == []


@PLANS
def test_pefile_reads_the_versions_that_were_written(plan: ImagePlan) -> None:
    pefile: Any = importlib.import_module(need("pefile"))
    texts = {"CompanyName": "Example", "FileVersion": "1.2"}
    version = version_bytes(VersionPlan({"040904b0": texts}, flags=8))
    versions = (("NAMED", 0x407, version), (1, 0x409, version), (1, 0x407, version))
    image = pefile.PE(data=disk_bytes(replace(plan, versions=versions)))
    (types,) = (entry for entry in image.DIRECTORY_ENTRY_RESOURCE.entries if entry.id == 16)
    tree = [(each.name or each.id, [leaf.id for leaf in each.directory.entries]) for each in types.directory.entries]
    assert [(str(name), languages) for name, languages in tree] == [("NAMED", [0x407]), ("1", [0x409, 0x407])]
    tables = [table for blocks in image.FileInfo for block in blocks for table in getattr(block, "StringTable", [])]
    assert {key.decode(): value.decode() for key, value in tables[0].entries.items()} == texts
    fixed = image.VS_FIXEDFILEINFO[0]
    assert (fixed.FileVersionMS, fixed.FileVersionLS, fixed.FileFlags) == (0x10002, 0x30004, 8)
    assert [warning for warning in image.get_warnings() if "makes up" not in warning] == []


@PLANS
def test_the_mapped_image_is_what_pefile_maps(plan: ImagePlan) -> None:
    pefile: Any = pytest.importorskip("pefile", reason="pefile is an oracle of developers")
    mapped = bytes(pefile.PE(data=disk_bytes(plan)).get_memory_mapped_image())
    written = memory_bytes(plan)
    assert written.rstrip(b"\0") == mapped.rstrip(b"\0")
    assert len(written) % 0x1000 == 0


def test_an_image_is_planned_from_its_keys() -> None:
    plan = plan_image(
        ImageKey("secdrv.sys", 0x4549B18E, 0x14000),
        PdbKey("secdrv.pdb", GUID, 3),
        PortablePdbKey("m.pdb", GUID),
        Pdb2Key("old.pdb", 5, 2),
    )
    assert (plan.timestamp, plan.size_of_image) == (0x4549B18E, 0x14000)
    assert plan.code_views == (
        CodeViewPlan("secdrv.pdb", GUID, 3),
        CodeViewPlan("m.pdb", GUID, portable=True),
        CodeViewPlan("old.pdb", age=2, signature=5),
    )


def test_an_image_is_written_the_same_each_time() -> None:
    assert disk_bytes(WIDE) == disk_bytes(WIDE)
    assert len(disk_bytes(WIDE)) > WIDE.payload_bytes
