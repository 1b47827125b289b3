from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.mutation import mutants
from support.parts import need
from support.shared import corpus, corpus_files, needs_corpus
from support.synth.msf import Filler, make_msf, write_msf
from support.synth.pdb import NativePdbSpec, PublicSymbol, StructureLayout, make_pdb, make_pdb2, make_streams

from symcache.errors import InputError, MalformedInput, UnknownFormat, UsageError
from symcache.formats.pdb import deep
from symcache.formats.pdb.deep import DeepIdentity, DeepPdb, DeepSymbol, available, check_blocks, check_identity
from symcache.formats.pdb.info import NativePdb, parse_pdb
from symcache.formats.pdb.msf import Msf
from symcache.formats.view import FileView

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
SPEC = NativePdbSpec(
    GUID,
    age=3,
    info_age=5,
    structures={"_EPROCESS": StructureLayout(0xA40, {"Pcb": 0}), "_LARGE": StructureLayout(0x9000)},
    publics=(PublicSymbol("PsLoadedModuleList", 0x5000, 2), PublicSymbol("KeBugCheckEx", 0x100, 1, function=True)),
)
NATIVE = [name for name in corpus_files("pdb") if "pdb20" not in name]


@pytest.fixture
def pdbparse() -> None:
    need("pdbparse")


def written(folder: Path, data: bytes) -> Path:
    path = folder / "x.pdb"
    path.write_bytes(data)
    return path


@needs_corpus
@pytest.mark.usefixtures("pdbparse")
@pytest.mark.parametrize("name", NATIVE)
def test_pdbparse_and_the_own_reader_agree_on_real_pdbs(name: str) -> None:
    path = corpus / name
    with FileView(path) as view:
        own = parse_pdb(view)
        msf = Msf(view)
        sizes = [msf.stream_size(index) or 0 for index in range(msf.stream_count)]
        contents = [msf.stream(index).read(0, size) for index, size in enumerate(sizes)]
    assert isinstance(own, NativePdb)
    with DeepPdb(path) as pdb:
        assert pdb.identity() == DeepIdentity(own.guid, own.info_age, own.dbi_age, own.machine, own.flags)
        assert pdb.stream_sizes() == sizes
        assert [pdb._read(index) for index in range(len(sizes))] == contents
    assert check_blocks(path) == []


@pytest.mark.usefixtures("pdbparse")
def test_what_was_written_is_read(tmp_path: Path) -> None:
    with DeepPdb(written(tmp_path, make_pdb(SPEC))) as pdb:
        assert pdb.identity() == DeepIdentity(GUID, 5, 3, 0x8664, 0)
        assert pdb.public_symbols(10) == [
            DeepSymbol("PsLoadedModuleList", 2, 0x5000),
            DeepSymbol("KeBugCheckEx", 1, 0x100),
        ]
        assert pdb.structure_names(10) == ["_EPROCESS", "_LARGE"]
        assert len(pdb.public_symbols(1)) == len(pdb.structure_names(1)) == 1


@pytest.mark.usefixtures("pdbparse")
def test_without_debug_information_there_are_no_symbols(tmp_path: Path) -> None:
    with DeepPdb(written(tmp_path, make_pdb(NativePdbSpec(GUID, dbi=False)))) as pdb:
        assert pdb.identity() == DeepIdentity(GUID, 1, None, None, None)
        assert pdb.public_symbols(10) == []


@pytest.mark.usefixtures("pdbparse")
def test_another_identity_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, make_pdb(SPEC))
    assert check_identity(path, GUID, 5, 3) == []
    assert check_identity(path, GUID, 5, 4) == ["DBI age is 4, pdbparse reads 3"]


@pytest.mark.usefixtures("pdbparse")
def test_blocks_that_cannot_be_are_named(tmp_path: Path) -> None:
    data = bytearray(make_pdb(SPEC))
    block_map = len(data) - 4096
    directory = int.from_bytes(data[block_map : block_map + 4], "little") * 4096
    streams = int.from_bytes(data[directory : directory + 4], "little")
    numbers = directory + 4 + 4 * streams
    for position, number in ((1, data[numbers]), (2, 0xFFFF), (3, 0)):
        data[numbers + 4 * position : numbers + 4 * position + 4] = number.to_bytes(4, "little")
    count = len(data) // 4096
    assert check_blocks(written(tmp_path, bytes(data))) == [
        f"stream 2 uses block {data[numbers]}, which another stream or the directory has",
        f"stream 3 uses block 65535 of {count}",
        "stream 4 uses the superblock",
    ]


