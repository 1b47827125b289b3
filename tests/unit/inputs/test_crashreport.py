from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.synth.reports import (
    LINUX,
    ReportedModule,
    envelope,
    firefox_profile,
    sentry_event,
    sentry_image,
    socorro_report,
    stackwalk_report,
    symbolicator_answer,
)

from symcache.errors import InputError, UnknownFormat
from symcache.formats.view import BytesView
from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.detect import detect, read_input
from symcache.inputs.records import CrashStack, Input, InputKind, Module, PdbFormat, Record, Remark, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
APP = ReportedModule(
    r"C:\Program Files\app\app.exe", r"D:\build\app.pdb", GUID, 1, 0x5F000000, 0x8000, version="1.2.3.4"
)
LIB = ReportedModule("C:/app/lib.dll", "/home/ci/lib.pdb", UUID(int=7), 0x1A, 0x12345, 0x200000, missing=True)
FOUND = ReportedModule(r"C:\app\found.dll", "found.pdb", UUID(int=8), 2, 0x5F000001, 0x9000, missing=False)
NO_ID = ReportedModule(r"C:\Windows\xp.dll", None, stamp=0x4CE7B8A2, size=0x9000)
MODULES = [APP, LIB, FOUND, NO_ID]

APP_PDB, LIB_PDB = PdbKey("app.pdb", GUID, 1), PdbKey("lib.pdb", UUID(int=7), 0x1A)
FRAMES = [LIB, LIB, APP]
FROM_TOP = [module.name for module in FRAMES]
FROM_BOTTOM = [module.path for module in reversed(FRAMES)]


def read(document: Any) -> list[Record]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return list(read_input(("x.json", data)))


def modules(records: Sequence[Record]) -> list[Module]:
    return [record for record in records if isinstance(record, Module)]


CRASHES: dict[str, Callable[[Sequence[ReportedModule]], Any]] = {
    "an event of Sentry": lambda listed: sentry_event(listed, FROM_BOTTOM),
    "an envelope": lambda listed: envelope([sentry_event(listed, FROM_BOTTOM)]),
    "a list of events": lambda listed: [sentry_event(listed, FROM_BOTTOM)],
    "an answer of symbolicator": lambda listed: symbolicator_answer(listed, [each.path for each in FRAMES]),
    "a report of minidump-stackwalk": lambda listed: stackwalk_report(listed, FROM_TOP),
    "a report of Socorro": lambda listed: socorro_report(listed, FROM_TOP),
}


