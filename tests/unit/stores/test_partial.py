from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.stores.local.partial import PartialNote, find_partial, sweep_partials
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path

FOLDED = "app.pdb/abc1/app.pdb"


def test_a_note_says_where_and_how_far(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        scratch = store.scratch()
        with PartialNote(scratch, FOLDED, 1000) as note:
            note.advance(300)
            growing = find_partial(tmp_path, FOLDED)
            assert growing is not None
            assert (growing.scratch, growing.size_bytes, growing.whole_bytes, growing.starts) == (scratch, 1000, 300, 0)
        assert find_partial(tmp_path, FOLDED) is None


def test_a_file_that_starts_over_is_told_from_one_that_goes_on(tmp_path: Path) -> None:
    with Store(tmp_path) as store, PartialNote(store.scratch(), FOLDED, 1000) as note:
        starts: list[int] = []
        for whole_bytes in (500, 0, 700, 100):
            note.advance(whole_bytes)
            growing = find_partial(tmp_path, FOLDED)
            assert growing is not None
            starts.append(growing.starts)
        assert starts == [0, 1, 1, 2]


def test_withdrawing_twice_does_no_harm(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        note = PartialNote(store.scratch(), FOLDED, 1000)
        note.withdraw()
        note.withdraw()
        note.advance(5)
        assert find_partial(tmp_path, FOLDED) is None


def test_a_store_that_cannot_be_written_goes_without(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    scratch = tmp_path / "store/.symcache/staging/p-0123456789ab/0123456789ab.part"
    with PartialNote(scratch, FOLDED, 1000) as note:
        note.advance(5)
    assert find_partial(tmp_path / "store", FOLDED) is None


def test_notes_of_files_that_are_gone_are_swept_and_others_stay(tmp_path: Path) -> None:
    write_note(tmp_path)
    with Store(tmp_path) as store:
        scratch = store.scratch()
        scratch.touch()
        with PartialNote(scratch, "other.pdb/abc1/other.pdb", 1000):
            assert sweep_partials(tmp_path) == 1
            assert find_partial(tmp_path, "other.pdb/abc1/other.pdb") is not None
            assert sweep_partials(tmp_path) == 0
    assert sweep_partials(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    "place", [b"../../../etc/passwd", b"/etc/passwd", b"0123456789ab/x.part", b"", b"0123456789ab/0123456789ab.part/.."]
)
def test_a_note_leads_nowhere_but_to_scratch_files(tmp_path: Path, place: bytes) -> None:
    note = write_note(tmp_path)
    data = note.read_bytes()
    note.write_bytes(data[:32] + place)
    assert find_partial(tmp_path, FOLDED) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_a_note_or_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("store")
    write_note(root).write_bytes(data)
    growing = find_partial(root, FOLDED)
    assert growing is None or growing.whole_bytes <= growing.size_bytes


def write_note(root: Path) -> Path:
    """Return the path of a note that somebody left."""
    scratch = root / ".symcache/staging/p-0123456789ab/0123456789ab.part"
    with PartialNote(scratch, FOLDED, 1000):
        (note,) = (root / ".symcache/growing").iterdir()
        data = note.read_bytes()
    note.write_bytes(data)
    return note
