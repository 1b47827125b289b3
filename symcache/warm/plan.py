"""What modules need: decided from their records alone, without network or store."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.identity import DbgKey, ImageKey, OtherKey, Pdb2Key, PdbKey, PortablePdbKey, fold, parse_runtime_library
from symcache.inputs.records import WHOLE_FILE, ImageUse, PdbFormat
from symcache.inputs.runtimes import is_build_known, library_keys, own_key, runtime_of
from symcache.stores.results import Cause, Hint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.identity import Key
    from symcache.inputs.records import CrashStack, Module, PdbReference, Recorded, Runtime


class FileKind(StrEnum):
    """What kind of file a report speaks of."""

    PDB = "pdb"
    IMAGE = "image"
    DBG = "dbg"
    OTHER = "other"


class ImageChoice(StrEnum):
    """Which images are wanted beside the PDBs."""

    AUTO = "auto"  # those that a debugger asks for, because the input does not hold them
    ALL = "all"
    NONE = "none"

    def takes(self, module: Module) -> bool:
        """Say whether the image of *module* is wanted."""
        return self is ImageChoice.ALL or (self is ImageChoice.AUTO and module.needs_image is not None)

    def takes_libraries(self, module: Module) -> bool:
        """Say whether the libraries are wanted that debuggers need of *module*, a .NET runtime.

        They are for a debugger and a program that runs, so that a runtime of a trace, or among files on a disk, needs
        none unless all is wanted.
        """
        is_debugged = module.base is not None and not module.no_debugger
        return self is ImageChoice.ALL or (self is ImageChoice.AUTO and is_debugged)


# A name comes from the input and the command is typed into a debugger, which takes ``;`` for the start of another one,
# ``.shell`` among them.
_NAME_IN_A_COMMAND = re.compile(r"[\w~][\w.~+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that can be asked for."""

    module: str
    key: Key  # under the name that a debugger asks for
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex`` of a portable PDB, or as a lock file states them: `WHOLE_FILE`
    use: ImageUse | None = None  # what a debugger needs it for, if it is an image that the input does not hold
    base: int | None = None  # address of that image
    own_key: ImageKey | None = None  # that a runtime's library has by itself, where the runtime states it
    others: tuple[Key, ...] = ()  # of the same file, where the input leaves open which is right: one present is enough

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key that the file may have, the likeliest first."""
        return (self.key, *self.others)

    @property
    def reload(self) -> str | None:
        """The debugger's command that makes it look for the image; None where it does so by itself.

        None, too, for a name with characters that mean something to the debugger's command line.

        Source: observed with dbgeng 10.0.15063, which asks for the stamp FFFFFFFE where the dump lacks an image's
        headers, and for the right one after this command.
        """
        if self.use is not ImageUse.BY_HAND or self.base is None or not isinstance(self.key, ImageKey):
            return None
        if _NAME_IN_A_COMMAND.fullmatch(self.key.name) is None:
            return None
        # Behind a grave accent the stamp is one of 64 bits, which is not extended by its sign.
        return f".reload /f {self.key.name}={self.base:x},{self.key.size_of_image:x},0`{self.key.timestamp:08x}"


@dataclass(frozen=True, slots=True)
class WantedPdbOfImage:
    """The PDB of an image that is known by its own key alone: two hops.

    Where it *is_presumed*, a PDB that may be this one is wanted already, and the image's headers only settle it.
    """

    module: str
    image: ImageKey
    is_presumed: bool = False


@dataclass(frozen=True, slots=True)
class WantedLibraries:
    """The libraries of a .NET runtime of which the image alone says what they are called: two hops."""

    module: str
    image: ImageKey
    runtime: Runtime  # as far as it is known

    @property
    def is_presumed(self) -> bool:
        """The module is a program that may hold a runtime, and mostly holds none."""
        return self.runtime.is_presumed


@dataclass(frozen=True, slots=True)
class WantedPdbOfAny:
    """The PDB of an image that is one of several keys: the first that is there is it, and names the PDB.

    The image itself is wanted, too, if *with_image*.
    """

    module: str
    images: tuple[ImageKey, ...]  # the likely ones first
    with_image: bool = False


@dataclass(frozen=True, slots=True)
class NothingToFetch:
    """A module that nothing can be asked for; *key* is what is known of its identity, *detail* why, in words."""

    module: str
    kind: FileKind
    cause: Cause
    key: Key | None = None
    detail: str | None = None
    hint: Hint | None = None
    use: ImageUse | None = None  # as in `WantedFile`


Want: TypeAlias = WantedFile | WantedPdbOfImage | WantedPdbOfAny | WantedLibraries | NothingToFetch

_PRECOMPILED = ".ni.pdb"  # of native code that was made of managed code
_PDB_OF = "pdb of"
_LIBRARIES_OF = "libraries of"
_PDB_OF_ANY = "pdb of any"
# Each says more than those before it: without symbols there is no code either, and the last one has a command to type.
_USES = (
    None,
    ImageUse.DATA_ACCESS,
    ImageUse.CODE,
    ImageUse.METADATA,
    ImageUse.SYMBOLS,
    ImageUse.BY_HAND,
)


class Plan:
    """The unique wants of any number of modules: those on a crash's stack first, then in the order they came up.

    Between these stands what a crash report says that its writer had no symbols of. *images* are wanted, too;
    *all_pdbs* wants every PDB of an image, not only the one that debuggers ask for; *stack_only* wants nothing but what
    the modules on stacks need.
    """

    def __init__(
        self, *, images: ImageChoice = ImageChoice.AUTO, all_pdbs: bool = False, stack_only: bool = False
    ) -> None:
        self.stack_only = stack_only
        self._images = images
        self._all_pdbs = all_pdbs
        self._wants: dict[tuple[str, str], Want] = {}
        self._places: dict[tuple[str, str], int] = {}  # of the modules that wants are of, on their stacks
        self._missed: set[tuple[str, str]] = set()  # what an input says that its writer looked for in vain
        self._whole_images: dict[str, dict[str, ImageKey]] = {}
        self._left_out: set[str] = set()
        self._others: dict[str, tuple[str, str]] = {}  # wants of several keys, by those that are not their own
        self._converted: set[str] = set()

    def __len__(self) -> int:
        return len(self._wants)

    @property
    def wants(self) -> Sequence[Want]:
        """Every want once; with several stacks, the faulting modules of all come before what lies deeper in any.

        Behind those stands what a crash report says that its service had no symbols of, then the rest.
        """
        if not self._places and not self._missed:
            return tuple(self._wants.values())
        return tuple(sorted(self._wants.values(), key=self._place))

    def _place(self, want: Want) -> int:
        name = _name_of(want)
        return self._places.get(name, sys.maxsize - (name in self._missed))

    def is_on_stack(self, want: Want) -> bool:
        """Say whether a module on a crash's stack is what *want* is of."""
        return bool(self._places) and _name_of(want) in self._places

    @property
    def left_out(self) -> int:
        """How many images a debugger will ask for that are not wanted."""
        return len(self._left_out)

    def whole_images(self, image: ImageKey) -> tuple[ImageKey, ...]:
        """Return the keys under which *image* is wanted as a file; none if only its headers are of interest."""
        return tuple(self._whole_images.get(image.folded, {}).values())

    def add_module(self, module: Module) -> None:
        """Take in what *module* needs; one whose image was read says more than one that only names that image.

        Where only stacks count, that is nothing before `add_stack` names it.
        """
        if not self.stack_only:
            self._add_module(module)

    def add_stack(self, stack: CrashStack) -> None:
        """Let what the modules of *stack* need come first, in the order in which they are on it."""
        for place, each in enumerate(stack.modules):
            if self.stack_only:
                self._add_module(each.module)
            self._put(wants_of(each.module, images=self._images, all_pdbs=self._all_pdbs), place)

    def _put(self, wants: Iterable[Want], place: int) -> None:
        for want in wants:
            name = _name_of(want)
            self._places[name] = min(self._places.get(name, place), place)

    def _add_module(self, module: Module) -> None:
        if module.image is not None and (listed := module.listed_image) is not None:
            if self._images.takes(module):
                self._whole_images.setdefault(module.image.folded, {}).setdefault(listed.folded, listed)
            elif module.needs_image is not None:
                self._left_out.add(listed.folded)
            if self._images is ImageChoice.NONE and module.base is not None and not module.unloaded:
                runtime = runtime_of(module)
                if runtime is not None and not runtime.is_presumed:
                    self._left_out.update(key.folded for key in library_keys(module.image, runtime))
        wants = tuple(wants_of(module, images=self._images, all_pdbs=self._all_pdbs))
        if module.is_missed:
            self._missed.update(map(_name_of, wants))
        for want in self.add(wants):
            if isinstance(want, NothingToFetch) and want.key is not None:
                self._wants.pop((_PDB_OF, want.key.folded), None)

    def add(self, wants: Iterable[Want]) -> list[Want]:
        """Take in *wants*; return those that were not wanted before.

        A PDB that one image has embedded and another asks for as a file is a file to fetch, and what is presumed of
        one image is not of another that says nothing of its PDB. An image that several modules need is needed for all
        that they need it for, and a file that lock files state has to be what each of them states.
        """
        fresh: dict[tuple[str, str], Want] = {}
        for want in wants:
            name = _name_of(want)
            if name[0] == _PDB_OF and (Cause.NO_DEBUG_RECORD, name[1]) in self._wants:
                continue
            if isinstance(want, WantedFile) and self._is_told_by_key(want, fresh):
                continue
            known = self._wants.get(name)
            if isinstance(known, WantedFile) and isinstance(want, WantedFile):
                want = _with_locked(want, known)  # noqa: PLW2901 - the want in question
            if known is None or _outdoes(want, known):
                self._wants[name] = fresh[name] = want
        return list(fresh.values())

    def _is_told_by_key(self, want: WantedFile, fresh: dict[tuple[str, str], Want]) -> bool:
        """Say whether *want*, which has several keys, is wanted by one of them already.

        A want that has one key takes the place of the one that leaves it open.
        """
        for other in want.others:
            if ("file", other.folded) in self._wants:
                return True
        if want.others:
            self._others.update((other.folded, _name_of(want)) for other in want.others)
        elif self._others and (name := self._others.pop(want.key.folded, None)) is not None:
            known = self._wants.get(name)
            if isinstance(known, WantedFile) and known.others:
                del self._wants[name]
                fresh.pop(name, None)
        return False

    def add_files_of(self, module: Module, want: WantedPdbOfImage | WantedPdbOfAny) -> list[Want]:
        """Take in what *module*, whose image is at hand, names; return those wants that were not there before.

        They are on the stacks that *want* is on, in whose place they are wanted. An image that was one of several is
        known now, and wanted if it was to be.
        """
        wants = list(wants_of(module, images=ImageChoice.NONE, all_pdbs=self._all_pdbs))
        if isinstance(want, WantedPdbOfImage) and want.is_presumed:
            portable = (pdb.key for pdb in module.pdbs if isinstance(pdb.key, PortablePdbKey))
            self._converted.update(PdbKey(key.name, key.guid, 1).folded for key in portable)
        if isinstance(want, WantedPdbOfAny) and want.with_image and module.image is not None:
            wants.insert(0, WantedFile(want.module, module.image))
        return self.add_in_place_of(want, wants)

    def is_conversion(self, want: Want) -> bool:
        """Say whether *want* is a PDB 7 of a module that names a portable one, and will do without.

        The record of a portable PDB, without what stands beside it in the image, looks like that of a PDB 7. Native
        debuggers ask for that; few servers have one, converted from the portable one.
        """
        return isinstance(want, WantedFile) and want.key.folded in self._converted

    def add_in_place_of(self, want: Want, wants: Sequence[Want]) -> list[Want]:
        """Take in *wants*, which came of *want*, and are on its stacks; return those that were not there before."""
        if _name_of(want) in self._missed:
            self._missed.update(map(_name_of, wants))
        place = self._places.get(_name_of(want))
        if place is not None:
            self._put(wants, place)
        return self.add(wants)


