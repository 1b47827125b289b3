from __future__ import annotations

import importlib
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.parts import need
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record, write_minidump
from support.synth.pe import CodeViewPlan, ImagePlan, memory_bytes
from support.synth.version import fixed_bytes

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.dump.minidump import StreamType, parse_minidump
from symcache.formats.pe.version import VersionInfo
from symcache.formats.view import BytesView, FileView
from symcache.identity import ImageKey, Pdb2Key, PdbKey
from symcache.inputs.minidump import read_minidump
from symcache.inputs.records import (
    CrashStack,
    ImageUse,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    Runtime,
    RuntimeKind,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.inputs.records import Record

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
PDB = PdbReference(PdbKey("app.pdb", GUID, 10), PdbFormat.NATIVE)
APP = MinidumpModule("C:\\app\\app.exe", 0x1_4000_0000, 0x9000, 0x5AB38077, rsds_record(GUID, 10, "d:\\b\\app.pdb"))
BARE = MinidumpModule("C:\\Windows\\bare.dll", 0x7FF8_0000_0000, 0x5000, 0x499602D2)


def read(data: bytes) -> list[Record]:
    return list(read_minidump(BytesView(data), "x.dmp"))


def modules_of(plan: MinidumpPlan) -> list[Module]:
    records = read(build_minidump(plan))
    assert not [record for record in records if isinstance(record, Unreadable)]
    return [record for record in records if isinstance(record, Module)]


def only_module(plan: MinidumpPlan) -> Module:
    (module,) = modules_of(plan)
    return module


def expected_module(fact: dict[str, Any], *, windows: bool, unloaded: bool) -> tuple[object, ...]:
    view = fact.get("codeview", {})
    pdb = f"{view['pdb_name']}/{view['pdb_key']}/{view['pdb_name']}" if windows and "pdb_key" in view else None
    image = f"{fact['name']}/{fact['image_key']}/{fact['name']}" if windows else None
    return (fact["name"], fact["path"], int(fact["base"], 16), unloaded, image, pdb)


def found_module(module: Module) -> tuple[object, ...]:
    assert len(module.pdbs) <= 1
    image = module.image.index if module.image else None
    pdb = module.pdbs[0].key.index if module.pdbs else None
    return (module.name, module.path, module.base, module.unloaded, image, pdb)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("user-minidump"))
def test_a_real_dump_gives_what_independent_tools_found(name: str) -> None:
    fact = truth()[name]
    windows = fact["os"] == "windows"
    with FileView(corpus / name) as view:
        first, *records = read_minidump(view, name)
    assert isinstance(first, Input)
    assert first.kind is InputKind.MINIDUMP
    assert (first.details["os"], first.details["version"]) == (fact["os"], fact["os_version"])
    assert first.details["cpu"] == {"0x0": "x86", "0x9": "x64", "0xc": "arm64"}[fact["cpu_arch"]]
    assert first.details["module_count"] == fact["module_count"]
    assert not first.details["truncated"]
    expected = [expected_module(each, windows=windows, unloaded=False) for each in fact["modules"]]
    expected += [expected_module(each, windows=windows, unloaded=True) for each in fact["unloaded_modules"]]
    *found, stack = records
    assert [found_module(record) if isinstance(record, Module) else record for record in found] == expected
    assert all(isinstance(record, Module) and (record.pdbs or record.problem) for record in found)
    assert isinstance(stack, CrashStack)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("user-minidump-bad"))
def test_a_damaged_dump_without_modules_is_one_error(name: str) -> None:
    assert truth()[name]["error"] in {"corrupt", "truncated"}
    with FileView(corpus / name) as view, pytest.raises((TruncatedInput, MalformedInput)):
        list(read_minidump(view, name))


def test_details_say_where_and_why_the_dump_was_written() -> None:
    plan = MinidumpPlan(
        modules=[APP],
        processor=12,
        version=(10, 0, 26100),
        exception=(0xC0000005, 0x7FF8_0000_1234),
        process=(4711, 1700000000),
        timestamp=1700000100,
        flags=2,
    )
    first, *_ = read(build_minidump(plan))
    assert isinstance(first, Input)
    assert first.details == {
        "os": "windows",
        "cpu": "arm64",
        "version": "10.0.26100",
        "build": 26100,
        "time": "2023-11-14T22:15:00+00:00",
        "flags": "0x2",
        "full_memory": True,
        "truncated": False,
        "module_count": 1,
        "unloaded_count": 0,
        "exception": {"code": "0xc0000005", "address": "0x7ff800001234"},
        "process_id": 4711,
        "process_started": "2023-11-14T22:13:20+00:00",
    }


