"""Crash reports and profiles in JSON: what crash services and profilers say of the modules they saw.

============================================ ======================= ==================================================
what                                         list                    fields of a module
============================================ ======================= ==================================================
events of Sentry, alone, in lists, envelopes ``debug_meta.images``   ``type``, ``debug_id`` (GUID ``-`` age),
                                                                     ``debug_file``, ``code_id``, ``code_file``
requests and answers of symbolicator         ``modules``             the same, and ``debug_status``
Socorro, minidump-stackwalk                  ``modules``, also below ``debug_id`` (GUID and age), ``debug_file``,
                                             ``json_dump``           ``code_id``, ``filename``, ``missing_symbols``
profiles of Firefox and samply               ``libs``, also in each  ``breakpadId``, ``debugName``, ``codeId``,
                                             of ``processes``        ``name``
============================================ ======================= ==================================================

Source: develop.sentry.dev, "Debug Meta Interface"; symbolicator's documentation, "Response Format"; rust-minidump,
json-schema.md; profiler.firefox.com, docs-developer, "gecko-profile-format"; sentry-dotnet, PEReaderExtensions (the ids
of .NET). Lists are looked for by name, wherever they stand: see `symcache.formats.jsonlists`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from symcache.errors import MalformedInput
from symcache.formats.jsonlists import find_elements
from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey, base_name, fold, parse_id
from symcache.inputs.records import (
    CrashStack,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    Remark,
    StackModule,
    Unreadable,
    reference_to,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

_LIBS = "libs"
_LISTS = ("modules", "images")
_UNLOADED = "unloaded_modules"
_STACKS = ("crashing_thread", "crash_info", "threads", "values", "stacktraces")

_MOST_MODULES = 1 << 15
_MOST_FRAMES = 1024
_MOST_THREADS = 4096
_LONGEST_TEXT = 1024
_TAIL_BYTES = 256

_OF_MODULE = ("debug_id", "debug_file", "code_id", "code_file")
_OF_LIB = ("breakpadId", "debugName")
_WINDOWS_TYPES = frozenset({"pe", "pe_dotnet"})
_TYPES_OF_ANY = (None, "symbolic")  # the latter is what minidumps' modules were called before they had types
_MISSING_STATES = frozenset({"missing", "malformed", "fetching_failed", "timeout", "other"})
_IMAGE_NAME = re.compile(r".\.(?:exe|dll|sys|drv|ocx|cpl|scr|efi|ax|mui|node|pyd|winmd|com|tlb|acm|ime|tsp)$")
_OTHER_NAME = re.compile(r"\.(?:so|dylib)\b")
_CODE_ID = re.compile(r"[0-9A-Fa-f]{9,16}")
_DEBUG_ID = re.compile(r"([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|[0-9A-Fa-f]{32})-?([0-9A-Fa-f]{0,8})")
_PDB2_ID = re.compile(r"([0-9A-Fa-f]{8})-([0-9A-Fa-f]{1,8})")
_CHECKSUM = re.compile(r"([A-Za-z0-9]{1,16}):([0-9A-Fa-f]{16,128})")
_NUMBERS = re.compile(r"\d{1,5}(?:\.\d{1,5}){3}")
_STAMP_DIGITS = 8


def find_report(view: ByteView) -> InputKind | None:
    """Return which kind of crash report or profile *view*, JSON, is: told by its first list of modules."""
    name, _ = next(find_elements(view, (_LIBS, *_LISTS, _UNLOADED), _is_module), (None, None))
    return None if name is None else InputKind.PROFILE if name == _LIBS else InputKind.CRASH_REPORT


def read_profile(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the profile, then each Windows module of its processes once.

    Other modules are counted, as ``other_modules`` of its details. A profile without any of Windows is unreadable.
    """
    found = _Found()
    try:
        for _, value in find_elements(view, (_LIBS,), _is_module):
            if not found.add(_lib_fields(value)):
                break
    except MalformedInput as error:
        found.problem = error.problem
    if found.problem is None and not _is_whole(view):
        found.problem = "it is cut short: processes that stood behind the cut are not there"
    yield from _records(found, path, InputKind.PROFILE)