def wants_of(module: Module, *, images: ImageChoice, all_pdbs: bool) -> Iterator[Want]:
    """Yield what *module* needs, each want once or more often."""
    name, image = module.name, module.image
    if module.recorded is not None and module.recorded.is_locked:
        yield _locked_want(module, module.recorded)
        return
    if image is not None and _is_library_of_runtime(module, image):
        if images is not ImageChoice.NONE:
            yield WantedFile(name, image, use=ImageUse.DATA_ACCESS)
        return
    if module.candidates:
        yield WantedPdbOfAny(name, module.candidates, images.takes(module))
        return
    if image is not None and images.takes(module) and (listed := module.listed_image) is not None:
        yield WantedFile(name, listed, use=module.needs_image, base=module.base)
    if image is not None and not module.unloaded and images.takes_libraries(module):
        runtime = runtime_of(module)
        if runtime is not None:
            yield from _library_wants(name, image, runtime)
    if module.dbg is not None:
        yield WantedFile(name, module.dbg)
    if module.pdbs:
        yield from _chosen_pdbs(module, all_pdbs=all_pdbs)
        if module.is_presumed and image is not None:
            yield WantedPdbOfImage(name, image, is_presumed=True)
    elif module.unusable_pdb:
        yield NothingToFetch(name, FileKind.PDB, Cause.UNUSABLE_IDENTITY, image, module.problem)
    elif module.no_debug_record:
        yield NothingToFetch(name, FileKind.PDB, Cause.NO_DEBUG_RECORD, image, module.problem)
    elif module.dbg is not None:
        return
    elif image is not None:
        yield WantedPdbOfImage(name, image)
    elif not module.unloaded:
        # An unloaded driver has left nothing but its name, and no debugger asks for it either.
        hint = Hint.FOREIGN_SYSTEM if module.is_foreign else None
        yield NothingToFetch(name, FileKind.PDB, Cause.NO_IDENTITY, detail=module.problem, hint=hint)


