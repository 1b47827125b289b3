from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.parts import need
from support.synth.fat import build_fat
from support.synth.ntfs import NtfsFile, NtfsPlan, Way, build_ntfs, gpt_disk, mbr_disk
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes
from support.synth.regf import build_hive
from support.synth.version import VersionPlan, version_bytes
from support.synth.wim import WimPlan, build_wim
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.inputs.detect import InputOptions, detect, read_input
from symcache.inputs.disk import ChosenImage, read_disk
from symcache.inputs.records import Input, InputKind, Module, Unreadable
from symcache.inputs.versions import read_versions

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.inputs.records import Record

CURRENT_VERSION = {
    "ProductName": "Windows 10 Pro",
    "CurrentBuild": "22621",
    "UBR": 1483,
    "CurrentMajorVersionNumber": 10,
    "CurrentMinorVersionNumber": 0,
    "BuildLabEx": "22621.1.amd64fre.ni_release.220506-1250",
}
HIVE = build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": CURRENT_VERSION}}, "Other": {"A": {}, "B": {}}})
DEFAULT = InputOptions().disk_names()


def image(number: int, name: str, payload_bytes: int = 0x2000) -> bytes:
    pdb = name.rpartition(".")[0] + ".pdb"
    view = CodeViewPlan(pdb, UUID(int=number + 1), 1)
    return disk_bytes(ImagePlan(0x5AB38000 + number, code_views=(view,), payload_bytes=payload_bytes))


PATHS = (
    "Windows/System32/ntoskrnl.exe",
    "Windows/System32/hal.dll",
    "Windows/System32/ntdll.dll",
    "Windows/System32/calc.exe",
    "Windows/System32/drivers/ntfs.sys",
    "Windows/System32/drivers/vendor.sys",
    "Windows/System32/DriverStore/FileRepository/card.inf_amd64_1/card.sys",
    "Windows/SysWOW64/ntdll.dll",
    "Windows/explorer.exe",
    "Program Files/other/other.sys",
)
WANTED = ["hal.dll", "ntoskrnl.exe", "ntfs.sys", "vendor.sys", "card.sys"]
IMAGES = {path: image(number, path.rpartition("/")[2]) for number, path in enumerate(PATHS)}
HIVE_PATH = "Windows/System32/config/SOFTWARE"


def windows(way: Way = Way.RUN, **more: NtfsFile) -> bytes:
    files = {path: NtfsFile(data, way) for path, data in IMAGES.items()} | {HIVE_PATH: NtfsFile(HIVE)}
    return build_ntfs(NtfsPlan(files | {path.replace("__", "/"): file for path, file in more.items()}, in_blocks=True))


def read(data: bytes, names: Any = DEFAULT, path: str = "disk.img", **more: Any) -> list[Record]:
    assert detect(BytesView(data)) is InputKind.DISK
    return list(read_disk(BytesView(data), path, names=names, **more))


def module_names(records: list[Record]) -> list[str]:
    return [record.name for record in records if isinstance(record, Module)]


def details(records: list[Record]) -> Any:
    assert isinstance(records[0], Input)
    return records[0].details


@pytest.mark.parametrize("way", [Way.RUN, Way.PIECES, Way.LZNT1, Way.OVERLAY])
def test_a_volume_gives_the_modules_that_a_kernel_debugger_needs(way: Way) -> None:
    records = read(windows(way))
    assert module_names(records) == WANTED
    modules = {record.name: record for record in records if isinstance(record, Module)}
    ntfs = modules["ntfs.sys"]
    assert ntfs.path == "\\Windows\\System32\\drivers\\ntfs.sys"
    assert ntfs.image is not None
    assert ntfs.image.timestamp == 0x5AB38000 + 4
    assert [each.key.index for each in ntfs.pdbs] == [f"ntfs.pdb/{5:032X}1/ntfs.pdb"]
    assert not any(isinstance(record, Unreadable) for record in records)


def test_a_set_says_which_modules_are_wanted() -> None:
    only = InputOptions(only=("user-core",)).disk_names()
    assert module_names(read(windows(), only)) == ["ntdll.dll", "explorer.exe", "ntdll.dll"]
    everything = module_names(read(windows(), InputOptions(only=("all",)).disk_names()))
    assert sorted(everything) == sorted(path.rpartition("/")[2] for path in PATHS if path.startswith("Windows"))


