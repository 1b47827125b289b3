"""Fuzz targets of what a store keeps for itself, and of bundles: a store may be a folder that others write."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from uuid import UUID

from support.fuzzing import NO_ERRORS, Target, as_text, scratch
from symcache.errors import UsageError
from symcache.identity import DbgKey, ImageKey, PdbKey, parse_index
from symcache.server.maintenance import Maintenance
from symcache.server.metrics import Metrics, Sharing, format_metrics, sum_up
from symcache.stores.base import Form
from symcache.stores.links import Link, StoreLinks, links_json, parse_links, parse_named
from symcache.stores.local.access import AccessLog
from symcache.stores.local.locks import _Lease
from symcache.stores.local.partial import PartialNote, find_partial, sweep_partials
from symcache.stores.local.tree import Store
from symcache.stores.negative import Miss, _parse
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder, Entry, Intent, Stage, read_journal, write_journal
from symcache.symstore.transactions import (
    Content,
    Kind,
    Ref,
    TransactionFile,
    format_added,
    format_deleted,
    format_file,
    format_ref,
    parse_file,
    parse_lines,
    parse_ref,
    parse_transaction,
    read_refs,
    write_refs,
)
from symcache.upkeep.bundle import import_bundle
from symcache.upkeep.checkpoint import Checkpoint, checkpoint_of
from symcache.upkeep.inventory import Pins

__all__ = ["STORE_TARGETS"]

_GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
_ID = f"{_GUID.hex.upper()}1"
_PDB = PdbKey("app.pdb", _GUID, 1)
_IMAGE = ImageKey("app.dll", 0x5AB38077, 0x9000)
_WORDS = (
    b"1e999", b"NaN", b"-Infinity", b"null", b"true", b'"\\ud800"', b"[[[[", b"9" * 400, b'{"a":', b"[]", b"{}",
)  # fmt: skip


@cache
def _store() -> Store:
    return Store(scratch() / "store", locking="lease")


_ADMIN_LINES = (
    b'0000000001,add,file,01/02/2024,10:11:12,"product","1.0","a, ""comment""",',
    b"0000000002,del,0000000001",
    b"0000000003,add,ptr,01/02/98,10:11:12,old,1,a,b,",
    f'"app.pdb\\{_ID}","C:\\a\\app.pdb"'.encode(),
    b"app.dll\\5AB380779000,C:\\a,b\\app.dll",
    b'0000000001,file,"C:\\a\\app.pdb",private,,N,,',
    b"0000000003,ptr,\\\\host\\app.pdb",
)


def _read_admin_lines(data: bytes) -> None:
    """What is written of a line reads back as the same."""
    for _, added in parse_lines(data, parse_transaction):
        if added is None:
            continue
        str(added)
        json.dumps(added.as_json())
        if added.deleted_id is not None:
            assert parse_transaction(format_deleted(added.id, added.deleted_id)) == added
        elif added.when is not None and added.when.year >= 1000:
            again = parse_transaction(format_added(added))
            assert parse_transaction(format_added(again)) == again
    for _, file in parse_lines(data, parse_file):
        if file is not None:
            again_file = parse_file(format_file(file))
            assert (again_file.key, parse_file(format_file(again_file))) == (file.key, again_file)
    for _, ref in parse_lines(data, parse_ref):
        if ref is not None:
            again_ref = parse_ref(format_ref(ref))
            assert parse_ref(format_ref(again_ref)) == again_ref


def _read_admin_folder(data: bytes) -> None:
    """Read a store whose 000Admin holds *data*, cut at FF bytes into its files."""
    store = _store()
    folder = store.root / "000Admin"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("server.txt", "history.txt", "lastid.txt", "0000000001")
    for name, content in zip(names, [*data.split(b"\xff"), b"", b"", b""], strict=False):
        (folder / name).write_bytes(content)
    admin, files = Admin(store), AdminFolder(store)
    assert files.next_id() > 0
    for each in admin.list_transactions():
        list(admin.files_of(each.id))
    list(admin.history())
    list(admin.query(name="a*", version="1*"))
    files.lost_ids()


def _read_refs(data: bytes) -> None:
    """What is written of a ``refs.ptr`` reads back as the same, lines that cannot be read included."""
    store = _store()
    folder = store.root / "app.pdb" / _ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs.ptr").write_bytes(data)
    refs = read_refs(folder)
    write_refs(store, folder, refs)
    again = read_refs(folder)
    assert again.lines == refs.lines
    assert refs.without(1).adding(Ref(1, Kind.FILE, "x", Content.BINARY, compressed=False)).forms


def _journal(content: bytes | None = None) -> bytes:
    path = _store().root / ".symcache" / "journal.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    return path.read_bytes()


