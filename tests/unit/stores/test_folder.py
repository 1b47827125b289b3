from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.sources import KEY, PDB

from symcache.errors import StoreError
from symcache.stores.disk import PlainFolder

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_wrong_file_hides_no_right_one_in_another_letter_case(tmp_path: Path) -> None:
    (tmp_path / "APP.PDB").write_bytes(PDB)
    (tmp_path / "app.pdb").write_bytes(b"wrong")
    if (tmp_path / "APP.PDB").read_bytes() != PDB:
        pytest.skip("this disk takes both names for one")
    found = PlainFolder(tmp_path).find(KEY)
    assert found is not None
    assert found.path.name == "APP.PDB"


def test_a_folder_is_read_once_while_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterdir = Path.iterdir
    read = []

    def count(path: Path) -> Iterator[Path]:
        read.append(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", count)
    folder = PlainFolder(tmp_path)
    for number in range(50):
        assert folder.find(replace(KEY, name=f"app{number}.pdb")) is None
    assert read == [tmp_path]
    (tmp_path / "App.Pdb").write_bytes(PDB)
    os.utime(tmp_path, ns=(1, 1))
    assert folder.find(KEY) is not None


def test_a_folder_that_cannot_be_read_is_an_error_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(StoreError, match="Permission denied"):
        PlainFolder(tmp_path).find(KEY)