def test_the_build_is_that_of_the_registry() -> None:
    need("dissect")
    (found,) = details(read(windows()))["windows"]
    assert found == {
        "path": "\\Windows",
        "where": "the volume",
        "product": "Windows 11 Pro",
        "build": "10.0.22621.1483",
        "build_lab": "22621.1.amd64fre.ni_release.220506-1250",
        "build_source": "SOFTWARE",
    }


def test_without_a_registry_the_build_is_that_of_the_kernel() -> None:
    version = version_bytes(VersionPlan({}, file=(10, 0, 19041, 508)))
    kernel = disk_bytes(ImagePlan(1, versions=((1, 0x409, version),)))
    files = {"Windows/System32/ntoskrnl.exe": NtfsFile(kernel), HIVE_PATH: NtfsFile(b"regf" + bytes(5000))}
    (found,) = details(read(build_ntfs(NtfsPlan(files))))["windows"]
    assert (found["build"], found["build_source"]) == ("10.0.19041.508", "ntoskrnl.exe")


def test_a_file_of_several_names_is_read_once() -> None:
    link = ("Windows/System32/DriverStore/FileRepository/n.inf_1/ntfs.sys",)
    files = {
        "Windows/System32/ntoskrnl.exe": NtfsFile(IMAGES[PATHS[0]]),
        "Windows/System32/drivers/ntfs.sys": NtfsFile(IMAGES[PATHS[4]], links=link),
    }
    records = read(build_ntfs(NtfsPlan(files)))
    assert module_names(records) == ["ntoskrnl.exe", "ntfs.sys"]


def test_a_file_that_cannot_be_read_does_not_stop_the_others() -> None:
    bad = {
        "Windows__System32__drivers__cut.sys": NtfsFile(IMAGES[PATHS[4]][:0x90]),
        "Windows__System32__drivers__locked.sys": NtfsFile(IMAGES[PATHS[4]], Way.ENCRYPTED),
        "Windows__System32__drivers__text.sys": NtfsFile(b"no image"),
    }
    records = read(windows(Way.RUN, **bad))
    assert module_names(records) == WANTED
    said = {record.path: record.problem for record in records if isinstance(record, Unreadable)}
    assert said == {
        "disk.img:\\Windows\\System32\\drivers\\cut.sys": "the file ends within its PE header",
        "disk.img:\\Windows\\System32\\drivers\\locked.sys": "it is encrypted by its user's key (EFS)",
    }


@pytest.mark.parametrize("make", [mbr_disk, gpt_disk, lambda *parts: gpt_disk(*parts, sector=4096)])
def test_every_partition_is_looked_at(make: Any) -> None:
    need("dissect")
    other = build_ntfs(NtfsPlan({"Data/x.txt": NtfsFile(b"x")}))
    fat = bytearray(65536)
    fat[82:90], fat[510:512] = b"FAT32   ", b"\x55\xaa"
    records = read(make(bytes(fat), other, windows()))
    assert module_names(records) == WANTED
    said = details(records)
    assert [each["file_system"] for each in said["volumes"]] == ["FAT32", "NTFS", "NTFS"]
    assert [each["where"] for each in said["windows"]] == ["partition 3"]


def test_two_installations_are_both_read() -> None:
    need("dissect")
    second = {
        "Windows/System32/ntoskrnl.exe": NtfsFile(image(77, "ntoskrnl.exe")),
        "Windows/System32/drivers/b.sys": NtfsFile(image(78, "b.sys")),
    }
    records = read(mbr_disk(windows(), build_ntfs(NtfsPlan(second))))
    assert module_names(records) == [*WANTED, "ntoskrnl.exe", "b.sys"]
    assert [each["where"] for each in details(records)["windows"]] == ["partition 1", "partition 2"]


def boot_store(device: bytes, root: str) -> bytes:
    chosen = "{11111111-2222-3333-4444-555555555555}"
    manager = {"23000003": {"Element": chosen}}
    loader = {"21000001": {"Element": bytes(32) + device + bytes(24)}, "22000002": {"Element": root}}
    objects = {"{9dea862c-5cdd-4e70-acc1-f32b344d4795}": manager, chosen: loader}
    return build_hive({"Objects": {name: {"Elements": elements} for name, elements in objects.items()}})


