"""Archives as inputs: what is found in them, what is refused, what hostile ones cost, and that nothing is left."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure, open_handles
from support.kernels import kernel_plan
from support.mutation import mutants
from support.parts import need
from support.synth.cab import Lzx, Mszip, Stored, SynthFolder, build_cabinet
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import ImagePlan, disk_bytes, plan_image
from support.synth.reports import ReportedModule, firefox_profile, stackwalk_report
from support.synth.version import VersionPlan, version_bytes

from symcache.config import Inputs
from symcache.formats.view import BytesView, FileView
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.detect import InputOptions, detect, read_input
from symcache.inputs.records import (
    CrashStack,
    Input,
    InputKind,
    KernelPdbWanted,
    Module,
    ProcessSelection,
    Record,
    Unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

GUID = UUID(int=0x1234)
IMAGE = disk_bytes(plan_image(ImageKey("a.dll", 0x5F000000, 0x8000), PdbKey("a.pdb", GUID, 1)))
PDB = make_pdb(NativePdbSpec(GUID))
MINIDUMP = build_minidump(MinidumpPlan([MinidumpModule(r"C:\m.dll", 0x10000, 0x8000, 0x5F000000)]))
LOG = f"SYMSRV:  c:\\sym\\l.pdb\\{GUID.hex.upper()}1\\l.pdb not found\r\n".encode()
APP = ReportedModule("app.exe", "app.pdb", GUID, 1, 0x5F000000, 0x8000)
REPORT = json.dumps(stackwalk_report([APP], ["app.exe"])).encode()
PROFILE = json.dumps(firefox_profile([APP])).encode()
NOISE = random.Random(7).randbytes(100_000)

FILES: dict[str, bytes] = {
    "bin/a.dll": IMAGE,
    "crash/m.dmp": MINIDUMP,
    "readme.txt": b"nothing to see here\n" * 100,
    "bin/a.pdb": PDB,
    "session.log": LOG,
    "noise.bin": NOISE,
    "empty": b"",
}


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def zipped_into_a_pipe(files: Mapping[str, bytes]) -> bytes:
    """Return a zip whose lengths stand behind its members."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a pipe")

    file = Pipe()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: Mapping[str, bytes], format_: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as archive:
        folder = tarfile.TarInfo("bin")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def cabbed(files: Mapping[str, bytes], compression: Stored | Mszip | Lzx) -> bytes:
    names = list(files.items())
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    return build_cabinet([SynthFolder(half, compression) for half in halves if half])


def in_program(program: str, *arguments: str, content: bytes) -> bytes:
    return subprocess.run([need(program), *arguments], input=content, stdout=subprocess.PIPE, check=True).stdout


@pytest.fixture
def _zstd() -> None:
    if sys.version_info < (3, 14):
        need("backports.zstd")


needs_zstd = pytest.mark.usefixtures("_zstd")


def read(data: bytes, path: str = "x.zip", **limits: int) -> list[Record]:
    options = InputOptions(limits=Inputs(**limits)) if limits else InputOptions()
    return list(read_input((path, data), options))


def modules(records: Sequence[Record]) -> list[str]:
    return sorted({record.name for record in records if isinstance(record, Module)})


def problems(records: Sequence[Record]) -> list[str]:
    return [f"{record.path}: {record.problem}" for record in records if isinstance(record, Unreadable)]


def inputs(records: Sequence[Record]) -> dict[str, InputKind]:
    return {record.path: record.kind for record in records if isinstance(record, Input)}