def _intent() -> Intent:
    entry = Entry(TransactionFile(_PDB, "C:\\app.pdb"), frozenset({Form.PLAIN}))
    return Intent(Stage.FILING, 3, b"0000000003,del,0000000001", 1, (entry,))


def _journals() -> list[bytes]:
    _journal(b"")
    write_journal(_store(), _intent())
    return [_journal(), _journal().replace(b"null", b"2")]


def _read_journal(data: bytes) -> None:
    _journal(data)
    intent = read_journal(_store())
    if intent is not None:
        write_journal(_store(), intent)
        assert read_journal(_store()) == intent
        assert intent.id.bit_length() < 1 << 16


_LINKS = (Link(_PDB), Link(DbgKey("a.dbg", 1, 0x1000), is_embedded=True, checksums=("SHA256:00",)))


def _read_links(data: bytes) -> None:
    """What a store carries reads back as what it was read as; what cannot be read is as if it were not there."""
    links = StoreLinks(scratch() / "links")
    shard = links._shard(_IMAGE)
    shard.parent.mkdir(parents=True, exist_ok=True)
    shard.write_bytes(data)
    for image, named in [*links.list()]:
        assert parse_named([image.index, links_json(named)]) == (image, named)
    known = links.recall(_IMAGE)
    assert known is None or parse_links(links_json(known)) == known
    assert links.remember(_IMAGE, _LINKS)
    assert StoreLinks(scratch() / "links").recall(_IMAGE) == _LINKS


_MISS = Miss(_PDB.index, "https://h/s", 1.0, 2.0, 3, "404")


def _read_miss(data: bytes) -> None:
    miss = _parse(as_text(data))
    if miss is not None:
        assert _parse(json.dumps(asdict(miss))) == miss or miss.last_asked_s != miss.last_asked_s
        parse_index(miss.index).folded.encode()


def _partial_seeds() -> list[bytes]:
    root = scratch() / "partial"
    part = root / ".symcache" / "staging" / "p-0123456789ab" / "0123456789ab.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    with PartialNote(part, _PDB.folded, 1 << 20) as note:
        note.advance(1 << 10)
        return [note._path.read_bytes()]


def _read_partial(data: bytes) -> None:
    root = scratch() / "partial"
    name = hashlib.sha256(_PDB.folded.encode()).hexdigest()[:32]
    path = root / ".symcache" / "growing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    found = find_partial(root, _PDB.folded)
    if found is not None:
        assert found.scratch.resolve().is_relative_to((root / ".symcache" / "staging").resolve())
        assert found.whole_bytes <= found.size_bytes
    assert sweep_partials(root) in {0, 1}


def _take_lease(data: bytes) -> None:
    """A lease with any owner is respected as long as it is new, unless it says that its process is gone."""
    path = scratch() / "leases" / "lease"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    lease = _Lease(path)
    owner = lease._read()
    assert owner is not None
    lease._is_gone(owner)
    lease.renew()


def _lease_seeds() -> list[bytes]:
    owner = _Lease(scratch() / "leases" / "lease")._owner
    machine, _, rest = owner.partition(" ")
    return [
        owner.encode(),
        f"{machine} 999999999 {rest[-16:]}".encode(),
        f"{machine} {'9' * 400}".encode(),
        b"host 1 x",
    ]


_PROBLEM = {
    "path": "a/b",
    "problem": "damaged",
    "detail": "x",
    "mend": "quarantine",
    "index": None,
    "other": None,
    "size_bytes": 1,
    "changed_ns": None,
}


def _checkpoints() -> list[bytes]:
    store = _store()
    state = Checkpoint(checkpoint_of(store), resume=False, scope="x")
    state.close(finished=False)
    head = (store.root / ".symcache" / "verify.jsonl").read_bytes()
    progress = json.dumps({"progress": {"at": "a", "keys": 1, "bytes": 2, "findings": 1}}).encode()
    return [head, head + json.dumps({"finding": _PROBLEM}).encode() + b"\n" + progress + b"\n"]


def _resume_verify(data: bytes) -> None:
    path = _store().root / ".symcache" / "verify.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    state = Checkpoint(checkpoint_of(_store()), resume=True, scope="x")
    state.close(finished=False)
    for problem in state.problems:
        str(problem)


def _counts() -> list[bytes]:
    return [
        json.dumps(Metrics().as_json([])).encode(),
        b'{"run": "run", "hit": 1, "bytes": 2}',
        b'[{"t": 1, "hit": 2}]',
    ]


def _own(name: str, data: bytes) -> None:
    """Write what only a store's own programs write."""
    path = _store().root / ".symcache" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _read_access_log(data: bytes) -> None:
    """Uses that can be read are kept when the log is folded, and lie in no future."""
    for name in ("access/recent", "access/summary"):
        _own(name, data)
    log = AccessLog(_store(), clock_s=lambda: 1e9)
    before = log.last_used_by_key()
    assert all(0 <= at_s <= 1e9 for at_s in before.values())
    log.compact()
    assert log.last_used_by_key() == before


