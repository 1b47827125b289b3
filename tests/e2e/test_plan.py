"""``warm --plan``: what would be fetched, from where and how much, while nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, status
from support.command import run, run_json
from support.serving import publish
from support.upstream import Upstream

from symcache.identity import compressed_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = [publish(f"driver{number:02}.pdb", number) for number in range(8)]
CABINET = b"MSCF" + bytes(1000)


@pytest.fixture
def first() -> Iterator[Upstream]:
    with Upstream({each.index: each.content for each in FILES[:4]}) as upstream:
        yield upstream


@pytest.fixture
def second() -> Iterator[Upstream]:
    """A server that has one file in a cabinet, and does not tell the length of another."""
    packed = FILES[4].index.rpartition("/")[0] + "/" + compressed_name("driver04.pdb")
    with Upstream({packed: CABINET, FILES[5].index: FILES[5].content}) as upstream:
        upstream.always(FILES[6].index, status(403))
        yield upstream


def arguments(first: Upstream, second: Upstream, folder: Path) -> list[str | Path]:
    """Return what wants all files, of which the store has the first."""
    wanted = folder / "wanted.txt"
    wanted.write_text("\n".join(each.index for each in FILES))
    held = folder / "sym" / FILES[0].index
    held.parent.mkdir(parents=True, exist_ok=True)
    held.write_bytes(FILES[0].content)
    config = folder / "symcache.toml"
    config.write_text("[network]\nretries = 0\n")
    path = f"srv*{folder / 'sym'}*{first.url};srv*{folder / 'sym'}*{second.url}"
    return ["warm", "--plan", wanted, "-y", path, "--config", config]


def on_disk(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_plan_tells_what_each_server_would_send_and_fetches_nothing(
    first: Upstream, second: Upstream, tmp_path: Path
) -> None:
    command = arguments(first, second, tmp_path)
    before = on_disk(tmp_path / "sym")
    document = run_json(*command)
    assert on_disk(tmp_path / "sym") == before
    size = sum(len(each.content) for each in FILES[1:4])
    assert document["schema"] == "symcache.plan/1"
    assert document["summary"] == {
        "wanted": 8,
        "present": 1,
        "missing": 0,
        "failed": 0,
        "to_fetch": 7,
        "unnamed": 0,
        "nowhere": 2,
        "unanswered": 0,
        "not_asked": 0,
        "bytes": size + len(CABINET) + len(FILES[5].content),
    }
    shares = {each["server"]: (each["files"], each["bytes"], each["untold"]) for each in document["servers"]}
    assert shares == {first.url: (3, size, 0), second.url: (2, len(CABINET) + len(FILES[5].content), 0)}
    assert [each["server"] for each in document["files"]] == [*[first.url] * 3, *[second.url] * 2, None, None]
    assert "403" in document["files"][5]["answer"]
    # One byte of each, so that a server that sends ranges sends no more.
    assert all(request.sent_bytes <= 1 for request in first.requests + second.requests if request.status == 206)


def test_a_plan_in_words_names_the_servers_and_the_sum(first: Upstream, second: Upstream, tmp_path: Path) -> None:
    done = run(*arguments(first, second, tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "8 files wanted: 1 present, 7 to fetch"
    assert lines[1].startswith(f"  {first.url}")
    assert "3 files" in lines[1]
    assert "found on no server" in lines[3]
    assert lines[-2].endswith("to transfer; nothing was fetched")
    assert not lines[-2].startswith("at least")
    assert lines[-1] == f"store: {tmp_path / 'sym'}"


def test_a_server_that_does_not_answer_holds_a_plan_up_for_seconds_alone(
    first: Upstream, second: Upstream, tmp_path: Path
) -> None:
    first.always(FILES[3].index, Stall(0))
    document = run_json(*arguments(first, second, tmp_path))
    assert document["summary"]["not_asked"]
    assert document["summary"]["to_fetch"] == 7
    assert document["files"][2] == {
        "index": FILES[3].index,
        "kind": "pdb",
        "module": "driver03.pdb",
        "server": None,
        "bytes": None,
        "answer": "not asked",
    }


def test_a_plan_of_what_cannot_be_read_ends_with_four(first: Upstream, second: Upstream, tmp_path: Path) -> None:
    done = run(*arguments(first, second, tmp_path), tmp_path / "none.dmp")
    assert done.returncode == 4
    assert "none.dmp" in done.stderr
    assert "8 files wanted" in done.stdout


def test_a_plan_writes_no_report(first: Upstream, second: Upstream, tmp_path: Path) -> None:
    done = run(*arguments(first, second, tmp_path), "--report", tmp_path / "run.txt")
    assert done.returncode == 2
    assert "--plan writes no report" in done.stderr
    assert not (tmp_path / "run.txt").exists()