def owners(records: Sequence[Record]) -> dict[str, str]:
    """Return the path of the input that each module belongs to."""
    path, owned = "", {}
    for record in records:
        if isinstance(record, Input):
            path = record.path
        elif isinstance(record, Module):
            owned[record.name] = path
    return owned


ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip, stored": lambda files: zipped(files, zipfile.ZIP_STORED),
    "zip, deflate": zipped,
    "zip, bzip2": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "zip, LZMA": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "zip, lengths behind": zipped_into_a_pipe,
    "zip behind a program": lambda files: b"PK00" + zipped(files),
    "ustar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "GNU tar": tarred,
    "pax": lambda files: tarred(files, tarfile.PAX_FORMAT),
    "tar.gz": lambda files: gzip.compress(tarred(files)),
    "tar.xz": lambda files: lzma.compress(tarred(files)),
    "tar.bz2": lambda files: bz2.compress(tarred(files)),
    "cabinet, stored": lambda files: cabbed(files, Stored()),
    "cabinet, MSZIP": lambda files: cabbed(files, Mszip()),
    "cabinet, LZX": lambda files: cabbed(files, Lzx()),
}


@pytest.mark.parametrize("pack", ARCHIVES.values(), ids=ARCHIVES)
def test_every_kind_of_archive_gives_what_it_holds(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    data = pack(FILES)
    assert detect(BytesView(data)) is InputKind.ARCHIVE
    records = read(data)
    assert modules(records) == ["a.dll", "a.pdb", "l.pdb", "m.dll"]
    assert problems(records) == []
    assert inputs(records) == {
        "x.zip": InputKind.ARCHIVE,
        "x.zip/crash/m.dmp": InputKind.MINIDUMP,
        "x.zip/session.log": InputKind.DEBUGGER_LOG,
    }
    assert owners(records) == {
        "a.dll": "x.zip",
        "a.pdb": "x.zip",
        "m.dll": "x.zip/crash/m.dmp",
        "l.pdb": "x.zip/session.log",
    }


def test_an_image_is_known_by_its_own_name() -> None:
    (module,) = (record for record in read(zipped({"x/y/a.dll": IMAGE})) if isinstance(record, Module))
    assert module.image == ImageKey("a.dll", 0x5F000000, 0x8000)
    assert module.path == "x.zip/x/y/a.dll"


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        pytest.param(gzip.compress, "crash.dmp.gz", id="gz"),
        pytest.param(lzma.compress, "crash.dmp.xz", id="xz"),
        pytest.param(bz2.compress, "crash.dmp.bz2", id="bz2"),
    ],
)
def test_a_compressed_file_is_what_it_holds_under_its_plain_name(pack: Callable[[bytes], bytes], name: str) -> None:
    records = read(pack(MINIDUMP), f"folder/{name}")
    assert inputs(records) == {
        f"folder/{name}": InputKind.ARCHIVE,
        f"folder/{name}/crash.dmp": InputKind.MINIDUMP,
    }
    assert modules(records) == ["m.dll"]
    # Files that were put one behind the other are one.
    half = len(MINIDUMP) // 2
    assert modules(read(pack(MINIDUMP[:half]) + pack(MINIDUMP[half:]), name)) == ["m.dll"]
    assert modules(read(pack(MINIDUMP) + bytes(512), name)) == ["m.dll"]


def test_gzips_own_note_of_a_name_counts() -> None:
    file = io.BytesIO()
    with gzip.GzipFile("a.dll", "wb", fileobj=file) as packed:
        packed.write(IMAGE)
    (module,) = (record for record in read(file.getvalue(), "upload.bin") if isinstance(record, Module))
    assert module.image == ImageKey("a.dll", 0x5F000000, 0x8000)


@needs_zstd
@pytest.mark.parametrize("arguments", [(), ("-19", "--long=27"), ("--no-check",)])
def test_zstd_is_read(arguments: tuple[str, ...]) -> None:
    packed = in_program("zstd", "-qc", *arguments, content=MINIDUMP)
    records = read(packed + b"\x50\x2a\x4d\x18\4\0\0\0skip" + packed, "m.dmp.zst")
    assert modules(records) == ["m.dll"]
    assert modules(read(in_program("zstd", "-qc", content=tarred(FILES)), "x.tar.zst")) == modules(read(tarred(FILES)))


