"""What a bundle says it carries: the ``manifest.json`` in it.

Layout: ``{"schema": "symcache.bundle/1", "files": [{"index", "form", "path", "size", "sha256"}, …], "images":
[[index, [[index of a PDB, is embedded, [checksums]], …]], …]}``. *index* names the key, *form* is ``plain`` or
``compressed``, *path* is the member of the archive, which is where a single-tier store has the file; *size* in bytes;
*sha256* in lower-case hex. *images* says what images name, as `StoreLinks` has it; older bundles have none.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.identity import ImageKey, compressed_name, parse_index
from symcache.store.links import parse_links
from symcache.store.tree import Form

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.identity import Key
    from symcache.store.links import Link

__all__ = ["LARGEST_MANIFEST_BYTES", "MANIFEST", "SCHEMA", "Carried", "member_path", "parse_links_of", "parse_manifest"]

MANIFEST = "manifest.json"
SCHEMA = "symcache.bundle/1"
LARGEST_MANIFEST_BYTES = 64 << 20
"""The most that is written and read, in bytes; some 200,000 files."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Carried:
    """One file of a bundle.

    Attributes:
        key: What it is.
        form: Plain or compressed.
        size_bytes: Its length.
        sha256: Of its bytes, in hex.
    """

    key: Key
    form: Form
    size_bytes: int
    sha256: str

    @property
    def path(self) -> str:
        """Its member of the archive."""
        return member_path(self.key, self.form)

    def as_json(self) -> dict[str, str | int]:
        """Return its record in the manifest."""
        return {
            "index": self.key.index,
            "form": self.form,
            "path": self.path,
            "size": self.size_bytes,
            "sha256": self.sha256,
        }


def member_path(key: Key, form: Form) -> str:
    """Return where in a bundle *key*'s file lies."""
    return f"{key.name}/{key.id}/{compressed_name(key.name) if form is Form.COMPRESSED else key.name}"


def parse_manifest(content: bytes) -> Iterator[Carried]:
    """Yield the files that a manifest names, each path once.

    Raises:
        UnknownFormat: Not a manifest, or of a schema of the future.
        MalformedInput: A record of another shape, a name that cannot be part of a path, a path twice.
    """
    try:
        document = json.loads(content)
        schema, records = document["schema"], document["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnknownFormat(f"{MANIFEST} is no manifest of a bundle") from error
    if schema != SCHEMA or not isinstance(records, list):
        raise UnknownFormat(f"a bundle of the schema {schema!r:.80}; {SCHEMA} is read")
    seen: set[str] = set()
    for record in records:
        carried = _parse_record(record)
        if carried.path.lower() in seen:
            raise MalformedInput(f"{MANIFEST} names {carried.path} twice")
        seen.add(carried.path.lower())
        yield carried


def parse_links_of(content: bytes) -> dict[ImageKey, tuple[Link, ...]]:
    """Return what a manifest that `parse_manifest` takes says of images; what is of another shape is left out."""
    rows = json.loads(content).get("images", [])
    found: dict[ImageKey, tuple[Link, ...]] = {}
    for row in rows if isinstance(rows, list) else []:
        with suppress(ValueError, TypeError, AttributeError, InputError):
            index, names = row
            image, links = parse_index(index), parse_links(names)
            if isinstance(image, ImageKey) and links is not None:
                found[image] = links
    return found


def _parse_record(record: Any) -> Carried:
    try:
        index, form, path, size, sha256 = (record[name] for name in ("index", "form", "path", "size", "sha256"))
        key = parse_index(index)
        is_sound = (
            form in {Form.PLAIN, Form.COMPRESSED}
            and type(size) is int
            and size > 0
            and _SHA256.fullmatch(sha256) is not None
            and path == member_path(key, Form(form))
        )
    except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
        raise MalformedInput(f"{MANIFEST} has a record that names no file: {error}"[:200]) from error
    if not is_sound:
        raise MalformedInput(f"{MANIFEST} contradicts itself about {key.index}")
    return Carried(key, Form(form), size, sha256)
