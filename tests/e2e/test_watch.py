"""The command that warms for dumps as they arrive, with real files, a real server and signals."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.answers import Stall, status
from support.command import run, start
from support.serving import wait_for
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.windows import interrupt

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from support.upstream import Upstream

PDB = PdbKey("app.pdb", UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e"), 10)
IMAGE = ImageKey("app.exe", 0x5AB38077, 0x9000)
DUMP = build_minidump(
    MinidumpPlan(
        [MinidumpModule("C:\\app.exe", 0x140000000, 0x9000, 0x5AB38077, rsds_record(PDB.guid, PDB.age, PDB.name))]
    )
)


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    folder = tmp_path / "hot"
    folder.mkdir()
    return folder


@pytest.fixture
def options(upstream: Upstream, tmp_path: Path) -> tuple[str | Path, ...]:
    upstream.files = {
        PDB.index: make_pdb(NativePdbSpec(PDB.guid, PDB.age)),
        IMAGE.index: disk_bytes(plan_image(IMAGE, PDB)),
    }
    return "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", "--settle", "0.1"


@contextmanager
def watching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with start("watch", *arguments) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("watching "), line
        yield process


def stop(process: subprocess.Popen[str]) -> str:
    """End it as its user would; return what it said on standard error."""
    if sys.platform == "win32":
        interrupt(process)
    else:
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


def test_each_dump_that_arrives_gets_its_report(hot: Path, options: tuple[str | Path, ...]) -> None:
    with watching(hot, "--poll", "0.1", *options) as process:
        (hot / "2026").mkdir()
        for name in ("first.dmp", "2026/second.dmp"):
            (hot / name).write_bytes(DUMP)
            wait_for((hot / f"{name}.symcache.txt").exists)
        said = stop(process)
    assert "2 wanted: 0 present, 2 fetched" in said
    assert "2 wanted: 2 present, 0 fetched" in said
    assert "report: first.dmp.symcache.txt" in said
    assert "2 wanted" in (hot / "first.dmp.symcache.txt").read_text("utf-8")


def test_a_dump_that_is_copied_piece_by_piece_is_done_when_it_is_whole(
    hot: Path, options: tuple[str | Path, ...], upstream: Upstream
) -> None:
    with watching(hot, "--poll", "0.1", *options) as process:
        with (hot / "slow.dmp").open("wb", buffering=0) as file:
            file.write(DUMP[:200])
            # Another one that comes later and is done shows that this one was looked at meanwhile.
            for name in ("a.dmp", "b.dmp"):
                (hot / name).write_bytes(DUMP)
                wait_for((hot / f"{name}.symcache.txt").exists)
            assert not (hot / "slow.dmp.symcache.txt").exists()
            file.write(DUMP[200:])
        wait_for((hot / "slow.dmp.symcache.txt").exists)
        said = stop(process)
    assert said.count("slow.dmp") == 2  # the file and its report, once
    assert len(upstream.asked(PDB.index)) == 1


def test_a_restart_does_nothing_again(hot: Path, options: tuple[str | Path, ...], upstream: Upstream) -> None:
    (hot / "app.dmp").write_bytes(DUMP)
    first = run("watch", hot, "--once", "--report-as", "json", *options)
    assert (first.returncode, first.stdout) == (0, "")
    document = json.loads((hot / "app.dmp.symcache.json").read_text("utf-8"))
    assert document["summary"]["fetched"] == 2
    asked = len(upstream.requests)
    second = run("watch", hot, "--once", "--report-as", "json", *options)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(upstream.requests) == asked


def test_reports_go_where_they_are_wanted(hot: Path, options: tuple[str | Path, ...], tmp_path: Path) -> None:
    other = tmp_path / "other"
    for folder in (hot, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "app.dmp").write_bytes(DUMP)
    done = run("watch", hot, other, "--once", "-q", "--reports", tmp_path / "reports", "--report-as", "html", *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for folder in (hot, other):
        assert (tmp_path / "reports" / folder.name / "sub" / "app.dmp.symcache.html").is_file()
        assert [each.name for each in (folder / "sub").iterdir()] == ["app.dmp"]


@pytest.mark.parametrize(
    ("answers", "content", "code"),
    [
        pytest.param(503, DUMP, 1, id="a server that is down"),
        pytest.param(404, DUMP, 3, id="a file that is missing"),
        pytest.param(200, b"MDMP" + bytes(4000), 0, id="what may still be written"),
    ],
)
def test_once_ends_with_the_worst_exit_code(
    hot: Path, options: tuple[str | Path, ...], upstream: Upstream, answers: int, content: bytes, code: int
) -> None:
    if answers != 200:
        upstream.always(PDB.index, status(answers))
    (hot / "app.dmp").write_bytes(content)
    config = hot.parent / "symcache.toml"
    config.write_text("network.retries = 0\n")
    done = run("watch", hot, "--once", "--config", config, *options)
    assert done.returncode == code, done.stderr


def test_a_signal_ends_it_in_the_middle_of_a_download(
    hot: Path, options: tuple[str | Path, ...], upstream: Upstream
) -> None:
    stall = Stall(after=100)
    upstream.always(PDB.index, stall)
    with watching(hot, "--poll", "0.1", *options) as process:
        (hot / "app.dmp").write_bytes(DUMP)
        upstream.await_requests(1, PDB.index)
        stop(process)
    assert not (hot / "app.dmp.symcache.txt").exists()


def test_what_is_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    done = run("watch", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"symcache: {tmp_path / 'nowhere'}: there is no such folder to watch\n"
    for parent in ("a", "b"):
        (tmp_path / parent / "same").mkdir(parents=True)
    done = run("watch", tmp_path / "a" / "same", tmp_path / "b" / "same", "--once", "--reports", tmp_path / "r")
    assert done.returncode == 2
    assert "two folders called same" in done.stderr
