"""Keys: values that name one file for a symbol store, and their written form, the index ``name/id/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias
from uuid import UUID

from symcache.errors import MalformedInput
from symcache.identity.names import check_name, check_path_part, fold, printable

_GUID_AGE = re.compile(r"([0-9A-Fa-f]{32})([0-9A-Fa-f]{0,8})")
_STAMP_REST = re.compile(r"([0-9A-Fa-f]{8})([0-9A-Fa-f]{1,8})")
_PORTABLE_AGE = "ffffffff"
# Setup installs one of several kernels and HALs under a fixed name, and the symbol server has the original ones.
# Source: bug check 0x79 names the originals.
_FAMILIES = (
    ("ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe", "ntkrnlup.exe"),
    ("hal.dll", "halmacpi.dll", "halacpi.dll", "halaacpi.dll", "halapic.dll", "halmps.dll"),
)
_COPY_PREFIXES = ("dump_", "hiber_")


class Tier(IntEnum):
    """How many folders there are between a store's root and a key's folder."""

    ONE = 1
    TWO = 2


@dataclass(frozen=True, slots=True, order=True)
class _Named:
    name: str  # of the file alone, without a path

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def id(self) -> str:
        """The middle part of the index."""
        raise NotImplementedError

    @property
    def index(self) -> str:
        """Path below a single-tier store's root."""
        return f"{self.name}/{self.id}/{self.name}"

    @property
    def folded(self) -> str:
        """The index in the letter case in which debuggers compare keys."""
        return fold(self.index)


@dataclass(frozen=True, slots=True, order=True)
class PdbKey(_Named):
    """Which PDB 7 an image was linked with.

    Attributes:
        guid: Signature of the PDB.
        age: Times the PDB was written, 32 bits unsigned; 0 for a PDB without a debug information stream.
    """

    guid: UUID
    age: int

    @property
    def id(self) -> str:
        """GUID in 32 upper-case hex digits, age in lower-case hex without padding, nothing for age 0.

        Source: SSQP_Key_Conventions.md, "PDB-Signature-Age"; a store made by symstore.exe files a PDB without a
        DBI stream under its GUID alone, as zero parts of a key are left out.
        """
        return f"{self.guid.hex.upper()}{self.age:x}" if self.age else self.guid.hex.upper()


@dataclass(frozen=True, slots=True, order=True)
class Pdb2Key(_Named):
    """Which PDB 2.0 an image was linked with (an ``NB10`` record).

    Attributes:
        signature: Time stamp of the PDB, 32 bits.
        age: Times the PDB was written, 32 bits unsigned.
    """

    signature: int
    age: int

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
        """GUID in 32 upper-case hex digits, then ``FFFFFFFF``.

        Source: SSQP_Key_Conventions.md, "Portable-Pdb-Signature".
        """
        return f"{self.guid.hex.upper()}FFFFFFFF"


@dataclass(frozen=True, slots=True, order=True)
class ImageKey(_Named):
    """Which image: an executable, a library, a driver.

    Attributes:
        timestamp: TimeDateStamp of the file header, 32 bits; a hash in reproducible builds.
        size_of_image: SizeOfImage of the optional header, in bytes; not the file's length.
    """

    timestamp: int
    size_of_image: int

    @property
    def id(self) -> str:
        """Stamp in 8 upper-case hex digits, size in lower-case hex without padding.

        Source: SSQP_Key_Conventions.md, "PE-timestamp-filesize".
        """
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
        """The id as it was given."""
        return self.other_id


Key: TypeAlias = PdbKey | Pdb2Key | PortablePdbKey | ImageKey | OtherKey


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
    """Return the name of a file's cabinet: the last character becomes an underscore.

    Source: windows-driver-docs, symstore-command-line-options.
    """
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
    folded = fold(name)
    for prefix in _COPY_PREFIXES:
        if folded.startswith(prefix) and folded.endswith(".sys") and len(name) > len(prefix) + 4:
            return name[len(prefix) :]
    return name


def published_keys(key: ImageKey) -> tuple[ImageKey, ...]:
    """Return the keys under which *key*'s image may be published, the likeliest first, *key* among them.

    The same stamp and size under any of an image's names is the same file. dbgeng 10.0.15063 was seen to look for all
    names, whichever the dump lists.
    """
    if isinstance(key, DbgKey):
        return (key,)
    try:
        source = _renamed(key, source_name(key.name))
    except MalformedInput:  # "dump_con.sys" is a valid file name, "con.sys" is not
        return (key,)
    if source != key:
        return (source, key)
    family = next((family for family in _FAMILIES if fold(key.name) in family), ())
    return (key, *(_renamed(key, name) for name in family if name != fold(key.name)))


def _renamed(key: ImageKey, name: str) -> ImageKey:
    return ImageKey(name, key.timestamp, key.size_of_image)
