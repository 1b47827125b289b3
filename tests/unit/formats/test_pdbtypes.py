from __future__ import annotations

import re
import subprocess
from struct import pack
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.parts import need
from support.shared import corpus, corpus_files, needs_corpus
from support.synth.msf import make_msf
from support.synth.pdb import NativePdbSpec, StructureLayout, make_compressed_pdb, make_pdb, make_type_stream
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.pdb.deep import DeepPdb
from symcache.formats.pdb.types import Structure, read_structures
from symcache.formats.view import BytesView, FileView

if TYPE_CHECKING:
    from collections.abc import Mapping

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
KERNEL = {
    "_KPROCESS": StructureLayout(0x438, {"DirectoryTableBase": 0x28}),
    "_EPROCESS": StructureLayout(
        0xA40, {"Pcb": 0, "UniqueProcessId": 0x440, "ActiveProcessLinks": 0x448, "Peb": 0x550, "WoW64Process": 0x580}
    ),
    "_PEB": StructureLayout(0x7C8, {"ImageBaseAddress": 0x10, "Ldr": 0x18}),
}
NATIVE = [name for name in corpus_files("pdb") if "pdb20" not in name]
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9
)
OFFSETS = st.one_of(st.integers(0, 0x7FFF), st.integers(0x8000, 0xFFFFFFFF), st.integers(1 << 32, (1 << 64) - 1))
LAYOUTS = st.dictionaries(NAMES, st.builds(StructureLayout, OFFSETS, st.dictionaries(NAMES, OFFSETS, max_size=30)))


def read(structures: Mapping[str, StructureLayout], *names: str) -> dict[str, Structure]:
    return read_structures(BytesView(make_pdb(NativePdbSpec(GUID, structures=structures))), names)


def as_read(structures: Mapping[str, StructureLayout]) -> dict[str, Structure]:
    return {name: Structure(name, layout.size, dict(layout.fields)) for name, layout in structures.items()}


@given(LAYOUTS, st.integers(20, 2000))
def test_layouts_read_back_as_written(structures: dict[str, StructureLayout], list_bytes: int) -> None:
    stream = make_type_stream(structures, list_bytes=max(list_bytes, 100))
    view = BytesView(make_msf([b"", b"", stream], block_size=512))
    assert read_structures(view, structures) == as_read(structures)


def test_only_what_was_asked_for_is_returned() -> None:
    found = read(KERNEL, "_EPROCESS", "_NOT_THERE")
    assert found == as_read({"_EPROCESS": KERNEL["_EPROCESS"]})
    assert found["_EPROCESS"].fields["ActiveProcessLinks"] == 0x448
    assert read(KERNEL) == {}


def test_the_compressed_container_serves_types_too() -> None:
    view = BytesView(make_compressed_pdb(NativePdbSpec(GUID, structures=KERNEL)))
    assert read_structures(view, KERNEL) == as_read(KERNEL)


def test_a_structure_of_thousands_of_fields_is_continued_in_other_lists() -> None:
    large = {"_LARGE": StructureLayout(160_000, {f"Field{number:05}": 8 * number for number in range(20_000)})}
    assert read(large, "_LARGE") == as_read(large)


def test_a_declaration_alone_is_not_a_layout() -> None:
    declared = pack("<HHHHIIIH", 30, 0x1505, 0, 0x80, 0, 0, 0, 0) + b"_EPROCESS\0"
    assert read_structures(BytesView(with_records([declared])), ["_EPROCESS"]) == {}


def with_records(records: list[bytes], *, first: int = 0x1000, count: int | None = None) -> bytes:
    body = b"".join(records)
    header = pack("<5I", 20040203, 56, first, first + (len(records) if count is None else count), len(body))
    return make_msf([b"", b"", header + bytes(36) + body])


def record(leaf: int, data: bytes) -> bytes:
    return pack("<HH", 2 + len(data), leaf) + data


