from __future__ import annotations

import io
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump
from support.synth.pdb import NativePdbSpec, make_compressed_pdb, make_pdb, make_pdb2, make_portable_pdb
from support.synth.pe import dbg_bytes, disk_bytes, plan_image

from symcache.errors import InputError, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.detect import InputOptions, detect, open_inputs, read_input
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    Input,
    InputKind,
    Module,
    ProcessSelection,
    ProcessSummary,
    Record,
    Remark,
    Unreadable,
)

if TYPE_CHECKING:
    from pathlib import Path


GUID = UUID(int=0x1234)
PLAN = plan_image(ImageKey("a.dll", 0x5F000000, 0x8000), PdbKey("a.pdb", GUID, 1))
IMAGE = disk_bytes(PLAN)
PDB = make_pdb(NativePdbSpec(GUID))
MINIDUMP = build_minidump(MinidumpPlan([MinidumpModule(r"C:\a.dll", 0x10000, 0x8000, 0x5F000000)]))
LIST = b"a.dll/5F0000008000/a.dll\n"
LOG = b"SYMSRV:  c:\\sym\\a.pdb\\000000000000000000000000000012341\\a.pdb not found\r\n"


def kernel_dump(dump_type: int, *, wide: bool = True) -> bytes:
    header = bytearray(b"PAGE" * (0x800 if wide else 0x400))
    header[:8] = b"PAGEDU64" if wide else b"PAGEDUMP"
    at = 0xF98 if wide else 0xF88
    header[at : at + 4] = dump_type.to_bytes(4, "little")
    machine = 0x30 if wide else 0x20
    header[machine : machine + 4] = (0x8664 if wide else 0x14C).to_bytes(4, "little")
    return bytes(header)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(IMAGE, InputKind.IMAGE, id="an image"),
        pytest.param(dbg_bytes(PLAN), InputKind.IMAGE, id="a .dbg file"),
        pytest.param(PDB, InputKind.PDB, id="a PDB 7"),
        pytest.param(make_pdb2(1, 2), InputKind.PDB, id="a PDB 2"),
        pytest.param(make_portable_pdb(GUID, 1)[0], InputKind.PDB, id="a portable PDB"),
        pytest.param(make_compressed_pdb(NativePdbSpec(GUID)), InputKind.PDB, id="a compressed PDB"),
        pytest.param(MINIDUMP, InputKind.MINIDUMP, id="a minidump"),
        pytest.param(b"PMDM" + bytes(28), InputKind.MINIDUMP, id="a minidump of a big-endian machine"),
        pytest.param(kernel_dump(1), InputKind.KERNEL_DUMP, id="a full dump"),
        pytest.param(kernel_dump(4), InputKind.TRIAGE_DUMP, id="a triage dump"),
        pytest.param(kernel_dump(2, wide=False), InputKind.KERNEL_DUMP, id="a 32-bit dump"),
        pytest.param(kernel_dump(4, wide=False), InputKind.TRIAGE_DUMP, id="a 32-bit triage dump"),
        pytest.param(LIST, InputKind.MANIFEST, id="a list of indexes"),
        pytest.param(b"a.dll,5f0000008000,2", InputKind.MANIFEST, id="a manifest"),
        pytest.param(LIST.decode().encode("utf-16"), InputKind.MANIFEST, id="a list in UTF-16"),
        pytest.param(b"wake.dll 5F0000008000", InputKind.MANIFEST, id="a list that begins like a hibernation file"),
        pytest.param(b"DI.dll 5F0000008000", InputKind.MANIFEST, id="a list that begins like a .dbg file"),
        pytest.param(LOG, InputKind.DEBUGGER_LOG, id="a debugger's log"),
        pytest.param(b"PK\x03\x04" + bytes(30), InputKind.ARCHIVE, id="a zip"),
        pytest.param(b"\x1f\x8b\x08" + bytes(30), InputKind.ARCHIVE, id="gzip"),
        pytest.param(b"MSCF" + bytes(30), InputKind.ARCHIVE, id="a cabinet"),
    ],
)
def test_an_input_is_told_by_its_content(data: bytes, kind: InputKind) -> None:
    assert detect(BytesView(data)) is kind


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "empty", id="nothing"),
        pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(30), "7z archive.*unpack it", id="7z"),
        pytest.param(b"Rar!\x1a\x07\x01\0" + bytes(30), "RAR archive.*unpack it", id="RAR"),
        pytest.param(b'{"lockfileVersion": 3}', "JSON of another kind", id="JSON"),
        pytest.param(b"SZDD\x88\xf0\x27\x33A_", "expand.exe", id="SZDD"),
        pytest.param(b"\x7fELF\x02\x01" + bytes(30), "ELF file", id="ELF"),
        pytest.param(b"hibr" + bytes(30), "hibernation file: convert it", id="hibernation"),
        pytest.param(b"Enc_Dmp!" + bytes(30), "encrypted firmware dump", id="encrypted"),
        pytest.param(b"Raw_Dmp!" + bytes(30), "written by firmware", id="firmware"),
        pytest.param(b"KDUMP   " + bytes(30), "Linux kernel dump", id="kdump"),
        pytest.param(b"makedumpfile\0\0\0\0", "Linux kernel dump", id="makedumpfile"),
        pytest.param(b"EVF\x09\r\n\xff\0" + bytes(30), "EnCase image.*ewfexport", id="EnCase"),
        pytest.param(b"\r\n<!DOCTYPE html><html>", "web page", id="HTML"),
        pytest.param(bytes(8192), "begins with zeros", id="zeros"),
        pytest.param(b"Dear reader, this is prose.", "no known kind", id="prose"),
        pytest.param(b"EVF\x09\r\n\xff\0" + bytes(60), r"EnCase image \(E01\), .*ewfexport", id="EnCase"),
        pytest.param(b"\x9b" * 60 + b"PK\5\6\2\0" + bytes(16), "last part of a split zip .*zip -s 0", id="split-zip"),
        pytest.param(b"\x9b" * 60 + b"PK\5\6" + bytes(18), "zip archive behind something else", id="zip-behind"),
        pytest.param(bytes(range(200, 256)), "no known kind", id="noise"),
    ],
)
def test_what_is_not_read_is_refused_by_name_and_with_advice(data: bytes, problem: str) -> None:
    with pytest.raises(UnknownFormat, match=problem):
        detect(BytesView(data))


