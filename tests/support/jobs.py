"""Commands that change a store, each with a store to work on, and what must hold of it however they ended."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.serving import publish
from support.sources import cabinet
from support.stores import StoreShell
from symcache.errors import InputError
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.view import FileView
from symcache.identity import ImageKey, compressed_name, fold, parse_index
from symcache.stores.base import Form
from symcache.stores.links import Link, StoreLinks
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store
from symcache.stores.negative import Misses
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder
from symcache.symstore.transactions import Kind, walk_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.serving import Published
    from support.upstream import Upstream
    from symcache.symstore.transactions import Transaction

__all__ = [
    "JOBS",
    "Job",
    "Place",
    "broken_files",
    "broken_memories",
    "broken_records",
    "findings",
    "leftovers",
    "make_place",
]

_MARKS = {"pingme.txt", "index2.txt"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job is done.

    Attributes:
        disk: A folder with the stores, and with what a job writes; it may be a copy of the one that was prepared.
        aside: What a job reads: builds, a bundle, a config file.
        url: Of a server that has every file of *fetched* and *damaged*.
        old: Files of a transaction that is there before.
        fetched: Files that are fetched, or were.
        new: Files of a build that is added, or was.
    """

    disk: Path
    aside: Path
    url: str
    old: tuple[Published, ...]
    fetched: tuple[Published, ...]
    new: tuple[Published, ...]

    @property
    def store(self) -> Path:
        return self.disk / "sym"

    @property
    def shell(self) -> StoreShell:
        """Runs commands on the store, behind which is the server."""
        return StoreShell(self.store, self.symbol_path())

    def symbol_path(self, *, through: str = "") -> str:
        return f"srv*{self.store}{through and f'*{self.disk / through}'}*{self.url}"

    @property
    def misses(self) -> Path:
        return self.disk / "misses"

    @property
    def unknown(self) -> tuple[Published, ...]:
        """Files that are wanted, and that no server has."""
        return tuple(publish("unknown.pdb", number) for number in range(2))

    def links(self) -> dict[ImageKey, tuple[Link, ...]]:
        """Return what images name, as a bundle says."""
        return {
            ImageKey(f"app{number}.exe", number + 1, 0x1000): (Link(each.key),)
            for number, each in enumerate(self.fetched)
        }

    def builds(self) -> dict[str, tuple[Published, ...]]:
        """Return what transactions of each product add."""
        return {"old": self.old, "new": self.new, "beside": self.fetched[:3]}

    def all(self) -> tuple[Published, ...]:
        return (*self.old, *self.fetched, *self.new)


