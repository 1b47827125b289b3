"""Crash reports and profiles in JSON, as crash services and profilers write them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ReportedModule",
    "envelope",
    "firefox_profile",
    "sentry_event",
    "socorro_report",
    "stackwalk_report",
    "symbolicator_answer",
]


_NIL = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ReportedModule:
    """A module as a report speaks of it.

    Attributes:
        path: Of its image, with slashes of either kind.
        pdb: Path of its PDB; None for a module without.
        guid: Of that; nil where the writer had none.
        age: Of that.
        stamp: Time stamp of the image; 0 where the writer had none.
        size: SizeOfImage.
        base: Where it is loaded.
        missing: Symbols were looked for and not found; None where nothing is said of that.
        version: Four numbers with dots.
    """

    path: str
    pdb: str | None
    guid: UUID = _NIL
    age: int = 0
    stamp: int = 0
    size: int = 0
    base: int = 0x10000
    missing: bool | None = None
    version: str | None = None

    @property
    def name(self) -> str:
        return self.path.replace("\\", "/").split("/")[-1]

    @property
    def pdb_name(self) -> str:
        return (self.pdb or "").replace("\\", "/").split("/")[-1]

    @property
    def breakpad_id(self) -> str:
        return f"{self.guid.hex.upper()}{self.age:X}"

    @property
    def code_id(self) -> str:
        return f"{self.stamp:08X}{self.size:x}"


LINUX = ReportedModule("/usr/lib/libc.so.6", "/usr/lib/libc.so.6", UUID(int=5), 0, base=0x7F0000)
_ELF_CODE = "0123456789abcdef0123456789abcdef01234567"


def sentry_image(module: ReportedModule, kind: str = "pe", debug_id: str | None = None) -> dict[str, Any]:
    """Return one of ``debug_meta.images``; *debug_id* is another one than a native PDB's."""
    image: dict[str, Any] = {
        "type": kind,
        "code_id": module.code_id.lower(),
        "code_file": module.path,
        "debug_id": debug_id or f"{module.guid}-{module.age:x}",
        "debug_file": module.pdb,
        "image_addr": f"{module.base:#x}",
        "image_size": module.size,
    }
    if module.missing is not None:
        image["debug_status"] = "missing" if module.missing else "found"
    return image


def sentry_event(
    modules: Sequence[ReportedModule], frames: Sequence[str] = (), *, others: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return an event whose exception has *frames*, the paths of their modules from the oldest call on."""
    trace = {"frames": [{"package": path, "instruction_addr": "0x10"} for path in frames]}
    return {
        "event_id": "fc6d8c0c43fc4630ad850ee518f1b9d0",
        "platform": "native",
        "modules": {"some.python.package": "1.0"},
        "exception": {"values": [{"type": "EXCEPTION_ACCESS_VIOLATION", "thread_id": 77, "stacktrace": trace}]},
        "breadcrumbs": {"values": [{"type": "default", "message": 'she said "images": [{'}]},
        "debug_meta": {"images": [*others, *(sentry_image(module) for module in modules)]},
    }


def envelope(events: Sequence[dict[str, Any]]) -> bytes:
    """Return an envelope: lines of JSON, a header for each event."""
    lines: list[dict[str, Any]] = [{"event_id": "fc6d8c0c43fc4630ad850ee518f1b9d0", "dsn": "https://e@sentry.io/1"}]
    for event in events:
        lines += [{"type": "event", "length": len(json.dumps(event))}, event]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def symbolicator_answer(modules: Sequence[ReportedModule], frames: Sequence[str] = ()) -> dict[str, Any]:
    """Return an answer whose requesting thread has *frames*, from the top."""
    other = {"thread_id": 1, "is_requesting": False, "frames": [{"package": r"C:\other.dll"}]}
    thread = {"thread_id": 7, "is_requesting": True, "frames": [{"package": path} for path in frames]}
    return {"status": "completed", "stacktraces": [other, thread], "modules": [sentry_image(each) for each in modules]}


def _walked(module: ReportedModule, *, newer: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "base_addr": f"0x{module.base:016x}",
        "end_addr": f"0x{module.base + module.size:016x}",
        "code_id": module.code_id if module.stamp else "",
        "debug_file": module.pdb_name,
        "debug_id": module.breakpad_id,
        "filename": module.name,
        "version": module.version,
    }
    if newer:
        entry |= {"missing_symbols": bool(module.missing), "loaded_symbols": module.missing is False}
        entry["corrupt_symbols"] = False
    elif module.missing is not None:
        entry |= {"missing_symbols": True} if module.missing else {"loaded_symbols": True}
    return entry


def _thread(frames: Sequence[str]) -> dict[str, Any]:
    listed = [{"frame": number, "module": name, "offset": "0x10"} for number, name in enumerate(frames)]
    return {"frame_count": len(frames), "frames": listed}


def stackwalk_report(
    modules: Sequence[ReportedModule],
    frames: Sequence[str] = (),
    *,
    unloaded: Sequence[ReportedModule] = (),
) -> dict[str, Any]:
    """Return what rust-minidump writes; *frames* are the names of the crashing thread's modules from the top."""
    return {
        "status": "OK",
        "system_info": {"os": "Windows NT", "cpu_arch": "amd64"},
        "crash_info": {"type": "EXCEPTION_ACCESS_VIOLATION", "crashing_thread": 1},
        "threads": [_thread(["wrong.dll"]), _thread(frames)],
        "crashing_thread": {"threads_index": 1, "registers": {"rip": "0x10"}, **_thread(frames)},
        "modules": [_walked(module, newer=True) for module in modules],
        "unloaded_modules": [
            {
                "base_addr": f"0x{each.base:x}",
                "end_addr": f"0x{each.base + each.size:x}",
                "code_id": each.code_id,
                "filename": each.name,
            }
            for each in unloaded
        ],
    }


def socorro_report(modules: Sequence[ReportedModule], frames: Sequence[str] = ()) -> dict[str, Any]:
    """Return a processed crash of the older form, which names the crashing thread by its number alone."""
    dump = {
        "crash_info": {"crashing_thread": 1},
        "modules": [_walked(module, newer=False) for module in modules],
        "threads": [_thread(["wrong.dll"]), _thread(frames)],
    }
    return {"product": "Firefox", "signature": "mozilla::Crash", "crashing_thread": 1, "json_dump": dump}


def _lib(module: ReportedModule) -> dict[str, Any]:
    is_elf = module.path.startswith("/")
    return {
        "arch": "x86_64",
        "name": module.name,
        "path": module.path,
        "debugName": module.pdb_name or module.name,
        "debugPath": module.pdb,
        "breakpadId": module.breakpad_id,
        "codeId": _ELF_CODE if is_elf else module.code_id,
        "start": module.base,
    }


def firefox_profile(
    modules: Sequence[ReportedModule], others: Sequence[Sequence[ReportedModule]] = (), *, samples: int = 10
) -> dict[str, Any]:
    """Return a profile with *modules* at the top and those of *others* in processes of their own."""
    thread = {
        "name": "GeckoMain",
        "samples": {"data": [[number, number * 0.5, None] for number in range(samples)]},
        "stringArray": [f'f{number} "libs": [{{' for number in range(samples)],
    }
    processes = [{"meta": {"pid": 1}, "libs": [_lib(each) for each in listed], "threads": []} for listed in others]
    return {
        "meta": {"version": 27, "product": "Firefox", "interval": 1},
        "libs": [_lib(module) for module in modules],
        "threads": [thread],
        "processes": processes,
    }
