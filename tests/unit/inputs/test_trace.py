"""Traces as inputs: event logs of Windows, merged and not, packed and not, and those of .NET's EventPipe."""

from __future__ import annotations

import csv
import io
import struct
import zipfile
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.shared import corpus
from support.synth.etl import (
    TracedImage,
    buffer,
    build_etl,
    classic_event,
    image_load,
    kernel_event,
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
from support.synth.nettrace import Kind, NettraceWriter, TracedEvent, text16, varuint
from support.views import CountingView

from symcache.events import InputAdvanced
from symcache.formats.trace.etl import FoundEvents, find_in_part, read_parts
from symcache.formats.trace.scan import scan_etl
from symcache.formats.view import BytesView
from symcache.identity import ImageKey, PdbKey, PortablePdbKey
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.records import (
    Input,
    InputKind,
    Module,
    PdbFolder,
    PdbFormat,
    ProcessSelection,
    ProcessSummary,
    Unreadable,
)
from symcache.inputs.tracecontents import TraceContents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.events import Event
    from symcache.inputs.records import Record

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
OTHER = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
NTDLL = TracedImage(
    664,
    0x7FF9_1000_0000,
    0x1F0000,
    0x5E0B1235,
    "ntdll.dll",
    "ntdll.pdb",
    GUID,
    version={"company": "Microsoft Corporation", "binary": "10.0.19041.508", "file": "10.0.19041.508 (WinBuild)"},
)
APP = TracedImage(664, 0x7FF6_0000_0000, 0x9000, 0x61111111, "app.exe", r"C:\build\app.pdb", OTHER, age=0x1A)
KERNEL = TracedImage(0, 0xFFFF_F800_0000_0000, 0x1000000, 0x4BA0C5D7, "ntkrnlmp.exe", "ntkrnlmp.pdb", OTHER, age=1)


def merged(*images: TracedImage, width: int = 8) -> list[bytes]:
    """Return the events of a merged log in which *images* are loaded."""
    events = [process_event(664, "lsass.exe"), process_event(700, "chrome.exe")]
    for image in images:
        events += merged_events(image, width=width)
        events.append(image_load(image.process, image.base, image.size, rf"\Device\Vol\{image.name}"))
    return events


def read(data: bytes, **options: Any) -> list[Record]:
    return list(read_input(("trace", data), InputOptions(**options)))


def modules(data: bytes, **options: Any) -> list[Module]:
    return [record for record in read(data, **options) if isinstance(record, Module)]


def problems(data: bytes, **options: Any) -> list[str]:
    return [record.problem for record in read(data, **options) if isinstance(record, Unreadable)]


def details(data: bytes) -> dict[str, Any]:
    record = read(data)[0]
    assert isinstance(record, Input)
    return dict(record.details)


def indexes(found: list[Module]) -> list[str]:
    return [pdb.key.index for module in found for pdb in module.pdbs]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("width", [4, 8], ids=["32-bit", "64-bit"])
def test_a_merged_log_names_images_and_pdbs(width: int, packed: bool) -> None:
    small = [replace(image, base=image.base & 0x7FFFFFFF) for image in (NTDLL, APP)]
    data = build_etl(merged(*small, width=width), width=width, packed=packed)
    found = modules(data)
    assert [(module.name, module.image, indexes([module])) for module in found] == [
        ("ntdll.dll", ImageKey("ntdll.dll", 0x5E0B1235, 0x1F0000), [f"ntdll.pdb/{GUID.hex.upper()}1/ntdll.pdb"]),
        ("app.exe", ImageKey("app.exe", 0x61111111, 0x9000), [f"app.pdb/{OTHER.hex.upper()}1a/app.pdb"]),
    ]
    assert found[0].process == "lsass.exe (664)"
    said = details(data)
    assert (said["merged"], said["compressed"], said["pointer_size"]) == (True, packed, width)


def test_a_log_that_was_written_anew_states_two_lengths_and_is_one_all_the_same() -> None:
    data = bytearray(build_etl(merged(NTDLL)))
    used = int.from_bytes(data[48:52], "little")
    data[48:52] = (used + 80).to_bytes(4, "little")
    assert indexes(modules(bytes(data))) == [f"ntdll.pdb/{GUID.hex.upper()}1/ntdll.pdb"]
    data[72 + 2] = 0x7F  # no event of the kernel
    assert [record for record in read(bytes(data)) if isinstance(record, Input)] == []


def test_a_log_is_told_by_its_content_and_says_what_it_is_of() -> None:
    data = build_etl(merged(NTDLL), build=26100, lost=7)
    first = read(data)[0]
    assert isinstance(first, Input)
    assert first.kind is InputKind.ETL
    assert first.details == {
        "os": "windows",
        "version": "10.0.26100",
        "build": 26100,
        "pointer_size": 8,
        "processors": 4,
        "time": "2020-07-29T00:06:19+00:00",
        "ended": "2020-07-29T00:06:29+00:00",
        "events_lost": 7,
        "buffers_lost": 3,
        "buffers": 2,
        "merged": True,
        "compressed": False,
        "truncated": False,
    }


def test_the_maker_and_version_of_a_module_are_those_of_its_resource() -> None:
    (module,) = modules(build_etl(merged(NTDLL)))
    assert module.version is not None
    assert module.version.company == "Microsoft Corporation"
    assert module.version.file_numbers == (10, 0, 19041, 508)
    assert module.version.original_name == "ntdll.dll"


def test_a_module_of_many_processes_comes_once_and_each_process_is_counted() -> None:
    again = [replace(NTDLL, process=process) for process in (700, 701, 702)]
    records = read(build_etl(merged(KERNEL, NTDLL, APP, *again)))
    assert [(each.name, each.process) for each in records if isinstance(each, Module)] == [
        ("ntkrnlmp.exe", None),
        ("ntdll.dll", "lsass.exe (664)"),
        ("app.exe", "lsass.exe (664)"),
    ]
    assert [(each.id, each.name, each.modules) for each in records if isinstance(each, ProcessSummary)] == [
        (664, "lsass.exe", 2),
        (700, "chrome.exe", 1),
        (701, "", 1),
        (702, "", 1),
    ]


@pytest.mark.parametrize("wanted", ["chrome.exe", "CHROME.EXE", "700"])
def test_a_process_narrows_a_log_to_its_modules_and_the_kernels(wanted: str) -> None:
    other = replace(APP, process=700, name="chrome.dll", pdb="chrome.dll.pdb", guid=GUID)
    data = build_etl(merged(KERNEL, NTDLL, other))
    found = modules(data, processes=ProcessSelection((wanted,)))
    assert [module.name for module in found] == ["ntkrnlmp.exe", "chrome.dll"]
    assert [module.name for module in modules(data, processes=None)] == ["ntkrnlmp.exe"]


def test_a_process_that_is_not_there_is_said() -> None:
    assert problems(build_etl(merged(NTDLL)), processes=ProcessSelection(("x.exe", "664"))) == [
        "no process x.exe is in the trace"
    ]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("sid", [True, False])
def test_processes_of_every_version_are_named(version: int, width: int, sid: bool) -> None:
    events = [process_event(664, "a b.exe", version=version, width=width, sid=sid), *merged_events(NTDLL)]
    (module,) = modules(build_etl(events, width=width))
    assert module.process == "a b.exe (664)"


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 39])
def test_processes_that_start_end_and_run_are_named(opcode: int) -> None:
    (module,) = modules(build_etl([*merged_events(NTDLL), process_event(664, "x.exe", opcode=opcode)]))
    assert module.process == "x.exe (664)"


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("opcode", [2, 3, 4, 10])
def test_an_image_with_a_time_stamp_leads_to_its_pdb_without_merging(opcode: int, width: int) -> None:
    event = image_load(0, 0x8000_0000, 0x22000, r"\SystemRoot\drv.sys", stamp=0x5E0B1235, opcode=opcode, width=width)
    data = build_etl([event], width=width)
    (module,) = modules(data)
    assert (module.name, module.image, module.problem) == ("drv.sys", ImageKey("drv.sys", 0x5E0B1235, 0x22000), None)
    assert module.path == r"\SystemRoot\drv.sys"
    assert details(data)["merged"] is False


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_image_without_a_time_stamp_says_which_command_merges(version: int) -> None:
    (module,) = modules(build_etl([image_load(664, 0x10000, 0x3000, r"\Windows\a.dll", version=version)]))
    assert module.image is None
    assert module.problem is not None
    assert "xperf -merge" in module.problem
    assert "wpr -stop" in module.problem


