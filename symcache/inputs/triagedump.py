"""Modules of kernel triage dumps (small memory dumps)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError
from symcache.formats.dump.triage import TriageMemory, read_triage
from symcache.identity import base_name, source_name
from symcache.inputs.dumpdetails import header_details, read_build_lab
from symcache.inputs.image import image_module, loader_key, read_loaded_image
from symcache.inputs.kernelmodules import unloaded_module
from symcache.inputs.records import ImageUse, Input, InputKind, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.triage import Triage, TriageDriver
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

__all__ = ["read_triage_dump"]


def read_triage_dump(view: ByteView, path: str, header: DumpHeader) -> Iterator[Record]:
    """Yield the dump, its drivers in file order, the kernel first, then those unloaded.

    A driver's own entry names its image; pieces of the image are rarely in the dump, so its PDB mostly is not known.

    Raises:
        InputError: The driver list cannot be read.
    """
    triage = read_triage(view, header)
    memory = TriageMemory(view, triage)
    yield Input(path, InputKind.TRIAGE_DUMP, _details(view, header, triage, memory))
    try:
        for driver in triage.drivers(view):
            yield _module(driver, memory)
    except InputError as error:
        yield Unreadable(path, f"the driver list is cut off: {error.problem}", error.offset)
    try:
        for unloaded in triage.unloaded_drivers(view):
            yield unloaded_module(unloaded)
    except InputError as error:
        yield Unreadable(path, f"the list of unloaded drivers is cut off: {error.problem}", error.offset)
    for problem in triage.problems:
        yield Unreadable(path, problem, triage.valid_offset)
    if not triage.driver_count:
        yield Unreadable(path, "the dump lists no drivers", header.size + 0x34)


def _module(driver: TriageDriver, memory: TriageMemory) -> Module:
    name = base_name(driver.path or "") or f"unknown_{driver.base:x}"
    module = Module(name, driver.path, driver.base)
    if driver.problem is not None:
        return replace(module, problem=f"its entry in the driver list is damaged: {driver.problem}")
    if driver.path is None:
        return replace(module, problem=f"its name cannot be read ({driver.path_problem or 'it has none'})")
    image, reason = _find_image(driver, memory)
    if image is not None:
        found = replace(image_module(image, source_name(name), driver.path, driver.base), name=name)
        if found.image is not None and (found.pdbs or found.no_debug_record):
            return replace(found, needs_image=ImageUse.CODE)
        reason = found.problem or reason
    stamp = driver.timestamp or (image.timestamp if image is not None else 0)
    key = loader_key(source_name(name), stamp, driver.size_of_image)
    if key is None:
        why = "its name or size names no file" if stamp else "its time stamp is 0, its header was not in memory"
        return replace(module, problem=f"the dump does not hold its identity: {why}")
    problem = f"the dump names its image but not its PDB: {reason}"
    return replace(module, image=key, problem=problem, needs_image=ImageUse.SYMBOLS)


def _find_image(driver: TriageDriver, memory: TriageMemory) -> tuple[Image | None, str]:
    """Return the image, if its headers are among the pieces of memory and are those of the entry, else why not."""
    try:
        image = read_loaded_image(memory, driver.base, driver.size_of_image)
    except InputError as error:
        return None, f"its image header cannot be read ({error.problem})"
    if driver.timestamp not in {0, image.timestamp}:
        return None, "its image header has another time stamp than the driver list"
    return image, ""


def _details(view: ByteView, header: DumpHeader, triage: Triage, memory: TriageMemory) -> dict[str, Any]:
    details = header_details(header, "triage", view.size)
    block = triage.debugger_data(view)
    details["build_lab"] = read_build_lab(memory, block)
    details["drivers"] = triage.driver_count
    details["data_blocks"] = triage.block_count
    details["size_of_dump"] = triage.size_of_dump
    details["cut_short"] = max(triage.size_of_dump, triage.valid_offset + 4) > view.size
    details["problems"] += triage.problems
    return details