def test_a_code_view_record_names_the_pdb_and_the_entry_the_image() -> None:
    assert only_module(MinidumpPlan(modules=[APP])) == Module(
        "app.exe",
        path="C:\\app\\app.exe",
        base=0x1_4000_0000,
        image=ImageKey("app.exe", 0x5AB38077, 0x9000),
        pdbs=(PDB,),
        needs_image=ImageUse.CODE,
        runtime=Runtime(RuntimeKind.SINGLE_FILE, machine=0x8664, is_presumed=True),
    )


_MAPPED = memory_bytes(ImagePlan(timestamp=BARE.timestamp, code_views=(CodeViewPlan("bare.pdb", GUID, 3),)))
_RECORDED = replace(BARE, code_view=rsds_record(GUID, 3, "bare.pdb"))


def test_an_entry_says_which_version_the_module_is() -> None:
    version = fixed_bytes((10, 0, 19041, 508), (10, 0, 0, 1), flags=8)
    named = replace(APP, version=version)
    assert only_module(MinidumpPlan([named])).version == VersionInfo(
        file_numbers=(10, 0, 19041, 508), product_numbers=(10, 0, 0, 1), is_private=True
    )
    assert only_module(MinidumpPlan([APP])).version is None
    assert [module.version for module in modules_of(MinidumpPlan([], unloaded=[named]))] == [None]


@needs_corpus
@pytest.mark.parametrize("name", [name for name in corpus_files("user-minidump") if truth()[name]["os"] == "windows"])
def test_versions_in_a_real_dump_are_those_that_another_reader_finds(name: str) -> None:
    minidumpfile: Any = importlib.import_module(f"{need('minidump')}.minidumpfile")
    theirs = minidumpfile.MinidumpFile.parse(str(corpus / name))
    theirs.file_handle.close()
    with FileView(corpus / name) as view:
        modules = [record for record in read_minidump(view, name) if isinstance(record, Module) and not record.unloaded]
    stated = [each.versioninfo for each in theirs.modules.modules]
    wanted = [
        fixed.dwFileVersionMS << 32 | fixed.dwFileVersionLS if fixed.dwSignature == 0xFEEF04BD else 0
        for fixed in stated
    ]
    found = [0 if each.version is None else number_of(each.version.file_numbers) for each in modules]
    assert found == wanted


def number_of(numbers: tuple[int, ...] | None) -> int:
    return sum(part << shift for part, shift in zip(numbers or (), (48, 32, 16, 0), strict=False))


@pytest.mark.parametrize(
    ("entry", "memory", "flags", "use"),
    [
        (_RECORDED, _MAPPED, 0, ImageUse.CODE),
        (_RECORDED, b"", 0, ImageUse.CODE),
        (BARE, b"", 0, ImageUse.SYMBOLS),
        (BARE, _MAPPED[:0x400], 0, ImageUse.SYMBOLS),
        (_RECORDED, _MAPPED, 2, None),
        (BARE, _MAPPED, 2, None),
        (_RECORDED, _MAPPED[:0x400], 2, ImageUse.CODE),
        (BARE, _MAPPED[:0x400], 2, ImageUse.SYMBOLS),
    ],
    ids=[
        "small dump, image captured",
        "small dump, record alone",
        "small dump, nothing",
        "small dump, headers alone",
        "full memory",
        "full memory, no record",
        "full memory, debug directory not captured",
        "full memory, neither record nor debug directory",
    ],
)
def test_an_image_is_needed_where_dbgeng_asks_for_it(
    entry: MinidumpModule, memory: bytes, flags: int, use: ImageUse | None
) -> None:
    ranges = [(BARE.base_va, memory)] if memory else []
    plan = MinidumpPlan(modules=[entry], flags=flags)
    plan = replace(plan, memory64=ranges) if flags else replace(plan, memory=ranges)
    assert only_module(plan).needs_image is use


def test_nobody_needs_the_image_of_an_unloaded_module() -> None:
    assert only_module(MinidumpPlan(unloaded=[BARE])).needs_image is None


def test_a_record_without_a_nul_ends_with_its_size() -> None:
    assert APP.code_view is not None
    assert only_module(MinidumpPlan(modules=[replace(APP, code_view=APP.code_view[:-1])])).pdbs == (PDB,)