def _is_library_of_runtime(module: Module, image: ImageKey) -> bool:
    """Say whether a line of a list, or a debugger's question, is about a library under the key of its runtime.

    The file itself is wanted then, as the key says nothing of it. A short name may also be that of a loaded module.
    """
    library = parse_runtime_library(image.name)
    if library is None:
        return False
    return library.host is not None or (module.base is None and module.path is None and not module.pdbs)


def _library_wants(name: str, image: ImageKey, runtime: Runtime) -> Iterator[Want]:
    """Yield what debuggers need of *runtime*, which the module *name* with *image* is, or what has to be read first."""
    if is_build_known(runtime):
        for key in library_keys(image, runtime):
            yield WantedFile(name, key, use=ImageUse.DATA_ACCESS, own_key=own_key(runtime, key))
    else:
        yield WantedLibraries(name, image, runtime)


def _locked_want(module: Module, recorded: Recorded) -> Want:
    """Return the want of a file that a lock file has: those bytes, or nothing where it was missing then."""
    key = module.key
    if key is not None and recorded.sha256 is not None:
        return WantedFile(module.name, key, (f"{WHOLE_FILE}{recorded.sha256}",))
    return NothingToFetch(module.name, FileKind(recorded.kind), Cause.KNOWN_MISSING, key, recorded.cause)


