"""A bundle as a place of a symbol path; what makes one hostile is in upkeep/test_bundle.py."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import zipfile
from contextlib import closing, suppress
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.mutation import mutants
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.config import load_config
from symcache.errors import ConfigError, StoreError
from symcache.events import Noted
from symcache.formats.view import FileView
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.records import WHOLE_FILE
from symcache.stores import bundle as bundle_module
from symcache.stores.base import Form
from symcache.stores.bundle import BundleStore
from symcache.stores.disk import DiskSource
from symcache.stores.links import Link, StoreLinks
from symcache.stores.local.tree import Store
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present
from symcache.stores.source import explain
from symcache.upkeep.bundle import export_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.identity import Key

pytestmark = pytest.mark.anyio

OTHER = PdbKey("other.pdb", UUID(int=7), 1)
OTHER_PDB = make_pdb(NativePdbSpec(OTHER.guid, age=OTHER.age, payload_bytes=5000))
FORMS = {"plain": (PDB, Form.PLAIN), "compressed": (CAB, Form.COMPRESSED)}


def pack(
    path: Path, files: dict[Key, tuple[bytes, Form]], links: dict[ImageKey, tuple[Link, ...]] | None = None
) -> Path:
    """Write a bundle of *files* at *path*, by way of a store that is thrown away."""
    with Store(path.with_name(f"{path.name}.{os.urandom(4).hex()}.store")) as store:
        for key, (content, form) in files.items():
            scratch = store.scratch()
            scratch.write_bytes(content)
            store.publish(scratch, key, form=form, durable=False)
        for image, named in (links or {}).items():
            StoreLinks(store.root).remember(image, named)
        export_bundle(store, path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return pack(tmp_path / "crash.symbols", {KEY: FORMS["plain"], IMAGE_KEY: (IMAGE, Form.PLAIN)})


def damage(bundle: Path, content: bytes) -> None:
    """Change one byte in the middle of *content* as it lies in *bundle*."""
    data = bytearray(bundle.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 0xFF
    bundle.write_bytes(data)


def change(bundle: Path, to: Callable[[bytes], bytes]) -> None:
    bundle.write_bytes(to(bundle.read_bytes()))


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def notes(rig: Rig) -> list[str]:
    return [event.text for event in rig.events if isinstance(event, Noted)]


@pytest.mark.parametrize("form", FORMS)
async def test_a_file_of_a_bundle_is_copied_into_the_stores_before_it(form: str, rig: Rig, tmp_path: Path) -> None:
    bundle = pack(tmp_path / "crash.symbols", {KEY: FORMS[form]})
    before = bundle.read_bytes()
    between = tmp_path / "between"
    async with rig.source(f"srv*{rig.store}*{between}*{bundle}") as source:
        outcome = await source.fetch(KEY)
        assert isinstance(outcome, Fetched)
        assert (outcome.path, outcome.upstream) == (rig.store / PATH, str(bundle))
        assert await source.fetch(KEY) == Present(outcome.path, len(PDB))
        assert isinstance(await source.fetch(OTHER), Missing)
    assert outcome.path.read_bytes() == PDB
    assert visible(between) == [PATH if form == "plain" else f"{PATH[:-1]}_"]
    assert bundle.read_bytes() == before
    assert (scratch_files(rig.store), scratch_files(between)) == ([], [])


@pytest.mark.parametrize(
    ("path", "filled"),
    [
        ("srv*BUNDLE", "default"),
        ("BUNDLE", "default"),
        ("cache*BUNDLE", "default"),
        ("srv*BUNDLE*URL", "default"),
        ("srv*BUNDLE*SYM*URL", "sym"),
        ("srv*SYM*BUNDLE*URL", "sym"),
        ("cache*SYM;BUNDLE", "sym"),
    ],
)
async def test_what_a_bundle_has_is_opened_from_a_store(
    path: str, filled: str, bundle: Path, upstream: Upstream, rig: Rig, tmp_path: Path
) -> None:
    text = path.replace("BUNDLE", str(bundle)).replace("SYM", str(tmp_path / "sym")).replace("URL", upstream.url)
    async with rig.source(text) as source:
        outcome = await source.fetch(KEY)
        assert source.find(KEY) == Present(tmp_path / filled / PATH, len(PDB))
    assert isinstance(outcome, Fetched)
    assert outcome.path == tmp_path / filled / PATH
    assert upstream.requests == []


async def test_what_a_server_sends_does_not_go_into_a_bundle(
    bundle: Path, upstream: Upstream, rig: Rig, tmp_path: Path
) -> None:
    upstream.files[OTHER.index] = OTHER_PDB
    before = content_of(bundle)
    async with rig.source(f"srv*{rig.store}*{bundle}*{tmp_path / 'between'}*{upstream.url}") as source:
        assert isinstance(await source.fetch(OTHER), Fetched)
    assert visible(rig.store) == visible(tmp_path / "between") == [OTHER.index]
    assert content_of(bundle) == before


async def test_a_bundle_is_asked_although_the_store_before_it_cannot_be_written(
    bundle: Path, rig: Rig, tmp_path: Path
) -> None:
    rig.store.write_bytes(b"")  # nobody makes a folder there
    async with rig.source(f"srv*{rig.store}*{bundle}*{tmp_path / 'second'}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.path == tmp_path / "second" / PATH


@pytest.mark.parametrize("form", FORMS)
async def test_a_damaged_file_of_a_bundle_is_wrong_and_the_next_place_is_asked(
    form: str, upstream: Upstream, rig: Rig, tmp_path: Path
) -> None:
    content = FORMS[form][0]
    bundle = pack(tmp_path / "crash.symbols", {KEY: FORMS[form], OTHER: (OTHER_PDB, Form.PLAIN)})
    damage(bundle, content)
    async with rig.source(f"srv*{rig.store}*{bundle}") as source:
        assert source.find_for_debugger(KEY) is None
        outcome = await source.fetch(KEY)
        assert isinstance(outcome, Failed)
        assert outcome.cause is Cause.WRONG_CONTENT
        assert [attempt.answer for attempt in outcome.attempts] == [
            "not there",
            "found, but its hash is not the one in the manifest",
        ][-len(outcome.attempts) :]
        assert visible(rig.store) == []
        assert isinstance(await source.fetch(OTHER), Fetched)
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{bundle}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == upstream.url
    assert scratch_files(rig.store) == []


async def test_a_file_that_is_not_what_its_key_names_is_not_taken_from_a_bundle_either(
    rig: Rig, tmp_path: Path
) -> None:
    bundle = pack(tmp_path / "crash.symbols", {KEY: (OTHER_PDB, Form.PLAIN)})
    async with rig.source(f"srv*{rig.store}*{bundle}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.WRONG_CONTENT
    assert visible(rig.store) == []


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (cut, "cut short"),
    "with something behind it": (lambda data: data + b"\0", "something behind its end"),
    "an export that was killed": (lambda data: data[:5000], "cut short"),
    "another archive": (lambda data: data.replace(b"manifest.json", b"manifest.text"), "without a manifest.json"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_bundle_that_cannot_be_read_is_noted_once_and_passed_over(
    case: str, bundle: Path, upstream: Upstream, rig: Rig
) -> None:
    to, problem = BROKEN[case]
    change(bundle, to)
    upstream.files |= {PATH: PDB, OTHER.index: OTHER_PDB}
    async with rig.source(f"srv*{rig.store}*{bundle}*{upstream.url}") as source:
        for key in (KEY, OTHER):
            outcome = await source.fetch(key)
            assert isinstance(outcome, Fetched)
            assert outcome.upstream == upstream.url
    (note,) = notes(rig)
    assert note.startswith(f"{bundle}: ")
    assert problem in note
    with pytest.raises(StoreError, match=problem):
        BundleStore(bundle).find(KEY)
    assert BundleStore(bundle).recall(IMAGE_KEY) is None


def test_another_file_in_a_symbol_path_is_an_error(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "MEMORY.DMP"
    file.write_bytes(b"PAGEDU64")
    for path in (f"srv*{rig.store}*{file}", f"srv*{file}", str(file)):
        with pytest.raises(ConfigError, match=r"MEMORY\.DMP is no bundle of `symcache export`; a store is a folder"):
            rig.source(path)


async def test_a_bundle_that_is_replaced_is_read_again(bundle: Path, rig: Rig) -> None:
    async with rig.source(f"srv*{rig.store}*{bundle}") as source:
        assert isinstance(await source.fetch(IMAGE_KEY), Fetched)
        assert isinstance(await source.fetch(OTHER), Missing)
        pack(bundle, {OTHER: (OTHER_PDB, Form.PLAIN)})
        assert isinstance(await source.fetch(OTHER), Fetched)
        assert isinstance(await source.fetch(KEY), Missing)


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open is not replaced there")
@pytest.mark.parametrize("is_there_still", [True, False])
async def test_a_bundle_that_is_replaced_between_the_look_and_the_read_gives_no_wrong_file(
    is_there_still: bool, bundle: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[Key, tuple[bytes, Form]] = {
        OTHER: (OTHER_PDB, Form.PLAIN),
        **({KEY: FORMS["plain"]} if is_there_still else {}),
    }
    replacement = pack(bundle.with_name("new"), files)
    copy_out = bundle_module.copy_out

    def late(*arguments: object) -> str | None:
        if replacement.exists():
            replacement.replace(bundle)
            with FileView(bundle) as view:
                return copy_out(view, *arguments[1:])  # type: ignore[arg-type]
        return copy_out(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_module, "copy_out", late)
    async with rig.source(f"srv*{rig.store}*{bundle}") as source:
        outcome = await source.fetch(KEY)
    assert not replacement.exists()
    assert isinstance(outcome, Fetched if is_there_still else Missing)
    assert visible(rig.store) == ([PATH] if is_there_still else [])


async def test_a_disk_that_does_not_give_the_bytes_makes_the_file_wrong(
    bundle: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FileView, offset: int, length: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = BundleStore(bundle)
    assert store.find(KEY) is not None
    monkeypatch.setattr(FileView, "read", fail)
    looked_up = store._copy(KEY, rig.folder / "scratch")
    assert looked_up.form is None
    assert "the bundle cannot be read" in looked_up.attempts[-1].answer


@pytest.mark.parametrize("form", FORMS)
def test_a_check_finds_a_file_in_a_bundle_and_says_that_debuggers_do_not_read_it(form: str, tmp_path: Path) -> None:
    bundle = pack(tmp_path / "crash.symbols", {KEY: FORMS[form], IMAGE_KEY: (IMAGE, Form.PLAIN)})
    before = sorted(tmp_path.rglob("*"))
    events: list[object] = []
    config = load_config(environ={}, symbol_path=f"srv*{tmp_path / 'sym'}*{bundle}")
    with closing(DiskSource(config, observer=events.append)) as source:
        for _ in range(2):
            present = source.find_for_debugger(KEY)
            assert present is not None
            assert (present.path, present.size_bytes) == (bundle, len(FORMS[form][0]))
            assert present.note is not None
            assert "no debugger reads" in present.note
            assert present.in_bundle
        assert source.find(KEY) is None
        assert source.seem_held([KEY, OTHER]) == {KEY.folded}
        image = source.find_image(IMAGE_KEY)
        assert image is not None
        assert image.timestamp == IMAGE_KEY.timestamp
    assert [str(event) for event in events if "do not read a bundle" in str(event)] == [str(events[0])]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", FORMS)
async def test_another_file_than_the_locked_one_in_a_bundle_is_passed_over(
    form: str, upstream: Upstream, rig: Rig, tmp_path: Path
) -> None:
    locked = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=50_000))
    checksums = (f"{WHOLE_FILE}{hashlib.sha256(locked).hexdigest()}",)
    bundle = pack(tmp_path / "crash.symbols", {KEY: FORMS[form]})
    upstream.files[PATH] = locked
    async with rig.source(f"srv*{rig.store}*{bundle}*{upstream.url}") as source:
        assert source.find_for_debugger(KEY, checksums) is None
        outcome = await source.fetch(KEY, checksums)
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == upstream.url
    assert content_of(outcome.path) == locked


@pytest.mark.parametrize("is_packed", [True, False])
async def test_headers_of_an_image_are_read_in_a_bundle(is_packed: bool, rig: Rig, tmp_path: Path) -> None:
    content = (cabinet(IMAGE), Form.COMPRESSED) if is_packed else (IMAGE, Form.PLAIN)
    bundle = pack(tmp_path / "crash.symbols", {IMAGE_KEY: content})
    async with rig.source(f"srv*{rig.store}*{bundle}") as source:
        image = await source.read_image(IMAGE_KEY)
        assert not isinstance(image, Missing | Failed)
        assert image.size_of_image == IMAGE_KEY.size_of_image
    assert visible(rig.store) == []


async def test_an_explanation_names_the_bundle_and_what_is_wrong_in_it(bundle: Path, rig: Rig) -> None:
    async def answers() -> list[tuple[str, str, bool]]:
        async with rig.source(f"srv*{rig.store}*{bundle}") as source:
            return [(step.name, step.answer, step.has_file) async for step in explain(source, KEY)]

    size = len(PDB)
    assert await answers() == [(str(rig.store), "not there", False), (str(bundle), f"there, plain, {size} bytes", True)]
    damage(bundle, PDB)
    problem = "there, but its hash is not the one in the manifest"
    assert (await answers())[1] == (str(bundle), problem, False)


def test_a_bundle_says_what_images_name(tmp_path: Path) -> None:
    bundle = pack(tmp_path / "crash.symbols", {}, {IMAGE_KEY: (Link(KEY),)})
    store = BundleStore(bundle)
    assert store.recall(ImageKey("APP.EXE", IMAGE_KEY.timestamp, IMAGE_KEY.size_of_image)) == (Link(KEY),)
    assert store.recall(ImageKey("other.exe", 1, 0x1000)) is None
    assert list(store.holding([KEY])) == []


def test_where_no_archive_member_begins_that_is_told(bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    at = data.index(b"PK\3\4", 4)  # of the second file
    bundle.write_bytes(data[:at] + b"XX" + data[at + 2 :])
    place = BundleStore(bundle)
    assert place._copy(KEY, tmp_path / "scratch").attempts[-1].answer == (
        f"found, but no archive member begins here (at {at:#x})"
    )
    assert place._copy(IMAGE_KEY, tmp_path / "scratch").form is Form.PLAIN


@pytest.mark.parametrize("plain_first", [True, False])
def test_of_two_forms_in_a_bundle_the_plain_one_counts(plain_first: bool, tmp_path: Path) -> None:
    forms = [(PATH, PDB, Form.PLAIN), (f"{PATH[:-1]}_", CAB, Form.COMPRESSED)]
    records = [
        {"index": PATH, "form": form, "path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data, form in (forms if plain_first else forms[::-1])
    ]
    with zipfile.ZipFile(tmp_path / "crash.symbols", "w") as archive:
        for path, data, _ in forms:
            archive.writestr(path, data)
        archive.writestr("manifest.json", json.dumps({"schema": "symcache.bundle/1", "files": records}))
    place = BundleStore(tmp_path / "crash.symbols")
    stored = place.find(KEY)
    assert stored is not None
    assert (stored.form, stored.size_bytes, place.count_files()) == (Form.PLAIN, len(PDB), 1)


def test_of_a_damaged_bundle_no_wrong_file_is_taken(tmp_path: Path) -> None:
    bundle = pack(tmp_path / "crash.symbols", {OTHER: (b"short", Form.PLAIN), KEY: (b"shorter", Form.COMPRESSED)})
    contents = {OTHER: b"short", KEY: b"shorter"}
    taken = 0
    for data in mutants(bundle.read_bytes(), 400):
        bundle.write_bytes(data)
        place = BundleStore(bundle)
        for key, content in contents.items():
            with suppress(StoreError):
                if place._copy(key, tmp_path / "scratch").form is not None:
                    taken += 1
                    assert (tmp_path / "scratch").read_bytes() == content
        assert place.recall(IMAGE_KEY) is None
    assert 0 < taken < 800


def test_a_bundle_is_read_a_file_at_a_time(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = FileView.read

    def count(self: FileView, offset: int, length: int) -> bytes:
        read.append(length)
        return real(self, offset, length)

    monkeypatch.setattr(FileView, "read", count)
    assert BundleStore(bundle)._copy(KEY, tmp_path / "scratch").form is Form.PLAIN
    assert sum(read) == 30 + len(PDB)  # its local header and its bytes, of some 230 KB