@needs_zstd
def test_zstd_that_wants_too_much_memory_is_refused() -> None:
    content = random.Random(1).randbytes(1 << 16)
    frame = bytearray(in_program("zstd", "-qc", "--no-check", "--no-content-size", content=content))
    frame[5] = 21 << 3  # a window of 2 GiB
    assert "damaged" in problems(read(bytes(frame)))[0] or "memory" in problems(read(bytes(frame)))[0]


def test_zstd_without_its_extra_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "compression", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "symcache[archives]" in problems(read(b"\x28\xb5\x2f\xfd" + bytes(30), "m.dmp.zst"))[0]


@pytest.mark.parametrize("arguments", [("-9e",), ("--check=none",), ("--lzma2=dict=64MiB",)])
def test_the_forms_of_xz_are_read(arguments: tuple[str, ...]) -> None:
    assert modules(read(in_program("xz", "-c", *arguments, content=MINIDUMP), "m.dmp.xz")) == ["m.dll"]


def test_xz_that_wants_too_much_memory_is_refused() -> None:
    packed = in_program("xz", "-c", "--lzma2=dict=1GiB", content=b"x" * 100)
    assert "too much memory" in problems(read(packed))[0]


def with_7z(folder: Path, files: Mapping[str, bytes], *arguments: str) -> bytes:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    archive = folder / "made.zip"
    command = [need("7z"), "a", "-tzip", *arguments, archive.name, *files]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archive.read_bytes()


def test_deflate64_as_windows_writes_it_is_read_with_the_extra(tmp_path: Path) -> None:
    need("inflate64")
    assert modules(read(with_7z(tmp_path, FILES, "-mm=Deflate64"))) == modules(read(zipped(FILES)))


def test_deflate64_without_the_extra_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_7z(tmp_path, {"m.dmp": MINIDUMP, "log.txt": LOG}, "-mm=Deflate64")
    monkeypatch.setitem(sys.modules, "inflate64", None)
    (problem, *_) = problems(read(data))
    assert problem.startswith("x.zip/log.txt: compressed with Deflate64")
    assert "7z x" in problem


@pytest.mark.parametrize("method", ["ZipCrypto", "AES256"])
def test_a_password_is_said_and_the_rest_goes_on(tmp_path: Path, method: str) -> None:
    data = with_7z(tmp_path, {"m.dmp": MINIDUMP}, "-psecret", f"-mem={method}")
    (problem,) = problems(read(data))
    assert problem == "x.zip/m.dmp: encrypted with a password: unpack it and give what was in it"
    with zipfile.ZipFile(archive := tmp_path / "made.zip", "a") as more:
        more.writestr("a.dll", IMAGE)
    records = read(archive.read_bytes())
    assert (modules(records), len(problems(records))) == (["a.dll"], 1)


def test_7z_and_rar_in_an_archive_are_named_with_what_unpacks_them() -> None:
    records = read(zipped({"x.7z": b"7z\xbc\xaf\x27\x1c" + NOISE, "y.rar": b"Rar!\x1a\x07\1\0", "a.dll": IMAGE}))
    first, second = problems(records)
    assert "x.zip/x.7z: a 7z archive, which is not read: unpack it (`7z x FILE`)" in first
    assert "`unrar x FILE`" in second
    assert modules(records) == ["a.dll"]


def large_dump() -> bytes:
    """Return a kernel dump that is expanded to disk."""
    return dump_bytes(build_machine(kernel_plan()), DumpPlan(DumpKind.FULL)) + bytes(5 << 20)


def test_a_kernel_dump_in_an_archive_is_read_with_its_processes() -> None:
    dump = large_dump()
    plain = [each for each in read_input(("MEMORY.DMP", dump)) if isinstance(each, Module | CrashStack)]
    data = gzip.compress(dump, 1)
    packed = [each for each in read(data, "MEMORY.DMP.gz") if isinstance(each, Module | CrashStack)]
    assert packed == plain
    assert modules(read(zipped({"d/MEMORY.DMP": dump}))) == sorted(
        {each.name for each in plain if isinstance(each, Module)}
    )