def test_a_load_gives_the_rundowns_of_the_same_file_their_time_stamp() -> None:
    events = [
        image_load(664, 0x10000, 0x3000, r"\Windows\a.dll"),
        image_load(700, 0x20000, 0x3000, r"\WINDOWS\A.DLL", stamp=0x5E0B1235, opcode=10),
    ]
    found = modules(build_etl(events))
    assert {module.image for module in found} == {
        ImageKey("a.dll", 0x5E0B1235, 0x3000),
        ImageKey("A.DLL", 0x5E0B1235, 0x3000),
    }


def test_another_image_at_the_base_of_one_before_counts_too() -> None:
    other = replace(APP, base=NTDLL.base)
    assert len(indexes(modules(build_etl(merged(NTDLL, other, NTDLL))))) == 2


def test_an_image_that_merging_found_to_name_no_pdb_wants_none() -> None:
    (module,) = modules(build_etl(merged(replace(NTDLL, pdb=None))))
    assert module.no_debug_record
    assert module.pdbs == ()


def test_copies_of_drivers_for_crashes_are_left_out_of_merged_logs() -> None:
    copy = image_load(0, 0xFFFFF80000000000, 0x9000, r"\SystemRoot\dump_atapi.sys", stamp=5)
    assert [module.name for module in modules(build_etl([*merged(NTDLL), copy]))] == ["ntdll.dll"]
    assert [module.name for module in modules(build_etl([copy]))] == ["dump_atapi.sys"]


