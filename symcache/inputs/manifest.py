r"""Lists of wanted files: symchk manifests (``name,key,type``) and indexes, one per line.

A list is UTF-8, UTF-16 or Windows-1252, with any line end. Blank lines and lines that begin with ``;`` or ``#`` are
passed over, and so are the bullets and numbers of a list. An index is ``name/id/name``, ``name/id`` or ``name id``,
with ``/`` or ``\``; between fields there may be tabs, as a spreadsheet copies them.
"""

from __future__ import annotations

import codecs
import re
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import MalformedInput
from symcache.formats.view import PartView
from symcache.identity import ImageKey, OtherKey, fold, parse_id, parse_index, printable
from symcache.inputs.records import Input, InputKind, Module, PdbFormat, Unreadable, reference_to
from symcache.inputs.runtimes import library_keys, runtime_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.inputs.records import PdbReference, Record

_CHUNK_BYTES = 1 << 16
_LONGEST_LINE = 4096
_LOOKED_AT_LINES = 32

# Ids of files from other systems (elf-buildid-…, mach-uuid-…, sha1-…); without this any two words would be an index.
_OTHER_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{8,}", re.IGNORECASE)
_BULLET = re.compile(r"(?:[-*+\u2022]|\d{1,4}[.)])\s+(?=\S)")  # of a list in a letter; no file is called so
_COMMENT = (";", "#")
_RENAMED = (re.compile(r"ntoskrnl|ntkr\w+"), re.compile(r"hal\w*"))
_WITH_PDB = "1"

# Its number from 1, its offset in bytes, its text; None for one that is too long to be kept.
_Line: TypeAlias = tuple[int, int, str | None]


