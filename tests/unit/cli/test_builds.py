from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from support.synth.winbindex import ARM64, Entry, base, delta_fields, document, full_fields, insider, update

from symcache.cli.app import root
from symcache.errors import InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

KERNELS = [
    Entry(full_fields(1, 0x1000), [base("11-22H2"), base("1903")]),
    Entry(full_fields(2, 0x2000), [update("11-22H2", "KB5023706", "22621.1413")]),
    Entry(
        full_fields(3, 0x3000),
        [
            update("11-22H2", "KB5033375", "22621.2861", others=["11-23H2"], date="2023-12-12"),
            update("11-22H2", "KB5034123", "22621.3007", others=["11-23H2"], date="2024-01-09"),
        ],
    ),
    Entry(delta_fields(4, 0x9000), [update("1903", "KB4512508", "18362.295", date="2019-08-13")]),
    Entry(None, [base("11-22H2")]),
    Entry(full_fields(5, 0x5000, ARM64), [base("11-22H2", machine=ARM64)]),
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    (folder / "insider").mkdir(parents=True)
    (folder / "ntoskrnl.exe.json.gz").write_bytes(document(KERNELS))
    (folder / "hal.dll.json.gz").write_bytes(document([])[:-3])
    (folder / "insider" / "ntoskrnl.exe.json.gz").write_bytes(
        document([Entry(full_fields(9, 0x9000), [insider("26120.461"), insider("26120.470")])])
    )
    return folder


def builds(index: Path, *words: str) -> Result:
    return CliRunner().invoke(root, ["builds", *words, "--index", str(index)])


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_releases_are_listed_with_their_latest_update(index: Path) -> None:
    assert [" ".join(row) for row in rows(builds(index))] == [
        "1903 1 update latest 18362.295 (KB4512508, 2019-08-13)",
        "11-22H2 3 updates latest 22621.3007 (KB5034123, 2024-01-09)",
        "11-23H2 2 updates latest 22631.3007 (KB5034123, 2024-01-09)",
    ]


@pytest.mark.parametrize("words", ["11 23H2", "22631"])
def test_the_updates_of_a_release_are_listed(index: Path, words: str) -> None:
    assert rows(builds(index, words)) == [
        ["22631.2861", "11-23H2", "KB5033375", "2023-12-12"],
        ["22631.3007", "11-23H2", "KB5034123", "2024-01-09"],
    ]


def test_a_build_and_an_update_say_what_they_are(index: Path) -> None:
    assert rows(builds(index, "10.0.22621.1413")) == [["22621.1413", "11-22H2", "KB5023706", "2023-03-14"]]
    assert [row[0] for row in rows(builds(index, "KB5033375"))] == ["22621.2861", "22631.2861"]


def test_the_files_of_a_name_are_listed_with_the_builds_that_brought_them(index: Path) -> None:
    found = rows(builds(index, "NtosKrnl.exe"))
    assert [row[-1] for row in found] == ["full", "delta", "full", "full"]
    assert found[0] == ["10.0.22621.1", "ntoskrnl.exe/000000011000/ntoskrnl.exe", "11-22H2,", "1903", "full"]
    assert found[1][:2] == ["one", "of"]
    assert found[3] == [
        "10.0.22621.1", "ntoskrnl.exe/000000033000/ntoskrnl.exe", "22621.2861", "to", "22621.3007", "full",
    ]  # fmt: skip


def test_files_are_of_one_architecture_and_insider_builds_are_elsewhere(index: Path) -> None:
    (index / "arm64").mkdir()
    (index / "arm64" / "ntoskrnl.exe.json.gz").write_bytes(document(KERNELS))
    assert [row[1] for row in rows(builds(index, "ntoskrnl.exe", "--arch", "arm64"))] == [
        "ntoskrnl.exe/000000055000/ntoskrnl.exe"
    ]
    assert rows(builds(index, "26120", "--insider")) == [["26120.461", "Insider"], ["26120.470", "Insider"]]
    assert rows(builds(index, "--insider")) == [["Insider", "2", "builds", "latest", "26120.470", "(Insider)"]]


def test_a_number_alone_lists_what_the_name_of_its_release_does(index: Path) -> None:
    assert [row[0] for row in rows(builds(index, "22621"))] == ["22621", "22621.1413", "22621.2861", "22621.3007"]
    assert rows(builds(index, "22621")) == rows(builds(index, "11 22H2"))


def test_what_is_known_is_one_document(index: Path) -> None:
    listed = json.loads(builds(index, "KB5023706", "--json").stdout)
    assert listed["updates"] == [
        {"release": "11-22H2", "update": "KB5023706", "build": "22621.1413", "date": "2023-03-14"}
    ]
    files = json.loads(builds(index, "ntoskrnl.exe", "--json").stdout)
    assert (files["file"], files["architecture"], files["updates"]) == ("ntoskrnl.exe", "x64", [])
    assert files["files"][1]["candidates"] > 1
    assert files["files"][2] == {
        "index": "ntoskrnl.exe/000000022000/ntoskrnl.exe",
        "candidates": 0,
        "kind": "full",
        "file_version": "10.0.22621.1 (WinBuild.160101.0800)",
        "builds": ["22621.1413"],
        "releases": [],
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["22621.1414"], "22621.1414 is not in the index; the nearest are 22621.1413"),
        (["none.sys"], "none.sys is not in the index of builds: it has no such file"),
        (["hal.dll"], "hal.dll in the index of builds: its gzip data ends early"),
        (["--arch", "arm64"], "which builds there are says ntoskrnl.exe in the index of builds: there is no folder"),
        (
            ["ntoskrnl.exe", "--arch", "x86"],
            "ntoskrnl.exe is in the index of builds, but none of its 6 files is of x86",
        ),
    ],
)
def test_what_is_not_known_is_one_line(index: Path, words: list[str], said: str) -> None:
    done = builds(index, *words)
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


