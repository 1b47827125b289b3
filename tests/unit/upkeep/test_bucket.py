"""What is decided of a bucket: which objects are files, what it lacks, what may go; over obstore's store in memory."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.config import BucketEntry, Network
from symcache.identity import ImageKey, OtherKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.stores.base import Form
from symcache.stores.bucket.objects import Bucket, ObjectInfo
from symcache.stores.bucket.store import object_name
from symcache.upkeep.bucket import (
    Others,
    find_last_to_go,
    iter_objects,
    list_objects,
    parse_object,
    plan_bucket_prune,
    read_ahead,
    take_bucket_inventory,
)
from symcache.upkeep.prune import Limits, plan_prune
from symcache.upkeep.push import find_lacking

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from obstore.store import MemoryStore  # noqa: E402 - where obstore is not, there are no tests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.identity import Key


class CountingBucket(Bucket):
    """A bucket in memory that counts what it is asked."""

    def __init__(self, letter_case: str = "given") -> None:
        store = MemoryStore()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("symcache.stores.bucket.objects._open", lambda *_arguments, **_named: (store, None))
            super().__init__("s3://symbols", BucketEntry("s3://symbols", letter_case=letter_case), Network())
        self.asked: list[str] = []
        self.listed = 0

    def put_key(self, key: Key, form: Form = Form.PLAIN, content: bytes = b"x") -> None:
        obstore.put(self._store, object_name(self, key, form), content)

    def find(self, name: str) -> ObjectInfo | None:
        self.asked.append(name)
        return super().find(name)

    def list(self, under: str = "", *, after: str | None = None) -> Iterator[ObjectInfo]:
        for info in super().list(under, after=after):
            self.listed += 1
            yield info


def names() -> st.SearchStrategy[str]:
    stems = st.text("abcXYZ09_-. é", min_size=1, max_size=8).map(str.strip).filter(lambda stem: stem.strip(". "))
    return st.builds(lambda stem, extension: f"{stem.lstrip('.')}x.{extension}", stems, st.sampled_from(["pdb", "EXE"]))


def keys() -> st.SearchStrategy[Key]:
    bits = st.integers(0, 2**32 - 1)
    return st.one_of(
        st.builds(PdbKey, names(), st.uuids(), st.integers(0, 2**32 - 2)),
        st.builds(PortablePdbKey, names(), st.uuids()),
        st.builds(lambda name, signature, age: Pdb2Key(f"{name}.pdb", signature, age), names(), bits, bits),
        st.builds(lambda name, stamp, size: ImageKey(f"{name}.dll", stamp, size), names(), bits, bits),
        st.builds(OtherKey, names(), st.just("elf-buildid-00")),
    )


def info(name: str, size_bytes: int = 1, modified_s: float = 0.0) -> ObjectInfo:
    return ObjectInfo(name, size_bytes, modified_s, None)


@given(keys(), st.sampled_from([Form.PLAIN, Form.COMPRESSED]), st.sampled_from(["given", "lower"]))
def test_an_objects_name_reads_back_as_its_key(key: Key, form: Form, letter_case: str) -> None:
    file = parse_object(info(object_name(CountingBucket(letter_case), key, form)))
    assert file is not None
    assert (file.key.folded, file.form) == (key.folded, form)
    if letter_case == "given":
        assert file.key == key


@given(st.text() | st.lists(st.text("ab./\\ \0:", max_size=4), max_size=4).map("/".join))
def test_any_other_name_is_no_file(name: str) -> None:
    file = parse_object(info(name))
    assert file is None or name.count("/") == 2


def test_names_of_a_store_itself_are_no_files() -> None:
    for name in (
        "pingme.txt",
        "000Admin/server.txt",
        "app.pdb/1/file.ptr",
        "app.pdb/1/refs.ptr",
        "a.pdb/../a.pdb",
        "//",
    ):
        assert parse_object(info(name)) is None, name


@given(
    st.lists(keys(), max_size=30, unique_by=lambda key: key.folded),
    st.data(),
    st.sampled_from(["given", "lower"]),
    st.sampled_from([0, 20]),
)
def test_what_a_bucket_lacks_is_what_it_does_not_have(
    wanted: list[Key], data: st.DataObject, letter_case: str, few: int
) -> None:
    bucket = CountingBucket(letter_case)
    held = [key for key in wanted if data.draw(st.booleans())]
    for key in held:
        bucket.put_key(key, data.draw(st.sampled_from([Form.PLAIN, Form.COMPRESSED])))
    obstore.put(bucket._store, "readme.txt", b"x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symcache.upkeep.push._FEW", few)
        assert find_lacking(bucket, wanted) == [key for key in wanted if key not in held]


def pdb(number: int) -> PdbKey:
    return PdbKey(f"m{number:06}.pdb", UUID(int=number + 1), 1)


def test_many_files_are_compared_with_a_list_and_few_are_asked_for() -> None:
    bucket = CountingBucket()
    for number in range(1000):
        bucket.put_key(pdb(number))
    assert find_lacking(bucket, [pdb(number) for number in range(500, 1100)]) == [pdb(n) for n in range(1000, 1100)]
    assert (bucket.listed, bucket.asked) == (1000, [])
    bucket.listed = 0
    assert find_lacking(bucket, [pdb(5), pdb(2000)]) == [pdb(2000)]
    assert (bucket.listed, len(bucket.asked)) == (0, 3)


def test_a_bucket_far_larger_than_the_store_is_not_listed_to_its_end() -> None:
    bucket = CountingBucket()
    for number in range(8000):
        bucket.put_key(pdb(number))
    wanted = [pdb(number) for number in range(7990, 8020)]
    assert find_lacking(bucket, wanted) == [pdb(number) for number in range(8000, 8020)]
    assert 80 * 30 <= bucket.listed <= 80 * 30 + 3000  # what was read ahead
    assert len(bucket.asked) == 10 + 2 * 20


def test_an_empty_object_is_lacking() -> None:
    bucket = CountingBucket()
    for number in range(30):
        bucket.put_key(pdb(number), content=b"" if number == 3 else b"x")
    assert find_lacking(bucket, map(pdb, range(30))) == [pdb(3)]


def test_others_are_counted_and_the_first_named() -> None:
    bucket = CountingBucket()
    for number in range(30):
        obstore.put(bucket._store, f"notes/{number:02}", b"x")
    for name in ("pingme.txt", ".symcache/quarantine/1/app.pdb"):
        obstore.put(bucket._store, name, b"x")
    bucket.put_key(pdb(1))
    others = Others()
    assert [file.key for file in iter_objects(bucket, others)] == [pdb(1)]
    assert others.count == 30
    assert others.names == tuple(f"notes/{number:02}" for number in range(20))


def test_a_list_is_yielded_while_it_is_read() -> None:
    bucket = CountingBucket()
    for number in range(9000):
        bucket.put_key(pdb(number))
    listed = list_objects(bucket)
    assert next(listed).index == pdb(0).index
    assert bucket.listed <= 4000
    assert sum(1 for _ in listed) == 8999
    assert bucket.listed == 9000


def test_what_is_read_ahead_is_bounded_and_ends_with_who_asks() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100_000):
            taken += 1
            yield number

    ahead = read_ahead(items())
    assert next(ahead) == 0
    (thread,) = [each for each in threading.enumerate() if each.name == "list a bucket"]
    ahead.close()  # type: ignore[attr-defined]  # it is a generator
    thread.join(30)
    assert not thread.is_alive()
    assert taken <= 4000


def test_an_error_of_what_is_read_ahead_comes_after_what_was_read() -> None:
    def items() -> Iterator[int]:
        yield from range(1000)
        raise ValueError("no more")

    ahead = read_ahead(items())
    assert [next(ahead) for _ in range(1000)] == list(range(1000))
    with pytest.raises(ValueError, match="no more"):
        next(ahead)
    assert list(read_ahead(range(2500))) == list(range(2500))
    assert list(read_ahead([])) == []


def test_the_files_of_a_key_stay_or_go_together_by_when_the_last_came() -> None:
    bucket = CountingBucket()
    bucket.put_key(pdb(1), Form.PLAIN, b"12345")
    bucket.put_key(pdb(1), Form.COMPRESSED, b"123")
    bucket.put_key(pdb(2), Form.PLAIN, b"1")
    first, second = take_bucket_inventory(bucket)
    assert (first.key, first.size_bytes, [file.path.as_posix() for file in first.files]) == (
        pdb(1),
        8,
        [object_name(bucket, pdb(1), Form.COMPRESSED), object_name(bucket, pdb(1))],
    )
    older = replace(second, used_s=first.used_s - 100, published_s=first.published_s - 100)
    plan = plan_prune([first, older], Limits(max_bytes=8), now_s=first.used_s)
    assert [each.candidate.key for each in plan.evictions] == [pdb(2)]
    plan = plan_prune([first, older], Limits(max_age_s=50), now_s=first.used_s)
    assert [each.candidate.key for each in plan.evictions] == [pdb(2)]


def test_paths_of_objects_keep_their_slashes() -> None:
    name = object_name(CountingBucket(), pdb(1))
    assert Path(name).as_posix() == name


HOURS = st.lists(st.tuples(st.floats(0, 20 * 3600), st.integers(1, 50)), max_size=20)
LIMITS = st.builds(
    lambda most, age: Limits(max_bytes=most, max_age_s=age),
    st.none() | st.integers(0, 400),
    st.none() | st.floats(0, 25 * 3600),
)


@given(HOURS, LIMITS)
def test_what_is_listed_twice_is_planned_as_if_all_were_in_memory(
    objects: Sequence[tuple[float, int]], limits: Limits
) -> None:
    class Listed(CountingBucket):
        def list(self, under: str = "", *, after: str | None = None) -> Iterator[ObjectInfo]:
            del under, after  # the whole bucket is listed
            for number, (modified_s, size_bytes) in enumerate(objects):
                yield info(pdb(number).index, size_bytes, modified_s)

    bucket, now_s = Listed(), 24 * 3600.0
    whole = plan_prune(take_bucket_inventory(bucket), limits, now_s=now_s)
    assert plan_bucket_prune(bucket, limits, now_s=now_s) == whole


def test_what_stays_in_any_case_is_no_candidate() -> None:
    sizes = dict.fromkeys(range(10), 100)
    assert find_last_to_go(sizes, Limits(max_bytes=1000), now_s=36000) == -1
    assert find_last_to_go(sizes, Limits(max_bytes=999), now_s=36000) == 0
    assert find_last_to_go(sizes, Limits(max_bytes=500), now_s=36000) == 4
    assert find_last_to_go(sizes, Limits(max_bytes=0), now_s=36000) == 9
    assert find_last_to_go(sizes, Limits(max_age_s=3600 * 7.5), now_s=36000) == 2
