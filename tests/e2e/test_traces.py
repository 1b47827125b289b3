"""Traces as whole commands: what is fetched for them, what is said to be missing, and what lies beside them."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.command import run, run_json
from support.shared import corpus
from support.synth.etl import (
    TracedImage,
    build_etl,
    image_load,
    managed_module,
    merged_events,
    process_event,
    sample,
    thread_event,
)
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes
from support.upstream import Upstream

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
OTHER = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
APP = TracedImage(664, 0x7FF6_0000_0000, 0x9000, 0x61111111, "app.exe", "app.pdb", GUID)
NATIVE = TracedImage(
    664,
    0x7FF7_0000_0000,
    0x9000,
    0x61111112,
    "Lib.ni.dll",
    "Lib.ni.pdb",
    OTHER,
    version={"company": "Contoso Ltd.", "product": "Lib"},
)


def index(name: str, guid: UUID, age: str = "1") -> str:
    return f"{name}/{guid.hex.upper()}{age}/{name}"


def trace(folder: Path, *events: bytes, name: str = "a.etl") -> Path:
    path = folder / name
    path.write_bytes(build_etl([process_event(664, "app.exe"), *events], packed=True))
    return path


def states(document: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {symbol["index"]: symbol["state"] for symbol in document["symbols"]}


@pytest.mark.parametrize("is_tree", [True, False], ids=["a tree", "files side by side"])
def test_pdbs_beside_a_trace_go_into_the_store(tmp_path: Path, is_tree: bool) -> None:
    path = trace(tmp_path, *merged_events(APP), *merged_events(NATIVE))
    beside = tmp_path / "a.etl.NGENPDB"
    file = beside / (index("Lib.ni.pdb", OTHER) if is_tree else "Lib.ni.pdb")
    file.parent.mkdir(parents=True)
    file.write_bytes(make_pdb(NativePdbSpec(OTHER)))
    before = sorted(beside.rglob("*"))
    with Upstream({index("app.pdb", GUID): make_pdb(NativePdbSpec(GUID))}) as upstream:
        symbol_path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
        checked = run_json("check", path, "-y", symbol_path, code=3)
        assert states(checked)[index("Lib.ni.pdb", OTHER)] == "present"
        document = run_json("warm", path, "-y", symbol_path)
        assert states(document) == {index("app.pdb", GUID): "fetched", index("Lib.ni.pdb", OTHER): "fetched"}
        assert not upstream.asked("/" + index("Lib.ni.pdb", OTHER))
    assert (tmp_path / "sym" / index("Lib.ni.pdb", OTHER)).is_file()
    assert sorted(beside.rglob("*")) == before
    assert states(run_json("check", path, "-y", f"srv*{tmp_path / 'sym'}"))[index("app.pdb", GUID)] == "present"


def test_a_wrong_pdb_beside_a_trace_is_not_taken(tmp_path: Path) -> None:
    path = trace(tmp_path, *merged_events(NATIVE))
    (tmp_path / "a.etl.NGENPDB").mkdir()
    (tmp_path / "a.etl.NGENPDB" / "Lib.ni.pdb").write_bytes(make_pdb(NativePdbSpec(GUID)))
    with Upstream() as upstream:
        document = run_json("warm", path, "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", code=3)
    (symbol,) = document["symbols"]
    assert (symbol["state"], symbol["maker"]["name"] if "maker" in symbol else "Contoso Ltd.") == (
        "missing",
        "Contoso Ltd.",
    )


def test_a_managed_pdb_may_be_published_under_either_key(tmp_path: Path) -> None:
    portable, _ = make_portable_pdb(GUID, 1)
    path = trace(
        tmp_path,
        managed_module(664, r"C:\app\New.dll", il=(GUID, 1, r"C:\obj\New.pdb")),
        managed_module(664, r"C:\app\Old.dll", il=(OTHER, 1, r"C:\obj\Old.pdb")),
        managed_module(664, r"C:\app\No.dll", il=(UUID(int=5), 1, r"C:\obj\No.pdb")),
    )
    files = {
        index("New.pdb", GUID, "FFFFFFFF"): portable,
        index("Old.pdb", OTHER): make_pdb(NativePdbSpec(OTHER)),
    }
    with Upstream(files) as upstream:
        symbol_path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
        document = run_json("warm", path, "-y", symbol_path, code=3)
        assert states(document) == {
            index("New.pdb", GUID, "FFFFFFFF"): "fetched",
            index("Old.pdb", OTHER): "fetched",
            index("No.pdb", UUID(int=5)): "missing",
        }
        assert document["summary"]["wanted"] == 3
        again = run_json("check", path, "-y", symbol_path, code=3)
        assert [symbol["state"] for symbol in again["symbols"]] == ["present", "present", "missing"]
        text = run("warm", path, "-y", symbol_path, "-v").stdout
        assert "No.pdb" in text


def test_an_unmerged_trace_makes_two_hops_where_it_can(tmp_path: Path) -> None:
    image = disk_bytes(ImagePlan(timestamp=0x5E0B1235, code_views=(CodeViewPlan("drv.pdb", GUID, 1),)))
    size = int.from_bytes(image[0x3C:0x40], "little")
    size_of_image = int.from_bytes(image[size + 24 + 56 : size + 24 + 60], "little")
    path = trace(
        tmp_path,
        image_load(0, 0xFFFFF80000000000, size_of_image, r"\SystemRoot\drv.sys", stamp=0x5E0B1235),
        image_load(664, 0x10000, 0x9000, r"\Windows\nothing.dll"),
    )
    files = {
        f"drv.sys/5E0B1235{size_of_image:x}/drv.sys": image,
        index("drv.pdb", GUID): make_pdb(NativePdbSpec(GUID)),
    }
    with Upstream(files) as upstream:
        done = run("warm", path, "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}")
    assert done.returncode == 3
    assert (tmp_path / "sym" / index("drv.pdb", GUID)).is_file()
    assert "xperf -merge" in done.stdout


def test_hot_modules_alone_are_fetched_most_first(tmp_path: Path) -> None:
    events = [*merged_events(APP), *merged_events(NATIVE), thread_event(664, 7)]
    events += [sample(7, NATIVE.base + 0x1000)] * 3 + [sample(7, APP.base + 0x1000)]
    path = trace(tmp_path, *events)
    with Upstream() as upstream:
        symbol_path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
        document = run_json("warm", path, "-y", symbol_path, "--hot", "5", code=3)
        assert list(states(document)) == [index("Lib.ni.pdb", OTHER), index("app.pdb", GUID)]
        document = run_json("warm", path, "-y", symbol_path, "--hot", "1", code=3)
        assert list(states(document)) == [index("Lib.ni.pdb", OTHER)]
    assert run("scan", path, "--hot", "1", "--no-user").returncode == 2


@pytest.mark.skipif(not (corpus / "etl").is_dir(), reason="the corpus of real traces is not here")
def test_a_real_trace_is_fetched_and_the_rest_is_named_with_its_makers(tmp_path: Path) -> None:
    name = "net.4.5.2.x86.etl"
    with zipfile.ZipFile(corpus / "etl" / f"{name}.zip") as archive:
        largest = max(archive.infolist(), key=lambda each: each.file_size)
        (tmp_path / name).write_bytes(archive.read(largest))
    rows = [row.split("\t") for row in (corpus / "etl" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
    wanted = [(row[1], UUID(row[2]), row[3]) for row in rows if row[0] in {"pdb", "ilpdb"}]
    held = {index(*key): make_pdb(NativePdbSpec(key[1], int(key[2], 16))) for n, key in enumerate(wanted) if n % 10}
    with Upstream(held) as upstream:
        symbol_path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
        document = run_json("warm", tmp_path / name, "-y", symbol_path, code=3)
    found = states(document)
    assert {each for each, state in found.items() if state == "fetched"} == set(held)
    missing = {each for each, state in found.items() if state == "missing" and each.endswith(".pdb")}
    assert missing == {index(*key) for n, key in enumerate(wanted) if not n % 10}
    text = run("check", tmp_path / name, "-y", f"srv*{tmp_path / 'sym'}").stdout
    assert "Microsoft Corporation" in text
    assert document["inputs"][0]["kind"] == "etl"
