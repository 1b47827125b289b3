"""What images in the memory of a dump have of .NET: metadata, runtimes, and which build of one it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.pe.image import MACHINE_OF_PROCESSOR, ImageSpace, Layout, parse_image
from symcache.formats.pe.managed import ManagedCode, find_managed, find_runtime_facts, holds_metadata
from symcache.formats.view import PartView
from symcache.identity import fold
from symcache.inputs.image import image_module
from symcache.inputs.records import ImageUse, Runtime, RuntimeKind
from symcache.inputs.runtimes import RUNTIMES, is_build_known, runtime_of, with_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.formats.view import ByteView
    from symcache.inputs.records import Module


def loaded_space(memory: ByteView, base: int, size_of_image: int) -> ImageSpace:
    """Return the image that is mapped at *base* of *memory*; raises what opening an `ImageSpace` raises."""
    return ImageSpace(PartView(memory, base, min(size_of_image, memory.size - base)), Layout.MEMORY)


def with_managed(module: Module, space: ImageSpace) -> Module:
    """Return *module* with what its image, which a dump holds in *space*, has of .NET: metadata, and which build it is.

    Its image is needed where the dump lacks what managed debuggers read of it; NGEN's images are published nowhere.
    """
    needs_image = module.needs_image
    code = None
    try:
        image = find_managed(space)
    except InputError:
        image = None  # not to be told from an image without
    if image is not None:
        code = image.code
        is_lacking = code is not ManagedCode.NGEN and module.image is not None and not holds_metadata(space, image)
        if needs_image in {None, ImageUse.CODE} and is_lacking:
            needs_image = ImageUse.METADATA
    return replace(module, managed=code, needs_image=needs_image)


def with_runtime(
    module: Module, space: ImageSpace | None, *, is_program: bool = False, machine: int | None = None
) -> Module:
    """Return *module* with the .NET runtime that it is, or as a program may hold, as far as its image in *space* tells.

    *space* is None where the image is not there; *machine* is that of its process, if it is known otherwise.
    """
    known = runtime_of(module)
    if known is None and is_program:
        known = Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True)
    if known is None or module.image is None:
        return module
    if known.machine is None:
        known = replace(known, machine=machine)
    runtime: Runtime | None = known
    if space is not None:
        facts = find_runtime_facts(space)
        # What cannot be read of the exports is in the image all the same.
        runtime = known if known.is_presumed and facts.has_unread_exports else with_facts(known, facts)
    if runtime is None:
        return replace(module, runtime=None)
    needs_image = module.needs_image
    if needs_image is None and not runtime.is_presumed and not is_build_known(runtime):
        needs_image = ImageUse.METADATA
    return replace(module, runtime=runtime, needs_image=needs_image)


_WOW64 = "wow64.dll"  # in a process of a 64-bit system that runs a 32-bit program
_EMULATION = frozenset({"xtajit64.dll", "xtajit64se.dll"})  # in one of an ARM64 system that runs an x64 program
_X64, _X86 = 9, 0


def find_dotnet(loaded: Sequence[tuple[Module, int]], memory: ByteView, processor: int | None) -> dict[Module, Module]:
    """Return those of *loaded*, modules with their sizes in bytes, of which more is known with regard to .NET.

    A runtime gets what says which build it is. Of the modules that it may run, those whose image is in *memory* get
    what that says, and those whose image is not are presumed to have the PDB of their code view record: whether it is a
    portable one stands in the image alone. Without a runtime among the modules, the program, which comes first, may
    hold one.
    """
    names = {fold(module.name) for module, _ in loaded}
    machine = _machine(processor, names)
    changed: dict[Module, Module] = {}
    is_there = False
    for number, (module, size) in enumerate(loaded):
        is_program = not number and names.isdisjoint(RUNTIMES)
        if is_program or fold(module.name) in RUNTIMES:
            found = with_runtime(module, _space(module, size, memory), is_program=is_program, machine=machine)
            changed[module] = found
            is_there |= found.runtime is not None and not found.runtime.is_presumed
    if is_there:
        for module, size in loaded:
            changed[module] = _with_image(changed.get(module, module), size, memory)
    return changed


def _machine(processor: int | None, names: set[str]) -> int | None:
    if processor is None or not names.isdisjoint(_EMULATION):
        return None
    # The processor is that of the system, the program's one of several on ARM64.
    if _WOW64 in names:
        return MACHINE_OF_PROCESSOR[_X86] if processor == _X64 else None
    return MACHINE_OF_PROCESSOR.get(processor)


def _space(module: Module, size_of_image: int, memory: ByteView) -> ImageSpace | None:
    """Return the image of *module* if its headers are there, and are those that the list of modules has."""
    base, image = module.base, module.image
    if base is None or base + size_of_image > memory.size:
        return None
    try:
        space = loaded_space(memory, base, size_of_image)
    except InputError:
        return None
    return space if image is None or image.timestamp == space.header.timestamp else None


def _with_image(module: Module, size_of_image: int, memory: ByteView) -> Module:
    space, base = _space(module, size_of_image, memory), module.base
    if space is None or base is None:
        # An image that is wanted is at hand soon, and tells.
        is_open = module.image is not None and bool(module.pdbs) and module.needs_image is not None
        return replace(module, is_presumed=module.is_presumed or is_open)
    module = with_managed(module, space)
    if module.managed is None:
        return module
    try:
        image = parse_image(PartView(memory, base, size_of_image), Layout.MEMORY)
    except InputError:
        return module
    pdbs = image_module(image, module.name).pdbs
    return replace(module, pdbs=pdbs) if pdbs else module
