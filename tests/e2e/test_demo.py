from __future__ import annotations

from typing import TYPE_CHECKING

from support.command import run, run_json

if TYPE_CHECKING:
    from pathlib import Path

SECDRV = "secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb"


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def files_for_debuggers(store: Path) -> list[Path]:
    return [path for path in files_below(store) if ".symcache" not in path.parts]


def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run("demo", env={"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)})
    assert done.returncode == 0, done.stderr
    assert SECDRV in done.stdout
    assert "8 wanted: 0 present, 7 fetched" in done.stdout
    assert "symcache warm MEMORY.DMP" in done.stdout
    assert "symcache path" in done.stdout
    assert files_below(tmp_path) == []


def test_the_demo_ignores_every_setting_of_the_user(tmp_path: Path) -> None:
    broken = tmp_path / "symcache.toml"
    broken.write_text("this is not TOML")
    done = run(
        "demo",
        env={
            "SYMCACHE_CONFIG": str(broken),
            "SYMCACHE_STORE": str(tmp_path / "real"),
            "_NT_SYMBOL_PATH": f"srv*{tmp_path / 'real'}*http://127.0.0.1:9",
            "_NT_SYMBOL_PROXY": "127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
        },
    )
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path) == [broken]


def test_the_report_is_one_document(tmp_path: Path) -> None:
    document = run_json("demo", "--store", tmp_path / "kept")
    assert document["summary"] == {
        "wanted": 8, "present": 0, "fetched": 7, "missing": 1, "failed": 0, "bytes": document["summary"]["bytes"],
    }  # fmt: skip
    (missing,) = (symbol for symbol in document["symbols"] if symbol["state"] == "missing")
    assert (missing["index"], missing["cause"]) == (SECDRV, "not-published")


def test_a_store_that_is_kept_is_found_filled_the_next_time(tmp_path: Path) -> None:
    store = tmp_path / "kept"
    assert run("demo", "--store", store, "-q").returncode == 0
    kept = files_for_debuggers(store)
    assert len([path for path in kept if path.suffix == ".pdb"]) == 6
    assert run_json("demo", "--store", store)["summary"]["present"] == 7
    assert files_for_debuggers(store) == kept


def test_all_of_the_demo_is_kept_to_go_on_with_a_debugger(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = run("demo", "--keep", kept)
    assert done.returncode == 0, done.stderr
    assert f"windbg -z {kept / 'MEMORY.DMP'} -y srv*{kept / 'store'}" in done.stdout
    assert {path.name for path in kept.iterdir()} == {"MEMORY.DMP", "drivers", "store"}
    assert run_json("check", kept / "MEMORY.DMP", "--store", kept / "store", code=3)["summary"]["present"] == 7
    again = run("demo", "--keep", kept)
    assert (again.returncode, "is not empty; name a new folder" in again.stderr) == (2, True)


def test_a_store_that_cannot_be_written_fails_the_demo(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    done = run("demo", "--store", in_the_way / "store")
    assert done.returncode == 1
    assert "but it is published" in done.stderr
    assert "As expected" not in done.stdout
