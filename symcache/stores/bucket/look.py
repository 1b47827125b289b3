"""A bucket as a check sees it: looked into without a run's event loop, and nothing of it is kept."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from symcache.errors import InputError, MalformedInput, StoreError, UpstreamError, UpstreamUnavailable, WrongContent
from symcache.stores.base import Form, Stored
from symcache.stores.bucket.store import object_name
from symcache.stores.check import Verdict, check_view
from symcache.stores.concurrency import map_in_order
from symcache.stores.local.atomic import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.bucket.objects import Bucket, ObjectInfo

_LOOKS_AT_ONCE = 32
_COPIED_BYTES = 4 << 20
_FAILURES = 2


@dataclass(frozen=True, slots=True)
class StoredObject(Stored):
    """An object of a bucket; *path* is its URL, for messages alone."""

    is_member: ClassVar[bool] = True

    bucket: Bucket
    info: ObjectInfo

    @property
    def url(self) -> str:
        """What it is called, free of secrets."""
        return f"{self.bucket.name}/{self.info.name}"

    @contextmanager
    def open(self) -> Iterator[ByteView]:
        try:
            view = self.bucket.open(self.info.name)
            if view is None:
                raise MalformedInput("the object was removed meanwhile")
            self.bucket.refuse_excess(view.info)
            yield view
        except UpstreamUnavailable as error:
            raise StoreError(f"the bucket cannot be read: {error.problem}", path=self.bucket.name) from error
        except UpstreamError as error:
            raise MalformedInput(f"the object cannot be read: {error.problem}") from error

    def check(self, key: Key, checksums: Sequence[str] = ()) -> Verdict:
        try:
            with self.open() as view:
                return check_view(view, key, checksums=checksums)
        except InputError as error:
            return Verdict(str(error))

    def copy_to(self, scratch: Path) -> None:
        try:
            with self.open() as view, store_errors(scratch), scratch.open("wb") as file:
                for at in range(0, view.size, _COPIED_BYTES):
                    file.write(view.read(at, min(_COPIED_BYTES, view.size - at)))
        except InputError as error:
            raise WrongContent(str(error), url=self.url) from error


class BucketLook:
    """A bucket of a symbol path; implements `Searchable`. Methods raise `StoreError` if it cannot be asked.

    What was found is remembered: a look is as short as the run that makes it. A bucket that failed twice in a row is
    not asked again.
    """

    local = None
    is_on_disk = True

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self._seen: dict[str, StoredObject | None] = {}
        self._failures: list[str] = []

    def find(self, key: Key) -> StoredObject | None:
        """Return the object that the bucket holds for *key*: the plain file, else the cabinet."""
        if key.folded not in self._seen:
            self._seen[key.folded] = self._look(key)
        return self._seen[key.folded]

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something; many are asked for at a time."""
        for key, found in map_in_order(self.find, keys, at_once=_LOOKS_AT_ONCE):
            if found is not None:
                yield key

    def _look(self, key: Key) -> StoredObject | None:
        failures = tuple(self._failures)  # other threads look, too
        if len(failures) >= _FAILURES:
            raise StoreError(failures[-1], path=self.name)
        try:
            for form in (Form.PLAIN, Form.COMPRESSED):
                info = self.bucket.find(object_name(self.bucket, key, form))
                self._failures.clear()
                if info is not None:
                    path = Path(f"{self.name}/{info.name}")
                    return StoredObject(path, form, info.size_bytes, self.bucket, info)
        except UpstreamError as error:
            problem = f"the bucket cannot be asked: {error.problem}"
            if isinstance(error, UpstreamUnavailable):
                self._failures.append(problem)
            raise StoreError(problem, path=self.name) from error
        return None
