"""What a user's words for a Windows build mean, decided from what an index knows; without disk or network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.winbindex import BASE, INSIDER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from symcache.formats.winbindex import Occurrence

_BUILD = re.compile(r"(?:10\.0\.)?(\d{5})(?:\.(\d{1,6}))?")
_UPDATE = re.compile(r"(?:kb)?(\d{6,8})", re.IGNORECASE)
_RELEASE = re.compile(
    r"(?:(?:microsoft )?windows )?(?:(10|11)(?:,? (?:version )?|-))?(?:version )?(\d\dh[12]|\d{4})", re.IGNORECASE
)
_RTM = 1  # the revision of a build as it was first released
_MOST_NAMED = 4
_MOST_UPDATES = 50_000


@dataclass(frozen=True, slots=True, order=True)
class Build:
    """``22621.1483``; *revision* is None for any."""

    number: int
    revision: int | None = None

    def __str__(self) -> str:
        return str(self.number) if self.revision is None else f"{self.number}.{self.revision}"


@dataclass(frozen=True, slots=True)
class ByUpdate:
    """An update, ``KB5023706``."""

    name: str


@dataclass(frozen=True, slots=True)
class ByRelease:
    """A release, ``22H2``; *windows* is 10, 11, or None if that was not said."""

    name: str
    windows: int | None = None


@dataclass(frozen=True, slots=True)
class KnownUpdate:
    """An update of one release.

    Attributes:
        release: As the index calls it; `INSIDER` for builds of its Insider part.
        update: Its name, `BASE` for the release as it was first published.
        build: None for `BASE`, whose build the index does not tell.
        date: Of its release, ``2023-03-14``.
        shared_by: The release that it stands under in the index, where that is another one.
    """

    release: str
    update: str
    build: Build | None = None
    date: str | None = None
    shared_by: str | None = None

    @property
    def number(self) -> int | None:
        """The number of its build; of a release as first published that of the release, if that is known."""
        if self.build is not None:
            return self.build.number
        return next((number for number, name in releases().items() if name == self.release), None)

    @property
    def shown_release(self) -> str:
        """What people call *release*."""
        return "Insider" if self.release == INSIDER else self.release

    @property
    def order(self) -> int:
        """What updates of a release are sorted by; the release itself comes first."""
        return 0 if self.build is None or self.build.revision is None else self.build.revision

    def __str__(self) -> str:
        name = {BASE: f"{self.release} as first released"}.get(self.update, self.update)
        name = self.shown_release if self.release == INSIDER else name
        return name if self.build is None else f"{self.build} ({name}{f', {self.date}' if self.date else ''})"


@dataclass(frozen=True, slots=True)
class Target:
    """A build that words mean.

    Attributes:
        update: The update that made it.
        lineage: The releases that its files may stand under in the index, its own one first.
    """

    update: KnownUpdate
    lineage: tuple[str, ...]

    @property
    def build(self) -> Build | None:
        """Its number; of a release as first published the number of the release, if that is known."""
        number = self.update.number
        return self.update.build or (None if number is None else Build(number))

    def age_of(self, occurrence: Occurrence) -> int | None:
        """Return how late *occurrence* comes among what this build has; None if that is no part of it.

        Every update brings all that changed since the release. What it does not bring is as an earlier one left it, or
        the release itself.
        """
        if self.update.release == INSIDER:
            is_this = occurrence.release == INSIDER and parse_build(occurrence.build) == self.update.build
            return 0 if is_this else None
        own, *shared = self.lineage
        if occurrence.update == BASE:
            # A release that shares its updates has a base of its own; those of others only stand in for it.
            return {own: -1}.get(occurrence.release, -2 if occurrence.release in shared else None)
        if own not in (occurrence.release, *occurrence.others):
            return None
        build = parse_build(occurrence.build)
        revision = None if build is None else build.revision
        return None if revision is None or revision > self.update.order else revision


def releases() -> dict[int, str]:
    """Return the releases of Windows, as an index calls them, by number of their build."""
    return _releases()


@cache
def _releases() -> dict[int, str]:
    import tomllib  # noqa: PLC0415 - for who names a build

    text = (resources.files("symcache") / "data" / "releases.toml").read_text(encoding="utf-8")
    return {int(number): name for number, name in tomllib.loads(text).items()}


def parse_build(text: str | None) -> Build | None:
    """Return the build that *text* writes out, ``22621.1483`` or ``10.0.22621.1483``; None if it is none."""
    match = _BUILD.fullmatch(text or "")
    return None if match is None else Build(int(match[1]), None if match[2] is None else int(match[2]))


def parse_words(text: str) -> Build | ByUpdate | ByRelease:
    """Return what *text* names: a build, an update or a release.

    Raises:
        MalformedInput: None of them.
    """
    words = " ".join(text.split())
    if (build := parse_build(words)) is not None:
        return build
    if (match := _UPDATE.fullmatch(words)) is not None:
        return ByUpdate(f"KB{match[1]}")
    if (match := _RELEASE.fullmatch(words)) is not None:
        return ByRelease(match[2].upper(), None if match[1] is None else int(match[1]))
    shown = words if len(words) <= 40 else words[:37] + "..."
    raise MalformedInput(f"{shown!r} is no build: write it as 22621.1483, 10.0.22621.1483, 22621, KB5023706 or 11 22H2")


def known_updates(occurrences: Iterable[Occurrence]) -> list[KnownUpdate]:
    """Return every update that *occurrences* tell of, once for each release that has it, in the order of builds.

    Raises:
        MalformedInput: More of them than there are.
    """
    numbers = {name: number for number, name in releases().items()}
    found: dict[tuple[str, str], KnownUpdate] = {}
    for each in occurrences:
        if len(found) > _MOST_UPDATES:
            raise MalformedInput(f"more than {_MOST_UPDATES} updates in one document")
        build = parse_build(each.build)
        found.setdefault((each.release, each.update), KnownUpdate(each.release, each.update, build, each.date))
        for other in each.others:
            number = numbers.get(other)
            # Only the number before the point differs between releases that have an update in common.
            theirs = None if number is None or build is None else Build(number, build.revision)
            shared = KnownUpdate(other, each.update, theirs, each.date, each.release)
            if found.get((other, each.update), shared).shared_by is not None:
                found[other, each.update] = shared
    return sorted(found.values(), key=_sort_key)


def _sort_key(known: KnownUpdate) -> tuple[int, int, str]:
    return (known.number if known.number is not None else 1 << 20, known.order, known.update)


def resolve(words: Build | ByUpdate | ByRelease, known: Sequence[KnownUpdate]) -> Target:
    """Return the one build of *known* that *words* mean; of a release or a bare number the latest update.

    Raises:
        InputError: None, or several; the text says which are near, or which to choose from.
    """
    near: Iterable[KnownUpdate]
    if isinstance(words, ByRelease):
        return _resolve_release(words, known)
    if isinstance(words, ByUpdate):
        fits = [each for each in known if each.update == words.name]
        near = _nearest_updates(words.name, known)
    elif words.revision is None:
        fits = [each for each in known if each.number == words.number][-1:]
        near = _nearest_numbers(words.number, known)
    else:
        fits = [each for each in known if each.build == words]
        if not fits and words.revision == _RTM:
            fits = [each for each in known if each.update == BASE and each.number == words.number]
        near = _nearest_builds(words, known)
    if not fits:
        raise InputError(f"{_shown(words)} is not in the index{_near(near)}")
    # A build of the Insider part is there once for each architecture.
    if len({(each.release, each.build) for each in fits}) > 1:
        choice = " or ".join(str(each.build or each.release) for each in fits)
        raise InputError(f"{_shown(words)} is an update of several releases: write {choice}")
    return target_of(fits[-1], known)


def target_of(update: KnownUpdate, known: Iterable[KnownUpdate]) -> Target:
    """Return the build that *update* made."""
    shared = (each.shared_by for each in known if each.release == update.release and each.shared_by is not None)
    return Target(update, tuple(dict.fromkeys((update.release, *shared))))


def names_of(words: ByRelease, known: Collection[str]) -> list[str]:
    """Return what the index calls the release that *words* may mean, of those that are *known*."""
    windows_10, windows_11 = words.name, f"11-{words.name}"
    names = {10: [windows_10], 11: [windows_11], None: [windows_10, windows_11]}[words.windows]
    return [name for name in names if name in known]


def _resolve_release(words: ByRelease, known: Sequence[KnownUpdate]) -> Target:
    names = names_of(words, {each.release for each in known})
    if not names:
        there = dict.fromkeys(each.release for each in known if each.release != INSIDER)
        raise InputError(f"{_shown(words)} is not in the index, which has {', '.join(there) or 'no release'}")
    if len(names) > 1:
        choice = f"write 10 {words.name} or 11 {words.name}"
        raise InputError(f"{words.name} is a release of Windows 10 and of Windows 11: {choice}")
    return target_of([each for each in known if each.release == names[0]][-1], known)


def _shown(words: Build | ByUpdate | ByRelease) -> str:
    if isinstance(words, ByRelease):
        return words.name if words.windows is None else f"{words.windows} {words.name}"
    return words.name if isinstance(words, ByUpdate) else str(words)


def _near(known: Iterable[KnownUpdate]) -> str:
    texts = list(dict.fromkeys(map(str, known)))[:_MOST_NAMED]
    return f"; the nearest are {', '.join(texts)}" if texts else ""


def _nearest_builds(words: Build, known: Sequence[KnownUpdate]) -> Iterator[KnownUpdate]:
    same = [each for each in known if each.number == words.number]
    before = [each for each in same if each.order < (words.revision or 0)]
    after = [each for each in same if each.order > (words.revision or 0)]
    yield from (*before[-1:], *after[:1])
    if not same:
        yield from _nearest_numbers(words.number, known)


def _nearest_numbers(number: int, known: Sequence[KnownUpdate]) -> Iterator[KnownUpdate]:
    numbers = {each.number for each in known} - {None}
    for near in sorted(numbers, key=lambda each: abs((each or 0) - number))[:2]:
        yield [each for each in known if each.number == near][-1]


def _nearest_updates(name: str, known: Sequence[KnownUpdate]) -> Iterator[KnownUpdate]:
    numbered = [each for each in known if each.update.startswith("KB") and each.update[2:].isdecimal()]
    yield from sorted(numbered, key=lambda each: abs(int(each.update[2:]) - int(name[2:])))[:2]
