"""`export` and `import`."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.kernels import kernel_plan
from support.stores import APP, IMAGE, PUBLIC, StoreShell, write_build
from support.synth.kernelmemory import build_machine
from support.synth.pe import disk_bytes, plan_image
from support.synth.triagedump import triage_bytes

from symcache.identity import ImageKey

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> StoreShell:
    """A store with a build in it, the driver's files as cabinets."""
    shell = StoreShell(tmp_path / "store")
    build = write_build(tmp_path / "build")
    shell("add", build / APP.name, build / IMAGE.name, "--product", "app")
    shell("add", build / PUBLIC.name, "--product", "drv", "--compress")
    return shell


@pytest.fixture
def inside(tmp_path: Path) -> StoreShell:
    return StoreShell(tmp_path / "inside")


def test_what_an_input_needs_goes_into_a_bundle_and_comes_out_of_it(
    shell: StoreShell, inside: StoreShell, tmp_path: Path
) -> None:
    manifest = tmp_path / "wanted.txt"
    manifest.write_text(f"{PUBLIC.index}\n{IMAGE.index}\n")
    bundle = tmp_path / "b.zip"
    document = shell.json("export", manifest, "-o", bundle, group=None)
    assert document["schema"] == "symcache.export/1"
    assert (document["path"], document["files"], document["missing"]) == (str(bundle), 2, [])
    document = inside.json("import", bundle, group=None)
    assert document["schema"] == "symcache.import/1"
    assert {each["index"]: each["state"] for each in document["files"]} == {
        PUBLIC.index: "imported",
        APP.index: "imported",  # the image names it
    }
    assert document["summary"] == {"imported": 2, "kept": 0, "differs": 0, "refused": 0, "failed": 0}
    assert (inside.store / APP.index).read_bytes() == (shell.store / APP.index).read_bytes()
    assert (inside.store / PUBLIC.index).with_name("drv.pd_").exists()
    (symbol,) = (each for each in inside.json("check", manifest, group=None)["symbols"] if "note" in each)
    assert (symbol["index"], symbol["state"]) == (PUBLIC.index, "present")  # a debugger expands the cabinet
    assert "compressed" in symbol["note"]
    assert inside("verify").exit_code == 0


