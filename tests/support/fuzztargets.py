"""The table of fuzz targets: each parser of bytes and text from outside; those of formats, inputs and settings here."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from support.dotnet import library_plan
from support.fuzzing import NO_ERRORS, Patches, Target, as_text, scratch
from support.fuzznet import NET_TARGETS
from support.fuzzstores import STORE_TARGETS
from support.kernels import kernel_plan
from support.machines import PLACES, Machine, Opened
from support.synth.cab import Lzx, Mszip, Stored, SynthFolder, build_cabinet
from support.synth.etl import (
    TracedImage,
    build_etl,
    image_load,
    managed_module,
    managed_payload,
    merged_events,
    process_event,
    sample,
    stack,
    stack_definition,
    stack_key,
    thread_event,
)
from support.synth.fat import build_fat
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import KernelPlan, build_machine
from support.synth.lzx import lzx_frames
from support.synth.memoryimages import (
    avml_bytes,
    elf_bytes,
    lime_bytes,
    qemu_note,
    raw_bytes,
    virtualbox_notes,
    vmware_state,
)
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.msf import make_msf
from support.synth.nettrace import Kind, NettraceWriter, TracedEvent
from support.synth.ntfs import NtfsFile, NtfsPlan, Way, build_ntfs, gpt_disk, lznt1, mbr_disk, stored_lzx, xpress
from support.synth.optical import iso9660_disc, udf_disc
from support.synth.pagetables import Paging
from support.synth.pdb import (
    NativePdbSpec,
    Packing,
    PublicSymbol,
    StructureLayout,
    make_compressed_pdb,
    make_pdb,
    make_pdb2,
    make_portable_pdb,
    make_type_stream,
)
from support.synth.pe import CodeViewPlan, ImagePlan, dbg_bytes, disk_bytes, memory_bytes, runtime_info_bytes
from support.synth.regf import build_hive
from support.synth.reports import (
    LINUX,
    ReportedModule,
    firefox_profile,
    sentry_event,
    socorro_report,
    stackwalk_report,
    symbolicator_answer,
)
from support.synth.triagedump import TriagePlan, triage_bytes
from support.synth.version import VersionPlan, fixed_bytes, version_bytes
from support.synth.virtualdisk import differing_vhd, dynamic_vhdx, qcow2, vdi, vmdk
from support.synth.wim import WimPlan, build_wim
from support.synth.winbindex import Entry, base, delta_fields, document, full_fields, insider, update
from support.synth.xpress import compress as compress_xpress
from support.views import CountingView
from symcache.cli.output import parse_age, parse_size
from symcache.config import load_config, locate
from symcache.errors import ConfigError, InputError, MalformedInput, NotInDump, SymbolPathError, UsageError
from symcache.formats.archive.cab import read_cabinet
from symcache.formats.archive.member import ViewReader
from symcache.formats.archive.tar import read_tar
from symcache.formats.archive.zip import read_zip
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.disk.compression import expand_lznt1, expand_lzx, expand_xpress
from symcache.formats.dump import paging
from symcache.formats.dump.paging import AddressSpace, PageTables
from symcache.formats.glance import glance_at_image, glance_at_keys, glance_at_pdb, limit_of
from symcache.formats.lzx import FRAME_BYTES, LzxDecoder
from symcache.formats.markup import could_be_markup, find_markup
from symcache.formats.memory.kinds import looks_like_raw_memory
from symcache.formats.memory.ranges import RangedMemory
from symcache.formats.memory.vmware import read_vmware_ranges
from symcache.formats.pdb.info import (
    NativePdb,
    compute_portable_checksum,
    open_container,
    parse_pdb,
    parse_pdb2,
    parse_portable,
)
from symcache.formats.pdb.publics import read_public_addresses
from symcache.formats.pdb.types import read_structures
from symcache.formats.pe.debug import parse_code_view
from symcache.formats.pe.exports import find_own_name
from symcache.formats.pe.image import ImageSpace, Layout, parse_dbg, parse_image
from symcache.formats.pe.managed import ManagedImage, find_managed, find_runtime_facts, holds_metadata
from symcache.formats.pe.version import parse_fixed_info, parse_version_resource, read_version
from symcache.formats.trace.xpress import expand as expand_plain_xpress
from symcache.formats.view import BytesView
from symcache.formats.winbindex import check_document, read_index, read_names, size_candidates
from symcache.identity import (
    ImageKey,
    PdbKey,
    filed_keys,
    parse_index,
    published_keys,
    relative_parts,
    sought_keys,
)
from symcache.inputs.builds.choose import Architecture, Choice, modules_of
from symcache.inputs.builds.words import known_updates, parse_words, resolve
from symcache.inputs.crashreport import read_crash_report, read_profile
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.disk import read_disk
from symcache.inputs.image import read_image
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.live import (
    LoadedImage,
    RunningProcess,
    file_path,
    find_processes,
    read_live_kernel,
    read_live_processes,
)
from symcache.inputs.lock import read_lock, read_report
from symcache.inputs.log.reader import find_kind_of_text, looks_like_debugger_log, read_debugger_log
from symcache.inputs.manifest import looks_like_manifest, manifest_lines, read_manifest
from symcache.inputs.minidump import read_minidump
from symcache.inputs.modulelist import read_module_list
from symcache.inputs.rawmemory import open_memory_image, read_raw_memory
from symcache.inputs.records import Input, Module, ProcessSelection, Unreadable
from symcache.inputs.sets import load_sets
from symcache.inputs.trace import read_etl, read_nettrace
from symcache.stores.check import check_view, parse_pointer, resolve_pointer
from symcache.sympath import Environment, parse_symbol_path, redact_text, redact_url, redact_words

if TYPE_CHECKING:
    from support.synth.lzx import BlockKind
    from symcache.formats.view import ByteView
    from symcache.formats.winbindex import Occurrence
    from symcache.inputs.builds.words import Target as BuildTarget

__all__ = ["TARGETS"]

_GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
_ID = f"{_GUID.hex.upper()}1"
_PDB = PdbKey("app.pdb", _GUID, 1)
_IMAGE = ImageKey("app.dll", 0x5AB38077, 0x9000)
_LONGEST_PIECE = 1 << 20


# Images.


def _rich_image() -> ImagePlan:
    return ImagePlan(
        0x5AB38077,
        0x9000,
        code_views=(
            CodeViewPlan("C:\\a\\app.pdb", _GUID, 3),
            CodeViewPlan("old.pdb", age=2, signature=0x3E4A21B7),
            CodeViewPlan("b.pdb", _GUID, portable=True, timestamp=0xC3923201, padded_bytes=60),
        ),
        pdb_checksums=(("SHA256", bytes(range(32))),),
        embedded_pdb=b"BSJB" + bytes(40),
        reproducible=True,
        dbg_name="obj\\driver.dbg",
    )


def _parse_image(layout: Layout, data: bytes) -> None:
    view = CountingView(BytesView(data))
    try:
        image = parse_image(view, layout)
        assert image.size_of_image >= 0
    finally:
        assert view.read_bytes < 0x18000


def _read_live(data: bytes) -> None:
    """Read *data* as the name of a driver, its file, and what lies in the memory of a process."""
    name = data[:64].decode("latin-1")
    base = 0x10000
    loaded = LoadedImage(name, base, 0x9000, 0x5AB38077)
    process = Opened({base: data}, [loaded])
    machine = Machine(
        {file_path(name, PLACES): data}, [loaded], {1: process}, [RunningProcess(1, name), RunningProcess(2, "a.exe")]
    )
    modules = [record for record in read_live_kernel(machine) if isinstance(record, Module)]
    modules += [record for record in read_live_processes("1", machine) if isinstance(record, Module)]
    assert len(modules) == 2
    find_processes(name, machine.running)


def _parse_dbg(data: bytes) -> None:
    parse_dbg(BytesView(data))
    list(read_image(BytesView(data), "a.dbg"))


def _dotnet_image() -> ImagePlan:
    """Return an image that is a library for debuggers, a program that holds a runtime, and managed, all in one."""
    info = runtime_info_bytes((1, 0x1000), (2, 0x2000), (8, 0, 824, 36612))
    return library_plan(
        "mscordaccore.dll",
        (8, 0, 824, 36612),
        timestamp=0x5AB38077,
        exports=(("DotNetRuntimeInfo", info), ("CLRDataCreateInstance", b"x")),
        metadata=b"BSJB" + bytes(0x1100),
        precompiled=b"RTR\0",
        payload_bytes=16,
    )


def _look_for_dotnet(data: bytes) -> None:
    for name in ("mscordaccore.dll", "mscordaccore_amd64_amd64_8.0.824.36612.dll"):
        check_view(BytesView(data), ImageKey(name, 1, 0x1000))
    opened = 0
    for layout in Layout:
        with suppress(InputError):
            space = ImageSpace(BytesView(data), layout)
            opened += 1
            find_runtime_facts(space)
            for look in (find_own_name, find_managed):
                with suppress(InputError):
                    found = look(space)
                    if isinstance(found, ManagedImage):
                        holds_metadata(space, found)
    if not opened:
        raise InputError("no image", offset=0)


def _parse_code_view(data: bytes) -> None:
    for needs_nul in (True, False):
        with suppress(InputError):
            parse_code_view(data, needs_nul=needs_nul)


def _glance(data: bytes) -> None:
    """What is told from a few reads agrees with the parsers."""
    assert limit_of(data[:4096]) > 0
    could_be_markup(data[:1024])
    find_markup(data[:1024])
    plain = glance_at_keys(BytesView(data))
    if plain is not None:
        image = parse_image(BytesView(data), Layout.DISK)
        assert (plain.timestamp, plain.size_of_image) == (image.timestamp, image.size_of_image)
    path = scratch() / "glance"
    path.write_bytes(data)
    if glance_at_image(str(path), _IMAGE.timestamp, _IMAGE.size_of_image) is not None:
        assert check_view(BytesView(data), _IMAGE).is_right
    if glance_at_pdb(str(path), _GUID.bytes_le, 1) is not None:
        assert check_view(BytesView(data), _PDB).is_right


# PDBs.

_SPEC = NativePdbSpec(_GUID, structures={"_EPROCESS": StructureLayout(0x40, {"Pcb": 0, "Peb": 8})}, block_size=512)
_FIELDS = {name: StructureLayout(0x100, {"a": 0, "b": 8, "c": 0x90}) for name in ("_EPROCESS", "_PEB", "_KPROCESS")}


def _parse_pdb(data: bytes) -> None:
    view = BytesView(data)
    identity = parse_pdb(view)
    list(read_input(("a.pdb", data)))
    if isinstance(identity, NativePdb):
        container = open_container(view)
        for index in range(min(container.stream_count, 12)):
            with suppress(InputError):
                stream = container.stream(index)
                stream.read(0, min(stream.size, _LONGEST_PIECE))


def _parse_portable(data: bytes) -> None:
    pdb = parse_portable(BytesView(data))
    with suppress(InputError):
        compute_portable_checksum(BytesView(data), "SHA256", id_offset=pdb.id_offset)


def _read_types(data: bytes) -> None:
    """Take *data* for the type stream itself: what is around it has targets of its own."""
    read_structures(BytesView(make_msf([b"", b"", data], block_size=512)), _FIELDS)


# Disks.


def _windows() -> bytes:
    """A volume with a Windows of seven files, each in another way on the disk."""
    ways = (Way.RUN, Way.PIECES, Way.LZNT1, Way.OVERLAY, Way.RESIDENT, Way.EXTENDED, Way.SPARSE)
    files = {
        f"Windows/System32/{'ntoskrnl.exe' if not number else f'drivers/{number}.sys'}": NtfsFile(
            disk_bytes(ImagePlan(number + 1, code_views=(CodeViewPlan("a.pdb", _GUID, 1),), payload_bytes=0x200))
            if way is not Way.RESIDENT
            else b"MZ",
            way,
        )
        for number, way in enumerate(ways)
    }
    version = {"ProductName": "Windows 10 Pro", "CurrentBuild": "19041", "UBR": 508}
    hive = build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": version}}})
    return build_ntfs(NtfsPlan({**files, "Windows/System32/config/SOFTWARE": NtfsFile(hive)}, in_blocks=True))


def _boot_store() -> bytes:
    chosen = "{11111111-2222-3333-4444-555555555555}"
    loader = {"21000001": {"Element": UUID(int=2).bytes_le}, "22000002": {"Element": "\\Windows"}}
    objects = {"{9dea862c-5cdd-4e70-acc1-f32b344d4795}": {"23000003": {"Element": chosen}}, chosen: loader}
    return build_hive({"Objects": {name: {"Elements": elements} for name, elements in objects.items()}})


def _disks() -> list[bytes]:
    volume = _windows()
    disk = mbr_disk(volume)
    image = disk_bytes(ImagePlan(1, code_views=(CodeViewPlan("a.pdb", _GUID, 1),)))
    tree = {"Windows": {"System32": {"ntoskrnl.exe": image, "drivers": {"a.sys": image[:900]}}}}
    wims = [build_wim(WimPlan({"One": tree}, each)) for each in ("none", "xpress", "lzx")]
    return [
        volume,
        disk,
        gpt_disk(volume),
        *wims,
        build_fat({"sources": {"boot.wim": wims[1]}, "Windows": tree["Windows"]}, 16),
        gpt_disk(build_fat({"EFI": {"Microsoft": {"Boot": {"BCD": _boot_store()}}}}), volume),
        udf_disc("sources", {"install.wim": wims[1]}),
        iso9660_disc("sources", {"install.wim": wims[0]}),
        qcow2(disk, compressed=True),
        vmdk(disk, compressed=True),
        vdi(disk),
        differing_vhd(disk, set(range(4096)), "", kind=3),
        dynamic_vhdx(disk),
    ]


def _read_disk(view: ByteView) -> None:
    for record in read_disk(view, "x"):
        assert isinstance(record, Input | Module | Unreadable)


_DISKS = Patches(_disks, _read_disk)
_PACKED = (expand_lznt1, expand_xpress, expand_lzx)


def _expand_piece(data: bytes) -> None:
    expand = _PACKED[data[0] % 3 if data else 0]
    for size_bytes in (1, 4096, 32768):
        with suppress(InputError):
            assert len(expand(data[1:], size_bytes)) == size_bytes


# Cabinets.

_LINES = b"".join(b"line %d of a text that repeats\n" % number for number in range(60)) + b"\xe8\1\0\0\0" * 20


def _read_publics(data: bytes) -> None:
    for address in read_public_addresses(BytesView(data), ("PsLoadedModuleList", "A")).values():
        assert address > 0


def _cabinets() -> list[bytes]:
    ways = (
        Stored(),
        Mszip(),
        Lzx(15, ("verbatim",), 300),
        Lzx(21, ("aligned", "verbatim"), 500, 5000),
        Lzx(17, ("verbatim", "stored", "aligned"), 501),
    )
    sealed = [build_cabinet([SynthFolder([("app.pdb", _LINES)], Mszip())])]
    quantum = bytearray(build_cabinet([SynthFolder([("app.pdb", b"abc")], Stored())], checksums=False))
    quantum[42] = 2
    return (
        sealed
        + [bytes(quantum)]
        + [
            build_cabinet([SynthFolder([("app.pdb", _LINES), ("b.pdb", b"b" * 9)], way)], checksums=False)
            for way in ways
        ]
    )


def _expand(data: bytes) -> None:
    # Checksums of 0 are not looked at, and what is behind those that are right cannot be reached by chance.
    cabinet = open_cabinet(BytesView(data))
    for member in cabinet.members[:4]:
        size = 0
        with suppress(InputError):
            for piece in expand(cabinet, member, limit_bytes=_LONGEST_PIECE):
                assert 0 < len(piece) <= FRAME_BYTES
                size += len(piece)
            assert size == member.size
        assert size <= min(member.size, _LONGEST_PIECE)


def _lzx_seeds() -> list[bytes]:
    """Return a byte for the window, then frames, each behind its length and the length of what it holds."""
    seeds = []
    ways: tuple[tuple[int, tuple[BlockKind, ...]], ...] = (
        (15, ("verbatim",)),
        (17, ("aligned", "stored")),
        (21, ("verbatim", "aligned")),
    )
    for window_bits, kinds in ways:
        frames = lzx_frames(_LINES, window_bits=window_bits, kinds=kinds, block_bytes=700, e8_size=900)
        seed = bytes([window_bits - 15])
        for frame in frames:
            seed += len(frame).to_bytes(2, "little") + len(_LINES).to_bytes(2, "little") + frame
        seeds.append(seed)
    return seeds


def _decode_lzx(data: bytes) -> None:
    decoder = LzxDecoder(15 + (data[0] if data else 0) % 7)
    at = 1
    for _ in range(4):
        if at + 4 > len(data):
            return
        packed, size = (int.from_bytes(data[at + step : at + step + 2], "little") for step in (0, 2))
        assert len(decoder.decode(data[at + 4 : at + 4 + packed], size % (FRAME_BYTES + 1))) == size % (FRAME_BYTES + 1)
        at += 4 + packed


# Dumps.


def _minidump() -> bytes:
    record = rsds_record(_GUID, 1, "app.pdb")
    app = MinidumpModule("C:\\app\\app.exe", 0x1_4000_0000, 0x9000, 0x5AB38077, record, checksum=0x1234)
    bare = MinidumpModule("C:\\bare.dll", 0x7FF8_0000_0000, 0x4000, 0x5AB38077)
    image = memory_bytes(ImagePlan(timestamp=0x5AB38077, code_views=(CodeViewPlan("bare.pdb", _GUID, 3),)))[:0x900]
    return build_minidump(
        MinidumpPlan(
            modules=[app, bare],
            unloaded=[MinidumpModule("gone.dll", 0x7FF8_1000_0000, 0xEA000, 0xD40BC30A)],
            memory=[(bare.base_va, image[:0x800])],
            memory64=[(bare.base_va + 0x800, image[0x800:])],
            exception=(0xC0000005, 1),
            process=(1, 2),
        )
    )


def _etls() -> list[bytes]:
    image = TracedImage(664, 0x7FF0_0000_0000, 0x9000, 0x5AB38077, "a.dll", "a.pdb", _GUID, 1, "il.pdb", _GUID, (True,))
    events = [
        process_event(664, "app.exe"),
        *merged_events(replace(image, version={"company": "Contoso", "binary": "1.2.3.4"})),
        image_load(700, 0x10000, 0x9000, r"\Windows\b.dll", stamp=5, width=4),
        managed_module(664, "C:\\Lib.dll", il=(_GUID, 1, "Lib.pdb"), native=(_GUID, 1, "Lib.ni.pdb"), extended=2),
        thread_event(664, 7),
        sample(7, 0x7FF0_0000_1000),
        stack(664, 7, [0x7FF0_0000_1000, 0x1000]),
        stack_key(664, 5),
        stack_definition(5, [0x7FF0_0000_1000]),
    ]
    return [build_etl(events, size=4096), build_etl(events, packed=True), build_etl(events[:4], size=4096, width=4)]


def _nettraces() -> list[bytes]:
    found = []
    for version in (4, 6):
        writer = NettraceWriter(version, packed=version == 6)
        runtime = "Microsoft-Windows-DotNETRuntime"
        mapping = Kind(4, "Universal.System", 0, "ProcessMapping")
        writer.metadata([Kind(2, runtime, 152), Kind(3, runtime, 143), mapping])
        writer.stacks(1, [[0x1000, 0x2000]])
        if version >= 6:
            writer.threads({1: 42})
        payload = managed_payload(0x10, "C:\\Lib.dll", "", (_GUID, 1, "Lib.pdb"), (_GUID, 1, "Lib.ni.pdb"))
        writer.events([TracedEvent(2, payload, stack=1), TracedEvent(3, bytes(8) + payload), TracedEvent(4, payload)])
        writer.sequence_point()
        found.append(writer.finish())
    return found


def _read_trace(data: bytes) -> None:
    selection = ProcessSelection(("app.exe",), hot=3)
    for options in (InputOptions(), InputOptions(selection)):
        for reader in (read_etl, read_nettrace):
            with suppress(InputError):
                list(reader(BytesView(data), "trace", options=options))


def _expand_plain_xpress(data: bytes) -> None:
    assert len(expand_plain_xpress(data, 1 << 16)) <= 1 << 16


def _dotnet_minidump() -> bytes:
    record = rsds_record(_GUID, 1, "coreclr.pdb")
    version = fixed_bytes((8, 0, 824, 36612), (8, 0, 0, 0))
    runtime = MinidumpModule("C:\\coreclr.dll", 0x7FF8_0000_0000, 0x9000, 0x5AB38077, record, version=version)
    other = MinidumpModule("C:\\app.dll", 0x7FF8_1000_0000, 0x9000, 0x5AB38077, record)
    image = memory_bytes(_dotnet_image())
    memory = [(runtime.base_va, image[:0x3000]), (other.base_va, image)]
    return build_minidump(MinidumpPlan([runtime, other], flags=2, memory=memory))


def _read_minidump(data: bytes) -> None:
    view = CountingView(BytesView(data))
    list(read_minidump(view, "a.dmp"))


_DUMPED = (
    (Paging.X86, DumpKind.FULL),
    (Paging.PAE, DumpKind.SUMMARY),
    (Paging.X64, DumpKind.BITMAP_KERNEL),
    (Paging.X64, DumpKind.FULL),
    (Paging.X64, DumpKind.AUTOMATIC),
    (Paging.X64, DumpKind.RANGES_COMPLETE),
    (Paging.LA57, DumpKind.SUMMARY),
    (Paging.ARM64, DumpKind.RANGES_KERNEL),
    (Paging.X86, DumpKind.BITMAP_FULL),
)
_ACTIVE = ((Paging.X64, DumpKind.BITMAP_FULL), (Paging.X64, DumpKind.RANGES_KERNEL_AND_USER))


@cache
def _machine(paging_: Paging) -> Any:
    return build_machine(kernel_plan(paging_))


def _kernel_dumps() -> list[bytes]:
    return [dump_bytes(_machine(each), DumpPlan(kind)) for each, kind in _DUMPED + _ACTIVE]


def _triage_dumps() -> list[bytes]:
    plan = TriagePlan(with_image=frozenset([1]))
    return [triage_bytes(_machine(each), plan) for each in (Paging.X86, Paging.X64, Paging.ARM64)]


def _read_kernel_dump(view: Any) -> None:
    list(read_kernel_dump(view, "a.dmp", user=ProcessSelection()))


def _header_only(data: bytes) -> None:
    """Read a dump of which the fuzzer writes the first page or two, and what follows is zeros."""
    _read_kernel_dump(BytesView(data.ljust(0x3000, b"\0")))


@cache
def _searchable(paging_: Paging) -> Any:
    return build_machine(replace(kernel_plan(paging_), searchable=True, low_stub=paging_ is Paging.X64))


def _memory_images() -> list[bytes]:
    wide, pae, arm = (_searchable(each) for each in (Paging.X64, Paging.PAE, Paging.ARM64))
    return [lime_bytes(wide), elf_bytes(wide, qemu_note(wide.kernel.root)), raw_bytes(pae), lime_bytes(arm)]


def _read_memory_image(view: Any) -> None:
    list(read_raw_memory(view, "a.lime", user=ProcessSelection()))


def _memory_forms() -> list[bytes]:
    """Return headers of each form, with little memory behind them."""
    source = build_machine(KernelPlan((replace(kernel_plan().drivers[0], base=None),)))
    source.physical.pages = dict(list(source.physical.pages.items())[:2])
    notes = qemu_note(0x1AD000) + virtualbox_notes(0x1AD000)
    cores = [elf_bytes(source, notes, bits=bits, many=bits == 32) for bits in (64, 32)]
    return [*cores, lime_bytes(source), avml_bytes(source), vmware_state([(0, 0, 1), (2, 1, 1)])]


def _read_memory_form(data: bytes) -> None:
    view = BytesView(data)
    with suppress(InputError):
        memory = open_memory_image(view).memory
        place = memory.find_bytes(0)
        assert place is None or place[1] > 0
        with suppress(InputError):
            memory.read(0 if place is None else place[0], 0x1000)
    with suppress(InputError):
        RangedMemory(view, read_vmware_ranges(view)).find_bytes(0)
    looks_like_raw_memory(data, len(data))


_IMAGES_OF_MEMORY = Patches(_memory_images, _read_memory_image)
_KERNEL = Patches(_kernel_dumps, _read_kernel_dump)
_TRIAGE = Patches(_triage_dumps, _read_kernel_dump)
_MODES = (paging.X86, paging.PAE, paging.X64, paging.X64_LA57, paging.ARM64)


class _Folded:
    """Physical memory without an end, of which *data* is repeated: whatever an entry says leads somewhere."""

    size = 1 << 52

    def __init__(self, data: bytes) -> None:
        self._data = data.ljust(64, b"\0")

    def read(self, offset: int, length: int) -> bytes:
        if offset % 0x7000 > 0x6000:  # holes
            raise NotInDump("not here", address=offset)
        start = offset % len(self._data)
        return (self._data[start:] + self._data * (length // len(self._data) + 1))[:length]


def _walk_tables(data: bytes) -> None:
    mode = _MODES[(data[0] if data else 0) % len(_MODES)]
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in (1, 9, 17, 25)]
    space = AddressSpace(PageTables(_Folded(data[33:])), mode, numbers[0])
    other = space.with_root(numbers[1])
    for each in (space, other):
        for address in numbers[2:]:
            with suppress(InputError):
                each.translate(address)
            with suppress(InputError):
                assert len(each.read(address, 0x2100)) == 0x2100
            for _, (virtual, _physical) in zip(range(300), each.mapped_pages(address, 8), strict=False):
                assert virtual >= 0


# Texts.

_QUESTION = f"SYMSRV:  BYINDEX: 0x1\n         c:\\sym*https://h/s\n         app.pdb\n         {_ID}\n"
_RSDS = "2DCFE7E3-D096-48B9-4C4C-44205044422E"
_LOGS = (
    f"""{_QUESTION}SYMSRV:  RESULT: 0x00000000