def structure(name: bytes, fields_at: int, *, leaf: int = 0x1505, size: int = 8) -> bytes:
    return record(leaf, pack("<HHIIIH", 1, 0, fields_at, 0, 0, size) + name + b"\0")


def test_every_kind_of_entry_in_a_field_list_is_stepped_over() -> None:
    member = pack("<HHIH", 0x150D, 3, 0x23, 0x18) + b"found\0"
    entries = {
        "base": pack("<HHIHI", 0x1400, 3, 0x1000, 0x8004, 70000),
        "interface": pack("<HHIH", 0x151A, 3, 0x1000, 4),
        "virtual base": pack("<HHIIHHb", 0x1401, 3, 0x1000, 0x1000, 4, 0x8000, -1),
        "indirect base": pack("<HHIIHH", 0x1402, 3, 0x1000, 0x1000, 4, 1),
        "table": pack("<HHI", 0x1409, 0, 0x1000),
        "table at": pack("<HHII", 0x140C, 0, 0x1000, 8),
        "friend": pack("<HHI", 0x140A, 0, 0x1000),
        "friend function": pack("<HHI", 0x150C, 0, 0x1000) + b"f\0",
        "enumerator": pack("<HHHq", 0x1502, 3, 0x8009, -5) + b"minus\0",
        "static": pack("<HHI", 0x150E, 3, 0x23) + b"s\0",
        "methods": pack("<HHI", 0x150F, 2, 0x1000) + b"m\0",
        "nested": pack("<HHI", 0x1510, 0, 0x1000) + b"n\0",
        "nested more": pack("<HHI", 0x1512, 3, 0x1000) + b"n\0",
        "method": pack("<HHI", 0x1511, 3, 0x1000) + b"m\0",
        "virtual method": pack("<HHII", 0x1511, 4 << 2, 0x1000, 16) + b"m\0",
        "pure method": pack("<HHII", 0x1511, 6 << 2, 0x1000, 16) + b"m\0",
        "padding": b"\xf3\xf2\xf1",
    }
    for name, entry in entries.items():
        for rest in (b"", b"\xf1"):
            data = with_records([record(0x1203, entry + rest + member), structure(b"_S", 0x1000)])
            found = read_structures(BytesView(data), ["_S"])
            assert found["_S"].fields == {"found": 0x18}, name


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (pack("<H", 0x7FFF), 0x7FFF),
        (pack("<Hb", 0x8000, 5), 5),
        (pack("<Hh", 0x8001, 300), 300),
        (pack("<HH", 0x8002, 0xFFFF), 0xFFFF),
        (pack("<Hi", 0x8003, 70000), 70000),
        (pack("<HI", 0x8004, 0xFFFFFFFF), 0xFFFFFFFF),
        (pack("<Hq", 0x8009, 1 << 40), 1 << 40),
        (pack("<HQ", 0x800A, 1 << 63), 1 << 63),
    ],
)
def test_every_kind_of_number_is_read(number: bytes, value: int) -> None:
    fields = record(0x1203, pack("<HHI", 0x150D, 3, 0x23) + number + b"x\0")
    sized = record(0x1505, pack("<HHIII", 1, 0, 0x1000, 0, 0) + number + b"_S\0")
    assert read_structures(BytesView(with_records([fields, sized])), ["_S"]) == {
        "_S": Structure("_S", value, {"x": value})
    }


def test_unions_and_classes_are_found_by_name() -> None:
    fields = record(0x1203, pack("<HHIH", 0x150D, 3, 0x23, 0) + b"QuadPart\0")
    union = record(0x1506, pack("<HHIH", 1, 0, 0x1000, 8) + b"_LARGE_INTEGER\0")
    data = with_records([fields, union, structure(b"C", 0x1000, leaf=0x1504)])
    found = read_structures(BytesView(data), ["_LARGE_INTEGER", "C"])
    assert {name: (layout.size, layout.fields) for name, layout in found.items()} == {
        "_LARGE_INTEGER": (8, {"QuadPart": 0}),
        "C": (8, {"QuadPart": 0}),
    }


