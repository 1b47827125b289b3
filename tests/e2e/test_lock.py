"""The same symbols elsewhere, and what differs: `lock`, `diff`, and what else takes a lock file."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.answers import Stall
from support.command import run, run_json, start
from support.sources import cabinet, scratch_files, visible
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.upstream import Upstream

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
KEYS = [PdbKey(f"driver{number}.pdb", UUID(int=GUID.int ^ number), 1) for number in range(4)]
IMAGE = ImageKey("driver0.sys", 0x5F000000, 0x9000)
ABSENT = PdbKey("secdrv.pdb", GUID, 3)


def private(key: PdbKey) -> bytes:
    return make_pdb(NativePdbSpec(key.guid, key.age, payload_bytes=20_000))


def public(key: PdbKey) -> bytes:
    return make_pdb(NativePdbSpec(key.guid, key.age, payload_bytes=20_000, stripped=True))


FILES = {
    **{key.index: private(key) for key in KEYS},
    IMAGE.index: disk_bytes(replace(plan_image(IMAGE, KEYS[0]), payload_bytes=5000)),
}


class Place:
    """A machine: a folder of its own with a store, and one server in its symbol path."""

    def __init__(self, folder: Path, *urls: str) -> None:
        self.folder = folder
        self.store = folder / "sym"
        folder.mkdir()
        (folder / "symcache.toml").write_text(
            f"misses.folder = '{folder / 'misses'}'\n[network]\nretries = 0\nbackoff_s = 0.01\n"
        )
        path = "*".join(["srv", str(self.store), *urls])
        self.options = ("-y", path, "--config", str(folder / "symcache.toml"))

    def json(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        return run_json(*arguments, *self.options, code=code)

    def states(self, *arguments: str | Path, code: int = 0) -> dict[str, tuple[str, str | None, str | None]]:
        """Return state, cause and hint of each file by its name."""
        symbols = self.json(*arguments, code=code)["symbols"]
        return {each["index"].partition("/")[0]: (each["state"], each["cause"], each.get("hint")) for each in symbols}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(dict(FILES)) as upstream:
        yield upstream


@pytest.fixture
def here(tmp_path: Path, upstream: Upstream) -> Place:
    """A place that has warmed a list of everything, and locked it."""
    here = Place(tmp_path / "here", upstream.url)
    indexes = [*FILES, ABSENT.index]
    (here.folder / "wanted.txt").write_text("\n".join(indexes))
    here.json("warm", here.folder / "wanted.txt", "--images", "all", code=3)
    done = run("lock", here.folder / "wanted.txt", "--images", "all", "-o", here.folder / "symbols.lock", *here.options)
    assert done.returncode == 3
    assert "symbols.lock: 5 files, " in done.stderr
    return here


@pytest.fixture
def lock(here: Place) -> Path:
    return here.folder / "symbols.lock"


def contents(store: Path) -> dict[str, bytes]:
    return {path: (store / path).read_bytes() for path in visible(store)}


def test_a_lock_states_what_is_there_and_why_the_rest_is_not(here: Place, lock: Path) -> None:
    document = json.loads(lock.read_text())
    assert {each["index"]: (each["bytes"], each["sha256"]) for each in document["files"]} == {
        index: (len(content), hashlib.sha256(content).hexdigest()) for index, content in FILES.items()
    }
    (missing,) = document["missing"]
    assert missing == {"index": ABSENT.index, "kind": "pdb", "module": ABSENT.name, "cause": "not-published"}
    assert str(here.folder) not in lock.read_text()


def test_standard_output_takes_no_lock(here: Place, tmp_path: Path) -> None:
    done = run("lock", here.folder / "wanted.txt", "-o", "-", *here.options, cwd=tmp_path)
    assert done.returncode == 2
    assert "standard output takes the report" in done.stderr
    assert not (tmp_path / "-").exists()


def test_it_is_the_same_byte_for_byte_wherever_it_is_made(here: Place, lock: Path, tmp_path: Path) -> None:
    again, there = tmp_path / "again.lock", Place(tmp_path / "there", "http://127.0.0.1:9")
    here.json("lock", here.folder / "wanted.txt", "--images", "all", "-o", again, code=3)
    assert again.read_bytes() == lock.read_bytes()
    for index, content in FILES.items():  # of another layout: compressed, in a store of two tiers
        packed = there.store / index[:2] / f"{index[:-1]}_"
        packed.parent.mkdir(parents=True)
        packed.write_bytes(cabinet(content))
    (there.store / "index2.txt").touch()
    there.json("lock", lock, "-o", again)
    assert again.read_bytes() == lock.read_bytes()


def test_a_report_brings_the_origin_of_each_file(here: Place, upstream: Upstream, tmp_path: Path) -> None:
    fresh = Place(tmp_path / "fresh", upstream.url)
    run("warm", here.folder / "wanted.txt", "--report", tmp_path / "r.json", *fresh.options)
    fresh.json("lock", tmp_path / "r.json", "-o", tmp_path / "o.lock", code=3)
    document = json.loads((tmp_path / "o.lock").read_text())
    assert {each.get("origin") for each in document["files"]} == {upstream.url}
    assert [each["cause"] for each in document["missing"]] == ["not-published"]


def test_warm_reproduces_the_set_and_check_confirms_it(here: Place, lock: Path, upstream: Upstream) -> None:
    there = Place(here.folder / "there", upstream.url)
    asked = len(upstream.requests)
    states = there.states("warm", lock)
    assert states.pop(ABSENT.name) == ("missing", "known-missing", None)
    assert set(states.values()) == {("fetched", None, None)}
    assert contents(there.store) == contents(here.store) == FILES
    assert ABSENT.index not in {request.path.removeprefix("/") for request in upstream.requests[asked:]}
    states = there.states("check", lock)
    assert states.pop(ABSENT.name) == ("missing", "known-missing", None)
    assert set(states.values()) == {("present", None, None)}


def test_the_other_pdb_of_the_same_key_is_refused_and_the_next_server_asked(
    here: Place, lock: Path, upstream: Upstream
) -> None:
    with Upstream({**FILES, KEYS[1].index: public(KEYS[1])}) as stripped:
        alone = Place(here.folder / "alone", stripped.url)
        assert alone.states("warm", lock, code=1)["driver1.pdb"] == ("failed", "wrong-content", "other-bytes")
        assert KEYS[1].index not in visible(alone.store)
        both = Place(here.folder / "both", stripped.url, upstream.url)
        # A chain has one server; a second chain asks another one.
        path = f"srv*{both.store}*{stripped.url};srv*{both.store}*{upstream.url}"
        done = run_json("warm", lock, "-y", path, "--config", both.folder / "symcache.toml")
        (symbol,) = (each for each in done["symbols"] if each["index"] == KEYS[1].index)
        assert symbol["upstream"] == upstream.url
        wanted, found = (hashlib.sha256(make(KEYS[1])).hexdigest() for make in (private, public))
        assert any(wanted in each["answer"] and found in each["answer"] for each in symbol["attempts"])
    assert contents(both.store) == FILES


def test_what_differs_on_disk_is_told_with_both_hashes_and_stays(here: Place, lock: Path, upstream: Upstream) -> None:
    (here.store / KEYS[2].index).write_bytes(public(KEYS[2]))
    before, asked = contents(here.store), len(upstream.requests)
    for command in ("warm", "check"):
        done = run(command, lock, *here.options)
        assert done.returncode == 1
        assert "other-bytes" not in done.stdout  # a word for programs; people are told in theirs
        assert "nothing was replaced" in " ".join(done.stdout.split())
        for make in (private, public):
            assert hashlib.sha256(make(KEYS[2])).hexdigest() in done.stdout
    assert here.states("check", lock, code=1)["driver2.pdb"] == ("failed", "wrong-content", "other-bytes")
    done = run("lock", lock, "-o", here.folder / "new.lock", *here.options)
    assert done.returncode == 1
    assert "new.lock was not written: 1 file failed" in done.stderr
    assert not (here.folder / "new.lock").exists()
    assert contents(here.store) == before
    assert len(upstream.requests) == asked


def test_a_file_that_was_missing_and_is_there_is_told(here: Place, lock: Path) -> None:
    there = here.store / ABSENT.index
    there.parent.mkdir(parents=True)
    there.write_bytes(private(ABSENT))
    symbols = here.json("check", lock)["symbols"]
    (symbol,) = (each for each in symbols if each["index"] == ABSENT.index)
    assert (symbol["state"], symbol["note"]) == ("present", "missing when the lock file was written")


def test_a_file_that_is_gone_is_missing_again(here: Place, lock: Path, upstream: Upstream) -> None:
    del upstream.files[KEYS[3].index]
    there = Place(here.folder / "there", upstream.url)
    assert there.states("warm", lock, code=3)["driver3.pdb"] == ("missing", "not-published", None)
    assert there.states("check", lock, code=3)["driver3.pdb"] == ("missing", "not-cached", None)


DAMAGED: dict[str, Callable[[str], str]] = {
    "truncated": lambda text: text[:-100],
    "tampered": lambda text: text.replace('"pdb"', '"exe"', 1),
    "of the future": lambda text: text.replace("symcache.lock/1", "symcache.lock/9"),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_lock_is_told_and_its_sound_lines_are_done(
    here: Place, lock: Path, upstream: Upstream, damage: Callable[[str], str]
) -> None:
    lock.write_text(damage(lock.read_text()))
    there = Place(here.folder / "there", upstream.url)
    done = run("warm", lock, *there.options)
    assert done.returncode == 4
    assert "unreadable: " in done.stdout
    sound = FILES.keys() - {KEYS[0].index} if damage is DAMAGED["tampered"] else set()
    assert contents(there.store).keys() == sound


def test_a_tampered_hash_fetches_nothing(here: Place, lock: Path, upstream: Upstream) -> None:
    lock.write_text(lock.read_text().replace(hashlib.sha256(private(KEYS[0])).hexdigest(), "0" * 64))
    there = Place(here.folder / "there", upstream.url)
    assert there.states("warm", lock, code=1)["driver0.pdb"] == ("failed", "wrong-content", "other-bytes")
    assert contents(there.store) == {index: content for index, content in FILES.items() if index != KEYS[0].index}


def test_an_interrupted_warm_leaves_whole_files_alone_and_goes_on(here: Place, lock: Path, upstream: Upstream) -> None:
    stall = Stall(after=3000)
    upstream.script(KEYS[1].index, stall)
    there = Place(here.folder / "there", upstream.url)
    with start("warm", lock, *there.options) as process:
        stall.reached.wait(60)
        process.kill()
        process.wait()
    stall.release()
    assert contents(there.store).items() <= FILES.items()
    assert there.states("warm", lock)["driver1.pdb"] == ("fetched", None, None)
    assert contents(there.store) == FILES
    assert scratch_files(there.store) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_an_interrupt_is_told_by_name_and_leaves_nothing_half(here: Place, lock: Path, upstream: Upstream) -> None:
    stall = Stall(after=3000)
    upstream.script(KEYS[1].index, stall)
    there = Place(here.folder / "there", upstream.url)
    with start("warm", lock, "--json", *there.options) as process:
        stall.reached.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    stall.release()
    assert process.returncode == 130, err
    (symbol,) = (each for each in json.loads(out)["symbols"] if each["index"] == KEYS[1].index)
    assert (symbol["state"], symbol["cause"], symbol["hint"]) == ("failed", "unavailable", "interrupted")
    assert contents(there.store).items() <= FILES.items()
    assert scratch_files(there.store) == []


def test_a_bundle_carries_a_lock_and_import_holds_the_store_to_it(here: Place, lock: Path, tmp_path: Path) -> None:
    there = Place(tmp_path / "there")
    document = here.json("export", lock, "-o", tmp_path / "b.zip")
    assert (document["files"], document["missing"]) == (5, [])
    there.json("import", tmp_path / "b.zip")
    assert contents(there.store) == FILES
    (there.store / KEYS[0].index).write_bytes(public(KEYS[0]))
    done = there.json("import", tmp_path / "b.zip", code=3)
    assert done["summary"] == {"imported": 0, "kept": 4, "differs": 1, "refused": 0, "failed": 0}
    assert (there.store / KEYS[0].index).read_bytes() == public(KEYS[0])
    # A file that differs from the lock is not taken along either.
    document = there.json("export", lock, "-o", tmp_path / "c.zip", code=3)
    assert [(each["index"], "other bytes" in each["why"]) for each in document["missing"]] == [(KEYS[0].index, True)]
    assert document["files"] == 4


def dump(path: Path, *modules: tuple[str, ImageKey, PdbKey]) -> Path:
    planned = [
        MinidumpModule(
            f"C:\\Windows\\{name}",
            0x10000000 * number,
            image.size_of_image,
            image.timestamp,
            rsds_record(pdb.guid, pdb.age, pdb.name),
        )
        for number, (name, image, pdb) in enumerate(modules, start=1)
    ]
    path.write_bytes(build_minidump(MinidumpPlan(modules=planned)))
    return path


def test_two_dumps_are_compared_by_module(tmp_path: Path) -> None:
    images = [ImageKey(f"m{number}.dll", 0x5F000000 + number, 0x1000) for number in range(4)]
    first = dump(tmp_path / "1.dmp", *(("M0.dll", images[0], KEYS[0]), ("m1.dll", images[1], KEYS[1])))
    second = dump(tmp_path / "2.dmp", ("m2.dll", images[2], KEYS[2]), ("m0.dll", images[3], KEYS[3]))
    third = dump(tmp_path / "3.dmp", ("m1.dll", images[1], KEYS[1]), ("m0.dll", images[0], KEYS[0]))
    document = run_json("diff", first, second, code=3)
    assert document["schema"] == "symcache.diff/1"
    assert (document["before"], document["by"]) == ({"path": str(first), "kind": "minidump"}, "module")
    assert [(each["name"], each["change"]) for each in document["differences"]] == [
        ("m0.dll", "changed"), ("m2.dll", "came"), ("m1.dll", "went"),
    ]  # fmt: skip
    changed = document["differences"][0]
    assert (changed["before"]["image"], changed["after"]["image"]) == ([images[0].id], [images[3].id])
    assert run("diff", first, third).stdout == "0 changed, 2 same\n"
    assert run_json("diff", first, third)["differences"] == []
    assert run("diff", "--set", "kernel", first, second).stdout == "0 changed, 0 same\n"
    assert run("diff", "--set", "no-such-set", first, second).returncode == 2
    done = run("diff", first, tmp_path / "none.dmp")
    assert done.returncode == 4
    assert "none.dmp" in done.stderr
    assert done.stdout == "", "what cannot be read has not gone"


def test_locks_reports_and_stores_are_compared(here: Place, lock: Path, tmp_path: Path) -> None:
    assert run("diff", lock, here.store).returncode == 0
    there = Place(tmp_path / "there", "http://127.0.0.1:9")
    there.json("check", lock, "--report", tmp_path / "r.json", code=3)
    document = run_json("diff", lock, tmp_path / "r.json", code=3)
    assert document["summary"]["lost"] == 5
    assert "at hand in A alone (5)" in run("diff", lock, tmp_path / "r.json").stdout
    (here.store / KEYS[0].index).unlink()
    document = run_json("diff", lock, here.store, code=3)
    assert [(each["name"], each["change"]) for each in document["differences"]] == [("driver0.pdb", "went")]
    assert run("diff", "--set", "kernel", lock, here.store).returncode == 0
    (here.store / KEYS[0].index).write_bytes(public(KEYS[0]))
    here.json("lock", here.folder / "wanted.txt", "--images", "all", "-o", tmp_path / "new.lock", code=3)
    done = run("diff", lock, tmp_path / "new.lock")
    assert done.returncode == 3
    assert all(hashlib.sha256(make(KEYS[0])).hexdigest() in done.stdout for make in (private, public))
