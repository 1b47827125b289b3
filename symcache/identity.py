"""Keys, which name one file for a symbol store, their written form ``name/id/name``, and safe names. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TypeAlias, TypeVar
from uuid import UUID

from symcache.errors import MalformedInput

_GUID_AGE = re.compile(r"([0-9A-Fa-f]{32})([0-9A-Fa-f]{0,8})")
_STAMP_REST = re.compile(r"([0-9A-Fa-f]{8})([0-9A-Fa-f]{1,8})")
_PORTABLE_AGE = "ffffffff"
# Setup installs one of several kernels and HALs under a fixed name, and the symbol server has the original ones.
# Source: bug check 0x79 names the originals.
_FAMILIES = (
    ("ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe", "ntkrnlup.exe", "ntkrla57.exe"),
    ("hal.dll", "halmacpi.dll", "halacpi.dll", "halaacpi.dll", "halapic.dll", "halmps.dll"),
)
_LIBRARIES = ("mscordaccore", "mscordacwks", "mscordbi", "sos")
_ARCHITECTURE = "amd64|x86|arm64|arm"
_RUNTIME_LIBRARY = re.compile(
    rf"({'|'.join(_LIBRARIES)})(?:_({_ARCHITECTURE})_({_ARCHITECTURE})_"
    r"(\d{1,5})\.(\d{1,5})\.(\d{1,5})\.(\d{2,5})(\.dbg|\.chk)?)?\.dll",
    re.ASCII | re.IGNORECASE,
)
_FIRST_LETTERS = frozenset("msMS")
_COPY = re.compile(r"(?:dump_|hiber_)(.+\.sys)", re.ASCII | re.DOTALL | re.IGNORECASE)
_LONGEST_BYTES = 255
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # Unicode's categories Cc and Cs
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-]")  # nearly all names there are
_FORBIDDEN = frozenset('/\\:*?"<>|')
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
    + [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"]
)
POINTER = "file.ptr"
"""Says in a key's folder where the file is instead of being it."""

REFS = "refs.ptr"
"""Says which transactions brought the file."""

_ADMIN = frozenset(["000admin", "pingme.txt", "index2.txt", POINTER, REFS, "wantsptr.txt", "msfz0", ".symcache"])


class Tier(IntEnum):
    """How many folders there are between a store's root and a key's folder."""

    ONE = 1
    TWO = 2


@dataclass(frozen=True, slots=True, order=True)
class _Named:
    name: str  # of the file alone, without a path
    _index: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def id(self) -> str:
        raise NotImplementedError

    @property
    def index(self) -> str:
        """Path below a single-tier store's root; put together once, as a run asks for it a dozen times a key."""
        if self._index is None:
            object.__setattr__(self, "_index", f"{self.name}/{self.id}/{self.name}")
        return self._index  # type: ignore[return-value]  # it was set above

    @property
    def folded(self) -> str:
        """The index in the letter case in which debuggers compare keys."""
        return fold(self.index)


@dataclass(frozen=True, slots=True, order=True)
class PdbKey(_Named):
    """Which PDB 7 an image was linked with."""

    guid: UUID
    age: int  # times it was written, 32 bits unsigned; 0 for a PDB without a debug information stream

    @property
    def id(self) -> str:
        """GUID in 32 upper-case hex digits, age in lower-case hex without padding, nothing for age 0.

        Source: SSQP_Key_Conventions.md, "PDB-Signature-Age"; a store made by symstore.exe files a PDB without a
        DBI stream under its GUID alone, as zero parts of a key are left out.
        """
        return f"{self.guid.hex.upper()}{self.age:x}" if self.age else self.guid.hex.upper()


@dataclass(frozen=True, slots=True, order=True)
class Pdb2Key(_Named):
    """Which PDB 2.0 an image was linked with (an ``NB10`` record)."""

    signature: int  # its time stamp, 32 bits
    age: int  # 32 bits unsigned

    @property
    def id(self) -> str:
        """Signature in 8 upper-case hex digits, age in lower-case hex without padding."""
        return f"{self.signature:08X}{self.age:x}"


