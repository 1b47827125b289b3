"""Everything that can be told of one file: what it is, what it names, whether it is whole and in its right place."""

from __future__ import annotations

import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, StoreError, UnknownFormat, UsageError
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.pdb.deep import DeepPdb
from symcache.formats.pdb.info import Container, NativePdb, SymbolKind, parse_pdb
from symcache.formats.pe.image import Layout
from symcache.formats.pe.managed import read_runtime_facts
from symcache.formats.pe.version import VersionInfo, read_version
from symcache.formats.view import FileView
from symcache.identity import ImageKey, OtherKey, base_name, check_name, filed_keys, fold, parse_index
from symcache.inputs.detect import detect, read_input
from symcache.inputs.records import (
    CrashStack,
    Input,
    InputKind,
    Module,
    ProcessSummary,
    Runtime,
    RuntimeKind,
    Unreadable,
)
from symcache.inputs.runtimes import library_keys, runtime_of, with_facts
from symcache.stores.bundle import BundleStore
from symcache.stores.check import check_file
from symcache.stores.local.tree import MSFZ_FOLDER
from symcache.stores.results import Fetched, Present
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.identity import Key
    from symcache.stores.base import Searchable
    from symcache.stores.bucket.objects import Bucket
    from symcache.warm.report import Symbol

_CABINET = b"MSCF"
_MOST_PROBLEMS = 100
_MOST_EXPANDED_BYTES = 1 << 32  # a cabinet's own field for it has 32 bits


@dataclass(frozen=True, slots=True)
class DeepWish:
    """What is wanted beyond identity, for which pdbparse is needed: how many public symbols and names of structures."""

    streams: bool = False  # the length of every stream
    publics: int = 0
    types: int = 0

    def __bool__(self) -> bool:
        return bool(self.streams or self.publics or self.types)


@dataclass(frozen=True, slots=True)
class Filed:
    """The place in a store's layout that the file was found in: its key written out, why the file does not belong."""

    index: str
    problem: str | None = None
    note: str | None = None  # something odd that does not make it wrong


