"""Which PDBs, or which .dbg file, an image names, remembered by the image's key, so that its headers are fetched once.

That never changes, so there is no time to live. A store carries what was learned while it was filled.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey, parse_index
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.local.rights import make_file, make_own_folders, open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO, Literal, Self

    from symcache.stores.bundle import BundleStore
    from symcache.stores.memory import Memory


_LARGEST_SHARD_BYTES = 16 << 20
_LONGEST_LINE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Link:
    """One file that an image names: a PDB or ``.dbg`` file."""

    key: PdbKey | Pdb2Key | PortablePdbKey | DbgKey
    is_embedded: bool = False  # it lies in the image itself
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex`` as the image states them


class StoreLinks:
    """What images name, as a store carries it.

    Layout: up to 256 files ``.symcache/links/XX``, where XX begins the SHA-256 of the folded index; a line of JSON for
    each image: ``[index, [[index of the file, is embedded, [checksums]], …]]``. Lines are only ever appended, each in
    one write, so that processes need no lock and a torn line costs no other; the last one for an image counts.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / OWN_FOLDER / "links"
        self._shards: dict[Path, tuple[tuple[int, int], dict[str, tuple[Link, ...]]]] = {}

    def recall(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, in file order; empty if it names none, None if the store does not know."""
        return self._read(self._shard(image)).get(image.folded)

    def remember(self, image: ImageKey, links: Sequence[Link]) -> bool:
        """Note what *image* names; return whether the store took it."""
        if self.recall(image) == tuple(links):
            return True
        # The line break before it ends what a killed process may have left.
        line = f"\n{json.dumps([image.index, links_json(links)])}\n".encode()
        if len(line) > _LONGEST_LINE_BYTES:
            return False
        shard = self._shard(image)
        try:
            make_own_folders(self._folder)
            with _open(shard, "ab") as file:
                before = os.fstat(file.fileno())
                # What lies beyond the bound is never read.
                if before.st_size + len(line) > _LARGEST_SHARD_BYTES or file.write(line) != len(line):
                    return False
                after = os.fstat(file.fileno())
        except OSError:
            return False
        known = self._shards.get(shard)
        if known is not None and known[0] == _state(before) and after.st_size == before.st_size + len(line):
            # No other process has written since. Reading all of it again for each line would take quadratic time.
            self._shards[shard] = (_state(after), known[1] | {image.folded: tuple(links)})
        return True

    def list(self) -> Iterator[tuple[ImageKey, tuple[Link, ...]]]:
        """Yield every image that the store knows of, with what it names; one file at a time is in memory."""
        try:
            shards = sorted(self._folder.iterdir())
        except OSError:
            return
        for shard in shards:
            for folded, links in sorted(self._read(shard, keep=False).items()):
                with suppress(InputError):
                    image = parse_index(folded)
                    if isinstance(image, ImageKey):
                        yield image, links

    def _shard(self, image: ImageKey) -> Path:
        return self._folder / hashlib.sha256(image.folded.encode()).hexdigest()[:2]

    def _read(self, shard: Path, *, keep: bool = True) -> dict[str, tuple[Link, ...]]:
        """Return what *shard* holds; it is read again only when it has changed."""
        try:
            state = _state(shard.stat())
            known = self._shards.get(shard)
            if known is not None and known[0] == state:
                return known[1]
            with _open(shard, "rb") as file:
                lines = file.read(min(_LARGEST_SHARD_BYTES, state[1])).splitlines()
        except OSError:
            return {}
        links: dict[str, tuple[Link, ...]] = {}
        for line in lines:
            with suppress(ValueError, RecursionError):
                if named := parse_named(json.loads(line)):
                    links[named[0].folded] = named[1]
        if keep:
            self._shards[shard] = (state, links)
        return links


class ImageLinks:
    """What images name, as far as stores (*carried*), bundles and this user's own memory know.

    The first store learns it.
    """

    def __init__(
        self, memory: Memory | None, carried: Sequence[StoreLinks] = (), bundles: Sequence[BundleStore] = ()
    ) -> None:
        self._memory = memory
        self._carried = carried
        self._bundles = bundles

    def recall(self, image: ImageKey, *, may_learn: bool = False) -> tuple[Link, ...] | None:
        """Return what *image* names, in file order; empty if it names none, None if it is not known.

        With *may_learn* what a bundle says is noted as by `remember`, for when the bundle is gone.
        """
        for store in self._carried:
            links = store.recall(image)
            if links is not None:
                return links
        for bundle in self._bundles:
            links = bundle.recall(image)
            if links is not None:
                if may_learn:
                    self.remember(image, links)
                return links
        text = None if self._memory is None else self._memory.get(image.folded)
        with suppress(ValueError, RecursionError):
            return None if text is None else parse_links(json.loads(text))
        return None

    def remember(self, image: ImageKey, links: Sequence[Link]) -> None:
        """Note what *image* names: in the first store, else in the user's memory."""
        if self._carried and self._carried[0].remember(image, links):
            return
        if self._memory is not None:
            self._memory.set(image.folded, json.dumps(links_json(links)))

    def close(self) -> None:
        """Close the database; safe to call twice."""
        if self._memory is not None:
            self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def links_json(links: Sequence[Link]) -> list[list[Any]]:
    return [[link.key.index, link.is_embedded, list(link.checksums)] for link in links]


def parse_named(row: Any) -> tuple[ImageKey, tuple[Link, ...]] | None:
    """Return the image and what it names that *row*, read from JSON, states, trusting nothing in it; None if none."""
    with suppress(ValueError, TypeError, AttributeError, InputError):
        index, rows = row
        image, links = parse_index(index), parse_links(rows)
        if isinstance(image, ImageKey) and links is not None:
            return image, links
    return None


def parse_links(rows: Any) -> tuple[Link, ...] | None:
    """Return the links that *rows* state; as `parse_named`."""
    links: list[Link] = []
    try:
        for index, is_embedded, checksums in rows:
            key = parse_index(index)
            is_text = all(type(each) is str for each in checksums)
            if not isinstance(key, PdbKey | Pdb2Key | PortablePdbKey | DbgKey) or not is_text:
                return None
            links.append(Link(key, bool(is_embedded), tuple(checksums)))
    except (ValueError, TypeError, AttributeError, InputError):
        return None
    return tuple(links)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def _open(shard: Path, mode: Literal["rb", "ab"]) -> BinaryIO:
    """Open *shard*, unbuffered for appending; an `OSError` unless it is a plain file of the store itself."""
    if mode == "ab":
        return open(make_file(shard, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)  # noqa: PTH123 - a descriptor
    return open(open_plain(shard), "rb")  # noqa: PTH123 - a descriptor