def _chosen_pdbs(module: Module, *, all_pdbs: bool) -> Sequence[Want]:
    """Return those PDBs of *module* that are wanted.

    Of several native ones the last, which is what Microsoft's native debuggers ask for. An image of precompiled
    managed code names two, of which managed debuggers load the other: a portable one, or a PDB 7 beside ``x.ni.pdb``.
    One that is embedded is there already, and nothing is to be fetched.
    """
    pdbs = module.pdbs
    if len(pdbs) == 1 and pdbs[0].format is PdbFormat.NATIVE:  # of nearly all modules
        return (_wanted_pdb(module, pdbs[0]),)
    portable = [pdb for pdb in pdbs if pdb.format is PdbFormat.PORTABLE]
    embedded = [pdb for pdb in pdbs if pdb.format is PdbFormat.EMBEDDED]
    native = [pdb for pdb in pdbs if pdb not in portable and pdb not in embedded]
    is_precompiled = any(fold(pdb.key.name).endswith(_PRECOMPILED) for pdb in native)
    last = native if is_precompiled else native[-1:]
    chosen = [*native, *portable] if all_pdbs else [*last, *([] if embedded else portable[-1:])]
    wants: list[Want] = [_wanted_pdb(module, pdb) for pdb in chosen]
    if all_pdbs or not chosen:
        wants.extend(NothingToFetch(module.name, FileKind.PDB, Cause.EMBEDDED, pdb.key) for pdb in embedded)
    return wants