def test_only_the_start_of_an_input_is_looked_at() -> None:
    class Huge:
        size = 1 << 40

        def read(self, offset: int, length: int) -> bytes:
            assert offset + length <= 1 << 16 or (offset, length) == (self.size - 22, 22)
            return b"x" * length

    with pytest.raises(UnknownFormat):
        detect(Huge())


def written(tmp_path: Path, name: str, data: bytes) -> str:
    file = tmp_path / name
    file.write_bytes(data)
    return str(file)


def modules(records: list[Record]) -> list[str]:
    return [record.name for record in records if isinstance(record, Module)]


@pytest.mark.parametrize(
    ("data", "kind", "name"),
    [
        (IMAGE, InputKind.IMAGE, "input.txt"),
        (PDB, InputKind.PDB, "input.txt"),
        (MINIDUMP, InputKind.MINIDUMP, "a.dll"),
        (LIST, InputKind.MANIFEST, "a.dll"),
        (LOG, InputKind.DEBUGGER_LOG, "a.pdb"),
    ],
)
def test_a_file_is_read_by_the_reader_of_its_kind(data: bytes, kind: InputKind, name: str, tmp_path: Path) -> None:
    path = written(tmp_path, "input.txt", data)
    first, *rest = read_input(path)
    assert isinstance(first, Input)
    assert (first.path, first.kind) == (path, kind)
    assert modules(rest) == [name]


def test_standard_input_is_read_like_a_file_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    records = read_input("-", stdin=io.BytesIO(MINIDUMP))
    first = next(records)
    assert isinstance(first, Input)
    assert (first.path, first.kind) == ("-", InputKind.MINIDUMP)
    assert len(list(tmp_path.iterdir())) == 1
    assert modules(list(records)) == ["a.dll"]
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_the_processs_own_if_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LIST)))
    assert modules(list(read_input("-"))) == ["a.dll"]


def test_a_copy_of_standard_input_goes_when_reading_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    records = read_input("-", stdin=io.BytesIO(LIST))
    next(iter(records))
    records.close()  # type: ignore[attr-defined]  # it is a generator
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes in the file system are a POSIX thing")
def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(LIST,))
    writer.start()
    records = list(read_input(str(pipe)))
    writer.join()
    assert records[0] == Input(str(pipe), InputKind.MANIFEST)
    assert modules(records) == ["a.dll"]


def test_a_folder_is_walked_and_its_dumps_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    written(tmp_path, "b.bin", IMAGE)
    written(tmp_path, "below/c.bin", MINIDUMP)
    written(tmp_path, "list.txt", LIST)
    written(tmp_path, "z.dmp", kernel_dump(3)[:100])
    first, *rest = read_input(str(tmp_path))
    assert first == Input(str(tmp_path), InputKind.FOLDER)
    assert sorted(modules(rest)) == ["a.dll", "b.bin"]
    assert [record.path for record in rest if isinstance(record, Unreadable)] == [str(tmp_path / "z.dmp")]


