"""Which files of a watched folder are ready, told by looks at real files and a clock that is set."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.parts import wine_lacks
from support.synth.etl import build_etl, log_header
from support.synth.kernelmemory import build_machine
from support.synth.memoryimages import elf_bytes, lime_bytes, vmware_files
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pagetables import Paging
from support.windows import held_open, only_windows

from symcache.errors import StoreError, UsageError
from symcache.warm.report import Report
from symcache.watch import files
from symcache.watch.files import (
    FORMS,
    Found,
    Looker,
    Patience,
    Reports,
    Stamp,
    check_names,
    file_report,
    is_final,
    is_unchanged,
    is_within,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
APP = MinidumpModule("C:\\app\\app.exe", 0x1_4000_0000, 0x9000, 0x5AB38077, rsds_record(GUID, 10, "d:\\b\\app.pdb"))
DUMP = build_minidump(MinidumpPlan([APP], memory=[(0x1000, bytes(4096))]))
LOG = b"SYMCHK: app.exe FAILED\n" * 2 + b"DBGHELP: app.pdb - mismatched\n"
NAMING_LOG = (
    b"0:000> lm\r\nDBGHELP: C:\\sym\\app.pdb\\2DCFE7E3D09648B94C4C44205044422EA\\app.pdb - file not found\r\n"
    b"SYMSRV:  C:\\sym\\app.pdb\\2DCFE7E3D09648B94C4C44205044422EA\\app.pdb not found\r\n"
)
SENTRY_IMAGE = {"type": "pe", "debug_file": "app.pdb", "debug_id": "2dcfe7e3-d096-48b9-4c4c-44205044422e-a"}
EMPTY = Report(symbol_path="srv*", store=None, seconds=0.0, symbols=())


class Watched:
    """A folder that is looked at, and a clock."""

    def __init__(self, folder: Path, reports: Reports | None = None, patience: Patience | None = None) -> None:
        self.folder = folder
        self.now_s = 1000.0
        self.said: list[str] = []
        self.looker = Looker(
            [folder], reports or Reports(), patience or Patience(), self.said.append, clock_s=lambda: self.now_s
        )

    def look(self, after_s: float = 0.0) -> list[str]:
        """Look after some time; return the names of what is ready."""
        self.now_s += after_s
        self.last = self.looker.look()
        return [found.path.relative_to(self.folder).as_posix() for found in self.last.ready]

    def settled(self) -> list[str]:
        self.look()
        return self.look(2.0)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "hot").mkdir()
    return Watched(tmp_path / "hot")


def write(watched: Watched, name: str, content: bytes = DUMP) -> Path:
    path = watched.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def age(path: Path, seconds: float) -> None:
    """Let *path* have changed that long ago, so that what follows has another time, whatever the disk's steps are."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


def test_a_file_is_ready_when_two_looks_agree(watched: Watched) -> None:
    write(watched, "app.dmp")
    assert watched.look() == []
    assert watched.last.due_s == watched.now_s + 2.0
    assert watched.look(1.9) == []
    assert watched.look(0.1) == ["app.dmp"]
    assert (watched.last.waiting, watched.last.is_full) == (0, False)


def test_a_file_that_grows_or_is_written_again_is_waited_for(watched: Watched) -> None:
    path = write(watched, "app.dmp", DUMP[:2000])
    watched.look()
    path.write_bytes(DUMP)
    assert watched.look(2.0) == []
    age(path, 100)
    assert watched.look(2.0) == []
    assert watched.look(2.0) == ["app.dmp"]


def test_a_rename_into_place_is_ready_as_soon_as_it_has_been_seen_twice(watched: Watched) -> None:
    path = write(watched, ".app.dmp.part")
    assert watched.settled() == []
    path.rename(watched.folder / "app.dmp")
    assert watched.settled() == ["app.dmp"]


