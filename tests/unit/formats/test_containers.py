from __future__ import annotations

import random
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.parts import need
from support.synth.ntfs import mbr_disk
from support.synth.virtualdisk import differing_vhd, differing_vhdx, dynamic_vhdx, qcow2, vdi, vmdk

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.disk.bounded import Budget, CountedView
from symcache.formats.disk.containers import VirtualDisk, open_container
from symcache.formats.disk.kinds import DiskFormat, find_disk_format, find_other_disk, name_file_system
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from symcache.formats.view import ByteView

MIB = 1 << 20
_PARTS = [random.Random(1).randbytes(200_000), bytes(MIB), b"text that repeats " * 20_000, bytes(700_000)]
DISK = mbr_disk(b"".join(_PARTS).ljust(3 * MIB, b"\0"))

# The options of qemu-img, and the file that it makes first.
FORMATS = {
    "vhd-dynamic": ("vpc", ["-o", "force_size=on"], DiskFormat.VHD),
    "vhd-fixed": ("vpc", ["-o", "subformat=fixed,force_size=on"], DiskFormat.VHD),
    "vhdx-dynamic": ("vhdx", ["-o", "block_size=1M"], DiskFormat.VHDX),
    "vhdx-fixed": ("vhdx", ["-o", "subformat=fixed"], DiskFormat.VHDX),
    "vmdk-sparse": ("vmdk", [], DiskFormat.VMDK),
    "vmdk-stream": ("vmdk", ["-o", "subformat=streamOptimized"], DiskFormat.VMDK),
    "vmdk-flat": ("vmdk", ["-o", "subformat=monolithicFlat"], DiskFormat.VMDK),
    "vmdk-split-flat": ("vmdk", ["-o", "subformat=twoGbMaxExtentFlat"], DiskFormat.VMDK),
    "vmdk-split-sparse": ("vmdk", ["-o", "subformat=twoGbMaxExtentSparse"], DiskFormat.VMDK),
    "qcow2": ("qcow2", [], DiskFormat.QCOW2),
    "qcow2-old": ("qcow2", ["-o", "compat=0.10"], DiskFormat.QCOW2),
    "qcow2-small": ("qcow2", ["-o", "cluster_size=512"], DiskFormat.QCOW2),
    "qcow2-compressed": ("qcow2", ["-c"], DiskFormat.QCOW2),
    "qcow2-zstd": ("qcow2", ["-c", "-o", "compression_type=zstd"], DiskFormat.QCOW2),
    "qcow2-parts": ("qcow2", ["-o", "extended_l2=on"], DiskFormat.QCOW2),
    "qcow2-apart": ("qcow2", ["-o", "data_file={folder}/data.bin"], DiskFormat.QCOW2),
    "vdi": ("vdi", [], DiskFormat.VDI),
    "vdi-fixed": ("vdi", ["-o", "static=on"], DiskFormat.VDI),
}


def convert(folder: Path, kind: str, options: list[str], name: str, *, source: str = "disk.raw") -> Path:
    filled = [each.format(folder=folder) for each in options]
    command = [need("qemu-img"), "convert", "-q", "-O", kind, *filled, str(folder / source), str(folder / name)]
    subprocess.run(command, check=True)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("dissect")
    path = tmp_path_factory.mktemp("containers")
    (path / "disk.raw").write_bytes(DISK)
    return path


def opened(data: bytes | Path, beside: Mapping[str, bytes] | Path = Path("nowhere")) -> VirtualDisk:
    def open_beside(name: str) -> ByteView:
        if isinstance(beside, Path):
            return BytesView((beside / name).read_bytes())
        if name not in beside:
            raise FileNotFoundError(2, "No such file or directory", name)
        return BytesView(beside[name])

    view = BytesView(data.read_bytes() if isinstance(data, Path) else data)
    format_ = find_disk_format(view)
    assert format_ is not None
    budget = Budget(view.size)
    return open_container(CountedView(view, budget), format_, budget, open_beside)