@pytest.mark.parametrize("word", ["nonsense", "6.1.7601", "../x.sys", "a\\b.sys"])
def test_a_word_that_means_nothing_is_wrong_usage(index: Path, word: str) -> None:
    with pytest.raises(UsageError, match="or give the name of a file"):
        raise builds(index, word).exception  # type: ignore[misc]  # there is one


@pytest.mark.parametrize("command", ["warm", "check", "scan", "lock -o x"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "x64", "x.dmp"], "--arch and --index belong to --build"),
        (["--build", "22621", "--arch", "mips"], "'mips' is not one of"),
    ],
)
def test_options_of_a_build_without_one_are_wrong_usage(command: str, words: list[str], said: str) -> None:
    done = CliRunner().invoke(root, [*command.split(), *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_words_that_are_no_build_are_wrong_usage_before_anything_is_asked() -> None:
    done = CliRunner().invoke(root, ["warm", "--build", "fish"])
    assert isinstance(done.exception, UsageError)
    assert "'fish' is no build: write it as 22621.1483" in str(done.exception)


def test_several_builds_and_architectures_are_scanned_from_a_folder(index: Path) -> None:
    words = ["scan", "--build", "22621.1413", "--build", "1903", "--arch", "x64", "--index", str(index), "--json"]
    done = CliRunner().invoke(root, words)
    scan = json.loads(done.stdout)
    assert [each["path"] for each in scan["inputs"]] == ["22621.1413 x64", "1903 x64"]
    assert [each["details"]["build"] for each in scan["inputs"]] == ["22621.1413", "18362.295"]
    first, second = scan["modules"]
    assert first["image"]["index"] == "ntoskrnl.exe/000000022000/ntoskrnl.exe"
    assert second["image"] is None
    assert len(second["candidates"]) > 1
    assert [each["path"] for each in scan["unreadable"]] == ["hal.dll in the index of builds"] * 2
    assert "22621.1413 x64: the index has 1 of the " in done.stderr
