"""Bytes to records: readers of PE images, PDBs, cabinets and dumps. They know no key and no store."""

from symcache.formats.cab.cabinet import expand, open_cabinet
from symcache.formats.dump.minidump import parse_minidump
from symcache.formats.pdb.info import parse_pdb
from symcache.formats.pe.dbg import parse_dbg
from symcache.formats.pe.image import Layout, parse_image
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