@pytest.mark.parametrize("write", CRASHES.values(), ids=CRASHES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_crash_report_gives_its_modules_and_the_crash(
    write: Callable[[Sequence[ReportedModule]], Any], encoding: str
) -> None:
    document = write(MODULES)
    text = document.decode() if isinstance(document, bytes) else json.dumps(document, indent=1)
    records = read(text.encode(encoding))
    head, *rest = records
    assert isinstance(head, Input)
    assert head.kind is InputKind.CRASH_REPORT
    assert head.details["module_count"] == 4
    app, lib, found, no_id = modules(rest)
    assert (app.name, [pdb.key for pdb in app.pdbs]) == ("app.exe", [APP_PDB])
    assert app.image == ImageKey("app.exe", 0x5F000000, 0x8000)
    assert app.base == 0x10000
    assert [pdb.key for pdb in lib.pdbs] == [LIB_PDB]
    assert lib.image == ImageKey("lib.dll", 0x12345, 0x200000)
    assert (app.is_missed, lib.is_missed, found.is_missed) == (False, True, False)
    assert (no_id.pdbs, no_id.image) == ((), ImageKey("xp.dll", 0x4CE7B8A2, 0x9000))
    assert no_id.problem is not None
    (stack,) = [record for record in records if isinstance(record, CrashStack)]
    assert [(each.module.name, each.words) for each in stack.modules] == [("lib.dll", 2), ("app.exe", 1)]
    assert not [record for record in records if isinstance(record, Unreadable)]


def test_a_report_says_versions_and_unloaded_modules() -> None:
    gone = ReportedModule("gone.sys", None, stamp=0x5F00AAAA, size=0x7000)
    app, unloaded = modules(read(stackwalk_report([APP], unloaded=[gone])))
    assert app.version is not None
    assert (app.version.file_version, app.version.file_numbers) == ("1.2.3.4", (1, 2, 3, 4))
    assert (unloaded.unloaded, unloaded.image) == (True, ImageKey("gone.sys", 0x5F00AAAA, 0x7000))


def test_a_profile_gives_the_modules_of_all_its_processes_once() -> None:
    records = read(firefox_profile([APP, LINUX], [[APP, LIB], [FOUND]]))
    head = records[0]
    assert isinstance(head, Input)
    assert (head.kind, head.details["other_modules"]) == (InputKind.PROFILE, 1)
    assert [module.name for module in modules(records)] == ["app.exe", "lib.dll", "found.dll"]
    assert modules(records)[0].pdbs[0].key == APP_PDB
    (remark,) = [record.text for record in records if isinstance(record, Remark)]
    assert "1 of the modules it lists are not of Windows" in remark


def test_modules_of_other_systems_alone_are_said_to_have_no_pdb() -> None:
    _, problem = read(firefox_profile([LINUX]))
    assert isinstance(problem, Unreadable)
    assert "none of the 1 modules" in problem.problem
    mac = {"type": "macho", "debug_id": str(GUID), "code_file": "/x", "debug_file": "x.pdb"}
    head, *rest = read(sentry_event([APP], others=[mac]))
    assert isinstance(head, Input)
    assert (head.details["other_modules"], len(modules(rest))) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "debug_id", "key", "format_"),
    [
        pytest.param("pe", f"{GUID}-1", APP_PDB, PdbFormat.NATIVE, id="dashed"),
        pytest.param("pe", f"{GUID.hex}1", APP_PDB, PdbFormat.NATIVE, id="as Breakpad"),
        pytest.param("pe", f"{str(GUID).upper()}-1F", PdbKey("app.pdb", GUID, 0x1F), PdbFormat.NATIVE, id="hex age"),
        pytest.param("pe", str(GUID), PdbKey("app.pdb", GUID, 0), PdbFormat.NATIVE, id="without an age"),
        pytest.param("pe_dotnet", f"{GUID}-1", APP_PDB, PdbFormat.NATIVE, id=".NET, a Windows PDB"),
        pytest.param(
            "pe_dotnet", f"{GUID}-8ae5fbf3", PortablePdbKey("app.pdb", GUID), PdbFormat.PORTABLE, id=".NET, portable"
        ),
        pytest.param(
            "pe_dotnet", str(GUID), PortablePdbKey("app.pdb", GUID), PdbFormat.PORTABLE, id=".NET, without a stamp"
        ),
        pytest.param("pe", f"{GUID}-ffffffff", PortablePdbKey("app.pdb", GUID), PdbFormat.PORTABLE, id="a store's id"),
        pytest.param("pe", "3f4d0b2a-1", Pdb2Key("app.pdb", 0x3F4D0B2A, 1), PdbFormat.PDB2, id="a PDB 2.0"),
    ],
)
def test_every_form_of_an_id_is_understood(kind: str, debug_id: str, key: Any, format_: PdbFormat) -> None:
    event = sentry_event([], others=[sentry_image(APP, kind, debug_id)])
    (module,) = modules(read(event))
    assert [(pdb.key, pdb.format) for pdb in module.pdbs] == [(key, format_)]


def test_a_checksum_of_a_portable_pdb_is_passed_on_but_not_what_only_a_lock_file_says() -> None:
    for stated, told in (("SHA256:" + "AB" * 32, ("SHA256:" + "ab" * 32,)), ("SHA256-file:" + "ab" * 32, ())):
        image = sentry_image(APP, "pe_dotnet", f"{GUID}-8ae5fbf3") | {"debug_checksum": stated}
        (module,) = modules(read(sentry_event([], others=[image])))
        assert module.pdbs[0].checksums == told


@pytest.mark.parametrize(
    "nil",
    [
        pytest.param("0" * 33, id="as Breakpad"),
        pytest.param("00000000-0000-0000-0000-000000000000-1", id="dashed"),
        pytest.param("", id="empty"),
        pytest.param("not an id", id="no id"),
    ],
)
def test_an_id_of_zeros_is_none(nil: str) -> None:
    image = sentry_image(APP) | {"debug_id": nil, "code_id": "0" * 12}
    (module,) = modules(read(sentry_event([], others=[image])))
    assert (module.pdbs, module.image) == ((), None)
    assert module.problem is not None


def test_names_that_no_file_can_have_are_said_and_the_rest_goes_on() -> None:
    image = sentry_image(APP) | {"debug_file": "..", "code_file": r"C:\x\nul"}
    bad, app = modules(read(sentry_event([APP], others=[image])))
    assert (bad.pdbs, app.pdbs[0].key) == ((), APP_PDB)
    assert bad.problem is not None


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"modules": []}, id="an empty list"),
        pytest.param({"modules": [{"id": 1, "chunks": []}]}, id="a bundler's statistics"),
        pytest.param({"images": ["a.png"], "libs": [1, 2]}, id="lists of other things"),
        pytest.param({"x": '"libs": [{"debugName": "a.pdb"}]'}, id="a quoted profile"),
        pytest.param([1, 2], id="numbers"),
        pytest.param({}, id="nothing"),
    ],
)
def test_json_of_another_kind_is_named_as_such(document: Any) -> None:
    with pytest.raises(UnknownFormat, match=r"JSON of another kind: .* are read"):
        detect(BytesView(json.dumps(document).encode()))


