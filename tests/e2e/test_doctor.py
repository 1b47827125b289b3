"""``symcache doctor`` as people run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.command import run, run_json
from support.sources import PATH, PDB

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream


def test_all_is_well(upstream: Upstream, tmp_path: Path) -> None:
    upstream.files[PATH] = PDB
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    assert run("fetch", PATH, "-y", path).returncode == 0
    document = run_json("doctor", env={"_NT_SYMBOL_PATH": path, "no_proxy": "*"})
    assert document["schema"] == "symcache.doctor/1"
    assert document["summary"]["wrong"] == 0
    assert {finding["area"] for finding in document["findings"]} == {"program", "server", "store", "debugger"}
    assert f"{len(PDB)} bytes" in str(document)


def test_the_first_wrong_line_names_the_fault(tmp_path: Path) -> None:
    done = run("doctor", "-y", f"srv*{tmp_path / 'sym'}*https://me:hunter2@127.0.0.1:1/x", env={"no_proxy": "*"})
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.strip().startswith("wrong")]
    assert "cannot connect" in wrong[0]
    assert "hunter2" not in done.stdout + done.stderr


def test_offline_asks_no_server(upstream: Upstream, tmp_path: Path) -> None:
    done = run("doctor", "--offline", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}")
    assert done.returncode == 0
    assert upstream.requests == []