def test_the_pdb_of_the_il_behind_a_native_image_may_have_either_key() -> None:
    image = replace(NTDLL, il_pdb="Lib.pdb", il_guid=OTHER, pdb="Lib.ni.pdb")
    native, managed = modules(build_etl(merged(image)))
    assert native.pdbs[0].key == PdbKey("Lib.ni.pdb", GUID, 1)
    assert native.pdbs[0].others == ()
    assert managed.pdbs[0].key == PdbKey("Lib.pdb", OTHER, 1)
    assert managed.pdbs[0].others == (PortablePdbKey("Lib.pdb", OTHER),)


def test_a_portable_pdb_is_known_by_its_debug_directory() -> None:
    image = replace(NTDLL, il_pdb="Lib.pdb", il_guid=OTHER, pdb="Lib.ni.pdb", portable=(True, False))
    native, managed = modules(build_etl(merged(image)))
    assert native.pdbs[0].format is PdbFormat.NATIVE
    assert managed.pdbs[0].key == PortablePdbKey("Lib.pdb", OTHER)
    assert managed.pdbs[0].others == ()
    (alone,) = modules(build_etl(merged(replace(NTDLL, portable=(True,)))))
    assert alone.pdbs[0].key == PortablePdbKey("ntdll.pdb", GUID)
    (native_alone,) = modules(build_etl(merged(replace(NTDLL, portable=(False,)))))
    assert native_alone.pdbs[0].key == PdbKey("ntdll.pdb", GUID, 1)


@pytest.mark.parametrize(
    ("provider", "number"), [("runtime", 152), ("runtime", 153), ("rundown", 153), ("rundown", 154)]
)
@pytest.mark.parametrize("extended", [0, 1, 2])
def test_modules_of_dotnet_name_their_pdbs(provider: str, number: int, extended: int) -> None:
    event = managed_module(
        664,
        r"C:\app\Lib.dll",
        provider=provider,
        number=number,
        native_path=r"C:\app\Lib.ni.dll",
        il=(GUID, 1, r"C:\obj\Lib.pdb"),
        native=(OTHER, 1, "Lib.ni.pdb"),
        extended=extended,
    )
    managed, native = modules(build_etl([event]))
    assert (managed.name, managed.pdbs[0].key) == ("Lib.dll", PdbKey("Lib.pdb", GUID, 1))
    assert managed.pdbs[0].others == (PortablePdbKey("Lib.pdb", GUID),)
    assert (native.name, native.pdbs[0].key) == ("Lib.ni.dll", PdbKey("Lib.ni.pdb", OTHER, 1))


@pytest.mark.parametrize(("provider", "number"), [("runtime", 154), ("rundown", 152), ("runtime", 141)])
def test_other_events_of_dotnet_are_passed_over(provider: str, number: int) -> None:
    event = managed_module(664, r"C:\app\Lib.dll", provider=provider, number=number, il=(GUID, 1, "Lib.pdb"))
    assert modules(build_etl([event])) == []


