"""A program that stands in for wimlib-imagex, and misbehaves; `tests/e2e/test_disks.py` has the real one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any, TypeAlias

import pytest
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes
from support.synth.wim import WimPlan, build_wim

from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.events import InputAdvanced
from symcache.formats.view import BytesView, FileView
from symcache.inputs import wimlib
from symcache.inputs.detect import InputOptions
from symcache.inputs.disk import read_disk
from symcache.inputs.records import Module, Unreadable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the program")

Fake: TypeAlias = Callable[..., Path]

ESD = bytearray(build_wim(WimPlan({"One": {"x.sys": b"MZ"}})))
ESD[12:16] = b"\x00\x0e\0\0"  # solid
NTFS = disk_bytes(ImagePlan(0x60000000, code_views=(CodeViewPlan("ntfs.pdb"),)))
DRIVERS = "/Windows/System32/drivers"

FAILING = """print('[ERROR] Bad\\x1b[1m data!\\nERROR: Exiting with error code 2:\\n   It is bad.', file=sys.stderr)
sys.exit(2)"""

_PROGRAM = f"""#!{sys.executable} -IS
import os, sys, time
command, file, number, *options = sys.argv[1:]
place = os.path.dirname(sys.argv[0])

def show(path, size, flags=0x20, hash_="ab"):
    print(f'Full Path           = "{{path}}"\\nAttributes          = 0x{{flags:08x}}\\n\\tUnnamed data stream:')
    print(f"Hash              = 0x{{hash_ * 20}}\\nUncompressed size = {{size}} bytes\\n")

def take_out(path, data):
    (target,) = [each.partition("=")[2] for each in options if each.startswith("--dest-dir=")]
    path = target + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path