def test_fields_may_come_after_their_structure() -> None:
    """Linking incrementally appends types; a list then lies behind what names it."""
    filler = [record(0x1002, bytes(8))] * 1000
    fields = record(0x1203, pack("<HHIH", 0x150D, 3, 0x23, 4) + b"late\0")
    data = with_records([structure(b"_S", 0x1000 + 1001), *filler, fields])
    assert read_structures(BytesView(data), ["_S"])["_S"].fields == {"late": 4}


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([structure(b"_S", 0x1005)], "type 0x1005 is not in the type stream"),
        ([structure(b"_S", 0x0074)], "type 0x74 is not in the type stream"),
        ([record(0x1002, bytes(4)), structure(b"_S", 0x1000)], "not a field list"),
        ([record(0x1203, pack("<HHI", 0x1404, 0, 0x1000)), structure(b"_S", 0x1000)], "more than 64 field lists"),
        ([record(0x1203, b"\x0d\x15\x03\x00"), structure(b"_S", 0x1000)], "ends within an entry"),
        ([record(0x1203, b"\x77\x77\x00\x00"), structure(b"_S", 0x1000)], r"unknown kind \(0x7777\)"),
        ([record(0x1505, b"\x01\x00")], "type record ends early"),
        ([record(0x1505, bytes(18) + b"_S")], "not terminated"),
        ([record(0x1505, bytes(16) + b"\x17\x80" + bytes(16) + b"_S\0")], r"unknown kind \(0x8017\)"),
    ],
    ids=[
        "list not there",
        "list is a basic type",
        "another record",
        "continued in a circle",
        "short entry",
        "unknown entry",
        "short structure",
        "name without end",
        "unknown number",
    ],
)
def test_records_that_contradict_themselves_are_refused(records: list[bytes], text: str) -> None:
    with pytest.raises(MalformedInput, match=text):
        read_structures(BytesView(with_records(records)), ["_S"])


def test_counts_are_checked_before_they_are_believed() -> None:
    short = [record(0x1002, bytes(4))]
    with pytest.raises(MalformedInput, match="end early"):
        read_structures(BytesView(with_records(short, count=5)), ["_S"])
    with pytest.raises(MalformedInput, match="more than is read here"):
        read_structures(BytesView(with_records(short, count=5_000_000)), ["_S"])
    with pytest.raises(MalformedInput, match="do not fit"):
        read_structures(BytesView(with_records(short, count=-1)), ["_S"])


def test_no_types_are_no_structures() -> None:
    assert read_structures(BytesView(make_msf([b"", b"", b""])), ["_S"]) == {}


def test_another_file_is_refused() -> None:
    with pytest.raises(UnknownFormat, match="a kernel dump"):
        read_structures(BytesView(b"PAGEDU64" + bytes(100)), ["_S"])


def test_a_large_type_stream_is_read_once_and_in_pieces() -> None:
    filler = record(0x1002, bytes(1020)) * 8000
    tail = structure(b"_S", 0x1000)
    fields = record(0x1203, pack("<HHIH", 0x150D, 3, 0x23, 4) + b"x\0")
    view = CountingView(BytesView(with_records([fields, filler, tail], count=8002)))
    assert read_structures(view, ["_S"])["_S"].fields == {"x": 4}
    assert view.read_bytes < 9 << 20
    assert max(length for _, length in view.reads) <= 1 << 20


@needs_corpus
@pytest.mark.parametrize("name", NATIVE)
def test_layouts_of_real_pdbs_are_what_pdbparse_reads(name: str) -> None:
    need("pdbparse")
    with DeepPdb(corpus / name) as pdb:
        expected = layouts_by_pdbparse(pdb)
    with FileView(corpus / name) as view:
        found = read_structures(view, expected)
    assert found.keys() == expected.keys()
    for structure_name, members in expected.items():
        ours = list(found[structure_name].fields.items())
        # pdbparse stops at the first entry that it does not know, without saying so.
        assert ours[: len(members)] == members, structure_name