@pytest.mark.parametrize("version", [0, 1])
def test_old_runtimes_name_no_pdb(version: int) -> None:
    (module,) = modules(build_etl([managed_module(664, r"C:\app\Lib.dll", version=version)]))
    assert module.name == "Lib.dll"
    assert module.pdbs == ()
    assert module.problem is not None


def test_what_merging_and_dotnet_name_comes_once() -> None:
    event = managed_module(664, r"C:\app\app.exe", il=(OTHER, 0x1A, "app.pdb"))
    assert len(modules(build_etl([*merged(APP), event]))) == 1


def test_the_hot_modules_come_alone_and_most_first() -> None:
    cold = replace(APP, process=664, base=0x7FF5_0000_0000, name="cold.dll", guid=GUID, pdb="cold.pdb")
    events = [
        *merged(KERNEL, NTDLL, APP, cold),
        thread_event(664, 12),
        *[sample(12, APP.base + 0x100 * each) for each in range(5)],
        sample(12, KERNEL.base + 5),
        sample(99, NTDLL.base),  # of a thread that nobody knows
        stack(664, 12, [NTDLL.base + 0x1000, APP.base + 0x1000, KERNEL.base, 0x10]),
        stack_key(664, 0xAB),
        stack_key(664, 0xAB),
        stack_definition(0xAB, [NTDLL.base + 0x2000, NTDLL.base + 0x3000]),
        stack_key(664, 0xCD),  # which is never defined
    ]
    data = build_etl(events)
    found = modules(data, processes=ProcessSelection(hot=10))
    assert [(module.name, module.hits) for module in found] == [("app.exe", 6), ("ntdll.dll", 5), ("ntkrnlmp.exe", 2)]
    assert [module.name for module in modules(data, processes=ProcessSelection(hot=1))] == ["app.exe"]
    assert [each.name for each in modules(data, processes=ProcessSelection(("chrome.exe",), hot=5))] == ["ntkrnlmp.exe"]


def test_without_samples_no_module_is_hot_and_that_is_said() -> None:
    data = build_etl(merged(NTDLL))
    assert modules(data, processes=ProcessSelection(hot=3)) == []
    assert "leave out --hot" in problems(data, processes=ProcessSelection(hot=3))[0]


def test_the_folder_of_native_pdbs_beside_a_log_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.etl"
    path.write_bytes(build_etl(merged(NTDLL)))
    assert not any(isinstance(record, PdbFolder) for record in read_input(path))
    (tmp_path / "a.etl.NGENPDB").mkdir()
    assert PdbFolder(tmp_path / "a.etl.NGENPDB") in list(read_input(path))
    assert PdbFolder(tmp_path / "a.etl.NGENPDB") in list(read_input(tmp_path))


def many(count: int) -> list[bytes]:
    images = [
        TracedImage(664, 0x10000 * number, 0x8000, 7, f"m{number}.dll", f"m{number}.pdb", UUID(int=number + 1))
        for number in range(1, count + 1)
    ]
    return merged(*images)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_log_that_is_cut_off_keeps_every_module_before_that(packed: bool) -> None:
    data = build_etl(many(120), size=4096, packed=packed)
    whole = [module.name for module in modules(data)]
    assert len(whole) == 120
    for length in range(5000, len(data), len(data) // 23):
        found = [module.name for module in modules(data[:length])]
        assert found == whole[: len(found)]
        assert len(found) >= (length / len(data)) * 120 - 12
        assert problems(data[:length])


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("at", [0, 4, 48, 52, 54])
def test_a_damaged_buffer_costs_its_own_modules_alone(at: int, packed: bool) -> None:
    data = bytearray(build_etl(many(120), size=4096, packed=packed))
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + int.from_bytes(data[starts[-1] : starts[-1] + 4], "little"))
    place = starts[3]
    data[place + at : place + at + 4] = b"\xff\xff\xff\xff"
    found = {module.name for module in modules(bytes(data))}
    assert len(found) >= 120 - 2 * 25
    assert {"m1.dll", "m120.dll"} <= found


def test_buffers_behind_bytes_that_are_missing_are_found() -> None:
    data = build_etl(many(120), size=4096)
    found = {module.name for module in modules(data[:9000] + data[9005:])}
    assert len(found) >= 120 - 2 * 25
    assert {"m1.dll", "m120.dll"} <= found