@dataclass(frozen=True, slots=True, order=True)
class PortablePdbKey(_Named):
    """Which portable PDB a managed image was built with; *guid* is the first 16 bytes of the PDB's 20-byte id."""

    guid: UUID

    @property
    def id(self) -> str:
        """GUID in 32 upper-case hex digits, then ``FFFFFFFF``; SSQP_Key_Conventions.md, "Portable-Pdb-Signature"."""
        return f"{self.guid.hex.upper()}FFFFFFFF"


@dataclass(frozen=True, slots=True, order=True)
class ImageKey(_Named):
    """Which image: an executable, a library, a driver."""

    timestamp: int  # TimeDateStamp of the file header, 32 bits; a hash in reproducible builds
    size_of_image: int  # SizeOfImage of the optional header, in bytes; not the file's length

    @property
    def id(self) -> str:
        """Stamp in 8 upper-case hex digits, size in lower-case; SSQP_Key_Conventions.md, "PE-timestamp-filesize"."""
        return f"{self.timestamp:08X}{self.size_of_image:x}"


@dataclass(frozen=True, slots=True, order=True)
class DbgKey(ImageKey):
    """Which separate ``.dbg`` file: it is filed under its image's stamp and size."""


@dataclass(frozen=True, slots=True, order=True)
class OtherKey(_Named):
    """A file whose id symcache does not interpret (``elf-buildid-…``, ``sha1-…``): served, never verified."""

    other_id: str

    def __post_init__(self) -> None:
        check_name(self.name)
        check_path_part(self.other_id)

    @property
    def id(self) -> str:
        return self.other_id


Key: TypeAlias = PdbKey | Pdb2Key | PortablePdbKey | ImageKey | OtherKey
K = TypeVar("K", bound=Key)


def parse_id(name: str, id_: str) -> Key:
    """Return the key that *id_* is for a file called *name*.

    The extension decides where the digits alone do not: ``37A8F40E2`` is a PDB 2.0 for ``x.pdb``, an image for
    ``x.dll`` and a ``.dbg`` file for ``x.dbg``.

    Raises:
        MalformedInput: *name* or *id_* cannot be part of a path.
    """
    if match := _GUID_AGE.fullmatch(id_):
        guid, age = UUID(int=int(match[1], 16)), match[2]
        return PortablePdbKey(name, guid) if age.lower() == _PORTABLE_AGE else PdbKey(name, guid, int(age or "0", 16))
    if match := _STAMP_REST.fullmatch(id_):
        extension = fold(name).rpartition(".")[2]
        make = Pdb2Key if extension == "pdb" else DbgKey if extension == "dbg" else ImageKey
        return make(name, int(match[1], 16), int(match[2], 16))
    return OtherKey(name, id_)


def parse_index(text: str) -> Key:
    r"""Return the key that *text* writes out, as ``name/id/name``, ``name/id`` or ``name id``; ``\`` counts as ``/``.

    Raises:
        MalformedInput: Another shape, two different names, or a name that cannot be part of a path.
    """
    parts = text.strip().replace("\\", "/").split("/")
    if len(parts) == 1:
        name, _, id_ = text.strip().rpartition(" ")
        parts = [name.strip(), id_]
    if len(parts) not in {2, 3} or not all(parts):
        raise MalformedInput(f"{printable(text)!r} is not an index; write it as name/id/name")
    if len(parts) == 3 and fold(parts[2]) not in {fold(parts[0]), compressed_name(fold(parts[0]))}:
        raise MalformedInput(f"{printable(text)!r} is not an index: it begins and ends with different names")
    return parse_id(parts[0], parts[1])