def read_whole(disk: ByteView) -> bytes:
    """Read in pieces that begin and end anywhere."""
    chosen = random.Random(5)
    pieces, at = [], 0
    while at < disk.size:
        length = min(chosen.choice([1, 511, 4096, 70_001, 900_000]), disk.size - at)
        pieces.append(disk.read(at, length))
        at += length
    return b"".join(pieces)


@pytest.mark.parametrize("name", FORMATS)
def test_what_qemu_img_makes_of_a_disk_reads_as_the_disk(folder: Path, name: str) -> None:
    kind, options, format_ = FORMATS[name]
    if name == "qcow2-zstd":
        need("backports")
    own = folder / name
    own.mkdir()
    (own / "disk.raw").write_bytes(DISK)
    container = opened(convert(own, kind, options, "image"), own)
    assert container.format is format_
    assert container.notes == ()
    disk = container.disk
    assert read_whole(disk)[: len(DISK)] == DISK
    assert disk.size - len(DISK) < 1 << 16
    with pytest.raises(InputError):
        disk.read(disk.size - 1, 2)


@pytest.mark.parametrize(
    "write",
    [vdi, qcow2, partial(qcow2, compressed=True), vmdk, partial(vmdk, compressed=True), dynamic_vhdx],
    ids=["vdi", "qcow2", "qcow2-compressed", "vmdk", "vmdk-compressed", "vhdx"],
)
def test_what_tests_write_reads_as_the_disk(write: Callable[[bytes], bytes]) -> None:
    need("dissect")
    assert read_whole(opened(write(DISK)).disk) == DISK


@pytest.mark.parametrize(("kind", "options"), [("qcow2", ["-F", "qcow2"]), ("vmdk", ["-F", "vmdk"])])
def test_what_an_image_lacks_comes_from_its_parent(folder: Path, kind: str, options: list[str]) -> None:
    own = folder / f"differing-{kind}"
    own.mkdir()
    (own / "disk.raw").write_bytes(DISK)
    convert(own, kind, [], "base")
    child = own / "child"
    need("qemu-img")
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, "-b", "base", str(child)], cwd=own, check=True)
    assert read_whole(opened(child, own).disk)[: len(DISK)] == DISK
    with pytest.raises(MalformedInput, match=r"it needs its parent '.*base' in the same folder: No such file"):
        opened(child, {})


def mixed(sector: int, present: set[int]) -> bytes:
    """Return what a disk of 2 MiB is whose child has the sectors *present* of the first, and a parent the others."""
    parent, child = bytearray(_PARENT), _CHILD
    for each in present:
        parent[each * sector : (each + 1) * sector] = child[each * sector : (each + 1) * sector]
    return bytes(parent)