def test_events_behind_a_damaged_one_are_found_all_the_same() -> None:
    events = merged(NTDLL, APP)
    torn = kernel_event(0x0F, 46, bytes(24))[:4] + b"\2\0" + bytes(18)
    data = build_etl([events[0], torn, *events[1:]])
    assert len(indexes(modules(data))) == 2
    assert "damaged" in problems(data)[0]


def test_what_only_looks_like_an_event_within_another_is_none() -> None:
    inner = merged_events(NTDLL)[2]
    outer = classic_event(OTHER, 5, inner)
    assert modules(build_etl([outer])) == []


def test_buffers_of_any_size_and_alignment_are_read() -> None:
    events = merged(NTDLL, APP)
    head = build_etl([])[:65536]
    data = head + buffer(events[:4], size=72 + 4096 + 3) + buffer(events[4:], packed=True) + buffer([], size=72)
    assert len(indexes(modules(data))) == 2


def test_many_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symcache.formats.trace.scan._WORTH_PROCESSES", 0)
    monkeypatch.setattr("symcache.formats.trace.scan._PART_BYTES", 8192)
    data = build_etl([*many(60), sample(1, 5)], size=4096, packed=True)
    alone, together = TraceContents(), TraceContents()
    scan_etl(BytesView(data), alone)
    scan_etl(BytesView(data), together, cores=2)
    assert list(together.modules(ProcessSelection())) == list(alone.modules(ProcessSelection()))


def test_processes_that_cannot_be_had_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("symcache.formats.trace.scan._WORTH_PROCESSES", 0)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", refuse)
    contents = TraceContents()
    scan_etl(BytesView(build_etl(merged(NTDLL), packed=True)), contents, cores=4)
    assert len(list(contents.modules(ProcessSelection()))) == 2  # a module and its process


def test_a_process_that_ends_or_hangs_costs_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: object, **__: object) -> None:
            self.parts = 0

        def submit(self, *_: object, **__: object) -> Future[FoundEvents]:
            self.parts += 1
            if self.parts > 3:
                raise RuntimeError("a process ended")
            future: Future[FoundEvents] = Future()
            if self.parts == 2:
                future.set_exception(OSError("a process ended"))
            return future

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr("symcache.formats.trace.scan._WORTH_PROCESSES", 0)
    monkeypatch.setattr("symcache.formats.trace.scan._PART_BYTES", 8192)
    monkeypatch.setattr("symcache.formats.trace.scan._PATIENCE_S", 0.01)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Broken)
    contents = TraceContents()
    scan_etl(BytesView(build_etl(many(60), size=4096, packed=True)), contents, cores=2)
    found = list(contents.modules(ProcessSelection()))
    assert sum(isinstance(each, Module) for each in found) == 60


def test_progress_is_told_up_to_the_end() -> None:
    events: list[Event] = []
    data = build_etl(many(40), size=4096)
    read(data, observer=events.append)
    last = events[-1]
    assert isinstance(last, InputAdvanced)
    assert last.done_bytes == last.size_bytes == len(data)


def test_a_log_is_read_once_and_in_pieces() -> None:
    data = build_etl(many(300), size=65536)
    view = CountingView(BytesView(data))
    for part in read_parts(view, 1 << 17):
        assert not isinstance(part, str)
        find_in_part(part)
    assert view.read_bytes < 2 * len(data)


RUNTIME, RUNDOWN = "Microsoft-Windows-DotNETRuntime", "Microsoft-Windows-DotNETRuntimeRundown"
LIB = managed_payload(0x7000, r"C:\app\Lib.dll", "", (GUID, 1, r"C:\obj\Lib.pdb"), (OTHER, 1, "Lib.ni.pdb"))


def nettrace(version: int, *, packed: bool = True) -> NettraceWriter:
    writer = NettraceWriter(version, packed=packed)
    writer.metadata([Kind(1, "Other", 152, "x"), Kind(200, RUNTIME, 152), Kind(3, RUNDOWN, 154)])
    return writer


