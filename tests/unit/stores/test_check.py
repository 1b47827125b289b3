"""Libraries of .NET runtimes, which are filed under another image's key, are told by their own words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from support.dotnet import library_bytes, library_plan, runtime_plan, version_resource
from support.mutation import mutants
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes

from symcache.errors import CutShort, OtherBuild
from symcache.formats.view import BytesView
from symcache.identity import ImageKey
from symcache.stores.base import size_if_right
from symcache.stores.check import check_view

X86, X64, ARM64 = 0x14C, 0x8664, 0xAA64
V8 = (8, 0, 824, 36612)
RUNTIME = ("coreclr.dll", 0x5F7E6161, 0xAEE000)
LONG = "mscordaccore_amd64_amd64_8.0.824.36612.dll"
CROSS = "mscordaccore_amd64_arm64_8.0.824.36612.dll"
NATIVE_ARM = "mscordaccore_arm64_arm64_8.0.824.36612.dll"
SHORT = "mscordaccore.dll"
DAC = library_bytes("mscordaccore.dll", V8)
CORECLR = disk_bytes(runtime_plan(*RUNTIME[1:], RUNTIME[0], V8))


def key(name: str) -> ImageKey:
    return ImageKey(name, *RUNTIME[1:])


def dac(**more: Any) -> bytes:
    return library_bytes("mscordaccore.dll", V8, **more)


RIGHT: dict[str, tuple[str, bytes]] = {
    "under its long name": (LONG, DAC),
    "in WinDbg's letter case": (LONG.replace("amd64", "AMD64"), DAC),
    "under its short name": (SHORT, DAC),
    "for a debugger of another processor": (CROSS, DAC),
    "for ARM64": (NATIVE_ARM, dac(machine=ARM64)),
    "for ARM64 and x64 in one": (NATIVE_ARM, dac(machine=0xA64E)),
    "of another processor under its short name": (SHORT, dac(machine=ARM64)),
    "named by its exports alone": (
        SHORT, dac(versions=()),
    ),
    "named by its version resource alone": (LONG, dac(exports=())),
    "called by its long name itself": (LONG, dac(own_name=LONG, versions=version_resource(LONG, V8))),
    "of the .NET Framework": (
        "mscordacwks_x86_x86_4.8.4341.00.dll", library_bytes("mscordacwks.dll", (4, 8, 4341, 0), machine=X86),
    ),
    "SOS": ("sos_amd64_amd64_4.8.4341.00.dll", library_bytes("SOS.dll", (4, 8, 4341, 0))),
    "the debugging interface": ("mscordbi.dll", library_bytes("mscordbi.dll", V8)),
    "a checked build": (
        "mscordaccore_amd64_amd64_8.0.824.36612.chk.dll", dac(versions=version_resource(SHORT, V8, flags=1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_a_library_is_right_under_the_key_of_its_runtime(case: str) -> None:
    name, content = RIGHT[case]
    assert check_view(BytesView(content), key(name)).problem is None


WRONG: dict[str, tuple[str, bytes, str]] = {
    "for another processor": (LONG, dac(machine=X86), "for x86, not amd64"),
    "for the runtime's processor alone": (CROSS, dac(machine=ARM64), "for ARM64, not amd64"),
    "of another build": (LONG, library_bytes(SHORT, (8, 0, 724, 31311)), "version 8.0.724.31311, not 8.0.824.36612"),
    "of no version": (LONG, dac(versions=()), "without a version, not 8.0.824.36612"),
    "another library": (LONG, library_bytes("mscordbi.dll", V8), "called 'mscordbi.dll' by itself"),
    "another library under a short name": (SHORT, library_bytes("sos.dll", V8), "called 'sos.dll' by itself"),
    "the runtime itself": (LONG, CORECLR, "called 'coreclr.dll' by itself"),
    "without a word of its own": (SHORT, dac(versions=(), exports=()), "called nothing"),
    "a program": (LONG, dac(dll=False), "no library"),
    "a PDB": (LONG, make_pdb(NativePdbSpec(UUID(int=1))), "not a PE image"),
    "a page": (SHORT, b"<!DOCTYPE html><title>Sign in</title>", "not a PE image"),
    "nothing": (LONG, b"", "empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_that_library_is_refused(case: str) -> None:
    name, content, problem = WRONG[case]
    verdict = check_view(BytesView(content), key(name))
    assert verdict.problem is not None
    assert problem in verdict.problem


@pytest.mark.parametrize("name", [LONG, SHORT])
def test_a_library_that_is_cut_short_is_refused_as_such(name: str) -> None:
    for end in (0x300, 0x900, len(DAC) - 0x201):
        assert check_view(BytesView(DAC[:end]), key(name)).error is CutShort


def test_a_library_is_right_by_its_own_key_and_another_build_by_that_is_not() -> None:
    own = ImageKey(SHORT, 0x65A1B2C3, 0x9000)
    plan = library_plan(SHORT, V8, timestamp=own.timestamp)
    assert check_view(BytesView(disk_bytes(replace(plan, size_of_image=0x9000, versions=(), exports=()))), own).is_right


def test_an_image_of_another_name_needs_its_own_key() -> None:
    verdict = check_view(BytesView(DAC), key("mscordaccore2.dll"))
    assert (verdict.is_right, verdict.error) == (False, OtherBuild)


def test_the_key_of_the_runtime_is_no_proof_at_a_glance(tmp_path: Any) -> None:
    """The runtime's own image has the stamp and size that the key of its libraries has."""
    path = tmp_path / "file"
    path.write_bytes(CORECLR)
    assert size_if_right(str(path), key(RUNTIME[0])) is not None
    assert size_if_right(str(path), key(LONG)) is None
    assert size_if_right(str(path), key(SHORT)) is None


def test_a_damaged_library_is_right_or_not() -> None:
    for name in (LONG, SHORT):
        for data in mutants(DAC, 300):
            verdict = check_view(BytesView(data), key(name))
            assert verdict.is_right == (verdict.problem is None)
