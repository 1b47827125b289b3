"""Commands on one store, and files to fill it with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

from click.testing import CliRunner

from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from symcache.cli.app import root
from symcache.errors import UsageError
from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from click.testing import Result

__all__ = ["APP", "DRV", "IMAGE", "PUBLIC", "StoreShell", "invoke", "write_build"]

APP = PdbKey("app.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 3)
PUBLIC = PdbKey("drv.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113b"), 1)
IMAGE = ImageKey("app.exe", 0x5E0B1234, 0x21000)
DRV = ImageKey("drv.sys", 0x5E0B1235, 0x22000)


def write_build(folder: Path) -> Path:
    """Write what a build leaves: two images, the PDB of one private, that of the other stripped, and other files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "obj").mkdir()
    (folder / APP.name).write_bytes(make_pdb(NativePdbSpec(APP.guid, APP.age)))
    (folder / PUBLIC.name).write_bytes(make_pdb(NativePdbSpec(PUBLIC.guid, PUBLIC.age, stripped=True)))
    (folder / IMAGE.name).write_bytes(disk_bytes(plan_image(IMAGE, APP)))
    (folder / "obj" / DRV.name).write_bytes(disk_bytes(plan_image(DRV, PUBLIC)))
    (folder / "readme.txt").write_text("nothing for a store")
    return folder


def invoke(words: Sequence[str]) -> Result:
    """Run ``symcache`` with *words* in this process."""
    done = CliRunner().invoke(root, words)
    if isinstance(done.exception, UsageError):  # what `main` makes of it
        done.exit_code = 2
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


class StoreShell:
    """Runs commands on a store.

    Attributes:
        store: Its folder.
        symbol_path: What ``-y`` gets; it begins with the store.
    """

    def __init__(self, folder: Path, symbol_path: str | None = None) -> None:
        self.store = folder
        self.symbol_path = symbol_path or f"srv*{folder}"

    def __call__(self, *arguments: str | Path, group: str | None = "store") -> Result:
        """Run ``symcache store`` with *arguments*, or another group, or none."""
        return invoke([*([] if group is None else [group]), *map(str, arguments), "-y", self.symbol_path])

    def json(self, *arguments: str | Path, group: str | None = "store", code: int = 0) -> dict[str, Any]:
        """Return the document of a command that ends with *code*."""
        done = self(*arguments, "--json", group=group)
        assert done.exit_code == code, done.output
        document: dict[str, Any] = json.loads(done.stdout)
        return document