def test_what_cannot_be_read_again_says_who_made_it() -> None:
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": "Example Ltd"}}))
    made = ImagePlan(0x5F000000, 0x9000, versions=((1, 0x409, version),))
    plan = kernel_plan()
    drivers = tuple(replace(each, image=replace(each.image, versions=made.versions)) for each in plan.drivers)
    dump = dump_bytes(build_machine(replace(plan, drivers=drivers)), DumpPlan())
    companies = {
        record.name: record.version.company
        for record in read(zipped({"MEMORY.DMP": dump, "made.sys": disk_bytes(made), "a.dll": IMAGE}))
        if isinstance(record, Module) and record.version is not None
    }
    assert {"ntoskrnl.exe", "made.sys"} <= companies.keys()
    assert "a.dll" not in companies
    assert set(companies.values()) == {"Example Ltd"}


def test_a_dump_waits_for_its_kernels_pdb_and_is_gone_when_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.inputs.usermodules.find_kernel_layout", lambda *_: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dump = large_dump()
    asked = after = 0
    for record in read_input(("x.zip", zipped({"one.dmp": dump, "two.dmp": dump})), InputOptions(ProcessSelection())):
        if isinstance(record, KernelPdbWanted):
            asked += 1
            (scratch,) = [path for path in tmp_path.rglob("*") if path.is_file()]
            assert scratch.stat().st_size == len(dump)
            assert scratch.name.isdecimal()
        after += asked and isinstance(record, Module | Unreadable)
    assert (asked, bool(after)) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_reading_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = open_handles()
    dump = large_dump()
    records = read_input(("x.zip", zipped({"MEMORY.DMP": dump})))
    while not isinstance(next(records), Module):
        pass
    records.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
    assert open_handles() == before


def test_what_is_not_compressed_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))  # nothing could be written
    dump = large_dump()
    expected = modules(list(read_input(("MEMORY.DMP", dump))))
    assert modules(read(tarred({"MEMORY.DMP": dump}))) == expected
    assert modules(read(zipped({"MEMORY.DMP": dump}, zipfile.ZIP_STORED))) == expected


def test_archives_in_archives_are_read_as_far_down_as_is_allowed() -> None:
    inner = zipped({"m.dmp": MINIDUMP})
    for _ in range(2):
        inner = zipped({"in/inner.zip": inner})
    records = read(inner)
    assert inputs(records)["x.zip/in/inner.zip/in/inner.zip/m.dmp"] is InputKind.MINIDUMP
    assert modules(records) == ["m.dll"]
    (problem,) = problems(read(zipped({"deeper.zip": inner})))
    assert "archives in archives are read 3 deep" in problem
    assert modules(read(zipped({"deeper.zip": inner}), deepest=4)) == ["m.dll"]


def test_a_compressed_tar_counts_as_one_archive() -> None:
    inner = gzip.compress(tarred({"m.dmp": MINIDUMP}))
    for _ in range(2):
        inner = gzip.compress(tarred({"inner.tar.gz": inner}))
    assert modules(read(inner, deepest=6)) == ["m.dll"]
    assert modules(read(zipped({"a.tar.gz": gzip.compress(tarred({"m.dmp": MINIDUMP}))}), deepest=2)) == ["m.dll"]


@pytest.mark.parametrize("pack", [zipped, tarred, gzip.compress, lzma.compress, lambda files: cabbed(files, Mszip())])
def test_every_kind_of_archive_is_read_in_another(pack: Callable[[object], bytes]) -> None:
    is_stream = pack in (gzip.compress, lzma.compress)
    inner = pack(MINIDUMP if is_stream else {"m.dmp": MINIDUMP})
    for outer in (zipped({"x": inner}), tarred({"x": inner}), gzip.compress(tarred({"x": inner}))):
        assert modules(read(outer)) == ["m.dll"]


