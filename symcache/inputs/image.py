"""Images and ``.dbg`` files as inputs, and images in the memory of a dump."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from symcache.errors import InputError, MalformedInput
from symcache.formats.glance import glance_at_keys
from symcache.formats.pe.debug import Rsds
from symcache.formats.pe.image import ImageSpace, Layout, machine_name, parse_dbg, parse_image
from symcache.formats.view import PartView, parse_uint
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey, base_name, fold
from symcache.inputs.records import (
    STANDARD_INPUT,
    ImageUse,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    Runtime,
    RuntimeKind,
    stated_by_image,
)
from symcache.inputs.runtimes import RUNTIMES, runtime_of, with_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.dump.kernel import LoaderEntry, LoaderLayout
    from symcache.formats.pe.debug import CodeViewEntry, DebugData, ImageProblem
    from symcache.formats.pe.image import DbgFile, Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

_EXPORTS = 0
T = TypeVar("T")
_KeyT = TypeVar("_KeyT", bound=ImageKey)


def is_image(start: bytes) -> bool:
    """Tell whether *start*, the first bytes of a file, is that of an image or a ``.dbg`` file.

    ``DI`` alone begins many a text; in a ``.dbg`` file two bytes of flags follow, of which one bit is in use.
    Source: Windows SDK winnt.h, IMAGE_SEPARATE_DEBUG_HEADER.
    """
    return start[:2] == b"MZ" or start[:4] in {b"DI\x00\x00", b"DI\x00\x80"}


def read_image(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the image or ``.dbg`` file and, as its one module, what it is and what it names.

    Raises:
        InputError: It is neither, or its headers are damaged.
    """
    module, details = _read(view, path)
    if module.runtime is None and module.image is not None and fold(module.name).endswith(".exe"):
        module = replace(module, runtime=_held_runtime(view))
    yield Input(path, InputKind.IMAGE, details())
    yield module


def read_module(view: ByteView, path: str) -> tuple[Module]:
    """Return the module alone that `read_image` yields; files by the thousand are read so."""
    name = base_name(path)
    plain = None if fold(name) in RUNTIMES else glance_at_keys(view)
    if plain is not None and any(plain.guid) and name != STANDARD_INPUT:
        try:
            key = PdbKey(base_name(plain.path), UUID(bytes_le=plain.guid), plain.age)
            image = ImageKey(name, plain.timestamp, plain.size_of_image)
        except MalformedInput:  # what follows says why
            pass
        else:
            return (Module(name, path, image=image, pdbs=(PdbReference(key, PdbFormat.NATIVE),)),)
    return (_read(view, path)[0],)


def _held_runtime(view: ByteView) -> Runtime | None:
    """Return the .NET runtime that a program holds, as it was published with one as one file; None if it holds none."""
    try:
        space = ImageSpace(view, Layout.DISK)
        if space.find_directory(_EXPORTS) is None:  # of most programs
            return None
    except InputError:
        return None
    from symcache.formats.pe.managed import find_runtime_facts  # noqa: PLC0415 - for few programs

    return with_facts(Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True), find_runtime_facts(space))


def _read(view: ByteView, path: str) -> tuple[Module, Callable[[], dict[str, Any]]]:
    """Return an image's or ``.dbg`` file's module and what returns all there is to say of it."""
    if view.read(0, min(2, view.size)) == b"DI":
        file = parse_dbg(view)
        return _dbg_module(file, base_name(path), path), partial(_dbg_details, file)
    image = parse_image(view, Layout.DISK)
    module = image_module(image, base_name(path), path)
    if (runtime := runtime_of(module)) is not None:
        from symcache.formats.pe.managed import read_runtime_facts  # noqa: PLC0415 - for runtimes alone

        module = replace(module, runtime=with_facts(runtime, read_runtime_facts(view, Layout.DISK)))
    return module, partial(_image_details, image, view.size)