def read_crash_report(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the report, its Windows modules, then the crashing thread's modules where it names those of frames.

    Modules that were looked for in vain by who wrote the report are marked by ``is_missed``. Others are counted, as
    ``other_modules`` of its details; a report without any of Windows is unreadable.
    """
    found = _Found()
    stacks = _Stacks()
    try:
        for name, value in find_elements(view, (*_LISTS, _UNLOADED, *_STACKS), _fits):
            if name in _STACKS:
                stacks.add(name, value)
            elif not found.add(_module_fields(value, is_unloaded=name == _UNLOADED)):
                break
    except MalformedInput as error:
        found.problem = error.problem
    yield from _records(found, path, InputKind.CRASH_REPORT)
    if (stack := _crash_stack(found, stacks)) is not None:
        yield stack


def _is_whole(view: ByteView) -> bool:
    """Tell whether *view*, an object of JSON, has its last bracket."""
    tail = min(view.size, _TAIL_BYTES)
    return view.read(view.size - tail, tail).rstrip(b"\0 \t\r\n").endswith(b"}")


def _records(found: _Found, path: str, kind: InputKind) -> Iterator[Record]:
    yield Input(path, kind, {"module_count": len(found.modules), "other_modules": found.others})
    if found.others and found.modules:
        yield Remark(f"{path}: {found.others} of the modules it lists are not of Windows and have no PDB")
    yield from found.modules.values()
    if not found.modules:
        problem = f"none of the {found.others} modules it lists is of Windows, so that none has a PDB"
        yield Unreadable(path, problem if found.others else "it lists no modules")
    if found.problem is not None:
        yield Unreadable(path, found.problem)


def _is_module(name: str, value: Mapping[str, Any]) -> bool:
    return any(field in value for field in (_OF_LIB if name == _LIBS else _OF_MODULE))


def _fits(name: str, value: Mapping[str, Any]) -> bool:
    match name:
        case "modules" | "images":
            return _is_module(name, value)
        case "unloaded_modules":
            return "filename" in value
        case "crash_info":
            return "crashing_thread" in value
        case "values":
            return "stacktrace" in value or "thread_id" in value or "crashed" in value
        case _:
            return isinstance(value.get("frames"), list)


class _Fields:
    """What one entry of any of the lists says of a module, as text or None."""

    def __init__(
        self, value: Mapping[str, Any], *, name: str, debug_name: str, code_id: str, debug_id: str, base: str
    ) -> None:
        self.path = _text(value.get(name))
        self.debug_path = _text(value.get(debug_name))
        self.code_id = _text(value.get(code_id))
        self.debug_id = _text(value.get(debug_id))
        self.base = _address(value.get(base))
        self.type = _text(value.get("type"))
        self.version = _text(value.get("version"))
        self.checksum = _text(value.get("debug_checksum"))
        self.is_missed = False
        self.is_unloaded = False

    @property
    def is_of_windows(self) -> bool:
        """The module is an image of Windows: its kind says so, else the names and ids that only those have."""
        if self.type not in _TYPES_OF_ANY:
            return self.type in _WINDOWS_TYPES
        names = [fold(base_name(path)) for path in (self.path, self.debug_path) if path]
        if any(name.endswith(".pdb") or _IMAGE_NAME.search(name) for name in names):
            return True
        if any(path.startswith("/") for path in (self.path, self.debug_path) if path):
            return False
        is_named_otherwise = any(_OTHER_NAME.search(name) for name in names)
        return not is_named_otherwise and self.code_id is not None and _CODE_ID.fullmatch(self.code_id) is not None


def _lib_fields(value: Mapping[str, Any]) -> _Fields:
    fields = _Fields(value, name="name", debug_name="debugName", code_id="codeId", debug_id="breakpadId", base="start")
    full_path = _text(value.get("path"))
    if full_path is not None and (fields.path is None or fold(base_name(full_path)) == fold(fields.path)):
        fields.path = full_path
    fields.type = None
    fields.base = None  # processes have modules at addresses of their own
    return fields


def _module_fields(value: Mapping[str, Any], *, is_unloaded: bool) -> _Fields:
    is_of_sentry = "code_file" in value or "image_addr" in value or "type" in value
    fields = _Fields(
        value,
        # "name" is what Sentry called it before 2019.
        name=("code_file" if "code_file" in value else "name") if is_of_sentry else "filename",
        debug_name="debug_file",
        code_id="code_id",
        debug_id="debug_id",
        base="image_addr" if is_of_sentry else "base_addr",
    )
    fields.is_unloaded = is_unloaded
    fields.is_missed = (
        value.get("missing_symbols") is True
        or value.get("corrupt_symbols") is True
        # Newer ones say this of every module that nothing was looked up for, too, beside ``missing_symbols: false``.
        or (value.get("loaded_symbols") is False and value.get("missing_symbols") is None)
        or _text(value.get("debug_status")) in _MISSING_STATES
    )
    return fields


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT else None


def _address(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"0x[0-9A-Fa-f]{1,16}", value):
        return int(value, 16)
    return value if type(value) is int and 0 <= value < 1 << 64 else None


class _Found:
    """The modules of a report, each once, in their order."""

    def __init__(self) -> None:
        self.modules: dict[tuple[str, ...], Module] = {}
        self.by_name: dict[str, Module] = {}
        self.others = 0
        self.problem: str | None = None  # why there may be more of them

    def add(self, fields: _Fields) -> bool:
        """Take in what *fields* say; False if there are too many modules."""
        if not fields.is_of_windows:
            self.others += 1
            return True
        module = _module(fields)
        if module is None:
            return True
        files = (*(pdb.key.folded for pdb in module.pdbs), "" if module.image is None else module.image.folded)
        name = (fold(module.name), *files)
        known = self.modules.get(name)
        if known is None and len(self.modules) >= _MOST_MODULES:
            self.problem = f"it lists more than {_MOST_MODULES} modules; the rest was not read"
            return False
        if known is None:
            self.modules[name] = module
        elif module.is_missed and not known.is_missed:
            self.modules[name] = replace(known, is_missed=True)
        if not module.unloaded:
            self.by_name[fold(module.name)] = self.modules[name]
        return True


def _module(fields: _Fields) -> Module | None:
    """Return what is known of a module; None if it has no name at all."""
    debug_name = base_name(fields.debug_path or "")
    name = base_name(fields.path or "") or debug_name
    if not name:
        return None
    module = Module(
        name,
        path=fields.path if fields.path and base_name(fields.path) != fields.path else None,
        base=fields.base,
        unloaded=fields.is_unloaded,
        is_missed=fields.is_missed,
        no_debugger=True,
        version=_version(fields.version),
    )
    image, why_no_image = _image(name, fields)
    pdbs, why_no_pdb = _pdbs(debug_name, fields)
    problem = None
    if not pdbs:
        problem = why_no_pdb or (None if image is not None else why_no_image)
        if problem is None:
            has = "has no id of its PDB"
            problem = (
                f"the report {has}; its image names it" if image is not None else f"the report {has} nor its image's"
            )
    return replace(module, image=image, pdbs=pdbs, problem=problem)


def _image(name: str, fields: _Fields) -> tuple[ImageKey | None, str | None]:
    """Return the key of the image: eight digits of its stamp, then its size; or why it has none."""
    code_id = fields.code_id
    if code_id is None or _CODE_ID.fullmatch(code_id) is None or not fields.path:
        return None, None
    stamp, size = int(code_id[:_STAMP_DIGITS], 16), int(code_id[_STAMP_DIGITS:], 16)
    if not stamp or not size:
        return None, None
    try:
        return ImageKey(name, stamp, size), None
    except MalformedInput as error:
        return None, error.problem


def _pdbs(name: str, fields: _Fields) -> tuple[tuple[PdbReference, ...], str | None]:
    """Return the PDBs that an id may stand for, or why it stands for none.

    Of .NET the second part is the stamp of its debug directory, of eight digits, where the PDB is a portable one, and
    not there where that is zero; a Windows PDB has an age of one at least.
    """
    text = fields.debug_id
    if text is None or not name or not text.strip("0-"):
        return (), None
    try:
        if match := _DEBUG_ID.fullmatch(text):
            guid, age = UUID(match[1]), match[2]
            if not guid.int:
                return (), None
            if fold(age) == "ffffffff" or (
                fields.type == "pe_dotnet" and (len(age) == _STAMP_DIGITS or not age.strip("0"))
            ):
                key = PortablePdbKey(name, guid)
                return (PdbReference(key, PdbFormat.PORTABLE, _checksums(fields.checksum)),), None
            return (PdbReference(PdbKey(name, guid, int(age or "0", 16)), PdbFormat.NATIVE),), None
        if match := _PDB2_ID.fullmatch(text):
            return (PdbReference(Pdb2Key(name, int(match[1], 16), int(match[2], 16)), PdbFormat.PDB2),), None
        reference = reference_to(parse_id(name, text))
    except MalformedInput as error:
        return (), error.problem
    return (() if reference is None else (reference,)), None


def _checksums(text: str | None) -> tuple[str, ...]:
    match = None if text is None else _CHECKSUM.fullmatch(text)
    # What only a lock file may state begins otherwise.
    return () if match is None else (f"{match[1].upper()}:{match[2].lower()}",)


def _version(text: str | None) -> VersionInfo | None:
    if text is None or _NUMBERS.fullmatch(text) is None or not text.strip("0."):
        return None
    from symcache.formats.pe.version import VersionInfo  # noqa: PLC0415 - of few reports

    first, second, third, fourth = (min(int(part), 0xFFFF) for part in text.split("."))
    return VersionInfo(file_version=text, file_numbers=(first, second, third, fourth))


class _Stacks:
    """Which modules the frames of the crashing thread are in, from the top, as far as a report names them."""

    def __init__(self) -> None:
        self._crashing: list[str] | None = None
        self._index: int | None = None
        self._threads: list[list[str]] = []
        self.thread: str | None = None

    def add(self, list_name: str, value: Mapping[str, Any]) -> None:
        match list_name:
            case "crashing_thread":
                self._crashing = _frames(value, "module")
                self.thread = _thread_text(value.get("threads_index"))
            case "crash_info":
                index = value.get("crashing_thread")
                self._index = index if type(index) is int else None
            case "threads":
                if len(self._threads) < _MOST_THREADS:
                    self._threads.append(_frames(value, "module"))
            case "values":
                self._add_of_event(value)
            case "stacktraces":
                if self._crashing is None or value.get("is_requesting") is True:
                    self._crashing = _frames(value, "package")
                    self.thread = _thread_text(value.get("thread_id"))

    def _add_of_event(self, value: Mapping[str, Any]) -> None:
        """Take an exception, or a thread that crashed; frames of an event begin with the oldest call."""
        trace = value.get("stacktrace")
        is_exception = "crashed" not in value and "type" in value
        if isinstance(trace, dict) and (is_exception or value.get("crashed") is True) and self._crashing is None:
            frames = _frames(trace, "package", from_end=True)
            if frames:
                self._crashing = frames
                self.thread = _thread_text(value.get("thread_id") or value.get("id"))

    @property
    def names(self) -> list[str]:
        """The names of the modules, one for each frame."""
        if self._crashing is not None:
            return self._crashing
        index = self._index
        if index is None or not 0 <= index < len(self._threads):
            return []
        self.thread = _thread_text(index)
        return self._threads[index]


def _frames(value: Mapping[str, Any], field: str, *, from_end: bool = False) -> list[str]:
    frames = value.get("frames")
    if not isinstance(frames, list):
        return []
    chosen = frames[: -_MOST_FRAMES - 1 : -1] if from_end else frames[:_MOST_FRAMES]
    names = (_text(frame.get(field)) for frame in chosen if isinstance(frame, dict))
    return [fold(base_name(name)) for name in names if name is not None]


def _thread_text(number: object) -> str | None:
    return f"{number}, which crashed" if type(number) is int else None


def _crash_stack(found: _Found, stacks: _Stacks) -> CrashStack | None:
    counts: dict[str, int] = {}
    for name in stacks.names:
        if name in found.by_name:
            counts[name] = counts.get(name, 0) + 1
    modules = tuple(StackModule(found.by_name[name], count) for name, count in counts.items())
    return CrashStack(modules, stacks.thread) if modules else None
