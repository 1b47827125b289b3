"""Time and memory to list what a kernel debugger needs of a disk, against dissect's own walk of the same files.

    python tests/bench/bench_disks.py [--files 4000] [--gib 100] [--rounds 3] [--formats raw,vhdx,qcow2,vmdk,vdi]

The disk is sparse, as large as asked for, and has one Windows, whose System32 has so many files, a tenth of them
drivers. Each run is a process of its own, so that its peak memory is its own; both tools must find the same keys.
dissect (hypervisor, volume, ntfs) lists the same folders and opens the same files; what is read of them is parsed by
symcache's reader on both sides. Needs the extra ``disk``, dissect.ntfs, mkntfs, wimlib-imagex and qemu-img.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes

from symcache.errors import InputError
from symcache.formats.view import FileView
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.image import is_image, read_module
from symcache.inputs.records import Module

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_BYTE = 1 << 20
QEMU = {"vhdx": "vhdx", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000, help="files in System32, a tenth of them drivers")
    parser.add_argument("--gib", type=int, default=100, help="size of the disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", default="raw,vhdx,qcow2,vmdk,vdi")
    parser.add_argument("--child", nargs=3, metavar=("TOOL", "FORMAT", "DISK"), help=argparse.SUPPRESS)
    parser.add_argument("--write", metavar="DISK", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_disk(Path(options.write), options.files, options.gib)
        return
    if options.child:
        run_child(*options.child)
        return
    print(f"{'disk':16} {'tool':10} {'modules':>7} {'seconds':>9} {'peak MiB':>9} {'read KiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "disk.raw"
        # In a process of its own: what this one has needed counts for its children.
        made = [sys.executable, __file__, "--write", str(raw), "--files", str(options.files), "--gib", str(options.gib)]
        subprocess.run(made, check=True)
        for format_ in options.formats.split(","):
            path = raw
            if format_ != "raw":
                path = Path(folder) / f"disk.{format_}"
                subprocess.run(["qemu-img", "convert", "-O", QEMU[format_], str(raw), str(path)], check=True)
            found = {tool: report(format_, tool, path, options.rounds) for tool in ("symcache", "dissect")}
            assert found["symcache"] == found["dissect"], "the tools do not find the same"


def write_disk(path: Path, files: int, gib: int) -> None:
    """Write the disk: a volume by mkntfs, its files by wimlib, behind a partition table."""
    source, volume = path.parent / "source", path.parent / "volume.ntfs"
    drivers = source / "Windows" / "System32" / "drivers"
    drivers.mkdir(parents=True)
    (drivers.parent / "ntoskrnl.exe").write_bytes(disk_bytes(ImagePlan(1)))
    for number in range(files):
        folder, suffix = (drivers, "sys") if number % 10 == 0 else (drivers.parent, "dll")
        record = CodeViewPlan(f"{number}.pdb", UUID(int=number + 1), 1)
        plan = ImagePlan(number + 1, code_views=(record,), payload_bytes=0x4000 + number % 7 * 0x1000)
        (folder / f"{number:05}-module.{suffix}").write_bytes(disk_bytes(plan))
    with volume.open("wb") as file:
        file.truncate((64 << 20) + files * (48 << 10))
    mkntfs = shutil.which("mkntfs", path="/usr/sbin:/sbin:/usr/bin") or "mkntfs"
    for command in (
        [mkntfs, "-F", "-q", str(volume)],
        ["wimlib-imagex", "capture", str(source), str(path.parent / "x.wim"), "--compress=none"],
        ["wimlib-imagex", "apply", str(path.parent / "x.wim"), "1", str(volume)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    head = bytearray(512)
    sectors = min(0xFFFFFFFF, (gib << 30) - FIRST_BYTE >> 9)
    struct.pack_into("<B3xB3xII", head, 446, 0x80, 7, FIRST_BYTE // 512, sectors)
    head[510:] = b"\x55\xaa"
    with path.open("wb") as file, volume.open("rb") as content:
        file.truncate(gib << 30)
        file.write(head)
        while piece := content.read(1 << 20):
            file.seek(FIRST_BYTE + content.tell() - len(piece))
            if piece.strip(b"\0"):
                file.write(piece)
    for made in (source, volume, path.parent / "x.wim"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()


def report(name: str, tool: str, path: Path, rounds: int) -> list[str]:
    results: list[dict[str, Any]] = []
    for _ in range(rounds):
        command = [sys.executable, __file__, "--child", tool, name, str(path)]
        results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    seconds, peak = (median(result[key] for result in results) for key in ("seconds", "peak_mib"))
    keys: list[str] = results[0]["keys"]
    read_kib = results[0]["read_kib"]
    read = f"{read_kib:9,}" if read_kib is not None else f"{'':9}"
    print(f"{name:16} {tool:10} {len(keys):7} {seconds:9.3f} {peak:9.1f} {read}", flush=True)
    return keys


def run_child(tool: str, format_: str, path: str) -> None:
    began = time.perf_counter()
    modules = list(by_symcache(path) if tool == "symcache" else by_dissect(path, format_))
    seconds = time.perf_counter() - began
    keys = sorted(f"{module.image.index if module.image else ''} {module.pdbs}" for module in modules)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib, "keys": keys, "read_kib": READ[0] // 1024 or None}))


READ = [0]


def by_symcache(path: str) -> Iterator[Module]:
    read = FileView.read

    def counted(view: FileView, offset: int, length: int) -> bytes:
        READ[0] += length
        return read(view, offset, length)

    FileView.read = counted  # type: ignore[method-assign,assignment]  # in this process alone
    return (record for record in read_input(path) if isinstance(record, Module))


class DissectView:
    """A file of dissect.ntfs as a view."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.size = int(stream.size)

    def read(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        data: bytes = self._stream.read(length)
        return data


def by_dissect(path: str, format_: str) -> Iterator[Module]:
    from dissect.hypervisor.disk import qcow2, vdi, vhd, vhdx, vmdk  # noqa: PLC0415 - only in this process
    from dissect.ntfs import NTFS  # noqa: PLC0415
    from dissect.util.stream import RangeStream  # noqa: PLC0415
    from dissect.volume.disk import Disk  # noqa: PLC0415

    names = InputOptions().disk_names()
    assert names is not None
    with Path(path).open("rb") as file:
        openers: dict[str, Any] = {
            "raw": lambda: file,
            "vhd": lambda: vhd.VHD(file),
            "vhdx": lambda: vhdx.VHDX(file),
            "vmdk": lambda: vmdk.VMDK(file),
            "qcow2": lambda: qcow2.QCow2(file).open(),
            "vdi": lambda: vdi.VDI(file).open(),
        }
        disk: Any = openers[format_]()
        partition = Disk(disk).partitions[0]
        ntfs = NTFS(RangeStream(disk, partition.offset, partition.size))
        for folder in ("Windows/System32", "Windows/System32/drivers"):
            for name, entry in ntfs.mft.get(folder).listdir(ignore_dos=True).items():
                if not names.takes(name) or entry.attribute.is_dir():
                    continue
                view = DissectView(entry.dereference().open())
                try:
                    if is_image(view.read(0, 4)):
                        yield from read_module(view, f"\\{folder}\\{name}".replace("/", "\\"))
                except InputError:
                    continue


if __name__ == "__main__":
    main()
