"""Pruning: plan from facts alone what to remove, then remove it while debuggers and warm runs use the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import REFS
from symcache.stores.local.access import AccessLog
from symcache.stores.local.atomic import OWN_FOLDER, Staging, remove_empty_folders, take_away
from symcache.stores.local.tree import MSFZ_FOLDER
from symcache.upkeep.inventory import (
    Candidate,
    DiskUsage,
    FileStatus,
    LeftOut,
    Pins,
    freed_bytes,
    list_files,
    match_pins,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from symcache.stores.local.tree import Store


# Removing a folder is mostly waiting: ext4 takes 0.5 ms for each, and several at once in the time of one.
_FOLDERS_AT_ONCE = 4
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What may stay; None stands for no limit."""

    max_bytes: int | None = None  # size of the store; the least recently used files are removed first
    max_age_s: float | None = None  # seconds since a file was published
    unused_for_s: float | None = None  # seconds since a file was last used
    include_transactions: bool = False  # also remove files that belong to transactions


@dataclass(frozen=True, slots=True)
class Eviction:
    """One key to remove, and the limit that it exceeds."""

    candidate: Candidate
    reason: str

    def as_json(self) -> dict[str, object]:
        key, size_bytes, used_s = self.candidate.key, self.candidate.size_bytes, self.candidate.used_s
        return {"index": key.index, "bytes": size_bytes, "last_used_s": used_s, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What to remove; a dry run shows it, `carry_out` does it."""

    evictions: tuple[Eviction, ...]  # the keys to remove, those for the size limit in order of last use
    limits: Limits
    kept_keys: int
    kept_bytes: int  # what they take on the disk
    protected_bytes: int  # how much of that is pinned or belongs to transactions
    quarantined: tuple[FileStatus, ...] = ()  # files in quarantine to remove too

    @property
    def freed_bytes(self) -> int:
        """Disk space that removing all this frees."""
        files = (file for each in self.evictions for file in each.candidate.files)
        return freed_bytes(files) + sum(each.size_bytes for each in self.quarantined)

    @property
    def over_bytes(self) -> int:
        """By how much the store stays above its size limit, because the rest is protected."""
        return max(0, self.kept_bytes - self.limits.max_bytes) if self.limits.max_bytes is not None else 0

    def as_json(self) -> dict[str, object]:
        names = ("freed_bytes", "kept_keys", "kept_bytes", "protected_bytes", "over_bytes")
        return {
            "evictions": [each.as_json() for each in self.evictions],
            "leftovers": [{"path": str(each.path), "bytes": each.size_bytes} for each in self.quarantined],
            **{name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `carry_out` did."""

    removed_keys: int
    freed_bytes: int
    removed_folders: int
    swept_files: int  # scratch files of dead processes
    skipped: tuple[LeftOut, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def plan_prune(
    candidates: Iterable[Candidate],
    limits: Limits,
    *,
    now_s: float,
    quarantined: tuple[FileStatus, ...] = (),
    spared_keys: int = 0,
    spared_bytes: int = 0,
) -> PrunePlan:
    """Return what to remove for *limits*, from the arguments alone.

    Pinned keys stay, keys of transactions too unless the limits include them. Age and last use decide first; if the
    rest is still too large, the least recently used keys follow until it is not. *candidates*, see `take_inventory`,
    stay in memory only if there is a size limit; *now_s* is in seconds since 1970; all of *quarantined* is removed.
    What is spared is known to stay, and is not among *candidates*.
    """
    evictions: list[Eviction] = []
    rest: list[Candidate] = []
    kept_keys = spared_keys
    kept, protected = DiskUsage(), DiskUsage()
    kept.size_bytes = spared_bytes
    for candidate in candidates:
        if candidate.pinned or (candidate.in_transaction and not limits.include_transactions):
            protected.add(candidate.files)
        elif limits.max_age_s is not None and now_s - candidate.published_s > limits.max_age_s:
            evictions.append(Eviction(candidate, f"published {(now_s - candidate.published_s) / _DAY_S:.1f} days ago"))
            continue
        elif limits.unused_for_s is not None and now_s - candidate.used_s > limits.unused_for_s:
            evictions.append(Eviction(candidate, f"not used for {(now_s - candidate.used_s) / _DAY_S:.1f} days"))
            continue
        elif limits.max_bytes is not None:
            rest.append(candidate)
        kept_keys += 1
        kept.add(candidate.files)
    for candidate in sorted(rest, key=lambda each: (each.used_s, each.key.folded)):
        if limits.max_bytes is None or kept.size_bytes <= limits.max_bytes:
            break
        evictions.append(Eviction(candidate, f"the store is above {limits.max_bytes} bytes"))
        kept_keys -= 1
        kept.remove(candidate.files)
    return PrunePlan(tuple(evictions), limits, kept_keys, kept.size_bytes, protected.size_bytes, quarantined)


def carry_out(store: Store, plan: PrunePlan, *, on_removed: Callable[[Eviction], object] = lambda _: None) -> Pruned:
    """Remove what *plan* lists, except keys that have been pinned, used, replaced or added by a transaction since.

    A key's lock is held while its files are removed, each in one step; a key that another process is writing stays.
    Readers keep the files that they have open; on Windows such a file stays. Empty folders, and scratch files of dead
    processes, are removed too.
    *on_removed* is called for each key that was removed.
    """
    # First of all: the first scratch file of this process would sweep as well, without a count.
    swept = Staging(store.root).sweep()
    used = AccessLog(store).last_used_by_key()
    is_pinned = match_pins(Pins(store).list())
    skipped: list[LeftOut] = []
    removed = freed = 0
    with ThreadPoolExecutor(_FOLDERS_AT_ONCE, thread_name_prefix="symcache-prune") as threads:
        emptied: list[Future[int]] = []
        for eviction in plan.evictions:
            candidate = eviction.candidate
            key = candidate.key
            if is_pinned(key.name, key.id):
                result: int | str = "pinned since"
            elif used.get(key.folded, 0.0) > candidate.used_s:
                result = "used since"
            else:
                result = _remove(store, candidate, plan.limits)
            if isinstance(result, str):
                skipped.append(LeftOut(key.index, result))
                continue
            removed += 1
            freed += result
            parents = {file.path.parent for file in candidate.files}
            emptied += [threads.submit(remove_empty_folders, parent, store.root) for parent in sorted(parents)]
            on_removed(eviction)
        folders = sum(each.result() for each in emptied)
    for file in plan.quarantined:
        try:
            is_gone = take_away(store, file.path)
        except StoreError as error:
            skipped.append(LeftOut(str(file.path), f"in use: {error.problem}"))
            continue
        if is_gone:
            freed += file.size_bytes
            remove_empty_folders(file.path.parent, store.root / OWN_FOLDER)
    for _, _, folder in store.key_folders():
        folders += remove_empty_folders(folder / MSFZ_FOLDER, store.root)
    return Pruned(removed, freed, folders, swept, tuple(skipped))


def _remove(store: Store, candidate: Candidate, limits: Limits) -> int | str:
    """Remove the files of one key; return the disk space that this frees, in bytes, or why they stay."""
    lock = store.lock(candidate.key)
    if not lock.try_acquire():
        return "being written"
    try:
        files = list_files(candidate.folder, candidate.key.name)
        if files != candidate.files:
            return "changed since"
        if not limits.include_transactions and (candidate.folder / REFS).exists():
            return "named by a transaction since"
        for file in files:
            take_away(store, file.path)
    except StoreError as error:
        return f"in use: {error.problem}"
    finally:
        lock.release()
    return freed_bytes(files)
