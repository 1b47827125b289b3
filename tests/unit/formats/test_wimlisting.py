"""What wimlib-imagex prints of an image, as a tree; `tests/e2e/test_disks.py` has the program print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import MalformedInput
from symcache.formats.disk import wimlisting
from symcache.formats.disk.tree import find
from symcache.formats.disk.wimlisting import ListedFile, ListedTree
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from symcache.formats.disk.tree import TreeEntry
    from symcache.formats.view import ByteView

HASH = "ab" * 20


def listed(path: str, *, flags: int = 0x20, size: int | None = 7, hash_: str = HASH, stream: str = "Unnamed") -> str:
    length = "" if size is None else f"Uncompressed size = {size} bytes\nFlags             = \n"
    return (
        f'{"-" * 76}\nFull Path           = "{path}"\nShort Name          = ""\nAttributes          = 0x{flags:08x}\n'
        f"    FILE_ATTRIBUTE_ARCHIVE is set\nCreation Time       = Mon Nov 30 13:36:43 2026 UTC\n"
        f"\t{stream} data stream:\nHash              = 0x{hash_}\n{length}\n"
    )


def folder(path: str, flags: int = 0x10) -> str:
    return listed(path, flags=flags, size=0, hash_="00" * 20)


def tree_of(text: str, suffix: str = "") -> ListedTree:
    lines = text.encode().splitlines(keepends=True)
    return ListedTree(lines, lambda parts: parts[-1].endswith(suffix), lend)


def lend(hash_: bytes) -> ByteView:
    return BytesView(hash_)


def found(tree: ListedTree, *names: str) -> TreeEntry | None:
    return find(tree, *names)


@pytest.mark.parametrize(("separator", "end"), [("/", "\n"), ("\\", "\r\n")], ids=["unix", "windows"])
def test_files_lie_in_their_folders(separator: str, end: str) -> None:
    text = folder("/") + folder("/Windows") + folder("/Windows/System32") + folder("/Windows/System32/drivers")
    text += listed("/Windows/System32/drivers/other/ntfs.sys")
    text += listed("/Windows/System32/drivers/ntfs.sys") + listed("/Windows/System32/readme.txt")
    tree = tree_of(text.replace("/", separator).replace("\n", end), ".sys")
    entry = found(tree, "windows", "system32", "DRIVERS", "NTFS.SYS")
    assert entry is not None
    assert tree.open(entry).read(0, 20) == bytes.fromhex(HASH)
    assert tree.files == {bytes.fromhex(HASH): ListedFile("Windows/System32/drivers/ntfs.sys", 7)}
    assert found(tree, "Windows", "System32", "readme.txt") is None


def test_an_empty_file_needs_nothing_to_be_taken_out() -> None:
    tree = tree_of(listed("/empty.sys", size=0, hash_="00" * 20))
    entry = found(tree, "empty.sys")
    assert entry is not None
    assert (tree.open(entry).size, tree.files) == (0, {})


@pytest.mark.parametrize("more", [{"size": None}, {"stream": "Raw encrypted"}, {"stream": 'Named data stream "x":'}])
def test_a_file_without_data_in_the_file_is_listed_and_not_asked_for(more: dict[str, str]) -> None:
    tree = tree_of(listed("/a.sys", **more))  # type: ignore[arg-type]  # a size is None
    assert found(tree, "a.sys") is not None
    assert tree.files == {}


def test_what_lies_behind_a_link_is_left_out() -> None:
    text = (
        folder("/Windows", 0x410) + listed("/Windows/a.sys") + listed("/Windows2/b.sys") + listed("/l.sys", flags=0x400)
    )
    tree = tree_of(text)
    assert [each.name for each in tree.entries(tree.root)] == ["Windows2"]


def test_a_name_with_a_line_end_forges_nothing_but_a_listing() -> None:
    tree = tree_of(listed('/a\nFull Path           = "/x.sys') + listed("/b.sys"))
    assert [each.name for each in tree.entries(tree.root)] == ["x.sys", "b.sys"]


def test_a_listing_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wimlisting, "_MOST_ENTRIES", 3)
    with pytest.raises(MalformedInput, match="more than 3 files"):
        tree_of("".join(listed(f"/{number}.sys") for number in range(5)))


_PIECES = [b'Full Path = "/', b"Full Path = ", b'"\n', b"/", b"\\", b"..", b"a.sys", b"Attributes = 0x410\n", b"\xff"]
_PIECES += [b"\tUnnamed data stream:\n", b"Hash = 0x" + b"ab" * 20 + b"\n", b"Uncompressed size = 9 bytes\n", b"\n"]


@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=4)).map(b"".join))
def test_whatever_is_printed_gives_a_tree(printed: bytes) -> None:
    tree = ListedTree(printed.splitlines(keepends=True), bool, lend)
    left = [tree.root]
    while left:
        left += [each for each in tree.entries(left.pop()) if each.is_folder]
