from __future__ import annotations

import gc
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.identity import DbgKey, ImageKey, PdbKey, PortablePdbKey
from symcache.stores import links as links_module
from symcache.stores.links import ImageLinks, Link, StoreLinks
from symcache.stores.memory import Memory

IMAGE = ImageKey("nt.exe", 0x5F000000, 0x20000)
GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")


@pytest.mark.parametrize(
    "links",
    [
        (),
        (Link(PdbKey("nt.pdb", GUID, 10)),),
        (Link(DbgKey("nt.dbg", 0x37A8F40E, 0x20000)),),
        (
            Link(PdbKey("a.pdb", GUID, 1)),
            Link(PortablePdbKey("b.pdb", GUID), is_embedded=True, checksums=("SHA256:0",)),
        ),
    ],
)
def test_what_an_image_names_is_remembered(tmp_path: Path, links: tuple[Link, ...]) -> None:
    with ImageLinks(Memory(tmp_path)) as memory:
        assert memory.recall(IMAGE) is None
        memory.remember(IMAGE, links)
    with ImageLinks(Memory(tmp_path)) as memory:
        assert memory.recall(IMAGE) == links


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "[[]]",
        '[["../x/y", false, []]]',
        '[["a.exe/5F0000001/a.exe", false, []]]',
        '[["a.pdb/7578144C39C4468394EF84F01549113A1/a.pdb", false, [1]]]',
        "[" * 1000,
        "x",
    ],
)
def test_a_text_that_was_not_written_here_is_not_known(tmp_path: Path, text: str) -> None:
    kept = Memory(tmp_path)
    kept.set(IMAGE.folded, text)
    with ImageLinks(kept) as memory:
        assert memory.recall(IMAGE) is None


def test_threads_that_are_gone_leave_no_connection_open(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = Memory(tmp_path)
        with ImageLinks(kept) as memory:
            for _ in range(4):
                thread = Thread(target=memory.recall, args=[IMAGE])
                thread.start()
                thread.join()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: memory.remember(IMAGE, ()), range(64)))
            assert memory.recall(IMAGE) == ()
        assert kept._cache._only is None
        gc.collect()


GUIDS = st.uuids()
# The index of a native PDB of age FFFFFFFF is that of a portable one, and is read as that.
AGES = st.integers(0, 2**32 - 2)
LINKS = st.lists(
    st.builds(
        Link,
        st.one_of(
            st.builds(PdbKey, st.just("a.pdb"), GUIDS, AGES),
            st.builds(PortablePdbKey, st.just("b.pdb"), GUIDS),
        ),
        st.booleans(),
        st.lists(st.text(max_size=8), max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)
IMAGES = st.builds(
    ImageKey,
    st.sampled_from(["nt.exe", "NT.EXE", "hal.dll"]),
    st.integers(1, 3),
    st.integers(1, 2).map(lambda n: n << 12),
)


@given(st.lists(st.tuples(IMAGES, LINKS)))
def test_a_store_knows_what_was_learned_last(learned: list[tuple[ImageKey, tuple[Link, ...]]]) -> None:
    with TemporaryDirectory() as folder:
        store = StoreLinks(Path(folder))
        for image, links in learned:
            assert store.remember(image, links)
        expected = {image.folded: links for image, links in learned}
        for reader in (store, StoreLinks(Path(folder))):
            assert {image.folded: links for image, links in reader.list()} == expected
            assert all(reader.recall(image) == expected[image.folded] for image, _ in learned)


def test_a_torn_or_foreign_line_costs_no_other(tmp_path: Path) -> None:
    link = Link(PdbKey("nt.pdb", GUID, 10))
    StoreLinks(tmp_path).remember(IMAGE, [link])
    (shard,) = (tmp_path / ".symcache" / "links").iterdir()
    torn = shard.read_bytes().rstrip()[:-9]
    shard.write_bytes(
        shard.read_bytes()
        + b'\xff\xfe\n[1]\n["a.exe/1/x", 0]\n["nt.exe/5F00000020000/nt.exe", [["../x", 0, []]]]\n'
        + torn
    )
    assert StoreLinks(tmp_path).recall(IMAGE) == (link,)
    other = Link(PdbKey("nt.pdb", GUID, 11))
    assert StoreLinks(tmp_path).remember(IMAGE, [other])
    assert StoreLinks(tmp_path).recall(IMAGE) == (other,)


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    store = StoreLinks(tmp_path)
    store.remember(IMAGE, [])
    (shard,) = (tmp_path / ".symcache" / "links").iterdir()
    before = shard.read_bytes()
    assert store.remember(IMAGE, [])
    assert StoreLinks(tmp_path).remember(IMAGE, [])
    assert shard.read_bytes() == before


def test_where_no_store_takes_it_the_user_remembers(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".symcache").write_text("in the way")
    store = StoreLinks(tmp_path / "store")
    with ImageLinks(Memory(tmp_path / "memory"), [store]) as links:
        links.remember(IMAGE, [])
        assert links.recall(IMAGE) == ()
    assert list(store.list()) == []
    assert ImageLinks(None, [store]).recall(IMAGE) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs rights to make a link, and there are no pipes in folders")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_nothing_but_a_plain_file_is_read_or_written(tmp_path: Path, kind: str) -> None:
    store, outside = StoreLinks(tmp_path / "store"), tmp_path / "outside"
    store.remember(IMAGE, [])
    (shard,) = (tmp_path / "store" / ".symcache" / "links").iterdir()
    shard.rename(outside)
    before = outside.read_bytes()
    if kind == "link":
        shard.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(shard)
    else:
        shard.mkdir()
    hostile = StoreLinks(tmp_path / "store")
    assert hostile.recall(IMAGE) is None
    assert not hostile.remember(IMAGE, [Link(PdbKey("nt.pdb", GUID, 1))])
    assert outside.read_bytes() == before


def test_each_line_is_read_at_most_once_by_who_writes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    parse = links_module.parse_named

    def note(row: object) -> object:
        read.append(row)
        return parse(row)

    monkeypatch.setattr(links_module, "parse_named", note)
    store, other = StoreLinks(tmp_path), StoreLinks(tmp_path)
    images = [ImageKey(f"{number}.dll", 1, 0x1000) for number in range(3000)]
    for image in images:
        assert store.remember(image, [])
    assert len(read) <= 256  # the first of each of the files
    mine, theirs = (Link(PdbKey("a.pdb", GUID, age)) for age in (1, 2))
    assert other.remember(IMAGE, [theirs])
    assert store.recall(IMAGE) == (theirs,)
    assert other.remember(IMAGE, [mine])
    assert store.remember(images[0], [mine])
    assert {store.recall(IMAGE), other.recall(IMAGE)} == {(mine,)}
    assert all(store.recall(image) == () for image in images[1:])


def test_nothing_is_written_beyond_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StoreLinks(tmp_path)
    assert store.remember(IMAGE, [])
    (shard,) = (tmp_path / ".symcache" / "links").iterdir()
    before = shard.read_bytes()
    monkeypatch.setattr(links_module, "_LARGEST_SHARD_BYTES", len(before) + 1)
    assert not store.remember(IMAGE, [Link(PdbKey("a.pdb", GUID, 1))])
    assert shard.read_bytes() == before
