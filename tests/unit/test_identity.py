from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import InputError, MalformedInput
from symcache.identity import (
    DbgKey,
    ImageKey,
    Key,
    OtherKey,
    Pdb2Key,
    PdbKey,
    PortablePdbKey,
    RuntimeLibrary,
    Tier,
    compressed_name,
    filed_keys,
    parse_index,
    parse_runtime_library,
    published_keys,
    relative_parts,
    sought_keys,
)

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")


def file_names(extension: str) -> st.SearchStrategy[str]:
    stems = st.text(st.characters(codec="utf-8", categories=("L", "N"), include_characters="._- +"), min_size=1)
    return stems.map(lambda stem: f"x{stem}.{extension}").filter(lambda name: len(name.encode()) <= 255)


U32 = st.integers(0, 2**32 - 1)
KEYS: st.SearchStrategy[Key] = st.one_of(
    st.builds(PdbKey, name=file_names("pdb"), guid=st.uuids(), age=st.integers(0, 2**32 - 2)),
    st.builds(Pdb2Key, name=file_names("pdb"), signature=U32, age=U32),
    st.builds(PortablePdbKey, name=file_names("pdb"), guid=st.uuids()),
    st.builds(ImageKey, name=file_names("sys"), timestamp=U32, size_of_image=U32),
    st.builds(DbgKey, name=file_names("dbg"), timestamp=U32, size_of_image=U32),
)


@given(KEYS)
def test_an_index_reads_back_as_its_key(key: Key) -> None:
    assert parse_index(key.index) == key


@given(KEYS)
def test_letter_case_does_not_change_what_an_index_means(key: Key) -> None:
    again = parse_index(f"{key.name}/{key.id.swapcase()}/{key.name}")
    assert again == key
    assert again.folded == key.folded


@given(st.text())
def test_a_text_is_an_index_or_bad_input(text: str) -> None:
    try:
        key = parse_index(text)
    except InputError:
        return
    assert parse_index(key.index) == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param(
            "secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb", PdbKey("secdrv.pdb", GUID, 3), id="index"
        ),
        pytest.param("secdrv.pdb 7578144c39c4468394ef84f01549113aA", PdbKey("secdrv.pdb", GUID, 10), id="name and id"),
        pytest.param(r"a.pdb\7578144C39C4468394EF84F01549113A", PdbKey("a.pdb", GUID, 0), id="no age"),
        pytest.param("a.pdb/7578144C39C4468394EF84F01549113Affffffff", PortablePdbKey("a.pdb", GUID), id="portable"),
        pytest.param("a.pdb/37A8F40E2/a.pd_", Pdb2Key("a.pdb", 0x37A8F40E, 2), id="cabinet of a PDB 2.0"),
        pytest.param("nt.exe/542D574Ec2000", ImageKey("nt.exe", 0x542D574E, 0xC2000), id="image"),
        pytest.param("acpi.dbg/37cdb03962040", DbgKey("acpi.dbg", 0x37CDB039, 0x62040), id="dbg"),
        pytest.param("x.so/elf-buildid-00", OtherKey("x.so", "elf-buildid-00"), id="another scheme"),
    ],
)
def test_an_index_names(text: str, key: Key) -> None:
    assert parse_index(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.pdb",
        "a.pdb/",
        "/a.pdb/1",
        "a.pdb/1/b.pdb",
        "../1/..",
        "a.pdb/../a.pdb",
        "a/b/c/d",
        "con.pdb/1",
        "nul/1",
        "com1.dll/1",
        "a.pdb./1",
        "a.pdb:stream/1",
        "file.ptr/1",
        "000Admin/1",
        "index2.txt/1",
        ".symcache/1",
        "a\x00b/1",
        "a\ud800b/1",
        "x" * 256 + "/1",
    ],
)
def test_what_cannot_be_a_path_is_refused(text: str) -> None:
    with pytest.raises(MalformedInput):
        parse_index(text)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("ntdll.pdb", "nt"), ("x.pdb", "x"), ("q", "q"), ("NTDLL.PDB", "NT")],
)
def test_a_two_tier_store_adds_the_first_letters(name: str, folder: str) -> None:
    key = PdbKey(name, GUID, 1)
    assert relative_parts(key, Tier.TWO) == (folder, name, key.id)
    assert relative_parts(key) == (name, key.id)


def test_a_cabinet_ends_in_an_underscore() -> None:
    assert compressed_name("ntdll.pdb") == "ntdll.pd_"