def read_manifest(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the list, then a module for each file in it.

    In a symchk manifest a PDB's line stands before its image's, and both have type 1: they make one module, whatever
    their names, as the PDB of ``hal.dll`` may be ``halmacpi.pdb``. In a list made by hand they may have nothing to do
    with each other, so a pair whose names differ is marked as presumed. An image without a PDB before it, or of
    type 2, is a module whose PDB has to be read from the image. Lines that cannot be read are reported with number
    and offset.

    Source: manifests written by ``symchk /om``; the meaning of type 2 is inferred from them.
    """
    yield Input(path, InputKind.MANIFEST)
    pdb: PdbReference | None = None  # of a line whose image may follow
    for number, at, text in _content(view):
        try:
            key, type_ = _parse_line(text)
        except MalformedInput as error:
            if pdb is not None:
                yield Module(pdb.key.name, pdbs=(pdb,))
                pdb = None
            yield Unreadable(path, f"line {number}: {error.problem}", at)
            continue
        if pdb is not None:
            if type(key) is ImageKey and type_ == _WITH_PDB:
                yield Module(key.name, image=key, pdbs=(pdb,), is_presumed=not _are_namesakes(pdb.key, key))
                pdb = None
                continue
            yield Module(pdb.key.name, pdbs=(pdb,))
        reference = reference_to(key)
        pdb = reference if type_ == _WITH_PDB else None
        if pdb is not None:
            continue
        if reference is not None:
            yield Module(key.name, pdbs=(reference,))
        elif type(key) is ImageKey:
            yield Module(key.name, image=key, problem="the list names the image alone, not its PDB")
        else:
            yield Module(key.name, dbg=key)
    if pdb is not None:
        yield Module(pdb.key.name, pdbs=(pdb,))


def looks_like_manifest(view: ByteView) -> bool:
    """Tell whether at least half of the first 32 lines ask for a file, or all there are are comments.

    Reads at most 64 KiB.
    """
    start = PartView(view, 0, min(view.size, _CHUNK_BYTES))
    texts = [text for _, _, text in islice(_content(start), _LOOKED_AT_LINES)]
    if not texts:
        _, _, first = next(_lines(start), (0, 0, None))
        return first is not None and first.startswith(_COMMENT)
    return 2 * sum(map(_asks, texts)) >= len(texts)


def manifest_lines(modules: Iterable[Module]) -> Iterator[str]:
    """Yield the lines, without line ends, that ``symchk /im`` and `read_manifest` take.

    A PDB has its id in upper case, an image in lower case. A module's last PDB stands right before its image; an image
    that names none has type 2, and so have the libraries of a .NET runtime that runs. Modules without a key, and PDBs
    embedded in their image, have no line.
    """
    for module in modules:
        pdbs = [reference.key for reference in module.pdbs if reference.format is not PdbFormat.EMBEDDED]
        yield from (f"{key.name},{key.id.upper()},1" for key in pdbs)
        if module.image is not None:
            yield f"{module.image.name},{module.image.id.lower()},{1 if pdbs else 2}"
        if module.dbg is not None:
            yield f"{module.dbg.name},{module.dbg.id.lower()},2"
        if module.base is not None and not module.unloaded and module.image is not None:
            runtime = runtime_of(module)
            if runtime is not None:
                yield from (f"{key.name},{key.id.lower()},2" for key in library_keys(module.image, runtime))


def _asks(text: str | None) -> bool:
    try:
        _parse_line(text)
    except MalformedInput:
        return False
    return True


def _parse_line(text: str | None) -> tuple[Key, str | None]:
    """Return what a line asks for, and the last field of a manifest's line; None elsewhere.

    Raises:
        MalformedInput: It names no file.
    """
    if text is None:
        raise MalformedInput(f"it is longer than {_LONGEST_LINE} characters")
    if "\t" in text and "," not in text:
        text = ",".join(field.strip() for field in text.split("\t"))
    name, id_, type_ = _split_fields(text) if "," in text else ("", "", None)
    if type_ is None:  # a manifest's line is no letter's
        name, text = _BULLET.sub("", name), _BULLET.sub("", text)
    key = parse_id(name, id_) if name else parse_index(text)
    if type(key) is OtherKey and not _OTHER_ID.fullmatch(key.id):
        raise MalformedInput(f"{printable(key.id)!r} is not an id of a symbol file; an index is written name/id/name")
    return key, type_


def _split_fields(text: str) -> tuple[str, str, str | None]:
    """Return name, id and type of a manifest's line; no name for a line of another kind.

    Names can hold commas and blanks, so fields are counted from the end.
    """
    *name, id_ = text.rsplit(",", 1)
    type_ = None
    if id_.strip().isdecimal() and len(id_.strip()) <= 2:
        type_ = id_.strip()
        *name, id_ = name[0].rsplit(",", 1)
    if not name or len(id_.split()) != 1 or set("/\\") & set(text):
        return "", "", None
    return name[0].strip(), id_.strip(), type_


def _are_namesakes(pdb: Key, image: ImageKey) -> bool:
    """Tell whether the names say that *pdb* is *image*'s.

    They are the same but for the end, the w of 32-bit Windows and the renaming of kernels and HALs.
    """
    stem, of_image = (PurePosixPath(fold(key.name)).stem for key in (pdb, image))
    return stem in {of_image, f"w{of_image}"} or any(
        family.fullmatch(stem) and family.fullmatch(of_image) for family in _RENAMED
    )


def _content(view: ByteView) -> Iterator[_Line]:
    """Yield the lines that are neither blank nor comments."""
    return (line for line in _lines(view) if (text := line[2]) is None or (text and not text.startswith(_COMMENT)))


def _lines(view: ByteView) -> Iterator[_Line]:
    """Yield every line, blanks round it dropped; memory is bounded however long a line is."""
    encoding, start = _find_encoding(view.read(0, min(view.size, 256)))
    # Latin-1 keeps bytes apart one by one; a line that is whole is then decoded as what it is.
    decoder = codecs.getincrementaldecoder(encoding or "latin-1")("replace")
    rest, at, number, dropped = "", start, 1, 0
    for offset in range(start, view.size, _CHUNK_BYTES):
        *ended, rest = (rest + decoder.decode(view.read(offset, min(_CHUNK_BYTES, view.size - offset)))).split("\n")
        for text in ended:
            yield number, at, None if dropped or len(text) > _LONGEST_LINE else _clean(text, encoding)
            number, at, dropped = number + 1, at + dropped + _width(text + "\n", encoding), 0
        if len(rest) > _LONGEST_LINE:
            rest, dropped = "", dropped + _width(rest, encoding)
    if rest or dropped:
        yield number, at, None if dropped else _clean(rest, encoding)


def _find_encoding(head: bytes) -> tuple[str | None, int]:
    """Return the flavour of UTF-16, None for bytes that keep ASCII, and the length of the byte order mark."""
    marks = ((codecs.BOM_UTF8, None), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
    for mark, encoding in marks:
        if head.startswith(mark):
            return encoding, len(mark)
    return text_encoding(head), 0


def text_encoding(head: bytes) -> str | None:
    """Return the UTF-16 flavour that *head* is written in; None for an encoding that keeps ASCII bytes.

    ``.logopen /u`` writes UTF-16 with a byte order mark; without one, NUL in every second byte gives it away.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    pairs = len(head) // 2
    # Not where the others are NUL, too: that is a file of zeros, or memory.
    if pairs >= 8 and head[1::2].count(0) > pairs * 3 // 4 and head[::2].count(0) < pairs // 4:
        return "utf-16-le"
    return None


def _clean(text: str, encoding: str | None) -> str:
    if encoding is None and not text.isascii():
        raw = text.encode("latin-1")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("cp1252", "replace")  # what symchk writes on a Western system
    return text.strip()


def _width(text: str, encoding: str | None) -> int:
    return len(text) if encoding is None else len(text.encode(encoding, "replace"))
