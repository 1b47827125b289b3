"""Bytes to records: readers of PE images, PDBs, cabinets and dumps. They know no key and no store."""

from symcache.formats.cab import expand, open_cabinet
from symcache.formats.dbg import parse_dbg
from symcache.formats.minidump import parse_minidump
from symcache.formats.pdb import parse_pdb
from symcache.formats.pe import Layout, parse_image
from symcache.formats.view import BytesView, ByteView, FileView, PartView

__all__ = [
    "ByteView",
    "BytesView",
    "FileView",
    "Layout",
    "PartView",
    "expand",
    "open_cabinet",
    "parse_dbg",
    "parse_image",
    "parse_minidump",
    "parse_pdb",
]