@pytest.mark.parametrize("length", [len(DUMP) - 1000, 200, 20], ids=["its memory", "its modules", "its header"])
def test_a_dump_that_is_cut_short_is_waited_for_and_then_taken_as_it_is(watched: Watched, length: int) -> None:
    write(watched, "app.dmp", DUMP[:length])
    assert watched.settled() == []
    assert watched.last.waiting == 1
    seen = [watched.look(30.0) for _ in range(19)]
    assert seen == [[]] * 19
    assert watched.look(60.0) == ["app.dmp"]


def test_looks_at_a_cut_dump_come_less_and_less_often(watched: Watched) -> None:
    write(watched, "app.dmp", DUMP[:-1000])
    watched.settled()
    pauses = []
    for _ in range(6):
        assert watched.last.due_s is not None
        pauses.append(watched.last.due_s - watched.now_s)
        watched.look(pauses[-1])
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_a_dump_that_cannot_be_read_is_waited_for_a_minute(watched: Watched) -> None:
    write(watched, "bad.dmp", b"MDMP" + bytes(4096))
    assert watched.settled() == []
    assert watched.look(57.0) == []
    assert watched.look(1.0) == ["bad.dmp"]


MACHINE = build_machine(replace(kernel_plan(Paging.X64), searchable=True))
LIME = lime_bytes(MACHINE)
VMEM, VMSS = vmware_files(MACHINE)


def test_memory_that_is_cut_short_is_waited_for(watched: Watched) -> None:
    path = write(watched, "hung.lime", LIME[:-5000])
    write(watched, "core", elf_bytes(MACHINE)[:-5000])
    assert watched.settled() == []
    assert watched.look(300.0) == []
    path.write_bytes(LIME)
    assert watched.look(10.0) == []
    assert watched.look(2.0) == ["hung.lime"]
    assert sorted(watched.look(300.0)) == ["core", "hung.lime"]


@pytest.mark.parametrize("state", [".vmss", ".vmsn"])
def test_of_vmwares_two_files_the_memory_is_taken_once_both_are_there(watched: Watched, state: str) -> None:
    write(watched, "vm.vmem", VMEM)
    assert watched.settled() == []
    write(watched, f"vm{state}", VMSS)
    assert watched.look(30.0) == ["vm.vmem"]


def test_memory_that_comes_after_its_state_is_taken_at_once(watched: Watched) -> None:
    write(watched, "vm.vmss", VMSS)
    assert watched.settled() == []
    write(watched, "vm.vmem", VMEM)
    assert watched.settled() == ["vm.vmem"]


def test_a_state_without_memory_is_passed_over_and_memory_without_its_state_is_taken_late(watched: Watched) -> None:
    write(watched, "snapshot.vmsn", VMSS)
    write(watched, "alone.vmem", VMEM)
    assert watched.settled() + watched.look(590.0) == []
    assert watched.look(30.0) == ["alone.vmem"]


def test_subfolders_are_walked_and_what_is_none_of_its_business_is_passed_over(watched: Watched) -> None:
    write(watched, "2026/11/app.dmp")
    write(watched, "session.log", NAMING_LOG)
    write(watched, "event.json", json.dumps({"debug_meta": {"images": [SENTRY_IMAGE]}}).encode())
    write(watched, "boot.etl", build_etl([log_header()]))
    write(watched, "report.zip", zipped({"deep/app.dmp": DUMP}))
    for name, content in {
        "notes.txt": b"remember the milk\n",
        "says nothing.log": LOG,
        "app.exe": b"MZ" + bytes(1000),
        "empty.dmp": b"",
        "page.html": b"<html></html>",
        ".hidden/app.dmp": DUMP,
        ".app.dmp": DUMP,
        "list.txt": b"app.pdb/2DCFE7E3D09648B94C4C44205044422EA/app.pdb\n",
        "holiday.zip": zipped({"beach.jpg": b"\xff\xd8" + bytes(1000), "notes.txt": b"remember the milk\n"}),
        "settings.json": b'{"theme": "dark"}',
    }.items():
        write(watched, name, content)
    for form in FORMS:
        write(watched, f"x.dmp.symcache.{form}", NAMING_LOG)
    assert sorted(watched.settled()) == ["2026/11/app.dmp", "boot.etl", "event.json", "report.zip", "session.log"]