@dataclass(slots=True)
class Inspection:
    """What was found out."""

    path: str  # as the user named it
    size_bytes: int | None = None  # None if it could not be opened
    kind: InputKind | None = None
    cabinet: tuple[str, int] | None = None  # name and length of the file within; all else is said of that one
    details: dict[str, Any] = field(default_factory=dict)  # facts of the reader
    index: str | None = None  # where a store has such a file; None for what no store has
    names: list[str] = field(default_factory=list)  # indexes of the PDBs and ``.dbg`` files that an image names
    version: VersionInfo | None = None  # who made an image, if it says so
    libraries: list[str] = field(
        default_factory=list
    )  # indexes that debuggers ask for, if it is or holds a .NET runtime
    modules: int = 0
    identified: int = 0
    unloaded: int = 0
    processes: list[ProcessSummary] = field(default_factory=list)
    filed: Filed | None = None  # None outside of stores
    problems: list[tuple[str, int | None]] = field(default_factory=list)  # in one line, and where; the first hundred
    more_problems: int = 0
    deep: dict[str, Any] = field(default_factory=dict)

    @property
    def is_healthy(self) -> bool:
        """Nothing is wrong with the file or its place."""
        return not self.problems and (self.filed is None or self.filed.problem is None)

    def add_problem(self, text: str, offset: int | None = None) -> None:
        """Note that something is wrong; an input can be wrong in any number of places."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append((text, offset))
        else:
            self.more_problems += 1

    def as_json(self) -> dict[str, Any]:
        """Return the document ``symcache.inspect/1``."""
        filed = self.filed
        return {
            "schema": "symcache.inspect/1",
            "path": self.path,
            "size_bytes": self.size_bytes,
            "kind": self.kind,
            "healthy": self.is_healthy,
            "cabinet": None if self.cabinet is None else dict(zip(("name", "size_bytes"), self.cabinet, strict=True)),
            "index": self.index,
            "names": self.names,
            "libraries": self.libraries,
            "version": None if self.version is None else self.version.as_json(),
            "modules": {"total": self.modules, "identified": self.identified, "unloaded": self.unloaded},
            "processes": [each.as_json() for each in self.processes],
            "filed": None if filed is None else asdict(filed),
            "problems": [{"problem": text, "offset": offset} for text, offset in self.problems],
            "more_problems": self.more_problems,
            "details": self.details,
            **self.deep,
        }


def inspect_file(path: str, wish: DeepWish) -> Inspection:
    """Return what can be told of the file at *path*; whatever is wrong with it is in there, too.

    Raises:
        UsageError: pdbparse is needed for *wish* and not installed, or the file is none that it reads.
    """
    found = Inspection(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnknownFormat("not a regular file")
        found.size_bytes = status.st_size
        with _plain_file(path, found) as plain:
            _take_in(found, plain)
            if found.kind is InputKind.IMAGE and found.details.get("type", "DBG") != "DBG":
                _take_in_version(found, plain)
                _take_in_runtime(found, plain)
            found.filed = _check_place(found, plain)
            if wish and found.details:
                found.deep = dict(_look_deep(found, plain, wish))
    except InputError as error:
        found.add_problem(error.problem, error.offset)
    except OSError as error:
        found.add_problem(error.strerror or str(error))
    return found


def find_private(symbols: Iterable[Symbol], buckets: Iterable[Bucket] = ()) -> list[str]:
    """Return the indexes of the PDBs among *symbols* that are at hand and hold private symbols.

    Those in *buckets* are read in ranges.

    Raises:
        StoreError: A bundle or bucket that one lies in is damaged, or cannot be read.
    """
    opened = list(buckets)
    bundles: dict[Path, BundleStore] = {}
    private: list[str] = []
    for symbol in symbols:
        outcome, index = symbol.outcome, symbol.index
        if symbol.kind is not FileKind.PDB or index is None or not isinstance(outcome, Present | Fetched):
            continue
        if isinstance(outcome, Present) and outcome.url is not None:
            from symcache.stores.bucket.look import BucketLook  # noqa: PLC0415 - few symbol paths have one

            places = (BucketLook(each) for each in opened if outcome.url.startswith(f"{each.name}/"))
            kind = next((found for each in places if (found := _symbols_in(each, parse_index(index)))), None)
        elif isinstance(outcome, Present) and outcome.in_bundle:
            bundle = bundles.setdefault(outcome.path, BundleStore(outcome.path))
            kind = _symbols_in(bundle, parse_index(index))
        else:
            kind = inspect_file(str(outcome.path), DeepWish()).details.get("symbols")
        if kind == SymbolKind.PRIVATE:
            private.append(index)
    return private


def _symbols_in(place: Searchable, key: Key) -> SymbolKind | None:
    stored = place.find(key)
    if stored is None:
        return None
    try:
        with stored.open() as view:
            pdb = parse_pdb(view)
    except (InputError, OSError) as error:
        raise StoreError(f"{key.index} in it cannot be read: {error}", path=place.name) from error
    return pdb.symbols if isinstance(pdb, NativePdb) else None


@contextmanager
def _plain_file(path: str, found: Inspection) -> Iterator[Path]:
    """Lend the file itself, or a copy of what it holds if it is a cabinet."""
    with FileView(path) as view:
        if view.read(0, min(view.size, len(_CABINET))) != _CABINET:
            yield Path(path)
            return
        opened = open_cabinet(view)
        member = opened.members[0]
        found.cabinet = (member.name, member.size)
        if len(opened.members) > 1:
            found.add_problem(f"the cabinet holds {len(opened.members)} files; debuggers expect one")
        with TemporaryDirectory(prefix="symcache-") as folder:
            plain = Path(folder, _content_name(path, member.name))
            limit_bytes = min(_MOST_EXPANDED_BYTES, shutil.disk_usage(folder).free)
            with plain.open("xb") as file:
                file.writelines(expand(opened, member, limit_bytes=limit_bytes))
            yield plain


def _content_name(path: str, member: str) -> str:
    """Return what the file in a cabinet is called: as its folder in a store says, else as the cabinet does."""
    filed = _place_of(path)
    try:
        return filed.name if filed is not None else check_name(base_name(member))
    except InputError:
        return check_name(base_name(path))


def _take_in(found: Inspection, plain: Path) -> None:
    """Read the file as any input is read."""
    with suppress(UnknownFormat), FileView(plain) as view:
        found.kind = detect(view)  # of a damaged file, too
    is_first = True
    for record in read_input(str(plain)):
        match record:
            case Input(_, kind, details):
                if is_first:  # others lie in it
                    found.kind, found.details, is_first = kind, dict(details), False
            case Module():
                found.modules += 1
                found.identified += bool(record.image or record.pdbs or record.dbg)
                found.unloaded += record.unloaded
                if found.kind in {InputKind.IMAGE, InputKind.PDB}:
                    _take_in_module(found, record)
            case CrashStack(modules, thread):
                found.details["stack"] = [each.as_json() for each in modules]
                found.details["stack_of_thread"] = thread
            case ProcessSummary():
                found.processes.append(record)
            case Unreadable():
                within = record.path.removeprefix(str(plain)).lstrip("/")  # the name of a file in an archive
                found.add_problem(f"{within}: {record.problem}" if within else record.problem, record.offset)
    said = {text for text, _ in found.problems}
    for text in found.details.get("problems", ()):
        if text not in said:
            found.add_problem(text)


def _take_in_module(found: Inspection, module: Module) -> None:
    pdbs = [pdb.key.index for pdb in module.pdbs]
    dbg = [] if module.dbg is None else [module.dbg.index]
    if found.kind is InputKind.PDB:
        found.index, found.names = next(iter(pdbs), None), []
        if module.problem is not None:
            found.add_problem(module.problem)
    elif found.details.get("type") == "DBG":
        found.index, found.names = next(iter(dbg), None), pdbs
    else:
        found.index = None if module.image is None else module.image.index
        found.names = [*pdbs, *dbg]


def _take_in_version(found: Inspection, plain: Path) -> None:
    """Read who made the image; that this cannot be read makes an image no worse for a debugger."""
    try:
        with FileView(plain) as view:
            found.version = read_version(view, Layout.DISK)
    except InputError as error:
        found.details.setdefault("notes", []).append(f"its version resource cannot be read: {error}")


def _take_in_runtime(found: Inspection, plain: Path) -> None:
    """Note the libraries that debuggers need of an image that is a .NET runtime, or a program that holds one."""
    key = None if found.index is None else parse_index(found.index)
    if not isinstance(key, ImageKey):
        return
    runtime = runtime_of(Module(key.name, image=key)) or Runtime(RuntimeKind.SINGLE_FILE, is_presumed=True)
    with suppress(InputError), FileView(plain) as view:
        known = with_facts(runtime, read_runtime_facts(view, Layout.DISK))
        if known is not None:
            found.details["runtime"] = known.as_json()
            for library in library_keys(key, known):
                found.libraries += [each.index for each in filed_keys(library)]


def _check_place(found: Inspection, plain: Path) -> Filed | None:
    key = _place_of(found.path)
    if key is None:
        return None
    if fold(Path(found.path).absolute().parent.name) == MSFZ_FOLDER:
        # A container of the newer kind, where it is looked for; `check_file` is for the place above.
        right = found.index is not None and fold(found.index) == key.folded
        return Filed(key.index, None if right else f"another file: {found.index or 'of no known identity'}")
    verdict = check_file(plain, key)
    return Filed(key.index, verdict.problem, verdict.note)


def _place_of(path: str) -> Key | None:
    """Return the key that the folders round *path* stand for; None if they are not those of a store."""
    parts = Path(path).absolute().parts
    if len(parts) > 4 and fold(parts[-2]) == MSFZ_FOLDER:
        parts = (*parts[:-2], parts[-1])
    try:
        key = parse_index("/".join(parts[-3:]))
    except InputError:
        return None
    # Any two folders could be called like that.
    return None if isinstance(key, OtherKey) else key


def _look_deep(found: Inspection, plain: Path, wish: DeepWish) -> Iterator[tuple[str, Any]]:
    if found.details.get("container") != Container.MSF:
        raise UsageError(f"{found.path}: only a PDB 7 in its usual container can be looked into deeper")
    with DeepPdb(plain) as pdb:
        if wish.streams:
            yield "streams", pdb.stream_sizes()
        if wish.publics:
            yield "publics", [asdict(each) for each in pdb.public_symbols(wish.publics)]
        if wish.types:
            yield "types", pdb.structure_names(wish.types)