DBGHELP: app - public symbols
        c:\\sym\\app.pdb\\{_ID}\\app.pdb
""",
    """0:000> lmv
start    end        module name
00400000 00409000   app      C (pdb symbols)
    Image name: app.dll
    Timestamp: x (5AB38077)
    ImageSize: 9000
""",
    f"""Loaded Module Info: [app]
   RSDS - GUID: {{{_RSDS}}}
   Age: a, Pdb: app.pdb
    Timestamp: 5AB38077
  SizeOfImage: 9000
 pdb: a.pdb
 pdb sig: {_RSDS}
age: a
""",
    """Result  0x1
PdbFilename  a.pdb
PdbDbiAge  0x1
[SYMCHK] [ 0 - 1 ] Checked "a.dll"
SYMCHK: a.dll FAILED  - b
""",
    f"""> 2024-01-02 10:11:12 INFO | SYMSRV:  app.pdb\\{_ID}\\app.pdb not found
> 2024-01-02 10:11:13 INFO | more
""",
    """1: kd> !analyze -v
WRONG_SYMBOLS_TIMESTAMP: 5ab38077
WRONG_SYMBOLS_SIZE: 9000
FAULTING_MODULE: fffff800 nt
BUCKET_ID:  WRONG_SYMBOLS
IMAGE_NAME:  a.wrong.symbols.dll
ModLoad: 00400000 00409000   C:\\a\\app.exe
""",
    f"""MODULE windows x86_64 {_ID} app.pdb
