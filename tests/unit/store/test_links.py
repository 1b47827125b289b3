from __future__ import annotations

import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from symcache.identity import DbgKey, ImageKey, PdbKey, PortablePdbKey
from symcache.store.links import ImageLinks, Link

if TYPE_CHECKING:
    from pathlib import Path

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
    with ImageLinks(tmp_path) as memory:
        assert memory.recall(IMAGE) is None
        memory.remember(IMAGE, links)
    with ImageLinks(tmp_path) as memory:
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
    with ImageLinks(tmp_path) as memory:
        memory._memory.set(IMAGE.folded, text)
        assert memory.recall(IMAGE) is None


def test_threads_that_are_gone_leave_no_connection_open(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ImageLinks(tmp_path) as memory:
            for _ in range(4):
                thread = Thread(target=memory.recall, args=[IMAGE])
                thread.start()
                thread.join()
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: memory.remember(IMAGE, ()), range(64)))
            assert memory.recall(IMAGE) == ()
        assert memory._memory._cache._only is None
        gc.collect()