def tier_folder(name: str) -> str:
    """Return the extra folder of a two-tier store: the first two letters of the file's name.

    A name whose second character is a dot, or that has only one, is filed under one letter, as Symbolicator does;
    Microsoft documents no rule for it.
    Source: windows-driver-docs, symbol-store-folder-tree.
    """
    return name[:1] if name[1:2] in {"", "."} else name[:2]


def compressed_name(name: str) -> str:
    """Return a cabinet's name: the last character becomes ``_``; windows-driver-docs, symstore-command-line-options."""
    return name[:-1] + "_"


def relative_parts(key: Key, tier: Tier = Tier.ONE) -> tuple[str, ...]:
    """Return the folders between a store's root and the key's file, outermost first."""
    folders = (key.name, key.id)
    return (tier_folder(key.name), *folders) if tier is Tier.TWO else folders


def source_name(name: str) -> str:
    """Return the name of the file that a driver called *name* was loaded from.

    Drivers that write a crash dump or hibernate run as second copies, listed as ``dump_storport.sys`` or
    ``hiber_storport.sys``; no such file exists. The prefix is taken off once: ``dump_dumpfve.sys`` is ``dumpfve.sys``.
    """
    match = _COPY.fullmatch(name)
    return name if match is None else match[1]


@dataclass(frozen=True, slots=True)
class RuntimeLibrary:
    """What the name of a library says that lets debuggers see into one build of a .NET runtime.

    Such libraries are published under the stamp and size of the runtime's image, not their own. *host* is the processor
    that the library itself runs on, *target* that of the runtime: ``amd64``, ``x86``, ``arm``, ``arm64``.
    """

    base: str  # ``mscordaccore``, ``mscordacwks``, ``mscordbi``, ``sos``
    host: str | None = None  # None, as are *target* and *version*, for the short name: ``mscordbi.dll``
    target: str | None = None
    version: tuple[int, int, int, int] | None = None  # of the runtime's file
    flavor: str = ""  # ``.dbg`` or ``.chk`` for a build with debugging code

    @property
    def short_name(self) -> str:
        """The library's own file name, under which one for the runtime's own processor is published as well."""
        return f"{self.base}.dll"

    @property
    def name(self) -> str:
        """File name: with processors and version ``BASE_HOST_TARGET_VERSION.dll``.

        The last part of the version has two digits at least. Debuggers write the processors in either letter case,
        lower case here: ``mscordacwks_AMD64_AMD64_4.8.4341.00.dll`` is WinDbg's.
        Source: dotnet/diagnostics, PEFileKeyGenerator.cs, GetFilesLongNameVariants.
        """
        if self.host is None or self.target is None or self.version is None:
            return self.short_name
        major, minor, build, revision = self.version
        version = f"{major}.{minor}.{build}.{revision:02}{self.flavor}"
        return f"{self.base}_{self.host}_{self.target}_{version}.dll"


def parse_runtime_library(name: str) -> RuntimeLibrary | None:
    """Return what a file's *name* says if it is that of a .NET runtime's library for debuggers, else None."""
    if name[:1] not in _FIRST_LETTERS or (match := _RUNTIME_LIBRARY.fullmatch(name)) is None:
        return None
    base, host, target, *numbers, flavor = match.groups()
    if host is None:
        return RuntimeLibrary(fold(base))
    major, minor, build, revision = map(int, numbers)
    return RuntimeLibrary(fold(base), fold(host), fold(target), (major, minor, build, revision), fold(flavor or ""))


def _short_keys(key: K) -> tuple[K, ...]:
    """Return the key of the same file under its short name, for a runtime's library with a long one."""
    library = parse_runtime_library(key.name)
    if library is None or library.host is None or library.host != library.target:
        return ()
    return (replace(key, name=library.short_name),)


