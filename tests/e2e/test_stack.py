"""What the modules on a crash's stack need comes first, and with ``--stack`` alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall
from support.command import run, run_json, start
from support.debuggees import published_files
from support.kernels import crashing_machine, pack
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.triagedump import TriagePlan, triage_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.upstream import Upstream


NEEDED_PDBS = {"ntkrnlmp.pdb", "secdrv.pdb", "fltMgr.pdb", "hal.pdb"}
NEEDED_IMAGES = {"ntoskrnl.exe", "secdrv.sys", "FLTMGR.SYS", "hal.dll"}


def kernel_dump() -> bytes:
    machine, top, _ = crashing_machine()
    # The module that the stack names second is known by its image alone: two hops.
    machine.kernel.page_out(machine.bases[3] + 0x2000)
    return dump_bytes(machine, DumpPlan(DumpKind.BITMAP_KERNEL, registers=(machine.bases[0] + 0x1234, top, 0)))


def triage_dump() -> bytes:
    machine, top, words = crashing_machine()
    plan = DumpPlan(registers=(machine.bases[0] + 0x1234, top, 0))
    return triage_bytes(machine, TriagePlan(plan, stack=(top, pack(8, words))))


KINDS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "kernel": (kernel_dump, NEEDED_PDBS | {"secdrv.sys"}),
    "triage": (triage_dump, NEEDED_PDBS | NEEDED_IMAGES),
}


def name_of(index: str) -> str:
    return index.rpartition("/")[2]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dump(kind: str, tmp_path: Path, upstream: Upstream) -> Path:
    machine, *_ = crashing_machine()
    upstream.files = dict(published_files(machine.plan.drivers))
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(KINDS[kind][0]())
    return path


def test_files_of_the_stack_are_asked_for_first_of_a_slow_upstream(
    kind: str, dump: Path, upstream: Upstream, tmp_path: Path
) -> None:
    needed = KINDS[kind][1]
    (kernel,) = (path for path in upstream.files if name_of(path) == "ntkrnlmp.pdb")
    stall = Stall()
    upstream.script(kernel, stall)
    with start("warm", "--json", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", dump) as command:
        stall.reached.wait()
        stall.release()
        out, err = command.communicate(timeout=60)
    document = json.loads(out)
    asked = [name_of(request.path) for request in upstream.requests]
    first_other = next(index for index, name in enumerate(asked) if name not in needed)
    assert needed <= set(asked[:first_other])
    marks = [symbol.get("on_stack", False) for symbol in document["symbols"]]
    assert marks == sorted(marks, reverse=True)
    assert {name_of(symbol["index"]) for symbol in document["symbols"] if symbol.get("on_stack")} == needed
    assert document["symbols"][0]["module"] == "ntoskrnl.exe"
    assert f"the crash's stack: {len(needed)} of {len(needed)} files are here" in err
    assert document["summary"]["fetched"] > len(needed)


def test_with_stack_nothing_else_is_asked_for(kind: str, dump: Path, upstream: Upstream, tmp_path: Path) -> None:
    needed = KINDS[kind][1]
    path = ["-y", f"srv*{tmp_path / 'sym'}*{upstream.url}"]
    document = run_json("warm", "--stack", dump, *path)
    assert {name_of(symbol["index"]) for symbol in document["symbols"]} == needed
    assert {name_of(request.path) for request in upstream.requests} == needed
    assert all(symbol["state"] == "fetched" and symbol["on_stack"] for symbol in document["symbols"])
    asked = len(upstream.requests)
    assert run_json("check", "--stack", dump, *path)["summary"]["present"] == len(needed)
    assert run_json("check", dump, *path, code=3)["summary"]["present"] == len(needed)
    assert len(upstream.requests) == asked


def test_scan_and_inspect_name_what_is_on_the_stack(dump: Path) -> None:
    (listed,) = run_json("scan", dump)["inputs"]
    expected = [("ntoskrnl.exe", 2), ("secdrv.sys", 2), ("FLTMGR.SYS", 1), ("hal.dll", 1)]
    assert [(each["name"], each["words"]) for each in listed["stack"]] == expected
    assert run_json("inspect", dump)["details"]["stack"] == listed["stack"]
    (line,) = (line for line in run("inspect", dump).stdout.splitlines() if line.startswith("on the stack "))
    assert line.split(None, 3)[3] == "ntoskrnl.exe, secdrv.sys, FLTMGR.SYS, hal.dll"


def test_inputs_without_a_stack_are_one_line_and_exit_code_4(tmp_path: Path) -> None:
    machine, *_ = crashing_machine()
    bare = tmp_path / "bare.dmp"
    bare.write_bytes(dump_bytes(machine, DumpPlan()))
    for command in ("warm", "check"):
        done = run(command, "--stack", bare, "-y", f"srv*{tmp_path / 'sym'}")
        assert done.returncode == 4
        assert done.stderr == f"symcache: no crashing thread's stack in {bare}; run it without --stack\n"
    (listed,) = run_json("scan", bare)["inputs"]
    assert "stack" not in listed
    crashed = tmp_path / "crashed.dmp"
    crashed.write_bytes(kernel_dump())
    done = run("check", "--stack", crashed, bare, "-y", f"srv*{tmp_path / 'sym'}")
    assert done.returncode == 3
    assert f"no crashing thread's stack in {bare}: nothing of it was wanted\n" in done.stderr