def test_json_and_lists_in_an_archive_are_inputs() -> None:
    records = read(
        zipped(
            {
                "r.json": REPORT,
                "p.json": PROFILE,
                "package.json": b'{"name": "x"}',
                "w.txt": b"a.dll/5F0000008000/a.dll\n",
            }
        )
    )
    assert inputs(records) == {
        "x.zip": InputKind.ARCHIVE,
        "x.zip/r.json": InputKind.CRASH_REPORT,
        "x.zip/p.json": InputKind.PROFILE,
        "x.zip/w.txt": InputKind.MANIFEST,
    }
    assert problems(records) == []


def test_a_gzipped_profile_is_a_profile() -> None:
    records = read(gzip.compress(PROFILE), "profile.json.gz")
    assert inputs(records)["profile.json.gz/profile.json"] is InputKind.PROFILE
    assert modules(records) == ["app.exe"]


def test_archives_in_a_folder_are_read_and_texts_in_them_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.zip").write_bytes(zipped(FILES))
    (tmp_path / "m.dl_").write_bytes(cabbed({"a.dll": IMAGE}, Mszip()))
    (tmp_path / "a.json").write_bytes(REPORT)
    records = list(read_input(str(tmp_path)))
    assert modules(records) == ["a.dll", "a.pdb", "m.dll"]
    assert inputs(records) == {str(tmp_path): InputKind.FOLDER}
    assert problems(records) == []


def test_an_archive_in_a_folder_that_holds_nothing_is_passed_over_as_other_files_are(tmp_path: Path) -> None:
    (tmp_path / "sources.zip").write_bytes(zipped({"a.c": b"int a;\n"}))
    (tmp_path / "server.log.gz").write_bytes(gzip.compress(b"prose, and no more than that\n"))
    (tmp_path / "empty.zip").write_bytes(zipped({}))
    (tmp_path / "a.dll").write_bytes(IMAGE)
    records = list(read_input(str(tmp_path)))
    assert (modules(records), problems(records)) == (["a.dll"], [])


def test_an_archive_without_anything_says_so() -> None:
    assert problems(read(zipped({"a.txt": b"prose, and no more than that\n", "b.bin": NOISE}))) == [
        "x.zip: nothing in it is read: no dump, image, PDB or other input"
    ]
    (problem,) = problems(read(zipped({"core": b"\x7fELF" + NOISE})))
    assert "ELF file" in problem
    assert problems(read(zipped({}))) == ["x.zip: it holds no files"]


HOSTILE_NAMES = [
    "../x.dll",
    "/etc/x.dll",
    "C:\\Windows\\x.dll",
    "..\\..\\x.dll",
    "a\0b.dll",
    "nul",
    "con.dll",
    "x.dll::$DATA",
    "\x1b[31mx.dll",
    "..",
    "",
    "x" * 5000 + ".dll",
    "\u202ex.dll",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_in_an_archive_becomes_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    opened: list[Path] = []

    class Noted(FileView):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr("symcache.inputs.archive.FileView", Noted)
    large = IMAGE + bytes(5 << 20)
    for data in (zipped({name: large}), tarred({name.replace("\0", "") or "x": large})):
        records = read(data)
        for record in records:
            path = record.path if isinstance(record, Input | Module | Unreadable) else ""
            assert "/../" not in f"/{path}/"
            assert "\\" not in (path or "")
            assert (path or "").isprintable()
    assert opened
    assert all(path.name.isdecimal() and path.parent.parent == tmp_path / "scratch" for path in opened)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]


def test_a_checksum_that_does_not_match_is_said_and_what_was_read_counts() -> None:
    data = bytearray(zipped({"m.dmp": MINIDUMP, "a.dll": IMAGE}))
    for signature, place in ((b"PK\1\2", 16), (b"PK\3\4", 14)):
        at = data.find(signature) + place
        data[at] ^= 1
    records = read(bytes(data))
    assert modules(records) == ["a.dll", "m.dll"]
    assert problems(records) == ["x.zip/m.dmp: its checksum does not match: some of it is damaged"]


