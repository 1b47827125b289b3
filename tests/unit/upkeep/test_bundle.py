from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mutation import mutants
from support.sources import cabinet

from symcache.errors import InputError, MalformedInput, StoreError, UnknownFormat, UsageError
from symcache.identity import ImageKey, Key, OtherKey, PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.bundle import BundleStore
from symcache.stores.links import Link, StoreLinks
from symcache.stores.local.tree import Store
from symcache.upkeep import bundle as bundle_module
from symcache.upkeep.bundle import Outcome, export_bundle, import_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.stores.bundle import BundledFile

KEYS = [PdbKey(f"file{number}.pdb", UUID(int=number), 10) for number in range(4)]


def check(path: Path, key: Key) -> str | None:
    return None if path.read_bytes().startswith(key.index.encode()) else "another file"


def put(store: Store, key: Key, content: bytes | None = None, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_bytes(key.index.encode() if content is None else content)
    return store.publish(scratch, key, form=form, durable=False)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "source") as store:
        yield store


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "target") as store:
        store.create(Tier.TWO)
        yield store


def outcomes(store: Store, path: Path) -> dict[str, Outcome]:
    return {each.file.key.name: each.outcome for each in import_bundle(store, path, check)}


def test_a_bundle_carries_a_store_of_any_layout_into_another(source: Store, target: Store, tmp_path: Path) -> None:
    put(source, KEYS[0])
    put(source, KEYS[1], form=Form.COMPRESSED)
    put(source, KEYS[2]).with_name("file.ptr").write_text("elsewhere")
    put(source, OtherKey("x.so", "elf-buildid-12"))
    exported = export_bundle(source, tmp_path / "b.zip")
    assert (exported.files, exported.not_carried) == (4, ())
    results = list(import_bundle(target, tmp_path / "b.zip", check))
    assert {each.outcome for each in results} == {Outcome.IMPORTED}
    keys: list[Key] = [*KEYS[:3], OtherKey("x.so", "elf-buildid-12")]
    for key in keys:
        there, here = source.find(key), target.find(key)
        assert there is not None
        assert here is not None
        assert (here.form, here.path.read_bytes()) == (there.form, there.path.read_bytes())
    assert set(outcomes(target, tmp_path / "b.zip").values()) == {Outcome.KEPT}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b.zip"]


def test_what_a_store_knows_of_an_image_is_not_replaced_by_what_a_bundle_says(
    source: Store, target: Store, tmp_path: Path
) -> None:
    known, new = ImageKey("a.dll", 1, 0x1000), ImageKey("b.dll", 1, 0x1000)
    right, wrong = ((Link(key),) for key in KEYS[:2])
    StoreLinks(target.root).remember(known, right)
    export_bundle(source, tmp_path / "b.zip", (), links={known: wrong, new: wrong})
    assert outcomes(target, tmp_path / "b.zip") == {}
    assert dict(StoreLinks(target.root).list()) == {known: right, new: wrong}