def test_an_nb10_record_names_a_pdb_2() -> None:
    record = b"NB10" + struct.pack("<III", 0, 0x37A8F40E, 2) + b"old.pdb\0"
    module = only_module(MinidumpPlan(modules=[replace(APP, code_view=record)]))
    assert module.pdbs == (PdbReference(Pdb2Key("old.pdb", 0x37A8F40E, 2), PdbFormat.PDB2),)


@pytest.mark.parametrize(
    "record",
    [
        rsds_record(UUID(int=0), 1, "app.pdb"),
        rsds_record(GUID, 1, ""),
        rsds_record(GUID, 1, "..\\.."),
        rsds_record(GUID, 1, "aux.pdb"),
        b"RSDS" + bytes(8),
        b"LEpB" + bytes(20),
        b"NB09" + bytes(20),
    ],
    ids=["nil GUID", "no name", "folder", "device", "short", "ELF", "unknown"],
)
def test_a_record_that_names_no_pdb_leaves_the_image_key_and_a_reason(record: bytes) -> None:
    module = only_module(MinidumpPlan(modules=[replace(APP, code_view=record)]))
    assert module.image == ImageKey("app.exe", 0x5AB38077, 0x9000)
    assert module.pdbs == ()
    assert module.problem is not None
    assert "code view record" in module.problem or "cannot be a file name" in module.problem


@pytest.mark.parametrize("full", [False, True], ids=["memory list", "64-bit memory list"])
def test_an_image_in_memory_names_the_pdb_where_the_record_is_missing(full: bool) -> None:
    image = ImagePlan(timestamp=BARE.timestamp, code_views=(CodeViewPlan("d:\\b\\bare.pdb", GUID, 3),))
    captured = [(BARE.base_va, memory_bytes(image))]
    plan = MinidumpPlan(modules=[BARE], memory64=captured) if full else MinidumpPlan(modules=[BARE], memory=captured)
    module = only_module(plan)
    assert module.pdbs == (PdbReference(PdbKey("bare.pdb", GUID, 3), PdbFormat.NATIVE),)
    assert module.image == ImageKey("bare.dll", 0x499602D2, 0x5000)
    assert module.problem is None


def test_an_image_in_memory_that_names_no_pdb_is_told_from_one_that_is_unknown() -> None:
    captured = [(BARE.base_va, memory_bytes(ImagePlan(timestamp=BARE.timestamp)))]
    assert only_module(MinidumpPlan(modules=[BARE], memory=captured)).no_debug_record
    unknown = only_module(MinidumpPlan(modules=[BARE]))
    assert not unknown.no_debug_record
    assert unknown.image is not None
    assert unknown.problem is not None


def test_headers_in_memory_without_their_debug_data_are_no_proof_of_none() -> None:
    image = memory_bytes(ImagePlan(timestamp=BARE.timestamp, code_views=(CodeViewPlan("bare.pdb", GUID, 3),)))
    module = only_module(MinidumpPlan(modules=[BARE], memory=[(BARE.base_va, image[:0x400])]))
    assert (module.pdbs, module.no_debug_record) == ((), False)
    assert module.problem is not None


def test_unloaded_modules_come_last_and_have_image_keys() -> None:
    loaded, unloaded = modules_of(MinidumpPlan(modules=[APP], unloaded=[BARE]))
    assert (loaded.unloaded, unloaded.unloaded) == (False, True)
    assert unloaded.image == ImageKey("bare.dll", 0x499602D2, 0x5000)


def test_the_memory_where_a_module_was_is_not_its_image() -> None:
    image = ImagePlan(timestamp=1, code_views=(CodeViewPlan("other.pdb", GUID, 3),))
    module = only_module(MinidumpPlan(unloaded=[BARE], memory=[(BARE.base_va, memory_bytes(image))]))
    assert module.pdbs == ()


@pytest.mark.parametrize(
    "entry",
    [
        replace(APP, timestamp=0),
        replace(APP, size_of_image=0),
        replace(APP, base_va=2**64 - 0x1000),
        replace(APP, path="C:\\app\\a|b.exe"),
    ],
    ids=["no stamp", "no size", "past the last address", "bad name"],
)
def test_an_entry_that_makes_no_image_key_keeps_its_pdb_and_says_why(entry: MinidumpModule) -> None:
    broken, sound = modules_of(MinidumpPlan(modules=[entry, BARE]))
    assert broken.image is None
    assert broken.pdbs == (PDB,)
    assert broken.problem is not None
    assert sound.image is not None