def test_a_folder_tells_that_disks_and_memory_images_are_passed_over(tmp_path: Path) -> None:
    vectors = b"\x53\xff\x00\xf0" * 1024
    written(tmp_path, "b.img", vectors.ljust(1 << 20, b"\1"))
    disk = written(tmp_path, "a.vhdx", b"vhdxfile".ljust(1 << 20, b"\0"))
    written(tmp_path, "c.vmem", vectors.ljust(1 << 20, b"\1"))
    written(tmp_path, "c.vmss", b"\xd2\xbe\xd2\xbe")  # by which the memory is read
    written(tmp_path, "small", b"vhdxfile")
    written(tmp_path, "text", b"Dear reader, this is prose. " * 100_000)
    (remark,) = (record for record in read_input(str(tmp_path)) if isinstance(record, Remark))
    assert remark.text == (
        f'{disk}: an image of a disk (VHDX), passed over in a folder; `symcache scan "{disk}"` reads it'
        " (disks and memory images in the folder: 2)"
    )


@pytest.mark.parametrize("processes", [None, OF_COMPLETE_DUMPS])
def test_processes_are_read_as_the_options_say(tmp_path: Path, processes: ProcessSelection | None) -> None:
    dump = dump_bytes(build_machine(kernel_plan()), DumpPlan(DumpKind.FULL))
    path = written(tmp_path, "MEMORY.DMP", dump)
    options = InputOptions(processes)
    records = list(read_input(path, options))
    listed = [record.name for record in records if isinstance(record, ProcessSummary)]
    assert ("lsass.exe" in listed) is ("ntdll.dll" in modules(records)) is (processes is not None)
    assert list(open_inputs([path], options)) == records
    assert modules(list(read_input(str(tmp_path), options))) == modules(records)


def test_what_cannot_be_read_is_a_record(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    (record,) = read_input(gone)
    assert isinstance(record, Unreadable)
    assert (record.path, record.offset) == (gone, None)
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "gone").stat()
    assert record.problem == caught.value.strerror
    assert list(read_input("a\0b")) == [Unreadable("a\0b", "a path cannot hold a NUL character")]
    packed = written(tmp_path, "x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(30))
    (record,) = read_input(packed)
    assert isinstance(record, Unreadable)
    assert "unpack it (`7z x FILE`)" in record.problem
    cut = written(tmp_path, "x.dmp", kernel_dump(1)[:100])
    (record,) = read_input(cut)
    assert isinstance(record, Unreadable)
    assert record.offset == 100


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="sockets in the file system are a POSIX thing")
def test_a_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the length of a socket's path is limited
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert list(read_input("socket")) == [Unreadable("socket", "neither a file nor a folder")]


def test_damage_ends_in_records_whatever_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "input"
    for seed in (IMAGE, PDB, MINIDUMP, LIST, LOG, kernel_dump(4)):
        for data in mutants(seed, 100):
            path.write_bytes(data)
            records = list(read_input(str(path)))
            assert records
            assert isinstance(records[0], Input | Unreadable)


_KINDS = {
    "pe": InputKind.IMAGE,
    "pdb": InputKind.PDB,
    "pdb-portable": InputKind.PDB,
    "user-minidump": InputKind.MINIDUMP,
    "kernel-triage": InputKind.TRIAGE_DUMP,
    "logs": InputKind.DEBUGGER_LOG,
}


@needs_corpus
@pytest.mark.parametrize("folder", _KINDS)
def test_real_files_are_told_by_their_content(folder: str) -> None:
    for name in corpus_files(folder):
        with FileView(corpus / name) as view:
            assert detect(view) is _KINDS[folder], name


@needs_corpus
def test_real_cabinets_of_stores_give_the_files_in_them() -> None:
    for name in corpus_files("cab"):
        if not name.endswith("_"):  # others hold texts, or are made to be large
            continue
        records = list(read_input(str(corpus / name)))
        plain = name.rpartition("/")[2][:-1].lower()
        (module,) = (record for record in records if isinstance(record, Module))
        assert module.image or module.pdbs, name
        assert module.name.lower().startswith(plain.partition("_")[0].partition(".")[0]) or "minimal" in name, name
        assert not [record for record in records if isinstance(record, Unreadable)], name


@needs_corpus
@pytest.mark.parametrize("folder", ["pe-bad", "pdb-bad", "user-minidump-bad", "kernel-triage-bad", "cab-bad"])
def test_real_damage_ends_in_records(folder: str) -> None:
    for name in corpus_files(folder):
        records = list(read_input(str(corpus / name)))
        assert isinstance(records[0], Input | Unreadable), name


def test_an_error_of_detection_is_an_input_error() -> None:
    with pytest.raises(InputError):
        detect(BytesView(kernel_dump(1)[:64]))