def test_a_bundle_in_a_symbol_path_does_what_its_store_did(
    shell: StoreShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "wanted.txt"
    manifest.write_text(f"{PUBLIC.index}\n{IMAGE.index}\n")
    bundle = tmp_path / "crash.symbols"
    shell.json("export", manifest, "-o", bundle, group=None)
    inside = StoreShell(tmp_path / "inside", f"srv*{tmp_path / 'inside'}*crash.symbols")
    document = inside.json("check", manifest, group=None)
    wanted = {PUBLIC.index, APP.index}  # the image names the latter, as the bundle says
    assert {each["index"]: each["path"] for each in document["symbols"]} == dict.fromkeys(wanted, str(bundle))
    assert not inside.store.exists()
    done = inside("check", manifest, group=None)
    assert f"{bundle}: debuggers do not read a bundle" in done.stderr
    document = inside.json("warm", manifest, group=None)
    assert {each["index"]: (each["state"], each["upstream"]) for each in document["symbols"]} == dict.fromkeys(
        wanted, ("fetched", str(bundle))
    )
    bundle.unlink()
    assert (inside.store / APP.index).read_bytes() == (shell.store / APP.index).read_bytes()
    alone = StoreShell(inside.store)
    assert {each["state"] for each in alone.json("check", manifest, group=None)["symbols"]} == {"present"}
    assert alone("verify").exit_code == 0


def test_commands_on_a_store_take_the_one_before_or_behind_a_bundle(
    shell: StoreShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "crash.symbols"
    shell("export", "-o", bundle, group=None)
    other = StoreShell(tmp_path / "other", f"srv*{bundle}*{shell.store}")
    assert other.json("stats")["store"] == str(shell.store)
    monkeypatch.setenv("SYMCACHE_CONFIG", str(tmp_path / "symcache.toml"))
    (tmp_path / "symcache.toml").write_text(f"store.folder = '{shell.store}'")
    for path in (f"srv*{bundle}", str(bundle)):
        assert StoreShell(tmp_path / "other", path).json("stats")["store"] == str(shell.store)
    (tmp_path / "notes.txt").write_text("notes")
    assert StoreShell(tmp_path / "notes.txt")("stats").exit_code == 2


def test_images_come_along_when_asked_for(shell: StoreShell, tmp_path: Path) -> None:
    bundle = tmp_path / "b.zip"
    shell.json("export", tmp_path / "build" / IMAGE.name, "--images", "-o", bundle, group=None)
    with zipfile.ZipFile(bundle) as archive:
        assert set(archive.namelist()) == {APP.index, IMAGE.index, "manifest.json"}


def test_a_kernel_goes_along_under_the_name_that_the_store_has_it_by(shell: StoreShell, tmp_path: Path) -> None:
    listed = ImageKey("ntoskrnl.exe", IMAGE.timestamp, IMAGE.size_of_image)
    kept = ImageKey("ntkrnlmp.exe", IMAGE.timestamp, IMAGE.size_of_image)
    kernel = tmp_path / listed.name
    kernel.write_bytes(disk_bytes(plan_image(listed, APP)))
    (shell.store / kept.index).parent.mkdir(parents=True)
    (shell.store / kept.index).write_bytes(kernel.read_bytes())
    document = shell.json("export", kernel, "--images", "-o", tmp_path / "b.zip", group=None)
    assert document["missing"] == []
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert set(archive.namelist()) == {APP.index, kept.index, "manifest.json"}
    assert kept.index in shell.json("pin", "--for", kernel)["pins"]


def test_without_inputs_all_of_the_store_is_packed(shell: StoreShell, inside: StoreShell, tmp_path: Path) -> None:
    done = shell("export", "-o", tmp_path / "b.zip", group=None)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{tmp_path / 'b.zip'}: 3 files, ")
    done = inside("import", tmp_path / "b.zip", group=None)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("3 files imported (")
    again = inside("import", tmp_path / "b.zip", group=None).stdout
    assert again.startswith("0 files imported (0 bytes), 3 there already; store: ")
    assert inside("import", tmp_path / "b.zip", "-v", group=None).stdout.splitlines()[0].endswith(": kept")


@pytest.mark.parametrize("options", [["--files"], ["--files", "--json"]])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])  # the latter is what PowerShell makes of it
def test_what_another_store_has_is_left_out(
    options: list[str], encoding: str, shell: StoreShell, inside: StoreShell, tmp_path: Path
) -> None:
    inside("add", tmp_path / "build" / PUBLIC.name, "--product", "drv")
    listing = tmp_path / "there.txt"
    listing.write_text(inside("list", *options).stdout, encoding=encoding)
    first, second = tmp_path / "first.symbols", tmp_path / "second.symbols"
    document = shell.json("export", "-o", first, "--without", listing, group=None)
    assert (document["files"], document["left_out"], document["missing"]) == (2, 1, [])
    with zipfile.ZipFile(first) as archive:
        assert set(archive.namelist()) == {APP.index, IMAGE.index, "manifest.json"}
    assert inside.json("import", first, group=None)["summary"]["imported"] == 2
    listing.write_text(inside("list", *options).stdout, encoding=encoding)
    done = shell("export", "-o", second, "--without", listing, group=None)
    assert done.exit_code == 0
    assert done.stdout == f"{second}: 0 files, 0 bytes; 3 left out, which the other store has\n"


def test_what_is_no_list_of_files_is_told(shell: StoreShell, tmp_path: Path) -> None:
    listing = tmp_path / "there.txt"
    listing.write_text(shell("list").stdout)
    done = shell("export", "-o", tmp_path / "b.zip", "--without", listing, group=None)
    assert done.exit_code == 2
    assert str(done.exception) == f"{listing}: not what `symcache store list --files` writes"
    assert not (tmp_path / "b.zip").exists()


