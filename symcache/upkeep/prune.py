"""Making room: decide what goes, from facts alone, then take it away under the eyes of debuggers and warm runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.stores.local.access import AccessLog
from symcache.stores.local.atomic import remove_empty_folders, take_away
from symcache.stores.local.staging import OWN_FOLDER, Staging
from symcache.symstore.transactions import REFS
from symcache.upkeep.pins import Pins, match_pins
from symcache.upkeep.survey import MSFZ_FOLDER, Candidate, Leftover, list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from symcache.stores.local.tree import Store

__all__ = ["Eviction", "Limits", "Plan", "Pruned", "Skipped", "carry_out", "plan_prune"]


# Removing a folder is mostly waiting: ext4 takes 0.5 ms for each, and several at once in the time of one.
_FOLDERS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay.

    Attributes:
        max_bytes: How much the store may take; the least recently used files go first. None for no limit.
        max_age_s: How long ago a file may have been published, in seconds. None for no limit.
        unused_for_s: How long ago it may have been used last, in seconds. None for no limit.
        include_transactions: Whether files that transactions name may go too.
    """

    max_bytes: int | None = None
    max_age_s: float | None = None
    unused_for_s: float | None = None
    include_transactions: bool = False


@dataclass(frozen=True, slots=True)
class Eviction:
    """One key that is to go.

    Attributes:
        candidate: Its files.
        reason: Which limit it is for.
    """

    candidate: Candidate
    reason: str

    def __str__(self) -> str:
        return f"{self.candidate.key.index} {self.candidate.size_bytes} bytes: {self.reason}"

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "index": self.candidate.key.index,
            "bytes": self.candidate.size_bytes,
            "last_used_s": self.candidate.used_s,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go; a dry run shows it, `carry_out` does it.

    Attributes:
        evictions: The keys that go, those for the size limit in the order in which they go.
        limits: What it was made for.
        kept_keys: How many stay.
        kept_bytes: What they take.
        protected_bytes: How much of that is pinned or named by transactions.
        leftovers: Files in quarantine that go too.
    """

    evictions: tuple[Eviction, ...]
    limits: Limits
    kept_keys: int
    kept_bytes: int
    protected_bytes: int
    leftovers: tuple[Leftover, ...] = ()

    @property
    def freed_bytes(self) -> int:
        """What the keys that go take, and the leftovers."""
        return sum(each.candidate.size_bytes for each in self.evictions) + sum(
            each.size_bytes for each in self.leftovers
        )

    @property
    def over_bytes(self) -> int:
        """By how much the store stays above its size limit, because the rest may not go."""
        return max(0, self.kept_bytes - self.limits.max_bytes) if self.limits.max_bytes is not None else 0

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "evictions": [each.as_json() for each in self.evictions],
            "leftovers": [{"path": str(each.path), "bytes": each.size_bytes} for each in self.leftovers],
            "freed_bytes": self.freed_bytes,
            "kept_keys": self.kept_keys,
            "kept_bytes": self.kept_bytes,
            "protected_bytes": self.protected_bytes,
            "over_bytes": self.over_bytes,
        }


@dataclass(frozen=True, slots=True)
class Skipped:
    """A key of the plan that stays after all.

    Attributes:
        index: The key, written out.
        why: What has changed since, or who has it open.
    """

    index: str
    why: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `carry_out` did.

    Attributes:
        removed_keys: How many keys went.
        freed_bytes: What they took, and what leftovers took.
        removed_folders: How many empty folders went.
        swept_files: How many scratch files of dead processes went.
        skipped: The keys that stayed after all.
    """

    removed_keys: int
    freed_bytes: int
    removed_folders: int
    swept_files: int
    skipped: tuple[Skipped, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "removed_keys": self.removed_keys,
            "freed_bytes": self.freed_bytes,
            "removed_folders": self.removed_folders,
            "swept_files": self.swept_files,
            "skipped": [{"index": each.index, "why": each.why} for each in self.skipped],
        }