def second_windows() -> bytes:
    files = {"ntoskrnl.exe": image(77, "ntoskrnl.exe"), "drivers/b.sys": image(78, "b.sys")}
    return build_ntfs(NtfsPlan({f"Windows/System32/{name}": NtfsFile(data) for name, data in files.items()}))


def test_what_the_boot_entry_names_comes_first_by_the_guid_of_its_partition() -> None:
    need("dissect")
    store = boot_store(UUID(int=3).bytes_le, "\\Windows")  # which the third partition has
    system = build_fat({"EFI": {"Microsoft": {"Boot": {"BCD": store}}}})
    records = read(gpt_disk(system, windows(), second_windows()))
    assert module_names(records) == ["ntoskrnl.exe", "b.sys", *WANTED]
    found = details(records)["windows"]
    assert [(each["where"], each.get("is_started")) for each in found] == [("partition 3", True), ("partition 2", None)]


def test_what_the_boot_entry_names_comes_first_by_where_its_partition_begins() -> None:
    need("dissect")
    first, second = windows(), second_windows()
    begins = 65536 + -(-len(first) // 65536) * 65536
    system = build_ntfs(NtfsPlan({"Boot/BCD": NtfsFile(boot_store(begins.to_bytes(8, "little"), "\\WINDOWS"))}))
    records = read(mbr_disk(first, second, system))
    assert [each["where"] for each in details(records)["windows"]] == ["partition 2", "partition 1"]
    damaged = build_ntfs(NtfsPlan({"Boot/BCD": NtfsFile(b"regf" + bytes(9000))}))
    records = read(mbr_disk(first, second, damaged))
    assert [each["where"] for each in details(records)["windows"]] == ["partition 1", "partition 2"]


def test_a_stick_that_installs_windows_is_read_by_its_wim_file() -> None:
    need("dissect")
    tree = {"Windows": {"System32": {"ntoskrnl.exe": IMAGES[PATHS[0]], "drivers": {}}}}
    stick = build_fat({"sources": {"boot.wim": build_wim(WimPlan({"PE": tree}, "xpress"))}}, 16)
    records = read(mbr_disk(stick))
    assert module_names(records) == ["ntoskrnl.exe"]
    assert details(records)["windows"][0]["where"] == "partition 1, sources/boot.wim, image 1"


def test_what_an_upgrade_left_is_read_only_where_there_is_nothing_else() -> None:
    old = {f"Windows.old/{path}": NtfsFile(image(90 + number, "x")) for number, path in enumerate(PATHS[:2])}
    both = build_ntfs(NtfsPlan({path: NtfsFile(data) for path, data in IMAGES.items()} | old, in_blocks=True))
    records = read(both)
    assert module_names(records) == WANTED
    assert details(records)["passed_over"] == ["\\Windows.old\\Windows (the volume)"]
    alone = read(build_ntfs(NtfsPlan(old)))
    assert module_names(alone) == ["hal.dll", "ntoskrnl.exe"]
    assert details(alone)["windows"][0]["path"] == "\\Windows.old\\Windows"


def volume_of(at: int, magic: bytes) -> bytes:
    return (bytes(at) + magic).ljust(65536, b"\0")


@pytest.mark.parametrize(
    ("magic", "said"),
    [
        (b"-FVE-FS-", "partition 1: the volume is encrypted by BitLocker; unlock it"),
        (b"ReFS\0\0\0\0", "partition 1: ReFS, which is not read"),
        (b"NOTHING!", "partition 1: no file system that is known"),
    ],
)
def test_a_disk_without_a_windows_says_what_is_on_it(magic: bytes, said: str) -> None:
    need("dissect")
    with pytest.raises(MalformedInput, match="no Windows was found on it") as error:
        read(mbr_disk(volume_of(3, magic), build_ntfs(NtfsPlan({"x": NtfsFile(b"")}))))
    assert said in error.value.problem
    assert "partition 2: no folder of Windows" in error.value.problem


def test_an_encrypted_volume_beside_a_windows_is_a_note() -> None:
    need("dissect")
    records = read(mbr_disk(volume_of(3, b"-FVE-FS-"), windows()))
    assert module_names(records) == WANTED
    assert [each.partition(";")[0] for each in details(records)["notes"]] == [
        "partition 1: the volume is encrypted by BitLocker"
    ]


def test_a_damaged_volume_beside_a_windows_is_told() -> None:
    need("dissect")
    damaged = bytearray(build_ntfs(NtfsPlan({})))
    damaged[0x30:0x40] = b"\xff" * 16
    records = read(mbr_disk(bytes(damaged), windows()))
    assert module_names(records) == WANTED
    assert [each.path for each in records if isinstance(each, Unreadable)] == ["disk.img:partition 1"]


def test_of_a_volume_whose_root_is_damaged_what_is_left_is_had() -> None:
    files = {path: NtfsFile(data) for path, data in IMAGES.items()}
    crowd = {f"folder with a long name {number}/x": NtfsFile(b"", Way.RESIDENT) for number in range(60)}
    data = bytearray(build_ntfs(NtfsPlan(files | crowd, in_blocks=True)))
    blocks = [at for at in range(0, len(data), 1024) if data[at : at + 4] == b"INDX"]
    root = [at for at in blocks if "folder with a long name 0".encode("utf-16-le") in data[at : at + 4096]]
    data[root[0] + 1022] ^= 1  # the name Windows stands in a later one
    assert module_names(read(bytes(data))) == WANTED


def test_a_disk_that_was_cut_short_gives_what_is_there() -> None:
    need("dissect")
    whole = mbr_disk(windows())
    records = read(whole[: len(whole) - len(whole) // 4])
    found = [record.name for record in records if isinstance(record, Module)]
    assert found
    assert len(found) + sum(isinstance(record, Unreadable) for record in records) >= len(WANTED)


def test_a_file_behind_the_end_of_a_cut_image_is_told_with_the_reason() -> None:
    whole = windows()
    cut = whole[: max(whole.index(IMAGES[path][:512]) for path in PATHS[:6])]
    problems = {record.problem for record in read(cut) if isinstance(record, Unreadable)}
    assert "its data lies behind the end of the disk, whose image is cut short" in problems


@pytest.mark.parametrize("compression", ["none", "xpress", "lzx"])
def test_the_images_of_a_wim_file_give_each_module_once(compression: str) -> None:
    tree = {"Windows": {"System32": {"ntoskrnl.exe": IMAGES[PATHS[0]], "drivers": {"ntfs.sys": IMAGES[PATHS[4]]}}}}
    other = {"Windows": {"System32": {"ntoskrnl.exe": IMAGES[PATHS[0]], "drivers": {"b.sys": image(50, "b.sys")}}}}
    data = build_wim(WimPlan({"Home": tree, "Pro": other}, compression))
    records = read(data)
    assert module_names(records) == ["ntoskrnl.exe", "ntfs.sys", "b.sys"]
    assert [(each["number"], each["name"], each["build"]) for each in details(records)["images"]] == [
        (1, "Home", "10.0.22621.1483"),
        (2, "Pro", "10.0.22621.1483"),
    ]
    assert module_names(read(data, wim_image="Pro")) == ["ntoskrnl.exe", "b.sys"]
    assert module_names(read(data, wim_image="1")) == ["ntoskrnl.exe", "ntfs.sys"]
    with pytest.raises(MalformedInput, match=r"it has no image '3'; it has 1 \(Home\), 2 \(Pro\)"):
        read(data, wim_image="3")


def test_one_image_is_chosen_of_files_that_have_images(tmp_path: Path) -> None:
    tree = {"Windows": {"System32": {"ntoskrnl.exe": IMAGES[PATHS[0]], "drivers": {}}}}
    (tmp_path / "x.wim").write_bytes(build_wim(WimPlan({"Home": tree})))
    (tmp_path / "x.img").write_bytes(windows())
    assert module_names(list(read_input(ChosenImage(str(tmp_path / "x.wim"), "1")))) == ["ntoskrnl.exe"]
    (problem,) = read_input(ChosenImage(str(tmp_path / "x.img"), "1"))
    assert isinstance(problem, Unreadable)
    assert "no WIM file" in problem.problem


def test_a_disc_that_begins_with_zeros_is_no_memory_image() -> None:
    data = bytes(0x8001) + b"CD001".ljust((2 << 20) - 0x8001, b"\0")
    assert detect(BytesView(data)) is InputKind.DISK
    with pytest.raises(InputError):
        list(read_disk(BytesView(data), "x", names=DEFAULT))


class Absent:
    """Makes a package look as if it was not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".", maxsplit=1)[0] == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".", maxsplit=1)[0] == "dissect"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent("dissect"), *sys.meta_path])


HEADS = {
    "VHDX": b"vhdxfile",
    "VHD": b"conectix",
    "VMDK": b"KDMV",
    "QCOW2": b"QFI\xfb\0\0\0\3",
    "VDI": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
}


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("format_", [*HEADS, "raw"])
def test_without_the_extra_a_disk_is_told_and_the_error_names_the_extra(format_: str) -> None:
    data = mbr_disk(windows()) if format_ == "raw" else HEADS[format_].ljust(4096, b"\0")
    assert detect(BytesView(data)) is InputKind.DISK
    with pytest.raises(UnknownFormat) as error:
        list(read_disk(BytesView(data), "x", names=DEFAULT))
    assert error.value.problem == f"an image of a disk ({format_}); it needs an extra: pip install 'symcache[disk]'"


@pytest.mark.usefixtures("without_extra")
def test_what_needs_no_extra_is_read_without() -> None:
    assert module_names(read(windows())) == WANTED
    tree = {"Windows": {"System32": {"ntoskrnl.exe": IMAGES[PATHS[0]], "drivers": {}}}}
    assert module_names(read(build_wim(WimPlan({"Home": tree})))) == ["ntoskrnl.exe"]


def test_only_headers_are_read() -> None:
    big = image(7, "big.sys", payload_bytes=1 << 20)
    data = windows(
        Way.RUN, Windows__System32__drivers__big=NtfsFile(big), **{"Windows__System32__drivers__big.sys": NtfsFile(big)}
    )
    view = CountingView(BytesView(data))
    records = list(read_disk(view, "x", names=DEFAULT))
    assert "big.sys" in module_names(records)
    assert view.read_bytes < 400_000
    assert len(data) > 2 << 20


def test_who_made_a_module_is_read_from_its_file_on_the_disk(tmp_path: Path) -> None:
    vendor = disk_bytes(
        ImagePlan(5, versions=((1, 0x409, version_bytes(VersionPlan({"040904b0": {"CompanyName": "Vendor"}}))),))
    )
    path = "Windows/System32/drivers/vendor.sys"
    (tmp_path / "x.img").write_bytes(windows(Way.OVERLAY, **{path.replace("/", "__"): NtfsFile(vendor, Way.OVERLAY)}))
    for name in (*IMAGES, path):
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_bytes(vendor if name == path else IMAGES[name])
    for source in (tmp_path / "x.img", tmp_path / "mounted"):
        modules = [record for record in read_input(source) if isinstance(record, Module)]
        found = read_versions(source, modules)
        assert {module.name: version.company for module, version in found.items()} == {"vendor.sys": "Vendor"}


def test_a_mounted_folder_of_windows_gives_the_same_as_its_disk(tmp_path: Path) -> None:
    for path, data in {**IMAGES, HIVE_PATH: HIVE}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    for given in (tmp_path, tmp_path / "Windows"):
        records = list(read_input(given))
        assert details(records)["format"] == "folder"
        assert isinstance(records[0], Input)
        assert records[0].kind is InputKind.DISK
        assert module_names(records) == WANTED
        assert [record.image for record in records if isinstance(record, Module)] == [
            record.image for record in read(windows()) if isinstance(record, Module)
        ]
    all_of_it = list(read_input(tmp_path, InputOptions(only=("all",))))
    assert isinstance(all_of_it[0], Input)
    assert all_of_it[0].kind is InputKind.FOLDER
    assert len(module_names(all_of_it)) == len(PATHS)


def test_parents_are_opened_in_the_image_s_own_folder_alone(tmp_path: Path) -> None:
    need("dissect")
    from support.synth.virtualdisk import differing_vhdx, dynamic_vhdx  # noqa: PLC0415 - of this test

    disk = mbr_disk(windows())
    (tmp_path / "inner").mkdir()
    (tmp_path / "base.vhdx").write_bytes(dynamic_vhdx(disk))
    child = differing_vhdx(disk, {0}, "..\\base.vhdx")
    (tmp_path / "inner" / "child.vhdx").write_bytes(child)
    with (
        FileView(tmp_path / "inner" / "child.vhdx") as view,
        pytest.raises(InputError, match="in the same folder: No such"),
    ):
        list(read_disk(view, str(tmp_path / "inner" / "child.vhdx"), names=DEFAULT))
    (tmp_path / "child.vhdx").write_bytes(child)
    with FileView(tmp_path / "child.vhdx") as view:
        assert module_names(list(read_disk(view, str(tmp_path / "child.vhdx"), names=DEFAULT))) == WANTED
    with pytest.raises(InputError, match="no file of a folder"):
        list(read_disk(BytesView(child), str(tmp_path / "child.vhdx"), names=DEFAULT))


def test_standard_input_has_no_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("dissect")
    from support.synth.virtualdisk import differing_vhdx, dynamic_vhdx  # noqa: PLC0415 - of this test

    disk = mbr_disk(windows())
    (tmp_path / "base.vhdx").write_bytes(dynamic_vhdx(disk))
    (tmp_path / "child.vhdx").write_bytes(differing_vhdx(disk, {0}, "base.vhdx"))
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "child.vhdx").open("rb") as stdin:
        (found,) = read_input("-", stdin=stdin)
    assert isinstance(found, Unreadable)
    assert "base.vhdx' in the same folder: No such file" in found.problem


@pytest.mark.parametrize(
    ("magic_at", "magic", "said"),
    [
        (1080, b"\x53\xef", "partition 1: ext4, which is not read; mount it and give the folder"),
        (0, b"", "partition 1: no file system that is known; mount it and give the folder"),
    ],
    ids=["Linux", "nothing known"],
)
def test_a_disk_without_windows_is_named_with_what_to_do(magic_at: int, magic: bytes, said: str) -> None:
    need("dissect")
    volume = bytearray(1 << 20)
    volume[magic_at : magic_at + len(magic)] = magic
    (found,) = read_input(mbr_disk(bytes(volume)))
    assert isinstance(found, Unreadable)
    assert found.problem == (
        f"an image of a disk (raw), and no Windows was found on it: {said}, if other files of it are wanted"
    )


def test_a_disk_that_is_cut_short_is_called_so() -> None:
    need("dissect")
    from support.synth.virtualdisk import dynamic_vhdx  # noqa: PLC0415 - of this test

    (found,) = read_input(dynamic_vhdx(mbr_disk(windows()))[: 1 << 20])
    assert isinstance(found, Unreadable)
    assert found.problem.startswith("an image of a disk (VHDX) that is cut short or damaged: ")
    (found,) = read_input(mbr_disk(windows())[:66000])
    assert isinstance(found, Unreadable)
    assert "mount it" not in found.problem


@pytest.mark.parametrize("kept", ["config", "SOFTWARE"])
def test_what_a_running_windows_keeps_to_itself_costs_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    for path, data in {**IMAGES, HIVE_PATH: HIVE}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)

    list_folder, open_file = os.scandir, FileView.__init__

    def refuse(path: object) -> None:
        if str(path).endswith(kept):
            raise PermissionError(13, "Permission denied", str(path))

    def scandir(path: str) -> Any:
        refuse(path)
        return list_folder(path)

    def opened(self: FileView, path: str) -> None:
        refuse(path)
        open_file(self, path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(FileView, "__init__", opened)
    records = list(read_input(tmp_path))
    assert module_names(records) == WANTED
    assert not any(isinstance(record, Unreadable) for record in records)


@pytest.mark.skipif(sys.platform == "win32", reason="links take a right there")
def test_a_link_that_leads_to_itself_hides_nothing(tmp_path: Path) -> None:
    for path, data in IMAGES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "Windows" / "System32" / "loop").symlink_to("loop")
    records = list(read_input(tmp_path))
    assert module_names(records) == WANTED
    assert not any(isinstance(record, Unreadable) for record in records)