@pytest.mark.parametrize("packed", [False, True], ids=["whole headers", "packed headers"])
@pytest.mark.parametrize("version", [4, 5, 6])
def test_a_nettrace_of_any_version_names_its_modules(version: int, packed: bool) -> None:
    writer = nettrace(version, packed=packed)
    writer.unknown()
    app = managed_payload(0x8000, r"C:\app\App.dll", "", (OTHER, 2, "App.pdb"))
    writer.events([TracedEvent(1, LIB), TracedEvent(200, LIB), TracedEvent(1, b"n" * 200), TracedEvent(3, app)])
    writer.sequence_point()
    data = writer.finish()
    found = modules(data)
    assert [(module.name, pdb.key, pdb.others) for module in found for pdb in module.pdbs] == [
        ("Lib.dll", PdbKey("Lib.pdb", GUID, 1), (PortablePdbKey("Lib.pdb", GUID),)),
        ("Lib.dll", PdbKey("Lib.ni.pdb", OTHER, 1), ()),
        ("App.dll", PdbKey("App.pdb", OTHER, 2), (PortablePdbKey("App.pdb", OTHER),)),
    ]
    assert problems(data) == []
    first = read(data)[0]
    assert isinstance(first, Input)
    assert first.kind is InputKind.NETTRACE
    assert first.details["format_version"] == version
    assert first.details["time"] == "2024-05-07T10:30:15+00:00"
    assert first.details["process_id"] == 4711
    assert first.details["processors"] == 8


def test_metadata_of_version_6_can_be_forgotten_and_said_anew() -> None:
    writer = nettrace(6)
    writer.sequence_point(flags=2)
    writer.events([TracedEvent(200, LIB)])
    assert modules(writer.finish()) == []
    writer = nettrace(6)
    writer.sequence_point(flags=2)
    writer.metadata([Kind(7, RUNTIME, 152)])
    writer.events([TracedEvent(7, LIB)])
    assert len(modules(writer.finish())) == 2


def test_threads_of_version_6_say_which_process_an_event_is_of() -> None:
    writer = nettrace(6)
    writer.threads({1: 42, 2: 43})
    writer.events([TracedEvent(200, LIB, thread=2)])
    assert {module.process for module in modules(writer.finish())} == {"process (43)"}


def test_images_of_the_universal_format_name_their_pdbs() -> None:
    writer = NettraceWriter(6)
    system = "Universal.System"
    kinds = ["ProcessCreate", "ProcessMapping", "ProcessMappingMetadata"]
    writer.metadata([Kind(row, system, 0, name) for row, name in enumerate(kinds, start=1)])
    writer.threads({1: 42})
    pe = '{"type": "PE", "name": "/_/obj/System.Memory.pdb", "date_time": 1, "age": 1, "signature": "' + GUID.hex + '"}'
    elf = '{"type": "ELF", "build_id": "aabb", "name": "libc.so"}'
    for number, text in ((1, pe), (2, elf), (3, "{ no json")):
        writer.events(
            [
                TracedEvent(1, varuint(42) + text16("app") + text16("")),
                TracedEvent(
                    2,
                    b"".join(map(varuint, (number, 0x7F00_0000_0000, 0x7F00_0010_0000, 0)))
                    + text16(f"/app/lib{number}.dll")
                    + varuint(number),
                ),
                TracedEvent(3, varuint(number) + text16(text) + text16("{}")),
            ]
        )
    (module,) = modules(writer.finish())
    assert (module.name, module.process, module.base) == ("lib1.dll", "app (42)", 0x7F00_0000_0000)
    assert module.pdbs[0].key == PdbKey("System.Memory.pdb", GUID, 1)
    assert module.pdbs[0].others == (PortablePdbKey("System.Memory.pdb", GUID),)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("width", [4, 8])
def test_the_hot_modules_of_a_nettrace_are_those_whose_methods_are_on_stacks(version: int, width: int) -> None:
    writer = NettraceWriter(version, width=width)
    sampler = "Microsoft-DotNETCore-SampleProfiler"
    writer.metadata([Kind(1, sampler, 0), Kind(2, RUNDOWN, 154), Kind(3, RUNDOWN, 144)])
    writer.stacks(10, [[0x10100, 0x20100], [0x10200], [0x999999]], width=width)
    writer.events([TracedEvent(1, b"\0" * 4, stack=each) for each in (10, 11, 12, 99)])
    writer.sequence_point()
    app = managed_payload(0x8000, "App.dll", "", (OTHER, 2, "App.pdb"))
    cold = managed_payload(0x9000, "Cold.dll", "", (OTHER, 3, "Cold.pdb"))
    lib = managed_payload(0x7000, "Lib.dll", "", (GUID, 1, "Lib.pdb"))
    methods = [(0x7000, 0x10000), (0x8000, 0x20000), (0x9000, 0x30000)]
    writer.events([TracedEvent(2, payload) for payload in (lib, app, cold)])
    writer.events([TracedEvent(3, struct.pack("<QQQI", 1, module, at, 0x800) + bytes(9)) for module, at in methods])
    found = modules(writer.finish(), processes=ProcessSelection(hot=5))
    assert [(module.name, module.hits) for module in found] == [("Lib.dll", 2), ("App.dll", 1)]