def _wanted_pdb(module: Module, pdb: PdbReference) -> WantedFile:
    return WantedFile(module.name, pdb.key, pdb.checksums, others=pdb.others)


def kind_of(key: Key) -> FileKind:
    """Return what kind of file *key* names."""
    return _KINDS[type(key)]


_KINDS: dict[type[Key], FileKind] = {
    PdbKey: FileKind.PDB,
    Pdb2Key: FileKind.PDB,
    PortablePdbKey: FileKind.PDB,
    DbgKey: FileKind.DBG,
    ImageKey: FileKind.IMAGE,
    OtherKey: FileKind.OTHER,
}


def _with_locked(want: WantedFile, known: WantedFile) -> WantedFile:
    """Return *want*, or what it and *known* ask for together if one of them has to have the bytes of a lock file."""
    locked = tuple(each for each in known.checksums if each.startswith(WHOLE_FILE) and each not in want.checksums)
    if want.others and not known.others:  # which of the keys is right is known by now
        want = replace(want, others=())
    if not locked and not _is_stricter(want, known):
        return want
    by_use = max(known, want, key=lambda each: _USES.index(each.use))
    return replace(by_use, checksums=want.checksums + locked)


def _is_stricter(want: WantedFile, known: WantedFile) -> bool:
    """Say whether a lock file states the bytes of *want* and none those of *known*, or other ones."""
    return any(each.startswith(WHOLE_FILE) and each not in known.checksums for each in want.checksums)


def _outdoes(want: Want, known: Want) -> bool:
    if isinstance(known, WantedPdbOfImage):
        return known.is_presumed and isinstance(want, WantedPdbOfImage) and not want.is_presumed
    if isinstance(known, WantedLibraries):
        return known.is_presumed and isinstance(want, WantedLibraries) and not want.is_presumed
    if isinstance(known, WantedFile) and isinstance(want, WantedFile):
        if known.others and not want.others:
            return True
        return _is_stricter(want, known) or _USES.index(want.use) > _USES.index(known.use)
    return isinstance(known, NothingToFetch) and isinstance(want, WantedFile)


def _name_of(want: Want) -> tuple[str, str]:
    """Return what wants of one and the same thing have in common."""
    if isinstance(want, WantedFile):
        return "file", want.key.folded
    if isinstance(want, WantedPdbOfImage):
        return _PDB_OF, want.image.folded
    if isinstance(want, WantedLibraries):
        return _LIBRARIES_OF, want.image.folded
    if isinstance(want, WantedPdbOfAny):
        return _PDB_OF_ANY, " ".join(image.folded for image in want.images)
    if want.key is None:
        return want.cause, fold(want.module)
    # Another input may ask for the file all the same: it was only missing when it was locked.
    is_file = want.cause is Cause.EMBEDDED or (want.cause is Cause.KNOWN_MISSING and kind_of(want.key) is want.kind)
    return "file" if is_file else want.cause, want.key.folded
