"""From a dump that names no PDB to every PDB, by way of the images' headers on a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.command import run_json
from support.kernels import expected, kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.pagetables import Paging
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes
from support.synth.triagedump import TriagePlan, triage_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.synth.kernelmemory import DriverPlan, KernelPlan, MachineMemory
    from support.upstream import Upstream

WIDE = [Paging.X64, Paging.ARM64]
CODE_BYTES = 400_000  # what a ranged download leaves out
SECDRV = 3  # its place in the list


def machine_plan(paging: Paging) -> KernelPlan:
    """Return a machine whose every driver is large enough to be read by parts of it."""
    plan = kernel_plan(paging)
    drivers = (replace(each, image=replace(each.image, size_of_image=0x80000)) for each in plan.drivers)
    return replace(plan, drivers=tuple(drivers), processes=())


def image_index(driver: DriverPlan) -> str:
    _, index, _ = expected(driver)
    assert index is not None
    return index


def pdb_index(driver: DriverPlan) -> str:
    _, _, (index,) = expected(driver)
    return index


def publish(upstream: Upstream, drivers: list[DriverPlan], names: dict[str, str] | None = None) -> dict[str, bytes]:
    """Put images, some under another name, and their PDBs on the server; return the PDBs."""
    pdbs = {}
    for driver in drivers:
        _, id_, name = image_index(driver).split("/")
        name = (names or {}).get(name, name)
        upstream.files[f"{name}/{id_}/{name}"] = disk_bytes(replace(driver.image, payload_bytes=CODE_BYTES))
        (view,) = driver.image.code_views
        assert view.guid is not None
        pdbs[pdb_index(driver)] = make_pdb(NativePdbSpec(view.guid, view.age))
    upstream.files.update(pdbs)
    return pdbs


def triage_dump(source: MachineMemory) -> bytes:
    return triage_bytes(source, TriagePlan(without_header=frozenset([SECDRV])))


def dump_without_debug_directories(source: MachineMemory) -> bytes:
    """Return a kernel dump with the first page of each image alone."""
    spaces = [source.kernel, *source.spaces.values()]
    dropped = {
        space.pfn_of(page)
        for base, driver in zip(source.bases, source.plan.drivers, strict=True)
        for page in range(base + 0x1000, base + (driver.image.size_of_image or 0), 0x1000)
        for space in spaces
        if space.translate(page) is not None and not holds_lists(source, page)
    }
    return dump_bytes(source, DumpPlan(DumpKind.BITMAP_KERNEL, dropped=frozenset(dropped)))


def holds_lists(source: MachineMemory, page: int) -> bool:
    kept = (source.loaded_modules_va, source.active_processes_va, source.debugger_data_va)
    return any(page <= address + within < page + 0x1000 for address in kept for within in (0, 0x400))


def files_in(store: Path) -> dict[str, bytes]:
    """Return what a debugger can see in a store, by index."""
    found = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    own = {name for name in found if name.startswith(".symcache/") or name == "pingme.txt"}
    return {name: path.read_bytes() for name, path in found.items() if name not in own}


def assert_images_were_read_by_parts(upstream: Upstream, images: set[str]) -> None:
    for index in images:
        requests = upstream.asked(index)
        assert requests
        assert {request.status for request in requests} == {206}
        assert sum(request.sent_bytes for request in requests) <= 16 * 1024
    assert all(len(upstream.files[index]) > CODE_BYTES for index in images)  # type: ignore[arg-type]


@pytest.mark.parametrize("paging", [*WIDE, Paging.X86])
def test_every_pdb_of_a_triage_dump_comes_by_two_hops(paging: Paging, upstream: Upstream, tmp_path: Path) -> None:
    source = build_machine(machine_plan(paging))
    known = [driver for index, driver in enumerate(source.plan.drivers) if index != SECDRV]
    pdbs = publish(upstream, list(source.plan.drivers))
    del pdbs[pdb_index(source.plan.drivers[SECDRV])]
    dump, store = tmp_path / "Mini.dmp", tmp_path / "sym"
    dump.write_bytes(triage_dump(source))
    arguments = ["warm", str(dump), "--images", "none", "-y", f"srv*{store}*{upstream.url}"]

    document = run_json(*arguments, code=3)
    states = {symbol["index"]: (symbol["state"], symbol["cause"]) for symbol in document["symbols"] if symbol["index"]}
    assert states == dict.fromkeys(pdbs, ("fetched", None))
    nameless = {symbol["module"]: symbol["cause"] for symbol in document["symbols"] if not symbol["index"]}
    unloaded = {each.name[:12] for each in source.plan.unloaded}
    assert {name for name in nameless if name not in unloaded} == {"secdrv.sys"}
    assert set(nameless.values()) == {"no-identity"}
    assert files_in(store) == pdbs
    assert_images_were_read_by_parts(upstream, {image_index(driver) for driver in known})
    assert not upstream.asked(image_index(source.plan.drivers[SECDRV]))

    asked = len(upstream.requests)
    again = run_json(*arguments, code=3)
    assert len(upstream.requests) == asked
    assert again["summary"]["present"] == len(pdbs)
    assert again["summary"]["fetched"] == 0


@pytest.mark.parametrize("paging", [*WIDE, Paging.PAE])
def test_pdbs_whose_records_a_kernel_dump_lacks_come_by_two_hops(
    paging: Paging, upstream: Upstream, tmp_path: Path
) -> None:
    source = build_machine(machine_plan(paging))
    pdbs = publish(upstream, list(source.plan.drivers))
    dump, store = tmp_path / "MEMORY.DMP", tmp_path / "sym"
    dump.write_bytes(dump_without_debug_directories(source))
    listed = [module for module in run_json("scan", dump)["modules"] if not module["unloaded"]]
    assert [module["pdbs"] for module in listed] == [[]] * len(source.plan.drivers)
    arguments = ["warm", str(dump), "--images", "none", "-y", f"srv*{store}*{upstream.url}", "--allow-missing"]

    document = run_json(*arguments)
    fetched = {symbol["index"] for symbol in document["symbols"] if symbol["state"] == "fetched"}
    assert fetched == set(pdbs)
    assert files_in(store) == pdbs
    assert_images_were_read_by_parts(upstream, {image_index(driver) for driver in source.plan.drivers})

    asked = len(upstream.requests)
    assert run_json(*arguments)["summary"]["present"] == len(pdbs)
    assert len(upstream.requests) == asked


@pytest.mark.parametrize("write", [triage_dump, dump_without_debug_directories], ids=["triage", "kernel"])
def test_the_kernel_and_hal_of_x86_are_found_under_the_names_they_were_published_by(
    write: Callable[[MachineMemory], bytes], upstream: Upstream, tmp_path: Path
) -> None:
    source = build_machine(machine_plan(Paging.X86))
    nt, hal = source.plan.drivers[:2]
    pdbs = publish(upstream, [nt, hal], {"ntoskrnl.exe": "ntkrpamp.exe", "hal.dll": "halmacpi.dll"})
    assert {index.split("/")[0] for index in pdbs} == {"ntkrpamp.pdb", "halmacpi.pdb"}
    dump, store = tmp_path / "MEMORY.DMP", tmp_path / "sym"
    dump.write_bytes(write(source))
    arguments = ["warm", str(dump), "--images", "none", "-y", f"srv*{store}*{upstream.url}"]

    document = run_json(*arguments, code=3)
    assert {symbol["index"] for symbol in document["symbols"] if symbol["state"] == "fetched"} == set(pdbs)
    assert files_in(store) == pdbs
    renamed = {index for index in upstream.files if index.endswith((".exe", ".dll"))}
    assert {index.split("/")[0] for index in renamed} == {"ntkrpamp.exe", "halmacpi.dll"}
    assert_images_were_read_by_parts(upstream, renamed)

    asked = len(upstream.requests)
    run_json(*arguments, code=3)
    assert len(upstream.requests) == asked


@pytest.mark.parametrize("write", [triage_dump, dump_without_debug_directories], ids=["triage", "kernel"])
def test_by_default_the_images_that_a_debugger_asks_for_stay_in_the_store(
    write: Callable[[MachineMemory], bytes], upstream: Upstream, tmp_path: Path
) -> None:
    source = build_machine(machine_plan(Paging.X64))
    known = [driver for index, driver in enumerate(source.plan.drivers) if write is not triage_dump or index != SECDRV]
    pdbs = publish(upstream, known)
    dump, store = tmp_path / "MEMORY.DMP", tmp_path / "sym"
    dump.write_bytes(write(source))
    arguments = [str(dump), "-y", f"srv*{store}*{upstream.url}", "--allow-missing"]
    document = run_json("warm", *arguments)

    # Each under the name that the dump lists, of the copy for the crash both.
    listed = {f"{driver.name}/{image_index(driver).split('/')[1]}/{driver.name}" for driver in known}
    images = {symbol["index"] for symbol in document["symbols"] if symbol["kind"] == "image"}
    assert images == listed
    assert set(files_in(store)) == pdbs.keys() | images | {image_index(driver) for driver in known}
    assert all(len(upstream.asked(image_index(driver))) == 1 for driver in known)

    upstream.files.clear()
    asked = len(upstream.requests)
    assert run_json("check", *arguments)["summary"]["present"] == len(pdbs) + len(images)
    assert len(upstream.requests) == asked
