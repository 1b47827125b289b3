"""The identity of symbol files: keys, safe names, places in a store. Values only, no I/O."""

from symcache.identity.keys import (
    DbgKey,
    ImageKey,
    Key,
    OtherKey,
    Pdb2Key,
    PdbKey,
    PortablePdbKey,
    Tier,
    compressed_name,
    parse_id,
    parse_index,
    published_keys,
    relative_parts,
    source_name,
    tier_folder,
)
from symcache.identity.names import base_name, check_name, check_path_part, fold, printable

__all__ = [
    "DbgKey",
    "ImageKey",
    "Key",
    "OtherKey",
    "Pdb2Key",
    "PdbKey",
    "PortablePdbKey",
    "Tier",
    "base_name",
    "check_name",
    "check_path_part",
    "compressed_name",
    "fold",
    "parse_id",
    "parse_index",
    "printable",
    "published_keys",
    "relative_parts",
    "source_name",
    "tier_folder",
]
