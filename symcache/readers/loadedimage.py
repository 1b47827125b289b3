"""Images in the memory of a dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.pe import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import ImageKey, base_name
from symcache.readers.records import ImageUse

if TYPE_CHECKING:
    from symcache.formats.loaderlist import LoaderEntry
    from symcache.formats.pe import Image
    from symcache.formats.view import ByteView
    from symcache.readers.records import Module

__all__ = ["entry_names", "loader_key", "paged_out_use", "read_loaded_image"]

_PAGE_BYTES = 0x1000


def read_loaded_image(memory: ByteView, base: int, size_of_image: int) -> Image:
    """Return what the image loaded at *base* says of itself.

    Args:
        memory: The address space it is loaded in.
        base: Where, as the loader says.
        size_of_image: Bytes it takes, as the loader says.

    Raises:
        NotInDump: Its headers are not there.
        InputError: What is there is not that image: no image, or one of another size.
    """
    view = PartView(memory, base, min(size_of_image, memory.size - base))
    image = parse_image(view, Layout.MEMORY)
    # The loader counts whole pages, except for drivers of Windows XP and before.
    if _whole_pages(image.size_of_image) != _whole_pages(size_of_image):
        raise MalformedInput(f"its header claims {image.size_of_image:#x} bytes, the loader {size_of_image:#x}")
    return image


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE_BYTES)


def paged_out_use(module: Module) -> ImageUse | None:
    """Return what a debugger needs the image of *module* for, whose headers are in the dump's memory."""
    names_symbols = module.pdbs or module.dbg or module.no_debug_record
    return None if names_symbols or module.image is None else ImageUse.SYMBOLS


def entry_names(entry: LoaderEntry) -> tuple[str, str | None]:
    """Return a loader entry's base name, made up if it has none, and its path."""
    name = base_name(entry.full_name or "") or base_name(entry.base_name or "") or f"unknown_{entry.base:x}"
    return name, entry.full_name or None


def loader_key(name: str, stamp: int, size_of_image: int) -> ImageKey | None:
    """Return the key that the loader's own numbers make; None without a stamp or size or with an unusable name."""
    if not stamp or not size_of_image:
        return None
    try:
        return ImageKey(name, stamp, size_of_image)
    except InputError:
        return None
