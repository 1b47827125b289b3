from __future__ import annotations

import subprocess
import zlib
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.parts import need
from support.synth.pdb import NativePdbSpec, PublicSymbol, StructureLayout, make_pdb, write_pdb

from symcache.formats.pdb.info import parse_pdb
from symcache.formats.view import FileView

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
EPROCESS = StructureLayout(0xA40, {"Pcb": 0, "UniqueProcessId": 0x440, "Peb": 0x550})
SYMBOLS = tuple(PublicSymbol(f"?symbol{number}@@YAXXZ", 16 * number, 1 + number % 3) for number in range(100))


def dump(path: Path, *options: str) -> str:
    done = subprocess.run([need("llvm"), "dump", *options, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_llvm_reads_a_native_pdb(tmp_path: Path, block_size: int) -> None:
    path = tmp_path / "x.pdb"
    layout = {"_EPROCESS": EPROCESS, "_LARGE": StructureLayout(1 << 17, {f"f{at}": 8 * at for at in range(9000)})}
    path.write_bytes(
        make_pdb(NativePdbSpec(GUID, age=3, info_age=5, block_size=block_size, structures=layout, publics=SYMBOLS))
    )
    text = dump(path, "--summary", "--streams", "--modules", "--files", "--types", "--publics", "--section-headers")
    assert f"GUID: {{{str(GUID).upper()}}}" in text
    assert "  Age: 5\n" in text
    assert "Is stripped: false" in text
    assert "LF_MEMBER [name = `Peb`, Type = 0x0023 (unsigned __int64), offset = 1360, attrs = public]" in text
    assert "offset = 71992, attrs = public]" in text
    assert text.count("LF_INDEX continuation") >= 2
    for symbol in SYMBOLS:
        assert f"`{symbol.name}`\n" in text
    assert "`synth.obj`" in text


def test_llvm_reads_a_stripped_one_and_one_without_debug_information(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    path.write_bytes(make_pdb(NativePdbSpec(GUID, stripped=True)))
    assert "Is stripped: true" in dump(path, "--summary")
    path.write_bytes(make_pdb(NativePdbSpec(GUID, dbi=False)))
    assert "Has Debug Info: false" in dump(path, "--summary")


def test_llvm_reads_one_that_spans_several_free_block_maps(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    path.write_bytes(make_pdb(NativePdbSpec(GUID, block_size=512, payload_bytes=1 << 20, extra_streams=500)))
    assert "Number of streams: 510" in dump(path, "--summary", "--streams")


# It looks for the form of what it wrote where jsonschema, which moto brings along, does not look any more.
@pytest.mark.filterwarnings("ignore:The metaschema specified by:DeprecationWarning")
def test_volatility_reads_types_and_symbols(tmp_path: Path) -> None:
    need("volatility3")
    contexts = import_module("volatility3.framework.contexts")
    pdbconv = import_module("volatility3.framework.symbols.windows.pdbconv")
    path = tmp_path / "ntkrnlmp.pdb"
    symbols = (PublicSymbol("PsActiveProcessHead", 0x5000, 2),)
    path.write_bytes(make_pdb(NativePdbSpec(GUID, age=3, structures={"_EPROCESS": EPROCESS}, publics=symbols)))
    found = pdbconv.PdbReader(contexts.Context(), path.as_uri(), "ntkrnlmp.pdb").get_json()
    assert found["metadata"]["windows"]["pdb"]["GUID"] == GUID.hex.upper()
    assert found["metadata"]["windows"]["pdb"]["age"] == 3
    layout = found["user_types"]["_EPROCESS"]
    assert layout["size"] == EPROCESS.size
    assert {name: field["offset"] for name, field in layout["fields"].items()} == EPROCESS.fields
    assert found["symbols"] == {"PsActiveProcessHead": {"address": 0x1000 + (1 << 24) + 0x5000}}


def test_a_large_pdb_is_the_same_every_time_and_does_not_compress(tmp_path: Path) -> None:
    path = tmp_path / "x.pdb"
    spec = NativePdbSpec(GUID, payload_bytes=8 << 20)
    with path.open("wb") as out:
        write_pdb(out, spec)
    assert path.read_bytes() == make_pdb(spec)
    assert len(zlib.compress(path.read_bytes(), 1)) > 8 << 20
    with FileView(path) as view:
        parse_pdb(view)