def test_a_bundle_is_a_plain_archive_that_unpacks_into_a_store(source: Store, tmp_path: Path) -> None:
    path = put(source, KEYS[0])
    export_bundle(source, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist() == [path.relative_to(source.root).as_posix(), "manifest.json"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("manifest.json")) == {
            "schema": "symcache.bundle/1",
            "files": [
                {
                    "index": KEYS[0].index,
                    "form": "plain",
                    "path": KEYS[0].index,
                    "size": len(KEYS[0].index),
                    "sha256": hashlib.sha256(KEYS[0].index.encode()).hexdigest(),
                }
            ],
            "images": [],
            "lock": {
                "schema": "symcache.lock/1",
                "files": [
                    {
                        "index": KEYS[0].index,
                        "kind": "pdb",
                        "module": KEYS[0].name,
                        "bytes": len(KEYS[0].index),
                        "sha256": hashlib.sha256(KEYS[0].index.encode()).hexdigest(),
                    }
                ],
                "missing": [],
            },
        }
    first = (tmp_path / "b.zip").read_bytes()
    export_bundle(source, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == first


def fill(store: Store, tier: Tier, keys: list[Key]) -> None:
    store.create(tier)
    for number, key in enumerate(keys):
        os.utime(put(store, key), (number, number))
    known = StoreLinks(store.root)
    for number in sorted(range(20), reverse=tier is Tier.TWO):
        known.remember(ImageKey(f"i{number}.dll", number, 0x1000), (Link(KEYS[number % 4]),))


@pytest.mark.parametrize("by_keys", [True, False])
def test_stores_of_the_same_files_give_the_same_bundle(
    by_keys: bool, source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.pdb", "Ba.pdb", "b_.pdb", "C.pdb", "a", "ab.pdb"]
    keys: list[Key] = [PdbKey(name, UUID(int=number), 10) for number, name in enumerate(names)]
    fill(source, Tier.ONE, keys)
    links = dict(StoreLinks(source.root).list()) if by_keys else None
    export_bundle(source, tmp_path / "one", keys if by_keys else None, links=links)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("sys.platform", "win32")
    with Store(tmp_path / "other") as other:
        fill(other, Tier.TWO, keys[::-1])
        swapped = None if links is None else dict(sorted(links.items(), reverse=True))
        export_bundle(other, tmp_path / "two", [*keys[::-1], keys[0]] if by_keys else None, links=swapped)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "two") as archive:
        infos = archive.infolist()
    assert len(infos) == len(keys) + 1
    assert {(info.date_time, info.create_system, info.external_attr) for info in infos} == {
        ((1980, 1, 1, 0, 0, 0), 3, 0o100644 << 16)
    }


def test_a_bundle_says_at_which_length_it_becomes_zip64(
    source: Store, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {KEYS[0]: b"x" * 10_000, KEYS[1]: b"y" * 10_001}
    for key, content in contents.items():
        put(source, key, content)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10_000)
    export_bundle(source, tmp_path / "b.zip")
    monkeypatch.undo()
    data = (tmp_path / "b.zip").read_bytes()
    versions = [int.from_bytes(data[at + 4 : at + 6], "little") for at in local_headers(data)]
    assert versions == [20, 45, 20]  # APPNOTE.TXT, "version needed to extract"
    assert len(list(import_bundle(target, tmp_path / "b.zip", lambda path, key: None))) == 2
    bundle = BundleStore(tmp_path / "b.zip")
    for key, content in contents.items():
        stored, there = target.find(key), bundle.find(key)
        assert stored is not None
        assert there is not None
        assert stored.path.read_bytes() == content
        with there.open() as view:
            assert view.read(0, view.size) == content


def local_headers(data: bytes) -> Iterator[int]:
    at = data.find(b"PK\3\4")
    while at >= 0:
        yield at
        at = data.find(b"PK\3\4", at + 1)


@pytest.mark.slow
def test_memory_does_not_grow_with_a_bundle_of_more_than_four_gib(
    source: Store, target: Store, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    size = (4 << 30) + 12345
    os.truncate(put(source, KEYS[0]), size)  # a hole, which a bundle has written out
    put(source, KEYS[1])
    bundle = tmp_path / "b.zip"
    tracemalloc.start()
    try:
        assert export_bundle(source, bundle).size_bytes > size
        source.find(KEYS[0]).path.unlink()  # type: ignore[union-attr]
        place = BundleStore(bundle)
        assert place._copy(KEYS[1], tmp_path / "scratch").form is Form.PLAIN  # behind the long one
        results = list(import_bundle(target, bundle, lambda path, key: None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    record_property("peak_kib", peak >> 10)
    print(f"peak {peak >> 10} KiB for {bundle.stat().st_size} bytes")
    assert [each.outcome for each in results] == [Outcome.IMPORTED] * 2
    found = target.find(KEYS[0])
    assert found is not None
    assert found.size_bytes == size
    assert peak < 8 << 20


def test_keys_that_cannot_be_carried_are_named(source: Store, tmp_path: Path) -> None:
    put(source, KEYS[0])
    pointer = source.folder_for(KEYS[1])
    pointer.mkdir(parents=True)
    (pointer / "file.ptr").write_text("elsewhere")
    exported = export_bundle(source, tmp_path / "b.zip", [KEYS[0], KEYS[0], KEYS[1], KEYS[2]])
    assert exported.as_json() == {
        "path": str(tmp_path / "b.zip"),
        "files": 1,
        "bytes": len(KEYS[0].index),
        "left_out": 0,
        "not_carried": [
            {"index": KEYS[1].index, "why": "only a pointer to it"},
            {"index": KEYS[2].index, "why": "absent"},
        ],
    }


def test_what_the_other_side_has_is_left_out_under_any_of_its_names(source: Store, tmp_path: Path) -> None:
    listed, published = ImageKey("ntoskrnl.exe", 1, 0x1000), ImageKey("ntkrnlmp.exe", 1, 0x1000)
    keys: list[Key] = [*KEYS, listed]
    for key in (*keys[:2], listed):
        put(source, key)
    there = {KEYS[0].folded, KEYS[3].folded, published.folded}
    exported = export_bundle(source, tmp_path / "b.zip", keys, without=there)
    assert (exported.files, exported.left_out) == (1, 3)
    assert [each.index for each in exported.not_carried] == [KEYS[2].index]
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert archive.namelist() == [KEYS[1].index, "manifest.json"]
    assert export_bundle(source, tmp_path / "b.zip", without=there).files == 1


def test_an_export_that_fails_leaves_what_was_there(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, KEYS[0])
    (tmp_path / "b.zip").write_text("before")
    monkeypatch.setattr(bundle_module, "LARGEST_MANIFEST_BYTES", 100)
    with pytest.raises(UsageError, match="several"):
        export_bundle(source, tmp_path / "b.zip")
    with pytest.raises(StoreError):
        export_bundle(source, tmp_path / "absent" / "b.zip")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b.zip"]
    assert (tmp_path / "b.zip").read_text() == "before"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing that is open is renamed there")
def test_another_export_to_the_same_file_does_not_remove_one_that_is_about_to_take_its_name(
    source: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, KEYS[0])
    path, rename = tmp_path / "store.zip", type(tmp_path).replace
    renamed: list[Path] = []

    def replace(part: Path, target: Path) -> Path:
        if target == path:
            renamed.append(part)
            if len(renamed) == 1:
                export_bundle(source, path)
        return rename(part, target)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    assert export_bundle(source, path).files == 1
    assert len(renamed) == 2
    assert [each.name for each in tmp_path.glob("store.zip*")] == ["store.zip"]


def test_what_a_killed_export_left_is_removed_and_what_a_living_one_writes_is_not(
    source: Store, target: Store, tmp_path: Path
) -> None:
    bundle = tmp_path / "store.zip"
    (tmp_path / "store.zip.0a1b2c3d.part").write_bytes(b"half of it")
    put(source, KEYS[0])
    exported = export_bundle(source, bundle, on_file=lambda _: export_bundle(source, bundle))
    assert exported.files
    assert sorted(path.name for path in tmp_path.glob("store.zip*")) == [bundle.name]
    assert set(outcomes(target, bundle).values()) == {Outcome.IMPORTED}


def test_links_that_do_not_fit_are_dropped_and_the_files_are_not(
    source: Store, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, KEYS[0])
    images = [ImageKey(f"i{number}.dll", number, 0x1000) for number in range(20)]
    known = StoreLinks(source.root)
    for image in images:
        known.remember(image, (Link(KEYS[1]),))
    whole = export_bundle(source, tmp_path / "whole.zip")
    assert whole.dropped_links == 0
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        size = archive.getinfo("manifest.json").file_size
    monkeypatch.setattr(bundle_module, "LARGEST_MANIFEST_BYTES", size - 200)
    exported = export_bundle(source, tmp_path / "b.zip")
    assert exported.files == 1
    assert 0 < exported.dropped_links < 20
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.IMPORTED}
    assert len(list(StoreLinks(target.root).list())) == 20 - exported.dropped_links


def test_links_of_a_whole_store_are_read_a_part_at_a_time(source: Store) -> None:
    known = StoreLinks(source.root)
    images = [ImageKey(f"{'i' * 200}{number}.dll", number, 0x1000) for number in range(2000)]
    for image in images:
        known.remember(image, (Link(KEYS[1]),))
    fresh = StoreLinks(source.root)
    tracemalloc.start()
    try:
        assert sum(1 for _ in fresh.list()) == 2000
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    content = sum(path.stat().st_size for path in (source.root / ".symcache" / "links").iterdir())
    assert kept < content / 4


def test_a_pointer_gives_way_to_the_file(source: Store, target: Store, tmp_path: Path) -> None:
    put(source, KEYS[0])
    export_bundle(source, tmp_path / "b.zip")
    folder = target.folder_for(KEYS[0])
    folder.mkdir(parents=True)
    (folder / "file.ptr").write_text("elsewhere")
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.IMPORTED}


def test_a_file_that_is_not_what_its_key_names_is_refused_and_stops_no_other(
    source: Store, target: Store, tmp_path: Path
) -> None:
    put(source, KEYS[0], b"wrong")
    put(source, KEYS[1])
    export_bundle(source, tmp_path / "b.zip")
    results = list(import_bundle(target, tmp_path / "b.zip", check))
    assert [(each.outcome, each.problem) for each in results] == [
        (Outcome.REFUSED, "another file"),
        (Outcome.IMPORTED, None),
    ]
    assert target.find(KEYS[0]) is None
    assert not list(target.root.rglob("*.part"))


def test_a_disk_that_fails_is_reported_with_the_key(
    source: Store, target: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, KEYS[0])
    export_bundle(source, tmp_path / "b.zip")

    def fail(self: Store, scratch: Path, key: Key, **options: object) -> Path:
        raise StoreError("the disk is full", path=scratch)

    monkeypatch.setattr(Store, "publish", fail)
    (result,) = import_bundle(target, tmp_path / "b.zip", check)
    assert result.outcome is Outcome.FAILED
    assert "full" in str(result)


CONTENT = KEYS[0].index.encode()


def record(**changes: object) -> dict[str, object]:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    index = KEYS[0].index
    return {"index": index, "form": "plain", "path": index, "size": len(CONTENT), "sha256": sha256, **changes}


def archive_of(
    members: list[tuple[str | zipfile.ZipInfo, bytes]],
    records: list[object],
    *,
    schema: object = "symcache.bundle/1",
    **more: object,
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr("manifest.json", json.dumps({"schema": schema, "files": records, **more}))
    return file.getvalue()


def symlink(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def deflated(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def overlapping() -> bytes:
    """Let a second member of the directory lie where the first one does."""
    second = record(index=KEYS[1].index, path=KEYS[1].index)
    data = bytearray(archive_of([(KEYS[0].index, CONTENT), (KEYS[1].index, CONTENT)], [record(), second]))
    at = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    struct.pack_into("<I", data, at + 42, 0)
    return bytes(data)


def twice() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(KEYS[0].index, CONTENT)
        archive.writestr(KEYS[0].index.upper(), CONTENT)
        archive.writestr("manifest.json", json.dumps({"schema": "symcache.bundle/1", "files": [record()]}))
    return file.getvalue()


def huge_directory() -> bytes:
    data = bytearray(archive_of([(KEYS[0].index, CONTENT)], [record()]))
    struct.pack_into("<I", data, len(data) - 10, 0xF0000000)
    return bytes(data)


GOOD: list[tuple[str | zipfile.ZipInfo, bytes]] = [(KEYS[0].index, CONTENT)]
HOSTILE: dict[str, Callable[[], bytes]] = {
    "traversal in a member": lambda: archive_of([*GOOD, ("../../evil", b"x")], [record()]),
    "traversal in the manifest": lambda: archive_of(
        [("../../evil", CONTENT)], [record(index="../../evil", path="../../evil")]
    ),
    "absolute path": lambda: archive_of([("/etc/evil", CONTENT)], [record(path="/etc/evil")]),
    "backslashes": lambda: archive_of([("a\\b\\a", CONTENT)], [record(index="a\\b\\a", path="a\\b\\a")]),
    "device": lambda: archive_of([("con.pdb/1/con.pdb", CONTENT)], [record(index="con.pdb/1/con.pdb")]),
    "own folder": lambda: archive_of([(".symcache/1/x", CONTENT)], [record(index=".symcache/1/.symcache")]),
    "path of another key": lambda: archive_of([(KEYS[1].index, CONTENT)], [record(path=KEYS[1].index)]),
    "symbolic link": lambda: archive_of([(symlink(KEYS[0].index), CONTENT)], [record()]),
    "folder": lambda: archive_of([*GOOD, ("folder/", b"")], [record()]),
    "compressed member": lambda: archive_of([(deflated(KEYS[0].index), b"0" * 10**6)], [record(size=10**6)]),
    "member twice": twice,
    "record twice": lambda: archive_of(GOOD, [record(), record()]),
    "members within each other": overlapping,
    "directory of gigabytes": huge_directory,
    "member without a record": lambda: archive_of([*GOOD, (KEYS[1].index, b"x")], [record()]),
    "record without a member": lambda: archive_of([], [record()]),
    "another size": lambda: archive_of(GOOD, [record(size=len(CONTENT) + 1)]),
    "size no number": lambda: archive_of(GOOD, [record(size=str(len(CONTENT)))]),
    "hash no hash": lambda: archive_of(GOOD, [record(sha256="x")]),
    "pointer": lambda: archive_of(GOOD, [record(form="pointer")]),
    "record no object": lambda: archive_of(GOOD, [[1, 2]]),
    "form no text": lambda: archive_of(GOOD, [record(form=["plain"])]),
    "schema of the future": lambda: archive_of(GOOD, [record()], schema="symcache.bundle/2"),
    "archive of something else": lambda: archive_of(GOOD, [record()]).replace(b"manifest.json", b"manifest.text"),
    "no archive": lambda: b"MZ" * 100,
    "nothing": lambda: b"",
    "comment at the end": lambda: archive_of(GOOD, [record()])[:-2] + b"\5\0hello",
    "cut short": lambda: archive_of(GOOD, [record()])[:-30],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_made_to_do_harm_is_refused_before_anything_is_written(
    target: Store, tmp_path: Path, case: str
) -> None:
    (tmp_path / "b.zip").write_bytes(HOSTILE[case]())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((MalformedInput, UnknownFormat)):
        list(import_bundle(target, tmp_path / "b.zip", check))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_good_twin_of_those_is_taken(target: Store, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(archive_of(GOOD, [record()]))
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.IMPORTED}


@pytest.mark.parametrize("change", ["hash", "byte"])
def test_bytes_that_are_not_the_manifests_are_refused(target: Store, tmp_path: Path, change: str) -> None:
    data = archive_of(GOOD, [record(sha256="0" * 64) if change == "hash" else record()])
    if change == "byte":
        at = data.index(CONTENT, data.index(b"PK\3\4") + 30 + len(CONTENT))
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    (tmp_path / "b.zip").write_bytes(data)
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.REFUSED}
    assert target.find(KEYS[0]) is None


def test_a_bundle_cut_anywhere_is_refused_before_anything_is_written(target: Store, tmp_path: Path) -> None:
    data = archive_of(GOOD, [record()])
    before = sorted(target.root.rglob("*"))
    for length in range(len(data)):
        (tmp_path / "b.zip").write_bytes(data[:length])
        with pytest.raises((MalformedInput, UnknownFormat)) as caught:
            list(import_bundle(target, tmp_path / "b.zip", check))
        if length > 22:
            assert "cut short" in str(caught.value)
    assert sorted(target.root.rglob("*")) == before


def test_an_import_that_is_interrupted_leaves_whole_files_and_can_be_run_again(
    source: Store, target: Store, tmp_path: Path
) -> None:
    for key in KEYS:
        put(source, key)
    export_bundle(source, tmp_path / "b.zip")

    def interrupted(path: Path, key: Key) -> str | None:
        if key == KEYS[2]:
            raise KeyboardInterrupt
        return check(path, key)

    with pytest.raises(KeyboardInterrupt):
        list(import_bundle(target, tmp_path / "b.zip", interrupted))
    assert [target.find(key) is not None for key in KEYS] == [True, True, False, False]
    assert not list(target.root.rglob("*.part"))
    assert list(outcomes(target, tmp_path / "b.zip").values()) == [Outcome.KEPT] * 2 + [Outcome.IMPORTED] * 2


def test_an_export_that_is_interrupted_leaves_what_was_there(source: Store, tmp_path: Path) -> None:
    for key in KEYS:
        put(source, key)
    (tmp_path / "b.zip").write_text("before")

    def interrupt(file: BundledFile) -> None:
        if file.key == KEYS[2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(source, tmp_path / "b.zip", on_file=interrupt)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["b.zip"]
    assert (tmp_path / "b.zip").read_text() == "before"


def lock_of(*keys: Key, **changes: object) -> dict[str, object]:
    fields = {"kind": "pdb", "module": "m", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    files = [{"index": key.index, **fields, **changes} for key in keys]
    return {"schema": "symcache.lock/1", "files": files, "missing": []}


LOCKS = {
    "none of its kind": {"schema": "symcache.lock/2", "files": [], "missing": []},
    "no object": 7,
    "of no file": lock_of(),
    "of one file more": lock_of(*KEYS[:2]),
    "of another file": lock_of(KEYS[1]),
    "with a hash of no hash": lock_of(KEYS[0], sha256="x"),
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_bundle_whose_lock_is_unsound_is_refused_whole(target: Store, tmp_path: Path, lock: object) -> None:
    (tmp_path / "b.zip").write_bytes(archive_of(GOOD, [record()], lock=lock))
    with pytest.raises(InputError):
        outcomes(target, tmp_path / "b.zip")
    assert target.find(KEYS[0]) is None


def test_a_file_that_is_not_the_locked_one_is_refused(target: Store, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(archive_of(GOOD, [record()], lock=lock_of(KEYS[0], sha256="0" * 64)))
    (imported,) = import_bundle(target, tmp_path / "b.zip", check)
    assert imported.outcome is Outcome.REFUSED
    assert imported.problem is not None
    assert "0" * 64 in imported.problem
    assert target.find(KEYS[0]) is None
    (tmp_path / "b.zip").write_bytes(archive_of(GOOD, [record()], lock=lock_of(KEYS[0])))
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.IMPORTED}


@pytest.mark.parametrize("form", [Form.PLAIN, Form.COMPRESSED])
def test_another_file_under_the_key_is_told_and_stays(source: Store, target: Store, tmp_path: Path, form: Form) -> None:
    content = KEYS[0].index.encode()
    put(source, KEYS[0], content if form is Form.PLAIN else cabinet(content), form)
    export_bundle(source, tmp_path / "b.zip")
    there = put(target, KEYS[0], b"another")
    (imported,) = import_bundle(target, tmp_path / "b.zip", check)
    assert imported.outcome is Outcome.DIFFERS
    assert hashlib.sha256(b"another").hexdigest() in str(imported)
    assert hashlib.sha256(content).hexdigest() in str(imported)
    assert there.read_bytes() == b"another"
    # The same file in another form is no other file.
    there.write_bytes(content)
    assert outcomes(target, tmp_path / "b.zip") == {"file0.pdb": Outcome.KEPT}


def test_a_damaged_cabinet_is_not_carried(source: Store, tmp_path: Path) -> None:
    put(source, KEYS[0], cabinet(b"x" * 1000)[:60], Form.COMPRESSED)
    exported = export_bundle(source, tmp_path / "b.zip")
    assert exported.files == 0
    assert [each.why.partition(":")[0] for each in exported.not_carried] == ["a damaged cabinet"]


def test_a_bundle_that_is_not_there_is_an_error_of_the_disk(target: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        list(import_bundle(target, tmp_path / "absent.zip", check))


def check_mutants(root: Path, count: int) -> None:
    other = KEYS[1].index
    second = record(index=other, path=other, sha256=hashlib.sha256(other.encode()).hexdigest())
    seed = archive_of([(KEYS[0].index, CONTENT), (other, other.encode())], [record(), second])
    path = root / "b.zip"
    for number, data in enumerate(mutants(seed, count)):
        path.write_bytes(data)
        with Store(root / f"store{number % 50}") as store, suppress(InputError):
            for result in import_bundle(store, path, check):
                if result.outcome is Outcome.IMPORTED:
                    found = store.find(result.file.key)
                    assert found is not None
                    assert check(found.path, result.file.key) is None
    assert {path.name for path in root.iterdir()} <= {"b.zip", *(f"store{number}" for number in range(50))}


def test_damaged_bundles_raise_nothing_but_input_errors(tmp_path: Path) -> None:
    check_mutants(tmp_path, 250)


@pytest.mark.slow
def test_very_many_damaged_bundles_raise_nothing_but_input_errors(tmp_path: Path) -> None:
    check_mutants(tmp_path, 100_000)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.binary(min_size=1, max_size=50)), unique_by=lambda row: row[0]))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[PdbKey, bytes]]) -> None:
    root = tmp_path_factory.mktemp("b")
    with Store(root / "source") as source, Store(root / "target") as target:
        for key, content in rows:
            put(source, key, content)
        export_bundle(source, root / "b.zip", [key for key, _ in rows])
        assert len(list(import_bundle(target, root / "b.zip", lambda path, key: None))) == len(rows)
        for key, content in rows:
            found = target.find(key)
            assert found is not None
            assert found.path.read_bytes() == content


def test_memory_does_not_grow_with_the_files(source: Store, target: Store, tmp_path: Path) -> None:
    path = put(source, KEYS[0])
    os.truncate(path, 64 << 20)
    tracemalloc.start()
    try:
        export_bundle(source, tmp_path / "b.zip")
        results = list(import_bundle(target, tmp_path / "b.zip", lambda path, key: None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert results[0].outcome is Outcome.IMPORTED
    assert peak < 8 << 20
