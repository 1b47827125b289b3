"""What ``symcache scan --json`` writes, ``symcache.modules/1``: read again, an element at a time."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput
from symcache.formats.jsonlists import find_elements
from symcache.identity import DbgKey, ImageKey, PdbKey, PortablePdbKey, parse_index
from symcache.inputs.records import (
    ImageUse,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    Runtime,
    RuntimeKind,
    Unreadable,
    reference_to,
    stated_by_image,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.pe.managed import ManagedCode
    from symcache.formats.pe.version import Numbers, VersionInfo
    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.inputs.records import Record

SCHEMA = "symcache.modules/1"

_MOST_PROBLEMS = 100
_LONGEST_TEXT = 2048
_MOST_PDBS = 64
_MOST_CANDIDATES = 32
_NUMBERS = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,5}){3}")


def read_module_list(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the scan, then its modules. Entries that name no file are reported, up to a hundred.

    Raises:
        MalformedInput: More entries than that name no file.
    """
    yield Input(path, InputKind.SCAN)
    number = problems = 0
    is_whole = False
    for name, value in find_elements(view, ("modules", "inputs"), lambda _, value: "name" in value or "kind" in value):
        if name == "inputs":
            is_whole = True  # it stands behind the modules
            continue
        if "name" not in value or "pdbs" not in value:
            continue
        number += 1
        try:
            yield _module(value)
        except InputError as error:
            yield Unreadable(path, f"modules, number {number}: {error.problem}")
            problems += 1
            if problems == _MOST_PROBLEMS:
                raise MalformedInput(f"{_MOST_PROBLEMS} entries of it name no file; the rest was not read") from error
    if not is_whole:
        yield Unreadable(path, "it is cut short, or damaged: the list of its inputs is not there")


def _module(value: Mapping[str, Any]) -> Module:
    name = _text(value.get("name"))
    if name is None:
        raise MalformedInput("it has no name")
    image, dbg = value.get("image"), value.get("dbg")
    base = value.get("base")
    use = value.get("needs_image")
    return Module(
        name,
        path=_text(value.get("path")),
        base=_base(base),
        unloaded=value.get("unloaded") is True,
        image=_image(image) if image is not None else None,
        pdbs=tuple(map(_pdb, _pdbs(value.get("pdbs")))),
        dbg=_dbg(dbg) if dbg is not None else None,
        problem=_text(value.get("problem")),
        candidates=tuple(map(_image_of, _candidates(value.get("candidates", [])))),
        process=_text(value.get("process")),
        is_missed=value.get("missed") is True,
        no_debugger=value.get("no_debugger") is True,
        needs_image=ImageUse(use) if isinstance(use, str) and use in set(ImageUse) else None,
        version=_version(value["version"]) if "version" in value else None,
        managed=_managed(value["managed"]) if "managed" in value else None,
        runtime=_runtime(value["runtime"]) if "runtime" in value else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None


def _base(value: object) -> int | None:
    try:
        return int(value, 16) if isinstance(value, str) and len(value) <= 18 else None
    except ValueError as error:
        raise MalformedInput("its base is no address") from error


def _key(value: object) -> Key:
    return _key_of(value.get("index") if isinstance(value, dict) else None)


def _key_of(text: object) -> Key:
    index = _text(text)
    if index is None:
        raise MalformedInput("a file of it has no index")
    return parse_index(index)


def _image(value: object) -> ImageKey:
    return _image_of(value.get("index") if isinstance(value, dict) else None)


def _image_of(text: object) -> ImageKey:
    key = _key_of(text)
    if type(key) is not ImageKey:
        raise MalformedInput("its image has the index of another kind of file")
    return key


def _dbg(value: object) -> Key:
    key = _key(value)
    if not isinstance(key, DbgKey):
        raise MalformedInput("its .dbg file has the index of another kind of file")
    return key


def _pdbs(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_PDBS:
        raise MalformedInput("it has no list of PDBs")
    return value


def _candidates(value: object) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_CANDIDATES:
        raise MalformedInput("it has no list of what its image may be")
    return value


def _pdb(value: object) -> PdbReference:
    reference = reference_to(_key(value))
    if reference is None or not isinstance(value, dict):
        raise MalformedInput("a PDB of it has the index of another kind of file")
    stated, checksums = value.get("format"), value.get("checksums", [])
    format_ = PdbFormat(stated) if isinstance(stated, str) and stated in set(PdbFormat) else reference.format
    texts = checksums if isinstance(checksums, list) else []
    known = tuple(text for text in texts[:8] if isinstance(text, str) and len(text) < 200)
    return PdbReference(reference.key, format_, stated_by_image(known), tuple(map(_other_pdb, _others(value))))


def _others(pdb: Mapping[str, Any]) -> list[Any]:
    others = pdb.get("others", [])
    if not isinstance(others, list) or len(others) > _MOST_PDBS:
        raise MalformedInput("a PDB of it has no list of what it may be")
    return others


def _other_pdb(text: object) -> PdbKey | PortablePdbKey:
    key = _key_of(text)
    if not isinstance(key, PdbKey | PortablePdbKey):
        raise MalformedInput("what a PDB of it may be has the index of another kind of file")
    return key


def _numbers(value: object) -> Numbers | None:
    if not isinstance(value, str) or _NUMBERS.fullmatch(value) is None:
        return None
    first, second, third, fourth = (min(int(part), 0xFFFF) for part in value.split("."))
    return first, second, third, fourth


def _version(value: object) -> VersionInfo | None:
    from symcache.formats.pe.version import VersionInfo, one_line  # noqa: PLC0415 - of few modules

    if not isinstance(value, dict):
        return None
    told: dict[str, Any] = {}
    for field in fields(VersionInfo):
        each = value.get(field.name)
        if field.name.startswith("is_"):
            told[field.name] = each is True
        else:
            is_number = field.name.endswith("_numbers")
            told[field.name] = _numbers(each) if is_number else one_line(each) if isinstance(each, str) else None
    return VersionInfo(**told)


def _managed(value: object) -> ManagedCode | None:
    from symcache.formats.pe.managed import ManagedCode  # noqa: PLC0415 - of few modules

    return ManagedCode(value) if isinstance(value, str) and value in set(ManagedCode) else None


def _runtime(value: object) -> Runtime | None:
    """Return the runtime that a module is or holds; None for one of a kind that is not known."""
    if not isinstance(value, dict) or value.get("kind") not in list(RuntimeKind):
        return None
    machine, flavor = value.get("machine"), value.get("flavor")
    return Runtime(
        RuntimeKind(value["kind"]),
        machine=machine if type(machine) is int and 0 <= machine < 1 << 16 else None,
        version=_numbers(value.get("version")),
        flavor=flavor if flavor in {".dbg", ".chk"} else "",
        data_access=_stamp_and_size(value.get("data_access")),
        debugging_interface=_stamp_and_size(value.get("debugging_interface")),
    )


def _stamp_and_size(value: object) -> tuple[int, int] | None:
    if not isinstance(value, dict):
        return None
    stamp, size = (
        each if type(each) is int and 0 <= each < 1 << 32 else None
        for each in (value.get("timestamp"), value.get("size_of_image"))
    )
    return None if stamp is None or size is None else (stamp, size)