def _read_pins(data: bytes) -> None:
    """A pin that is listed can be added again, which changes nothing, and removed."""
    _own("pins", data)
    pins = Pins(_store())
    listed = pins.list()
    for pin in listed[:4]:
        with suppress(UsageError):
            (added,) = pins.add_all([pin])
            assert added in pins.list()
            assert pins.remove_all([added]) == 1


class _NoSource:
    store = None


def _read_counts(data: bytes) -> None:
    """Read what other workers of a server say that they counted, and the samples that it keeps."""
    folder = scratch() / "serve"
    folder.mkdir(exist_ok=True)
    for name in ("run-1.json", "store", "samples", "counted"):
        (folder / name).write_bytes(data)
    sharing = Sharing(folder, "run")
    totals = sum_up(sharing.read_all({}))
    maintenance = Maintenance(_NoSource(), None, sharing, folder)  # type: ignore[arg-type]  # only what it reads counts
    format_metrics(totals, maintenance.store)
    json.dumps(maintenance.samples(totals))


# Bundles.


def _bundle(changed: dict[str, object] | None = None, links: object = ()) -> bytes:
    content = _PDB.index.encode()
    record = {"index": _PDB.index, "form": "plain", "path": _PDB.index, "size": len(content)}
    record |= {"sha256": hashlib.sha256(content).hexdigest()} | (changed or {})
    manifest = {"schema": "symcache.bundle/1", "files": [record], "images": links}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(_PDB.index, content)
        archive.writestr("manifest.json", json.dumps(manifest))
    return out.getvalue()


def _import_bundle(data: bytes) -> None:
    path = scratch() / "bundle.zip"
    path.write_bytes(data)
    with Store(scratch() / "imported", locking="lease") as store:
        for result in import_bundle(store, path, lambda path, key: None):
            json.dumps(result.as_json())
            str(result)


def _manifest_bundle(data: bytes) -> None:
    """Take *data* for the manifest of a sound archive, whose checksums the fuzzer would not get right."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(_PDB.index, _PDB.index)
        archive.writestr("manifest.json", data)
    _import_bundle(out.getvalue())


def _manifests() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(_bundle(links=[[_IMAGE.index, links_json(_LINKS)]]))) as archive:
        return [archive.read("manifest.json")]


STORE_TARGETS = (
    Target(
        "admin-lines",
        _read_admin_lines,
        lambda: [b"\r\n".join(_ADMIN_LINES)],
        ("symstore/transactions",),
        NO_ERRORS,
    ),
    Target(
        "admin-folder",
        _read_admin_folder,
        lambda: [b"\r\n".join(_ADMIN_LINES[:3]) + b"\xff" + _ADMIN_LINES[0] + b"\xff0000000001\xff" + _ADMIN_LINES[3]],
        ("symstore/folder", "symstore/admin"),
        NO_ERRORS,
    ),
    Target("refs", _read_refs, lambda: [b"\r\n".join(_ADMIN_LINES[5:])], ("symstore/transactions",), NO_ERRORS),
    Target("journal", _read_journal, _journals, ("symstore/folder",), NO_ERRORS, words=_WORDS),
    Target(
        "links",
        _read_links,
        lambda: [json.dumps([_IMAGE.index, links_json(_LINKS)]).encode()],
        ("stores/links",),
        NO_ERRORS,
        words=_WORDS,
    ),
    Target(
        "miss",
        _read_miss,
        lambda: [json.dumps(asdict(_MISS)).encode()],
        ("stores/negative",),
        NO_ERRORS,
        words=_WORDS,
    ),
    Target("partial-note", _read_partial, _partial_seeds, ("stores/local/partial",), NO_ERRORS),
    Target("lease", _take_lease, _lease_seeds, ("stores/local/locks",), NO_ERRORS),
    Target("checkpoint", _resume_verify, _checkpoints, ("upkeep/checkpoint",), NO_ERRORS, words=_WORDS),
    Target("counts", _read_counts, _counts, ("server/metrics", "server/maintenance"), NO_ERRORS, words=_WORDS),
    Target(
        "access-log",
        _read_access_log,
        lambda: [f"5 {_PDB.folded}\n7 a\n".encode()],
        ("stores/local/access",),
        NO_ERRORS,
    ),
    Target("pins", _read_pins, lambda: [f"{_PDB.index}\nnt\na b.dll\n".encode()], ("upkeep/inventory",), NO_ERRORS),
    Target("bundle", _import_bundle, lambda: [_bundle()], ("upkeep/bundle",)),
    Target("bundle-manifest", _manifest_bundle, _manifests, ("upkeep/bundle", "stores/links"), words=_WORDS),
)