def image_module(image: Image, name: str, path: str | None = None, base: int | None = None) -> Module:
    """Return what *image* names, filed under the base name *name*; it lies at *path*, or in a dump at *base*."""
    problems: list[str] = []
    key = _tried(lambda: _file_key(ImageKey, image, name, "an image's key needs its file name"), problems)
    checksums = stated_by_image(f"{checksum.algorithm}:{checksum.digest.hex()}" for checksum in image.checksums)
    pdbs = _references(image.debug, problems, checksums)
    dbg = None
    if (dbg_name := image.dbg_name) is not None:
        dbg = _tried(lambda: DbgKey(base_name(dbg_name), image.timestamp, image.size_of_image), problems)
    problems.extend(map(_sentence, image.problems))
    # GNU's linkers write a record for a build id alone, with an empty path: there is no PDB.
    names_pdb = any(entry.record.path for entry in image.code_views)
    named = bool(names_pdb or image.embedded or image.dbg_name)
    if not pdbs and not problems:
        problems.append(_why_no_pdb(image))
    return Module(
        name=name,
        path=path,
        base=base,
        image=key,
        pdbs=pdbs,
        dbg=dbg,
        problem="; ".join(problems) or None,
        no_debug_record=not named and not image.problems,
        unusable_pdb=names_pdb and not pdbs and dbg is None,
    )


def pdb_reference(entry: CodeViewEntry, *, embedded: bool = False, checksums: tuple[str, ...] = ()) -> PdbReference:
    """Return the PDB that a code view record names; what else the image has speaks of a portable PDB only.

    Raises:
        MalformedInput: It has a nil GUID, no name, or one that cannot be that of a file in a store.

    Source: SSQP_Key_Conventions.md for the base name and the key of a portable PDB.
    """
    record = entry.record
    name = base_name(record.path)
    if not isinstance(record, Rsds):
        return PdbReference(Pdb2Key(name, record.signature, record.age), PdbFormat.PDB2)
    if not record.path:
        raise MalformedInput("its code view record names no PDB and holds a build id alone")
    if not record.guid.int:
        raise MalformedInput("its code view record has a nil GUID, which identifies nothing")
    if entry.portable:
        format_ = PdbFormat.EMBEDDED if embedded else PdbFormat.PORTABLE
        return PdbReference(PortablePdbKey(name, record.guid), format_, checksums)
    return PdbReference(PdbKey(name, record.guid, record.age), PdbFormat.NATIVE)


def _references(debug: DebugData, problems: list[str], checksums: tuple[str, ...] = ()) -> tuple[PdbReference, ...]:
    make = partial(pdb_reference, embedded=debug.embedded is not None, checksums=checksums)
    found = (_tried(partial(make, entry), problems) for entry in debug.code_views)
    return tuple(reference for reference in found if reference is not None)


def _tried(make: Callable[[], T], problems: list[str]) -> T | None:
    """Return what *make* makes; None, and one of *problems* more, if that cannot be."""
    try:
        return make()
    except MalformedInput as error:
        problems.append(error.problem)
        return None


def _file_key(kind: type[_KeyT], file: Image | DbgFile, name: str, need: str) -> _KeyT:
    if name == STANDARD_INPUT:
        raise MalformedInput(f"{need}, which standard input does not tell")
    return kind(name, file.timestamp, file.size_of_image)


def _why_no_pdb(image: Image) -> str:
    if image.dbg_name is not None:
        return f"the image names no PDB; its symbols are in {base_name(image.dbg_name)}"
    if image.embedded is not None:
        return "the image names no PDB; it holds one inside"
    if not image.has_debug_directory:
        return "the image names no PDB: it has no debug directory"
    types = ", ".join(dict.fromkeys(entry.type_name for entry in image.debug_entries))
    return f"the image names no PDB: its debug directory holds {types} only"


def _dbg_module(file: DbgFile, name: str, path: str) -> Module:
    problems: list[str] = []
    dbg = _tried(lambda: _file_key(DbgKey, file, name, "a .dbg file's key needs its name"), problems)
    pdbs = _references(file.debug, problems)
    problems.extend(map(_sentence, file.debug.problems))
    return Module(name=name, path=path, pdbs=pdbs, dbg=dbg, problem="; ".join(problems) or None)


def _image_details(image: Image, size_bytes: int) -> dict[str, Any]:
    problems = [*map(_sentence, image.problems)]
    if size_bytes < image.extent_bytes:
        problems.append(f"the file is cut short: it has {size_bytes} of at least {image.extent_bytes} bytes")
    return {
        "type": f"PE32{'+' if image.bits == 64 else ''}",
        **_common_details(image, reproducible=image.reproducible),
        "size_bytes": size_bytes,
        "embedded_pdb_bytes": image.embedded.size_bytes if image.embedded else None,
        "dbg_name": image.dbg_name,
        "problems": problems,
    }


