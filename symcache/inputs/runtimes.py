""".NET runtimes among modules, and the libraries that debuggers need of them.

Debuggers see nothing of a .NET program without its runtime's data access library, of exactly that build. It is
published under the stamp and size of the runtime's image, with the debugging interface and, of the .NET Framework, SOS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from symcache.identity import ImageKey, RuntimeLibrary, fold, parse_runtime_library
from symcache.inputs.records import Runtime, RuntimeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.inputs.records import Module

RUNTIMES = {
    "coreclr.dll": RuntimeKind.CORE,
    "clr.dll": RuntimeKind.FRAMEWORK,
    "mscorwks.dll": RuntimeKind.FRAMEWORK_2,
}
"""The runtimes that are modules of their own, by folded name."""

PRIVATE_VERSION = (42, 42, 42, 42)
"""File version of a runtime that somebody built for themselves; dotnet/runtime, eng/Versions.props."""

Libraries: TypeAlias = tuple[str, ...]

# Processors of debuggers for a runtime's machine, that of the runtime first, by the names that libraries have.
# Source: dotnet/diagnostics, PEFileKeyGenerator.cs, GetFilesLongNameVariants.
_HOSTS = {
    0x8664: ("amd64",),
    0x14C: ("x86",),
    0x1C4: ("arm", "x86"),
    0xAA64: ("arm64", "amd64"),
}
# What there is under the name with processors and version, for each of them, and under the short name alone.
_LONG: dict[RuntimeKind, Libraries] = {
    RuntimeKind.CORE: ("mscordaccore",),
    RuntimeKind.FRAMEWORK: ("mscordacwks", "sos"),
    RuntimeKind.FRAMEWORK_2: ("mscordacwks", "sos"),
}
_SHORT: dict[RuntimeKind, Libraries] = {
    RuntimeKind.CORE: ("mscordbi",),
    RuntimeKind.FRAMEWORK: ("mscordbi",),
    RuntimeKind.FRAMEWORK_2: (),
}


def runtime_of(module: Module) -> Runtime | None:
    """Return the runtime that *module* is or holds: what its input says of it, else what its name and version say."""
    runtime = module.runtime
    kind = RUNTIMES.get(fold(module.name)) if runtime is None and not module.is_foreign else None
    return runtime if kind is None else with_version(Runtime(kind), module.version)


def with_version(runtime: Runtime, version: VersionInfo | None) -> Runtime:
    """Return *runtime* with the build that its file's *version* says.

    Source: dotnet/diagnostics, PEFileKeyGenerator.cs: a debugging build is ``.chk``, a special one ``.dbg``.
    """
    if version is None or version.file_numbers is None:
        return runtime
    flavor = "" if not version.is_debug else ".dbg" if version.is_special else ".chk"
    return replace(runtime, version=version.file_numbers, flavor=flavor)


def with_facts(runtime: Runtime, facts: RuntimeFacts) -> Runtime | None:
    """Return *runtime* with what its image says; None where that says that the program holds none after all."""
    info = facts.info
    if runtime.kind is not RuntimeKind.SINGLE_FILE:
        known = replace(runtime, machine=facts.machine)
        if info is not None:
            known = replace(known, data_access=info.data_access, debugging_interface=info.debugging_interface)
        if runtime.version is None and info is not None and info.version is not None and facts.version is None:
            return replace(known, version=info.version)
        return with_version(known, facts.version) if runtime.version is None else known
    if info is None:
        return None
    # The version resource is the program's own.
    return Runtime(
        RuntimeKind.SINGLE_FILE,
        facts.machine,
        info.version,
        data_access=info.data_access,
        debugging_interface=info.debugging_interface,
    )


def is_build_known(runtime: Runtime) -> bool:
    """Return whether the names of all libraries follow from *runtime* without a look into its image."""
    if runtime.kind is RuntimeKind.SINGLE_FILE:
        return not runtime.is_presumed
    return runtime.machine is not None and runtime.version is not None


def own_key(runtime: Runtime, key: ImageKey) -> ImageKey | None:
    """Return the key that the library of *runtime* that *key* names has by itself; None if the runtime does not say.

    Under that it is published by who only adds files as they are, as symstore does: builds of their own, mostly.
    """
    library = parse_runtime_library(key.name)
    if library is None or library.host != library.target:
        return None
    own = {"mscordaccore": runtime.data_access, "mscordbi": runtime.debugging_interface}.get(library.base)
    return None if own is None or own == (key.timestamp, key.size_of_image) else ImageKey(library.short_name, *own)


def library_keys(image: ImageKey, runtime: Runtime) -> Iterator[ImageKey]:
    """Yield a key for each library that debuggers ask for, of the runtime that *image* is.

    Where one file has several names it is the one with processors and version; `symcache.identity.filed_keys` has the
    others. As long as the build is not known, it is the short name.
    """
    if runtime.kind is RuntimeKind.SINGLE_FILE:
        for name, own in (("mscordaccore.dll", runtime.data_access), ("mscordbi.dll", runtime.debugging_interface)):
            if own is not None:
                yield ImageKey(name, *own)
        return
    hosts = _HOSTS.get(runtime.machine or 0, ())
    names: list[str] = []
    for base in _LONG[runtime.kind]:
        if hosts and runtime.version is not None:
            long = (RuntimeLibrary(base, host, hosts[0], runtime.version, runtime.flavor) for host in hosts)
            names += [library.name for library in long]
        elif runtime.kind is not RuntimeKind.FRAMEWORK_2:  # of which there is no short name
            names.append(RuntimeLibrary(base).name)
    names += [RuntimeLibrary(base).name for base in _SHORT[runtime.kind]]
    yield from (replace(image, name=name) for name in names)