LIBRARY_NAMES = {
    "mscordaccore_amd64_amd64_8.0.824.36612.dll": RuntimeLibrary("mscordaccore", "amd64", "amd64", (8, 0, 824, 36612)),
    "mscordacwks_AMD64_AMD64_4.8.4341.00.dll": RuntimeLibrary("mscordacwks", "amd64", "amd64", (4, 8, 4341, 0)),
    "mscordacwks_x86_x86_2.0.50727.9151.dll": RuntimeLibrary("mscordacwks", "x86", "x86", (2, 0, 50727, 9151)),
    "mscordaccore_amd64_arm64_10.0.25.52411.dll": RuntimeLibrary("mscordaccore", "amd64", "arm64", (10, 0, 25, 52411)),
    "mscordaccore_x86_arm_3.1.3223.47101.dll": RuntimeLibrary("mscordaccore", "x86", "arm", (3, 1, 3223, 47101)),
    "SOS_amd64_amd64_4.0.30319.17020.chk.dll": RuntimeLibrary("sos", "amd64", "amd64", (4, 0, 30319, 17020), ".chk"),
    "sos_arm_arm_4.0.1.05.dbg.dll": RuntimeLibrary("sos", "arm", "arm", (4, 0, 1, 5), ".dbg"),
    "mscordbi.dll": RuntimeLibrary("mscordbi"),
    "MSCORDACWKS.DLL": RuntimeLibrary("mscordacwks"),
    "sos.dll": RuntimeLibrary("sos"),
}


@pytest.mark.parametrize("name", LIBRARY_NAMES)
def test_the_name_of_a_runtimes_library_says_what_it_is(name: str) -> None:
    library = parse_runtime_library(name)
    assert library == LIBRARY_NAMES[name]
    assert library.name == name.lower()


@pytest.mark.parametrize(
    "name",
    [
        "coreclr.dll",
        "clr.dll",
        "mscordaccore.pdb",
        "mscordaccore_amd64_8.0.1.2.dll",
        "mscordaccore_amd64_amd64_8.0.824.dll",
        "mscordaccore_amd64_amd64_8.0.824.1.dll",  # the last part has two digits at least
        "mscordaccore_ia64_ia64_2.0.50727.42.dll",
        "xsos.dll",
        "sos.dll.dll",
        "sos_amd64_amd64_4.8.4341.00.old.dll",
        "sos_amd64_amd64_4.8.4341.00.dll\n",
        "",
    ],
)
def test_other_names_are_not_taken_for_it(name: str) -> None:
    assert parse_runtime_library(name) is None


LIBRARIES = st.builds(
    RuntimeLibrary,
    st.sampled_from(["mscordaccore", "mscordacwks", "mscordbi", "sos"]),
    st.sampled_from(["amd64", "x86", "arm", "arm64"]),
    st.sampled_from(["amd64", "x86", "arm", "arm64"]),
    st.tuples(*[st.integers(0, 65535)] * 4),
    st.sampled_from(["", ".dbg", ".chk"]),
)


@given(LIBRARIES)
def test_any_name_of_a_runtimes_library_reads_back(library: RuntimeLibrary) -> None:
    assert parse_runtime_library(library.name) == library
    key = ImageKey(library.name, 0x5F7E6161, 0xAEE000)
    assert parse_index(key.index) == key


def test_a_runtimes_library_stands_under_both_names_and_is_sought_by_one() -> None:
    long = ImageKey("mscordacwks_AMD64_AMD64_4.8.4341.00.dll", 0x5F7E6161, 0xAEE000)
    short = ImageKey("mscordacwks.dll", 0x5F7E6161, 0xAEE000)
    assert filed_keys(long) == published_keys(long) == (long, short)
    assert sought_keys(long) == (long,)
    assert filed_keys(short) == published_keys(short) == sought_keys(short) == (short,)


def test_a_library_for_another_processor_has_one_name() -> None:
    cross = ImageKey("mscordaccore_amd64_arm64_8.0.824.36612.dll", 1, 0x1000)
    assert filed_keys(cross) == published_keys(cross) == (cross,)


def test_a_copy_for_the_crash_is_sought_by_any_of_its_names_and_filed_under_its_own() -> None:
    copy = ImageKey("dump_stor.sys", 1, 0x1000)
    assert sought_keys(copy) == published_keys(copy) == (ImageKey("stor.sys", 1, 0x1000), copy)
    assert filed_keys(copy) == (copy,)
    dbg = DbgKey("mscordbi.dbg", 1, 0x1000)
    assert filed_keys(dbg) == sought_keys(dbg) == (dbg,)