@pytest.mark.parametrize("version", [4, 5, 6])
def test_a_nettrace_that_is_cut_off_keeps_what_came_before(version: int) -> None:
    writer = nettrace(version)
    for number in range(40):
        payload = managed_payload(number, f"M{number}.dll", "", (UUID(int=number + 1), 1, f"M{number}.pdb"))
        writer.events([TracedEvent(200, payload)])
    data = writer.finish()
    for length in range(600, len(data), len(data) // 17):
        found = modules(data[:length])
        assert [module.name for module in found] == [f"M{number}.dll" for number in range(len(found))]
        assert len(found) >= length / len(data) * 40 - 6
        assert problems(data[:length])


@pytest.mark.parametrize("version", [5, 6])
def test_a_damaged_block_of_a_nettrace_costs_itself_alone(version: int) -> None:
    writer = nettrace(version)
    places = []
    for number in range(10):
        places.append(len(writer.out))
        payload = managed_payload(number, f"M{number}.dll", "", (UUID(int=number + 1), 1, f"M{number}.pdb"))
        writer.events([TracedEvent(200, payload)])
    data = bytearray(writer.finish())
    data[places[4] : places[4] + 3] = b"\xff\xff\xff"
    found = [module.name for module in modules(bytes(data))]
    assert [name for name in found if name != "M4.dll"] == [f"M{each}.dll" for each in range(10) if each != 4]
    assert "damaged" in problems(bytes(data))[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"Nettrace" + struct.pack("<III", 0, 7, 0) + bytes(40), "version 7"),
        (b"Nettrace" + struct.pack("<III", 5, 6, 0) + bytes(40), "damaged"),
        (b"Nettrace", "ends"),
        (b"Nettrace" + struct.pack("<I", 20) + b"!FastSerialization.1" + bytes(90), "not 'Trace'"),
    ],
    ids=["newer", "damaged", "short", "other object"],
)
def test_a_trace_that_cannot_be_read_says_why(data: bytes, said: str) -> None:
    assert said in problems(data)[0]


def test_a_form_of_traces_that_is_not_read_is_named_with_what_to_give() -> None:
    assert ".nettrace" in problems(b"\x14\0\0\0!FastSerialization.1" + bytes(200))[0]


def test_room_that_a_log_has_not_filled_is_no_damage() -> None:
    data = build_etl(merged(NTDLL))
    assert problems(data + bytes(1 << 20)) == []
    assert problems(data[:65536] + bytes(1 << 20)) == ["it has 1 of the 2 buffers that were written"]


def test_several_logs_of_one_session_complete_each_other() -> None:
    images = [*merged_events(NTDLL), *merged_events(APP)]
    kernel = [process_event(664, "lsass.exe"), image_load(664, NTDLL.base, NTDLL.size, r"\Windows\System32\ntdll.dll")]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("metadata.xml", "<?xml version='1.0'?><Package/>")
        archive.writestr("kernel.etl", build_etl(kernel))
        archive.writestr("user.etl", build_etl(images, packed=True))
        archive.writestr("other.etl", build_etl(merged(KERNEL), build=9200))
    records = list(read_input(("a.diagsession", out.getvalue())))
    inputs = [record for record in records if isinstance(record, Input)]
    assert [(each.path, each.kind.value) for each in inputs] == [
        ("a.diagsession", "archive"),
        ("a.diagsession", "etl"),
        ("a.diagsession/other.etl", "etl"),
    ]
    assert inputs[1].details["buffers"] == 4
    records = records[: records.index(inputs[2])]
    first, second = (record for record in records if isinstance(record, Module))
    assert (first.path, first.process) == (r"\Windows\System32\ntdll.dll", "lsass.exe (664)")
    assert indexes([first, second]) == [
        f"ntdll.pdb/{GUID.hex.upper()}1/ntdll.pdb",
        f"app.pdb/{OTHER.hex.upper()}1a/app.pdb",
    ]


def test_a_log_whose_first_event_is_another_is_refused() -> None:
    assert "not the header" in problems(buffer(merged(NTDLL), type_=4))[0]