def test_a_report_that_is_cut_gives_what_stands_before_the_cut() -> None:
    text = json.dumps(stackwalk_report(MODULES))
    cut = text[: text.index("found.dll")].encode()
    records = read(cut)
    assert [module.name for module in modules(records)] == ["app.exe", "lib.dll"]
    assert records[-1] == Unreadable(
        "x.json", "its list 'modules' is damaged or cut short, so that not all of it was read"
    )


def test_a_profile_that_is_cut_behind_its_first_list_says_so() -> None:
    text = json.dumps(firefox_profile([APP], [[LIB]]))
    records = read(text[: text.rindex('"libs"')].encode())
    assert [module.name for module in modules(records)] == ["app.exe"]
    assert isinstance(records[-1], Unreadable)
    assert records[-1].problem.startswith("it is cut short")


def test_an_image_of_an_old_event_is_called_by_its_name() -> None:
    image = {"type": "symbolic", "name": r"C:\x\app.exe", "code_id": "5f0000008000", "image_addr": "0x1000"}
    (module,) = modules(read({"debug_meta": {"images": [image]}}))
    assert module.image == ImageKey("app.exe", 0x5F000000, 0x8000)


def test_a_report_of_unloaded_modules_alone_is_one() -> None:
    unloaded = {"base_addr": "0xf00000", "code_id": "B1054D2A1000", "filename": "gone.dll"}
    (module,) = modules(read({"status": "OK", "modules": [], "unloaded_modules": [unloaded]}))
    assert (module.unloaded, module.image) == (True, ImageKey("gone.dll", 0xB1054D2A, 0x1000))


def test_images_of_other_languages_and_gaps_hide_none_of_windows() -> None:
    event = sentry_event([APP, LIB], FROM_BOTTOM)
    images = event["debug_meta"]["images"]
    images[0:0] = [None, {"type": "proguard", "uuid": str(GUID)}]
    images.insert(3, {"type": "proguard", "uuid": str(GUID)})
    assert [module.name for module in modules(read(event))] == ["app.exe", "lib.dll"]


def test_images_of_before_sentry_had_types_are_told_by_their_names() -> None:
    records = read({"debug_meta": {"images": [sentry_image(APP, "symbolic"), sentry_image(LINUX, "symbolic")]}})
    assert [module.name for module in modules(records)] == ["app.exe"]


def test_a_large_profile_costs_little_memory_and_time(record_property: Callable[[str, object], None]) -> None:
    text = json.dumps(firefox_profile([APP], [[LIB]], samples=300_000)).encode()
    assert len(text) > 10_000_000
    measure([text], read).check(record_property)


def test_what_is_made_to_be_slow_is_read_in_time(record_property: Callable[[str, object], None]) -> None:
    deep = b'{"libs": [' + b'{"debugName": ' * 200_000
    lists = b'{"x": 0' + b', "libs": [{"debugName": 1' * 100_000
    names = b'{"x": 0' + b', "libs"' * 1_000_000
    many = json.dumps({"libs": [{"name": f"{n}.dll", "debugName": "a.pdb"} for n in range(40_000)]}).encode()
    long = b'{"libs": [{"debugName": "' + b"a" * 8_000_000 + b'"}]}'
    nested = b'{"modules": [{"debug_id": ' + b"[[]," * 400_000
    # Eight megabytes of nothing but names take 33 counts.
    measure([deep, lists, names, many, long, nested], read).check(record_property, most_counts=80)


def read_or_refuse(data: bytes) -> None:
    try:
        detect(BytesView(data))
    except InputError:
        return
    assert read(data)


def test_damage_ends_in_records() -> None:
    for write in CRASHES.values():
        document = write(MODULES)
        seed = document if isinstance(document, bytes) else json.dumps(document).encode()
        for data in mutants(seed, 100):
            read_or_refuse(data)


_NAMES = ["modules", "images", "libs", "values", "threads", "frames", "debug_id", "debug_file", "code_id", "code_file"]
_NAMES += ["type", "filename", "stacktrace", "crashing_thread", "crash_info", "debug_status", "debugName", "name"]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.sampled_from(["pe", "0" * 33, str(GUID)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=20,
)


@given(_VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    read_or_refuse(json.dumps(value).encode())