with open(place + "/calls", "a") as calls:
    print(*sys.argv[1:], sep="\\n", end="\\n\\n", file=calls)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """What makes the program, of what it does to list and to extract; returns the scratch files' folder."""
    folder = tmp_path / "programs"
    folder.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def make(listing: str = f"show('{DRIVERS}/ntfs.sys', {len(NTFS)})", extracting: str = "pass") -> Path:
        program = folder / "wimlib-imagex"
        ntfs = f"NTFS = {NTFS!r}\n"
        body = f"if command == 'dir':\n{indent(listing, '    ')}\nelse:\n{indent(extracting, '    ')}\n"
        program.write_text(_PROGRAM + ntfs + body, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return scratch

    return make


def read(**more: Any) -> list[Any]:
    options = InputOptions(**more)
    return list(read_disk(BytesView(bytes(ESD)), "x.esd", names=options.disk_names(), options=options))


def test_what_the_set_names_is_extracted_by_whole_paths(fake: Fake, tmp_path: Path) -> None:
    told: list[InputAdvanced] = []
    more = f"show('{DRIVERS}/readme.txt', 5, hash_='cd')\nshow('/Windows/WinSxS/x/ntfs.sys', 9, hash_='ef')"
    scratch = fake(
        f"show('{DRIVERS}/ntfs.sys', {len(NTFS)})\n{more}",
        f"take_out('{DRIVERS}/ntfs.sys', NTFS)\nlist_ = [each for each in options if each.startswith('@')][0][1:]\n"
        "os.rename(list_, place + '/list')",
    )
    records = read(observer=told.append)
    assert [record.name for record in records if isinstance(record, Module)] == ["ntfs.sys"]
    assert not any(isinstance(record, Unreadable) for record in records)
    assert (tmp_path / "programs" / "list").read_text() == f"{DRIVERS}/ntfs.sys\n"
    listing, extracting = (tmp_path / "programs" / "calls").read_text().strip().split("\n\n")
    assert listing.splitlines()[0::3] == ["dir", "--detailed"]
    command, file, number, *options = extracting.splitlines()
    assert (command, number, Path(file).parent.parent) == ("extract", "1", scratch)
    assert {each[:2] for each in options} == {"@/", "--"}
    assert told[-1] == InputAdvanced("x.esd", len(NTFS), len(NTFS))
    assert list(scratch.iterdir()) == []


def test_a_file_is_given_by_its_whole_path(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(extracting=f"take_out('{DRIVERS}/ntfs.sys', NTFS)")
    monkeypatch.chdir(tmp_path)
    for name in ("-x.esd", "@x.esd"):
        Path(name).write_bytes(ESD)
        with FileView(name) as view:
            records = list(read_disk(view, name, options=InputOptions()))
        assert [record.name for record in records if isinstance(record, Module)] == ["ntfs.sys"]
        assert f"\n{tmp_path / name}\n1\n" in (tmp_path / "programs" / "calls").read_text()


def test_a_name_that_leaves_the_folder_is_neither_asked_for_nor_opened(fake: Fake) -> None:
    bad = ("../../up.sys", "..\\up.sys", "/up.sys", "./up.sys", "a:b/up.sys", "a/b*.sys", "con.sys", " up\t.sys")
    fake(
        f"for path in {bad}: show('/Windows/' + path, 1, hash_='cd')\nshow('{DRIVERS}/ntfs.sys', {len(NTFS)})",
        f"take_out('{DRIVERS}/ntfs.sys', NTFS)\nassert len(open(options[0][1:]).readlines()) == 1\n"
        "take_out('/../../up.sys', NTFS)",
    )
    records = read()
    assert [record.name for record in records if isinstance(record, Module)] == ["ntfs.sys"]
    passed_over = [record for record in records if isinstance(record, Unreadable)]
    assert {record.path for record in passed_over} == {"x.esd:image 1"}
    assert sum("cannot be a file name" in record.problem for record in passed_over) == len(bad)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_in_the_place_of_a_file_is_not_followed(fake: Fake, tmp_path: Path, is_folder: bool) -> None:
    (tmp_path / "ntfs.sys").write_bytes(NTFS)
    link = f"path = take_out('{DRIVERS}/ntfs.sys', b'')\nos.unlink(path)\n"
    if is_folder:
        link += f"path = os.path.dirname(path)\nos.rmdir(path)\nos.symlink({str(tmp_path)!r}, path)"
    else:
        link += f"os.symlink({str(tmp_path / 'ntfs.sys')!r}, path)"
    fake(extracting=link)
    _, unreadable = read()
    assert "a link was taken out" in unreadable.problem


def test_a_file_that_was_not_written_whole_is_not_read(fake: Fake) -> None:
    fake(extracting=f"take_out('{DRIVERS}/ntfs.sys', NTFS[:-1])")
    _, unreadable = read()
    assert f"{len(NTFS) - 1} of its {len(NTFS)} bytes" in unreadable.problem


@pytest.mark.parametrize(
    ("listing", "extracting", "problem"),
    [
        (None, f"os.truncate(take_out('{DRIVERS}/x', b''), 1 << 30)\ntime.sleep(3600)", "it writes more than the"),
        (None, "time.sleep(3600)", "it came to no end within"),
        (None, "if os.fork() == 0: time.sleep(3600)\ntime.sleep(3600)", "it came to no end within"),
        ("time.sleep(3600)", "pass", "it came to no end within"),
        ("while True: show('/x.sys', 1)", "pass", "its listing has more than"),
        ("while True: print('x' * 65536, end='')", "pass", "it came to no end within"),
        (None, FAILING, r"wimlib-imagex: Bad \[1m data! It is bad\.$"),
        (None, "sys.exit(3)", "wimlib-imagex: it ended with code 3"),
    ],
    ids=["too much", "hangs", "hangs in two", "hangs early", "lists for ever", "one line for ever", "fails", "is mute"],
)  # fmt: skip
def test_a_program_that_misbehaves_is_ended_and_leaves_nothing(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, listing: str | None, extracting: str, problem: str
) -> None:
    is_silent = "no end" in problem
    monkeypatch.setattr(wimlib, "_LONGEST_SILENCE_S", 0.3 if is_silent else 3600)
    monkeypatch.setattr(wimlib, "_LONGEST_S", 1.0 if is_silent else 3600)
    monkeypatch.setattr("symcache.formats.disk.wimlisting._MOST_ENTRIES", 1000)
    scratch = fake(**{"extracting": extracting} | ({} if listing is None else {"listing": listing}))
    with pytest.raises(InputError, match=problem):
        read()
    assert list(scratch.iterdir()) == []


def test_nothing_is_written_where_there_is_no_room(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(f"show('{DRIVERS}/ntfs.sys', {1 << 50})", "pass")
    with pytest.raises(InputError, match=rf"image 1 has {1 << 50} bytes, and the temporary folder has room for"):
        read()
    assert "extract" not in (tmp_path / "programs" / "calls").read_text()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(TruncatedInput, match="which wimlib-imagex needs a copy of"):
        read()


def test_a_program_beside_the_input_is_not_run(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake()
    monkeypatch.chdir(tmp_path / "programs")
    for path in ("", ".", os.pathsep, f".{os.pathsep}../programs"):
        monkeypatch.setenv("PATH", path)
        assert wimlib.find_program() is None


def test_without_leave_no_program_is_run(fake: Fake, tmp_path: Path) -> None:
    fake()
    with pytest.raises(UnknownFormat, match="which is not read: convert it"):
        read(runs_programs=False)
    assert not (tmp_path / "programs" / "calls").exists()
