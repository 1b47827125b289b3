""".NET runtimes, the libraries that debuggers need of them, and programs, as images to write."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from support.synth.pe import ImagePlan, disk_bytes
from support.synth.version import Numbers, VersionPlan, version_bytes

if TYPE_CHECKING:
    from typing import Any

__all__ = ["MICROSOFT", "library_bytes", "library_plan", "runtime_plan", "version_resource"]

MICROSOFT = "Microsoft Corporation"


def version_resource(
    name: str, numbers: Numbers, *, company: str = MICROSOFT, flags: int = 0
) -> tuple[tuple[int, int, bytes], ...]:
    """Return the version resource of a file that was built as *name*; *flags* are those of VS_FIXEDFILEINFO."""
    texts = {"040904b0": {"CompanyName": company, "OriginalFilename": name}}
    return ((1, 0x409, version_bytes(VersionPlan(texts, file=numbers, flags=flags))),)


def library_plan(
    name: str, numbers: Numbers, *, machine: int = 0x8664, timestamp: int = 0x1234, **more: Any
) -> ImagePlan:
    """Return a library for debuggers, called *name* by itself in both ways, with a stamp and size of its own."""
    plan = ImagePlan(
        timestamp,
        machine=machine,
        pe32_plus=machine in {0x8664, 0xAA64},
        versions=version_resource(name, numbers),
        exports=(("CLRDataCreateInstance", bytes(16)),),
        own_name=name,
    )
    return replace(plan, **more)


def library_bytes(name: str, numbers: Numbers, **more: Any) -> bytes:
    """Return the file of `library_plan`."""
    return disk_bytes(library_plan(name, numbers, **more))


def runtime_plan(
    timestamp: int, size_of_image: int, name: str, numbers: Numbers | None, *, machine: int = 0x8664, **more: Any
) -> ImagePlan:
    """Return the image of a runtime."""
    plan = ImagePlan(
        timestamp,
        size_of_image,
        machine=machine,
        pe32_plus=machine in {0x8664, 0xAA64},
        versions=() if numbers is None else version_resource(name, numbers),
        exports=(("g_CLREngineMetrics", bytes(16)),),
        own_name=name,
    )
    return replace(plan, **more)
