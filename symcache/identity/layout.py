"""Where a key's file lies below a store's root."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symcache.identity.keys import Key

__all__ = ["Tier", "compressed_name", "relative_parts", "tier_folder"]


class Tier(IntEnum):
    """How many folders lie between a store's root and a key's folder."""

    ONE = 1
    TWO = 2


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
