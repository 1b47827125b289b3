"""Named sets of modules: which are wanted of an input that has more of them, or of a Windows build.

A set is names of files, patterns with ``*`` and ``?``, and other sets. Those that everybody has stand in
``symcache/data/sets.toml``, others in the table ``[sets]`` of the config file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcache.errors import ConfigError, UsageError
from symcache.identity import base_name, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from symcache.inputs.records import Module

_FILE = "file:"
_LARGEST_LIST_BYTES = 1 << 20
_DEEPEST = 32
_SUFFIX_OF_PDBS = ".pdb"


class NameSet:
    """Names of files, in lower case, and patterns; *label* is what the user calls it."""

    __slots__ = ("_names", "_pattern", "_stem_pattern", "_stems", "globs", "label", "names")

    def __init__(self, label: str, members: Iterable[str]) -> None:
        folded = dict.fromkeys(fold(member) for member in members)
        self.label = label
        self.names = tuple(member for member in folded if not _is_glob(member))
        self.globs = tuple(member for member in folded if _is_glob(member))
        self._names = frozenset(self.names)
        self._pattern = _compiled(self.globs)
        stems = [member.rpartition(".")[0] or member for member in folded]
        self._stems = frozenset(stem for stem in stems if not _is_glob(stem)) | self._names
        # A pattern of nothing but a suffix says nothing of names that lack theirs.
        self._stem_pattern = _compiled(stem for stem in stems if _is_glob(stem) and stem.strip("*?."))

    def takes(self, name: str) -> bool:
        """Say whether a file of that name is in the set; a path before it and letter case do not count.

        A debugger's name of a module (``nt``, ``ntfs``) and that of a PDB have not the suffix of the file, so that what
        stands before it decides.
        """
        name = fold(base_name(name))
        if name in self._names or self._pattern.fullmatch(name):
            return True
        stem, dot, suffix = name.rpartition(".")
        if dot and f".{suffix}" != _SUFFIX_OF_PDBS:
            return False
        stem = stem if dot else name
        return stem in self._stems or self._stem_pattern.fullmatch(stem) is not None

    def takes_module(self, module: Module) -> bool:
        """Say whether *module* is in the set, by its own name or the one that its image is published under."""
        return self.takes(module.name) or (module.image is not None and self.takes(module.image.name))

    @property
    def members(self) -> tuple[str, ...]:
        """Names, then patterns."""
        return self.names + self.globs


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set as it is written down."""

    name: str
    members: tuple[str, ...]
    about: str = ""
    is_own: bool = False  # of the config file


class Sets:
    """Every set that is known, by name; those of the config file come before those of `symcache/data/sets.toml`."""

    def __init__(self, known: Iterable[NamedSet], own: Iterable[NamedSet] = ()) -> None:
        self._known = {fold(each.name): each for each in known}
        self._own = {fold(each.name): each for each in own}

    def __iter__(self) -> Iterator[NamedSet]:
        return iter((self._known | self._own).values())

    def union(self, names: Sequence[str]) -> NameSet:
        """Return what the sets of these *names* have together.

        Raises:
            UsageError: A set that is not known; the text lists those that are.
            ConfigError: A set of the config file that names itself through others, one that is not there, or a file
                that cannot be read.
        """
        members: dict[str, None] = {}
        done: set[NamedSet] = set()
        for name in names:
            if fold(name) not in self._known | self._own:
                known = ", ".join(sorted(each.name for each in self))
                raise UsageError(f"there is no set {name!r} of modules; there are {known}")
            members.update(dict.fromkeys(self._members(fold(name), (), done)))
        return NameSet(", ".join(names), members)

    def _members(self, name: str, within: tuple[NamedSet, ...], done: set[NamedSet]) -> Iterator[str]:
        """Yield the members of the set *name*, which those *within* each other name; nothing if it is *done*."""
        where = f"sets.{within[0].name if within else name}"
        # A set of the config file may take the one of its own name that everybody has, and add to it.
        own = None if any(each.is_own and fold(each.name) == name for each in within[-1:]) else self._own.get(name)
        found = own or self._known.get(name)
        if found is None:
            raise ConfigError(f"there is no set @{name}", where=where)
        if found in within:
            raise ConfigError(f"@{name} leads back to itself", where=where)
        if len(within) == _DEEPEST:
            raise ConfigError(f"sets name each other more than {_DEEPEST} deep", where=where)
        if found in done:
            return
        for member in found.members:
            is_file = member.startswith(_FILE)
            for each in _read_list(member.removeprefix(_FILE), where) if is_file else (member,):
                if each.startswith("@"):
                    yield from self._members(fold(each[1:]), (*within, found), done)
                else:
                    yield base_name(each)  # a path before it does not count, as in what it is compared with
        done.add(found)


def load_sets(own: Mapping[str, Sequence[str]] | None = None) -> Sets:
    """Return every set there is; *own* are those of the config file."""
    return Sets(_built_in(), (NamedSet(name, tuple(members), is_own=True) for name, members in (own or {}).items()))


@cache
def _built_in() -> tuple[NamedSet, ...]:
    import tomllib  # noqa: PLC0415 - most runs take every module

    text = (resources.files("symcache") / "data" / "sets.toml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    return tuple(NamedSet(name, tuple(table["members"]), table["about"]) for name, table in tables.items())


def _read_list(text: str, where: str) -> Iterator[str]:
    """Yield the lines of a file of names; blank ones and those that begin with ``#`` or ``;`` are passed over."""
    path = Path(text).expanduser()
    if not path.is_absolute():
        raise ConfigError("file: needs a whole path from the root on, or one that begins with ~", where=where)
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{path} is no file", where=where)
        with path.open("rb") as file:
            content = file.read(_LARGEST_LIST_BYTES + 1)
    except (OSError, ValueError) as error:  # the latter of a NUL
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from error
    if len(content) > _LARGEST_LIST_BYTES:
        raise ConfigError(f"{path} is longer than {_LARGEST_LIST_BYTES} bytes, so it is no list of names", where=where)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (at byte {error.start})", where=where) from error
    for line in lines:
        if (member := line.strip()) and not member.startswith(("#", ";")):
            yield member


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def _compiled(globs: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(each.replace("[", "[[]")) for each in globs) or r"(?!)")