def layouts_by_pdbparse(pdb: DeepPdb) -> dict[str, list[tuple[str, int]]]:
    """Return the members of the first 60 structures by the one entry point of pdbparse that is safe for types."""
    types = pdb._library.tpi.Type.subcon
    data = pdb._read(2)
    records: list[bytes] = []
    at = int.from_bytes(data[4:8], "little") if data else 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        records.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    found: dict[str, list[tuple[str, int]]] = {}
    for entry in records:
        if entry[:2] not in {b"\x05\x15", b"\x04\x15"} or entry[4] & 0x80 or len(found) == 60:
            continue
        body = types.parse(entry).type_info
        fields = types.parse(records[body.fieldlist - 0x1000]).type_info.substructs if body.fieldlist else []
        name, _ = named_value(body.value)
        if name not in found and not name.startswith("<"):  # unions without a name share theirs with structures
            found[name] = [
                named_value(field.type_info.offset if "offset" in field.type_info else field.type_info.value)
                for field in fields
                if field.leaf_type == "LF_MEMBER"
            ]
    return found


def named_value(value: Any) -> tuple[str, int]:
    inner = value.name_or_val
    return (inner, value.value_or_type) if isinstance(inner, str) else (inner.name, inner.value)


@needs_corpus
@pytest.mark.parametrize("name", ["pdb/minimal.pdb", "pdb/dump_syms_regtest64.pdb", "pdb/ShowSSEConfig.pdb"])
def test_layouts_of_real_pdbs_are_what_llvm_reads(name: str) -> None:
    program = need("llvm")
    dump = subprocess.run(
        [program, "dump", "--types", str(corpus / name)], capture_output=True, text=True, check=True
    ).stdout
    expected = layouts_by_llvm(dump)
    assert expected
    with FileView(corpus / name) as view:
        found = read_structures(view, expected)
    assert {name: (layout.size, dict(layout.fields)) for name, layout in found.items()} == expected


def layouts_by_llvm(dump: str) -> dict[str, tuple[int, dict[str, int]]]:
    """Return size and members of every structure that ``llvm-pdbutil dump --types`` defines."""
    lists: dict[str, dict[str, int]] = {}
    found: dict[str, tuple[int, dict[str, int]]] = {}
    for block in re.split(r"\n(?=  +0x[0-9A-F]+ \| )", dump):
        if head := re.match(r" +(0x[0-9A-F]+) \| LF_FIELDLIST", block):
            members = re.findall(r"- LF_MEMBER \[name = `(.*?)`, Type = .*?, offset = (\d+)", block)
            assert "LF_INDEX" not in block
            lists[head[1]] = {}
            for name, offset in members:
                lists[head[1]].setdefault(name, int(offset))
        elif head := re.match(
            r" +0x[0-9A-F]+ \| LF_(?:STRUCTURE|CLASS|UNION|INTERFACE) \[size = \d+\] `(.*)`\n", block
        ):
            if "forward ref" in block:
                continue
            at = re.search(r"field list: (\S+)", block)
            size = re.search(r"sizeof (\d+)", block)
            assert at is not None
            assert size is not None
            found.setdefault(head[1], (int(size[1]), lists.get(at[1], {})))
    return found


SMALL = make_msf([b"", b"", make_type_stream(KERNEL, list_bytes=100)], block_size=512)


def test_damage_is_an_input_error() -> None:
    other = 0
    for mutant in mutants(SMALL, 1000, hot=2048):
        try:
            other += read_structures(BytesView(mutant), KERNEL) != as_read(KERNEL)
        except InputError:
            other += 1
    assert other > 100


@pytest.mark.slow
def test_much_damage_is_an_input_error() -> None:
    other = 0
    for mutant in mutants(SMALL, 100_000, hot=2048, rng_seed=1):
        try:
            other += read_structures(BytesView(mutant), KERNEL) != as_read(KERNEL)
        except InputError:
            other += 1
    assert other > 10_000