_PARENT = mbr_disk(random.Random(7).randbytes(2 * MIB - 65536))
_CHILD = random.Random(8).randbytes(2 * MIB)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_vhdx_has_some_sectors_and_its_parent_the_others(sector: int) -> None:
    need("dissect")
    present = set(random.Random(9).sample(range(MIB // sector), 100)) | {0, 1, 2, 3}
    child = differing_vhdx(_CHILD, present, "base.vhdx", sector=sector)
    container = opened(child, {"base.vhdx": dynamic_vhdx(_PARENT)})
    assert read_whole(container.disk) == mixed(sector, present)


def test_a_vhd_has_some_sectors_and_its_parent_the_others() -> None:
    need("dissect")
    present = set(random.Random(9).sample(range(4096), 700))
    child = differing_vhd(_CHILD, present, "base.vhd")
    container = opened(child, {"base.vhd": dynamic_vhdx(_PARENT)})
    assert read_whole(container.disk) == mixed(512, present)


def test_a_parent_is_looked_for_by_its_name_alone() -> None:
    need("dissect")
    asked: list[str] = []

    def ask(name: str) -> ByteView:
        asked.append(name)
        raise FileNotFoundError(2, "No such file or directory", name)

    view = BytesView(differing_vhdx(_CHILD, set(), "..\\..\\secrets\\base.vhdx"))
    with pytest.raises(MalformedInput, match="in the same folder"):
        open_container(view, DiskFormat.VHDX, Budget(view.size), ask)
    assert asked == ["base.vhdx"]


def test_a_disk_that_is_its_own_parent_ends() -> None:
    need("dissect")
    child = differing_vhd(_CHILD, set(), "self.vhd")
    with pytest.raises(MalformedInput, match="more than 32 parents, or is its own"):
        opened(child, {"self.vhd": child})


def test_a_vhdx_that_was_not_closed_is_told() -> None:
    need("dissect")
    container = opened(differing_vhdx(_PARENT, None, "", is_dirty=True))
    assert ["not closed" in each for each in container.notes] == [True]
    assert read_whole(container.disk) == _PARENT


def test_a_qcow_image_of_the_first_version_is_named_and_not_taken_for_encrypted() -> None:
    need("dissect")
    head = b"QFI\xfb" + (1).to_bytes(4, "big") + bytes(16) + (1 << 20).to_bytes(8, "big") + b"\x0c\x09\0\0" + bytes(600)
    with pytest.raises(UnknownFormat, match="version 1, which is not read: convert it"):
        opened(head)


def test_a_vhdx_with_a_damaged_region_table_is_read_by_the_other() -> None:
    need("dissect")
    data = bytearray(dynamic_vhdx(_PARENT))
    data[3 * 65536 : 3 * 65536 + 4] = b"xxxx"
    assert read_whole(opened(bytes(data)).disk) == _PARENT


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"EVF\x09\r\n\xff\0" + bytes(600), "an EnCase image (E01), which is not read: convert it (ewfexport -f raw)"),
        (b"QED\0" + bytes(600), "a QED image, which is not read: convert it (qemu-img convert -O qcow2)"),
        (bytes(600), None),
    ],
)
def test_images_that_are_not_read_are_named(head: bytes, said: str | None) -> None:
    assert find_other_disk(head) == said


@pytest.mark.parametrize(
    ("at", "magic", "name"),
    [(3, b"-FVE-FS-", "BitLocker"), (3, b"ReFS\0\0\0\0", "ReFS"), (82, b"FAT32   ", "FAT32"),
     (0, b"LUKS\xba\xbe", "LUKS"), (1080, b"\x53\xef", "ext4"), (32, b"NXSB", "APFS"), (5, b"nothing", None)],
)  # fmt: skip
def test_file_systems_are_told_by_their_beginning(at: int, magic: bytes, name: str | None) -> None:
    assert name_file_system((bytes(at) + magic).ljust(8192, b"\0")) == name


@pytest.mark.parametrize("kind", ["vhd", "vhdx", "qcow2", "vmdk", "vdi"])
def test_damage_raises_nothing_but_input_errors(kind: str, folder: Path) -> None:
    """Every byte of the headers in turn, and the file cut at many places."""
    option = {"vhd": "vpc"}.get(kind, kind)
    data = (convert(folder, option, [], f"damaged.{kind}")).read_bytes()
    chosen = random.Random(kind)
    places = [start for start in range(0, len(data), 512) if any(data[start : start + 512])]
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(chosen.choice([1, 2, 8])):
            at = chosen.choice(places[: chosen.choice([2, 12, len(places)])]) + chosen.randrange(512)
            width = chosen.choice([1, 2, 4, 8])
            damaged[at : at + width] = chosen.choice([b"\xff" * width, bytes(width), chosen.randbytes(width)])
        if chosen.random() < 0.2:
            del damaged[chosen.randrange(len(damaged)) :]
        if find_disk_format(BytesView(bytes(damaged))) is None:
            continue
        try:
            disk = opened(bytes(damaged), {}).disk
            for at in range(0, min(disk.size, 4 * MIB), 300_000):
                disk.read(at, min(5000, disk.size - at))
        except InputError:
            continue
