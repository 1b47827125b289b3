"""Every way into the product finds the same files needed by the same dump."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.command import run, run_json
from support.kernels import kernel_plan
from support.serving import serving
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine

from symcache import SymbolCache

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from support.upstream import Upstream


def needed(document: dict[str, Any]) -> set[str]:
    return {symbol["index"] for symbol in document["symbols"] if symbol["index"] is not None}


def warm_by_the_page(port: int, dump: Path) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/-/warm", dump.read_bytes(), {"X-Symcache": "warm"})
    *_, last = map(json.loads, connection.getresponse().read().splitlines())
    connection.close()
    report: dict[str, Any] = last["report"]
    return report


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """A complete dump: modules of the kernel, of processes, and drivers whose headers or debug data are paged out."""
    machine = build_machine(kernel_plan())
    machine.kernel.page_out(machine.bases[1])
    machine.kernel.page_out(machine.bases[2] + 0x2000)
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(dump_bytes(machine, DumpPlan(DumpKind.FULL)))
    return path


def test_every_command_the_api_and_the_page_find_the_same_needs(dump: Path, upstream: Upstream, tmp_path: Path) -> None:
    def path_to(store: str) -> list[str]:
        return ["-y", f"srv*{tmp_path / store}*{upstream.url}"]

    def indexes(rows: Iterable[dict[str, Any]]) -> set[str]:
        return {row["index"] for row in rows if row["index"] is not None}

    warmed = run_json("warm", dump, *path_to("warm"), code=3)
    wanted = needed(warmed)
    assert {index.partition("/")[0] for index in wanted} >= {"ntkrnlmp.pdb", "lsass.pdb", "wntdll.pdb", "hal.dll"}

    for store in ("export", "pin"):
        run("store", "init", "--store", tmp_path / store)
    assert needed(run_json("check", dump, *path_to("check"), code=3)) == wanted
    bundle = run_json("export", dump, "-o", tmp_path / "b", *path_to("export"), code=3)
    assert indexes(bundle["missing"]) == wanted
    pins = run_json("store", "pin", "--for", dump, "--store", tmp_path / "pin", code=3)["pins"]
    assert set(pins) >= wanted

    async def by_the_api() -> tuple[set[str], set[str]]:
        async with SymbolCache.open(path_to("api")[1]) as cache:
            checked = needed((await cache.check(dump)).as_json())
            return checked, needed((await cache.warm(dump)).as_json())

    assert anyio.run(by_the_api) == (wanted, wanted)
    with serving(tmp_path / "served", upstream=upstream.url) as served:
        assert needed(warm_by_the_page(served.port, dump)) == wanted

    scanned = run_json("scan", dump)["modules"]
    named = {pdb["index"] for module in scanned for pdb in module["pdbs"]}
    named |= {module["image"]["index"] for module in scanned if module["needs_image"]}
    assert named == wanted