def test_a_module_without_a_name_is_called_after_its_address() -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[APP])))
    (stream,) = parse_minidump(BytesView(bytes(data))).streams_of(StreamType.MODULE_LIST)
    struct.pack_into("<I", data, stream.offset + 4 + 0x14, 0xFFFFFFF0)
    _, module = read(bytes(data))
    assert isinstance(module, Module)
    assert (module.name, module.image, module.pdbs) == ("image140000000", None, (PDB,))
    assert module.problem is not None


@pytest.mark.parametrize(
    ("platform", "name", "text"),
    [
        (0x8201, "linux", "a Linux dump"),
        (0x8101, "macos", "a macOS dump"),
        (0x8102, "ios", "an iOS dump"),
        (0x8203, "android", "an Android dump"),
        (0x8299, "0x8299", "a dump of an unknown system (0x8299)"),
    ],
)
def test_modules_of_other_systems_are_listed_without_keys(platform: int, name: str, text: str) -> None:
    first, *modules = read(build_minidump(MinidumpPlan(modules=[APP], unloaded=[BARE], platform=platform)))
    assert isinstance(first, Input)
    assert first.details["os"] == name
    for module in modules:
        assert isinstance(module, Module)
        assert (module.image, module.pdbs, module.problem) == (None, (), f"no PDBs here: {text}")


def test_a_list_that_cannot_be_read_does_not_hide_the_other() -> None:
    plan = MinidumpPlan(modules=[APP], more_streams=[(14, struct.pack("<III", 12, 4, 1))])
    first, bad, module = read(build_minidump(plan))
    assert isinstance(first, Input)
    assert isinstance(bad, Unreadable)
    assert bad.offset is not None
    assert isinstance(module, Module)


def test_modules_before_a_cut_are_listed_and_the_loss_is_told() -> None:
    data = build_minidump(MinidumpPlan(modules=[APP, BARE]))
    (stream,) = parse_minidump(BytesView(data)).streams_of(StreamType.MODULE_LIST)
    first, module, loss = read(data[: stream.offset + 4 + 108 + 107])
    assert isinstance(first, Input)
    assert first.details["truncated"]
    assert isinstance(module, Module)
    assert module.pdbs == (PDB,)
    assert loss == Unreadable("x.dmp", "the dump holds 1 of the 2 modules that it lists", stream.offset + 112)


def test_cut_memory_is_told_and_costs_no_module() -> None:
    data = build_minidump(MinidumpPlan(modules=[APP], memory64=[(0x1000, bytes(64))]))
    first, module, loss = read(data[:-1])
    assert isinstance(first, Input)
    assert first.details["truncated"]
    assert isinstance(module, Module)
    text = "the dump is cut short: it does not hold all that its streams promise"
    assert loss == Unreadable("x.dmp", text, len(data) - 1)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"PMDM" + bytes(28), UnknownFormat, "big-endian"),
        (b"MZ" + bytes(40), UnknownFormat, "not a minidump"),
        (struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, 0, 32, 0, 0, 0), MalformedInput, "no list of modules"),
    ],
)
def test_an_input_without_modules_is_refused_before_anything_is_yielded(
    data: bytes, error: type[InputError], text: str
) -> None:
    with pytest.raises(error, match=text):
        next(read_minidump(BytesView(data), "x.dmp"))


def test_names_that_overlap_are_read_up_to_a_bound_in_all() -> None:
    name = struct.pack("<I", 0xFFFE) + "C:\\x".encode("utf-16-le").ljust(0xFFFE, b"y")
    name_at = len(build_minidump(MinidumpPlan(more_streams=[(0x10000, b"")])))
    entry = struct.pack("<QIIII84x", 0x1000, 0x1000, 0, 1, name_at)
    table = struct.pack("<I", 1000) + entry * 1000
    plan = MinidumpPlan(more_streams=[(0x10000, name), (4, table)])
    shift = build_minidump(plan).index(name) - name_at
    entry = struct.pack("<QIIII84x", 0x1000, 0x1000, 0, 1, name_at + shift)
    table = struct.pack("<I", 1000) + entry * 1000
    modules = modules_of(replace(plan, more_streams=[(0x10000, name), (4, table)]))
    named = [module for module in modules if module.path is not None]
    assert len(modules) == 1000
    assert len(named) == (16 << 20) // 0xFFFE
    assert "a name of 65534 bytes" in (modules[-1].problem or "")


