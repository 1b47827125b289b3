"""The journal of a store's writer; who may write the store may write anything into it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from symcache.stores.local.tree import Store
from symcache.symstore.folder import Intent, Stage, journal_path, read_journal, write_journal

if TYPE_CHECKING:
    from pathlib import Path


def test_an_intent_reads_back(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        intent = Intent(Stage.DELETING, 2, b"0000000002,del,0000000001", 1)
        write_journal(store, intent)
        assert read_journal(store) == intent


@pytest.mark.parametrize("name", ["id", "deleted_id"])
@pytest.mark.parametrize("value", ["1e999", "NaN", '"x"', "[" * 100_000, "{}"])
def test_a_journal_that_makes_no_sense_is_none(tmp_path: Path, name: str, value: str) -> None:
    with Store(tmp_path) as store:
        write_journal(store, Intent(Stage.DELETING, 2, b"", 1))
        document = json.loads(journal_path(store).read_text())
        journal_path(store).write_text(json.dumps(document | {name: "HERE"}).replace('"HERE"', value))
        assert read_journal(store) is None
