from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.events import Noted, TransferAdvanced, TransferEnded, TransferStarted
from symcache.stores.local.partial import TransferBoard, find_partial
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.events import Event

INDEX = "App.pdb/ABC1/App.pdb"
LARGE, SMALL = 5 << 20, 1000


def test_a_large_transfer_is_noted_from_beginning_to_end(tmp_path: Path) -> None:
    heard: list[Event] = []
    board = TransferBoard(heard.append)
    with Store(tmp_path) as store:
        path = store.scratch()
        board.observe(TransferStarted(INDEX, "u", LARGE, path))
        board.observe(TransferAdvanced(INDEX, 900, LARGE, path, 800))
        growing = find_partial(tmp_path, INDEX.lower())
        assert growing is not None
        assert (growing.scratch, growing.whole_bytes) == (path, 800)
        board.observe(TransferEnded(INDEX, path))
        assert find_partial(tmp_path, INDEX.lower()) is None
    assert [type(event) for event in heard] == [TransferStarted, TransferAdvanced, TransferEnded]


def test_small_transfers_and_other_events_pass_by(tmp_path: Path) -> None:
    heard: list[Event] = []
    board = TransferBoard(heard.append)
    with Store(tmp_path) as store:
        path = store.scratch()
        for event in (
            TransferStarted(INDEX, "u", SMALL, path),
            TransferStarted(INDEX, "u", None, path),
            TransferAdvanced(INDEX, 900, SMALL, path, 900),
            TransferEnded(INDEX, path),
            Noted("something"),
        ):
            board.observe(event)
        assert not (tmp_path / ".symcache/growing").exists()
    assert len(heard) == 5
