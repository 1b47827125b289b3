"""Bringing into a bucket what a store on disk has and it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError, UpstreamUnavailable
from symcache.stores.base import Form
from symcache.stores.bucket.look import BucketLook
from symcache.stores.bucket.store import object_name
from symcache.stores.check import StoredCheck, check_file
from symcache.stores.concurrency import map_in_order
from symcache.upkeep.bucket import FailureLimit, parse_object, read_ahead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.identity import Key
    from symcache.stores.bucket.objects import Bucket
    from symcache.stores.local.tree import Store

_AT_ONCE = 8
_FEW = 20
# A page of 1,000 names costs what a dozen questions do (S3's list of prices), and takes as long as a few.
_LISTED_FOR_EACH = 80


class PushState(StrEnum):
    """What became of one file of a store."""

    PUSHED = "pushed"
    LACKING = "lacking"  # it would be pushed
    THERE = "there"  # somebody else put it there meanwhile
    LEFT = "left"  # there is only a pointer to it
    REFUSED = "refused"  # it is not what its key names
    FAILED = "failed"  # the bucket did not take it


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result for one file, with the problem if it is not in the bucket."""

    key: Key
    state: PushState
    size_bytes: int  # of the plain file; of what the store has where it was not pushed
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.key.index}: {self.state}" + (f": {self.problem}" if self.problem else "")

    def as_json(self) -> dict[str, str | int | None]:
        return {"index": self.key.index, "state": self.state, "bytes": self.size_bytes, "problem": self.problem}


def find_lacking(bucket: Bucket, keys: Iterable[Key]) -> list[Key]:
    """Return those of *keys* whose file *bucket* has in neither form, in their order.

    Few are asked for one by one. For many the bucket is listed from its beginning; where it turns out to be so large
    that this takes longer than asking, the rest is asked for. Nothing relies on the order of names.

    Raises:
        UpstreamError: It cannot be listed.
        StoreError: It cannot be asked.
    """
    unseen = {object_name(bucket, key): key for key in keys}
    is_whole = False
    if len(unseen) > _FEW:
        left = max(_LISTED_FOR_EACH * len(unseen), 1)
        for info in read_ahead(bucket.list()):
            file = parse_object(info) if info.size_bytes else None
            if file is not None:
                unseen.pop(file.index if file.form is Form.COMPRESSED else info.name, None)
            left -= 1
            if not left or not unseen:
                break
        else:
            is_whole = True
    if is_whole:
        return list(unseen.values())
    held = set(BucketLook(bucket).holding(unseen.values()))
    return [key for key in unseen.values() if key not in held]


def push(store: Store, bucket: Bucket, keys: Iterable[Key]) -> Iterator[Pushed]:
    """Put the files of *keys* that *store* has into *bucket*, several at a time, and yield the result for each.

    Each is looked at first, as by `verify`; a cabinet is expanded. What is there already stays.

    Raises:
        UpstreamError: The bucket refuses, or fails time after time.
        StoreError: There is no room to expand a cabinet, or the store cannot be read.
    """

    def bring(key: Key) -> Pushed | _Failed | None:
        return _bring(store, bucket, key)

    limit = FailureLimit()
    for _, result in map_in_order(bring, keys, at_once=_AT_ONCE):
        limit.note(result.error if isinstance(result, _Failed) else None)
        if result is not None:
            yield result.pushed if isinstance(result, _Failed) else result


@dataclass(frozen=True, slots=True)
class _Failed:
    pushed: Pushed
    error: UpstreamUnavailable


def _bring(store: Store, bucket: Bucket, key: Key) -> Pushed | _Failed | None:
    """Return what became of *key*'s file; None if it went meanwhile."""
    stored = store.find(key)
    if stored is None:
        return None
    size_bytes = stored.size_bytes
    if stored.form is Form.POINTER:
        return Pushed(key, PushState.LEFT, size_bytes, "only a pointer to it")
    try:
        with StoredCheck(store).plain(stored.path, key) as plain:
            if (problem := check_file(plain, key).problem) is not None:
                return Pushed(key, PushState.REFUSED, size_bytes, problem)
            size_bytes = plain.stat().st_size
            is_new = bucket.put(object_name(bucket, key), plain)
            return Pushed(key, PushState.PUSHED if is_new else PushState.THERE, size_bytes)
    except FileNotFoundError:
        return None
    except InputError as error:
        return Pushed(key, PushState.REFUSED, size_bytes, f"a damaged cabinet: {error}")
    except UpstreamUnavailable as error:
        return _Failed(Pushed(key, PushState.FAILED, size_bytes, error.problem), error)
    except OSError as error:
        raise StoreError(error.strerror or str(error), path=stored.path) from error
