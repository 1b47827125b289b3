from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.parts import WINE_LACKS
from support.synth.pe import ImagePlan, dbg_bytes, disk_bytes

from symcache.formats.view import FileView
from symcache.inputs import folder as folders
from symcache.inputs.folder import read_folder
from symcache.inputs.image import is_image, read_image
from symcache.inputs.records import Input, InputKind, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.inputs.folder import Reader

IMAGE = disk_bytes(ImagePlan(0x4549B18E))


def choose(start: bytes) -> Reader | None:
    return read_image if is_image(start) else None


def read(path: Path, *, threads: int = 2) -> list[Module | Unreadable]:
    first, *rest = read_folder(path, choose, threads=threads)
    assert first == Input(str(path), InputKind.FOLDER)
    found = [record for record in rest if isinstance(record, Module | Unreadable)]
    assert len(found) == len(rest)
    return found


def names(path: Path, records: list[Module | Unreadable]) -> list[str]:
    return [os.path.relpath(record.path or "", path).replace(os.sep, "/") for record in records]


def fill(root: Path, *files: str, data: bytes = IMAGE) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)


def test_images_below_a_folder_come_in_the_order_of_the_walk(tmp_path: Path) -> None:
    files = ["a.exe", "b/c.dll", "b/d/e.sys", "b/f.dll", *(f"many/{n:03}.dll" for n in range(200)), "z.exe"]
    fill(tmp_path, *reversed(files))
    assert names(tmp_path, read(tmp_path)) == files
    assert names(tmp_path, read(tmp_path, threads=1)) == files


def test_dbg_files_are_taken_and_other_files_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "x.dbg", data=dbg_bytes(ImagePlan(1)))
    fill(tmp_path, "readme.dll", "empty.dll", data=b"")
    fill(tmp_path, "picture.exe", data=b"\x89PNG" + bytes(100))
    fill(tmp_path, "DIARY.txt", data=b"DIARY of a developer")
    assert names(tmp_path, read(tmp_path)) == ["x.dbg"]


def test_a_damaged_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    fill(tmp_path, "a.exe", "c.exe")
    fill(tmp_path, "b.exe", data=IMAGE[:0x90])
    fill(tmp_path, "d.com", data=b"MZ".ljust(0x200, b"\0"))
    first, bad, last, dos = read(tmp_path)
    assert isinstance(first, Module)
    assert bad == Unreadable(str(tmp_path / "b.exe"), "the file ends within its PE header", 0x90)
    assert isinstance(last, Module)
    assert dos == Unreadable(str(tmp_path / "d.com"), "not a PE image: a DOS program", 0)


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.exe", "b.exe")

    def refuse(path: str) -> FileView:
        if path.endswith("a.exe"):
            raise PermissionError(13, "Permission denied", path)
        return FileView(path)

    monkeypatch.setattr(folders, "FileView", refuse)
    refused, module = read(tmp_path)
    assert refused == Unreadable(str(tmp_path / "a.exe"), "Permission denied")
    assert isinstance(module, Module)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may list any folder")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, "closed/a.exe", "open/b.exe")
    (tmp_path / "closed").chmod(0)
    try:
        refused, module = read(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert refused == Unreadable(str(tmp_path / "closed"), "Permission denied")
    assert isinstance(module, Module)


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "closed/a.exe", "open/b.exe")
    scandir = os.scandir

    def refuse(path: str) -> os._ScandirIterator[str]:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused, module = read(tmp_path)
    assert refused == Unreadable(str(tmp_path / "closed"), "Permission denied")
    assert isinstance(module, Module)


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (problem,) = read(tmp_path / "gone")
    assert isinstance(problem, Unreadable)
    assert problem.path == str(tmp_path / "gone")


def link(at: Path, target: Path | str) -> None:
    try:
        at.symlink_to(target)
    except (OSError, NotImplementedError) as error:
        pytest.skip(f"no symbolic links here: {error}")
    if not at.is_symlink():
        pytest.skip(f"wine lacks {WINE_LACKS['links']}")


def test_links_to_folders_never_lead_round_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "a/b/c.exe")
    link(tmp_path / "a" / "up", tmp_path)
    link(tmp_path / "a" / "b" / "here", ".")
    assert names(tmp_path, read(tmp_path)) == ["a/b/c.exe"]


def test_a_folder_named_by_a_link_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "real/a.exe")
    link(tmp_path / "alias", tmp_path / "real")
    assert names(tmp_path / "alias", read(tmp_path / "alias")) == ["a.exe"]


def test_links_to_files_are_followed_and_loops_of_them_reported(tmp_path: Path) -> None:
    fill(tmp_path, "a.exe")
    link(tmp_path / "b.exe", "a.exe")
    link(tmp_path / "c.exe", "nowhere")
    link(tmp_path / "d.exe", "d.exe")
    records = read(tmp_path)
    assert names(tmp_path, records) == ["a.exe", "b.exe", "d.exe"]
    assert [type(record) for record in records] == [Module, Module, Unreadable]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    fill(tmp_path, "a.exe")
    os.mkfifo(tmp_path / "b.exe")  # opening it to read would wait for a writer
    assert names(tmp_path, read(tmp_path)) == ["a.exe"]


def test_a_tree_deeper_than_the_folders_held_open_is_read(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 70)
    fill(tmp_path, f"{deep}/a.exe", f"{deep}/z/b.exe", "c.exe")
    assert names(tmp_path, read(tmp_path)) == ["c.exe", f"{deep}/a.exe", f"{deep}/z/b.exe"]


def test_a_file_is_read_no_further_than_its_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.exe", data=disk_bytes(ImagePlan(1, payload_bytes=2_000_000)))
    read_bytes = 0

    class Counting(FileView):
        def read(self, offset: int, length: int) -> bytes:
            nonlocal read_bytes
            read_bytes += length
            return super().read(offset, length)

    monkeypatch.setattr(folders, "FileView", Counting)
    read(tmp_path)
    assert 0 < read_bytes < 8192


def test_no_more_folders_are_held_open_however_deep_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "/".join(["d"] * 70)
    fill(tmp_path, f"{deep}/a.exe")
    scandir = os.scandir
    open_now, most = 0, 0

    @contextmanager
    def counted(path: str) -> Iterator[os._ScandirIterator[str]]:
        nonlocal open_now, most
        with scandir(path) as entries:
            open_now += 1
            most = max(most, open_now)
            yield entries
        open_now -= 1

    monkeypatch.setattr(os, "scandir", counted)
    assert names(tmp_path, read(tmp_path)) == [f"{deep}/a.exe"]
    assert 60 < most < 70
    assert open_now == 0


def test_a_junction_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.exe", "junction/b.exe")
    monkeypatch.setattr(folders, "is_junction", lambda entry: entry.name == "junction")
    assert names(tmp_path, read(tmp_path)) == ["a.exe"]


def test_the_walk_stays_near_a_slow_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"{n:04}.exe" for n in range(1000)))
    walk = folders._walk
    walked = 0

    def counted(root: Path) -> Generator[str | Unreadable, None, None]:
        nonlocal walked
        for file in walk(root):
            walked += 1
            yield file

    monkeypatch.setattr(folders, "_walk", counted)
    records = read_folder(tmp_path, choose, threads=1)
    next(records)
    assert isinstance(next(records), Module)
    assert walked < 150
    assert isinstance(records, Generator)
    records.close()


def test_all_threads_end_with_the_walk(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n:03}.exe" for n in range(100)))
    before = threading.active_count()
    assert len(read(tmp_path, threads=4)) == 100
    assert threading.active_count() == before
