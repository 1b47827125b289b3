"""A disk that does not take what arrives."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.answers import file
from support.sources import CAB, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.events import Noted, TransferEnded, TransferStarted
from symcache.stores.http import download
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from support.upstream import Upstream

LARGE = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=3 << 20))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; skips where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("way", ["plain", "cabinet", "store"])
async def test_a_full_disk_fails_the_key_and_leaves_no_scratch(
    way: str, small_disk: Path, upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = LARGE
    place = upstream.url
    if way == "cabinet":
        compressible = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, extra_streams=700_000))
        upstream.files[PATH] = cabinet(compressible)
    if way == "store":
        (rig.folder / "far" / PATH).parent.mkdir(parents=True)
        (rig.folder / "far" / PATH).write_bytes(LARGE)
        place = str(rig.folder / "far")
    async with rig.source(f"srv*{small_disk}*{place}") as source:
        outcome = await source.fetch(KEY)
        assert not [name for name in scratch_files(small_disk) if name.endswith(".part")]
        other = replace(KEY, age=4)
        upstream.files[other.index] = make_pdb(NativePdbSpec(KEY.guid, age=4))
        if way != "store":
            assert isinstance(await source.fetch(other), Fetched)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK
    assert outcome.detail is not None
    assert "the disk is full" in outcome.detail
    assert PATH not in visible(small_disk)
    assert rig.misses() == []


async def test_a_full_store_between_is_passed_over(small_disk: Path, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = LARGE
    async with rig.source(f"srv*{rig.store}*{small_disk}*{upstream.url}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)
        assert not [name for name in scratch_files(small_disk) if name.endswith(".part")]
    assert visible(rig.store) == [PATH]
    assert visible(small_disk) == []
    assert [event for event in rig.events if isinstance(event, Noted)]


@pytest.mark.parametrize("at", [0, 10_000])
async def test_a_write_that_fails_is_an_error_of_the_disk(
    at: int, upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    write_at = download._write_at

    def fail(opened: FileIO, offset: int, data: bytes) -> None:
        if offset + len(data) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(opened, offset, data)

    monkeypatch.setattr(download, "_write_at", fail)
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
        assert not [name for name in scratch_files(rig.store) if name.endswith(".part")]
        monkeypatch.undo()
        assert isinstance(await source.fetch(KEY), Fetched)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK
    started = sum(isinstance(event, TransferStarted) for event in rig.events)
    assert started == sum(isinstance(event, TransferEnded) for event in rig.events) == 2


@pytest.mark.parametrize("content", [PDB, CAB], ids=["plain", "cabinet"])
@pytest.mark.parametrize("step", ["rename", "flush"])
async def test_a_publishing_that_fails_is_an_error_of_the_disk(
    step: str, content: bytes, upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.always(PATH, file(content))
    config = rig.config(f"srv*{rig.store}*{upstream.url}")
    config = replace(config, store=replace(config.store, durable=True))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with rig.open(config) as source:
        with monkeypatch.context() as patch:
            patch.setattr(*(("os.replace", fail) if step == "rename" else ("os.fsync", fail)))
            outcome = await source.fetch(KEY)
        assert not [name for name in scratch_files(rig.store) if name.endswith(".part")]
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK
    assert visible(rig.store) == []


async def test_a_file_in_a_store_that_cannot_be_opened_leaves_the_rest_of_the_chain(
    upstream: Upstream, rig: Rig
) -> None:
    far = rig.folder / "far"
    (far / PATH).parent.mkdir(parents=True)
    (far / PATH).write_bytes(PDB)
    (far / PATH).chmod(0)
    with suppress(PermissionError), (far / PATH).open("rb"):
        pytest.skip("whoever runs this may open every file")
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{far}*{upstream.url}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)