def test_what_is_missing_is_told(shell: StoreShell, tmp_path: Path) -> None:
    manifest = tmp_path / "wanted.txt"
    other = "other.pdb/7578144C39C4468394EF84F01549113A1/other.pdb"
    later = "later.dll/5E0B123621000/later.dll"
    manifest.write_text(f"{PUBLIC.index}\n{other}\n{later}\n")
    bundle = tmp_path / "b.zip"
    document = shell.json("export", manifest, "-o", bundle, group=None, code=3)
    assert {each["index"]: each["why"] for each in document["missing"]} == {
        other: "absent",
        later: "its PDB is not known: the image has not been read yet",
    }
    done = shell("export", manifest, "-o", bundle, "--allow-missing", group=None)
    assert done.exit_code == 0
    assert f"missing: {other}: absent" in done.stdout
    document = shell.json("export", manifest, tmp_path / "nothing", "-o", bundle, group=None, code=4)
    assert [each["path"] for each in document["unreadable"]] == [str(tmp_path / "nothing")]


def test_an_image_that_is_not_there_is_told_once(inside: StoreShell, tmp_path: Path) -> None:
    inside("init")
    log = tmp_path / "session.log"
    log.write_text(
        f"SYMSRV:  BYINDEX: 0x1\n         C:\\sym\n         {IMAGE.name}\n         {IMAGE.id}\n"
        "SYMSRV:  RESULT: 0x80190194\n"
    )

    def missing(*options: str) -> list[tuple[str, str]]:
        document = inside.json("export", log, "-o", tmp_path / "b.zip", *options, group=None, code=3)
        return [(each["index"], each["why"].partition(":")[0]) for each in document["missing"]]

    assert missing() == [(IMAGE.index, "absent")]
    assert missing("--images", "none") == [(IMAGE.index, "its PDB is not known")]


@pytest.mark.parametrize("has_driver", [True, False])
def test_an_image_and_its_copy_for_crash_dumps_are_told_once(
    inside: StoreShell, tmp_path: Path, has_driver: bool
) -> None:
    inside("init")
    plan = kernel_plan()
    drivers = tuple(driver for driver in plan.drivers if has_driver or driver.name != "stornvme.sys")
    dump = tmp_path / "mini.dmp"
    dump.write_bytes(triage_bytes(build_machine(replace(plan, drivers=drivers))))
    missing = inside.json("export", dump, "-o", tmp_path / "b.zip", group=None, code=3)["missing"]
    names = [each["index"].split("/")[0] for each in missing if "stornvme" in each["index"]]
    assert names == ["stornvme.sys" if has_driver else "dump_stornvme.sys"]


def test_a_bundle_that_cannot_be_written_is_an_error_and_leaves_nothing(shell: StoreShell, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"No such file|cannot find"):
        shell("export", "-o", tmp_path / "none" / "b.zip", group=None)
    assert not (tmp_path / "none").exists()
    assert shell("export", group=None).exit_code == 2


def test_a_bundle_that_was_tampered_with_is_refused_file_by_file(
    shell: StoreShell, inside: StoreShell, tmp_path: Path
) -> None:
    bundle = tmp_path / "b.zip"
    shell("export", "-o", bundle, group=None)
    content = bytearray(bundle.read_bytes())
    with zipfile.ZipFile(bundle) as archive:
        at = archive.getinfo(APP.index).header_offset
    content[at + 200] ^= 0xFF
    bundle.write_bytes(content)
    document = inside.json("import", bundle, group=None, code=4)
    assert document["summary"] == {"imported": 2, "kept": 0, "differs": 0, "refused": 1, "failed": 0}
    assert not (inside.store / APP.index).exists()


def test_a_bundle_that_is_cut_short_is_told_and_changes_nothing(
    shell: StoreShell, inside: StoreShell, tmp_path: Path
) -> None:
    bundle = tmp_path / "b.zip"
    shell("export", "-o", bundle, group=None)
    bundle.write_bytes(bundle.read_bytes()[:-1000])
    done = inside("import", bundle, group=None)
    assert done.exit_code == 4
    assert done.stderr == f"symcache: {bundle}: the bundle is cut short, or has something behind its end\n"
    assert not inside.store.exists()


def test_what_is_no_bundle_is_told_and_the_others_are_taken(
    shell: StoreShell, inside: StoreShell, tmp_path: Path
) -> None:
    bundle, other = tmp_path / "b.zip", tmp_path / "build" / APP.name
    shell("export", "-o", bundle, group=None)
    document = inside.json("import", other, bundle, group=None, code=4)
    assert document["summary"]["imported"] == 3
    assert [each["path"] for each in document["unreadable"]] == [str(other)]
    done = inside("import", other, group=None)
    assert done.stderr.startswith(f"symcache: {other}: not a bundle")