def filed_keys(key: K) -> tuple[K, ...]:
    """Return the keys under which *key*'s file is to stand in a store: *key*, and others that debuggers ask for.

    Of a .NET runtime's library some debuggers ask for the name with processors and version, others for the short one.
    Source: dotnet/diagnostics, PEFileKeyGenerator.cs, which names both; dbgeng asks for the long one.
    """
    return (key, *_short_keys(key)) if type(key) is ImageKey else (key,)


def sought_keys(key: K) -> tuple[K, ...]:
    """Return the keys any of which a debugger that asks for *key* looks for, the likeliest first, *key* among them."""
    return (key,) if parse_runtime_library(key.name) is not None else published_keys(key)


def published_keys(key: K) -> tuple[K, ...]:
    """Return the keys under which *key*'s file may be published, the likeliest first, *key* among them.

    The same stamp and size under any of an image's names is the same file. dbgeng 10.0.15063 was seen to look for all
    names, whichever the dump lists. A .NET runtime's library may be published under its short name alone. Other files
    have one name.
    """
    if type(key) is not ImageKey:
        return (key,)
    if short := _short_keys(key):
        return (key, *short)
    try:
        source = replace(key, name=source_name(key.name))
    except MalformedInput:  # "dump_con.sys" is a valid file name, "con.sys" is not
        return (key,)
    if source != key:
        return (source, key)
    family = next((family for family in _FAMILIES if fold(key.name) in family), ())
    return (key, *(replace(key, name=name) for name in family if name != fold(key.name)))


def is_kernel_or_hal(name: str) -> bool:
    """Say whether an image's name is one that kernels or HALs have."""
    return any(fold(name) in family for family in _FAMILIES)


def base_name(path: str) -> str:
    r"""Return what follows the last ``\`` or ``/``, whichever system wrote *path*.

    Source: SSQP_Key_Conventions.md; code view records hold Windows and Unix paths alike.
    """
    return path.replace("\\", "/").rpartition("/")[2]


def check_path_part(part: str) -> str:
    """Return *part* if every file system accepts it as the name of one file, in the folder that it is used in.

    Raises:
        MalformedInput: Empty, ``.`` or ``..``, a separator, a drive or stream mark, a wildcard, a control
            character, a trailing dot or blank, a device name, or more than 255 bytes of UTF-8.
    """
    if problem := _find_problem(part):
        raise MalformedInput(f"{printable(part)!r} cannot be a file name: {problem}")
    return part


def check_name(name: str) -> str:
    """Return *name* if it can be the name of a symbol file in a store.

    Raises:
        MalformedInput: As `check_path_part`, and for names that a store reserves (``000Admin``, ``file.ptr``).
    """
    check_path_part(name)
    if fold(name) in _ADMIN:
        raise MalformedInput(f"{name!r} cannot be a symbol's name: a store keeps that name for itself")
    return name


def fold(name: str) -> str:
    """Return *name* in the letter case in which debuggers compare names."""
    return name.lower()


def printable(text: str) -> str:
    """Return *text* cut to a length that fits an error line."""
    return text if len(text) <= 80 else text[:77] + "..."


def _find_problem(part: str) -> str | None:
    if _PLAIN.fullmatch(part) and fold(part.partition(".")[0]) not in _DEVICES:
        return None
    if not part:
        return "it is empty"
    if part in {".", ".."}:
        return "it names a folder"
    # The number of characters first: an input may give 64 KiB, and what follows looks at each.
    if len(part) > _LONGEST_BYTES:
        return f"it is longer than {_LONGEST_BYTES} bytes"
    if _CONTROL.search(part):
        return "it has a control character"
    if bad := _FORBIDDEN.intersection(part):
        return f"it has {min(bad)!r}"
    if part[-1] in ". ":
        return "it ends in a dot or blank"
    if fold(part.partition(".")[0].rstrip(" ")) in _DEVICES:
        return "Windows treats it as a device"
    if len(part.encode()) > _LONGEST_BYTES:
        return f"it is longer than {_LONGEST_BYTES} bytes"
    return None