def test_a_dump_in_an_archive_that_cannot_be_read_is_reported_after_a_while(watched: Watched) -> None:
    locked = bytearray(zipped({"app.dmp": DUMP}))
    for at in (6, locked.rindex(b"PK\1\2") + 8):
        locked[at] |= 1  # with a password
    write(watched, "case.zip", bytes(locked))
    write(watched, "app.dmp.7z", b"7z\xbc\xaf\x27\x1c" + bytes(60))
    write(watched, "holiday.7z", b"7z\xbc\xaf\x27\x1c" + bytes(60))
    write(watched, "app.dmp.md5", b"d41d8cd98f00b204e9800998ecf8427e")
    assert watched.settled() == []
    assert sorted(watched.look(120.0)) == ["app.dmp.7z", "case.zip"]


def test_what_was_passed_over_is_looked_at_again_when_it_changes(watched: Watched) -> None:
    path = write(watched, "session.log", b"Microsoft (R) Windows Debugger\n")
    assert watched.settled() == []
    assert watched.last.waiting == 0
    path.write_bytes(NAMING_LOG)
    assert watched.settled() == ["session.log"]


@wine_lacks("links")
def test_links_are_not_followed(watched: Watched, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.dmp").write_bytes(DUMP)
    (watched.folder / "folder").symlink_to(elsewhere, target_is_directory=True)
    (watched.folder / "link.dmp").symlink_to(elsewhere / "secret.dmp")
    assert watched.settled() == []


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX alone")
def test_pipes_are_not_opened(watched: Watched) -> None:
    if sys.platform != "win32":
        os.mkfifo(watched.folder / "pipe.dmp")
    assert watched.settled() == []


def test_a_dump_that_may_not_be_read_is_taken_once_to_say_so(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("symcache.watch.files.FileView", refuse)  # root may read everything
    write(watched, "app.dmp")
    write(watched, "other")
    assert watched.settled() == ["app.dmp"]


@only_windows
def test_a_file_that_nobody_else_may_open_is_waited_for(watched: Watched) -> None:
    path = write(watched, "app.dmp")
    with held_open(path, is_shared=False):
        assert watched.settled() == []
        assert watched.look(60.0) == []
    assert watched.look(60.0) == ["app.dmp"]


@only_windows
def test_a_file_that_is_open_for_writing_is_waited_for(watched: Watched) -> None:
    path = write(watched, "app.dmp")
    with path.open("r+b"):
        assert watched.settled() == []
    assert watched.look(60.0) == ["app.dmp"]


def test_a_final_report_ends_it_over_a_restart_and_a_new_file_of_the_name_begins_it_again(watched: Watched) -> None:
    path = write(watched, "app.dmp")
    age(path, 3600)
    assert watched.settled() == ["app.dmp"]
    (found,) = watched.last.ready
    assert found.report == watched.folder / "app.dmp.symcache.txt"
    file_report(EMPTY, found.report, found.stamp, final=True)
    assert watched.look(2.0) == []
    again = Watched(watched.folder)
    assert again.settled() == []
    assert again.last.waiting == 0
    path.write_bytes(DUMP + b"\0")  # of now
    assert again.settled() == ["app.dmp"]


def test_a_report_that_is_not_final_ends_nothing(watched: Watched) -> None:
    write(watched, "app.dmp")
    watched.settled()
    (found,) = watched.last.ready
    file_report(EMPTY, found.report, found.stamp, final=False)
    assert not is_final(found.report, found.stamp)
    assert Watched(watched.folder).settled() == ["app.dmp"]


def test_what_is_put_back_comes_again_after_its_pause(watched: Watched) -> None:
    write(watched, "app.dmp")
    watched.settled()
    (found,) = watched.last.ready
    for tries in range(3):
        assert watched.looker.tries(found) == tries
        watched.looker.put_back(found, 30.0)
        assert watched.look(29.0) == []
        assert watched.look(1.0) == ["app.dmp"]


def test_what_cannot_have_a_report_is_told_once(watched: Watched) -> None:
    write(watched, "app.dmp")
    watched.settled()
    watched.looker.pass_over(watched.last.ready[0])
    assert watched.settled() == []


def test_what_files_take_that_are_opened_is_told_apart(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    write(watched, "large.log")
    assert watched.settled() == ["large.log"]
    assert watched.last.judging_s == 0

    def judge(_path: Path, _stamp: Stamp) -> object:
        watched.now_s += 50
        return files._Verdict.PASS

    monkeypatch.setattr(files, "_judge", judge)
    assert watched.look() == []
    assert watched.last.judging_s == 50


def test_hundreds_come_in_portions(watched: Watched) -> None:
    for number in range(300):
        write(watched, f"{number:03}.log", NAMING_LOG)
    first = watched.settled()
    assert watched.last.is_full
    for found in watched.last.ready:
        file_report(EMPTY, found.report, found.stamp, final=True)
    second = watched.look()
    assert (len(first), len(second)) == (256, 44)
    assert not set(first) & set(second)


def test_a_folder_that_is_not_there_is_said_once_until_it_comes_back(watched: Watched, tmp_path: Path) -> None:
    watched.folder.rename(tmp_path / "away")
    watched.look()
    watched.look()
    assert len(watched.said) == 1
    assert str(watched.folder) in watched.said[0]
    (tmp_path / "away").rename(watched.folder)
    watched.look()
    watched.folder.rename(tmp_path / "away")
    watched.look()
    assert len(watched.said) == 2


def test_reports_elsewhere_lie_as_their_files_do(tmp_path: Path) -> None:
    hot, other = tmp_path / "hot", tmp_path / "other"
    reports = Reports("html", tmp_path / "reports")
    path = hot / "a" / "app.dmp"
    assert reports.path_of(hot, path) == tmp_path / "reports" / "a" / "app.dmp.symcache.html"
    several = reports.path_of(hot, path, among_several=True)
    assert several == tmp_path / "reports" / "hot" / "a" / "app.dmp.symcache.html"
    check_names([hot, other])
    with pytest.raises(UsageError, match=r"(?i)two folders called hot"):
        check_names([hot, tmp_path / "x" / "HOT"])


def test_a_report_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="the report cannot be written"):
        file_report(EMPTY, tmp_path / "file" / "x.txt", Stamp(1, 1), final=True)


@wine_lacks("links")
@pytest.mark.parametrize("is_link", [False, True], ids=["a folder", "a link that took its place"])
def test_a_report_follows_no_link_out_of_the_watched_folder(tmp_path: Path, is_link: bool) -> None:
    hot, elsewhere = tmp_path / "hot", tmp_path / "elsewhere"
    for folder in (hot, elsewhere):
        folder.mkdir()
    place = hot / "sub"
    if is_link:
        place.symlink_to(elsewhere, target_is_directory=True)
    else:
        place.mkdir()
    assert is_within(Found(hot, place / "x.dmp", Stamp(1, 1), place / "x.txt")) is not is_link


def test_a_file_that_changed_or_went_is_not_what_was_found(watched: Watched) -> None:
    path = write(watched, "app.dmp")
    watched.settled()
    (found,) = watched.last.ready
    assert is_unchanged(found)
    path.write_bytes(DUMP + b"\0")
    assert not is_unchanged(found)
    path.unlink()
    assert not is_unchanged(found)


@pytest.mark.parametrize(
    "make", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")], ids=["gone", "empty"]
)
def test_a_file_that_goes_between_looks_is_forgotten(watched: Watched, make: Callable[[Path], object]) -> None:
    path = write(watched, "app.dmp")
    watched.look()
    make(path)
    assert watched.settled() == []
    assert watched.last.waiting == 0