def _dbg_details(file: DbgFile) -> dict[str, Any]:
    return {"type": "DBG", **_common_details(file), "problems": [*map(_sentence, file.debug.problems)]}


def _common_details(file: Image | DbgFile, **more: Any) -> dict[str, Any]:
    return {
        "machine": machine_name(file.machine),
        "timestamp": f"{file.timestamp:08X}",
        **more,
        "size_of_image": file.size_of_image,
        "checksum": f"{file.checksum:08X}",
        "characteristics": f"{file.characteristics:04X}",
        "debug": [entry.type_name for entry in file.debug.entries],
        "code_views": _code_view_details(file.debug),
    }


def _code_view_details(debug: DebugData) -> list[dict[str, Any]]:
    """Return each record as written: the path tells which machine built the image."""
    return [
        {
            "path": entry.record.path,
            "timestamp": f"{entry.timestamp:08X}",
            "format": "RSDS" if isinstance(entry.record, Rsds) else "NB10",
            "portable": entry.portable,
        }
        for entry in debug.code_views
    ]


def _sentence(problem: ImageProblem) -> str:
    return problem.text if problem.offset is None else f"{problem.text} (at {problem.offset:#x})"


_PAGE_BYTES = 0x1000


def read_loaded_image(memory: ByteView, base: int, size_of_image: int) -> Image:
    """Return what the image says of itself that the loader has at *base* of *memory*, with *size_of_image* bytes.

    Raises:
        NotInDump: Its headers are not there.
        InputError: What is there is not that image: no image, or one of another size.
    """
    view = PartView(memory, base, min(size_of_image, memory.size - base))
    image = parse_image(view, Layout.MEMORY)
    # The loader counts whole pages, except for drivers of Windows XP and before.
    if -(-image.size_of_image // _PAGE_BYTES) != -(-size_of_image // _PAGE_BYTES):
        raise MalformedInput(f"its header claims {image.size_of_image:#x} bytes, the loader {size_of_image:#x}")
    return image


def paged_out_use(module: Module) -> ImageUse | None:
    """Return what a debugger needs the image of *module* for, whose headers are in the dump's memory."""
    names_symbols = module.pdbs or module.dbg or module.no_debug_record
    return None if names_symbols or module.image is None else ImageUse.SYMBOLS


def entry_names(entry: LoaderEntry) -> tuple[str, str | None]:
    """Return a loader entry's base name, made up if it has none, and its path."""
    name = base_name(entry.full_name or "") or base_name(entry.base_name or "") or f"unknown_{entry.base:x}"
    return name, entry.full_name or None


def nameless_problem(entry: LoaderEntry) -> str | None:
    """Return why a loader entry has no name; None if it has one."""
    if entry.full_name is not None or entry.base_name is not None:
        return None
    return f"its name cannot be read ({entry.name_problem or 'it has none'})"


def module_without_header(module: Module, error: InputError, key: ImageKey | None, no_stamp: str) -> Module:
    """Return *module*, whose headers are not there, with the *key* that the loader's stamp makes, if there is one."""
    reason = f"its image header cannot be read ({error.problem})"
    if key is None:
        return replace(module, problem=f"{reason}, and {no_stamp}")
    problem = f"{reason}; the loader's stamp names the image, its PDB is known once that is fetched"
    return replace(module, image=key, problem=problem, needs_image=ImageUse.BY_HAND)


def read_stamp(memory: ByteView, entry_va: int, layout: LoaderLayout) -> int:
    """Return the time stamp in the loader's entry at *entry_va*; 0 if it is not there."""
    try:
        return parse_uint(memory.read(entry_va + layout.stamp, 4), 0, 4)
    except InputError:
        return 0


def loader_key(name: str, stamp: int, size_of_image: int) -> ImageKey | None:
    """Return the key that the loader's own numbers make; None without a stamp or size or with an unusable name."""
    if not stamp or not size_of_image:
        return None
    try:
        return ImageKey(name, stamp, size_of_image)
    except InputError:
        return None
