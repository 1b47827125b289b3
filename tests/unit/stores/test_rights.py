from __future__ import annotations

import os
import stat
import sys
import time
from typing import TYPE_CHECKING

import pytest

from symcache.stores.local import rights
from symcache.stores.local.rights import make_file, make_folders
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="folders hand down their access lists there")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_store_made_in_a_folder_that_is_open_to_everybody_is_not_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with Store(tmp_path / "above" / "sym") as store:
        lock = store.lock("what is taken before anything is fetched")
        assert lock.try_acquire()
        lock.release()
        made = [store.root.parent, store.root, *store.root.rglob("*")]
        assert len(made) == 5
        assert not any(mode_of(path) & stat.S_IWOTH for path in made)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_another_user_puts_in_the_place_of_what_was_made_is_not_followed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, private = tmp_path / "shared", tmp_path / "private"
    shared.mkdir()
    shared.chmod(0o2775)
    private.mkdir(mode=0o700) if kind == "folder" else private.touch(mode=0o600)
    before = mode_of(private)
    made = shared / "made"

    def swap() -> None:
        made.rmdir() if kind == "folder" else made.unlink()
        made.symlink_to(private)

    _before_stat(made, swap, monkeypatch)
    if kind == "folder":
        rights.make_folders(made)
    else:
        os.close(rights.make_file(made, os.O_WRONLY))
    assert made.is_symlink(), "the link was put there in time"
    assert mode_of(private) == before


def _before_stat(made: Path, swap: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call *swap* once, when *made* is there and the folder around it is looked at."""
    look = os.stat

    def stat_(path: object, *args: object, **options: object) -> os.stat_result:
        if path == os.fspath(made.parent) and made.exists() and not made.is_symlink():
            monkeypatch.setattr(os, "stat", look)
            swap()  # type: ignore[operator]
        return look(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat_)


def test_sharing_a_store_follows_no_link_that_is_put_in_the_place_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "sym", tmp_path / "outside"
    for folder in (root / "a.pdb", outside):
        folder.mkdir(parents=True)
        (folder / "file").touch(mode=0o600)
    change = rights._take_over

    def swap(path: str, *arguments: object) -> os.stat_result:
        if path == "file":
            (root / "a.pdb").rename(root / "b.pdb")
            (root / "a.pdb").symlink_to(outside)
        return change(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rights, "_take_over", swap)
    assert rights.share_with(root, os.getgid()) == (2, 0)
    assert mode_of(root / "b.pdb" / "file") == 0o664
    assert mode_of(outside / "file") == 0o600


def refusing(call: Callable[..., int | None], times: int, refused: list[str]) -> Callable[..., int | None]:
    """Return *call*, refused at first, as for another user in the moment before rights are given."""

    def refuse(path: str | Path, *rest: object, **more: object) -> int | None:
        if len(refused) < times:
            refused.append(str(path))
            raise PermissionError(13, "Permission denied", str(path))
        return call(path, *rest, **more)

    return refuse


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_another_user_has_just_made_is_waited_for(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    monkeypatch.setattr(rights, "_PAUSE_S", 0)
    if what == "file":
        monkeypatch.setattr(os, "open", refusing(os.open, 3, refused))
        os.close(make_file(tmp_path / "keys", os.O_RDWR))
    else:
        monkeypatch.setattr(os, "mkdir", refusing(os.mkdir, 3, refused))
        make_folders(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
    assert len(refused) == 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_was_refused_for_long_is_not_waited_for(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    later_s = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later_s)
    if what == "file":
        monkeypatch.setattr(os, "open", refusing(os.open, 100, refused))
        with pytest.raises(PermissionError):
            make_file(tmp_path / "keys", os.O_RDWR)
    else:
        monkeypatch.setattr(os, "mkdir", refusing(os.mkdir, 100, refused))
        with pytest.raises(PermissionError):
            make_folders(tmp_path / "a")
    assert len(refused) == 1


def test_a_umask_counts_for_nothing_below_a_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(0o077)
    try:
        make_folders(tmp_path / "a" / "b")
        os.close(make_file(tmp_path / "a" / "b" / "c", os.O_WRONLY))
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o7777 == 0o2775
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o7777 == 0o664