def plan_prune(
    candidates: Iterable[Candidate], limits: Limits, *, now_s: float, leftovers: tuple[Leftover, ...] = ()
) -> Plan:
    """Return what goes for *limits*; looks at nothing but its arguments.

    What is pinned never goes, what transactions name only if the limits say so. Age and last use decide first; if the
    rest is still larger than it may be, the least recently used keys go until it is not.

    Args:
        candidates: What there is, see `survey`; kept in memory only as far as the size limit may want it.
        limits: What may stay.
        now_s: The present, in seconds since 1970.
        leftovers: Files in quarantine that are to go too, see `find_leftovers`.
    """
    evictions: list[Eviction] = []
    rest: list[Candidate] = []
    kept_keys = kept_bytes = protected_bytes = 0
    for candidate in candidates:
        if candidate.pinned or (candidate.in_transaction and not limits.include_transactions):
            protected_bytes += candidate.size_bytes
        elif limits.max_age_s is not None and now_s - candidate.published_s > limits.max_age_s:
            evictions.append(Eviction(candidate, f"published {_days(now_s - candidate.published_s)} ago"))
            continue
        elif limits.unused_for_s is not None and now_s - candidate.used_s > limits.unused_for_s:
            evictions.append(Eviction(candidate, f"not used for {_days(now_s - candidate.used_s)}"))
            continue
        elif limits.max_bytes is not None:
            rest.append(candidate)
        kept_keys += 1
        kept_bytes += candidate.size_bytes
    for candidate in sorted(rest, key=lambda each: (each.used_s, each.key.folded)):
        if limits.max_bytes is None or kept_bytes <= limits.max_bytes:
            break
        evictions.append(Eviction(candidate, f"the store is above {limits.max_bytes} bytes"))
        kept_keys -= 1
        kept_bytes -= candidate.size_bytes
    return Plan(tuple(evictions), limits, kept_keys, kept_bytes, protected_bytes, leftovers)


def carry_out(
    store: Store,
    plan: Plan,
    *,
    on_removed: Callable[[Eviction], None] | None = None,
    clock_s: Callable[[], float] = time.time,
) -> Pruned:
    """Take away what *plan* says, as far as it still holds; decides nothing anew, but spares what has changed since.

    A key goes only while its lock is held and nobody fills it in: not if it was pinned, used, replaced or named by a
    transaction meanwhile. Each file's name goes in one step. Readers that have a file open keep it, except on Windows,
    where it stays. Empty folders and scratch files of dead processes go as well.

    Args:
        store: The store.
        plan: From `plan_prune`.
        on_removed: Told of each key that went.
        clock_s: Seconds since 1970.

    Raises:
        StoreError: The store cannot be read or written.
    """
    swept = Staging(store.root).sweep()  # before the first scratch file of our own, which would sweep unseen
    used = AccessLog(store, clock_s=clock_s).last_used_by_key()
    is_pinned = match_pins(Pins(store).list())
    skipped: list[Skipped] = []
    removed = freed = 0
    with ThreadPoolExecutor(_FOLDERS_AT_ONCE, thread_name_prefix="symcache-prune") as threads:
        emptied: list[Future[int]] = []
        for eviction in plan.evictions:
            candidate = eviction.candidate
            key = candidate.key
            if is_pinned(key.name, key.id):
                why: str | None = "pinned since"
            elif used.get(key.folded, 0.0) > candidate.used_s:
                why = "used since"
            else:
                why = _remove(store, candidate, plan.limits)
            if why is not None:
                skipped.append(Skipped(key.index, why))
                continue
            removed += 1
            freed += candidate.size_bytes
            emptied.append(threads.submit(_remove_folders, store, candidate))
            if on_removed is not None:
                on_removed(eviction)
        folders = sum(each.result() for each in emptied)
    for leftover in plan.leftovers:
        if take_away(store, leftover.path):
            freed += leftover.size_bytes
            remove_empty_folders(leftover.path.parent, store.root / OWN_FOLDER)
    for _, _, folder in store.key_folders():
        folders += remove_empty_folders(folder / MSFZ_FOLDER, store.root)
    return Pruned(removed, freed, folders, swept, tuple(skipped))


def _remove(store: Store, candidate: Candidate, limits: Limits) -> str | None:
    """Take one key's files away; return why not."""
    lock = store.lock(candidate.key)
    if not lock.try_acquire():
        return "being filled in"
    try:
        if list_files(candidate.folder, candidate.key.name) != candidate.files:
            return "changed since"
        if not limits.include_transactions and (candidate.folder / REFS).exists():
            return "named by a transaction since"
        for path, _, _ in candidate.files:
            take_away(store, path)
    except StoreError as error:
        return f"in use: {error.problem}"
    finally:
        lock.release()
    return None


def _remove_folders(store: Store, candidate: Candidate) -> int:
    folders = dict.fromkeys(path.parent for path, _, _ in candidate.files)
    return sum(remove_empty_folders(folder, store.root) for folder in folders)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days"