@pytest.mark.parametrize("change", [-100, 100, 1 << 40])
def test_a_length_that_lies_is_said(change: int) -> None:
    data = bytearray(zipped({"m.dmp": MINIDUMP}))
    at = data.find(b"PK\1\2") + 24
    stated = len(MINIDUMP) + change
    if stated < 1 << 32:
        struct.pack_into("<I", data, at, stated)
        assert problems(read(bytes(data)))[-1].startswith("x.zip/m.dmp: it expands to ")
        assert modules(read(bytes(data))) == (["m.dll"] if change > 0 else [])
    else:
        records = read(zip64(MINIDUMP, stated))
        assert "more than inputs.largest_member_bytes allows" in problems(records)[0]


def zip64(content: bytes, stated: int | None = None) -> bytes:
    """Return a zip of one member whose lengths and places stand in Zip64's fields alone."""
    packed = zlib.compress(content, wbits=-15)
    size = len(content) if stated is None else stated
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 8, 0, 0, zlib.crc32(content), 2**32 - 1, 2**32 - 1, 5, 20)
    local += b"m.dmp" + struct.pack("<HHQQ", 1, 16, size, len(packed)) + packed
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, 8, 0, 0, zlib.crc32(content), *[2**32 - 1] * 2, 5, 28, 0, 0, 0, 0,
        2**32 - 1,
    )  # fmt: skip
    entry += b"m.dmp" + struct.pack("<HHQQQ", 1, 24, size, len(packed), 0)
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), len(local))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(local) + len(entry), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return local + entry + end64 + locator + end


def test_zip64_is_read() -> None:
    assert modules(read(zip64(MINIDUMP))) == ["m.dll"]
    assert problems(read(zip64(MINIDUMP))) == []


