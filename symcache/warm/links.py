"""What an image names, as wants understand it and as it is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import DbgKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.inputs.image import image_module
from symcache.inputs.records import Module, PdbFormat, PdbReference
from symcache.stores.links import ImageLinks, Link, StoreLinks
from symcache.stores.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.formats.pe.image import Image
    from symcache.stores.disk import DiskSource
    from symcache.warm.plan import WantedPdbOfImage

__all__ = ["module_of", "open_links", "read_links"]


def open_links(source: DiskSource, note: Callable[[str], None]) -> ImageLinks:
    """Return what images are known to name; what cannot be kept beside the stores is said to *note*."""
    memory: Memory | None = None
    try:
        memory = Memory(source.config.misses.folder / "images")
    except StoreError as error:
        note(f"{error}; what images name is remembered in the store alone")
    downstream = source.downstream_stores
    stores = sorted(source.stores, key=lambda store: store not in downstream)
    return ImageLinks(memory, [StoreLinks(store.root) for store in stores])


def read_links(want: WantedPdbOfImage, image: Image) -> tuple[Module, tuple[Link, ...]]:
    """Return *want*'s module as *image* shows it, and what is remembered of that."""
    module = replace(image_module(image, want.image.name), name=want.module)
    if not (module.pdbs or module.dbg):
        # Damaged debug data names nothing either, and another hop would bring no more.
        module = replace(module, no_debug_record=True)
    return module, tuple(_links_of(module))


def _links_of(module: Module) -> Iterator[Link]:
    for pdb in module.pdbs:
        yield Link(pdb.key, pdb.format is PdbFormat.EMBEDDED, pdb.checksums)
    if isinstance(module.dbg, DbgKey):
        yield Link(module.dbg)


def module_of(want: WantedPdbOfImage, links: Sequence[Link]) -> Module:
    """Return what is known of *want*'s module by what its image was seen to name."""
    pdbs: list[PdbReference] = []
    dbg: DbgKey | None = None
    for link in links:
        match link.key:
            case DbgKey() as dbg:
                pass
            case PortablePdbKey() as key:
                format_ = PdbFormat.EMBEDDED if link.is_embedded else PdbFormat.PORTABLE
                pdbs.append(PdbReference(key, format_, link.checksums))
            case Pdb2Key() as key:
                pdbs.append(PdbReference(key, PdbFormat.PDB2))
            case PdbKey() as key:
                pdbs.append(PdbReference(key, PdbFormat.NATIVE))
    return Module(want.module, image=want.image, pdbs=tuple(pdbs), dbg=dbg, no_debug_record=not links)
