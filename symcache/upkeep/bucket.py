"""A bucket as a store that is looked after: what lies in it, whether that is right, and what may go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import InputError, StoreError, UpstreamError, WrongContent
from symcache.formats.markup import HEAD_BYTES, Markup, find_markup
from symcache.formats.pdb.info import NativePdb, looks_like_pdb, parse_pdb
from symcache.identity import OtherKey, PdbKey, compressed_name, fold, parse_id
from symcache.stores.base import Form
from symcache.stores.bucket.store import object_name
from symcache.stores.check import StoredCheck, check_file, check_view, hash_pieces
from symcache.stores.concurrency import map_in_order
from symcache.stores.local.atomic import OWN_FOLDER, drop, store_errors
from symcache.upkeep.checkpoint import Checkpoint, Progress, checkpoint_of
from symcache.upkeep.filechecks import why_private, why_view_private
from symcache.upkeep.inventory import Candidate, FileStatus, StoredFile, fits_index
from symcache.upkeep.problems import Problem, ProblemKind, RepairAction
from symcache.upkeep.prune import Pruned, plan_prune
from symcache.upkeep.repair import Repaired
from symcache.upkeep.stats import NameTotal, Total, add_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from symcache.formats.pdb.info import SymbolKind
    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.bucket.objects import Bucket, BucketView, ObjectInfo
    from symcache.stores.local.tree import Store
    from symcache.upkeep.filechecks import Check
    from symcache.upkeep.prune import Eviction, Limits, PrunePlan
    from symcache.upkeep.stats import Stats

    T = TypeVar("T")

_QUARANTINE = f"{OWN_FOLDER}/quarantine"
_CABINET = b"MSCF"
_PIECE_BYTES = 4 << 20
_LOOKS_AT_ONCE = 16
_COPIES_AT_ONCE = 4  # each takes memory, or room on the disk
_DELETED_AT_ONCE = 1000  # as many as one request of S3 takes
_MOST_NAMED = 20
_MOST_FAILURES = 8
_HEAD_OF_PDB_BYTES = 64
_HOUR_S = 3600
_READ_AT_ONCE = 1000
_READ_AHEAD = 2


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield *items* as a thread reads them, a few thousand ahead of who asks.

    Nothing waits for the thread, so that who is interrupted does not wait for an answer that takes its time.
    """
    batches: SimpleQueue[list[T] | Exception | None] = SimpleQueue()
    wanted = Semaphore(_READ_AHEAD)
    is_over = False

    def read() -> None:
        source = iter(items)
        try:
            while batch := list(islice(source, _READ_AT_ONCE)):
                batches.put(batch)
                wanted.acquire()
                if is_over:
                    return
            batches.put(None)
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            batches.put(error)

    Thread(target=read, name="list a bucket", daemon=True).start()
    try:
        while (batch := batches.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            wanted.release()
            yield from batch
    finally:
        is_over = True
        wanted.release()


class FailureLimit:
    """Says when a bucket has failed so often in a row that to go on is in vain."""

    def __init__(self) -> None:
        self._failures = 0

    def note(self, error: UpstreamError | None) -> None:
        """Take in how a call ended; raise *error* if it is one too many."""
        self._failures = 0 if error is None else self._failures + 1
        if error is not None and self._failures >= _MOST_FAILURES:
            raise error


@dataclass(frozen=True, slots=True)
class BucketFile:
    """An object that is the file of a key."""

    name: str  # of the file, as the first part of the object's name spells it
    id: str  # as its second part spells it
    key: Key
    form: Form  # plain or compressed
    info: ObjectInfo

    @property
    def index(self) -> str:
        return f"{self.name}/{self.id}/{self.name}"


@dataclass(slots=True)
class Others:
    """Objects that are no file of a store, and not symcache's own; they are counted, and the first of them named."""

    count: int = 0
    names: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < _MOST_NAMED:
            self.names = (*self.names, name)


def parse_object(info: ObjectInfo) -> BucketFile | None:
    """Return which key's file *info* is by its name, in whatever letter case; None if it is none."""
    parts = info.name.split("/")
    if len(parts) != 3:
        return None
    name, id_, file = parts
    forms = {fold(compressed_name(name)): Form.COMPRESSED, fold(name): Form.PLAIN} if name else {}
    form = forms.get(fold(file))
    if form is None:
        return None
    try:
        return BucketFile(name, id_, parse_id(name, id_), form, info)
    except InputError:
        return None


def is_own(name: str) -> bool:
    """Return whether symcache keeps the object *name* for itself."""
    return name == "pingme.txt" or name.startswith(f"{OWN_FOLDER}/")


def iter_objects(bucket: Bucket, others: Others | None = None, *, after: str = "") -> Iterator[BucketFile]:
    """Yield the files of *bucket* behind the name *after*, page by page, as it lists them; count *others*."""
    for info in read_ahead(bucket.list(after=after or None)):
        file = parse_object(info)
        if file is not None:
            yield file
        elif others is not None and not is_own(info.name):
            others.add(info.name)


def list_objects(
    bucket: Bucket, patterns: Sequence[str] = (), *, reads: bool = False, others: Others | None = None
) -> Iterator[StoredFile]:
    """Yield the files of *bucket* that fit one of *patterns*, see `fits_index`, or all; memory does not grow.

    With *reads* the plain PDBs among them are read for their kind of symbols.
    """

    def look(file: BucketFile) -> SymbolKind | None:
        return _symbols(bucket, file) if reads else None

    found = (
        file
        for file in iter_objects(bucket, others)
        if not patterns or any(fits_index(file.name, file.id, pattern) for pattern in patterns)
    )
    looked = map_in_order(look, found, at_once=_LOOKS_AT_ONCE) if reads else ((file, None) for file in found)
    for file, symbols in looked:
        yield StoredFile(f"{bucket.name}/{file.info.name}", file.index, file.form, file.info.size_bytes, symbols)


def _symbols(bucket: Bucket, file: BucketFile) -> SymbolKind | None:
    if file.form is not Form.PLAIN or not file.info.size_bytes:
        return None
    view = bucket.open(file.info.name)
    try:
        if view is None or not looks_like_pdb(view.read(0, min(view.size, _HEAD_OF_PDB_BYTES))):
            return None
        pdb = parse_pdb(view)
    except InputError:
        return None  # `verify` reports what is wrong
    return pdb.symbols if isinstance(pdb, NativePdb) else None


def collect_bucket_stats(bucket: Bucket, others: Others, *, largest: int = 20) -> Stats:
    """Return *bucket* in numbers; memory does not grow with it.

    A name whose objects are not listed one behind the other, as S3, Google and Azure do, counts several times.
    """
    return add_up(_iter_names(iter_objects(bucket, others)), tier=1, transactions=0, largest=largest)


def _iter_names(files: Iterable[BucketFile]) -> Iterator[NameTotal]:
    for name, named in groupby(files, key=lambda file: file.name):
        keys = 0
        by_kind: dict[str, Total] = {}
        for _, of_key in groupby(named, key=lambda file: file.id):
            keys += 1
            for file in of_key:
                by_kind[file.form] = by_kind.get(file.form, Total()) + Total(1, file.info.size_bytes)
        yield NameTotal(name, keys, 0, by_kind)


class ObjectCheck:
    """Looks at objects of *bucket*, from several threads; where it takes a file on disk, one in *work* is used.

    Plain files are read in ranges, as far as their identity takes. With *hashes*, or with *look*, which looks deeper
    into plain files, they are read whole and compared with the SHA-256 that is stated with them. With *no_private*,
    PDBs with private symbols are wrong, too.
    """

    def __init__(
        self, bucket: Bucket, work: Store, *, look: Check | None = None, hashes: bool = False, no_private: bool = False
    ) -> None:
        self._bucket = bucket
        self._work = work
        self._look = look
        self._hashes = hashes
        self._no_private = no_private
        self.at_once = _COPIES_AT_ONCE if hashes or look is not None else _LOOKS_AT_ONCE

    def __call__(self, file: BucketFile, /) -> Problem | None:
        """Return what is wrong with *file*; None if nothing is, or it went meanwhile.

        Raises:
            UpstreamError: It cannot be read; `WrongContent` if it is longer than files may be.
            StoreError: There is no room for a copy that it takes.
        """
        if not file.info.size_bytes:
            return _problem(file, ProblemKind.EMPTY, "no bytes")
        view = self._bucket.open(file.info.name)
        if view is None:
            return None
        head = view.read(0, min(view.size, HEAD_BYTES))
        if not isinstance(file.key, OtherKey) and find_markup(head) in {Markup.HTML, Markup.XML}:
            return _problem(file, ProblemKind.HTML, "a web page")
        needs_copy = head.startswith(_CABINET) or (self._look is not None and isinstance(file.key, PdbKey))
        wrong, unwanted = self._look_at_copy(view, file.key) if needs_copy else self._look_at(view, file.key)
        if wrong is not None:
            is_another = wrong.startswith("another")
            return _problem(file, ProblemKind.MISFILED if is_another else ProblemKind.DAMAGED, wrong)
        if unwanted is not None:
            return _problem(file, ProblemKind.UNWANTED, unwanted, RepairAction.NONE)
        sought = object_name(self._bucket, file.key, file.form)
        if sought != file.info.name:
            text = f"nothing asks for it in this spelling, but as {sought}"
            return _problem(file, ProblemKind.BAD_NAME, text, RepairAction.NONE)
        return None

    def _look_at(self, view: BucketView, key: Key) -> tuple[str | None, str | None]:
        """Return what is wrong with a plain file, and why it is unwanted."""
        wrong = check_view(view, key).problem
        if wrong is None and self._hashes:
            self._bucket.refuse_excess(view.info)
            wrong = _other_bytes(view, hash_pieces(_pieces(view))[1])
        return wrong, why_view_private(view, key) if self._no_private else None

    def _look_at_copy(self, view: BucketView, key: Key) -> tuple[str | None, str | None]:
        self._bucket.refuse_excess(view.info)
        copy = self._work.scratch()
        try:
            with store_errors(copy):
                with copy.open("wb") as written:
                    _, found = hash_pieces(_written(piece, written.write) for piece in _pieces(view))
                if (wrong := _other_bytes(view, found)) is not None:
                    return wrong, None
                check = StoredCheck(self._work, self._look or _identity)
                with check.plain(copy, key) as plain:
                    wrong = (self._look or _identity)(plain, key)
                    return wrong, why_private(plain, key) if self._no_private else None
        except InputError as error:
            return f"a damaged cabinet: {error}", None
        finally:
            drop(copy)


def _identity(path: Path, key: Key, /) -> str | None:
    return check_file(path, key).problem


def _other_bytes(view: BucketView, found: str) -> str | None:
    stated = view.info.sha256
    return None if stated in {None, found} else f"other bytes than were put there: SHA-256 {found}, stated is {stated}"


def _pieces(view: ByteView) -> Iterator[bytes]:
    return (view.read(at, min(_PIECE_BYTES, view.size - at)) for at in range(0, view.size, _PIECE_BYTES))


def _written(piece: bytes, write: Callable[[bytes], object]) -> bytes:
    write(piece)
    return piece


def _problem(
    file: BucketFile, kind: ProblemKind, detail: str, action: RepairAction = RepairAction.QUARANTINE
) -> Problem:
    info = file.info
    return Problem(info.name, kind, detail, action, file.key.index, None, info.size_bytes, _changed_ns(info))


def _changed_ns(info: ObjectInfo) -> int:
    return round(info.modified_s * 1e9)


def verify_bucket(
    bucket: Bucket,
    work: Store,
    check: ObjectCheck,
    *,
    scope: str = "",
    resume: bool = True,
    others: Others | None = None,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> Iterator[Problem]:
    """Yield every problem of *bucket*; changes nothing in it; see `symcache.upkeep.verify.verify`.

    Progress is kept in *work*, a store of this user. What is behind the name that a run came to is looked at by the
    next one, so that a server that lists in no order is not to be resumed. *others* are counted from there on, too.

    Raises:
        UpstreamError: The bucket fails, or refuses, time after time, or cannot be listed.
        StoreError: *work* cannot be written, or another verification is running.
    """
    lock = work.lock("verify")
    if not lock.try_acquire():
        raise StoreError("another verification is under way", path=bucket.name)
    checkpoint: Checkpoint | None = None
    finished = False
    try:
        checkpoint = Checkpoint(checkpoint_of(work), resume=resume, scope=f"{bucket.name} {scope}")
        for problem in checkpoint.problems:
            yield from _look_again(bucket, check, problem)
        limit = FailureLimit()
        progress = checkpoint.progress
        found = iter_objects(bucket, others, after=progress.at)
        for file, result in map_in_order(_attempted(check), found, at_once=check.at_once):
            limit.note(result if isinstance(result, UpstreamError) else None)
            problem_found = _unreadable(file, result) if isinstance(result, UpstreamError) else result
            size = progress.size_bytes + file.info.size_bytes
            wrong = progress.problems + (problem_found is not None)
            progress = Progress(file.info.name, progress.keys + 1, size, wrong)
            if problem_found is not None:
                checkpoint.record(problem_found)
                yield problem_found
            checkpoint.advance_in_time(progress)
            on_progress(progress)
        finished = True
    finally:
        if checkpoint is not None:
            checkpoint.close(finished=finished)
        lock.release()


def _attempted(check: ObjectCheck) -> Callable[[BucketFile], Problem | UpstreamError | None]:
    def attempt(file: BucketFile) -> Problem | UpstreamError | None:
        try:
            return check(file)
        except WrongContent as error:
            return _unreadable(file, error)
        except UpstreamError as error:
            return error

    return attempt


def _unreadable(file: BucketFile, error: UpstreamError) -> Problem:
    return _problem(file, ProblemKind.UNREADABLE, error.problem, RepairAction.NONE)


def _look_again(bucket: Bucket, check: ObjectCheck, problem: Problem) -> Iterator[Problem]:
    """Yield *problem*, which an earlier run found, if its object has not changed; else what is wrong with it now."""
    info = bucket.find(problem.path) if problem.size_bytes else None
    if problem.size_bytes and info is None:
        return  # it went
    is_same = info is None or (info.size_bytes, _changed_ns(info)) == (problem.size_bytes, problem.changed_ns)
    if is_same and problem.kind is not ProblemKind.UNREADABLE:
        yield problem
    elif info is not None and (file := parse_object(info)) is not None and (again := check(file)) is not None:
        yield again


def repair_bucket(bucket: Bucket, problems: Iterable[Problem]) -> Iterator[Repaired]:
    """Move the bad objects among *problems* out of the way of who asks, and yield the result for each.

    They are called ``.symcache/quarantine/`` and a word of chance, then what they were called; one that has changed
    since it was looked at stays.
    """
    for problem in problems:
        if problem.action is not RepairAction.QUARANTINE:
            yield Repaired(problem, repaired=False, note="needs a person to look at it")
            continue
        try:
            yield _put_away(bucket, problem)
        except UpstreamError as error:
            yield Repaired(problem, repaired=False, note=error.problem)


def _put_away(bucket: Bucket, problem: Problem) -> Repaired:
    # An empty object is none to `find`, and who put a file there meanwhile was refused.
    info = bucket.find(problem.path)
    if info is None and problem.size_bytes:
        return Repaired(problem, repaired=True, note="already gone")
    if info is not None and (info.size_bytes, _changed_ns(info)) != (problem.size_bytes, problem.changed_ns):
        return Repaired(problem, repaired=False, note="changed since")
    target = f"{_QUARANTINE}/{token_hex(8)}/{problem.path}"
    bucket.move(problem.path, target)
    return Repaired(problem, repaired=True, note=f"moved to {target}")


def take_bucket_inventory(bucket: Bucket) -> Iterator[Candidate]:
    """Yield every key of *bucket* with its files; no use is known of them, so that they count from when they came."""
    for (name, id_), of_key in groupby(iter_objects(bucket), key=lambda file: (file.name, file.id)):
        found = list(of_key)
        files = tuple(_status(file.info, file.form) for file in found)
        published_s = max(file.info.modified_s for file in found)
        yield Candidate(found[0].key, Path(f"{name}/{id_}"), files, used_s=published_s, published_s=published_s)


def plan_bucket_prune(
    bucket: Bucket, limits: Limits, *, now_s: float, quarantined: tuple[FileStatus, ...] = ()
) -> PrunePlan:
    """Return what to remove from *bucket* for *limits*, as `plan_prune` does.

    With a limit of its size it is listed twice, so that memory grows with what goes and not with what there is.
    """
    if limits.max_bytes is None:
        return plan_prune(take_bucket_inventory(bucket), limits, now_s=now_s, quarantined=quarantined)
    keys: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for each in take_bucket_inventory(bucket):
        keys[_hour(each)] += 1
        sizes[_hour(each)] += each.size_bytes
    last = find_last_to_go(sizes, limits, now_s=now_s)
    spared = [hour for hour in sizes if hour > last]
    return plan_prune(
        (each for each in take_bucket_inventory(bucket) if _hour(each) <= last),
        limits,
        now_s=now_s,
        quarantined=quarantined,
        spared_keys=sum(keys[hour] for hour in spared),
        spared_bytes=sum(sizes[hour] for hour in spared),
    )


def find_last_to_go(sizes: Mapping[int, int], limits: Limits, *, now_s: float) -> int:
    """Return the last hour, since 1970, of which something goes for *limits*; *sizes* are the bytes of each hour."""
    left = sum(sizes.values())
    last = -1
    for hour in sorted(sizes):
        is_old = limits.max_age_s is not None and now_s - limits.max_age_s > hour * _HOUR_S
        if not is_old and (limits.max_bytes is None or left <= limits.max_bytes):
            break
        last = hour
        left -= sizes[hour]
    return last


def _hour(candidate: Candidate) -> int:
    return int(candidate.published_s // _HOUR_S)


def find_quarantined_objects(bucket: Bucket, *, older_than_s: float, now_s: float) -> tuple[FileStatus, ...]:
    """Return the objects that have been in quarantine for more than *older_than_s* seconds."""
    return tuple(
        _status(info)
        for info in read_ahead(bucket.list(_QUARANTINE))
        if now_s - info.modified_s > older_than_s and "\\" not in info.name  # which is no separator in a bucket
    )


def _status(info: ObjectInfo, form: Form = Form.PLAIN) -> FileStatus:
    return FileStatus(Path(info.name), info.size_bytes, _changed_ns(info), form)


def prune_bucket(
    bucket: Bucket, plan: PrunePlan, *, on_removed: Callable[[Eviction], object] = lambda _: None
) -> Pruned:
    """Delete what *plan* lists, many objects at a time; *on_removed* is called for each key.

    Raises:
        UpstreamError: The bucket does not take it; what went before is gone.
    """
    evictions = iter(plan.evictions)
    while batch := list(islice(evictions, _DELETED_AT_ONCE // 2)):  # a key has two objects, as a rule one
        bucket.delete([file.path.as_posix() for each in batch for file in each.candidate.files])
        for each in batch:
            on_removed(each)
    left = iter(plan.quarantined)
    while bad := list(islice(left, _DELETED_AT_ONCE)):
        bucket.delete([file.path.as_posix() for file in bad])
    return Pruned(len(plan.evictions), plan.freed_bytes, 0, 0, ())