@pytest.mark.parametrize("pack", [zipped, zipped_into_a_pipe, tarred, lambda files: gzip.compress(tarred(files))])
def test_an_archive_that_is_cut_gives_what_stands_before_the_cut(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    data = pack({"m.dmp": MINIDUMP, "noise": NOISE, "a.dll": IMAGE})
    records = read(data[: len(data) * 2 // 3])
    assert "m.dll" in modules(records)
    assert problems(records)


def test_parts_of_a_split_archive_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(NOISE)
    command = [need("7z"), "a", "-tzip", "-v50k", "split.zip", "noise"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert "a part of a split one" in problems(read((tmp_path / "split.zip.001").read_bytes()))[0]
    whole = bytearray(zipped({"a.dll": IMAGE}))
    whole[whole.rfind(b"PK\5\6") + 4] = 3
    assert "put its parts together" in problems(read(bytes(whole)))[0]


def test_members_that_overlap_are_refused() -> None:
    data = bytearray(zipped({"a.dll": IMAGE, "b.dll": IMAGE}))
    second = data.rfind(b"PK\1\2")
    struct.pack_into("<I", data, second + 42, 0)
    (problem,) = problems(read(bytes(data)))
    assert "its members overlap" in problem


def test_a_cabinet_whose_files_overlap_is_expanded_once() -> None:
    data = bytearray(build_cabinet([SynthFolder([("a.dll", IMAGE), ("b.dll", IMAGE)])]))
    at = data.index(b"b.dll\0") - 16
    struct.pack_into("<I", data, at + 4, 10)
    records = read(bytes(data))
    assert modules(records) == ["a.dll"]
    assert "overlaps another file" in problems(records)[0]


def test_a_bomb_is_given_up_and_a_dump_of_zeros_is_read() -> None:
    zeros = gzip.compress(bytes(16 << 20))
    bomb = zipped({f"{number}.gz": zeros for number in range(40)})
    (problem,) = problems(read(bomb, largest_expanded_bytes=64 << 20))
    assert "expands to more than 67108864 bytes" in problem
    nested = gzip.compress(gzip.compress(bytes(64 << 20)))
    assert "nothing in it" in problems(read(nested))[0]
    sparse = build_minidump(MinidumpPlan([MinidumpModule(r"C:\m.dll", 0x10000, 0x8000, 0x5F000000)])) + bytes(64 << 20)
    assert modules(read(zipped({"m.dmp": sparse}))) == ["m.dll"]


def test_how_far_an_archive_may_expand_depends_on_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symcache.inputs.archive._ALWAYS_EXPANDED_BYTES", 1 << 20)
    data = bz2.compress(bytes(32 << 20))
    assert "expands to more than" in problems(read(data, highest_ratio=1000))[0]
    assert "expands to more than" not in problems(read(data, highest_ratio=1_000_000))[0]


def test_an_archive_that_holds_itself_ends() -> None:
    inner = zipped({"x": NOISE})
    for _ in range(30):
        inner = gzip.compress(inner)
    assert "are read 3 deep" in problems(read(inner))[0]


def test_more_files_than_allowed_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    records = read(tarred({f"{number}.dll": IMAGE for number in range(12)}), most_members=10)
    assert len([record for record in records if isinstance(record, Module)]) == 10
    assert "more than 10 files" in problems(records)[0]
    records = read(zipped({f"{number}.7z": b"7z\xbc\xaf\x27\x1c" for number in range(130)}))
    assert len(problems(records)) == 101
    assert "30 more of its files" in problems(records)[-1]


def test_a_member_that_finds_no_room_is_said_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 300 << 20

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    data = zipped({"MEMORY.DMP": MINIDUMP + bytes(100 << 20), "a.dll": IMAGE})
    records = read(data)
    assert modules(records) == ["a.dll"]
    assert "TMPDIR" in problems(records)[0]


def test_a_sparse_tar_is_read(tmp_path: Path) -> None:
    if b"GNU" not in subprocess.run([need("tar"), "--version"], stdout=subprocess.PIPE, check=True).stdout:
        pytest.skip("another tar than GNU's, which has other options")
    (tmp_path / "m.dmp").write_bytes(MINIDUMP)
    with (tmp_path / "m.dmp").open("r+b") as file:
        file.truncate(8 << 20)
    for form in ([], ["--format=pax"], ["--format=pax", "--sparse-version=0.0"]):
        command = ["tar", "-S", *form, "-cf", "x.tar", "m.dmp"]
        subprocess.run(command, cwd=tmp_path, check=True)
        data = (tmp_path / "x.tar").read_bytes()
        assert len(data) < 1 << 20
        assert (modules(read(data)), problems(read(data))) == (["m.dll"], [])


def test_hostile_archives_cost_little(record_property: Callable[[str, object], None]) -> None:
    entries = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *[0] * 16) * 100_000
    many = entries + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0, len(entries), 0, 0)
    heads = tarred({f"{number}": b"" for number in range(5000)})
    extended = bytearray(tarred({"x": b""}))
    pax = tarfile.TarInfo("p")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    record_of_4_gib = pax.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16)
    ends = b"PK\3\4" + b"PK\5\6" * 15_000
    streams = gzip.compress(b"") * 50_000
    measure([many, heads, bytes(extended), record_of_4_gib, ends, streams], read).check(record_property)


def test_a_large_member_costs_little_memory(record_property: Callable[[str, object], None]) -> None:
    content = (MINIDUMP + bytes(1 << 20)) * 60
    seeds = [zipped({"x.bin": content}), gzip.compress(content, 1), lzma.compress(content, preset=0)]
    cost = measure(seeds, read)
    record_property("grown_mib", cost.grown_bytes >> 20)
    assert cost.grown_bytes < 64 << 20


@pytest.mark.parametrize("pack", ARCHIVES.values(), ids=ARCHIVES)
def test_damage_ends_in_records(pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    for data in mutants(pack({"m.dmp": MINIDUMP[:2000], "a.dll": IMAGE[:600], "l": LOG}), 60):
        assert read(data)


@given(
    st.sampled_from([b"PK\3\4", b"PK\5\6", b"MSCF\0\0\0\0", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh91AY&SY"]), st.binary()
)
def test_any_bytes_behind_a_signature_end_in_records(signature: bytes, rest: bytes) -> None:
    assert read(signature + rest)