def test_memory_that_holds_another_image_names_no_pdb() -> None:
    other = memory_bytes(ImagePlan(timestamp=BARE.timestamp + 1, code_views=(CodeViewPlan("other.pdb", GUID, 3),)))
    module = only_module(MinidumpPlan(modules=[BARE], memory=[(BARE.base_va, other)]))
    assert module.image == ImageKey("bare.dll", BARE.timestamp, BARE.size_of_image)
    assert module.pdbs == ()
    assert module.problem is not None


def test_an_entry_without_a_stamp_gets_it_from_the_image_in_memory() -> None:
    plan = ImagePlan(timestamp=0x499602D2, size_of_image=0x5000, code_views=(CodeViewPlan("bare.pdb", GUID, 3),))
    entry = replace(BARE, timestamp=0)
    module = only_module(MinidumpPlan(modules=[entry], memory=[(BARE.base_va, memory_bytes(plan))]))
    assert module.image == ImageKey("bare.dll", 0x499602D2, 0x5000)
    assert module.pdbs == (PdbReference(PdbKey("bare.pdb", GUID, 3), PdbFormat.NATIVE),)
    assert module.problem is None
    other = memory_bytes(replace(plan, size_of_image=0x6000))
    module = only_module(MinidumpPlan(modules=[entry], memory=[(BARE.base_va, other)]))
    assert (module.image, module.pdbs) == (None, ())


def test_a_table_of_more_modules_than_any_process_has_is_cut() -> None:
    entry = struct.pack("<QIIII84x", 0x1000, 0x1000, 0, 1, 0)
    table = struct.pack("<I", 70_000) + entry * 70_000
    records = read(build_minidump(MinidumpPlan(more_streams=[(4, table)], platform=0x8201)))
    assert sum(isinstance(record, Module) for record in records) == 16_384
    assert isinstance(records[-1], Unreadable)


class CountingView:
    def __init__(self, view: FileView) -> None:
        self._view = view
        self.bytes_read = 0

    @property
    def size(self) -> int:
        return self._view.size

    def read(self, offset: int, length: int) -> bytes:
        self.bytes_read += length
        return self._view.read(offset, length)


def test_a_full_dump_of_many_gigabytes_is_listed_by_reading_less_than_one_megabyte(tmp_path: Path) -> None:
    image = memory_bytes(ImagePlan(timestamp=BARE.timestamp, code_views=(CodeViewPlan("bare.pdb", GUID, 3),)))
    regions: list[tuple[int, bytes | int]] = [(0x1_0000_0000 + (n << 24), 1 << 20) for n in range(20_000)]
    plan = MinidumpPlan(
        modules=[replace(APP, base_va=n << 32) for n in range(300)] + [BARE],
        memory64=[*regions, (BARE.base_va, image)],
        flags=2,
    )
    with (tmp_path / "full.dmp").open("wb") as file:
        write_minidump(plan, file)
    with FileView(tmp_path / "full.dmp") as view:
        assert view.size > 16 << 30
        counting = CountingView(view)
        first, *modules = read_minidump(counting, "full.dmp")
    assert isinstance(first, Input)
    assert not first.details["truncated"]
    assert len(modules) == 301
    assert isinstance(modules[-1], Module)
    assert modules[-1].pdbs == (PdbReference(PdbKey("bare.pdb", GUID, 3), PdbFormat.NATIVE),)
    assert counting.bytes_read < 1 << 20


def seed() -> bytes:
    image = memory_bytes(ImagePlan(timestamp=BARE.timestamp, code_views=(CodeViewPlan("bare.pdb", GUID, 3),)))
    return build_minidump(
        MinidumpPlan(
            modules=[APP, BARE],
            unloaded=[BARE],
            memory=[(BARE.base_va, image[:0x800])],
            memory64=[(BARE.base_va + 0x800, image[0x800:])],
            exception=(1, 2),
            process=(1, 2),
        )
    )


def read_or_refuse(data: bytes) -> None:
    try:
        read(data)
    except InputError:
        return


def test_the_seed_of_the_mutations_is_sound() -> None:
    assert [len(record.pdbs) for record in read(seed()) if isinstance(record, Module)] == [1, 1, 0]


@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_input_errors(data: bytes) -> None:
    read_or_refuse(b"MDMP\x93\xa7\0\0" + data)


def test_damaged_dumps_raise_nothing_but_input_errors() -> None:
    for data in mutants(seed(), 1000, hot=1024):
        read_or_refuse(data)


@pytest.mark.slow
def test_no_damage_takes_long_or_much(record_property: Callable[[str, object], None]) -> None:
    measure(mutants(seed(), 100_000, rng_seed=2, hot=1024), read).check(record_property)