def make_place(
    home: Path, upstream: Upstream, *, packed: bool = False, files: int = 12, size_bytes: int = 3000
) -> Place:
    """Make *files* files, a multiple of six, of some *size_bytes* for a job.

    *upstream* has them; as cabinets alone if they are *packed*.
    """
    made = [
        publish(f"{'abc'[number % 3]}file{number // 6}.pdb", number + 1, payload_bytes=size_bytes + number)
        for number in range(files)
    ]
    old, fetched, new = (tuple(made[at : at + files // 3]) for at in range(0, files, files // 3))
    place = Place(home / "disk", home / "aside", upstream.url, old, fetched, new)
    for each in made:
        upstream.files[each.packed_index if packed else each.index] = cabinet(each.content) if packed else each.content
    place.aside.mkdir(parents=True)
    place.disk.mkdir()
    return place


def _nothing(place: Place) -> None:
    place.store.mkdir()


def _old(place: Place) -> None:
    write_build(place, "old")
    done = place.shell("add", place.aside / "old", "--product", "old")
    assert done.exit_code == 0, done.output


def _old_and_fetched(place: Place) -> None:
    _old(place)
    _put(place, place.fetched)


def _two_transactions(place: Place) -> None:
    _old_and_fetched(place)
    write_build(place, "new")
    done = place.shell("add", place.aside / "new", "--product", "new")
    assert done.exit_code == 0, done.output


def _build(place: Place) -> None:
    _old_and_fetched(place)
    write_build(place, "new")


def _bundle(place: Place) -> None:
    _old(place)
    other = StoreShell(place.aside / "other")
    with Store(other.store) as store:
        store.create()
    for each in place.fetched:
        _put_file(other.store, each)
    known = StoreLinks(other.store)
    assert all(known.remember(image, links) for image, links in place.links().items())
    done = other("export", "-o", place.aside / "bundle.zip", group=None)
    assert done.exit_code == 0, done.output


def _half_converted(place: Place) -> None:
    """Names with folders of keys in both layouts, and a key in both: what a conversion has to merge."""
    _two_transactions(place)
    for each in place.fetched[:2]:
        at = place.store / each.key.name[:2] / each.index
        at.parent.mkdir(parents=True)
        shutil.copyfile(place.store / each.index, at)


def _damaged(place: Place) -> None:
    _old_and_fetched(place)
    for number, each in enumerate(place.fetched):
        path = place.store / each.index
        if number % 3 == 0:
            path.write_bytes(each.content[: len(each.content) // 2])
        elif number % 3 == 1:
            path.write_bytes(b"<!DOCTYPE html><html><body>Sign in</body></html>")


def _equal(place: Place) -> None:
    _old_and_fetched(place)
    for each in place.fetched:
        path = place.store / each.index
        path.with_name(compressed_name(path.name)).write_bytes(cabinet(each.content))
        copy = place.store / each.key.name.replace(".pdb", "2.pdb") / each.key.id
        copy.mkdir(parents=True)
        shutil.copyfile(path, copy / copy.parent.name)


def write_build(place: Place, product: str) -> None:
    """Write what `store add` of *product* adds."""
    for each in place.builds()[product]:
        path = place.aside / product / each.key.id / each.key.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.content)


def _put(place: Place, files: Iterable[Published]) -> None:
    for each in files:
        _put_file(place.store, each)


def _put_file(root: Path, file: Published) -> None:
    path = root / file.index
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)


@dataclass(frozen=True, slots=True)
class Job:
    """A command on a store.

    Attributes:
        words: Its words; ``{aside}`` and ``{disk}`` stand for those folders.
        prepare: Makes the store that it finds.
        kept: Which files, of a place, are found at every instant.
        left: Which are found in the end.
        new: How many transactions of the product ``new`` may be in force when it ended early.
        done: And when it ran to its end after that.
        again: Exit statuses that it may have then.
        through: A second store between the first and the server.
        settings: Lines of its config file.
        fetches: It fetches from the server, so that ``store.durable`` counts.
        wants_packed: The server has cabinets alone.
        ended: How many transactions of that product are in force when it has ended, if it is not as many as before.
        is_sound: There is nothing wrong with the store that it finds.
        is_served: Clients of a server ask for the files at first.
    """

    words: tuple[str, ...]
    prepare: Callable[[Place], None]
    kept: Callable[[Place], tuple[Published, ...]] = Place.all
    left: Callable[[Place], tuple[Published, ...]] = Place.all
    new: frozenset[int] = frozenset({0})
    done: frozenset[int] = frozenset({0})
    again: frozenset[int] = frozenset({0})
    through: str = ""
    settings: str = ""
    fetches: bool = False
    wants_packed: bool = False
    ended: frozenset[int] | None = None
    is_sound: bool = True
    is_served: bool = False

    def arguments(self, place: Place, *, durable: bool = True, has_own_misses: bool = False) -> list[str]:
        """Return the words of its command line; a config file is written for it.

        Misses are remembered in the place's own folder if that is wanted.
        """
        config = place.aside / "symcache.toml"
        lines = [
            f"[misses]\nfolder = '{place.misses if has_own_misses else place.aside / 'misses'}'",
            f"[network]\nproxy = 'none'\n[store]\ndurable = {str(durable).lower()}\n{self.settings}",
            f"[[server]]\nurl = '{place.url}'\ntwo_tier = false",
        ]
        config.write_text("\n".join(lines), encoding="utf-8")
        wanted = "\n".join(each.index for each in (*place.fetched, *place.unknown))
        (place.aside / "wanted.txt").write_text(wanted, encoding="utf-8")
        words = [word.format(aside=place.aside, disk=place.disk) for word in self.words]
        return [*words, "-q", "--config", str(config), "-y", place.symbol_path(through=self.through)]


def _only_old(place: Place) -> tuple[Published, ...]:
    return place.old


def _old_and_new(place: Place) -> tuple[Published, ...]:
    return (*place.old, *place.new)


def _without_new(place: Place) -> tuple[Published, ...]:
    return (*place.old, *place.fetched)


def _only_fetched(place: Place) -> tuple[Published, ...]:
    return place.fetched


def _none(_: Place) -> tuple[Published, ...]:
    return ()


def _intact(place: Place) -> tuple[Published, ...]:
    return (*place.old, *place.fetched[2::3])


_WARM = ("warm", "{aside}/wanted.txt", "--allow-missing")
_ADD = ("store", "add", "{aside}/new", "--product", "new")
_ONCE, _AT_MOST_ONCE, _AGAIN = frozenset({1}), frozenset({0, 1}), frozenset({1, 2})
_IN_FORCE: dict[str, frozenset[int]] = {"new": _ONCE, "done": _ONCE}

JOBS: dict[str, Job] = {
    "warm": Job(_WARM, _nothing, _none, _only_fetched, fetches=True),
    "warm, compressed": Job(
        _WARM,
        _nothing,
        _none,
        _only_fetched,
        through="mid",
        fetches=True,
        wants_packed=True,
        settings="two_tier = true",
    ),
    "add": Job(_ADD, _build, _without_new, new=_AT_MOST_ONCE, done=_AGAIN, ended=_ONCE),
    "add, compressed": Job((*_ADD, "--compress"), _build, _without_new, new=_AT_MOST_ONCE, done=_AGAIN, ended=_ONCE),
    "add, pointers": Job(
        (*_ADD, "--pointer"), _build, _without_new, _without_new, new=_AT_MOST_ONCE, done=_AGAIN, ended=_ONCE
    ),
    "del": Job(
        ("store", "del", "2"),
        _two_transactions,
        _without_new,
        _without_new,
        new=_AT_MOST_ONCE,
        again=frozenset({0, 2}),
        ended=frozenset({0}),
    ),
    "prune": Job(
        ("store", "prune", "--max-size", "0B"),
        _two_transactions,
        _old_and_new,
        _old_and_new,
        again=frozenset({3}),
        **_IN_FORCE,  # type: ignore[arg-type]
    ),
    "convert": Job(("store", "convert", "--two-tier"), _half_converted, is_sound=False, **_IN_FORCE),  # type: ignore[arg-type]
    "import": Job(("import", "{aside}/bundle.zip"), _bundle, _only_old, _without_new),
    "export": Job(("export", "-o", "{disk}/out.zip"), _old_and_fetched, _without_new, _without_new),
    "verify --repair": Job(("store", "verify", "--repair"), _damaged, _intact, _intact, fetches=True, is_sound=False),
    "serve": Job(_WARM, _nothing, _none, _only_fetched, fetches=True, is_served=True),
    "dedupe": Job(("store", "stats", "--dedupe"), _equal, _without_new, _without_new),
}


def broken_files(place: Place, root: Path, kept: Iterable[Published], *, may_be_damaged: bool = False) -> Iterator[str]:
    """Yield each name in the store at *root* that shows something else than its file, and each of *kept* not found.

    Args:
        may_be_damaged: What was fetched may be.
    """
    right = {each.key.folded: each.content for each in place.all()}
    damaged: set[str] = {each.key.folded for each in place.fetched} if may_be_damaged else set()
    for path in sorted(root.rglob("*")):
        below = path.relative_to(root)
        if path.is_dir() or below.parts[0] in {".symcache", "000Admin"} or path.name in {*_MARKS, "refs.ptr"}:
            continue
        name, id_ = path.parent.parent.name, path.parent.name
        index = fold(f"{name}/{id_}/{name}")
        content = right.get(index, right.get(index.replace("2.pdb", ".pdb")))  # a copy, of `_equal`
        if content is None:
            yield f"{below}: a name of no key"
        elif index in damaged:
            continue
        elif path.name == "file.ptr":
            if not Path(path.read_text()).is_file():
                yield f"{below}: leads nowhere"
        elif (_expanded(path) if path.name.endswith("_") else path.read_bytes()) != content:
            yield f"{below}: {path.stat().st_size} bytes that are not its own"
    with Store(root) as store:
        for each in kept:
            if store.find(each.key) is None and each.key.folded not in damaged:
                yield f"{each.index}: gone"


def _expanded(path: Path) -> bytes:
    try:
        with FileView(path) as view:
            opened = open_cabinet(view)
            return b"".join(expand(opened, opened.members[0], limit_bytes=1 << 24))
    except InputError as error:
        return str(error).encode()


def broken_records(place: Place, new: frozenset[int]) -> Iterator[str]:
    """Yield each contradiction in the records of transactions, after another writer has come, which tidies up.

    Args:
        new: How many transactions of the product ``new`` may be in force.
    """
    builds = place.builds()
    with Store(place.store) as store:
        admin = Admin(store)
        admin.recover()
        in_force, history = list(admin.list_transactions()), list(admin.history())
        if (count := sum(each.product == "new" for each in in_force)) not in new:
            yield f"{count} transactions of the build are in force"
        deleted = {each.deleted_id for each in history} - {None}
        if {each.id for each in in_force} != {each.id for each in history if each.deleted_id is None} - deleted:
            yield "server.txt and history.txt disagree"
        ids = [each.id for each in history]
        if ids != sorted(set(ids)) or (ids and AdminFolder(store).next_id() != ids[-1] + 1):
            yield f"the numbers {ids} are not in order"
        named: dict[int, set[str]] = {}
        for key, refs in walk_refs(store):
            for ref in refs.refs:
                named.setdefault(ref.id, set()).add(key.folded)
        for each in in_force:
            yield from _half_there(store, admin, each, named.pop(each.id, set()), builds.get(each.product, ()))
        for id_, keys in named.items():
            yield f"refs.ptr of {sorted(keys)} name {id_}, which is not in force"


def _half_there(
    store: Store, admin: Admin, transaction: Transaction, named: set[str], build: Iterable[Published]
) -> Iterator[str]:
    wanted = {each.key.folded for each in build}
    listed = {each.key.folded for each in admin.files_of(transaction.id)}
    if not wanted or listed != wanted or named != wanted:
        yield f"transaction {transaction.id} lists {len(listed)} files, refs.ptr {len(named)}, it has {len(wanted)}"
    for index in sorted(wanted):
        found = store.find(parse_index(index))
        if found is None or (found.form is Form.POINTER) is not (transaction.kind is Kind.POINTER):
            yield f"transaction {transaction.id}: {index} is {'gone' if found is None else found.form}"


def findings(shell: StoreShell, kinds: Iterable[str] = ()) -> Iterator[str]:
    """Yield what `store verify` finds beside those *kinds*."""
    done = shell("verify", "--restart", "--json")
    if done.exit_code not in {0, 4}:
        yield f"verify ended with {done.exit_code}: {done.output}"
        return
    for each in json.loads(done.stdout)["findings"]:
        if each["problem"] not in kinds:
            yield f"verify: {each['path']}: {each['problem']}: {each['detail']}"


def broken_memories(place: Place) -> Iterator[str]:
    """Yield what is remembered of uses, images and misses, and is not so."""
    known = {each.key.folded for each in place.all()}
    links = place.links()
    if place.store.is_dir():
        with Store(place.store) as store:
            strange = set(AccessLog(store).last_used_by_key()) - known
        if strange:
            yield f"the access log has {sorted(strange)}"
        wrong = {image.index: named for image, named in StoreLinks(place.store).list() if links.get(image) != named}
        if wrong:
            yield f"images are said to name {wrong}"
    if place.misses.is_dir():
        with Misses(place.misses, ttl_s=3600) as misses:
            lies = {miss.index for miss in misses.list()} - {each.index for each in place.unknown}
        if lies:
            yield f"remembered as missing: {sorted(lies)}"


def leftovers(place: Place) -> Iterator[str]:
    """Yield each scratch file, note and mark that is still there although nobody is at work and a writer has come."""
    for own in sorted(place.disk.glob("*/.symcache")):  # of a store between the first and the server, too
        swept = StoreShell(own.parent, place.symbol_path())("prune", "--max-size", "1TB")
        if swept.exit_code:
            yield f"prune of {own.parent.name} ended with {swept.exit_code}: {swept.output}"
    for path in sorted(place.disk.rglob("*")):
        if path.is_file() and (
            path.suffix in {".part", ".folding", ".lease", ".over"} or path.parent.name == "growing"
        ):
            yield f"{path.relative_to(place.disk)}: left behind"
    for name in ("journal.json", "converting", "verify.jsonl"):
        if (place.store / ".symcache" / name).exists():
            yield f".symcache/{name}: left behind"