INFO CODE_ID 5AB380779000 app.exe
Module|a.dll|1|a.pdb|{_ID}|0x1|0x2|0
[  0] {_RSDS}-00000001 0x00400000 C:\\a\\b.dll
""",
    f"""Dump of file a.dll
  5AB38077 time date stamp
  9000 size of image
Format: RSDS, {{{_RSDS}}}, 1, c:\\a.pdb
""",
    f"""\x1b[31mDBGHELP: a\x1b[0m <b>c:\\sym\\app.pdb\\{_ID[:20]}
{_ID[20:]}\\app.pdb</b>&nbsp;- OK &#x41;%41
""",
)
_LOG_WORDS = (
    b"SYMSRV:  ", b"DBGHELP: ", b"BYINDEX:", b"RESULT: 0x0", b" - no symbols loaded", b" not found", b"ModLoad: ",
    b"Image name: ", b"Timestamp: ", b"ImageSize: ", b"[SYMCHK] ", b"SYMCHK: ", b"Unloaded modules:\n", b" from ",
    b" bytes - copied", b"Age: 1, Pdb: ", b"file.ptr", b"0:000> ", b"5AB380779000", _ID.encode(), b"a.pdb\\",
    b"PATH: ",
)  # fmt: skip


def _read_log(data: bytes) -> None:
    looks_like_debugger_log(data[:4096])
    find_kind_of_text(data[:4096])
    list(read_debugger_log(BytesView(data), "a.log"))


def _read_manifest(data: bytes) -> None:
    """What is written of a list's modules reads back as the same."""
    looks_like_manifest(BytesView(data))
    records = list(read_manifest(BytesView(data), "a.txt"))
    for record in records:
        assert not isinstance(record, Unreadable) or 0 <= (record.offset or 0) <= len(data)
    modules = [each for each in records if isinstance(each, Module)]
    written = "".join(f"{line}\n" for line in manifest_lines(modules))
    again = [each for each in read_manifest(BytesView(written.encode()), "a.txt") if isinstance(each, Module)]
    assert _keys_of(again) == _keys_of(modules)


def _keys_of(modules: list[Module]) -> list[str]:
    return [
        key.folded
        for module in modules
        for key in (*(pdb.key for pdb in module.pdbs), module.image, module.dbg)
        if key is not None
    ]


def _detect(data: bytes) -> None:
    records = list(read_input(("a.bin", data)))
    assert records
    assert isinstance(records[0], Input | Unreadable)


_PATHS = (
    "srv*C:\\sym*\\\\host\\share*https://user:secret@h/s?sig=1;cache*c:\\c;symsrv*symsrv.dll*~/x",
    'set _NT_SYMBOL_PATH="srv*%TEMP%\\a*$HOME/b*${env:X}"\r\n.sympath srv*\nD:\\pdb',
    "SRV*https://msdl.microsoft.com/download/symbols",
)
_AROUND = Environment({"TEMP": "/tmp/a", "HOME": "/home/x", "X": "a;b"}, "/home/x")


def _parse_path(data: bytes) -> None:
    text = as_text(data)
    for shown in (redact_text(text), redact_url(text), redact_words(text)):
        assert isinstance(shown, str)
    parsed = parse_symbol_path(text)
    assert parse_symbol_path(str(parsed)) == parsed
    parsed.redacted()
    with suppress(SymbolPathError):
        parse_symbol_path(text, _AROUND)


_CONFIG = (Path(__file__).resolve().parents[2] / "config" / "symcache.toml").read_bytes()


def _configs() -> list[bytes]:
    """Return the example, all of it in force where it can be, and pieces of it."""
    example = _CONFIG.decode()
    pieces = re.sub(r"(?m)^#(?=\w+ = |\[)", "", example).split("\n\n")
    return [
        *(piece.encode() for piece in pieces),
        b"[network]\nproxy = 'h:1'\n[[server]]\nurl = 'https://h'\ntoken = 'x'\n",
    ]


def _load_config(data: bytes) -> None:
    path = scratch() / "config.toml"
    path.write_bytes(data)
    config = load_config(path, {"TEMP": "/tmp/a", "HOME": "/home/x"})
    str(locate(ConfigError("x", where="network.proxy"), config))
    assert parse_symbol_path(str(config.symbol_path)) == config.symbol_path


def _parse_index(data: bytes) -> None:
    key = parse_index(as_text(data))
    assert parse_index(key.index) == key
    key.folded.encode()
    assert relative_parts(key)
    for other in (*published_keys(key), *filed_keys(key), *sought_keys(key)):
        assert parse_index(other.folded).folded == other.folded


def _parse_pointer(data: bytes) -> None:
    pointer = parse_pointer(data)
    assert (pointer.target is None) is (pointer.message is not None)
    if pointer.target:
        assert parse_pointer(b"PATH:" + pointer.target.encode()) == pointer
        resolve_pointer(pointer.target, ["/srv/a", "\\\\host\\share"], lambda text: None)


def _parse_quantity(data: bytes) -> None:
    for parse in (parse_size, parse_age):
        with suppress(click.BadParameter):
            assert parse(as_text(data)) >= 0


def _with_bom(texts: tuple[str, ...]) -> list[bytes]:
    return [*(text.encode() for text in texts), codecs.BOM_UTF16_LE + texts[0].encode("utf-16-le")]


_LOCK_WORDS = (b'"files"', b'"missing"', b'"index"', b'"sha256"', b'"cause"', b'"origin"', b'"symbols"', b"null")


def _kernels() -> list[Entry]:
    return [
        Entry(
            full_fields(1, 0x1000), [base("11-22H2"), update("11-22H2", "KB5023706", "22621.1413", others=["11-23H2"])]
        ),
        Entry(delta_fields(2, 0x9000), [update("11-22H2", "KB5033375", "22621.2861"), insider("26120.461")]),
        Entry({"size": 3, "md5": ""}, [base("1903", component=None)]),
    ]


def _build_indexes() -> list[bytes]:
    plain = document(_kernels(), compressed=False)
    return [plain, document(_kernels()), b'["ntfs.sys", "hal.dll"]']


@cache
def _target() -> BuildTarget:
    entries = list(read_index(BytesView(document(_kernels()))))
    return resolve(parse_words("22621"), known_updates(place for each in entries for place in each.occurrences))


def _read_build_index(data: bytes) -> None:
    view = BytesView(data)
    with suppress(InputError):
        check_document(view)
    if data.lstrip().startswith(b"["):
        list(read_names(view))
        return
    choice = Choice(_target(), Architecture.X64)
    places: list[Occurrence] = []
    for entry in read_index(view):
        choice.add(entry)
        places += entry.occurrences
        assert len(size_candidates(entry)) < 40
    for module in modules_of("a.dll", choice.files):
        assert module.image is not None or module.problem
    assert len(known_updates(places)) >= (1 if places else 0)


def _parse_build_words(data: bytes) -> None:
    resolve(parse_words(as_text(data)), [_target().update])


def _parse_sets(data: bytes) -> None:
    members = tuple(as_text(data).splitlines())
    names = load_sets({"a": members, "b": members[1:]}).union(["a"])
    assert all(names.takes(name) for name in names.names if "/" not in name and "\\" not in name)


_LOCK = f"""{{"schema": "symcache.lock/1", "files": [
{{"index": "{_PDB.index}", "kind": "pdb", "module": "app.dll", "bytes": 5, "sha256": "{"ab" * 32}", "origin": "https://a"}}
], "missing": [
{{"index": null, "kind": "pdb", "module": "b.sys", "cause": "no-identity"}}
]}}"""
_REPORT = f"""{{"schema": "symcache.report/1", "symbols": [
{{"index": "{_PDB.index}", "kind": "pdb", "module": "app.dll", "state": "fetched", "cause": null, "upstream": "https://a"}},
{{"index": null, "kind": "pdb", "module": "b.sys", "state": "missing", "cause": "no-identity"}}
]}}"""


def _read_lock(data: bytes) -> None:
    list(read_lock(BytesView(data), "a.lock"))


def _read_report(data: bytes) -> None:
    list(read_report(BytesView(data), "a.json"))


_REPORTED = ReportedModule(r"C:\app\a.exe", "a.pdb", _GUID, 1, 0x5F000000, 0x8000, missing=True, version="1.2.3.4")
_IN_ARCHIVES = {"d/a.txt": b"a.pdb/2DCFE7E3D09648B94C4C44205044422E1/a.pdb\n", "b.bin": bytes(range(256)), "c": b""}


def _reports() -> list[bytes]:
    listed, frames = [_REPORTED, LINUX], ["a.exe"]
    documents = [
        sentry_event(listed, [_REPORTED.path]),
        stackwalk_report(listed, frames),
        socorro_report(listed, frames),
        symbolicator_answer(listed, [_REPORTED.path]),
        firefox_profile(listed, [listed]),
    ]
    return [json.dumps(document).encode() for document in documents]


def _read_json(data: bytes) -> None:
    for read in (read_crash_report, read_profile, read_module_list):
        with suppress(InputError):
            list(read(BytesView(data), "a.json"))
    list(read_input(("a.json", data)))


def _module_lists() -> list[bytes]:
    pdb = {"name": "a.pdb", "index": f"a.pdb/{_GUID.hex}1/a.pdb", "format": "native", "checksums": ["SHA256:ab"]}
    image = {"index": "a.dll/5F0000008000/a.dll"}
    module = {"input": 0, "name": "a.dll", "base": "0x10000", "image": image, "pdbs": [pdb], "needs_image": "code"}
    return [json.dumps({"schema": "symcache.modules/1", "modules": [module], "inputs": [{"kind": "image"}]}).encode()]


def _archives() -> list[bytes]:
    seeds = [gzip.compress(b"a" * 100), bz2.compress(b"a" * 100), lzma.compress(b"a" * 100)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as packed:
            for name, content in _IN_ARCHIVES.items():
                packed.writestr(zipfile.ZipInfo(name), content, method)
        seeds.append(file.getvalue())
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, content in {**_IN_ARCHIVES, "d" * 90 + "/" + "x" * 40: b"x"}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        seeds += [file.getvalue()[:8192], gzip.compress(file.getvalue())]
    seeds.append(build_cabinet([SynthFolder(list(_IN_ARCHIVES.items()), Mszip())]))
    return seeds


def _read_archive(data: bytes) -> None:
    """Read an archive as an input, and each format's own reader, whatever the signature says."""
    for read in (read_zip, read_cabinet, lambda view, spend: read_tar(ViewReader(view), spend)):
        with suppress(InputError):
            for member in read(BytesView(data), lambda _: None):
                with suppress(InputError):
                    for _ in islice(member.pieces(), 4):
                        pass
    list(read_input(("a.zip", data)))


def _versions() -> list[bytes]:
    return [
        version_bytes(VersionPlan({"040904b0": {"CompanyName": "Example", "FileVersion": "1.2"}})),
        fixed_bytes((1, 2, 3, 4), (5, 6, 7, 8)),
    ]


def _parse_version(data: bytes) -> None:
    parse_fixed_info(data)
    with suppress(InputError):
        parse_version_resource(data)
    read_version(BytesView(disk_bytes(ImagePlan(0x5AB38077, 0x9000, versions=((1, 0x409, data),)))), Layout.DISK)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "pe-file",
            partial(_parse_image, Layout.DISK),
            lambda: [disk_bytes(_rich_image()), disk_bytes(ImagePlan(1, 0x2000))],
            ("formats/pe",),
            words=(b"RSDS", b"NB10", b"MPDB", b"PE\0\0", b"SHA256\0"),
        ),
        Target(
            "pe-memory",
            partial(_parse_image, Layout.MEMORY),
            lambda: [memory_bytes(_rich_image())],
            ("formats/pe",),
            words=(b"RSDS", b"NB10"),
        ),
        Target(
            "live",
            _read_live,
            lambda: [memory_bytes(_rich_image()), disk_bytes(_rich_image())],
            ("inputs/live",),
            words=(b"\\SystemRoot\\", b"\\??\\", b"\\Device\\Mup\\;"),
        ),
        Target("dbg", _parse_dbg, lambda: [dbg_bytes(_rich_image())], ("formats/pe", "inputs/image")),
        Target(
            "code-view",
            _parse_code_view,
            lambda: [rsds_record(_GUID, 1, "app.pdb"), b"NB10" + bytes(12) + b"a.pdb\0"],
            ("formats/pe/debug",),
        ),
        Target(
            "glance",
            _glance,
            lambda: [disk_bytes(ImagePlan(_IMAGE.timestamp, _IMAGE.size_of_image)), make_pdb(_SPEC), b"<html>"],
            ("formats/glance", "formats/markup", "stores/check"),
        ),
        Target(
            "pdb",
            _parse_pdb,
            lambda: [make_pdb(_SPEC), make_pdb(replace(_SPEC, stripped=True)), make_pdb(replace(_SPEC, dbi=False))],
            ("formats/pdb/info", "formats/pdb/msf", "inputs/pdbfile"),
            longest=1 << 15,
        ),
        Target("pdb2", lambda data: parse_pdb2(BytesView(data)), lambda: [make_pdb2(1, 2)], ("formats/pdb/info",)),
        Target("pdb-portable", _parse_portable, lambda: [make_portable_pdb(_GUID, 1)[0]], ("formats/pdb/info",)),
        Target(
            "pdb-types",
            _read_types,
            lambda: [make_type_stream(_FIELDS, list_bytes=60), make_type_stream({})],
            ("formats/pdb/types", "formats/pdb/msf"),
        ),
        Target(
            "pdb-publics",
            _read_publics,
            lambda: [make_pdb(replace(_SPEC, publics=(PublicSymbol("PsLoadedModuleList", 16), PublicSymbol("_A", 9))))],
            ("formats/pdb/publics", "formats/pdb/msf"),
            longest=1 << 15,
            words=(b"PsLoadedModuleList\0", b"\x0e\x11"),
        ),
        Target(
            "msfz",
            _parse_pdb,
            lambda: [make_compressed_pdb(_SPEC, packing) for packing in (Packing.NONE, Packing.DEFLATE)],
            ("formats/pdb/msf", "formats/pdb/info"),
        ),
        Target(
            "cabinet",
            _expand,
            _cabinets,
            ("formats/cabinet", "formats/lzx"),
            most_bytes=(6 << 20, 64 << 10),
            most_calls=(400_000, 60_000),
        ),
        Target(
            "disk",
            _DISKS.parse,
            _DISKS.seeds,
            ("formats/disk", "inputs/disk", "inputs/windowsfolder"),
            most_calls=(600_000, 60_000),
            most_bytes=(48 << 20, 64 << 10),
            most_s=(3.0, 0.05),
            longest=512,
        ),
        Target(
            "disk-compression",
            _expand_piece,
            lambda: [bytes([number]) + pack(_LINES) for number, pack in enumerate((lznt1, xpress, stored_lzx))],
            ("formats/disk/compression", "formats/lzx"),
            most_calls=(200_000, 60_000),
        ),
        Target(
            "lzx",
            _decode_lzx,
            _lzx_seeds,
            ("formats/lzx",),
            most_bytes=(6 << 20, 64 << 10),
            most_calls=(400_000, 60_000),
        ),
        Target(
            "managed",
            _look_for_dotnet,
            lambda: [disk_bytes(_dotnet_image()), memory_bytes(_dotnet_image())],
            ("formats/pe/managed", "formats/pe/exports", "stores/check"),
            most_calls=(400_000, 100_000),
        ),
        Target(
            "minidump",
            _read_minidump,
            lambda: [_minidump(), _dotnet_minidump()],
            ("formats/dump/minidump", "inputs/minidump", "inputs/crashstack", "inputs/dotnet"),
        ),
        Target(
            "etl",
            _read_trace,
            _etls,
            ("formats/trace/etl", "formats/trace/scan", "formats/trace/hits", "inputs/trace", "inputs/tracecontents"),
            most_calls=(40_000, 6_000),
        ),
        Target(
            "nettrace",
            _read_trace,
            _nettraces,
            ("formats/trace/nettrace", "formats/trace/nettraceblocks", "formats/trace/events"),
        ),
        Target(
            "xpress-plain",
            _expand_plain_xpress,
            lambda: [compress_xpress(bytes(range(64)) * 40)],
            ("formats/trace/xpress",),
            NO_ERRORS,
        ),
        Target("version", _parse_version, _versions, ("formats/pe/version",)),
        Target("lock", _read_lock, lambda: [_LOCK.encode()], ("inputs/lock",), words=_LOCK_WORDS),
        Target("report", _read_report, lambda: [_REPORT.encode()], ("inputs/lock",), words=_LOCK_WORDS),
        Target(
            "json",
            _read_json,
            _reports,
            ("formats/jsonlists", "inputs/crashreport"),
            most_bytes=(16 << 20, 64 << 10),
            words=(b'"libs":[', b'"modules":[', b'"images":[', b'"debug_id":"', b'"frames":['),
        ),
        Target(
            "scan",
            _read_json,
            _module_lists,
            ("inputs/modulelist", "formats/jsonlists"),
            most_bytes=(16 << 20, 64 << 10),
        ),
        Target(
            "archive",
            _read_archive,
            _archives,
            ("formats/archive", "inputs/archive", "formats/cabinet"),
            most_calls=(60_000, 20_000),
            most_bytes=(160 << 20, 64 << 10),
            words=(b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"ustar\0", b"MSCF"),
        ),
        Target(
            "kernel-header",
            _header_only,
            lambda: [dump[:0x2100] for dump in _kernel_dumps()[:6]] + [dump[:0x2200] for dump in _triage_dumps()],
            ("formats/dump/header", "formats/dump/physical", "formats/dump/triage"),
        ),
        Target(
            "kernel-dump",
            _KERNEL.parse,
            _KERNEL.seeds,
            ("formats/dump", "inputs/kerneldump", "inputs/usermodules"),
            most_calls=(400_000, 100_000),
            most_bytes=(8 << 20, 64 << 10),
            longest=512,
        ),
        Target(
            "memory-image",
            _IMAGES_OF_MEMORY.parse,
            _IMAGES_OF_MEMORY.seeds,
            ("formats/memory", "formats/dump", "inputs/rawmemory", "inputs/kernelmodules", "inputs/kernelsearch"),
            most_calls=(800_000, 100_000),
            most_bytes=(24 << 20, 64 << 10),
            longest=512,
        ),
        Target(
            "memory-form",
            _read_memory_form,
            _memory_forms,
            ("formats/memory", "inputs/rawmemory"),
            most_bytes=(4 << 20, 64 << 10),
            words=(b"EMiL", b"AVML", b"QEMU", b"VBCPU", b"memory", b"regionsCount", b"sNaPpY"),
        ),
        Target(
            "triage-dump",
            _TRIAGE.parse,
            _TRIAGE.seeds,
            ("formats/dump/triage", "inputs/kerneldump"),
            most_calls=(200_000, 20_000),
            longest=512,
        ),
        Target(
            "page-tables",
            _walk_tables,
            lambda: [bytes([mode]) + bytes(range(256)) * 4 for mode in range(5)] + [b"\2" + b"\x67\0\0\0\0\0\0\0" * 80],
            ("formats/dump/paging",),
            most_calls=(300_000, 20_000),
        ),
        Target(
            "any-input",
            _detect,
            lambda: [b"MZ", b"MDMP", b"PAGEDU64", b"Microsoft C/C++ ", b"BSJB"],
            ("inputs/detect", "inputs/refusals"),
        ),
        Target("log", _read_log, lambda: _with_bom(_LOGS), ("inputs/log",), words=_LOG_WORDS, most_s=(0.5, 0.05)),
        Target(
            "manifest",
            _read_manifest,
            lambda: _with_bom(
                (f"app.pdb,{_ID},1\napp.dll,5AB380779000,1\n; x\nb.pdb/{_ID}/b.pdb\nc.dll 5AB380779000\n",)
            ),
            ("inputs/manifest",),
            errors=NO_ERRORS,
        ),
        Target(
            "index",
            _parse_index,
            lambda: [_PDB.index.encode(), b"a.sys 5AB380779000", b"sos_amd64_amd64_4.8.4341.00.dll 5AB380779000"],
            ("identity",),
            (MalformedInput,),
        ),
        Target(
            "build-index",
            _read_build_index,
            _build_indexes,
            ("formats/winbindex", "inputs/builds"),
            words=(
                b"fileInfo",
                b"windowsVersions",
                b"updateInfo",
                b"BASE",
                b"assemblies",
                b"sourcePaths",
                b"machineType",
            ),
        ),
        Target(
            "build-words",
            _parse_build_words,
            lambda: [b"22621.1413", b"KB5023706", b"11 22H2", b"Windows 10 version 1903"],
            ("inputs/builds/words",),
        ),
        Target(
            "sets",
            _parse_sets,
            lambda: [b"@b\na.sys\nb*.dll", b"@kernel\n@a\nfile:x"],
            ("inputs/sets",),
            (UsageError,),
        ),
        Target(
            "symbol-path",
            _parse_path,
            lambda: [path.encode() for path in _PATHS],
            ("sympath",),
            (SymbolPathError,),
            words=(b"srv*", b"cache*", b"symsrv*", b"https://", b"%TEMP%", b"${X}", b"~"),
        ),
        Target("config", _load_config, _configs, ("config",), (ConfigError, SymbolPathError)),
        Target(
            "pointer", _parse_pointer, lambda: [b"PATH:\\\\host\\share\\a.pdb", b"MSG: no", b"C:\\a"], ("stores/check",)
        ),
        Target("quantity", _parse_quantity, lambda: [b"20GB", b"1.5 TiB", b"90d"], ("cli/output",), NO_ERRORS),
        *STORE_TARGETS,
        *NET_TARGETS,
    )
}
"""By name."""