@pytest.mark.usefixtures("pdbparse")
@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", UnknownFormat, "not an MSF 7"),
        (make_pdb2(1, 1), UnknownFormat, "not an MSF 7"),
        (make_pdb(SPEC) + b"\0", MalformedInput, "the file has"),
        (make_msf([b"", b""]), MalformedInput, "too few"),
        (make_msf([b""] * 70_000), MalformedInput, "more than the 16 bits"),
        (make_msf([b""] * 1_100_000), UnknownFormat, "more than is read"),
    ],
    ids=["empty", "2.0", "one byte more", "two streams", "many streams", "a huge directory"],
)
def test_pdbparse_is_not_asked_about_what_it_would_believe(
    tmp_path: Path, data: bytes, error: type[InputError], text: str
) -> None:
    with pytest.raises(error, match=text):
        DeepPdb(written(tmp_path, data))


@pytest.mark.usefixtures("pdbparse")
def test_a_huge_stream_is_not_read(tmp_path: Path) -> None:
    streams = make_streams(SPEC)
    streams[2] = Filler(100 << 20, b"")
    path = tmp_path / "x.pdb"
    with path.open("wb") as out:
        write_msf(out, streams)
    with DeepPdb(path) as pdb, pytest.raises(MalformedInput, match="stream 2 has 104857600 bytes"):
        pdb.structure_names(1)


def with_stream(index: int, content: bytes) -> bytes:
    streams = make_streams(SPEC)
    streams[index] = content
    return make_msf(streams)


@pytest.mark.usefixtures("pdbparse")
@pytest.mark.parametrize(
    "data",
    [
        with_stream(1, b"short"),
        with_stream(2, bytes(56) + b"\x08\x00\x05\x15\x00\x00\x00\x00\x00\x00"),
        with_stream(3, bytes(64)),
        with_stream(5, b"\x10\x00\x0e\x11" + b"\xff" * 14),
        with_stream(5, b"\xff\xff"),
    ],
    ids=["information", "types", "debug information", "a name that is no UTF-8", "symbols cut short"],
)
def test_damage_neither_prints_nor_prompts(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\n" * 100))
    refused = False
    with DeepPdb(written(tmp_path, data)) as pdb:
        for ask in (pdb.identity, lambda: pdb.public_symbols(10), lambda: pdb.structure_names(10)):
            try:
                ask()
            except InputError:
                refused = True
    assert refused
    assert capsys.readouterr() == ("", "")
    assert sys.stdin.read(4) == "c\nc\n"


@pytest.mark.usefixtures("pdbparse")
def test_random_damage_is_an_input_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = make_pdb(NativePdbSpec(GUID, block_size=512, structures=SPEC.structures, publics=SPEC.publics))
    refused = 0
    for mutant in mutants(seed, 300, hot=3000):
        path = written(tmp_path, mutant)
        try:
            with DeepPdb(path) as pdb:
                pdb.identity()
                pdb.public_symbols(10)
                pdb.structure_names(10)
                list(pdb.find_block_problems())
        except InputError:
            refused += 1
    assert 30 < refused < 300
    assert capsys.readouterr() == ("", "")


@dataclass
class Absent:
    name: str

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".", maxsplit=1)[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_pdbparse_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".", maxsplit=1)[0] == "pdbparse"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent("pdbparse"), *sys.meta_path])
    with pytest.raises(UsageError, match=r"pip install 'symcache\[pdbparse\]' \(Python 3.11 and a C compiler\)"):
        DeepPdb(written(tmp_path, make_pdb(SPEC)))


def test_availability_is_told_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "find_spec", lambda name: None)
    assert available() is False
    monkeypatch.setattr(deep, "find_spec", lambda name: object())
    assert available() is True


@pytest.mark.usefixtures("pdbparse")
def test_the_file_is_given_back(tmp_path: Path) -> None:
    pdb = DeepPdb(written(tmp_path, make_pdb(SPEC)))
    pdb.close()
    pdb.close()
    assert pdb._file.closed
