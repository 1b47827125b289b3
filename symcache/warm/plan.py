"""What modules need: decided from their records alone, without network or store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.identity import DbgKey, ImageKey, OtherKey, Pdb2Key, PdbKey, PortablePdbKey, fold
from symcache.inputs.records import ImageUse, PdbFormat
from symcache.stores.results import Cause, Hint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.identity import Key
    from symcache.inputs.records import Module


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


# A name comes from the input and the command is typed into a debugger, which takes ``;`` for the start of another one,
# ``.shell`` among them.
_NAME_IN_A_COMMAND = re.compile(r"[\w~][\w.~+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that can be asked for."""

    module: str
    key: Key  # under the name that a debugger asks for
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex`` of a portable PDB, as its image states them
    use: ImageUse | None = None  # what a debugger needs it for, if it is an image that the input does not hold
    base: int | None = None  # address of that image

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
class NothingToFetch:
    """A module that nothing can be asked for; *key* is what is known of its identity, *detail* why, in words."""

    module: str
    kind: FileKind
    cause: Cause
    key: Key | None = None
    detail: str | None = None
    hint: Hint | None = None


Want: TypeAlias = WantedFile | WantedPdbOfImage | NothingToFetch

_PDB_OF = "pdb of"
# Each says more than those before it: without symbols there is no code either, and the last one has a command to type.
_USES = (None, ImageUse.CODE, ImageUse.SYMBOLS, ImageUse.BY_HAND)


class Plan:
    """The unique wants of any number of modules, in the order they came up.

    *images* are wanted, too; *all_pdbs* wants every PDB of an image, not only the one that debuggers ask for.
    """

    def __init__(self, *, images: ImageChoice = ImageChoice.AUTO, all_pdbs: bool = False) -> None:
        self._images = images
        self._all_pdbs = all_pdbs
        self._wants: dict[tuple[str, str], Want] = {}
        self._whole_images: dict[str, dict[str, ImageKey]] = {}
        self._left_out: set[str] = set()

    def __len__(self) -> int:
        return len(self._wants)

    @property
    def wants(self) -> Sequence[Want]:
        """Every want once."""
        return tuple(self._wants.values())

    @property
    def left_out(self) -> int:
        """How many images a debugger will ask for that are not wanted."""
        return len(self._left_out)

    def whole_images(self, image: ImageKey) -> tuple[ImageKey, ...]:
        """Return the keys under which *image* is wanted as a file; none if only its headers are of interest."""
        return tuple(self._whole_images.get(image.folded, {}).values())

    def add_module(self, module: Module) -> None:
        """Take in what *module* needs; one whose image was read says more than one that only names that image."""
        if module.image is not None and (listed := module.listed_image) is not None:
            if self._images.takes(module):
                self._whole_images.setdefault(module.image.folded, {}).setdefault(listed.folded, listed)
            elif module.needs_image is not None:
                self._left_out.add(listed.folded)
        for want in self.add(wants_of(module, images=self._images, all_pdbs=self._all_pdbs)):
            if isinstance(want, NothingToFetch) and want.key is not None:
                self._wants.pop((_PDB_OF, want.key.folded), None)

    def add(self, wants: Iterable[Want]) -> list[Want]:
        """Take in *wants*; return those that were not wanted before.

        A PDB that one image has embedded and another asks for as a file is a file to fetch, and what is presumed of
        one image is not of another that says nothing of its PDB. An image that several modules need is needed for all
        that they need it for.
        """
        fresh: dict[tuple[str, str], Want] = {}
        for want in wants:
            name = _name_of(want)
            if name[0] == _PDB_OF and (Cause.NO_DEBUG_RECORD, name[1]) in self._wants:
                continue
            known = self._wants.get(name)
            if known is None or _outdoes(want, known):
                self._wants[name] = fresh[name] = want
        return list(fresh.values())

    def add_files_of(self, module: Module) -> list[Want]:
        """Take in what *module*, whose image is at hand, names; return those wants that were not there before."""
        return self.add(wants_of(module, images=ImageChoice.NONE, all_pdbs=self._all_pdbs))


def wants_of(module: Module, *, images: ImageChoice, all_pdbs: bool) -> Iterator[Want]:
    """Yield what *module* needs, each want once or more often."""
    name, image = module.name, module.image
    if image is not None and images.takes(module) and (listed := module.listed_image) is not None:
        yield WantedFile(name, listed, use=module.needs_image, base=module.base)
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


def _chosen_pdbs(module: Module, *, all_pdbs: bool) -> Sequence[Want]:
    """Return those PDBs of *module* that are wanted.

    Of several native ones the last, which is what Microsoft's debuggers ask for; a portable one where there is no
    native one. One that is embedded is there already, and nothing is to be fetched.
    """
    pdbs = module.pdbs
    if len(pdbs) == 1 and pdbs[0].format is PdbFormat.NATIVE:  # of nearly all modules
        return (WantedFile(module.name, pdbs[0].key, pdbs[0].checksums),)
    portable = [pdb for pdb in pdbs if pdb.format is PdbFormat.PORTABLE]
    embedded = [pdb for pdb in pdbs if pdb.format is PdbFormat.EMBEDDED]
    native = [pdb for pdb in pdbs if pdb not in portable and pdb not in embedded]
    chosen = [*native, *portable] if all_pdbs else native[-1:] or ([] if embedded else portable[-1:])
    wants: list[Want] = [WantedFile(module.name, pdb.key, pdb.checksums) for pdb in chosen]
    if all_pdbs or not chosen:
        wants.extend(NothingToFetch(module.name, FileKind.PDB, Cause.EMBEDDED, pdb.key) for pdb in embedded)
    return wants


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


def _outdoes(want: Want, known: Want) -> bool:
    if isinstance(known, WantedPdbOfImage):
        return known.is_presumed and isinstance(want, WantedPdbOfImage) and not want.is_presumed
    if isinstance(known, WantedFile) and isinstance(want, WantedFile):
        return _USES.index(want.use) > _USES.index(known.use)
    return isinstance(known, NothingToFetch) and isinstance(want, WantedFile)


def _name_of(want: Want) -> tuple[str, str]:
    """Return what wants of one and the same thing have in common."""
    if isinstance(want, WantedFile):
        return "file", want.key.folded
    if isinstance(want, WantedPdbOfImage):
        return _PDB_OF, want.image.folded
    if want.key is None:
        return want.cause, fold(want.module)
    return "file" if want.cause is Cause.EMBEDDED else want.cause, want.key.folded