SEEDS = {
    "merged": lambda: build_etl([*merged(NTDLL, APP), thread_event(664, 1), sample(1, NTDLL.base)], size=4096),
    "packed": lambda: build_etl([*merged(NTDLL, APP), stack(664, 1, [NTDLL.base])], packed=True),
    "nettrace 5": lambda: _seed(5),
    "nettrace 6": lambda: _seed(6),
}


def _seed(version: int) -> bytes:
    writer = nettrace(version)
    writer.stacks(1, [[0x1000, 0x2000]])
    if version >= 6:
        writer.threads({1: 42})
    writer.events([TracedEvent(200, LIB, stack=1), TracedEvent(3, LIB)])
    writer.sequence_point()
    return writer.finish()


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_traces_end_in_bounds(name: str, record_property: Callable[[str, object], None]) -> None:
    cost = measure(mutants(SEEDS[name](), 150, hot=400), lambda data: read(data, processes=ProcessSelection(hot=3)))
    cost.check(record_property)


@given(st.binary(max_size=400), st.sampled_from(list(SEEDS)), st.integers(0, 1 << 16))
@settings(max_examples=150)
def test_any_bytes_in_a_trace_raise_nothing_but_input_errors(piece: bytes, name: str, at: int) -> None:
    data = SEEDS[name]()
    at %= len(data)
    for selection in (ProcessSelection(), ProcessSelection(hot=2)):
        read(data[:at] + piece + data[at + len(piece) :], processes=selection)


def test_a_log_of_nothing_but_headers_is_read_in_bounds(record_property: Callable[[str, object], None]) -> None:
    head = build_etl([])[:65536]
    empty = buffer([], size=72)
    zeros = head + bytes(8 << 20)
    flags = head + b"\x60\0\0\0" * (1 << 20)
    measure([head + empty * 20_000, zeros, flags], read).check(record_property)


def test_a_log_of_one_image_in_very_many_processes_stays_small(record_property: Callable[[str, object], None]) -> None:
    events = [merged_events(replace(NTDLL, process=number))[1] for number in range(30_000)]
    cost = measure([build_etl(events, size=1 << 20)], read)
    cost.check(record_property)


needs_traces = pytest.mark.skipif(not (corpus / "etl").is_dir(), reason="the corpus of real traces is not here")


def _real(name: str) -> tuple[bytes, list[list[str]]]:
    folder = corpus / "etl"
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        largest = max(archive.infolist(), key=lambda each: each.file_size)
        data = archive.read(largest)
    text = (folder / f"{name}.tsv").read_text(encoding="utf-8")
    return data, list(csv.reader(io.StringIO(text), delimiter="\t"))


@needs_traces
def test_a_real_merged_log_gives_exactly_what_its_list_says() -> None:
    data, rows = _real("net.4.5.2.x86.etl")
    found = modules(data)
    pdbs = {(key.name, key.guid.hex.upper(), f"{key.age:x}") for each in found for key in _keys(each)}
    images = {(i.name, f"{i.timestamp:08X}", f"{i.size_of_image:x}") for i in (each.image for each in found) if i}
    assert pdbs == {tuple(row[1:]) for row in rows if row[0] in {"pdb", "ilpdb"}}
    assert images == {tuple(row[1:]) for row in rows if row[0] == "image"}
    assert problems(data) == []


@needs_traces
def test_a_real_nettrace_gives_exactly_what_its_list_says() -> None:
    data, rows = _real("dotnet3.nettrace")
    pdbs = {(key.name, key.guid.hex.upper(), f"{key.age:x}") for each in modules(data) for key in _keys(each)}
    assert pdbs == {tuple(row) for row in rows}
    assert problems(data) == []


@needs_traces
def test_a_real_log_narrows_to_a_process_and_to_what_is_hot() -> None:
    data, _ = _real("net.4.5.2.x86.etl")
    found = modules(data, processes=ProcessSelection(("test.x86.exe",)))
    assert {module.process for module in found} == {None, "Test.x86.exe (3644)"}
    assert "clr.dll" in {module.name for module in found}
    hot = modules(data, processes=ProcessSelection(hot=3))
    assert [module.name for module in hot] == ["ntkrnlmp.exe", "clr.dll", "hal.dll"]


def _keys(module: Module) -> list[PdbKey]:
    return [pdb.key for pdb in module.pdbs if isinstance(pdb.key, PdbKey)]
